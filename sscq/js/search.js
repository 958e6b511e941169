// Search: from a query to its answers by table, look-ups, sums and ranks.
import { adc, distanceTable, nearest } from "./model.js";
import { distancesOf, EXPLORABLES, h, number, paint, put, TABLE_COLOURS } from "./component.js";
import { aDigit, digitsOf } from "./digits.js";

EXPLORABLES.search = async (packed) => {
  const digits = await digitsOf(packed), { books, codes, labels, queries } = digits, { M, K, d } = books, D = M * d, n = codes.length / M;
  const failures = queries.flatMap((q, i) => labels[q.first] !== q.label ? [i] : []);
  const typical = Array.from({ length: 10 }, (_, label) => queries.findIndex((q, i) => q.label === label && !failures.includes(i))).filter((i) => i >= 0);
  const ways = { code: "the code", exact: "the whole vector", refined: "the code, then the vector" };
  const spec = {
    title: "Search by four small numbers",
    question: "Click a digit. Its ten nearest of 1,497 are found by four look-ups and three additions a picture, without its pixels or its vector. Where does that fail, and is the code to blame?",
    initial: { query: typical[3], step: 4, parts: M, by: "code", item: -1 },
    accept(name, value) {
      const most = name === "query" ? queries.length : n;
      return Number.isInteger(value) && value >= (name === "item" ? -1 : 0) && value < most ? value : undefined;
    },
    controls: [
      { kind: "range", name: "step", label: "Step", min: 1, max: 4, step: 1, say: (v) => `${v} · ${["table", "look-ups", "sums", "ranks"][v - 1]}` },
      { kind: "range", name: "parts", label: "Parts used", min: 1, max: M, step: 1, say: (v) => `${v} (${v * Math.log2(K)} bits)` },
      { kind: "choice", name: "by", label: "Rank by", options: Object.entries(ways) },
    ],
    tries: [
      { label: "A failure", run: (api) => api.set({ query: failures[(failures.indexOf(api.state.query) + 1) % failures.length], parts: M, by: "code", item: -1, step: 4 }) },
      { label: "Only 4 bits", set: { parts: 1 } },
      { label: "The whole vector instead", run: (api) => api.set({ query: failures.includes(api.state.query) ? api.state.query : failures.find((i) => labels[queries[i].exact] === queries[i].label) ?? failures[0], parts: M, by: "exact", item: -1, step: 4 }) },
    ],
    terms: `A network makes ${D} numbers of a picture, the vector f, in ${M} parts. For each part there is a book of ${K} words, vectors of ${d} numbers that training has set; what is stored of a picture is the number of the nearest word in each book: ${M} numbers, its code.`,
    legend: [["frame", "lit", "chosen: the query, the answer looked at, its entries and its dot"], ["dashed", "bad", "another digit: a wrong answer, or a query that fails with all four parts"], ["round", "blue", "above: sums of the query's digit"], ["round", "soft", "below: sums of others"]],
    note: "The model was trained without labels; they stand under the pictures so that you can judge the answers.",
    picture,
  };

  function picture(box, api) {
    const asked = h("ul", { class: "answers" });
    const chooser = [...typical, ...failures].map((i) => {
      const button = h("button", { type: "button", class: failures.includes(i) ? "wrong" : "", "aria-label": `Query: ${aDigit(queries[i].label)}${failures.includes(i) ? " fails" : ""}`, onclick: () => api.set({ query: i, item: -1 }) },
        paint(h("canvas", { class: "digit", "aria-hidden": "true" }), queries[i].counts), `${aDigit(queries[i].label)}${failures.includes(i) ? " fails" : ""}`);
      asked.append(h("li", {}, button));
      return [i, button];
    });
    const large = h("canvas", { class: "digit", style: "width:96px;height:96px", role: "img" });
    const list = h("ol", { class: "answers" });
    const slots = Array.from({ length: 10 }, () => {
      const canvas = h("canvas", { class: "digit", "aria-hidden": "true" }), text = h("span"), button = h("button", { type: "button" }, canvas, text);
      list.append(h("li", {}, button));
      return { canvas, text, button };
    });
    const table = distancesOf(M, K), sum = h("p", { class: "note", style: "width:330px;max-width:100%;min-height:4.4em" }), dots = dotsOf(api);
    const panels = [
      h("div", {}, h("h3", {}, "Step 1 · table: squared distances to words"), table.svg, h("p", { class: "note", style: "width:340px;max-width:100%" }, TABLE_COLOURS)),
      h("div", {}, h("h3", {}, "Step 2 · look-ups: one picture's four numbers"), sum),
      h("div", {}, h("h3", {}, "Step 3 · sums: all 1,497 pictures, small ones at the left"), dots.canvas),
    ];
    const ranksTitle = h("h3"), scale = h("p", { class: "note" }), ranks = h("div", {}, ranksTitle, list, scale);
    box.append(h("div", { class: "row" }, h("div", {}, h("h3", {}, `Queries: one of each digit that succeeds, and all that fail, ${failures.length} of ${packed.asked}`), asked)), h("div", { class: "row" }, h("div", {}, h("h3", {}, "Query"), large), ranks), h("div", { class: "row" }, ...panels));
    return (state) => {
      const query = queries[state.query], f = digits.vectors.subarray(state.query * D, state.query * D + D), full = distanceTable(f, books);
      const used = full.map((v, i) => Math.floor(i / K) < state.parts ? v : 0), sums = adc(used, codes, K, M);
      const exact = packed.exact.slice(state.query * 10, state.query * 10 + 10), refined = packed.refined.slice(state.query * 10, state.query * 10 + 10);
      const byCode = nearest(sums, 10), far = packed[`${state.by}_distances`]?.slice(state.query * 10, state.query * 10 + 10), ids = { code: byCode, exact, refined }[state.by], item = state.item < 0 ? ids[0] : state.item;
      const code = Array.from(codes.subarray(item * M, item * M + M));
      for (const [i, button] of chooser) put(button, { "aria-pressed": i === state.query });
      paint(large, query.counts);
      put(large, { "aria-label": `The query, ${aDigit(query.label)}` });
      ranksTitle.textContent = `Step 4 · ranks: the ten nearest by ${ways[state.by]}; label · ${far ? `squared distance of all ${D} numbers` : "sum"}`;
      slots.forEach(({ canvas, text, button }, i) => {
        const id = ids[i], right = labels[id] === query.label;
        paint(canvas, digits.pictures(id));
        const value = (far ? far[i] : sums[id]).toFixed(2);
        text.textContent = `${labels[id]} · ${value}`;
        button.onclick = () => api.set({ item: id });
        button.className = right ? "" : "wrong";
        put(button, { "aria-pressed": id === item, "aria-label": `Rank ${i + 1}${right ? "" : ", another digit"}, label and ${far ? "distance" : "sum"}: ${text.textContent}` });
      });
      table.show(full, code, { parts: state.parts, ringed: state.step > 1, label: `the chosen picture takes the entries ${code.slice(0, state.parts).join(", ")}` });
      const terms = code.slice(0, state.parts).map((k, m) => full[m * K + k]);
      sum.textContent = `Picture ${item}, ${aDigit(labels[item])}, is stored as ${code.join(", ")}${state.parts < M ? `, of which the first ${state.parts === 1 ? "is" : `${state.parts} are`} used` : ""}. ${state.parts === 1 ? "Its entry in the table is" : "Its entries in the table are"} ${terms.map((v) => v.toFixed(2)).join(" + ")}${state.parts > 1 ? ` = ${terms.reduce((a, b) => a + b, 0).toFixed(2)}` : ""}.`;
      dots.show(sums, byCode, item, query.label);
      const least = full.reduce((sum, v, i) => i % K ? sum : sum + Math.min(...full.subarray(i, i + K)), 0).toFixed(2);
      scale.textContent = far ? `These distances and the code's sums are different scales: f is far from all words, so that the nearest of its ${M} parts alone make a sum of ${least}.`
        : "The sums put the answers to this query in order. Sums of different queries cannot be compared: a smaller one is no better answer.";
      panels.forEach((panel, i) => { panel.style.opacity = i < state.step ? 1 : .15; });
      ranks.style.opacity = state.step < 4 ? .15 : 1;
      return sentence(state, query, ids, sums, byCode, exact);
    };
  }

  function sentence(state, query, ids, sums, byCode, exact) {
    if (state.step < 4) return ["The query's vector f is cut into parts, and each part's squared distance to its 16 words is written into a table: 64 numbers, computed once.",
      "A stored picture is four numbers. Each says which entry of the table to take: no picture and no vector is touched.",
      "The entries taken are added up. That is done for all 1,497 pictures; equal codes get equal sums, so many dots lie in columns."][state.step - 1];
    const right = ids.filter((id) => labels[id] === query.label).length, first = labels[ids[0]], good = first === query.label, code = state.by === "code";
    const equal = [...sums.keys()].filter((i) => sums[i] === sums[byCode[0]]), tied = code ? equal.length : 1, among = equal.filter((i) => labels[i] === query.label).length;
    const chance = tied > 1 && among > 0 && among < tied, shared = exact.filter((id) => sums[id] <= sums[byCode[9]]).length;  // not those of byCode: ties are in no order
    const began = good && right === 10 ? `All ten answers to this ${query.label} are ${aDigit(query.label)}.` : good ? `${right} of the ten answers to this ${query.label} are ${aDigit(query.label)}.`
      : `A failure: the first answer to this ${query.label} is ${aDigit(first)}, and ${right || "none"} of the ten ${right > 1 ? "are" : "is"} right.`;
    const tie = tied < 2 ? "" : chance ? ` ${tied} pictures tie for the first place, and ${among} of them ${among > 1 ? "are" : "is"} ${aDigit(query.label)}, so which comes first is chance.` : ` ${tied} pictures tie for the first place, so their order means nothing.`;
    const fails = ` Of all ${packed.asked} queries, ${packed.failed[state.by]} fail at the first answer by ${ways[state.by]}, and ${packed.failed.code} by the code.`;
    const vector = labels[exact[0]], other = labels[byCode[0]];
    if (code) return began + tie + (good || state.parts < M ? "" : vector === query.label ? ` By the whole vector the first answer is ${aDigit(vector)}, so the code is to blame.` : ` By the whole vector it is ${aDigit(vector)} too, so the network is to blame, not the code.`);
    if (state.by === "refined") return `${began} The code picked 50, and the distances of their vectors put them in order; panels 1 to 3 show the code.${fails}`;
    const blame = state.parts < M || other === query.label ? "" : good ? ` By the code the first is ${aDigit(other)}, so the code is to blame for that.` : ` By the code the first is ${aDigit(other)}${other === first ? " too" : ""}, so the network is to blame, not the code.`;
    const kept = state.parts < M || blame ? "" : ` By the code, ${shared} of these ten have a sum as small as its tenth answer.`;
    return `${began}${blame}${kept}${fails} Panels 1 to 3 show the code, which plays no part here.`;
  }

  function dotsOf(api) {
    const wide = 360, high = 110, canvas = h("canvas", { width: 2 * wide, height: 2 * high, style: `width:${wide}px;max-width:100%`, role: "img" });
    let at = [];
    canvas.addEventListener("click", (event) => {
      const r = canvas.getBoundingClientRect(), x = (event.clientX - r.left) / r.width * wide, y = (event.clientY - r.top) / r.height * high;
      const apart = at.map(([px, py]) => (px - x) ** 2 + (py - y) ** 2), best = apart.indexOf(Math.min(...apart));
      if (apart[best] < 200) api.set({ item: best });
    });
    return { canvas, show(sums, first, item, label) {
      const style = getComputedStyle(canvas), [blue, soft, lit, ink, back] = ["--blue", "--soft", "--lit", "--ink", "--back"].map((v) => style.getPropertyValue(v));
      const most = sums.reduce((a, b) => Math.max(a, b), 0), least = sums[first[0]], c = canvas.getContext("2d");
      at = Array.from(sums, (v, i) => [8 + (v - least) / (most - least || 1) * (wide - 16), 8 + ((i * 37 % 97) / 97 * .46 + (labels[i] === label ? 0 : .54)) * (high - 24)]);
      c.setTransform(2, 0, 0, 2, 0, 0);
      c.clearRect(0, 0, wide, high);
      const dot = ([x, y], r, colour) => { c.fillStyle = colour; c.beginPath(); c.arc(x, y, r, 0, 7); c.fill(); };
      c.globalAlpha = .55;
      at.forEach((p, i) => { if (labels[i] !== label) dot(p, 1.6, soft); });
      c.globalAlpha = 1;
      at.forEach((p, i) => { if (labels[i] === label) dot(p, 2, blue); });
      dot(at[item], 5, lit);
      c.fillStyle = soft;
      c.font = "11px system-ui, sans-serif";
      const border = at[first[9]][0] + 3, beside = border < wide - 90;
      Object.assign(c, { strokeStyle: ink, lineWidth: 1 });
      c.beginPath(); c.moveTo(border, 2); c.lineTo(border, high - 14); c.stroke();
      c.fillText(number(least), 2, high - 2);
      c.textAlign = "right";
      c.fillText(number(most), wide - 2, high - 2);
      c.textAlign = "center";
      c.fillText("sum (blue above, others below)", wide / 2, high - 2);
      c.fillStyle = ink;
      c.textAlign = beside ? "left" : "right";
      Object.assign(c, { strokeStyle: back, lineWidth: 4, lineJoin: "round" });
      for (const way of ["strokeText", "fillText"]) c[way]("tenth answer", border + (beside ? 4 : -4), 11);
      c.textAlign = "left";
      put(canvas, { "aria-label": `All ${n} sums, from ${number(sums[first[0]])} to ${number(most)}; a line stands behind the tenth answer, at ${number(sums[first[9]])}` });
    } };
  }
  return spec;
};
