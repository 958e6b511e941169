// Contrast and fusion: two views of a few pictures on a circle, and how each sees the others.
import { cosines, divergences, infoNce, seenNegatives, softmax, softQuantize } from "./model.js";
import { EXPLORABLES, draggable, h, number, put, s } from "./component.js";

const B = 5, COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b"], SIDE = 340, R = 135, MIDDLE = SIDE / 2;
const degrees = (v) => ((Math.round(v) + 180) % 360 + 360) % 360 - 180;
const START = [-150, -80, -20, 45, 120], TURNED = [-128, -96, 8, 33, 150];
const pointAt = (angle) => [Math.cos(angle * Math.PI / 180), Math.sin(angle * Math.PI / 180)];
const BOOK = { M: 1, K: 4, d: 2, words: Float64Array.from([45, 135, -135, -45].flatMap(pointAt)) };
const nameOf = (i) => `${"ABCDE"[i % B]}${i < B ? "" : "′"}`;

function rowsOf({ angles, fusion }) {  // what is compared: f, z, or both
  return angles.map((angle) => {
    const f = pointAt(angle), z = Array.from(softQuantize(f, BOOK, .2));
    return fusion === "f" ? f : fusion === "z" ? z : [f[0] + z[0], f[1] + z[1]];
  });
}

function seenOf(rows, tau, masked) {  // one row of shares for each input
  if (masked) return seenNegatives(rows, tau);
  return cosines(rows).map((row, i) => softmax(row.map((v, j) => j === i ? -Infinity : v / tau)));
}

function klOf(p, q) { return p.reduce((sum, v, i) => sum + (v > 0 && q[i] > 0 ? .5 * (v - q[i]) * Math.log(v / q[i]) : 0), 0); }

function lossOf(state) {
  const rows = rowsOf(state), tau = 10 ** state.tau;
  if (state.loss === "instance") return infoNce(rows, tau);
  if (state.masked) return divergences(rows, tau).reduce((a, b) => a + b) / B;
  const seen = seenOf(rows, tau, false);
  return Array.from({ length: B }, (_, i) => klOf(seen[i], seen[i + B])).reduce((a, b) => a + b) / B;
}

function slopesOf(state) {  // change of the loss with each angle, a radian
  const step = .05;
  return state.angles.map((_, i) => {
    const at = (by) => lossOf({ ...state, angles: state.angles.map((v, j) => j === i ? v + by : v) });
    return (at(step) - at(-step)) / (2 * step * Math.PI / 180);
  });
}

EXPLORABLES.contrast = async () => {
  const spec = {
    title: "Contrast and fusion",
    question: "Five pictures, two views of each (A and A′), as directions. What does a loss ask of them: that the two views lie together, or only that they see the others alike?",
    initial: { angles: [...START, ...TURNED], tau: -.7, loss: "consistency", fusion: "sum", masked: true, image: 0 },
    accept(name, value) {
      if (name === "angles") return Array.isArray(value) && value.length === 2 * B && value.every((v) => Number.isFinite(v) && Math.abs(v) <= 360) ? value : undefined;
      return Number.isInteger(value) && value >= 0 && value < B ? value : undefined;
    },
    controls: [
      { kind: "choice", name: "loss", label: "Loss", options: [["consistency", "consistency: see the others alike"], ["instance", "instance contrast: find your other view"]] },
      { kind: "choice", name: "fusion", label: "Compared is", options: [["sum", "f + z"], ["f", "f, the vector"], ["z", "z, softly quantized"]] },
      { kind: "range", name: "tau", label: "Temperature τ", min: -1.5, max: .5, step: .05, say: (v) => number(10 ** v, 2) },
      { kind: "check", name: "masked", label: "Hide the own two views from a row" },
      { kind: "button", label: "One step downhill", press: (api) => api.set({ angles: down(api.state, 1) }) },
    ],
    tries: [
      { label: "Both views of A together", run: (api) => api.set({ angles: api.state.angles.map((v, i, all) => i === B ? all[0] : v), image: 0, loss: "consistency" }) },
      { label: "Forty steps downhill", run: (api) => api.set({ angles: down(api.state, 40) }) },
      { label: "All in one place", set: { angles: Array(2 * B).fill(30) } },
    ],
    note: "Arrows show where each view is pushed; a long one is a strong push. z mixes four words that stand at the corners (small squares), at τ = 0.2.",
    picture,
  };

  function down(state, n) {
    let angles = [...state.angles];
    for (let i = 0; i < n; i++) {
      const slopes = slopesOf({ ...state, angles }), most = Math.max(...slopes.map(Math.abs), 1e-9), rate = Math.min(25, 4 / most);
      angles = angles.map((v, j) => degrees10(v - slopes[j] * rate));
    }
    return angles;
  }
  function degrees10(v) { return ((Math.round(v * 10) / 10 + 180) % 360 + 360) % 360 - 180; }

  function picture(box, api) {
    const svg = s("svg", { viewBox: `0 0 ${SIDE} ${SIDE}`, width: SIDE, height: SIDE, role: "group", "aria-label": "Ten views on a circle" });
    svg.append(s("circle", { class: "line", cx: MIDDLE, cy: MIDDLE, r: R }));
    for (let k = 0; k < BOOK.K; k++) svg.append(s("rect", { x: MIDDLE + R * BOOK.words[2 * k] - 5, y: MIDDLE - R * BOOK.words[2 * k + 1] - 5, width: 10, height: 10, fill: "none", stroke: "var(--soft)", "stroke-width": 2 }));
    const arrows = Array.from({ length: 2 * B }, (_, i) => svg.appendChild(s("path", { fill: "none", stroke: COLOURS[i % B], "stroke-width": 4, "stroke-linecap": "round" })));
    const dots = Array.from({ length: 2 * B }, (_, i) => {
      const dot = s("g", { role: "button", "aria-roledescription": "view to drag" }, s("circle", { r: 13, fill: i < B ? COLOURS[i] : "var(--back)", stroke: COLOURS[i % B], "stroke-width": 3 }),
        s("text", { "text-anchor": "middle", y: 4.5, style: `font-weight:700;fill:${i < B ? "#fff" : "var(--ink)"}` }, nameOf(i)));
      const turn = (angle) => api.set({ image: i % B, angles: api.state.angles.map((v, j) => j === i ? degrees(angle) : v) });
      draggable(svg, dot, (px, py) => turn(Math.atan2(MIDDLE - py, px - MIDDLE) * 180 / Math.PI), (dx, dy) => turn(api.state.angles[i] - 3 * dx - 3 * dy));
      return svg.appendChild(dot);
    });
    const rows = rowsPicture(api), bars = barsPicture();
    box.append(h("div", { class: "row" }, h("div", {}, h("h3", {}, "Drag a view around the circle"), svg), h("div", {}, h("h3", {}, "How each view sees the others (rows add up to 1)"), rows.svg),
      h("div", {}, bars.title, bars.svg)));
    return (state) => {
      const tau = 10 ** state.tau, compared = rowsOf(state), seen = seenOf(compared, tau, state.masked), loss = lossOf(state), slopes = slopesOf(state);
      const most = Math.max(...slopes.map(Math.abs), .02);
      state.angles.forEach((angle, i) => {
        const out = i < B ? R : R - 2, [x, y] = pointAt(angle), inner = R + (i < B ? 22 : -24);
        put(dots[i], { transform: `translate(${MIDDLE + out * x} ${MIDDLE - out * y})`, "aria-label": `View ${nameOf(i)} at ${number(angle)} degrees; the arrow keys turn it` });
        const by = -slopes[i] / most * 32, to = pointAt(angle + by), head = pointAt(angle + by - Math.sign(by) * 5);
        const end = [MIDDLE + inner * to[0], MIDDLE - inner * to[1]];
        put(arrows[i], { d: Math.abs(by) < 1.5 ? "M0 0" : `M${MIDDLE + inner * x} ${MIDDLE - inner * y}A${inner} ${inner} 0 0 ${by > 0 ? 0 : 1} ${end[0]} ${end[1]}M${MIDDLE + (inner + 5) * head[0]} ${MIDDLE - (inner + 5) * head[1]}L${end[0]} ${end[1]}L${MIDDLE + (inner - 5) * head[0]} ${MIDDLE - (inner - 5) * head[1]}` });
      });
      rows.show(seen, state.image);
      const kl = Array.from({ length: B }, (_, i) => klOf(seen[i], seen[i + B]));
      bars.show(seen, state.image, kl[state.image]);
      const i = state.image, gap = Math.abs(degrees(state.angles[i] - state.angles[i + B])), worst = kl.indexOf(Math.max(...kl));
      if (state.loss === "instance") return `The instance loss is ${loss.toFixed(3)}; by chance it would be ${Math.log(2 * B - 1).toFixed(3)}. It pulls the two views of a picture together and pushes all other pictures away, like or not; ${nameOf(i)} and ${nameOf(i + B)} are ${number(gap)}° apart.`;
      const how = Math.max(...kl) < 1e-4 ? "All pairs of views see the others alike, so nothing pushes: that also happens where everything lies in one place, so this loss needs a companion."
        : `${nameOf(worst)} and ${nameOf(worst + B)} disagree most (KL ${kl[worst].toFixed(3)}).`;
      return `The consistency loss is ${loss.toFixed(3)}: the mean of five KL. ${nameOf(i)} and ${nameOf(i + B)} are ${number(gap)}° apart and see the others with KL ${kl[i].toFixed(3)}. ${how}${state.masked ? "" : " The own two views are not hidden, so a row is mostly about finding the other view."}`;
    };
  }

  function rowsPicture(api) {
    const size = 26, at = 30, svg = s("svg", { viewBox: `0 0 ${at + 10 * size + 2} ${at + 10 * size + 2}`, width: at + 10 * size + 2, height: at + 10 * size + 2, role: "img" }), cells = [];
    for (let i = 0; i < 2 * B; i++) {
      svg.append(s("text", { x: at + (i + .5) * size, y: at - 8, "text-anchor": "middle" }, nameOf(i)), s("text", { x: at - 8, y: at + (i + .66) * size, "text-anchor": "end" }, nameOf(i)));
      for (let j = 0; j < 2 * B; j++) {
        const cell = svg.appendChild(s("rect", { x: at + j * size + 1, y: at + i * size + 1, width: size - 2, height: size - 2, rx: 2, fill: "var(--blue)" }));
        cell.addEventListener("click", () => api.set({ image: i % B }));
        cells.push(cell);
      }
    }
    const rings = [0, 1].map(() => svg.appendChild(s("rect", { x: at, width: 10 * size, height: size, rx: 3, fill: "none", stroke: "var(--lit)", "stroke-width": 2.5 })));
    return { svg, show(seen, image) {
      seen.forEach((row, i) => row.forEach((v, j) => put(cells[i * 2 * B + j], { opacity: v === 0 ? .03 : .1 + .9 * Math.min(1, v / .6) })));
      rings.forEach((ring, half) => put(ring, { y: at + (image + half * B) * size }));
      put(svg, { "aria-label": `Ten rows of shares; those of ${nameOf(image)} and ${nameOf(image + B)} are framed and compared` });
    } };
  }

  function barsPicture() {
    const svg = s("svg", { viewBox: "0 0 300 170", width: 300, height: 170, role: "img" }), title = h("h3");
    return { svg, title, show(seen, image, kl) {
      title.textContent = `${nameOf(image)} and ${nameOf(image + B)} side by side: KL ${kl.toFixed(3)}`;
      const [p, q] = [seen[image], seen[image + B]], most = Math.max(...p, ...q, .3);
      svg.replaceChildren(...p.flatMap((v, j) => [s("rect", { x: j * 30 + 3, y: 140 - 130 * v / most, width: 11, height: 130 * v / most, fill: COLOURS[image] }),
        s("rect", { x: j * 30 + 15, y: 140 - 130 * q[j] / most, width: 11, height: 130 * q[j] / most, fill: "none", stroke: COLOURS[image], "stroke-width": 2 }), s("text", { class: "soft", x: j * 30 + 15, y: 156, "text-anchor": "middle" }, nameOf(j))]));
      put(svg, { "aria-label": `Shares of ${nameOf(image)}: ${p.map((v, j) => `${nameOf(j)} ${Math.round(v * 100)} %`).join(", ")}; of ${nameOf(image + B)}: ${q.map((v, j) => `${nameOf(j)} ${Math.round(v * 100)} %`).join(", ")}` });
    } };
  }
  return spec;
};
