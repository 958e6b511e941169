// What the pages about losses compute, for a test that computes the same in Python. A file of JSON in, JSON out.
import { readFileSync } from "node:fs";
const here = new URL("../sscq/js/", import.meta.url).href;
const { fusedConsistency, onCircle, quantized, lossOfAngles, slopes } = await import(`${here}contrast.js`);
const { heapsOf, neighborGradient, neighborStep } = await import(`${here}neighbors.js`);

const { f, z, angles, tau, fusions, hows, settings, rows, heaps } = JSON.parse(readFileSync(process.argv[2], "utf8"));
console.log(JSON.stringify({
  fused: fusions.map((fusion) => fusedConsistency(f, z, fusion, tau)),
  open: fusedConsistency(f, z, "sum", tau, false),
  quantized: quantized(onCircle(angles)),
  slopes: hows.map((how) => ({ loss: lossOfAngles(angles, how), slopes: slopes(angles, how) })),
  pulls: settings.map(([M, n, t]) => { const { loss, gradient } = neighborGradient(rows, M, n, t); return { loss, gradient, next: neighborStep(rows, M, n, t, 4) }; }),
  heaps: heaps.map(heapsOf),
}));
