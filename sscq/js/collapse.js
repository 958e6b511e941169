// Collapse: recorded runs in which codewords die or live, by weight and temperature of the diversity loss.
import { bytesOf, perplexity, unzipped } from "./model.js";
import { EXPLORABLES, h, number, paint, put, s } from "./component.js";

EXPLORABLES.collapse = async (packed) => {
  const { weights, taus, seeds, steps, every, K } = packed, frames = steps / every + 1;
  const shares = await unzipped(bytesOf(packed.shares)), pictures = await unzipped(bytesOf(packed.pictures));
  const runOf = (w, t, seed) => (w * taus.length + t) * seeds + seed;
  const sharesOf = (run, frame) => Array.from(shares.subarray((run * frames + frame) * 2 * K, (run * frames + frame) * 2 * K + K), (v) => v / 255);
  const aliveOf = (row) => row.filter((v) => v > .01).length;
  const ends = weights.map((_, w) => taus.map((_, t) => Array.from({ length: seeds }, (_, seed) => aliveOf(sharesOf(runOf(w, t, seed), frames - 1)))));
  const mean = (list) => list.reduce((a, b) => a + b, 0) / list.length;
  const all = ends.flatMap((row, w) => row.map((cell, t) => [mean(cell), w, t])), [, bestW, bestT] = all.reduce((a, b) => b[0] > a[0] ? b : a);
  let playing = 0;
  const spec = {
    title: "Collapse",
    question: "A word that no picture names is paid for and never used. Can you find the smallest weight of the diversity loss that keeps half of the sixteen words alive?",
    initial: { weight: 0, tau: 0, seed: 0, frame: frames - 1 },
    controls: [
      { kind: "range", name: "weight", label: "Weight of diversity", min: 0, max: weights.length - 1, step: 1, say: (v) => String(weights[v]) },
      { kind: "range", name: "tau", label: "Its temperature τ", min: 0, max: taus.length - 1, step: 1, say: (v) => String(taus[v]) },
      { kind: "range", name: "frame", label: "Training step", min: 0, max: frames - 1, step: 1, say: (v) => String(v * every) },
      { kind: "choice", name: "seed", label: "Run", options: Array.from({ length: seeds }, (_, i) => [i, `${i + 1} of ${seeds}`]) },
      { kind: "button", label: "Play the training", press: play },
    ],
    tries: [
      { label: "The most words alive", set: { weight: bestW, tau: bestT } },
      { label: "A large weight, but warm", set: { weight: weights.length - 1, tau: 0 } },
      { label: "Before any training", set: { frame: 0 } },
    ],
    note: `Recorded, not computed here: ${weights.length * taus.length * seeds} small runs on 1,497 digits, two layers from the pixels to two parts, ${steps} steps of Adam, with instance contrast, consistency and part neighbours at fixed weights. `
      + "Shown is the first of the two books. A network of another size, trained longer, has other numbers. A word counts as alive when more than 1 % of the pictures name it.",
    picture,
  };

  function play(api) {
    clearInterval(playing);
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) { api.set({ frame: frames - 1 }); return; }
    api.set({ frame: 0 });
    playing = setInterval(() => { if (api.state.frame >= frames - 1) clearInterval(playing); else api.set({ frame: api.state.frame + 1 }); }, 250);
  }

  function picture(box, api) {
    const wide = 46, high = 170, svg = s("svg", { viewBox: `0 0 ${K * wide} ${high + 18}`, width: K * wide, height: high + 18, role: "img" });
    svg.append(s("line", { class: "axis", x1: 0, x2: K * wide, y1: high, y2: high }));
    const tall = (v) => Math.min(1, v / .5) * (high - 16), even = high - tall(1 / K);
    svg.append(s("line", { stroke: "var(--soft)", "stroke-dasharray": "4 4", x1: 0, x2: K * wide, y1: even, y2: even }), s("text", { class: "soft", x: K * wide - 2, y: even - 5, "text-anchor": "end" }, "an even share"));
    const names = Array.from({ length: K }, (_, k) => svg.appendChild(s("text", { x: (k + .5) * wide, "text-anchor": "middle" })));
    const bars = Array.from({ length: K }, (_, k) => {
      svg.append(s("text", { class: "soft", x: (k + .5) * wide, y: high + 13, "text-anchor": "middle" }, String(k)));
      return svg.appendChild(s("rect", { x: k * wide + 4, width: wide - 8 }));
    });
    const faces = h("div", { style: `display:grid;grid-template-columns:repeat(${K},1fr);gap:3px;max-width:${K * wide}px`, role: "img" });
    const canvases = Array.from({ length: K }, () => faces.appendChild(h("canvas", { class: "digit", style: "width:100%;height:auto;aspect-ratio:1", "aria-hidden": "true" })));
    const grid = h("table", { class: "numbers" }), body = h("tbody");
    grid.append(h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "weight"), ...taus.map((t) => h("th", { scope: "col" }, `τ ${t}`)))), body);
    const buttons = weights.map((weight, w) => {
      const row = taus.map((tau, t) => h("button", { type: "button", "aria-label": `Weight ${weight}, temperature ${tau}: ${ends[w][t].join(", ")} words alive`, onclick: () => api.set({ weight: w, tau: t, frame: frames - 1 }) }, number(mean(ends[w][t]), 2)));
      body.append(h("tr", {}, h("th", { scope: "row" }, String(weight)), ...row.map((button) => h("td", {}, button))));
      return row;
    });
    box.append(h("div", { class: "row" }, h("div", {}, h("h3", {}, "Share of the pictures that name each word"), svg, h("h3", { style: "margin-top:8px" }, "The mean picture of each word at the end"), faces),
      h("div", {}, h("h3", {}, `Words alive at the end, mean of ${seeds} runs`), h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Words alive by weight and temperature" }, grid))));
    return (state) => {
      const run = runOf(state.weight, state.tau, state.seed), row = sharesOf(run, state.frame), alive = aliveOf(row), top = Math.max(...row);
      row.forEach((v, k) => { put(bars[k], { y: high - tall(v), height: tall(v), fill: v > .01 ? "var(--blue)" : "var(--lit)" }); put(names[k], { y: high - tall(v) - 4 }); names[k].textContent = `${Math.round(v * 100)} %`; });
      put(svg, { "aria-label": `Shares of the sixteen words: ${row.map((v) => `${Math.round(v * 100)} %`).join(", ")}` });
      const end = sharesOf(run, frames - 1);
      canvases.forEach((canvas, k) => { paint(canvas, pictures.subarray((run * K + k) * 64, (run * K + k) * 64 + 64)); canvas.style.opacity = end[k] > .01 ? 1 : .15; });
      put(faces, { "aria-label": `Mean pictures of the words; ${aliveOf(end)} are named by more than 1 % of the pictures` });
      buttons.forEach((cells, w) => cells.forEach((button, t) => put(button, { "aria-pressed": w === state.weight && t === state.tau })));
      const enough = weights.findIndex((_, w) => mean(ends[w][state.tau]) >= K / 2), three = ends[state.weight][state.tau];
      const found = enough < 0 ? `At τ = ${taus[state.tau]} no recorded weight keeps half of them` : `At τ = ${taus[state.tau]} the smallest recorded weight that keeps half of them, in the mean, is ${weights[enough]}`;
      return `After ${state.frame * every} steps ${alive} of ${K} words are alive, as useful as ${number(perplexity(row), 2)} equally used ones; the largest has ${Math.round(top * 100)} % of the pictures. At the end the runs have ${three.join(", ")}. ${found}.`;
    };
  }
  return spec;
};
