// Part neighbours: in every part each picture has neighbours of its own, and is pulled towards them.
import { nearestNegatives, partNeighbor, randomOf } from "./model.js";
import { EXPLORABLES, draggable, h, number, put, s } from "./component.js";

const B = 8, M = 2, SIDE = 260, R = 100, MIDDLE = SIDE / 2;
const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#7a5195", "#8c564b"];
const degrees = (v) => ((Math.round(v * 10) / 10 + 180) % 360 + 360) % 360 - 180;
const pointAt = (angle) => [Math.cos(angle * Math.PI / 180), Math.sin(angle * Math.PI / 180)];
const letter = (i) => "ABCDEFGH"[i % B];
const nameOf = (i) => `${letter(i)}${i < B ? "" : "′"}`;

function startOf(seed) {  // of each of 2B views, one angle a part; the two views of a picture lie near each other
  const random = randomOf(seed), first = Array.from({ length: B }, () => [random() * 360, random() * 360]);
  return [...first, ...first.map((both) => both.map((v) => v + (random() - .5) * 24))].map((both) => both.map(degrees));
}
const rowsOf = (angles) => angles.map((both) => both.flatMap(pointAt));

EXPLORABLES.neighbors = async () => {
  const spec = {
    title: "Part neighbours",
    question: "Each picture is two directions, one for each part of its code. In every part it is pulled towards its n nearest. Who pulls whom, and what becomes of it?",
    initial: { angles: startOf(3), n: 2, tau: -.3, chosen: 0, steps: 0 },
    accept(name, value) {
      if (name === "angles") return Array.isArray(value) && value.length === 2 * B && value.every((p) => Array.isArray(p) && p.length === M && p.every((v) => Number.isFinite(v) && Math.abs(v) <= 360)) ? value : undefined;
      return Number.isInteger(value) && value >= 0 && value < (name === "chosen" ? 2 * B : 1e5) ? value : undefined;
    },
    controls: [
      { kind: "range", name: "n", label: "Neighbours n", min: 1, max: 2 * B - 2, step: 1, say: (v) => `${v} of ${2 * B - 2}` },
      { kind: "range", name: "tau", label: "Temperature τ", min: -1.3, max: .5, step: .1, say: (v) => number(10 ** v, 2) },
      { kind: "button", label: "One step", press: (api) => step(api, 1) },
      { kind: "button", label: "Other pictures", press: (api) => api.set({ angles: startOf(3 + Math.floor(api.state.angles[0][0] * 10 + 4000)), steps: 0 }) },
    ],
    tries: [
      { label: "Fifty steps with one neighbour", run: (api) => { api.set({ n: 1 }); step(api, 50); } },
      { label: "Fifty steps with six", run: (api) => { api.set({ n: 6 }); step(api, 50); } },
      { label: "Everybody a neighbour", run: (api) => api.set({ n: 2 * B - 2 }) },
    ],
    note: "A view never counts itself or its other view (A and A′): those are not negatives. Lines lead from the chosen view to its neighbours; thick ones are mutual.",
    picture,
  };

  function step(api, count) {
    const { n } = api.state, tau = 10 ** api.state.tau, angles = structuredClone(api.state.angles), by = .5;
    for (let i = 0; i < count; i++) {
      const slopes = angles.map((both, j) => both.map((_, m) => {
        const at = (turn) => partNeighbor(rowsOf(angles.map((other, k) => k === j ? other.map((v, part) => part === m ? v + turn : v) : other)), M, n, tau);
        return (at(by) - at(-by)) / (2 * by);
      }));
      const most = Math.max(...slopes.flat().map(Math.abs), 1e-9), rate = Math.min(6000, 6 / most);
      angles.forEach((both, j) => both.forEach((v, m) => { both[m] = degrees(v - slopes[j][m] * rate); }));
    }
    api.set({ angles, steps: api.state.steps + count });
  }

  function picture(box, api) {
    const rings = Array.from({ length: M }, (_, m) => ringOf(m, api));
    const table = h("table", { class: "numbers" });
    box.append(h("div", { class: "row" }, ...rings.map(({ svg }, m) => h("div", {}, h("h3", {}, `Part ${m + 1}: drag a view`), svg)), h("div", {}, h("h3", {}, "The chosen view's neighbours"), table)));
    return (state) => {
      const rows = rowsOf(state.angles), tau = 10 ** state.tau, near = nearestNegatives(rows, M, state.n), whole = nearestNegatives(rows, 1, state.n)[0][state.chosen];
      rings.forEach((ring, m) => ring.show(state, near[m]));
      const names = (list) => list.map(nameOf).join(" ");
      table.replaceChildren(h("tbody", {}, ...near.map((part, m) => h("tr", {}, h("th", { scope: "row" }, `in part ${m + 1}`), h("td", {}, names(part[state.chosen])))),
        h("tr", {}, h("th", { scope: "row" }, "of the whole vector"), h("td", {}, names(whole)))));
      const loss = partNeighbor(rows, M, state.n, tau), both = near[0][state.chosen].filter((j) => near[1][state.chosen].includes(j)).length, heaps = near.map((_, m) => heapsOf(state.angles.map((a) => a[m])));
      if (state.n === 2 * B - 2) return `With all ${state.n} as neighbours the loss is ${loss.toFixed(3)}: whoever is near counts as a neighbour and everybody is, so there is nothing to learn and nothing pulls.`;
      const after = state.steps ? `After ${state.steps} steps the views form ${heaps[0]} heaps in part 1 and ${heaps[1]} in part 2; more neighbours make fewer and larger ones. ` : "";
      return `${after}${nameOf(state.chosen)} has ${both === state.n ? "the same neighbours" : both === 0 ? "quite other neighbours" : `${both} of ${state.n} neighbours in common`} in its two parts, so each part teaches something of its own. The loss is ${loss.toFixed(3)}: 0 would mean that all similarity is with neighbours.`;
    };
  }

  function heapsOf(angles) {  // groups with a gap of more than 25 degrees between them
    const order = [...angles].sort((a, b) => a - b);
    return Math.max(1, order.filter((v, i) => ((order[(i + 1) % order.length] - v) % 360 + 360) % 360 > 25).length);
  }

  function ringOf(m, api) {
    const svg = s("svg", { viewBox: `0 0 ${SIDE} ${SIDE}`, width: SIDE, height: SIDE, role: "group", "aria-label": `Part ${m + 1}: sixteen views on a circle` });
    svg.append(s("circle", { class: "line", cx: MIDDLE, cy: MIDDLE, r: R }));
    const lines = svg.appendChild(s("g", { fill: "none", stroke: "var(--lit)" }));
    const dots = Array.from({ length: 2 * B }, (_, i) => {
      const dot = s("g", { role: "button", "aria-roledescription": "view to drag" }, s("circle", { r: 11, fill: i < B ? COLOURS[i % B] : "var(--back)", stroke: COLOURS[i % B], "stroke-width": 3 }),
        s("text", { "text-anchor": "middle", y: 4, style: `font-weight:700;font-size:10.5px;fill:${i < B ? "#fff" : "var(--ink)"}` }, nameOf(i)));
      const turn = (angle) => api.set({ chosen: i, angles: api.state.angles.map((both, j) => j === i ? both.map((v, part) => part === m ? degrees(angle) : v) : both) });
      draggable(svg, dot, (px, py) => turn(Math.atan2(MIDDLE - py, px - MIDDLE) * 180 / Math.PI), (dx, dy) => turn(api.state.angles[i][m] - 3 * dx - 3 * dy));
      dot.addEventListener("focus", () => { if (api.state.chosen !== i) api.set({ chosen: i }); });
      return svg.appendChild(dot);
    });
    const place = (angle, i) => { const r = i < B ? R + 12 : R - 12, [x, y] = pointAt(angle); return [MIDDLE + r * x, MIDDLE - r * y]; };
    return { svg, show({ angles, chosen }, near) {
      angles.forEach((both, i) => put(dots[i], { transform: `translate(${place(both[m], i).join(" ")})`, "aria-label": `View ${nameOf(i)} in part ${m + 1} at ${number(both[m])} degrees; the arrow keys turn it`, opacity: i === chosen || near[chosen].includes(i) ? 1 : .55 }));
      const from = place(angles[chosen][m], chosen);
      lines.replaceChildren(...near[chosen].map((j) => {
        const to = place(angles[j][m], j), toMiddle = [from, to].map(([x, y]) => [(x + MIDDLE) / 2, (y + MIDDLE) / 2]);
        return s("path", { d: `M${from.join(" ")}C${toMiddle[0].join(" ")} ${toMiddle[1].join(" ")} ${to.join(" ")}`, "stroke-width": near[j].includes(chosen) ? 4 : 1.8 });
      }));
    } };
  }
  return spec;
};
