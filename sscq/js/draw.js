// Draw a digit: what happens to a picture on its way to its answers.
import { adc, countsOf, countsOfPicture, distanceTable, hardAssign, nearest, pixelsOf, squared } from "./model.js";
import { distancesOf, EXPLORABLES, h, number, paint, put, s, TABLE_COLOURS } from "./component.js";
import { aDigit, digitsOf } from "./digits.js";

const THREE = [[[.28, .16], [.42, .08], [.6, .09], [.72, .2], [.7, .34], [.58, .44], [.45, .48], [.6, .5], [.74, .6], [.75, .76], [.63, .9], [.45, .93], [.28, .84]]];
const FOUR = [[[.36, .08], [.31, .3], [.28, .5], [.5, .51], [.72, .48]], [[.7, .08], [.69, .4], [.66, .92]]];
const CLOSING = [[.36, .08], [.45, .07], [.54, .06], [.62, .07], [.7, .08]];  // makes a 9 of it
const SCRIBBLE = [[[.1, .1], [.9, .85], [.15, .8], [.85, .12], [.5, .95], [.5, .05], [.1, .5], [.95, .5], [.2, .2], [.8, .9]]];
const EXAMPLES = [[THREE, FOUR], CLOSING.map((_, i) => [...FOUR, CLOSING.slice(0, i + 1)]), [SCRIBBLE]].flat().map((strokes) => JSON.stringify(strokes));
const SYMBOLS = "0123456789abcdefg";  // counts of 0 to 16, a letter each
const WORDS = ["none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"];

function counted(text) { return Float32Array.from(text, (c) => SYMBOLS.indexOf(c)); }

EXPLORABLES.draw = async (packed) => {
  const digits = await digitsOf(packed), { books, codes, embed } = digits, { M, K, d } = books;
  let turn = 0;
  const vectors = [];  // f of the collection, computed while nobody is drawing
  const failures = digits.queries.flatMap((q, i) => digits.labels[q.first] !== q.label ? [i] : []);
  const spec = {
    title: "Draw a digit",
    question: "A search stores four small numbers for a picture. Which pictures does it find for yours, and why?",
    initial: { strokes: THREE, counts: "", query: -1, answer: 0, by: "code" },
    accept(name, value) {
      if (name === "counts") return typeof value === "string" && /^([0-9a-g]{64})?$/.test(value) ? value : undefined;
      if (name === "query") return Number.isInteger(value) && value >= -1 && value < digits.queries.length ? value : undefined;
      if (name === "answer") return Number.isInteger(value) && value >= 0 && value < 10 ? value : undefined;
      const fine = Array.isArray(value) && value.length <= 60 && value.every((stroke) => Array.isArray(stroke) && stroke.length && stroke.length <= 600 &&
        stroke.every((p) => Array.isArray(p) && p.length === 2 && p.every((v) => Number.isFinite(v) && v >= 0 && v <= 1)));
      return fine ? value : undefined;
    },
    controls: [
      { kind: "button", label: "Clear the paper", press: (api) => api.set({ strokes: [], counts: "", query: -1, answer: 0 }) },
      { kind: "button", label: "Undo a stroke", press: (api) => api.set({ strokes: api.state.counts ? [] : api.state.strokes.slice(0, -1), counts: "", query: -1, answer: 0 }) },
      { kind: "file", label: "Take a picture file", take: takeFile },
      { kind: "choice", name: "by", label: "Answers by", options: [["code", "the code (4 numbers)"], ["exact", `the vector (${M * d} numbers)`]] },
    ],
    tries: [
      { label: "Close a 4 into a 9", run: close },
      { label: "A mistake of the model", run: (api) => {
        const i = failures[(failures.indexOf(api.state.query) + 1) % failures.length];
        api.set({ ...spec.initial, strokes: [], query: i, counts: textOf(digits.queries[i].counts) });
      } },
      { label: "A scribble", set: { strokes: SCRIBBLE } },
    ],
    terms: `A network makes ${M * d} numbers of a picture, the vector f, in ${M} parts. For each part there is a book of ${K} words, vectors of ${d} numbers that training has set; what is stored of a picture is the number of the nearest word in each book: ${M} numbers, its code. Your drawing keeps its f: a search adds up the squared distances from f's parts to the words that a picture's code names.`,
    legend: [["frame", "lit", "chosen: the nearest word of each part, and the answer that is explained"], ["dashed", "bad", "an answer of another digit than a test digit's own"]],
    note: "As in the collection, ink is dark on light paper, and a drawing is scaled to full height and centred before it becomes 8×8 counts of ink. "
      + "Labels were never seen in training; they stand under the answers so that you can judge them. "
      + "The search sees no pixels. They only serve to check its answers: how far the drawing is, in pixels, from the most similar of the ten, and for how many test digits that is farther. "
      + "The first stroke on an example begins a drawing of yours. Your drawing stays in this page.",
    picture,
  };

  function close(api) {  // the 4 stands a while, then the stroke is drawn that is missing, unless somebody did something else
    const mine = ++turn;
    let drawn = FOUR;
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) { api.set({ ...spec.initial, strokes: [...FOUR, CLOSING] }); return; }
    api.set({ ...spec.initial, strokes: drawn });
    const next = (n) => {
      if (mine !== turn || api.state.counts || JSON.stringify(api.state.strokes) !== JSON.stringify(drawn)) return;
      drawn = [...FOUR, CLOSING.slice(0, n)];
      api.set({ strokes: drawn });
      if (n < CLOSING.length) setTimeout(next, 150, n + 1);
    };
    setTimeout(next, 1500, 2);
  }

  function textOf(counts) { return Array.from(counts, (v) => SYMBOLS[v]).join(""); }

  async function takeFile(file, api) {
    const refuse = (why) => api.say(`${why} The drawing stays as it was.`);
    if (file.size > 30e6) return refuse("That file is larger than 30 MB.");
    let bitmap;
    try { bitmap = await createImageBitmap(file); } catch { return refuse("That file is no picture this browser can read."); }
    const scale = Math.min(1, 256 / Math.max(bitmap.width, bitmap.height)), width = Math.max(1, Math.round(bitmap.width * scale)), height = Math.max(1, Math.round(bitmap.height * scale));
    const canvas = h("canvas", { width, height }), context = canvas.getContext("2d");
    context.fillStyle = "white";
    context.fillRect(0, 0, width, height);
    context.drawImage(bitmap, 0, 0, width, height);
    const { data } = context.getImageData(0, 0, width, height);
    const grey = Float32Array.from({ length: width * height }, (_, i) => .299 * data[4 * i] + .587 * data[4 * i + 1] + .114 * data[4 * i + 2]);
    const counts = countsOfPicture(grey, width, height);
    if (!counts.some((v) => v)) return refuse("That picture has one shade only: there is no ink to see.");
    return api.set({ ...structuredClone(spec.initial), strokes: [], counts: textOf(counts) });
  }

  function picture(box, api) {
    const pen = h("canvas", { class: "pen", width: 400, height: 400, tabindex: 0, role: "img" });
    const small = h("canvas", { class: "digit", style: "width:112px;height:112px", role: "img" });
    const bars = barsOf(), table = distancesOf(M, K);
    const list = h("ul", { class: "answers" }), scale = h("p", { class: "note" }), other = h("p", { class: "note" }), paper = h("h3");
    const why = h("div", { class: "card" });
    const slots = Array.from({ length: 10 }, (_, i) => {
      const canvas = h("canvas", { class: "digit", "aria-hidden": "true" }), text = h("span");
      const button = h("button", { type: "button", onclick: () => api.set({ answer: i }, true) }, canvas, text);
      list.append(h("li", {}, button));
      return { canvas, text, button };
    });
    const strip = h("ul", { class: "answers" });
    for (const i of failures) {
      const q = digits.queries[i], canvas = paint(h("canvas", { class: "digit", "aria-hidden": "true" }), q.counts);
      strip.append(h("li", {}, h("button", { type: "button", onclick: () => api.set({ ...structuredClone(spec.initial), strokes: [], query: i, counts: textOf(q.counts) }) },
        canvas, `${aDigit(q.label)}, finds ${aDigit(digits.labels[q.first])}`)));
    }
    box.append(
      h("div", { class: "row" },
        h("div", {}, paper, pen),
        h("div", {}, h("h3", {}, "2 As the network sees it"), small, h("p", { class: "note" }, "8×8 counts of ink")),
        h("div", {}, h("h3", {}, `3 The vector f, in ${M} parts`), bars.svg),
        h("div", {}, h("h3", {}, `4 Squared distance of each part to its ${K} words`), table.svg, h("p", { class: "note", style: "width:340px;max-width:100%" }, TABLE_COLOURS))),
      h("div", { class: "row" },
        h("div", { style: "width:370px" }, h("h3", {}, "5 The ten nearest of 1,497"), list, scale, other),
        h("div", {}, h("h3", {}, "Why this answer, and what the nearest border would change"), why)),
      h("details", {}, h("summary", {}, `All ${failures.length} of ${digits.queries.length} test digits whose first answer is another digit`), strip));
    penOf(pen, api);
    later(() => api.draw());
    let known = "", f;
    return (state) => {
      const counts = state.counts ? counted(state.counts) : countsOf(state.strokes), text = textOf(counts);
      paintPen(pen, state, counts);
      paint(small, counts);
      put(small, { "aria-label": `The 8 by 8 picture, ${counts.filter((v) => v).length} of its 64 squares have ink` });
      if (text !== known) { f = embed(pixelsOf(counts)); known = text; }
      const blank = !counts.some((v) => v);
      paper.textContent = state.query >= 0 ? "1 A test digit: draw over it" : state.counts ? "1 Your picture: draw over it" : "1 Your drawing: draw here";
      const distances = distanceTable(f, books), code = hardAssign(f, books);
      bars.show(f, blank);
      table.show(distances, code, { ringed: !blank, faint: blank, label: `the nearest words are ${code.join(", ")}` });
      list.hidden = why.hidden = blank;
      if (blank) {
        other.textContent = scale.textContent = "";
        return "The paper is blank, so there is nothing to search for: draw with the pointer, or focus the paper and use the arrow keys, Space puts the pen down.";
      }
      const sums = adc(distances, codes, K, M), byCode = nearest(sums, 10);
      const far = vectors.length === codes.length / M ? Float64Array.from(vectors, (v) => squared(v, f)) : null;
      const byVector = far ? nearest(far, 10) : null;
      const shown = state.by === "exact" && byVector ? byVector : byCode;
      slots.forEach(({ canvas, text: under, button }, i) => {
        const id = shown[i], value = state.by === "exact" && far ? far[id] : sums[id];
        paint(canvas, digits.pictures(id));
        under.textContent = `${digits.labels[id]} · ${value.toFixed(2)}`;
        const wrong = state.query >= 0 && digits.labels[id] !== digits.queries[state.query].label;
        button.className = wrong ? "wrong" : "";
        put(button, { "aria-pressed": i === state.answer, "aria-label": `Answer ${i + 1}${wrong ? ", another digit" : ""}, label and distance: ${under.textContent}` });
      });
      const same = byVector ? byVector.filter((id) => byCode.includes(id)).length : 0;
      other.textContent = byVector ? `By the code's ${M} numbers and by all ${M * d} numbers of f, ${WORDS[same]} of the ten answers are the same.`
        : `Which answers f gives is known once this page has computed f of all ${codes.length / M} pictures; so far it has ${vectors.length}.`;
      const length = squared(f, new Float64Array(M * d));
      scale.textContent = state.by === "exact" && far ? "Squared distances of f to the f of each picture; the code's sums are on another scale."
        : `Sums grow with the squared length of f, here ${length.toFixed(1)}, so a small one is no sign of a good answer: compare them among these ten only.`;
      explain(why, shown[state.answer], distances, code, f, byCode);
      const differs = Math.sqrt(Math.min(...byCode.map((id) => squared(digits.pictures(id), counts))));
      return sentence(code, shown, differs, state, sums.filter((v) => v === sums[byCode[0]]).length);
    };
  }

  function sentence(code, ids, differs, state, tied) {
    const [most, n] = countsBy(ids)[0];
    const query = digits.queries[state.query], by = query && digits.labels[query.exact], missed = query && digits.labels[query.first] !== query.label;
    const truth = !query ? "" : `This is a test digit, ${aDigit(query.label)}${missed ? `, and its first answer by the code is ${aDigit(digits.labels[query.first])}: one of ${failures.length} such mistakes in ${digits.queries.length}, and ${by === query.label ? `the code's, because f finds ${aDigit(by)}` : `the network's, because f finds ${aDigit(by)} as well`}` : ""}. `;
    const more = digits.unlike.filter((v) => v > differs).length / digits.unlike.length, percent = `${Math.max(1, Math.round(more * 100))} %`;
    const less = `${percent} of test digits look less like the most similar of their ten answers`;
    const sure = more === 0 ? "but no test digit looks so little like the most similar of its ten answers: this is nothing that the model knows, and it gives a code to anything"
      : missed ? more < .05 ? `and only ${less}, so it is an unusual digit` : `and ${less}, so by pixels nothing looks wrong`
      : more < .05 ? `but only ${less}, so the drawing is unusual, and whether the answers are right cannot be told from that`
      : n < 6 ? "but the answers disagree, so it is not sure" : `and ${less}, so it looks like a digit it knows`;
    const ties = tied > 1 && state.by === "code" ? ` ${tied} pictures share the first answer's code, so their sums are equal${tied > 10 ? " and which ten of them you see means nothing" : " and their order means nothing"}.` : "";
    return `${truth}The nearest words of f are ${code.slice(0, -1).join(", ")} and ${code[M - 1]}: that is the code it would be stored as. ${n === 10 ? "All ten answers are" : n === 1 ? "One of the ten answers is" : `${WORDS[n][0].toUpperCase() + WORDS[n].slice(1)} of the ten answers are`} ${aDigit(most)}, ${sure}.${ties}`;
  }

  function explain(card, id, distances, code, f, byCode) {
    const theirs = Array.from(codes.subarray(id * M, id * M + M));
    const rows = theirs.map((k, m) => {
      const second = Array.from({ length: K }, (_, j) => j).filter((j) => j !== code[m]).reduce((a, b) => distances[m * K + a] <= distances[m * K + b] ? a : b);
      return [m + 1, code[m], k, distances[m * K + k], second, distances[m * K + second] - distances[m * K + code[m]]];
    });
    const total = rows.reduce((sum, r) => sum + r[3], 0), close = rows.reduce((a, b) => a[5] <= b[5] ? a : b), moved = across(f, close);
    const found = nearest(adc(distanceTable(moved, books), codes, K, M), 10), stay = found.filter((i) => byCode.includes(i)).length, [most, n] = countsBy(found)[0];
    card.replaceChildren(h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Why this answer" }, h("table", { class: "numbers" },
      h("thead", {}, h("tr", {}, ...["part", "answer's word", "squared distance of f", "nearest word of f", "next word", "farther by"].map((t) => h("th", { scope: "col" }, t)))),
      h("tbody", {}, ...rows.map((r) => h("tr", {}, h("th", { scope: "row" }, String(r[0])), ...[r[2], r[3].toFixed(3), r[1], r[4], r[5].toFixed(3)].map((v) => h("td", {}, String(v)))))))),
      h("p", { class: "note" }, `The distances to the answer's four words add up to ${total.toFixed(3)}. Part ${close[0]} is nearest to a border: moved just across it, f would be stored with word ${close[4]} instead of ${close[1]}, `
        + `${stay === 10 ? "and the ten answers by the code stay the same" : `pictures whose codes differ in these two words alone would change places, ${stay ? `${WORDS[stay]} of the ten answers by the code would stay` : "no answer by the code would stay"}, and ${n === 10 ? "all ten" : WORDS[n]} would be ${aDigit(most)}`}.`));
  }

  function countsBy(ids) { return [...ids.reduce((all, i) => all.set(digits.labels[i], (all.get(digits.labels[i]) ?? 0) + 1), new Map())].sort((a, b) => b[1] - a[1]); }

  function across(f, [part, near, , , next, farther]) {  // f with that part moved straight over the border between two words, by a thousandth of the way
    const m = part - 1, word = (k) => books.words.subarray((m * K + k) * d, (m * K + k + 1) * d), way = word(next).map((v, i) => v - word(near)[i]);
    const share = (farther / 2 / squared(word(next), word(near))) * 1.001 + 1e-6;
    return Float64Array.from(f, (v, i) => Math.floor(i / d) === m ? v + share * way[i - m * d] : v);
  }

  function barsOf() {
    const svg = s("svg", { viewBox: "0 0 260 132", width: 260, height: 132, role: "img", "aria-label": "f" }), rects = [];
    for (let m = 0; m < M; m++) {
      svg.append(s("line", { class: "axis", x1: 18, x2: 258, y1: 17 + 33 * m, y2: 17 + 33 * m }), s("text", { class: "soft", x: 0, y: 21 + 33 * m }, String(m + 1)));
      for (let i = 0; i < d; i++) rects.push(svg.appendChild(s("rect", { x: 19 + i * 240 / d, width: 240 / d - 2, fill: "var(--blue)" })));
    }
    return { svg, show(f, blank) {
      const most = Math.max(...f.map(Math.abs), 1e-9);
      f.forEach((v, i) => put(rects[i], { y: 17 + 33 * Math.floor(i / d) - Math.max(0, v) / most * 15, height: Math.abs(v) / most * 15, opacity: blank ? .2 : 1 }));
      put(svg, { "aria-label": `The vector f: ${M} parts of ${d} numbers, the largest ${number(most)}` });
    } };
  }

  function paintPen(pen, { strokes, counts, cursor }, now) {
    const c = pen.getContext("2d");
    c.fillStyle = "#fff";
    c.fillRect(0, 0, 400, 400);
    if (counts) {
      for (let i = 0; i < 64; i++) { c.fillStyle = `rgb(${[0, 0, 0].map(() => 255 - now[i] * 15)})`; c.fillRect(i % 8 * 50, Math.floor(i / 8) * 50, 50, 50); }
    } else {
      Object.assign(c, { lineWidth: 30, lineCap: "round", lineJoin: "round", strokeStyle: "#000" });
      for (const stroke of strokes) {
        c.beginPath();
        stroke.forEach(([x, y]) => c.lineTo(x * 400, y * 400));
        if (stroke.length === 1) c.lineTo(stroke[0][0] * 400 + .1, stroke[0][1] * 400);
        c.stroke();
      }
    }
    if (cursor) { c.beginPath(); c.arc(cursor[0] * 400, cursor[1] * 400, 18, 0, 7); Object.assign(c, { strokeStyle: cursor[2] ? "#b54700" : "#00588a", lineWidth: 5 }); c.stroke(); }
    put(pen, { "aria-label": `Paper with ${counts ? "a picture" : `${strokes.length} strokes`}. Draw with the pointer, or move the pen with the arrow keys; Space puts it down or lifts it.` });
  }

  function penOf(pen, api) {
    const near = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1]) < .012;
    const begin = (p) => api.set({ strokes: api.state.counts || EXAMPLES.includes(JSON.stringify(api.state.strokes)) ? [[p]] : [...api.state.strokes, [p]], counts: "", query: -1, answer: 0 });
    const go = (p) => {
      const strokes = api.state.strokes, last = strokes.at(-1);
      if (!last) return begin(p);
      if (!near(last.at(-1), p) && last.length < 600) { last.push(p); api.draw(); }
      return undefined;
    };
    const at = (event) => {
      const r = pen.getBoundingClientRect(), within = (v) => Math.round(Math.max(0, Math.min(1, v)) * 1000) / 1000;
      return [within((event.clientX - r.left) / r.width), within((event.clientY - r.top) / r.height)];
    };
    pen.addEventListener("pointerdown", (event) => { pen.setPointerCapture(event.pointerId); delete api.state.cursor; begin(at(event)); });
    pen.addEventListener("pointermove", (event) => {
      if (!pen.hasPointerCapture(event.pointerId)) return;
      const all = event.getCoalescedEvents?.() ?? [];  // none of an event that a program made
      for (const one of all.length ? all : [event]) go(at(one));
    });
    pen.addEventListener("keydown", (event) => {
      const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (!way && event.key !== " ") return;
      event.preventDefault();
      let [x, y, down] = api.state.cursor ?? [.5, .5, false];
      if (way) [x, y] = [x + way[0] * .05, y + way[1] * .05].map((v) => Math.round(Math.max(0, Math.min(1, v)) * 1000) / 1000); else down = !down;
      api.state.cursor = [x, y, down];
      if (down && !way) begin([x, y]); else if (down) go([x, y]);
      api.draw();
    });
    pen.addEventListener("blur", () => { delete api.state.cursor; api.draw(); });
  }

  function later(done) {  // a few pictures at a time, so that the pen never waits
    const n = codes.length / M;
    const some = () => {
      const until = performance.now() + 8;
      const before = vectors.length;
      while (vectors.length < n && performance.now() < until) vectors.push(embed(pixelsOf(digits.pictures(vectors.length))));
      if (vectors.length === n || Math.floor(before / 250) < Math.floor(vectors.length / 250)) done();
      if (vectors.length < n) setTimeout(some, 4);
    };
    setTimeout(some, 50);
  }
  return spec;
};
