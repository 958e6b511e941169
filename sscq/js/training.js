// Training: two recorded trainings side by side, epoch by epoch; what a setting changes, and what it costs.
import { bytesOf, unzipped } from "./model.js";
import { EXPLORABLES, h, number, player, put, s } from "./component.js";

const ALIVE = 3, N_WORDS = 16, NARROW = .9, SIDES = ["a", "b"];  // three of 255 are 15 of 1,497 pictures, 1 %
const LOSSES = { all: "all five", contrast: "contrast of f and z", f: "contrast of f only", none: "all but the two contrasts" };
const TERMS = { loss: "weighted sum of the losses", icf: "instance contrast of f", icz: "instance contrast of z", cc: "consistency", pn: "part neighbours", cd: "diversity" };
const COLOURS = [["#00588a", "#7cc4f0"], ["#b54700", "#ff9e5e"], ["#1a6e37", "#6fd391"], ["#8a2f86", "#e59ae0"], ["#6b5a00", "#d9c34a"],
  ["#a3263a", "#ff9aa8"], ["#00707a", "#5fd3dc"], ["#5146b8", "#b3a9ff"], ["#7a4a2b", "#d8ab85"], ["#3f4a54", "#c3ccd6"]];  // of a digit, on light and on dark

EXPLORABLES.training = async ({ about, runs, places, usage }) => {
  const frames = about.epochs + 1, n = about.labels.length, spots = await unzipped(bytesOf(places)), used = await unzipped(bytesOf(usage));
  const begins = [0];
  const summed = (numbers, from, size) => { for (let i = from + size; i < from + frames * size; i++) numbers[i] += numbers[i - size]; };  // each epoch is packed as its difference from the one before
  for (const run of runs) begins.push(begins.at(-1) + frames * run.bits / 4 * N_WORDS);
  if (spots.length !== runs.length * frames * n * 2 || used.length !== begins.at(-1)) throw new Error("its numbers are not those of its trainings");
  runs.forEach((run, i) => { summed(spots, i * frames * n * 2, n * 2); summed(used, begins[i], run.bits / 4 * N_WORDS); });
  const among = (name, order) => [...new Set(runs.map((r) => r[name]))].sort(order), up = (x, y) => x - y;
  const objectives = Object.keys(about.objectives), bits = among("bits", up), taus = among("tau", up), seeds = among("seed", up);
  const contrasts = (losses) => about.objectives[losses][0] + about.objectives[losses][1] > 0;
  const choices = { losses: objectives.map((v) => [v, LOSSES[v] ?? v]), bits: bits.map((v) => [v, String(v)]), tau: taus.map((v) => [v, String(v)]), start: seeds.map((v, i) => [v, String(i + 1)]) };
  const settingsOf = (state, side) => ({ losses: state[`losses_${side}`], bits: state[`bits_${side}`], tau: state[`tau_${side}`], start: state[`start_${side}`] });
  const runOf = ({ losses, bits: b, tau, start }) => runs.findIndex((r) => r.losses === losses && r.bits === b && r.seed === start && (r.tau === tau || !contrasts(losses)));
  const wordsOf = (run, epoch) => { const size = runs[run].bits / 4 * N_WORDS; return used.subarray(begins[run] + epoch * size, begins[run] + (epoch + 1) * size); };
  const spotsOf = (run, epoch) => spots.subarray((run * frames + epoch) * n * 2, (run * frames + epoch + 1) * n * 2);
  const alive = (words) => words.reduce((sum, v) => sum + (v >= ALIVE), 0);
  const bytes = (run) => about.n * runs[run].bits / 8;
  const thousands = (v) => String(v).replace(/\B(?=(\d{3})+$)/g, ",");
  const middle = taus.includes(.5) ? .5 : taus[0], begin = { losses: objectives[0], bits: bits.includes(16) ? 16 : bits[0], tau: middle, start: seeds[0] };
  const play = player(about.epochs);

  const spec = {
    title: "Training playground",
    question: "Nobody tells the network which picture is which digit. Which settings separate the digits all the same, and how many bytes does the index take?",
    initial: {
      epoch: about.epochs, term: "icz", losses_a: begin.losses, bits_a: begin.bits, tau_a: begin.tau, start_a: begin.start,
      losses_b: objectives.at(-1), bits_b: begin.bits, tau_b: begin.tau, start_b: begin.start,
    },
    accept(name, value) { return choices[name.slice(0, -2)]?.some(([v]) => v === value) ? value : undefined; },
    controls: [
      { kind: "range", name: "epoch", label: "Epoch", min: 0, max: about.epochs, step: 1, say: (v) => `${v} of ${about.epochs}` },
      { kind: "button", label: "Play the trainings", press: play },
      { kind: "choice", name: "term", label: "Loss drawn", options: about.terms.map((name) => [name, TERMS[name] ?? name]) },
    ],
    tries: [
      { label: `${bits.at(-1)} bits against ${bits[0]}`, set: { losses_b: begin.losses, bits_a: bits.at(-1), bits_b: bits[0] } },
      { label: "A warmer contrast", set: { losses_b: begin.losses, bits_a: bits.at(-1), bits_b: bits.at(-1), tau_b: taus.at(-1) } },
      { label: "Only another start", set: { losses_b: begin.losses, start_b: seeds.at(-1) } },
    ],
    terms: "f is the network's vector of a picture; a search stores each part of it as the number of the nearest word of a list, the part's book, and z is f as the words show it. The five losses are instance contrast of f and of z, consistency, part neighbours and diversity. Contrast wants two views of a picture to be more alike than views of two pictures; τ is its temperature.",
    legend: [["line", "blue", "run A: solid line, disc"], ["dashed", "lit", "run B: dashed line, square"]],
    note: `Nothing is trained in this page: it shows ${runs.length} recorded trainings of ${about.epochs} epochs on ${thousands(about.n)} handwritten digits, on one CPU thread, each setting from ${seeds.length} random starts. `
      + `mAP says how well ${about.n_queries} other digits are searched for; 1 is best. Labels score and colour; no training sees them. `
      + `A map shows ${n} of these queries in the two directions in which f of them differs most after the last epoch, which are kept for all epochs of a run; each epoch's mean is in the middle. `
      + "A book has sixteen words; one is alive if at least 1 % of the pictures choose it.",
    picture,
  };

  function cardOf(side, api) {
    const name = side.toUpperCase(), fields = {};
    const rows = Object.entries({ losses: "Losses", bits: "Bits", start: "Start", tau: "Temperature τ" }).map(([what, label]) => {
      const id = `${api.key}-${what}-${side}`, select = h("select", { id, onchange: () => api.set({ [`${what}_${side}`]: choices[what][select.selectedIndex][0] }) }, ...choices[what].map(([, text]) => h("option", {}, text)));
      const row = h("div", { class: "field" }, h("label", { for: id }, label), select);
      fields[what] = { row, show(value) { select.selectedIndex = choices[what].findIndex(([v]) => v === value); } };
      return row;
    });
    const dots = Array.from(about.labels, (digit) => s("text", { class: `dot d${digit}`, "text-anchor": "middle", "dominant-baseline": "central" }, digit));
    const map = s("svg", { viewBox: "0 0 220 220", role: "img", class: "map" }, s("rect", { x: .5, y: .5, width: 219, height: 219, class: "line" }), ...dots);
    const words = s("svg", { role: "img", class: "map" }), caption = h("p", { class: "note caption" }), none = h("p", { class: "note" });
    const without = h("p", { class: "field note" }, "No τ without contrast.");
    const element = h("div", { class: `run ${side}`, role: "group", "aria-label": `Run ${name}` }, h("h3", {}, `Run ${name}`), h("div", { class: "fields" }, ...rows, without), none, h("h3", {}, `Map of ${n} digits`), map, caption, h("h3", {}, "Words in use"), words);
    return { element, show(state, run, rows) {
      const now = settingsOf(state, side), there = run >= 0;
      for (const [what, field] of Object.entries(fields)) field.show(now[what]);
      fields.tau.row.hidden = !contrasts(now.losses);
      without.hidden = contrasts(now.losses);
      none.hidden = there;
      none.textContent = there ? "" : "This training was not recorded; choose another.";
      for (const part of [map.previousSibling, map, caption, words.previousSibling, words]) part.toggleAttribute("hidden", !there);
      if (!there) return;
      const at = spotsOf(run, state.epoch), { spread } = runs[run];
      dots.forEach((dot, i) => { dot.style.transform = `translate(${(12 + at[2 * i] * 196 / 255).toFixed(1)}px, ${(208 - at[2 * i + 1] * 196 / 255).toFixed(1)}px)`; });
      put(map, { "aria-label": `Map of ${n} digits, run ${name}, after epoch ${state.epoch}: the nearest on the map is the same digit for ${sameDigit(at)} of them` });
      caption.textContent = `f in two directions, which hold ${Math.round(spread * 100)}\u00a0% of its spread in the end${spread > NARROW ? ": f has hardly any others, a sign of collapse" : ""}. Colours are labels; each map has its own scale.`;
      shownWords(words, wordsOf(run, state.epoch), wordsOf(run, about.epochs), side, name, rows);
    } };
  }

  function sameDigit(at) {
    let same = 0;
    for (let i = 0; i < n; i++) {
      let best = Infinity, found = -1;
      for (let j = 0; j < n; j++) {
        const apart = (at[2 * i] - at[2 * j]) ** 2 + (at[2 * i + 1] - at[2 * j + 1]) ** 2;
        if (i !== j && apart < best) { best = apart; found = j; }
      }
      same += about.labels[i] === about.labels[found];
    }
    return same;
  }

  function shownWords(svg, words, last, side, name, rows) {  // a square a word, its area the share; a row a book, most used in the end first
    const books = words.length / N_WORDS, pitch = rows > 8 ? 8 : 13, parts = [];
    for (let book = 0; book < books; book++) {
      const order = Array.from({ length: N_WORDS }, (_, k) => book * N_WORDS + k).sort((i, j) => last[j] - last[i] || i - j);
      order.forEach((word, place) => {
        const x = 14 + place * 13, y = (book + .5) * pitch + .5, size = (pitch - 1) * Math.min(1, Math.sqrt(words[word] / 64));  // full from a quarter of the pictures on
        parts.push(words[word] < ALIVE ? s("circle", { cx: x, cy: y, r: 1.2, fill: "var(--soft)" })
          : s("rect", { x: (x - size / 2).toFixed(1), y: (y - size / 2).toFixed(1), width: size.toFixed(1), height: size.toFixed(1), fill: `var(--${side})` }));
      });
    }
    svg.replaceChildren(...parts);
    put(svg, { viewBox: `0 0 220 ${rows * pitch + 1}`, "aria-label": `Words in use, run ${name}: ${alive(words)} of ${words.length} are alive. A row is a book, a square a word, larger if more pictures choose it; a dot is a dead word` });
  }

  function picture(box, api) {
    const cards = SIDES.map((side) => cardOf(side, api)), body = h("tbody"), after = h("th", { scope: "col" }), loss = h("h3");
    const quality = plot(), slope = plot();
    const colours = (which) => COLOURS.map((pair, i) => `--d${i}: ${pair[which]};`).join(" ");
    box.append(h("style", {}, `.box { --a: var(--blue); --b: var(--lit); ${colours(0)} }
      @media (prefers-color-scheme: dark) { :host(:not([data-theme=light])) .box { ${colours(1)} } }
      :host([data-theme=dark]) .box { ${colours(1)} }
      ${COLOURS.map((_, i) => `svg .d${i} { fill: var(--d${i}); }`).join(" ")}
      .both { display: flex; flex-wrap: wrap; gap: 14px 36px; align-items: flex-start; }
      .pair { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 16px; }
      .maps { flex: 1 1 560px; max-width: 680px; min-width: 0; } .side { flex: 1 1 340px; max-width: 100%; min-width: 0; }
      .run { border-top: 4px solid var(--a); padding-top: 6px; min-width: 0; } .run.b { border-top: 4px dashed var(--b); }
      .fields { display: flex; flex-wrap: wrap; gap: 6px 14px; margin-bottom: 8px; min-height: 114px; align-content: flex-start; }
      .field:first-child, .field:nth-last-child(-n+2) { flex-basis: 100%; min-height: 34px; margin: 0; }
      .field { display: flex; flex-wrap: wrap; align-items: center; gap: 2px 6px; font-size: .93em; max-width: 100%; } .field[hidden], .run [hidden] { display: none; }
      .field select { max-width: 100%; }
      .map { width: 100%; height: auto; max-width: 330px; background: var(--back); } svg .dot { font-size: 11px; font-weight: 600; }
      .caption { min-height: 5.8em; }
      .curves { display: flex; flex-wrap: wrap; gap: 10px 24px; margin-top: 14px; } .curves > div { max-width: 100%; }
      .sides td { white-space: nowrap; }
      @media (prefers-reduced-motion: no-preference) { svg .dot { transition: transform .3s linear; } }
      @media (max-width: 640px) { .pair { gap: 10px; } .maps, .side { flex-basis: 100%; } .fields { min-height: 212px; } svg .dot { font-size: 13px; } }`));
    box.classList.add("box");
    box.append(h("div", { class: "both" }, h("div", { class: "maps" }, h("div", { class: "pair" }, ...cards.map((c) => c.element)), h("p", { class: "note" }, "Under the maps, a row is a book and a square a word of it, larger if more pictures choose it; a dot is a dead word.")), h("div", { class: "side" },
      h("table", { class: "numbers sides" }, h("thead", {}, h("tr", {}, after, h("th", { scope: "col" }, "Run A"), h("th", { scope: "col" }, "Run B"))), body),
      h("div", { class: "curves" }, h("div", {}, h("h3", {}, "mAP by the codes, and dotted by f itself"), quality), h("div", {}, loss, slope)))));
    return (state) => {
      const found = SIDES.map((side) => runOf(settingsOf(state, side)));
      const most = Math.max(...found.map((run) => run < 0 ? 1 : runs[run].bits / 4));
      cards.forEach((card, i) => card.show(state, found[i], most));
      after.textContent = state.epoch ? `After epoch ${state.epoch}` : "Before training";
      body.replaceChildren(...rowsOf(state, found));
      const title = `mAP, run A solid, run B dashed`;
      drawPlot(quality, { title, low: 0, high: 1, ticks: [0, .5, 1], epoch: state.epoch, lines: found.flatMap((run, i) => run < 0 ? [] : [
        { side: SIDES[i], values: runs[run].exact, first: 0, thin: true }, { side: SIDES[i], values: runs[run].map, first: 0 }]) });
      const which = about.terms.indexOf(state.term), losses = found.map((run) => run < 0 ? null : runs[run].terms[which]), all = losses.flatMap((l) => l ?? []);
      const weightless = SIDES.filter((_, i) => found[i] >= 0 && which > 0 && !about.objectives[runs[found[i]].losses][which - 1]).map((side) => side.toUpperCase());
      const differ = unlike(state, found);
      loss.textContent = `Loss: ${TERMS[state.term] ?? state.term}${weightless.length ? `, not trained in ${weightless.join(" and ")}` : ""}${differ ? `; scales of their own, ${differ}` : ""}`;
      const room = (low, high) => (high - low || 1) * .08, ranges = (differ ? losses : losses.map(() => all)).map((values) => values?.length ? [Math.min(...values), Math.max(...values)] : [0, 1]);
      const [low, high] = ranges[0];
      drawPlot(slope, { title: loss.textContent, low: low - room(low, high), high: high + room(low, high), ticks: differ ? [] : high > low ? [low, high] : [low], epoch: state.epoch,
        lines: losses.flatMap((values, i) => values ? [{ side: SIDES[i], values, first: 1, scale: ranges[i].map((v, k) => v + (k ? 1 : -1) * room(...ranges[i])) }] : []) });
      return sentence(state, found);
    };
  }

  // Why the losses drawn cannot be compared, if they cannot
  function unlike(state, found) {
    if (found.includes(-1) || found[0] === found[1]) return "";
    const [a, b] = found.map((run) => runs[run]);
    if (state.term === "loss" && a.losses !== b.losses) return "of other losses";
    return ["loss", "icf", "icz"].includes(state.term) && a.tau !== b.tau ? "since τ differs" : "";
  }

  function rowsOf(state, found) {
    const e = state.epoch, which = about.terms.indexOf(state.term);
    const row = (name, of) => h("tr", {}, h("th", { scope: "row" }, name), ...found.map((run) => h("td", {}, run < 0 ? "–" : of(run))));
    return [row("mAP by the codes", (r) => runs[r].map[e].toFixed(3)), row("mAP by f itself", (r) => runs[r].exact[e].toFixed(3)),
      row("bits of a code", (r) => String(runs[r].bits)), row(`bytes of the index: ${thousands(about.n)} codes`, (r) => thousands(bytes(r))),
      row("words alive", (r) => { const words = wordsOf(r, e); return `${alive(words)} of ${words.length}`; }),
      row(TERMS[state.term] ?? state.term, (r) => e ? runs[r].terms[which][e - 1].toFixed(3).replace("-", "−") : "–")];
  }

  // ---- the sentence

  function sentence(state, found) {
    const lacking = SIDES.filter((_, i) => found[i] < 0).map((side) => side.toUpperCase());
    if (lacking.length) return `${lacking.length > 1 ? "Neither training was" : `Training ${lacking[0]} was not`} recorded with these settings; choose others, or press Reset.`;
    const e = state.epoch, [a, b] = found.map((run) => runs[run].map[e]);
    const scores = `${e === 0 ? "Before training" : e === about.epochs ? `After all ${e} epochs` : `After ${e} of ${about.epochs} epochs`}, a search by the codes of run A scores mAP ${a.toFixed(2)}, of run B ${b.toFixed(2)}.`;
    if (found[0] === found[1]) return `${scores} Both are the same run: change one of them.`;
    const alike = found.every((run) => alive(wordsOf(run, e)) === runs[run].bits / 4);  // one word a book
    return [scores, e ? apart(state, found) : alike ? "Nearly all pictures still have the same code." : "", cost(found), lost(found, e), unlike(state, found) === "since τ differs" ? "Their losses are no measure of that: contrast at another τ is another loss." : ""].filter(Boolean).join(" ");
  }

  function apart(state, found) {
    const [a, b] = SIDES.map((side) => settingsOf(state, side)), e = state.epoch, names = { losses: "the losses", bits: "their bits", tau: "τ", start: "the start" };
    const differ = Object.keys(names).filter((what) => a[what] !== b[what] && (what !== "tau" || (contrasts(a.losses) && contrasts(b.losses))));
    if (differ.length === 1 && differ[0] === "start") return "They differ in their random start alone: so much is chance.";
    const by = [a, b].map((now, i) => { const others = seeds.map((start) => runOf({ ...now, start })).filter((run) => run >= 0 && run !== found[i]); return others.length ? Math.max(...others.map((run) => Math.abs(runs[run].map[e] - runs[found[i]].map[e]))) : null; });
    const what = differ.length === 1 ? `They differ in ${names[differ[0]]} alone` : `They differ in ${differ.slice(0, -1).map((w) => names[w]).join(", ")} and ${names[differ.at(-1)]}`;
    if (by.includes(null)) return `${what}.`;
    const more = Math.abs(runs[found[0]].map[e] - runs[found[1]].map[e]) > 2 * Math.max(...by);
    return `${what}; another random start moves A by ${by[0].toFixed(2)} and B by ${by[1].toFixed(2)}, ${more ? "less than half of what they differ by" : "so two starts cannot tell whether it is more than chance"}.`;
  }

  function cost(found) {
    const [a, b] = found.map(bytes);
    return a === b ? "" : `The index of A takes ${thousands(a)} bytes, that of B ${thousands(b)}.`;
  }

  function lost(found, e) {  // by quantizing, where that is much
    const gaps = found.map((run) => runs[run].exact[e] - runs[run].map[e]), worst = gaps[1] > gaps[0] ? 1 : 0;
    return e && gaps[worst] > .1 ? `f itself of run ${"AB"[worst]} would score ${runs[found[worst]].exact[e].toFixed(2)}: its codewords lose the rest.` : "";
  }

  // ---- curves

  function plot() { return s("svg", { viewBox: "0 0 340 184", width: 340, height: 184, role: "img" }); }

  function drawPlot(svg, { title, low, high, ticks, epoch, lines }) {
    const xOf = (e) => 40 + e * 268 / about.epochs, yOf = (v) => 152 - (v - low) / (high - low) * 140;
    const path = (values, first, yOf) => values.map((v, i) => `${i ? "L" : "M"}${xOf(first + i).toFixed(1)} ${yOf(v).toFixed(1)}`).join("");
    const parts = [s("path", { class: "axis", d: "M40 8V152H312" }), ...ticks.map((v) => s("text", { class: "soft", x: 35, y: yOf(v) + 4, "text-anchor": "end" }, number(v, 2))),
      ...[0, about.epochs].map((e) => s("text", { class: "soft", x: xOf(e), y: 167, "text-anchor": "middle" }, String(e))), s("text", { class: "soft", x: xOf(about.epochs / 2), y: 167, "text-anchor": "middle" }, "epoch"),
      s("line", { class: "line", x1: xOf(epoch), x2: xOf(epoch), y1: 8, y2: 152, "stroke-width": 2 })];
    const heightOf = ({ scale }) => scale ? (v) => 152 - (v - scale[0]) / (scale[1] - scale[0]) * 140 : yOf;
    for (const line of lines) {
      const { side, values, first, thin } = line, yOf = heightOf(line);
      const style = { fill: "none", stroke: `var(--${side})`, "stroke-width": thin ? 1.5 : 2.5, "stroke-dasharray": thin ? "1.5 3.5" : side === "b" ? "7 4" : "none" };
      parts.push(s("path", { ...style, d: path(values, first, yOf), opacity: .35 }), s("path", { ...style, d: path(values.slice(0, Math.max(0, epoch - first + 1)), first, yOf) }));
      if (epoch < first || thin) continue;
      const x = xOf(epoch), y = yOf(values[epoch - first]);
      parts.push(side === "a" ? s("circle", { cx: x, cy: y, r: 5, fill: "var(--a)" }) : s("rect", { x: x - 5, y: y - 5, width: 10, height: 10, fill: "var(--b)" }));
    }
    const ends = lines.filter((l) => !l.thin).map((l) => ({ side: l.side, y: heightOf(l)(l.values.at(-1)) })).sort((l, m) => l.y - m.y);
    if (ends.length === 2 && ends[1].y - ends[0].y < 13) { const mean = (ends[0].y + ends[1].y) / 2; ends[0].y = mean - 6.5; ends[1].y = mean + 6.5; }
    svg.replaceChildren(...parts, ...ends.map(({ side, y }) => s("text", { x: 320, y: y + 4, "font-weight": 700, style: `fill:var(--${side})` }, side.toUpperCase())));
    const said = lines.filter((l) => !l.thin && epoch >= l.first).map((l) => `run ${l.side.toUpperCase()} ${number(l.values[epoch - l.first])}`);
    put(svg, { "aria-label": `${title}, over ${about.epochs} epochs; after epoch ${epoch}: ${said.join(", ") || "nothing was measured"}` });
  }

  return spec;
};
