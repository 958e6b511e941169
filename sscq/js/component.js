// One component for every explorable: question, controls, picture, and one sentence that says what happened.

export function h(tag, attributes = {}, ...inside) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== false && value != null) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...inside);
  return made;
}

export function s(tag, attributes = {}, ...inside) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  put(made, attributes);
  made.append(...inside);
  return made;
}

export function put(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

export function number(v, digits = 3) { return Number(v.toPrecision(digits)).toString().replace("-", "−"); }

// A grey picture of a few pixels; ink is black on paper in both themes, as in the collection
export function paint(canvas, counts, side = 8) {
  const image = new ImageData(side, side);
  for (let i = 0; i < side * side; i++) image.data.set([255 - counts[i] * 15, 255 - counts[i] * 15, 255 - counts[i] * 15, 255], 4 * i);
  canvas.width = canvas.height = side;
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

// Colours, light and dark. Reports and pages of pictures take them from here too
export const THEME = `
:host { --ink: #1b1f24; --soft: #57606a; --line: #d0d7de; --back: #fff; --card: #f6f8fa; --blue: #00588a; --lit: #b54700; --bad: #b3134f; --wash: #cfe5f2; --good: #1a6e37; color-scheme: light; }
@media (prefers-color-scheme: dark) { :host(:not([data-theme=light])) { --ink: #e6edf3; --soft: #9da7b1; --line: #3d444d; --back: #131416; --card: #1e2126; --blue: #7cc4f0; --lit: #ff9e5e; --bad: #ff8fb4; --wash: #1f4257; --good: #6fd391; color-scheme: dark; } }
:host([data-theme=dark]) { --ink: #e6edf3; --soft: #9da7b1; --line: #3d444d; --back: #131416; --card: #1e2126; --blue: #7cc4f0; --lit: #ff9e5e; --bad: #ff8fb4; --wash: #1f4257; --good: #6fd391; color-scheme: dark; }
`;

export const STYLE = `${THEME}
:host { display: block; }
.sscq { box-sizing: border-box; font: 16px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--back); border: 1px solid var(--line); border-radius: 8px; padding: 14px 16px; max-width: 100%; }
.sscq *, .sscq *::before { box-sizing: border-box; }
.sscq h1, .sscq h2 { font-size: 1.25em; margin: 0; line-height: 1.25; }
.sscq h3 { font-size: .9em; margin: 0 0 4px; font-weight: 600; }
.question { margin: .15em 0 .7em; color: var(--soft); max-width: 48em; }
.row { display: flex; flex-wrap: wrap; gap: 8px 20px; align-items: flex-end; }
.row > * { min-width: 0; max-width: 100%; }
.row + .row { margin-top: 10px; }
.picture > .row { align-items: flex-start; }
.controls { margin: .5em 0; align-items: center; }
.control { display: flex; align-items: center; gap: 8px; max-width: 100%; font-size: .95em; flex-wrap: wrap; }
.control output { min-width: 3.4em; font-weight: 600; font-variant-numeric: tabular-nums; }
input[type=range] { accent-color: var(--blue); width: 150px; height: 24px; margin: 0; }
select, button, .button { font: inherit; font-size: .93em; color: var(--ink); background: var(--card); border: 1px solid var(--soft); border-radius: 6px; padding: 5px 11px; min-height: 34px; cursor: pointer; }
button:hover, .button:hover { border-color: var(--blue); }
button[aria-pressed=true] { outline: 2px solid var(--lit); outline-offset: 1px; }
:focus-visible { outline: 3px solid var(--blue); outline-offset: 2px; }
.tries { align-items: center; margin-top: .5em; }
.tries span { color: var(--soft); font-size: .93em; }
.said { border-left: 4px solid var(--blue); padding: 3px 0 3px 10px; margin: 10px 0; min-height: 3em; max-width: 56em; }
.note { color: var(--soft); font-size: .87em; margin: 4px 0; max-width: 56em; }
.sscq a { color: var(--blue); }
.legend { display: flex; flex-wrap: wrap; gap: 2px 18px; list-style: none; margin: 8px 0 4px; padding: 0; color: var(--soft); font-size: .87em; }
.legend li { display: flex; align-items: center; gap: 6px; }
.legend i { flex: none; width: 14px; height: 14px; border-radius: 3px; background: var(--mark); border: 2px solid var(--mark); }
.legend i.frame { background: none; }
.legend i.dashed { background: none; border-style: dashed; }
.legend i.line { height: 0; border-width: 2px 0 0; border-radius: 0; width: 20px; }
.legend i.round { border-radius: 50%; }
.card { background: var(--card); border-radius: 6px; padding: 8px 10px; max-width: 100%; }
.scroll { overflow-x: auto; max-width: 100%; }
.digit { image-rendering: pixelated; width: 44px; height: 44px; border-radius: 3px; display: block; background: #fff; }
.answers { display: flex; flex-wrap: wrap; gap: 6px; list-style: none; margin: 0; padding: 0; }
.answers button { padding: 4px; font-size: .78em; line-height: 1.25; min-height: 0; text-align: center; font-variant-numeric: tabular-nums; }
.answers .digit { margin: 0 auto 2px; }
.answers .wrong { border: 2px dashed var(--bad); padding: 3px; }
svg { display: block; max-width: 100%; touch-action: manipulation; }
svg text { fill: var(--ink); font-family: system-ui, sans-serif; font-size: 11px; }
svg text.soft { fill: var(--soft); }
svg .line { stroke: var(--line); fill: none; }
svg .axis { stroke: var(--soft); fill: none; }
svg .drag { cursor: grab; }
svg .drag, svg .drag * { touch-action: none; }
svg .drag:focus-visible { outline: none; }
svg .drag:focus-visible circle, svg .drag:focus-visible path { stroke: var(--lit); stroke-width: 4; }
.pen { touch-action: none; cursor: crosshair; background: #fff; border: 1px solid var(--soft); border-radius: 6px; width: 200px; height: 200px; display: block; }
table.numbers { border-collapse: collapse; font-size: .87em; font-variant-numeric: tabular-nums; }
table.numbers td, table.numbers th { padding: 2px 9px; border-bottom: 1px solid var(--line); text-align: right; font-weight: 400; }
table.numbers th:first-child { text-align: left; }
table.numbers thead th { font-weight: 600; }
.hidden { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
.bad { border-left-color: var(--lit); }
@media (prefers-reduced-motion: no-preference) { .moves { transition: fill .15s, opacity .15s; } }
`;

// Distances of each part to each word of its book: a row a part, the stronger the colour the nearer
export const TABLE_COLOURS = "A row is a part, a column a word. The stronger the blue, the smaller the distance: the shades under the table go from the smallest of these distances to the largest, so colours of two pictures cannot be compared.";
export function distancesOf(M, K) {
  const size = 20, wide = 20 + K * size, high = 20 + M * size, svg = s("svg", { viewBox: `0 0 ${wide} ${high + 20}`, width: wide, height: high + 20, role: "img" }), rects = [];
  const cell = (x, y) => svg.appendChild(s("rect", { x, y, width: size - 2, height: size - 2, rx: 2, fill: "var(--blue)" }));
  const shade = (nearness) => .08 + .92 * nearness ** 2;
  for (let k = 0; k < K; k++) svg.append(s("text", { class: "soft", x: 18 + (k + .5) * size, y: 11, "text-anchor": "middle" }, String(k)));
  for (let m = 0; m < M; m++) {
    svg.append(s("text", { class: "soft", x: 0, y: 32 + m * size }, String(m + 1)));
    for (let k = 0; k < K; k++) rects.push(cell(19 + k * size, 19 + m * size));
  }
  const least = s("text", { x: 19, y: high + 15 }), most = s("text", { x: 0, y: high + 15, "text-anchor": "end" });
  svg.append(least, most);
  for (let i = 0; i < 5; i++) put(cell(wide / 2 - 50 + i * size, high + 1), { opacity: shade(1 - i / 4) });
  put(most, { x: wide - 2 });
  const rings = Array.from({ length: M }, () => svg.appendChild(s("rect", { width: size, height: size, rx: 3, fill: "none", stroke: "var(--lit)", "stroke-width": 3 })));
  return { svg, show(table, code, { parts = M, ringed = true, faint = false, label }) {
    const near = Math.min(...table), far = Math.max(...table);
    table.forEach((v, i) => put(rects[i], { opacity: Math.floor(i / K) < parts ? shade(1 - (v - near) / (far - near || 1)) * (faint ? .3 : 1) : .03 }));
    rings.forEach((ring, m) => put(ring, { x: 18 + code[m] * size, y: 18 + m * size, opacity: ringed && m < parts ? 1 : 0 }));
    least.textContent = `near, ${near.toFixed(2)}`;
    most.textContent = `far, ${far.toFixed(2)}`;
    put(svg, { "aria-label": `Table of ${M} times ${K} distances, from ${near.toFixed(2)}, in the strongest colour, to ${far.toFixed(2)}; ${label}` });
  } };
}

// ---- state in the address: only what differs from how it begins

function fieldOf(spec, name) { return spec.controls.find((c) => c.name === name); }

// A value as the control may have it, and a word where it had to change
export function accepted(spec, name, value) {
  const control = fieldOf(spec, name), begins = spec.initial[name];
  if (!(name in spec.initial)) return [undefined, `the link names "${name}", which this page does not have`];
  if (control?.kind === "range") {
    if (typeof value !== "number" || !Number.isFinite(value)) return [undefined, `${control.label} must be a number`];
    const inside = Math.max(control.min, Math.min(control.max, value));
    const stepped = Number((control.min + Math.round((inside - control.min) / control.step) * control.step).toFixed(6));
    return [stepped, inside === value ? "" : `${control.label} goes from ${control.min} to ${control.max}; ${inside} is shown`];
  }
  if (control?.kind === "choice") return control.options.some(([v]) => v === value) ? [value, ""] : [undefined, `${control.label} has no such choice`];
  if (control?.kind === "check") return [Boolean(value), ""];
  const checked = spec.accept?.(name, value);
  if (checked === undefined) return typeof value === typeof begins && !spec.accept ? [value, ""] : [undefined, `the link's "${name}" does not fit`];
  return [checked, ""];
}

export function toHash(key, spec, state) {
  const parts = new URLSearchParams();
  for (const name of Object.keys(spec.initial)) {
    const value = JSON.stringify(state[name]);
    if (value !== JSON.stringify(spec.initial[name])) parts.set(name, value);
  }
  return `#${key}:${parts}`;
}

export function fromHash(key, spec, hash) {  // the state, and what could not be taken over
  const state = structuredClone(spec.initial), notes = [];
  if (!hash.startsWith(`#${key}:`)) return [state, ""];
  for (const [name, text] of new URLSearchParams(hash.slice(key.length + 2))) {
    let value, note = `the link's "${name}" cannot be read`;
    try { [value, note] = accepted(spec, name, JSON.parse(text)); } catch { /* a broken link */ }
    if (value !== undefined) state[name] = value;
    if (note) notes.push(note);
  }
  return [state, notes.length ? `Not all of this link fits: ${notes.join("; ")}.` : ""];
}

// The same from a notebook or a kernel, which keep values and no text
export function changes(spec, state) {
  return Object.fromEntries(Object.keys(spec.initial).filter((name) => JSON.stringify(state[name]) !== JSON.stringify(spec.initial[name])).map((name) => [name, state[name]]));
}

export function fitted(spec, kept) {
  const state = structuredClone(spec.initial), notes = [];
  for (const [name, value] of Object.entries(kept)) {
    const [fits, note] = accepted(spec, name, value);
    if (fits !== undefined) state[name] = fits;
    if (note) notes.push(note.replace("the link", "the state"));
  }
  return [state, notes.length ? `Not all of this state fits: ${notes.join("; ")}.` : ""];
}

// ---- the component

function controlOf(control, api) {
  const { name, label } = control, id = `${api.key}-${name}`;
  if (control.kind === "button") {
    const button = h("button", { type: "button", onclick: () => control.press(api) }, label);
    return { element: button, show() {} };
  }
  if (control.kind === "file") {
    const input = h("input", { type: "file", id, accept: "image/*", class: "hidden", onchange: () => { if (input.files[0]) control.take(input.files[0], api); input.value = ""; } });
    const face = h("label", { for: id, class: "button" }, label);
    return { element: h("div", { class: "control" }, input, face), show() {} };
  }
  if (control.kind === "check") {
    const input = h("input", { type: "checkbox", id, onchange: () => api.set({ [name]: input.checked }) });
    return { element: h("div", { class: "control" }, input, h("label", { for: id }, label)), show(state) { input.checked = state[name]; } };
  }
  if (control.kind === "choice") {
    const select = h("select", { id, onchange: () => api.set({ [name]: control.options[select.selectedIndex][0] }) }, ...control.options.map(([, text]) => h("option", {}, text)));
    return { element: h("div", { class: "control" }, h("label", { for: id }, label), select), show(state) { select.selectedIndex = control.options.findIndex(([v]) => v === state[name]); } };
  }
  const input = h("input", { type: "range", id, min: control.min, max: control.max, step: control.step, oninput: () => api.set({ [name]: Number(input.value) }) });
  const now = h("output", { for: id });
  return { element: h("div", { class: "control" }, h("label", { for: id }, label), input, now), show(state) {
    const text = control.say ? control.say(state[name], state) : number(state[name]);
    input.value = state[name];
    input.setAttribute("aria-valuetext", text);
    now.textContent = text;
  } };
}

export const EXPLORABLES = {};  // name -> (data) => spec; may be asynchronous

// `kept` is what differs from how it begins; `changed` is called with that whenever it is another
export async function mount(host, name, packed, { heading = "h2", kept = {}, changed = () => {} } = {}) {
  const root = host.shadowRoot ?? host.attachShadow({ mode: "open" });
  const fail = (text) => root.replaceChildren(h("style", {}, STYLE), h("div", { class: "sscq" }, h("p", { class: "said bad", role: "alert" }, text)));
  follow(host);
  try {
    if (!EXPLORABLES[name]) return fail(`This page does not have an explorable "${name}".`);
    if (typeof DecompressionStream === "undefined") return fail("This browser is too old to unpack the data of this picture (it lacks DecompressionStream).");
    if (!document.createElement("canvas").getContext("2d")) return fail("This browser does not draw on a canvas, so this picture cannot be shown.");
    const spec = await EXPLORABLES[name](packed);
    return component(host, root, name, spec, heading, kept, changed);
  } catch (error) {
    fail(`This picture could not be made: ${error.message}`);
    throw error;
  }
}

function follow(host) {  // the theme of the page around it, where that says one
  const read = () => {
    let theme = document.body.dataset.theme;
    try { if (window.parent !== window) { const light = window.parent.document.body.dataset.jpThemeLight; if (light) theme = light === "true" ? "light" : "dark"; } } catch { /* another origin's */ }
    if (theme === "light" || theme === "dark") host.dataset.theme = theme; else delete host.dataset.theme;
  };
  read();
  new MutationObserver(read).observe(document.body, { attributes: true, attributeFilter: ["data-theme"] });
}

function component(host, root, key, spec, heading, kept, changed) {
  let state, note = "", waiting = false, known = JSON.stringify(kept);
  const linkable = location.protocol !== "about:";
  const said = h("p", { class: "said", role: "status", "aria-live": "polite" });
  const link = h("a", { href: "#" }, "Link to this state");
  const box = h("div", { class: "picture" });
  const api = {
    key, root, get state() { return state; },
    set(changes, silent = false) { Object.assign(state, structuredClone(changes)); if (!silent) note = ""; api.draw(); },
    say(text) { note = text; api.draw(); },
    draw() { if (!waiting) { waiting = true; requestAnimationFrame(now); } },
    reset() { note = ""; state = structuredClone(spec.initial); api.draw(); },
    take(values) { [state, note] = fitted(spec, values); api.draw(); },
  };
  const controls = spec.controls.map((control) => controlOf(control, api));
  const tries = spec.tries.map(({ label, set, run }) => h("button", { type: "button", onclick: () => {
    note = "";
    if (set) state = structuredClone({ ...spec.initial, ...set });
    if (run) run(api);
    api.draw();
  } }, label));
  const title = h(heading, { id: `${key}-title` }, spec.title);
  root.replaceChildren(h("style", {}, STYLE), h("section", { class: "sscq", "aria-labelledby": `${key}-title` }, title, h("p", { class: "question" }, spec.question),
    ...(spec.terms ? [h("p", { class: "note terms" }, spec.terms)] : []),
    h("div", { class: "row tries", role: "group", "aria-label": "Try this" }, h("span", {}, "Try this:"), ...tries, h("button", { type: "button", class: "reset", onclick: () => api.reset() }, "Reset")),
    h("div", { class: "row controls" }, ...controls.map((c) => c.element)),
    said, box, ...(spec.legend ? [h("ul", { class: "legend", "aria-label": "Colours" }, ...spec.legend.map(([mark, colour, text]) => h("li", {}, h("i", { class: mark, style: `--mark: var(--${colour})`, "aria-hidden": "true" }), text)))] : []), ...(spec.note ? [h("p", { class: "note" }, spec.note)] : []), ...(linkable ? [h("p", { class: "note" }, link)] : [])));
  const draw = spec.picture(box, api);
  for (const part of box.querySelectorAll("h3")) put(part, { "aria-level": Number(heading[1]) + 1 });  // a page of its own has no h2
  function now() {
    waiting = false;
    try {
      const sentence = draw(state);
      for (const control of controls) control.show(state);
      const text = [note, sentence].filter(Boolean).join(" ");
      if (said.textContent !== text) said.textContent = text;
      said.classList.toggle("bad", Boolean(note));
      link.href = toHash(key, spec, state);
      const differing = changes(spec, state), seen = JSON.stringify(differing);
      if (seen !== known) { known = seen; changed(differing); }
    } catch (error) {
      said.textContent = `This state cannot be drawn (${error.message}); Reset begins anew.`;
      said.classList.add("bad");
      console.error(error);
    }
    host.dataset.drawn = Number(host.dataset.drawn ?? 0) + 1;
  }
  const read = () => { [state, note] = fromHash(key, spec, location.hash); };
  if (location.hash.startsWith(`#${key}:`)) read(); else [state, note] = fitted(spec, kept);
  now();
  window.addEventListener("hashchange", () => { if (location.hash.startsWith(`#${key}:`)) { read(); api.draw(); } });
  return api;
}

// Goes through the epochs of recorded trainings, one after the other, until something else is pressed.
export function player(epochs) {
  let turn = 0;
  return (api) => {
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) { api.set({ epoch: epochs }); return; }
    const mine = ++turn, from = api.state;
    let epoch = -1;
    const next = () => {
      if (mine !== turn || api.state !== from || (epoch >= 0 && from.epoch !== epoch)) return;
      epoch += 1;
      api.set({ epoch });
      if (epoch < epochs) setTimeout(next, 350);
    };
    next();
  };
}

// A point of a picture that pointer and keys move: `place` gives its numbers from a position in the SVG's units
export function draggable(svg, element, move, step) {
  const at = (event) => {
    const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    move(point.x, point.y);
  };
  put(element, { tabindex: 0, class: "drag" });
  element.addEventListener("pointerdown", (event) => { element.setPointerCapture(event.pointerId); element.focus(); event.preventDefault(); });
  element.addEventListener("touchstart", (event) => event.preventDefault(), { passive: false });  // what is not painted has no touch-action
  element.addEventListener("pointermove", (event) => { if (element.hasPointerCapture(event.pointerId)) at(event); });
  element.addEventListener("keydown", (event) => {
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!way) return;
    event.preventDefault();
    step(...way.map((v) => v * (event.shiftKey ? 5 : 1)));
  });
}
