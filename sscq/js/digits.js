// The digits as Python handed them over: pictures, codes, codebooks, queries.
import { bytesOf, halves, network, unzipped } from "./model.js";

export function aDigit(v) { return `${v === 8 ? "an" : "a"} ${v}`; }

export async function digitsOf(packed) {
  const { M, K, d } = packed.books, all = await unzipped(bytesOf(packed.pictures)), n = packed.n;
  const codes = await unzipped(bytesOf(packed.codes));
  const labels = Array.from(packed.labels, Number), asked = Array.from(packed.query_labels, Number);
  const pictures = (i) => all.subarray(i * 64, i * 64 + 64);
  return {
    books: { M, K, d, words: new Float32Array(bytesOf(packed.books.words).buffer) }, codes, labels, pictures, unlike: packed.unlike,
    embed: packed.model && network(packed.model, bytesOf(packed.model.weights), bytesOf(packed.model.scales)),
    vectors: packed.vectors && halves(bytesOf(packed.vectors)),
    queries: asked.map((label, i) => ({ label, counts: pictures(n + i), first: packed.first[i], exact: (packed.exact_first ?? packed.exact)[packed.exact_first ? i : 10 * i] })),
  };
}
