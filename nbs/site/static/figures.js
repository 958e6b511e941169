// Draw each figure when it comes near and somebody has begun to read; until then, and without JavaScript, its picture stands there.
(() => {
  const here = document.currentScript.src.replace(/figures\.js.*$/, "");
  const loaded = new Map(), specs = {};
  window.sscqFigure = (name, spec) => { specs[name] = spec; };
  const load = (src) => {
    if (!loaded.has(src)) loaded.set(src, new Promise((done, failed) => {
      const script = document.createElement("script");
      Object.assign(script, { src, onload: done, onerror: () => { loaded.delete(src); failed(new Error(`${src} is missing`)); } });
      document.head.append(script);
    }));
    return loaded.get(src);
  };
  // plotly comes compressed, and as a script, because a page that is opened from a disk may not fetch a file.
  let packed, plotly;
  window.sscqPlotly = (text) => { packed = text; };
  const unpacked = () => plotly ??= load(here + "plotly.js").then(async () => {
    const bytes = Uint8Array.from(atob(packed), (c) => c.charCodeAt(0)), stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    document.head.append(make("script", { textContent: await new Response(stream).text() }));
  }).catch((error) => { plotly = undefined; throw error; });  // the next figure asks again
  const make = (tag, settings = {}, ...inside) => {
    const made = Object.assign(document.createElement(tag), settings);
    made.append(...inside);
    return made;
  };

  // A single chart wider than the page is laid out anew; panels and pictures shrink, to half their size at most, then scroll.
  // The strip at the top where plotly's slider would be, `gap` pixels high, is cut off: the page has a slider of its own.
  const fit = async (gd, gap) => {
    const card = gd.closest("figure"), room = card.clientWidth - 10;
    const { images = [], xaxis2, yaxis = {} } = gd.layout, chart = gd.data.length && !images.length && !xaxis2 && !yaxis.scaleanchor;
    if (chart && room < gd._fullLayout.width) await Plotly.relayout(gd, { width: Math.max(room, 300) });
    const { width, height } = gd._fullLayout, scale = Math.max(.5, Math.min(1, room / width));
    gd.style.transform = `scale(${scale}) translateY(${-gap}px)`;
    Object.assign(gd.parentElement.style, { width: `${width * scale}px`, height: `${(height - gap) * scale}px` });
  };

  // Plotly's own sliders and buttons cannot be reached from the keyboard; the browser's can.
  const slider = ({ steps, active = 0, currentvalue: { prefix = "", suffix = "" } = {} }, id, run) => {
    const now = make("output", { htmlFor: id });
    const input = make("input", { id, type: "range", min: 0, max: steps.length - 1, value: active });
    const say = () => {
      now.textContent = `${steps[input.value].label}${suffix}`;
      input.setAttribute("aria-valuetext", now.textContent);
    };
    input.addEventListener("input", () => { say(); run(steps[input.value]); });
    say();
    return make("div", { className: "control" }, make("label", { htmlFor: id, textContent: prefix.replace(/[:=\s]+$/, "") || "step" }), input, now);
  };
  const buttons = ({ buttons }, run) => make("div", { className: "control" }, ...buttons.map((button) => {
    const made = make("button", { type: "button", textContent: button.label });
    made.addEventListener("click", () => run(button));
    return made;
  }));

  // No button that sends a figure to somebody's server, and few to tab through.
  const config = { displaylogo: false, showSendToCloud: false, modeBarButtonsToRemove: ["select2d", "lasso2d", "zoomIn2d", "zoomOut2d", "autoScale2d"] };

  const draw = async (card) => {
    const name = card.dataset.figure, paper = card.querySelector(".paper");
    await Promise.all([unpacked(), load(`${here}figures/${name}.js`)]);
    const { data, layout: { sliders = [], updatemenus = [], ...layout }, frames } = specs[name];
    const top = sliders.find((s) => s.y >= 1), gap = top ? layout.margin.t - (top.pad?.b || 0) : 0;
    const gd = make("div"), clip = make("div", { className: "clip", hidden: true }, gd);
    paper.append(clip);
    // Buttons over a drawing without data would only hide a part of it.
    await Plotly.newPlot(gd, { data, layout, frames, config: data.length ? config : { ...config, displayModeBar: false } });
    const run = async ({ method = "restyle", args = [] }) => { await Plotly[method](gd, ...args); await fit(gd, gap); };
    paper.querySelector("img")?.remove();
    paper.prepend(...updatemenus.map((m) => buttons(m, run)), ...sliders.map((s, n) => slider(s, `${name}-slider-${n}`, run)));
    clip.hidden = false;
    await fit(gd, gap);
    window.addEventListener("resize", () => fit(gd, gap));
    card.classList.add("drawn");
    sscqReach();
  };

  // Whoever only looks at the head of a page, or follows a link at once, needs no drawing program: it waits for a first sign of interest.
  const interest = new Promise((done) => {
    for (const sign of ["scroll", "pointermove", "pointerdown", "touchstart", "keydown", "focusin"]) addEventListener(sign, done, { once: true, passive: true, capture: true });
  });

  document.addEventListener("DOMContentLoaded", () => {
    const near = new IntersectionObserver((seen) => {
      for (const { isIntersecting, target } of seen) if (isIntersecting) { near.unobserve(target); interest.then(() => draw(target)); }
    }, { rootMargin: "600px" });
    document.querySelectorAll("figure.live").forEach((card) => near.observe(card));
  });
})();
