// Collapse: recorded trainings, and how many words each of them keeps alive.
import { bytesOf, unzipped } from "./model.js";
import { EXPLORABLES, h, number, paint, player, put, s } from "./component.js";

const ALIVE = 3, WANTED = 12, N_BOOKS = 4, N_WORDS = 16;  // three of 255 are 15 of 1,497 pictures, 1 %

EXPLORABLES.collapse = async ({ runs, about, usage, means }) => {
  const used = await unzipped(bytesOf(usage)), shades = await unzipped(bytesOf(means)), frames = about.epochs + 1;
  const weights = [...new Set(runs.map((r) => r.weight))].sort((a, b) => a - b), seeds = [...new Set(runs.map((r) => r.seed))], taus = [...new Set(runs.map((r) => r.tau))].sort((a, b) => b - a);
  const runOf = ({ weight, tau, contrast }, seed) => runs.findIndex((r) => r.weight === weights[weight] && r.contrast === contrast && r.seed === seed && (r.tau === tau || weights[weight] === 0));
  const wordsOf = (run, epoch, book) => used.subarray(((run * frames + epoch) * N_BOOKS + book) * N_WORDS, ((run * frames + epoch) * N_BOOKS + book + 1) * N_WORDS);
  const living = (words) => words.reduce((n, v) => n + (v >= ALIVE), 0);
  const meanOf = (x) => x.reduce((a, b) => a + b, 0) / x.length;
  const runsOf = (state) => seeds.map((seed) => runOf(state, seed)).filter((run) => run >= 0);  // a recording that was broken off has fewer
  const everyBook = (state, epoch) => runsOf(state).flatMap((run) => [0, 1, 2, 3].map((book) => living(wordsOf(run, epoch, book))));
  const meanAlive = (state, epoch = about.epochs) => meanOf(everyBook(state, epoch));
  const enough = (state) => everyBook(state, about.epochs).every((alive) => alive >= WANTED);
  const nought = weights.indexOf(0), paper = weights.indexOf(.2);
  const fewest = Math.min(...weights.flatMap((_, weight) => taus.flatMap((tau) => [0, 1].map((contrast) => runsOf({ weight, tau, contrast }).length))));
  const smallestOf = (state, among = weights.map((_, i) => i)) => among.find((weight) => enough({ ...state, weight })) ?? -1;  // among weights in order
  const play = player(about.epochs);
  const spec = {
    title: "Collapse",
    question: "A book has sixteen words, and training lets words die. What is the smallest weight of codeword diversity that keeps twelve alive in every book, and does a search gain by it?",
    initial: { weight: nought, tau: .1, contrast: 1, book: 0, epoch: about.epochs, tried: [nought] },
    accept(name, value) { return Array.isArray(value) && value.length <= weights.length && value.every((v) => Number.isInteger(v) && v >= 0 && v < weights.length) ? value : undefined; },
    controls: [
      { kind: "range", name: "weight", label: "Diversity weight", min: 0, max: weights.length - 1, step: 1, say: (v) => String(weights[v]) },
      { kind: "choice", name: "tau", label: "temperature τ of diversity", options: taus.map((v) => [v, String(v)]) },
      { kind: "choice", name: "contrast", label: "Instance contrast on z", options: [[1, "as in the method"], [0, "left out"]] },
      { kind: "range", name: "epoch", label: "Epoch", min: 0, max: about.epochs, step: 1, say: (v) => `${v} of ${about.epochs}` },
      { kind: "button", label: "Play the training", press: play },
      { kind: "choice", name: "book", label: "Book shown", options: seeds.flatMap((seed, i) => [0, 1, 2, 3].map((book) => [i * N_BOOKS + book, `run ${i + 1}, book ${book + 1}`])) },
    ],
    tries: [
      { label: "Leave contrast out", set: { contrast: 0 } },
      { label: "The paper's setting", set: { weight: paper, tau: 1, contrast: 1, tried: [paper] } },
      { label: "Show every weight", run: (api) => api.set({ ...spec.initial, weight: Math.max(nought, smallestOf({ tau: .1, contrast: 1 })), tried: weights.map((_, i) => i) }) },
    ],
    terms: "A search stores each of the four parts of a picture's vector as the number of the nearest word of a list, the part's book. A word that hardly any picture chooses is dead: its number tells nothing apart. Diversity is a term of the loss that rewards the use of many words; another, instance contrast on z, draws the two views of a picture together as the words show them, and other pictures apart.",
    legend: [["", "blue", "words alive; below, the mean of the books for a weight"], ["", "lit", "dead words"], ["line", "good", "twelve, what the puzzle asks for; a search need not gain by it"], ["round frame", "ink", "the weight looked at"]],
    note: `Nothing is trained in this page: it shows ${runs.length} recorded trainings of ${about.epochs} epochs on 1,497 handwritten digits, ${fewest === seeds.length ? fewest : `${fewest} to ${seeds.length}`} for every setting, each with four books of sixteen words. `
      + "A word is alive if at least 1 % of the pictures choose it. Twelve, three quarters, is a mark set for this puzzle. Under the bars stand the words, w0 to w15, each with the mean of the pictures that choose it in the end. mAP says how good a search by the codes is; 1 is best.",
    picture,
  };

  function picture(box) {
    const columns = Array.from({ length: N_WORDS }, () => {
      const value = h("span"), bar = h("div", { class: "bar" }), canvas = h("canvas", { class: "digit", "aria-hidden": "true", style: "width:100%;height:auto;aspect-ratio:1" }), name = h("span");
      return { value, bar, canvas, name, element: h("div", { class: "word" }, h("div", { class: "stand" }, value, bar), canvas, name) };
    });
    const grid = h("div", { class: "words", role: "img" }, ...columns.map((c) => c.element)), title = h("h3"), curveTitle = h("h3", { style: "margin-top:14px" }), curve = curveOf();
    box.append(h("style", {}, `.words { display: grid; grid-template-columns: repeat(16, minmax(0, 1fr)); gap: 4px; max-width: 800px; font-size: .75em; text-align: center; font-variant-numeric: tabular-nums; }
      .stand { height: 112px; display: flex; flex-direction: column; justify-content: flex-end; }
      .bar { background: var(--blue); min-height: 1px; }
      .dead .bar { background: var(--lit); } .dead { color: var(--soft); } .dead canvas { opacity: .35; } .unused canvas { visibility: hidden; } .word canvas { border: 1px solid var(--line); }
      @media (max-width: 640px) { .words { grid-template-columns: repeat(8, minmax(0, 1fr)); } .stand { height: 76px; } }`),
      title, grid, curveTitle, curve.svg);
    return (state) => {
      if (!state.tried.includes(state.weight)) state.tried = [...state.tried, state.weight];
      const wished = runOf(state, seeds[Math.floor(state.book / N_BOOKS)]), book = state.book % N_BOOKS, run = wished < 0 ? runsOf(state)[0] : wished;
      if (run < 0) throw new Error("this training was not recorded");
      const words = wordsOf(run, state.epoch, book), last = wordsOf(run, about.epochs, book), ended = state.epoch === about.epochs;
      const order = Array.from(last, (_, k) => k).sort((a, b) => last[b] - last[a] || a - b);
      order.forEach((k, place) => {
        const { value, bar, canvas, name, element } = columns[place], share = words[k] / 255;
        value.textContent = share ? `${(share * 100).toFixed(share < .03 ? 1 : 0)}%` : "";
        put(bar, { style: `height:${Math.min(80, share * 134).toFixed(1)}%` });
        const at = ((run * N_BOOKS + book) * N_WORDS + k) * 32;
        paint(canvas, Float32Array.from({ length: 64 }, (_, i) => { const two = shades[at + (i >> 1)]; return (i & 1 ? two & 15 : two >> 4) * 16 / 15; }));
        name.textContent = `w${k}`;
        element.classList.toggle("dead", words[k] < ALIVE);
        element.classList.toggle("unused", !last[k]);
      });
      title.textContent = `The sixteen words of run ${seeds.indexOf(runs[run].seed) + 1}, book ${book + 1}: what share of the pictures chooses each, ${ended ? "in the end" : `after ${state.epoch} ${state.epoch === 1 ? "epoch" : "epochs"}`}`;
      put(grid, { "aria-label": `${living(words)} words alive; shares, largest first: ${order.filter((k) => words[k]).map((k) => `word ${k} ${Math.round(words[k] / 2.55)} %`).join(", ")}` });
      curveTitle.textContent = `Words alive in the end, ${state.tried.length < weights.length ? "for the weights shown so far" : "for every weight"}`;
      curve.show(state);
      return sentence(state, words);
    };
  }

  function sentence(state, words) {
    const here = living(words);
    const book = `${here} of this book's 16 words ${here === 1 ? "is" : "are"} alive`;
    if (state.epoch < about.epochs) return `After ${state.epoch} of ${about.epochs} epochs ${book}${state.epoch ? "" : ", because an untrained network makes nearly the same vector of every picture"}.`;
    const all = everyBook(state, about.epochs), settings = state.weight === paper && state.tau === 1 && state.contrast ? " (with τ = 1 the values of the method's paper, which trained on photographs and not on digits)" : "";
    return `At weight ${weights[state.weight]}${settings}, ${book}; the mean of ${all.length} books is ${number(meanOf(all))}, from ${Math.min(...all)} to ${Math.max(...all)}. ${verdict(state, all)} ${search(state)}`;
  }

  function verdict(state, all) {  // of weights that have been tried only: what is hidden is not given away
    const { weight, contrast, tried } = state, smallest = smallestOf(state, [...tried].sort((a, b) => a - b)), skipped = weights.some((_, i) => i < weight && !tried.includes(i));
    const kept = all.filter((alive) => alive >= WANTED).length, few = kept ? `Only ${kept} of ${all.length} books ${kept === 1 ? "keeps" : "keep"}` : "No book keeps";
    if (kept === all.length) return smallest < weight ? "Every book keeps twelve, but a smaller weight does it too."
      : skipped ? "Every book keeps twelve; a smaller weight that you have not tried may do it too." : "Every book keeps twelve, and no smaller weight on the slider does that: this is the answer for these settings.";
    const without = meanAlive({ ...state, weight: nought }), drop = weight !== nought && meanOf(all) < without ? `, and the mean is below the ${number(without)} without diversity` : "";
    if (smallest >= 0 && smallest < weight) return `${few} twelve, fewer than at a smaller weight${drop}: so loud a term drowns the losses that tell pictures apart.`;
    if (smallest < 0 && tried.length === weights.length) return `${few} twelve, and at no weight here do all: ${contrast ? "so warm a softmax hardly feels which words are chosen" : "without contrast on z the pictures gather at few words, and no weight of diversity undoes that"}.`;
    return `${few} twelve${drop}${contrast ? "" : ": without contrast on z the pictures gather at few words"}.`;
  }

  function search(state) {  // with and without diversity, run by run from one start
    const scoreOf = (of) => (seed) => { const run = runOf(of, seed); return run < 0 ? null : runs[run].map; }, none = { ...state, weight: nought };
    const pairs = seeds.map((seed) => [scoreOf(state)(seed), scoreOf(none)(seed)]).filter((pair) => !pair.includes(null)), [now, before] = [0, 1].map((i) => meanOf(runsOf(i ? none : state).map((run) => runs[run].map)).toFixed(2));
    if (state.weight === nought || !pairs.length) return `A search by these codes scores mAP ${now}.`;
    const better = pairs.filter(([a, b]) => a > b).length, [alive, first] = [state, none].map((of) => Number(meanAlive(of).toPrecision(3))), more = `${alive === first ? "as many" : alive > first ? "more" : "fewer"} words alive`;
    return `A search by these codes scores mAP ${now}, without diversity ${before}: with ${more} it is ${better === pairs.length ? "better" : better ? "better in some runs and worse in others" : "worse"}${better && better < pairs.length ? "" : ` in each of ${pairs.length} runs`}.`;
  }

  function curveOf() {
    const svg = s("svg", { viewBox: "0 0 352 216", width: 352, height: 216, role: "img" });
    const xOf = (i) => 46 + i * 256 / (weights.length - 1), yOf = (n) => 160 - n * 9;
    return { svg, show(state) {
      const parts = [s("path", { class: "axis", d: "M30 12V160H350" }), ...[0, 4, 8, 12, 16].map((n) => s("text", { class: "soft", x: 25, y: yOf(n) + 4, "text-anchor": "end" }, String(n))),
        s("line", { x1: 30, x2: 350, y1: yOf(WANTED), y2: yOf(WANTED), stroke: "var(--good)", "stroke-width": 2, "stroke-dasharray": "6 4" }), s("text", { x: 350, y: yOf(WANTED) - 5, "text-anchor": "end" }, "twelve"),
        s("text", { class: "soft", x: 350, y: 196, "text-anchor": "end" }, "weight of diversity, not to scale"),
        s("text", { class: "soft", x: 30, y: 212 }, `dot: mean of ${everyBook(state, about.epochs).length} books; line: from the fewest to the most`)];
      weights.forEach((w, i) => {
        parts.push(s("text", { class: i === state.weight ? "" : "soft", x: xOf(i), y: 177, "text-anchor": "middle", "font-weight": i === state.weight ? 700 : 400 }, String(w)));
        if (!state.tried.includes(i)) { parts.push(s("text", { class: "soft", x: xOf(i), y: 150, "text-anchor": "middle" }, "?")); return; }
        const all = everyBook({ ...state, weight: i }, about.epochs), mean = meanOf(all);
        parts.push(s("line", { x1: xOf(i), x2: xOf(i), y1: yOf(Math.min(...all)), y2: yOf(Math.max(...all)), stroke: "var(--soft)", "stroke-width": 2 }),
          s("circle", { cx: xOf(i), cy: yOf(mean), r: i === state.weight ? 8 : 6, fill: "var(--blue)", stroke: i === state.weight ? "var(--ink)" : "var(--back)", "stroke-width": i === state.weight ? 3 : 2 }),
          s("text", { x: xOf(i) + 11, y: yOf(mean) + 4, style: "paint-order:stroke;stroke:var(--back);stroke-width:4px" }, number(mean)));
      });
      svg.replaceChildren(...parts);
      put(svg, { "aria-label": `Mean number of words alive, with lines from the fewest to the most of its books, for each weight tried: ${state.tried.map((i) => `${weights[i]}: ${number(meanAlive({ ...state, weight: i }))}`).join(", ")}; twelve are wanted` });
    } };
  }
  return spec;
};
