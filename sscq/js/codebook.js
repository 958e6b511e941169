// Codebook: a plane, its codewords, and what is lost when a point is replaced by one.
import { gaussOf, hardAssign, randomOf, softAssign, softQuantize, decode, distanceTable } from "./model.js";
import { EXPLORABLES, draggable, h, number, put, s } from "./component.js";

const N_POINTS = 400, LEFT = -1.55, TOP = 1.1, UNIT = 150, WIDE = 480, HIGH = 330;
const LEVELS = [2, 4, 8, 16], BESIDE = .46;  // of the way from a word to the next: just before the border
const xOf = (x) => (x - LEFT) * UNIT, yOf = (y) => (TOP - y) * UNIT;
const between = (v, low, high) => Math.max(low, Math.min(high, v));
const rounded = (v) => Math.round(v * 1000) / 1000;
const inView = ([x, y]) => [rounded(between(x, LEFT, LEFT + WIDE / UNIT)), rounded(between(y, TOP - HIGH / UNIT, TOP))];

function pointsOf() {  // along a bow, denser at one end: not round, not independent by axis
  const random = randomOf(7), gauss = gaussOf(random);
  return Array.from({ length: N_POINTS }, () => {
    const t = random() ** 1.5 * 2.6;
    return [Math.cos(t) * 1.2 + .13 * gauss(), Math.sin(t) - .4 + .13 * gauss()];
  });
}

// Words of M books: [x, y] for one book of two dimensions, [v] for two books of one
function startOf(points, K, M, seed) {
  const random = randomOf(seed), picked = [];
  return Array.from({ length: M }, (_, m) => Array.from({ length: K }, () => {
    let i;
    do i = Math.floor(random() * points.length); while (picked.includes(i));
    picked.push(i);
    return (M === 1 ? points[i] : [points[i][m]]).map(rounded);
  }));
}

function booksOf(words) { return { M: words.length, K: words[0].length, d: words[0][0].length, words: Float64Array.from(words.flat(2)) }; }

function lossOf(points, words) {
  const books = booksOf(words);
  return points.reduce((sum, p) => {
    const z = decode(hardAssign(p, books), books);
    return sum + (p[0] - z[0]) ** 2 + (p[1] - z[1]) ** 2;
  }, 0) / points.length;
}

function kMeansStep(points, words) {  // every word moves to the mean of the points in its cell; an empty cell's stays
  const books = booksOf(words), { d } = books;
  const sums = words.map((book) => book.map(() => [0, 0, 0]));
  for (const p of points) hardAssign(p, books).forEach((k, m) => {
    sums[m][k][d] += 1;
    for (let i = 0; i < d; i++) sums[m][k][i] += p[m * d + i];
  });
  return words.map((book, m) => book.map((word, k) => sums[m][k][d] ? word.map((_, i) => sums[m][k][i] / sums[m][k][d]) : word));
}

EXPLORABLES.codebook = async () => {
  const points = pointsOf();
  const best = [1, 2].map((M) => LEVELS.map((K) => {  // what k-means reaches: the best of four starts
    const losses = [1, 2, 3, 4].map((seed) => {
      let words = startOf(points, K, M, seed);
      for (let i = 0; i < 12; i++) words = kMeansStep(points, words);
      return lossOf(points, words);
    });
    return [M * Math.log2(K), Math.min(...losses)];
  }));
  const begun = (...which) => kMeansStep(points, startOf(points, ...which)).map((book) => book.map((word) => word.map(rounded)));  // apart, so that none hides another
  const firstWords = begun(8, 1, 4);
  const spec = {
    title: "Codebook",
    question: "A codebook replaces every point by the nearest of a few words. What does that lose, and how does a soft choice differ from a hard one?",
    initial: { f: [.62, .58], tau: -1.3, K: 8, M: 1, seed: 4, words: firstWords },
    accept(name, value) {
      const pair = (p, n) => Array.isArray(p) && p.length === n && p.every(Number.isFinite);
      if (name === "f") return pair(value, 2) ? inView(value) : undefined;
      if (name === "seed") return Number.isInteger(value) && value > 0 && value < 1e6 ? value : undefined;
      const fine = Array.isArray(value) && (value.length === 1 || value.length === 2) && value.every((book) => Array.isArray(book) && LEVELS.includes(book.length) && book.length === value[0].length
        && book.every((word) => pair(word, 3 - value.length) && word.every((v) => Math.abs(v) < 3)));
      return fine ? value : undefined;
    },
    controls: [
      { kind: "range", name: "tau", label: "Temperature τ", min: -3, max: 1, step: .05, say: (v) => number(10 ** v, 2) },
      { kind: "choice", name: "K", label: "Words of a book, K", options: LEVELS.map((K) => [K, String(K)]) },
      { kind: "choice", name: "M", label: "Books, M", options: [[1, "one, for both numbers of f"], [2, "two, one for each number of f"]] },
      { kind: "button", label: "One step of k-means", press: (api) => step(api, 1) },
      { kind: "button", label: "Other first words", press: (api) => api.set({ happened: "", seed: api.state.seed + 1, words: begun(api.state.K, api.state.M, api.state.seed + 1) }) },
    ],
    tries: [
      { label: "Put f beside a border", run: (api) => api.set({ f: towardsBorder(api.state), tau: -1.3, happened: "" }) },
      { label: "Cool until z is a word", run: (api) => {
        const f = towardsBorder(api.state), most = softAssign(f, booksOf(api.state.words), 10 ** -1.3).reduce((product, row) => product * Math.max(...row), 1);
        api.set({ f, tau: -3, happened: `f stands just beside a border, where z takes ${Math.round(most * 100)} % of ${api.state.M === 1 ? "the nearest word" : "the nearest words"} at τ = 0.05; only τ is smaller now.` });
      } },
      { label: "Run k-means to its end", run: (api) => { api.set({ f: [...spec.initial.f], tau: spec.initial.tau }); step(api, 40); } },
    ],
    terms: "A word, or codeword, is one of the points that may stand for others; a book, or codebook, is the list of them. f is the vector of one picture, here of two numbers; z is the soft choice, a mean of all words that weighs near ones more. Training uses z, because it moves with f and so has a gradient; it is never stored. A code stores the number of the nearest word alone. The 400 grey points were drawn by chance along a bow.",
    legend: [["round", "ink", "f"], ["round", "blue", "words; dashed: from f to the word that stands for it"], ["frame", "lit", "z, and its line from f"], ["", "lit", "what z takes of each word and cell"], ["round", "soft", "the points that the loss is measured on"]],
    picture,
  };

  function towardsBorder({ f, M, K, words }) {  // from the nearest word towards the next; half of the way is the border
    const table = distanceTable(f, booksOf(words));
    return words.flatMap((book, m) => {
      const [a, b] = Array.from({ length: K }, (_, k) => k).sort((i, j) => table[m * K + i] - table[m * K + j]);
      return book[a].map((v, i) => rounded(v + BESIDE * (book[b][i] - v)));
    });
  }

  function step(api, n) {
    let words = api.state.words, before = lossOf(points, words), taken = 0;
    const began = before;
    for (; taken < n; taken++) {
      const next = kMeansStep(points, words), after = lossOf(points, next);
      if (before - after < 1e-9) break;
      [words, before] = [next, after];
    }
    const happened = taken ? `${n === 1 ? "Every word moved to the middle of its cell" : `k-means took ${taken} steps and stopped: no word moves any more`}; the loss fell from ${number(began)} to ${number(before)}.`
      : "k-means is at its end: every word is already in the middle of its cell.";
    api.set({ happened, words: words.map((book) => book.map((word) => word.map((v) => Math.round(v * 1e5) / 1e5))) });
  }

  function picture(box, api) {
    const svg = s("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, width: WIDE, height: HIGH, role: "group", "aria-label": "The plane with its points, cells and words" });
    const cells = svg.appendChild(s("g", { "aria-hidden": "true" }));
    for (const [x, y] of points) svg.append(s("circle", { cx: xOf(x), cy: yOf(y), r: 1.7, fill: "var(--soft)", opacity: .65, "aria-hidden": "true" }));
    const toZ = svg.appendChild(s("line", { stroke: "var(--lit)", "stroke-width": 4 }));
    const toWord = svg.appendChild(s("line", { stroke: "var(--blue)", "stroke-width": 2, "stroke-dasharray": "4 3" }));
    const wordsAt = svg.appendChild(s("g"));
    const z = svg.appendChild(s("g", { "pointer-events": "none" }, ...[["var(--back)", 6], ["var(--lit)", 3]].map(([stroke, width]) => s("path", { d: "M0-16 16 0 0 16-16 0Z", fill: "none", stroke, "stroke-width": width })),
      s("text", { x: 11, y: -12, style: "font-weight:700;paint-order:stroke;stroke:var(--back);stroke-width:3px" }, "z")));  // a frame, so that it does not hide a word
    const f = svg.appendChild(s("g", { role: "button", "aria-roledescription": "point to drag" }, s("circle", { r: 10, fill: "var(--ink)", stroke: "var(--back)", "stroke-width": 2 }), s("text", { "text-anchor": "middle", y: 4, style: "fill:var(--back);font-weight:700" }, "f")));
    const back = (px, py) => [px / UNIT + LEFT, TOP - py / UNIT];
    draggable(svg, f, (px, py) => api.set({ happened: "", f: inView(back(px, py)) }), (dx, dy) => api.set({ happened: "", f: inView([api.state.f[0] + dx * .03, api.state.f[1] - dy * .03]) }));
    const lossAt = (M, K) => number(best[M - 1][LEVELS.indexOf(K)][1], 2);
    const bought = `At 4 bits one book of 16 words loses ${lossAt(1, 16)}, and two books of 4 lose ${lossAt(2, 4)}. Splitting saves words to train and distances to compute: 16 bits are four books of 16, 64 words in all, where one book would need 65,536.`;
    const weights = weightsOf(), curve = curveOf(), facts = h("table", { class: "numbers" });
    box.append(h("div", { class: "row" }, h("div", {}, h("h3", {}, "Drag f, and drag the words"), svg),
      h("div", {}, h("h3", {}, "How much of each word z takes; bold: stored"), weights.svg, h("h3", { style: "margin-top:10px" }, "What the bits buy"), curve.svg, h("p", { class: "note", style: "width:400px;max-width:100%" }, bought)), h("div", {}, facts)));
    let handles = [], borders = "", handlesFor = "";

    function drawHandles({ M, K, words }) {
      if (handlesFor !== `${M} ${K}`) {
        handlesFor = `${M} ${K}`;
        handles = words.map((book, m) => book.map((_, k) => {
          const handle = s("g", { role: "button", "aria-roledescription": "word to drag" },
            s("circle", { r: M === 1 ? 9 : 8, fill: "var(--blue)", stroke: "var(--back)", "stroke-width": 2 }), s("text", { "text-anchor": "middle", y: 3.5, style: "fill:var(--back);font-size:10px;font-weight:600" }, String(k)));
          const place = (p) => {
            const next = structuredClone(api.state.words);
            next[m][k] = M === 1 ? inView(p) : [inView(p)[m]];
            api.set({ happened: "", words: next });
          };
          const here = () => M === 1 ? api.state.words[0][k] : [0, 0].map((_, i) => i === m ? api.state.words[m][k][0] : 0);
          draggable(svg, handle, (px, py) => place(back(px, py)), (dx, dy) => place([here()[0] + dx * .03, here()[1] - dy * .03]));
          return handle;
        }));
        wordsAt.replaceChildren(...handles.flat());
      }
      words.forEach((book, m) => book.forEach((word, k) => {
        const [px, py] = M === 1 ? [xOf(word[0]), yOf(word[1])] : m === 0 ? [xOf(word[0]), HIGH - 11] : [11, yOf(word[0])];
        put(handles[m][k], { transform: `translate(${px} ${py})`, "aria-label": `Word ${k}${M === 2 ? ` of book ${m + 1}` : ""} at ${word.map((v) => number(v)).join(", ")}; the arrow keys move it` });
      }));
    }

    function drawCells({ words }, shares) {
      const key = JSON.stringify(words);
      if (key !== borders) {
        borders = key;
        cells.replaceChildren(...(words.length === 1 ? words[0].map((_, k) => s("path", { d: cellOf(words[0], k), stroke: "var(--line)", fill: "var(--lit)" }))
          : bandsOf(words[0]).flatMap(([a, b]) => bandsOf(words[1]).map(([low, high]) => s("rect", { x: xOf(a), y: yOf(high), width: Math.max(0, (b - a) * UNIT), height: Math.max(0, (high - low) * UNIT), stroke: "var(--line)", fill: "var(--lit)" })))));
      }
      const all = words.length === 1 ? shares[0] : shares[0].flatMap((a) => shares[1].map((b) => a * b));
      all.forEach((share, i) => put(cells.children[i], { "fill-opacity": (.6 * Math.sqrt(share)).toFixed(3) }));
    }

    return (state) => {
      if (state.words.length !== state.M || state.words[0].length !== state.K) { state.words = begun(state.K, state.M, state.seed); state.happened = ""; }
      const { M, K, words } = state, books = booksOf(words), tau = 10 ** state.tau;
      const shares = softAssign(state.f, books, tau), soft = softQuantize(state.f, books, tau), code = hardAssign(state.f, books), word = decode(code, books);
      const apart = (a, b) => (a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2, loss = lossOf(points, words), bits = M * Math.log2(K);
      drawCells(state, shares);
      drawHandles(state);
      const [fx, fy, zx, zy] = [xOf(state.f[0]), yOf(state.f[1]), xOf(soft[0]), yOf(soft[1])];
      put(f, { transform: `translate(${fx} ${fy})`, "aria-label": `f at ${number(state.f[0])}, ${number(state.f[1])}; the arrow keys move it` });
      put(z, { transform: `translate(${zx} ${zy})` });
      put(toZ, { x1: fx, y1: fy, x2: zx, y2: zy });
      put(toWord, { x1: fx, y1: fy, x2: xOf(word[0]), y2: yOf(word[1]) });
      weights.show(shares, code);
      curve.show(bits, loss);
      facts.replaceChildren(h("caption", { class: "hidden" }, "Numbers of this state"), h("tbody", {}, ...[
        ["books × words", `${M} × ${K}`], ["dimensions a book, d", 2 / M], ["bits a point, M log₂ K", bits], ["mean squared loss of 400 points", number(loss)], ["squared loss of this f", number(apart(state.f, word), 2)],
        ["f to z (not stored), squared", number(apart(state.f, soft), 2)], ["z to the word, squared", number(rounded(apart(soft, word)), 2)]].map(([what, v]) => h("tr", {}, h("th", { scope: "row" }, what), h("td", {}, String(v))))));
      const most = shares.reduce((product, row) => product * Math.max(...row), 1), where = code.length === 1 ? `word ${code[0]}` : `words ${code.join(" and ")}`;
      const table = distanceTable(state.f, books), gaps = code.map((k, m) => Math.min(...words[m].flatMap((_, j) => j === k ? [] : [table[m * K + j] - table[m * K + k]])));
      const gap = Math.min(...gaps), cold = `the squared distance to the next word is larger by ${number(gap, 2)}, ${number(gap / tau, 2)} times τ`;
      const mixture = most > .98 ? `${cold}, so z takes ${most > .9995 ? "all" : "nearly all"} of it from there, and soft and hard choice are nearly the same` : most < 1.5 / K ** M ? `z takes about equally much of all words, so it says little of f`
        : `${cold}, so z takes ${Math.round(most * 100)} % from there and the rest from others: it lies between words and moves smoothly with f`;
      return `${state.happened ? `${state.happened} ` : ""}f is in the cell of ${where}: with ${bits} bits that is all that is stored of it. At τ = ${number(tau, 2)} ${mixture}.`;
    };
  }

  function bandsOf(book) {  // of each word of one dimension: from where to where it is the nearest
    const order = book.map((w, k) => [w[0], k]).sort((a, b) => a[0] - b[0]), found = [];
    order.forEach(([v, k], i) => { found[k] = [i ? (order[i - 1][0] + v) / 2 : -9, i + 1 < order.length ? (v + order[i + 1][0]) / 2 : 9]; });
    return found;
  }

  function cellOf(book, k) {  // the window, cut by the border to every other word
    let corners = [[0, 0], [WIDE, 0], [WIDE, HIGH], [0, HIGH]];
    const [ax, ay] = [xOf(book[k][0]), yOf(book[k][1])];
    book.forEach((other, j) => {
      if (j === k) return;
      const [bx, by] = [xOf(other[0]), yOf(other[1])], mx = (ax + bx) / 2, my = (ay + by) / 2;
      const side = ([x, y]) => (x - mx) * (bx - ax) + (y - my) * (by - ay), kept = [];
      corners.forEach((p, i) => {
        const q = corners[(i + 1) % corners.length], sp = side(p), sq = side(q);
        if (sp <= 0) kept.push(p);
        if (sp * sq < 0) kept.push([p[0] + (q[0] - p[0]) * sp / (sp - sq), p[1] + (q[1] - p[1]) * sp / (sp - sq)]);
      });
      corners = kept;
    });
    return corners.length ? `M${corners.map((p) => p.map((v) => v.toFixed(1)).join(" ")).join("L")}Z` : "";
  }

  function weightsOf() {
    const svg = s("svg", { viewBox: "0 -12 300 104", width: 300, height: 104, role: "img" });
    return { svg, show(shares, code) {
      const K = shares[0].length, M = shares.length, wide = 300 / K, parts = [];
      shares.forEach((row, m) => row.forEach((share, k) => {
        const high = (M === 1 ? 70 : 30) * share, floor = M === 1 ? 76 : 32 + 44 * m;
        parts.push(s("rect", { x: k * wide + 1, y: floor - high, width: wide - 2, height: high, fill: "var(--lit)" }),
          s("text", { class: code[m] === k ? "" : "soft", x: (k + .5) * wide, y: floor + 12, "text-anchor": "middle", "font-weight": code[m] === k ? 700 : 400 }, String(k)));
        if (M === 1 && K <= 8 && share >= .005) parts.push(s("text", { x: (k + .5) * wide, y: floor - high - 3, "text-anchor": "middle" }, `${Math.round(share * 100)} %`));
      }));
      svg.replaceChildren(...parts);
      put(svg, { "aria-label": `Weights of the words: ${shares.map((row) => row.map((v) => `${Math.round(v * 100)} %`).join(", ")).join("; ")}` });
    } };
  }

  function curveOf() {
    const svg = s("svg", { viewBox: "0 0 300 150", width: 300, height: 150, role: "img" }), most = best[0][0][1] * 1.5;
    const at = (bits, loss) => [34 + bits * 31, 124 - 112 * between(loss / most, 0, 1.02)], tick = 10 ** Math.floor(Math.log10(most)) * (most / 10 ** Math.floor(Math.log10(most)) < 3 ? .5 : 1);
    svg.append(s("path", { class: "axis", d: "M34 8V124H295" }), s("text", { class: "soft", x: 295, y: 147, "text-anchor": "end" }, "bits a point"), s("text", { class: "soft", x: 40, y: 14 }, "mean squared loss"));
    for (let v = 0; v <= most; v += tick) svg.append(s("text", { class: "soft", x: 30, y: at(0, v)[1] + 4, "text-anchor": "end" }, number(v, 2)), s("path", { class: "axis", d: `M31 ${at(0, v)[1]}h3` }));
    for (let b = 1; b <= 8; b++) svg.append(s("text", { class: "soft", x: 34 + b * 31, y: 137, "text-anchor": "middle" }, String(b)));
    best.forEach((row, m) => {
      svg.append(s("path", { d: `M${row.map((p) => at(...p).join(" ")).join("L")}`, fill: "none", stroke: m ? "var(--good)" : "var(--soft)", "stroke-width": 2 }));
      const [x, y] = at(...row[m ? 2 : 0]);
      svg.append(s("text", m ? { x: 292, y: y - 34, "text-anchor": "end" } : { x: x + 10, y: y + 2 }, m ? "2 books, k-means" : "1 book, k-means"));
    });
    const dot = svg.appendChild(s("circle", { r: 6, fill: "var(--ink)", stroke: "var(--back)", "stroke-width": 2 }));
    const here = svg.appendChild(s("text", { "font-weight": 600, style: "paint-order:stroke;stroke:var(--back);stroke-width:4px" }, "you are here"));
    return { svg, show(bits, loss) {
      const [cx, cy] = at(bits, loss);
      put(dot, { cx, cy });
      put(here, { x: bits > 5 ? cx - 4 : cx + 10, y: cy - 8, "text-anchor": bits > 5 ? "end" : "start" });
      put(svg, { "aria-label": `Loss against bits: these words lose ${number(loss)} with ${bits} bits; k-means reaches ${best.map((row) => row.map(([b, l]) => `${number(l)} with ${b}`).join(", ")).join("; with two books ")}` });
    } };
  }
  return spec;
};
