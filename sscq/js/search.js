// Search: from a query to its answers by table, look-ups, sums and ranks.
import { adc, distanceTable, nearest } from "./model.js";
import { distancesOf, EXPLORABLES, h, number, paint, put } from "./component.js";
import { digitsOf } from "./digits.js";

EXPLORABLES.search = async (packed) => {
  const digits = await digitsOf(packed), { books, codes, labels, queries } = digits, { M, K, d } = books, D = M * d, n = codes.length / M;
  const failures = queries.flatMap((q, i) => labels[q.first] !== q.label ? [i] : []);
  const typical = Array.from({ length: 10 }, (_, label) => queries.findIndex((q, i) => q.label === label && !failures.includes(i))).filter((i) => i >= 0);
  const ways = { code: "the code", exact: "the whole vector", refined: "the code, then the vector" };
  const spec = {
    title: "Search by four small numbers",
    question: "Click a digit. Its ten nearest of 1,497 are found by four look-ups and three additions a picture: no picture is looked at. Where does that fail?",
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
      { label: "A failure", run: (api) => api.set({ query: failures[(failures.indexOf(api.state.query) + 1) % failures.length], item: -1, step: 4 }) },
      { label: "Only 4 bits", set: { parts: 1 } },
      { label: "The whole vector instead", set: { by: "exact" } },
    ],
    terms: `A network makes ${D} numbers of a picture, the vector f, in ${M} parts. For each part there is a book of ${K} words, typical values of that part; what is stored of a picture is the number of the nearest word in each book: ${M} numbers, its code.`,
    legend: [["frame", "lit", "chosen: the query, the answer looked at, its entries and its dot"], ["dashed", "bad", "another digit: a wrong answer, or a query that fails with all four parts"], ["round", "blue", "sums of the query's digit"], ["round", "soft", "sums of others"]],
    note: "The model was trained without labels; they stand under the pictures so that you can judge the answers. "
      + "Sums of one query put its answers in order; sums of different queries cannot be compared, so a small one is no sign of a right answer.",
    picture,
  };

  function picture(box, api) {
    const asked = h("ul", { class: "answers" });
    const chooser = [...typical, ...failures].map((i) => {
      const button = h("button", { type: "button", class: failures.includes(i) ? "wrong" : "", "aria-label": `Query: a ${queries[i].label}${failures.includes(i) ? " fails" : ""}`, onclick: () => api.set({ query: i, item: -1 }) },
        paint(h("canvas", { class: "digit", "aria-hidden": "true" }), queries[i].counts), `a ${queries[i].label}${failures.includes(i) ? " fails" : ""}`);
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
      h("div", {}, h("h3", {}, "Step 1 · table: each part's distance to its words"), table.svg),
      h("div", {}, h("h3", {}, "Step 2 · look-ups: one picture's four numbers"), sum),
      h("div", {}, h("h3", {}, "Step 3 · sums: all 1,497 pictures, near ones left"), dots.canvas),
    ];
    const ranksTitle = h("h3"), ranks = h("div", {}, ranksTitle, list);
    box.append(h("div", { class: "row" }, h("div", {}, h("h3", {}, "Queries"), asked)), h("div", { class: "row" }, h("div", {}, h("h3", {}, "Query"), large), ranks), h("div", { class: "row" }, ...panels));
    return (state) => {
      const query = queries[state.query], f = digits.vectors.subarray(state.query * D, state.query * D + D), full = distanceTable(f, books);
      const used = full.map((v, i) => Math.floor(i / K) < state.parts ? v : 0), sums = adc(used, codes, K, M);
      const exact = packed.exact.slice(state.query * 10, state.query * 10 + 10), refined = packed.refined.slice(state.query * 10, state.query * 10 + 10);
      const byCode = nearest(sums, 10), far = packed[`${state.by}_distances`]?.slice(state.query * 10, state.query * 10 + 10), ids = { code: byCode, exact, refined }[state.by], item = state.item < 0 ? ids[0] : state.item;
      const code = Array.from(codes.subarray(item * M, item * M + M));
      for (const [i, button] of chooser) put(button, { "aria-pressed": i === state.query });
      paint(large, query.counts);
      put(large, { "aria-label": `The query, a ${query.label}` });
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
      sum.textContent = `Picture ${item}, a ${labels[item]}, is stored as ${code.join(", ")}. Its entries in the table are ${terms.map((v) => v.toFixed(2)).join(" + ")} = ${terms.reduce((a, b) => a + b, 0).toFixed(2)}.`;
      dots.show(sums, byCode, item, query.label);
      panels.forEach((panel, i) => { panel.style.opacity = i < state.step ? 1 : .15; });
      ranks.style.opacity = state.step < 4 ? .15 : 1;
      return sentence(state, query, ids, sums, byCode, exact);
    };
  }

  function sentence(state, query, ids, sums, byCode, exact) {
    if (state.step < 4) return ["The query's vector f is cut into parts, and each part's distance to its 16 words is written into a table: 64 numbers, computed once.",
      "A stored picture is four numbers. Each says which entry of the table to take: no picture and no vector is touched.",
      "The entries taken are added up. That is done for all 1,497 pictures; equal codes get equal sums, so many dots lie in columns."][state.step - 1];
    const right = ids.filter((id) => labels[id] === query.label).length, first = labels[ids[0]], tied = sums.filter((v) => v === sums[byCode[0]]).length;
    const shared = exact.filter((id) => sums[id] <= sums[byCode[9]]).length;  // not those of byCode: ties are in no order
    const began = first === query.label ? `${right === 10 ? "All" : `${right} of the`} ten answers to this ${query.label} are a ${query.label}.` : `A failure: the first answer to this ${query.label} is a ${first}, and ${right} of the ten are right.`;
    const tie = tied > 1 && state.by === "code" ? ` ${tied} pictures have the first one's code, so their sums are equal and their order means nothing.` : "";
    const more = state.by === "exact" ? ` They are the nearest by all ${D} numbers of f, so hardly two distances are equal; panels 1 to 3 show the code, which plays no part. By the code, ${shared} of these ten have a sum as small as its tenth answer.` : state.by === "refined" ? " The code picked 50, and the distances of their vectors put them in order; panels 1 to 3 show the code." : "";
    return began + tie + more;
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
      at = Array.from(sums, (v, i) => [8 + (v - least) / (most - least || 1) * (wide - 16), 8 + (i * 37 % 97) / 97 * (high - 24)]);
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
      c.fillText("sum (heights mean nothing)", wide / 2, high - 2);
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
