// Part neighbours: in each part the nearest of a batch take the place of labels, and heaps form.
import { gaussOf, nearestNegatives, partNeighbor, randomOf, softmax, unit } from "./model.js";
import { EXPLORABLES, draggable, h, number, put, s } from "./component.js";

const N_IMAGES = 12, N_INPUTS = 24, DEGREES = 180 / Math.PI, BOX = 300, REACH = 98, RATE = 4, GAP = 20, SIX = 6;  // six others share an input's colour
const SHADES = ["#3b82c4", "#c2477f", "#3f9a4d"], COLOURS = ["blue", "pink", "green"],  // orange is kept for what is looked at
  FORMS = ["round", "square"];
const colourOf = (i) => i % N_IMAGES % 3, formOf = (i) => Math.floor(i % N_IMAGES / 3) % 2;
const nameOf = (i) => `${i % N_IMAGES + 1}${i < N_IMAGES ? "a" : "b"}`;

// Twelve images of three colours and two forms, two views each: part 1 knows a little of the colour, part 2 of the form
function batchOf() {
  const gauss = gaussOf(randomOf(9)), turned = (degrees) => [Math.cos(degrees / DEGREES), Math.sin(degrees / DEGREES)];
  const images = Array.from({ length: N_IMAGES }, (_, i) => [90 + 120 * colourOf(i) + 32 * gauss(), 180 * formOf(i) + 45 * gauss()]);
  return Array.from({ length: N_INPUTS }, (_, i) => images[i % N_IMAGES].flatMap((a) => turned(a + 10 * gauss()))).map((row) => row.map(kept));
}

function kept(v) { return Math.round(v * 1000) / 1000; }

// The loss of sscq.neighbors with its gradient: among its negatives an input has the shares p, among its n nearest q
export function neighborGradient(rows, M, n, tau) {
  const N = rows.length, d = rows[0].length / M, half = N / 2, gradient = rows.map((row) => row.map(() => 0)), near = nearestNegatives(rows, M, n), draws = [];
  for (let m = 0; m < M; m++) {
    const parts = rows.map((row) => row.slice(m * d, (m + 1) * d)), units = parts.map((part) => unit(part)), pull = units.map(() => new Float64Array(d));
    draws.push(units.map((a, i) => {
      const cos = units.map((b, j) => j % half === i % half ? -Infinity : a.reduce((sum, v, k) => sum + v * b[k], 0) / tau);
      const p = softmax(cos), q = softmax(cos.map((v, j) => near[m][i].includes(j) ? v : -Infinity));
      for (let j = 0; j < N; j++) for (let k = 0; k < d; k++) {
        const g = (p[j] - q[j]) / (tau * M * N);
        pull[i][k] += g * units[j][k];
        pull[j][k] += g * a[k];
      }
      return q;
    }));
    parts.forEach((part, i) => {
      const length = Math.hypot(...part) || 1, along = pull[i].reduce((sum, v, k) => sum + v * units[i][k], 0);
      for (let k = 0; k < d; k++) gradient[i][m * d + k] = (pull[i][k] - along * units[i][k]) / length;
    });
  }
  return { loss: partNeighbor(rows, M, n, tau), gradient, draws };
}

export function neighborStep(rows, M, n, tau, rate = RATE) {
  const { gradient } = neighborGradient(rows, M, n, tau);
  return rows.map((row, i) => row.map((v, k) => v - rate * gradient[i][k]));
}

// Heaps on a circle: what is divided by gaps of more than 20 degrees
export function heapsOf(angles) {
  const sorted = [...angles].sort((a, b) => a - b);
  return Math.max(1, sorted.filter((a, i) => (i + 1 < sorted.length ? sorted[i + 1] : sorted[0] + 360) - a > GAP).length);
}

EXPLORABLES.neighbors = async () => {
  const begin = batchOf(), heapsIn = (z) => [0, 1].map((m) => heapsOf(z.map((row) => Math.atan2(row[2 * m + 1], row[2 * m]) * DEGREES)));
  const sharesOf = (near) => near.map((rows) => [colourOf, formOf].map((kind) => {  // of the neighbours, how many are of the same kind
    const same = rows.flatMap((row, i) => row.map((j) => kind(i) === kind(j)));
    return same.filter(Boolean).length / same.length;
  }));
  const opening = sharesOf(nearestNegatives(begin, 2, SIX)), openingHeaps = heapsIn(begin);
  let turn = 0;
  const spec = {
    title: "Part neighbours",
    question: "Nobody tells the model what belongs together. What becomes of what each part of its vector knows already, if every input is drawn to its nearest there?",
    initial: { z: begin, input: 3, n: 6, tau: .5, by: "parts", steps: 0 },
    accept(name, value) {
      if (name === "steps") return Number.isInteger(value) && value >= 0 && value < 1e5 ? value : undefined;
      const fine = Array.isArray(value) && value.length === N_INPUTS && value.every((row) => Array.isArray(row) && row.length === 4 && row.every((v) => Number.isFinite(v) && Math.abs(v) < 20));
      return fine ? value : undefined;
    },
    controls: [
      { kind: "range", name: "n", label: "Neighbours, n", min: 1, max: 22, step: 1, say: (v) => `${v} of 22` },
      { kind: "range", name: "tau", label: "Temperature τ of part neighbours", min: .1, max: 1.5, step: .1 },
      { kind: "choice", name: "by", label: "Nearest by", options: [["parts", "each part by itself"], ["whole", "the whole vector"]] },
      { kind: "range", name: "input", label: "Input looked at", min: 0, max: N_INPUTS - 1, step: 1, say: (v) => nameOf(v) },
      { kind: "button", label: "One step", press: (api) => run(api, 1) },
      { kind: "button", label: "Run 100 steps", press: (api) => run(api, 100) },
    ],
    tries: [
      { label: "Ask the whole vector", run: (api) => { api.set({ ...spec.initial, by: "whole" }); run(api, 100, true); } },
      { label: "Let heaps form", run: (api) => { api.set(spec.initial); run(api, 100); } },
      { label: "Too many neighbours", run: (api) => { api.set({ ...spec.initial, n: 12 }); run(api, 100); } },
    ],
    terms: "A network makes a vector of each view of an image; it is cut into parts, here two of two numbers, and a search stores each part by itself. An input is one view of an image; its neighbours in a part are the inputs whose part points most nearly the same way.",
    legend: [["", "soft", "colour and form of a mark: the image's"], ["frame", "lit", "ring and arrow: the input looked at, and where a step takes it"], ["frame", "ink", "dark outline: a neighbour of it"]],
    note: "Twelve images, a large mark for view a and a small one for view b. The page opens with the colours roughly apart in part 1 and the forms in part 2, as if a network had learned so much; the loss sees directions alone. Lines lead from the ringed input to its neighbours, thicker where the pull is stronger; "
      + "dotted ones come from inputs that count it among theirs. The arrow is longer where the loss is steeper. "
      + `Seen from the middle, a heap ends where the next input is more than ${GAP} degrees away. An input's own other view is never its neighbour: keeping the two together is the task of contrast. Marks of one place are drawn side by side.`,
    picture,
  };

  function run(api, n, atOnce = false) {
    const mine = ++turn, from = api.state;
    let left = n;
    const one = () => {
      const { z, n: near, tau, by, steps } = api.state;
      api.set({ z: neighborStep(z, by === "parts" ? 2 : 1, near, tau), steps: steps + 1 });
      left -= 1;
    };
    if (atOnce || n === 1 || matchMedia("(prefers-reduced-motion: reduce)").matches) { while (left) one(); api.set({ z: api.state.z.map((row) => row.map(kept)) }); return; }
    const next = () => {
      if (turn !== mine || api.state !== from) return;
      one();
      if (left) requestAnimationFrame(next); else api.set({ z: api.state.z.map((row) => row.map(kept)) });
    };
    requestAnimationFrame(next);
  }

  function placeOf(part, i) {  // in the drawing, each input a little beside its place; what leaves the frame is shown at its edge
    const length = Math.hypot(...part), shrink = length > 1.35 ? 1.35 / length : 1, [dx, dy] = besideOf(i);
    return [BOX / 2 + part[0] * shrink * REACH + dx, BOX / 2 - part[1] * shrink * REACH + dy];
  }

  function besideOf(i) { return [3.1 * Math.sqrt(i) * Math.cos(2.4 * i), 3.1 * Math.sqrt(i) * Math.sin(2.4 * i)]; }

  function picture(box, api) {
    const plots = [0, 1].map((m) => plotOf(m, api)), facts = h("table", { class: "numbers" });
    box.append(h("div", { class: "row" }, ...plots.map((plot, m) => h("div", {}, h("h3", {}, `Part ${m + 1} of every input; drag one`), plot.svg)), h("div", { class: "scroll" }, facts)));
    return (state) => {
      const { z, n, tau, by, steps } = state, M = by === "parts" ? 2 : 1, near = nearestNegatives(z, M, n);
      const { loss, gradient, draws } = neighborGradient(z, M, n, tau);
      plots.forEach((plot, m) => plot.show(state, near[M === 2 ? m : 0], draws[M === 2 ? m : 0], gradient));
      const heaps = heapsIn(z), now = sharesOf(nearestNegatives(z, 2, SIX));
      facts.replaceChildren(h("caption", {}, `How many of the ${SIX} nearest share colour or form`),
        h("thead", {}, h("tr", {}, ...["nearest", "colour", "form", "heaps"].map((name) => h("th", { scope: "col" }, name)))),
        h("tbody", {}, ...[...[0, 1].flatMap((m) => [[`in part ${m + 1}`, ...now[m].map(percent), heaps[m]], ["on opening", ...opening[m].map(percent), openingHeaps[m]]]), ["by chance", percent(6 / 22), percent(10 / 22), ""]]
          .map((row) => h("tr", {}, h("th", { scope: "row" }, row[0]), ...row.slice(1).map((v) => h("td", {}, String(v)))))));
      return `${steps ? `After ${steps} ${steps === 1 ? "step" : "steps"}` : "Before the first step"}, ${sentence(M, n, now, heaps, steps, sharesOf(near))} The loss is ${number(loss)}; it gets smaller with every further neighbour even if no point moves, so it does not say which n is better.`;
    };
  }

  function percent(v) { return `${Math.round(v * 100)} %`; }

  function sentence(M, n, now, heaps, steps, asked) {
    const share = (m, what) => `${percent(now[m][m])} share its ${what} in part ${m + 1}${steps ? `, where it was ${percent(opening[m][m])} on opening` : ""}`;
    const few = `of an input's ${SIX} nearest, ${share(0, "colour")}, and ${share(1, "form")}.`, lost = [0, 1].filter((m) => steps && now[m][m] < opening[m][m] - .02).map((m) => ["colours", "forms"][m]);
    if (n === 22) return `${few} With all 22 others as neighbours nobody is nearer than anybody else, so nothing is drawn anywhere.`;
    if (M === 1) return `${few} ${percent(asked[0][0])} of the ${n} nearest by the whole vector share the colour and ${percent(asked[0][1])} the form: two questions are asked as one, and ${Math.abs(asked[0][0] - asked[0][1]) > .2 ? `the ${asked[0][0] < asked[0][1] ? "colour" : "form"} drowns` : "neither is answered in full"}.`;
    if (n > 6) return `${few} Only 6 others have an input's colour and 10 its form, so of ${n} neighbours at least ${n - 6} have another colour${n > 10 ? ` and ${n - 10} another form` : ""}, and are drawn in as well${lost.length ? `: the ${lost.join(" and ")} have mixed` : ""}.`;
    if (!steps) return `${few} No label is given: steps can only make more of what is there.`;
    if (lost.length) return `${few} The ${lost.join(" and ")} have mixed: who is near decides, right or wrong.`;
    const split = heaps[1] > 2 ? ` An input asks for only ${n} of the 10 others of its form, so the two forms lie in ${heaps[1]} heaps.` : "";
    return `${few} No label was given: the steps have made more of what was there, and nothing new.${split}`;
  }

  function plotOf(m, api) {
    const svg = s("svg", { viewBox: `0 0 ${BOX} ${BOX}`, width: BOX, height: BOX, role: "group", "aria-label": `Part ${m + 1} of 24 inputs in a plane` });
    svg.append(s("circle", { class: "line", cx: BOX / 2, cy: BOX / 2, r: REACH }));
    const lines = svg.appendChild(s("g", { "aria-hidden": "true" }));
    const place = (i, part) => {
      turn += 1;
      api.set({ input: i, z: api.state.z.map((row, j) => j !== i ? row : row.map((v, k) => Math.floor(k / 2) === m ? kept(Math.max(-1.3, Math.min(1.3, part[k % 2]))) : v)) });
    };
    const partOf = (i) => api.state.z[i].slice(2 * m, 2 * m + 2);
    const points = Array.from({ length: N_INPUTS }, (_, i) => {
      const r = i < N_IMAGES ? 6.5 : 4.5, mark = formOf(i) ? s("path", { d: `M${-r}${-r}H${r}V${r}H${-r}Z` }) : s("circle", { r: r + .5 });
      put(mark, { fill: SHADES[colourOf(i)] });
      const point = s("g", { role: "button", "aria-roledescription": "view to drag" }, s("circle", { r: 11, fill: "transparent", style: "stroke:none" }), mark);
      draggable(svg, point, (x, y) => place(i, [(x - besideOf(i)[0] - BOX / 2) / REACH, (BOX / 2 - y + besideOf(i)[1]) / REACH]), (dx, dy) => { const [x, y] = partOf(i); place(i, [x + dx * .05, y - dy * .05]); });
      point.addEventListener("pointerdown", () => { put(point, { tabindex: 0 }); api.set({ input: i }, true); }, true);
      return { point, mark };
    });
    svg.append(...points.map(({ point }) => point));
    const ring = svg.appendChild(s("circle", { r: 11, fill: "none", stroke: "var(--lit)", "stroke-width": 3, "pointer-events": "none", "aria-hidden": "true" }));
    const name = svg.appendChild(s("text", { "font-weight": 700, "aria-hidden": "true", "pointer-events": "none" }));
    return { svg, show({ z, input }, near, draws, gradient) {
      const at = z.map((row, i) => placeOf(row.slice(2 * m, 2 * m + 2), i)), [x, y] = at[input];
      const down = gradient[input].slice(2 * m, 2 * m + 2).map((v) => -v * RATE * 6 * REACH), far = Math.min(70, Math.hypot(...down)), [ux, uy] = unit(down).map((v, k) => k ? -v : v);
      const tip = [x + ux * (14 + far), y + uy * (14 + far)];
      lines.replaceChildren(
        ...near.flatMap((row, k) => k !== input && row.includes(input) && !near[input].includes(k) ? [s("line", { x1: at[k][0], y1: at[k][1], x2: x, y2: y, stroke: "var(--soft)", "stroke-width": 1.5, "stroke-dasharray": "2 4" })] : []),
        ...near[input].map((j) => s("line", { x1: x, y1: y, x2: at[j][0], y2: at[j][1], stroke: "var(--ink)", "stroke-width": (.8 + 9 * draws[input][j]).toFixed(2), opacity: .55 })),
        ...(far > 2 ? [s("path", { d: `M${x} ${y}L${tip[0]} ${tip[1]}`, stroke: "var(--lit)", "stroke-width": 3 }), s("path", { d: `M${tip[0] + ux * 8} ${tip[1] + uy * 8}L${tip[0] - uy * 5} ${tip[1] + ux * 5}L${tip[0] + uy * 5} ${tip[1] - ux * 5}Z`, fill: "var(--lit)" })] : []));
      points.forEach(({ point, mark }, i) => {
        if (i === input) put(point, { tabindex: 0 }); else point.removeAttribute("tabindex");  // Tab comes to one mark a part; the slider chooses which
        put(point, { transform: `translate(${at[i].map((v) => v.toFixed(1)).join(" ")})`,
          "aria-label": `Part ${m + 1} of input ${nameOf(i)}, ${COLOURS[colourOf(i)]} and ${FORMS[formOf(i)]}, at ${z[i].slice(2 * m, 2 * m + 2).map((v) => number(v, 2)).join(", ")}; the arrow keys move it` });
        put(mark, { stroke: near[input].includes(i) ? "var(--ink)" : "var(--back)", "stroke-width": near[input].includes(i) ? 2 : 1 });
      });
      put(ring, { cx: x, cy: y });
      put(name, { x: x + 13, y: y - 13 });
      name.textContent = nameOf(input);
    } };
  }
  return spec;
};
