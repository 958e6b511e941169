// Contrast and fusion: how every input sees the others, and what two losses want of it.
import { infoNce, seenNegatives, softmax, softQuantize, symmetricKl, cosines } from "./model.js";
import { EXPLORABLES, draggable, h, number, put, s } from "./component.js";

const SIDE_C = 340, MIDDLE = 170, RADIUS_C = 118, TURN = Math.PI / 180, TAU_Q = .2;
const SHADES = ["#3b82c4", "#c2477f", "#3f9a4d", "#8458c9"];  // of the images; orange is kept for what is looked at
const BOOK = { M: 1, K: 4, d: 2, words: Float64Array.from([20, 110, 200, 290].flatMap((a) => [Math.cos(a * TURN), Math.sin(a * TURN)])) };
const APART = [70, 150, 235, 330, 40, 175, 262, 300];  // degrees: view a of four images, then view b
const TORN = [70, 150, 235, 330, 285, 175, 262, 300];
const BETWEEN = [60, 128, 212, 350, 20, 118, 232, 338];
const NAMES = ["1a", "2a", "3a", "4a", "1b", "2b", "3b", "4b"];
const FUSIONS = { f: (f) => f, z: (_, z) => z, sum: (f, z) => f.map((row, i) => row.map((v, j) => v + z[i][j])) };

// Rows as shares: the image's own two columns hidden, or only their softmax
function seen(rows, tau, masked) { return masked ? seenNegatives(rows, tau) : cosines(rows).map((row) => softmax(row.map((v) => v / tau))); }

// KL of view a's row in p and view b's row in q, one for each image
function apart(p, q) { return Array.from({ length: p.length / 2 }, (_, i) => symmetricKl(p[i], q[i + p.length / 2])); }

const meanOf = (x) => x.reduce((a, b) => a + b, 0) / x.length;

export function fusedConsistency(f, z, fusion, tau, masked = true) {
  const see = (rows) => seen(rows, tau, masked);
  if (fusion !== "cross") { const u = see(FUSIONS[fusion](f, z)); return meanOf(apart(u, u)); }
  const [p, q] = [see(f), see(z)];
  return meanOf(apart(q, p)) + meanOf(apart(p, q));
}

export function onCircle(angles) { return angles.map((a) => [Math.cos(a * TURN), Math.sin(a * TURN)]); }

export function quantized(f) { return f.map((row) => Array.from(softQuantize(row, BOOK, TAU_Q))); }

// What the arrows go down: a loss of the angles, through the codebook where z takes part
export function lossOfAngles(angles, { loss, of, tau }) {
  const f = onCircle(angles), z = of === "f" ? f : quantized(f);
  return loss === "contrast" ? infoNce(FUSIONS[of](f, z), tau) : fusedConsistency(f, z, of, tau, loss === "kl");
}

export function slopes(angles, how) {  // per radian, by central differences
  const at = (i, by) => lossOfAngles(angles.map((a, j) => j === i ? a + by / TURN : a), how);
  return angles.map((_, i) => (at(i, 1e-4) - at(i, -1e-4)) / 2e-4);
}

EXPLORABLES.contrast = async () => {
  let told = {}, turn = 0;
  const spec = {
    title: "Contrast and fusion",
    question: "Eight inputs are two views, a and b, of four images. How does each of them see the others, and which way does a loss turn them?",
    initial: { angles: APART, input: 0, tau: .5, loss: "contrast", of: "f" },
    accept(name, value) {
      if (name === "input") return Number.isInteger(value) && value >= 0 && value < 8 ? value : undefined;
      return Array.isArray(value) && value.length === 8 && value.every(Number.isFinite) ? value.map(whole) : undefined;
    },
    controls: [
      { kind: "choice", name: "loss", label: "Loss", options: [["contrast", "instance contrast"], ["kl", "consistency, own image hidden"], ["open", "consistency, nothing hidden"]] },
      { kind: "choice", name: "of", label: "of", options: [["f", "f, the embedding"], ["z", "z, softly quantized"], ["sum", "f + z, fused"]] },
      { kind: "range", name: "tau", label: "Temperature τ", min: .05, max: 1, step: .05 },
      { kind: "button", label: "One step down", press: (api) => run(api, 1) },
      { kind: "button", label: "Run 60 steps", press: (api) => run(api, 60) },
    ],
    tries: [
      { label: "Tear a pair apart", set: { angles: TORN } },
      { label: "Let two views disagree", run: (api) => { api.set({ ...spec.initial, angles: BETWEEN, loss: "kl" }); tell(api, "The points were moved, and the loss is consistency now."); } },
      { label: "Look through the codebook", run: (api) => { api.set({ ...spec.initial, angles: BETWEEN, loss: "kl", of: "z" }); tell(api, "The points were moved, and the loss is consistency of z now."); } },
    ],
    terms: "f is the vector that a network makes of a view. A search stores in its place the number of the nearest of a few words, the vectors of a codebook; z is the soft form of this, a mean of the words in which near ones weigh most.",
    legend: [["round", "soft", "a circle: view a"], ["", "soft", "a square: view b"], ["frame", "lit", "the input looked at, and its row"], ["line", "ink", "an arrow: which way a step goes; a frame round a bar: the other view"]],
    note: `A circle is view a of an image and a square view b; both lie on the circle of all vectors of length 1 in a plane. Where the loss is of z, or of the sum f + z, hollow squares are the four words and a small dot, dotted to its view, is the view's z at a temperature of ${TAU_Q}. An arrow goes downhill and is longer where the loss is steeper, but is cut short before the next view; where the loss is nearly flat there is none.`,
    picture,
  };

  function whole(a) { return Math.round(((a % 360) + 360) % 360 * 10) / 10; }

  // What happened is said until points or loss are others
  function tell(api, text) { told = { text, of: nowOf(api.state) }; }
  function nowOf({ angles, loss, of, tau }) { return JSON.stringify([angles, loss, of, tau]); }

  function run(api, n) {
    const mine = ++turn, before = lossOfAngles(api.state.angles, api.state), from = api.state;
    let left = n;
    const one = () => {
      const steps = slopes(api.state.angles, api.state).map((v) => Math.max(-.12, Math.min(.12, -v)));
      api.set({ angles: api.state.angles.map((a, i) => whole(a + steps[i] / TURN)) });
      left -= 1;
      tell(api, `After ${n - left === 1 ? "one step" : `${n - left} steps`} the loss went from ${number(before)} to ${number(lossOfAngles(api.state.angles, api.state))}.`);
    };
    if (n === 1 || matchMedia("(prefers-reduced-motion: reduce)").matches) { while (left) one(); return; }
    const next = () => { if (turn === mine && api.state === from && left) { one(); requestAnimationFrame(next); } };
    next();
  }

  function picture(box, api) {
    const svg = s("svg", { viewBox: `0 0 ${SIDE_C} ${SIDE_C}`, width: SIDE_C, height: SIDE_C, role: "group", "aria-label": "Eight inputs on a circle" });
    svg.append(s("circle", { class: "line", cx: MIDDLE, cy: MIDDLE, r: RADIUS_C }));
    const quiet = svg.appendChild(s("g", { "aria-hidden": "true" })), arrows = svg.appendChild(s("g", { "aria-hidden": "true" }));
    const turnTo = (i, a) => {
      turn += 1;
      api.set({ input: i, angles: api.state.angles.map((old, j) => j === i ? whole(a) : old) });
    };
    const points = NAMES.map((name, i) => {
      const fill = SHADES[i % 4], mark = i < 4 ? s("circle", { r: 9, fill, stroke: "var(--back)", "stroke-width": 2 })
        : s("path", { d: "M-8-8H8V8H-8Z", fill, stroke: "var(--back)", "stroke-width": 2 });
      const text = s("text", { "text-anchor": "middle", "font-weight": 600 }, name), point = s("g", { role: "slider", "aria-roledescription": "view to drag", "aria-valuemin": 0, "aria-valuemax": 359 }, s("circle", { r: 18, fill: "transparent", stroke: "none", style: "stroke:none" }), mark);
      draggable(svg, point, (x, y) => turnTo(i, Math.atan2(MIDDLE - y, x - MIDDLE) / TURN), (dx, dy) => turnTo(i, api.state.angles[i] + 3 * (dx === 0 ? -dy : -dx)));
      point.addEventListener("focus", () => api.set({ input: i }, true));
      svg.append(text, point);
      return { point, text, mark };
    });
    const rows = rowsOf(), table = tableOf(), bars = barsOf();
    const rowsTitle = h("h3"), barsTitle = h("h3", { style: "margin-top:8px" });
    box.append(h("div", { class: "row" },
      h("div", {}, h("h3", {}, "Drag a point round the circle"), svg),
      h("div", { style: "max-width:100%" }, rowsTitle, rows.svg, barsTitle, bars.svg),
      h("div", {}, h("h3", {}, "All eight rows; strong: much"), table.svg)));
    return (state) => {
      const { angles, input, tau, loss, of } = state, f = onCircle(angles), z = quantized(f), u = FUSIONS[of](f, z);
      const itself = loss === "contrast", shares = itself ? cosines(u).map((row, i) => softmax(row.map((v, j) => i === j ? -Infinity : v / tau))) : seen(u, tau, loss === "kl");
      const slope = slopes(angles, state), value = lossOfAngles(angles, state);
      const at = ([x, y], r = RADIUS_C) => [MIDDLE + x * r, MIDDLE - y * r];
      quiet.replaceChildren(...(of === "f" ? [] : [
        ...[0, 1, 2, 3].map((k) => { const [x, y] = at(BOOK.words.subarray(2 * k, 2 * k + 2)); return s("rect", { x: x - 13, y: y - 13, width: 26, height: 26, fill: "none", stroke: "var(--soft)", "stroke-width": 1.5 }); }),
        ...z.flatMap((v, i) => { const [[x, y], [px, py]] = [at(v), at(f[i])]; return [s("line", { x1: px, y1: py, x2: x, y2: y, stroke: SHADES[i % 4], "stroke-dasharray": "2 3" }), s("circle", { cx: x, cy: y, r: 4, fill: SHADES[i % 4] })]; })]));
      arrows.replaceChildren(...slope.flatMap((v, i) => arrowOf(i, angles, -v, RADIUS_C + (i < 4 ? 17 : -17))));
      points.forEach(({ point, text, mark }, i) => {
        const [x, y] = at(f[i]), [tx, ty] = at(f[i], RADIUS_C + (i < 4 ? 35 : -37));
        put(point, { transform: `translate(${x.toFixed(1)} ${y.toFixed(1)})`, "aria-label": `Image ${i % 4 + 1}, view ${i < 4 ? "a" : "b"}`, "aria-valuenow": Math.round(angles[i]) % 360, "aria-valuetext": `${Math.round(angles[i])} degrees, the arrow keys turn it` });
        put(mark, { stroke: i === input ? "var(--lit)" : "var(--back)", "stroke-width": i === input ? 3 : 2 });
        put(text, { x: tx, y: ty + 4 });
      });
      const [a, b] = [input % 4, input % 4 + 4];
      rowsTitle.textContent = `How ${NAMES[a]} and ${NAMES[b]} see the others, in per cent`;
      rows.show(shares, a, b, loss);
      table.show(shares, input, loss);
      bars.show({ f: fusedConsistency(f, z, "f", tau, loss !== "open"), z: fusedConsistency(f, z, "z", tau, loss !== "open"), sum: fusedConsistency(f, z, "sum", tau, loss !== "open") }, loss === "contrast" ? "" : of);
      barsTitle.textContent = `Mean KL of the views' rows${itself ? "; not this loss" : ""}`;
      const seenBy = itself ? contrastSentence(shares, input, value) : klSentence(shares, a, b, value, loss);
      return [told.of === nowOf(state) ? told.text : "", seenBy, !itself && of === "z" ? wordsSentence(f, z, tau, loss !== "open") : ""].filter(Boolean).join(" ");
    };
  }

  function percent(v) { return `${Math.round(v * 100)} %`; }
  function first(row, without) { return row.map((v, j) => [v, j]).filter(([, j]) => !without.includes(j)).sort((x, y) => y[0] - x[0])[0]; }

  function contrastSentence(shares, i, value) {
    const other = (i + 4) % 8, [most, j] = first(shares[i], [i, other]), own = shares[i][other];
    const how = own > most ? `recognizes its other view: ${NAMES[other]} has ${percent(own)} of its row` : `takes ${NAMES[j]}, another image, for its other view: ${NAMES[other]} has only ${percent(own)} of its row`;
    return `${NAMES[i]} ${how}, ${NAMES[j]} has ${percent(most)}. The mean loss is ${number(value)}, where a guess among seven is log 7 = 1.95 and a sure mistake more; the arrows turn the two views of an image together and other images away.`;
  }

  function klSentence(shares, a, b, value, loss) {
    const kl = symmetricKl(shares[a], shares[b]);
    if (loss === "open") return `With nothing hidden, ${percent(shares[a][a] + shares[a][b])} of the row of ${NAMES[a]} goes to itself and its other view. So the KL, ${number(value)} on average, asks mostly whether the two views are close, as instance contrast does already, and little about how they see others.`;
    const [[p, i], [q, j]] = [first(shares[a], [a, b]), first(shares[b], [a, b])];
    return `${NAMES[a]} sees ${NAMES[i]} most (${percent(p)}), ${NAMES[b]} sees ${NAMES[j]} most (${percent(q)}): the two views see other images ${kl < .02 ? "nearly alike" : kl < .2 ? "a little differently" : "very differently"}, KL ${number(kl, 2)}. The loss is the mean over four images, ${number(value)}; the arrows turn points until both views see the others alike, even if that leads a view away from its other view.`;
  }

  // Whether quantizing makes the rows of two views more alike or less, and why: the words that their vectors are nearest to
  function wordsSentence(f, z, tau, masked) {
    const kl = (x, y, of) => fusedConsistency(x, y, of, tau, masked), [raw, soft] = [kl(f, z, "f"), kl(f, z, "z")], short = (v) => number(v);
    const word = f.map((row) => { const near = [0, 1, 2, 3].map((k) => row[0] * BOOK.words[2 * k] + row[1] * BOOK.words[2 * k + 1]); return near.indexOf(Math.max(...near)); });
    const same = word.slice(0, 4).filter((k, i) => k === word[i + 4]).length, begun = onCircle(APART), [rawBegun, softBegun] = ["f", "z"].map((of) => kl(begun, quantized(begun), of));
    const both = `for ${["no image", "one image of four", "two images of four", "three images of four", "all four images"][same]} both views are nearest to the same word`, other = soft < raw !== softBegun < rawBegun ? ` On opening it is the other way: ${short(rawBegun)} of f, ${short(softBegun)} of z.` : "";
    return soft < raw ? `Of f it would be ${short(raw)}. The views of f agree no better by that: ${both}, and what differs within a word is forgotten.${other}`
      : `Of f it would be only ${short(raw)}: ${both}; where they are not, the words widen the difference.${other}`;
  }

  function arrowOf(i, angles, force, r) {  // an arc beside the circle, outside for view a, inside for view b
    const degrees = angles[i], sign = Math.sign(force), gapTo = (a) => (((a - degrees) * sign % 360) + 360) % 360, gap = gapTo(angles[(i + 4) % 8]);
    const next = Math.min(...angles.filter((_, j) => j % 4 !== i % 4).map(gapTo)), pixels = r * TURN, strong = Math.min(70, Math.abs(force) * 170) / pixels;
    if (strong * pixels < 3) return [];
    const most = Math.min(gap < 180 ? Math.max(gap / 2, Math.min(gap, 20)) : gap, next);  // two that approach meet halfway
    const far = Math.min(strong, Math.max(most - 7 - 9 / pixels, most === next ? 3 / pixels : 0));  // before a view of another image a short one at least
    if (far * pixels < 3 && most !== next) return [];
    const tip = degrees + sign * (7 + far), on = (a, by = 0) => [MIDDLE + Math.cos(a * TURN) * (r + by), MIDDLE - Math.sin(a * TURN) * (r + by)].map((v) => v.toFixed(1)).join(" ");
    return [s("path", { d: `M${on(degrees)}A${r} ${r} 0 0 ${sign > 0 ? 0 : 1} ${on(tip)}`, fill: "none", stroke: "var(--ink)", "stroke-width": 2.5 }),
      s("path", { d: `M${on(tip + sign * 9 / r / TURN)}L${on(tip, 5)}L${on(tip, -5)}Z`, fill: "var(--ink)" })];
  }

  function rowsOf() {
    const svg = s("svg", { viewBox: "0 0 320 204", width: 320, height: 204, role: "img" });
    return { svg, show(shares, a, b, loss) {
      const parts = [];
      [a, b].forEach((i, row) => {
        const floor = 84 + row * 101;
        parts.push(s("text", { x: 0, y: floor - 26, "font-weight": 600 }, NAMES[i]), s("line", { class: "axis", x1: 26, x2: 318, y1: floor, y2: floor }));
        shares[i].forEach((v, j) => {
          const x = 28 + j * 36.5, hidden = loss === "contrast" ? i === j : loss === "kl" && i % 4 === j % 4, target = loss === "contrast" && j === (i + 4) % 8;
          parts.push(s("rect", { x, y: floor - 70 * v, width: 30, height: 70 * v, fill: SHADES[j % 4], stroke: target ? "var(--ink)" : "none", "stroke-width": 2 }),
            s("text", { class: "soft", x: x + 15, y: floor + 13, "text-anchor": "middle", "font-weight": target ? 700 : 400 }, NAMES[j]),
            s("text", { class: hidden ? "soft" : "", x: x + 15, y: floor - 70 * v - 3, "text-anchor": "middle" }, hidden ? "hidden" : String(Math.round(v * 100))));
        });
      });
      svg.replaceChildren(...parts);
      put(svg, { "aria-label": [a, b].map((i) => `${NAMES[i]} gives ${shares[i].map((v, j) => `${percent(v)} to ${NAMES[j]}`).join(", ")}`).join("; ") });
    } };
  }

  function tableOf() {
    const size = 21, svg = s("svg", { viewBox: "0 0 192 192", width: 192, height: 192, role: "img" }), cells = [];
    NAMES.forEach((name, i) => svg.append(s("text", { class: "soft", x: 22 + (i + .5) * size, y: 13, "text-anchor": "middle" }, name), s("text", { class: "soft", x: 2, y: 22 + (i + .5) * size + 4 }, name)));
    for (let i = 0; i < 64; i++) cells.push(svg.appendChild(s("rect", { x: 23 + i % 8 * size, y: 23 + Math.floor(i / 8) * size, width: size - 2, height: size - 2, rx: 2 })));
    const ring = svg.appendChild(s("rect", { x: 21, width: 8 * size + 1, height: size + 1, rx: 3, fill: "none", stroke: "var(--lit)", "stroke-width": 2 }));
    return { svg, show(shares, input, loss) {
      shares.forEach((row, i) => row.forEach((v, j) => {
        const hidden = loss === "contrast" ? i === j : loss === "kl" && i % 4 === j % 4;
        put(cells[i * 8 + j], { fill: hidden ? "none" : "var(--blue)", stroke: hidden ? "var(--line)" : "none", "fill-opacity": (.06 + .94 * v).toFixed(3) });
      }));
      put(ring, { y: 22 + input * size });
      put(svg, { "aria-label": `Shares of all eight inputs, a row each, strong is much; the row of ${NAMES[input]} is framed` });
    } };
  }

  function barsOf() {
    const labels = { f: "of f", z: "of z", sum: "of f + z" }, svg = s("svg", { viewBox: "0 0 320 72", width: 320, height: 72, role: "img" });
    return { svg, show(values, marked) {
      const parts = Object.entries(labels).flatMap(([key, label], i) => {
        const y = 4 + i * 23, wide = Math.min(1, values[key] / 1.5) * 190;
        return [s("text", { x: 0, y: y + 13, "font-weight": key === marked ? 700 : 400 }, label), s("rect", { x: 58, y, width: Math.max(1, wide), height: 17, fill: key === marked ? "var(--ink)" : "var(--soft)", opacity: key === marked ? 1 : .6 }),
          s("text", { x: 64 + wide, y: y + 13 }, values[key] < .0005 ? "0.000" : values[key].toFixed(3))];
      });
      svg.replaceChildren(...parts);
      put(svg, { "aria-label": `Mean KL ${Object.entries(labels).map(([key, label]) => `${label} ${number(values[key], 2)}`).join(", ")}` });
    } };
  }
  return spec;
};
