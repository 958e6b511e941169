// What the programs of the pages compute, for a test that computes the same in Python. Node: a file of JSON in, JSON out.
const here = typeof process === "undefined" ? "/" : new URL("../sscq/js/", import.meta.url).href;
const js = await import(`${here}model.js`);
const { digitsOf } = await import(`${here}digits.js`);

function drawing(random) {  // one to three strokes of a walk that likes to go straight on
  return Array.from({ length: 1 + Math.floor(random() * 3) }, () => {
    let [x, y, way] = [random(), random(), random() * 7];
    return Array.from({ length: 4 + Math.floor(random() * 12) }, () => {
      way += (random() - .5) * 2;
      x = Math.max(0, Math.min(1, x + Math.cos(way) * .12));
      y = Math.max(0, Math.min(1, y + Math.sin(way) * .12));
      return [x, y];
    });
  });
}

export async function computed({ packed, n_drawings, rows, f, books, taus, n }) {
  const digits = await digitsOf(packed), { embed } = digits, { M, K } = digits.books;
  const queries = digits.queries.map((q) => {
    const vector = embed(js.pixelsOf(q.counts)), table = js.distanceTable(vector, digits.books);
    const sums = js.adc(table, digits.codes, K, M), ids = js.nearest(sums, 10);
    return { f: Array.from(vector), code: js.hardAssign(vector, digits.books), table: Array.from(table), ids, sums: ids.map((i) => sums[i]) };
  });
  const random = js.randomOf(0);
  const drawings = Array.from({ length: n_drawings }, () => {
    const counts = js.countsOf(drawing(random)), vector = embed(js.pixelsOf(counts));
    return { counts: Array.from(counts), f: Array.from(vector), code: js.hardAssign(vector, digits.books) };
  });
  const words = { ...books, words: Float64Array.from(books.words.flat(2)) }, [tau, other] = taus;
  return {
    queries, drawings, soft: f.map((row) => js.softAssign(row, words, tau)), z: f.map((row) => Array.from(js.softQuantize(row, words, tau))),
    hard: f.map((row) => js.hardAssign(row, words)), decoded: f.map((row) => Array.from(js.decode(js.hardAssign(row, words), words))),
    icf: js.infoNce(rows, tau), cc: js.consistency(rows, tau), kl: js.divergences(rows, other), diversity: js.codewordDiversity(rows, words, tau),
    neighbor: js.partNeighbor(rows, books.M, n, other), nearest: js.nearestNegatives(rows, books.M, n),
    perplexity: js.perplexity([5, 0, 3, 12]), blank: Array.from(js.countsOf([])),
  };
}

if (typeof process !== "undefined") {
  const { readFileSync } = await import("node:fs");
  console.log(JSON.stringify(await computed(JSON.parse(readFileSync(process.argv[2], "utf8")))));
}
