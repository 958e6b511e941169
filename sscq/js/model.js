// The method in plain JavaScript: network, codebooks, search and losses. Vectors are flat arrays, as in Python row by row.

// ---- data as Python wrote them

export function bytesOf(base64) {
  const text = atob(base64), bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

// Numbers of 16 bits: sign, five bits of exponent, ten of fraction
export function halves(bytes) {
  const words = new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.byteLength >> 1), out = new Float32Array(words.length);
  for (let i = 0; i < words.length; i++) {
    const sign = words[i] >> 15 ? -1 : 1, exponent = (words[i] >> 10) & 31, fraction = words[i] & 1023;
    out[i] = sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : fraction * 2 ** -24);
  }
  return out;
}

export async function unzipped(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// ---- the network

function convolved(x, { weight, bias, shape: [out, into] }, side) {  // 3×3, a border of zeros
  const area = side * side, y = new Float32Array(out * area);
  for (let o = 0; o < out; o++) {
    const at = o * area;
    y.fill(bias[o], at, at + area);
    for (let c = 0; c < into; c++) {
      for (let a = -1; a < 2; a++) for (let b = -1; b < 2; b++) {
        const w = weight[((o * into + c) * 3 + a + 1) * 3 + b + 1];
        const top = Math.max(0, -a), bottom = Math.min(side, side - a), left = Math.max(0, -b), right = Math.min(side, side - b);
        for (let r = top; r < bottom; r++) {
          const row = at + r * side, from = c * area + (r + a) * side + b;
          for (let s = left; s < right; s++) y[row + s] += w * x[from + s];
        }
      }
    }
  }
  return y;
}

function pooled(x, channels, side) {  // the largest of each 2×2
  const half = side >> 1, y = new Float32Array(channels * half * half);
  for (let c = 0; c < channels; c++) for (let r = 0; r < half; r++) for (let s = 0; s < half; s++) {
    const at = (c * side + 2 * r) * side + 2 * s;
    y[(c * half + r) * half + s] = Math.max(x[at], x[at + 1], x[at + side], x[at + side + 1]);
  }
  return y;
}

function multiplied(x, { weight, bias, shape: [out, into] }) {
  const y = new Float32Array(out);
  for (let o = 0; o < out; o++) {
    let sum = bias[o];
    for (let i = 0; i < into; i++) sum += weight[o * into + i] * x[i];
    y[o] = sum;
  }
  return y;
}

export function lengthOf(x) { return Math.sqrt(x.reduce((sum, v) => sum + v * v, 0)); }
export function unit(x) {  // a row of zeros stays one
  const length = lengthOf(x) || 1;
  return x.map((v) => v / length);
}

// A function from the pixels of one picture, each in 0…1, to f. Each row of weights has a scale, which is all that is left of batch norm
export function network({ layers, size, channels }, weights, scales) {
  const numbers = halves(weights), rows = new Float32Array(scales.buffer);
  const known = layers.map((layer) => {
    if (!layer.shape) return layer;
    const { shape: [out], at, n, row } = layer, weight = numbers.slice(at, at + out * n);
    for (let i = 0; i < weight.length; i++) weight[i] *= rows[row + Math.floor(i / n)];
    return { ...layer, weight, bias: rows.subarray(row + out, row + 2 * out) };
  });
  return (pixels) => {
    let x = Float32Array.from(pixels), side = size, c = channels;
    for (const layer of known) {
      if (layer.kind === "conv") { x = convolved(x, layer, side); c = layer.shape[0]; }
      else if (layer.kind === "linear") x = multiplied(x, layer);
      else if (layer.kind === "relu") x = x.map((v) => Math.max(0, v));
      else if (layer.kind === "pool") { x = pooled(x, c, side); side >>= 1; }
      else throw new Error(`this page cannot compute a layer "${layer.kind}"`);
    }
    return x;
  };
}

// ---- codebooks: {M, K, d, words}, words (M, K, d) flat

export function distanceTable(f, { M, K, d, words }) {  // (M, K) squared distances
  const table = new Float64Array(M * K);
  for (let m = 0; m < M; m++) for (let k = 0; k < K; k++) {
    let sum = 0;
    for (let i = 0; i < d; i++) sum += (f[m * d + i] - words[(m * K + k) * d + i]) ** 2;
    table[m * K + k] = sum;
  }
  return table;
}

export function softmax(x) {
  const top = Math.max(...x), powers = x.map((v) => Math.exp(v - top)), sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((v) => v / sum);
}

export function hardAssign(f, books) {  // the code: of equal distances the first
  const table = distanceTable(f, books);
  return Array.from({ length: books.M }, (_, m) => {
    let best = 0;
    for (let k = 1; k < books.K; k++) if (table[m * books.K + k] < table[m * books.K + best]) best = k;
    return best;
  });
}

export function softAssign(f, books, tau) {  // (M, K), each row sums to 1
  const table = distanceTable(f, books);
  return Array.from({ length: books.M }, (_, m) => softmax(Array.from(table.subarray(m * books.K, (m + 1) * books.K), (v) => -v / tau)));
}

export function softQuantize(f, books, tau) {
  const { M, K, d, words } = books, z = new Float64Array(M * d);
  softAssign(f, books, tau).forEach((shares, m) => shares.forEach((share, k) => {
    for (let i = 0; i < d; i++) z[m * d + i] += share * words[(m * K + k) * d + i];
  }));
  return z;
}

export function decode(code, { M, K, d, words }) {
  return Float64Array.from({ length: M * d }, (_, i) => words[(Math.floor(i / d) * K + code[Math.floor(i / d)]) * d + i % d]);
}

// ---- search

export function adc(table, codes, K, M) {  // one sum for each code, added up in the order of the parts
  const n = codes.length / M, sums = new Float64Array(n);
  for (let i = 0; i < n; i++) for (let m = 0; m < M; m++) sums[i] += table[m * K + codes[i * M + m]];
  return sums;
}

export function nearest(distances, k) {  // numbers of the k smallest, of equal ones the first
  const order = Array.from(distances, (_, i) => i).sort((a, b) => distances[a] - distances[b] || a - b);
  return order.slice(0, k);
}

export function squared(a, b) {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += (a[i] - b[i]) ** 2;
  return sum;
}

// ---- losses: rows are arrays, both views stacked as [a; b]

export function cosines(rows) {
  const units = rows.map((row) => unit(Array.from(row)));
  return units.map((a) => units.map((b) => a.reduce((sum, v, i) => sum + v * b[i], 0)));
}

function logSum(x) {
  const top = Math.max(...x);
  return top + Math.log(x.reduce((sum, v) => sum + Math.exp(v - top), 0));
}

export function infoNce(rows, tau) {
  const cos = cosines(rows), n = rows.length;
  const each = cos.map((row, i) => logSum(row.filter((_, j) => j !== i).map((v) => v / tau)) - row[(i + n / 2) % n] / tau);
  return each.reduce((a, b) => a + b) / n;
}

// How each input sees its negatives, as probabilities; 0 at the image's own two columns
export function seenNegatives(rows, tau) {
  const half = rows.length / 2;
  return cosines(rows).map((row, i) => softmax(row.map((v, j) => j % half === i % half ? -Infinity : v / tau)));
}

export function symmetricKl(p, q) {
  return p.reduce((sum, v, i) => sum + (v > 0 && q[i] > 0 ? .5 * (v - q[i]) * (Math.log(v) - Math.log(q[i])) : 0), 0);
}

export function divergences(rows, tau) {  // one for each image
  const seen = seenNegatives(rows, tau), half = rows.length / 2;
  return Array.from({ length: half }, (_, i) => symmetricKl(seen[i], seen[i + half]));
}

export function consistency(rows, tau) {
  const each = divergences(rows, tau);
  return each.reduce((a, b) => a + b) / each.length;
}

function partsOf(row, M) {
  const d = row.length / M;
  return Array.from({ length: M }, (_, m) => Array.from(row.slice(m * d, (m + 1) * d)));
}

export function codewordDiversity(rows, { M, K, d, words }, tau) {  // from -log K, all words alike, to 0, one takes all
  let total = 0;
  for (let m = 0; m < M; m++) {
    const book = Array.from({ length: K }, (_, k) => unit(Array.from(words.slice((m * K + k) * d, (m * K + k + 1) * d))));
    const mean = new Float64Array(K);
    for (const row of rows) {
      const part = unit(partsOf(row, M)[m]);
      softmax(book.map((word) => word.reduce((sum, v, i) => sum + v * part[i], 0) / tau)).forEach((v, k) => { mean[k] += v / rows.length; });
    }
    total += mean.reduce((sum, p) => sum + p * Math.log(p + 1e-5), 0) / M;
  }
  return total;
}

export function partCosines(rows, M) { return Array.from({ length: M }, (_, m) => cosines(rows.map((row) => partsOf(row, M)[m]))); }

export function nearestNegatives(rows, M, n) {  // (M, inputs, n), nearest first
  const half = rows.length / 2;
  return partCosines(rows, M).map((cos) => cos.map((row, i) => {
    const others = row.map((_, j) => j).filter((j) => j % half !== i % half);
    return others.sort((a, b) => row[b] - row[a] || a - b).slice(0, n);
  }));
}

export function partNeighbor(rows, M, n, tau) {
  const half = rows.length / 2;
  let total = 0;
  for (const cos of partCosines(rows, M)) cos.forEach((row, i) => {
    const others = row.filter((_, j) => j % half !== i % half).map((v) => v / tau).sort((a, b) => b - a);
    total += logSum(others) - logSum(others.slice(0, n));
  });
  return total / (M * rows.length);
}

export function perplexity(counts) {
  const total = counts.reduce((a, b) => a + b, 0) || 1;
  return Math.exp(-counts.reduce((sum, c) => sum + (c ? c / total * Math.log(c / total) : 0), 0));
}

// ---- drawings

export const SIDE = 32;  // of the bitmap from which the 8×8 counts are made, as the collection's makers did
const RADIUS = 2.1;  // of the pen on it, after scaling

// Strokes, lists of [x, y], as 8×8 counts of 0 to 16: scaled to full height, or to full width where that is less, and centred
export function countsOf(strokes) {
  const points = strokes.flat(), counts = new Float32Array(64);
  if (!points.length) return counts;
  const span = (i) => [Math.min(...points.map((p) => p[i])), Math.max(...points.map((p) => p[i]))];
  const [[left, right], [top, bottom]] = [span(0), span(1)];
  const room = SIDE - 2 * RADIUS, extent = Math.max(right - left, bottom - top);
  const scale = extent > 1e-9 ? room / extent : 0;
  const place = ([x, y]) => [SIDE / 2 + (x - (left + right) / 2) * scale, SIDE / 2 + (y - (top + bottom) / 2) * scale];
  const ink = new Uint8Array(SIDE * SIDE);
  for (const stroke of strokes) {
    const placed = stroke.map(place);
    placed.forEach((to, i) => inkLine(ink, placed[Math.max(0, i - 1)], to));
  }
  ink.forEach((on, i) => { counts[Math.floor(i / SIDE / 4) * 8 + Math.floor(i % SIDE / 4)] += on; });
  return counts;
}

function inkLine(ink, [ax, ay], [bx, by]) {
  const dx = bx - ax, dy = by - ay, squares = dx * dx + dy * dy;
  const clip = (v) => Math.max(0, Math.min(SIDE - 1, v));
  for (let y = clip(Math.floor(Math.min(ay, by) - RADIUS)); y <= clip(Math.ceil(Math.max(ay, by) + RADIUS)); y++) {
    for (let x = clip(Math.floor(Math.min(ax, bx) - RADIUS)); x <= clip(Math.ceil(Math.max(ax, bx) + RADIUS)); x++) {
      const px = x + .5 - ax, py = y + .5 - ay, t = squares ? Math.max(0, Math.min(1, (px * dx + py * dy) / squares)) : 0;
      if ((px - t * dx) ** 2 + (py - t * dy) ** 2 <= RADIUS * RADIUS) ink[y * SIDE + x] = 1;
    }
  }
}

// Any grey picture as counts: ink is what differs from the paper at its border; cut to the ink, scaled and centred as drawings are
export function countsOfPicture(grey, width, height) {  // 0…255
  const border = [];
  for (let x = 0; x < width; x++) border.push(grey[x], grey[(height - 1) * width + x]);
  for (let y = 0; y < height; y++) border.push(grey[y * width], grey[y * width + width - 1]);
  const paper = border.sort((a, b) => a - b)[border.length >> 1];
  const strength = Float32Array.from(grey, (v) => Math.abs(v - paper)), most = strength.reduce((a, b) => Math.max(a, b), 0);
  const counts = new Float32Array(64);
  if (most < 20) return counts;
  let left = width, right = -1, top = height, bottom = -1;
  strength.forEach((v, i) => {
    if (v < most / 2) return;
    const x = i % width, y = Math.floor(i / width);
    left = Math.min(left, x); right = Math.max(right, x); top = Math.min(top, y); bottom = Math.max(bottom, y);
  });
  const extent = Math.max(right - left, bottom - top) + 1, step = extent / SIDE;
  for (let i = 0; i < SIDE * SIDE; i++) {
    const x = Math.floor((left + right + 1) / 2 + (i % SIDE + .5 - SIDE / 2) * step), y = Math.floor((top + bottom + 1) / 2 + (Math.floor(i / SIDE) + .5 - SIDE / 2) * step);
    const on = x >= 0 && x < width && y >= 0 && y < height && strength[y * width + x] >= most / 2;
    counts[Math.floor(i / SIDE / 4) * 8 + Math.floor(i % SIDE / 4)] += on;
  }
  return counts;
}

// The collection's grey levels: 0 to 16 became bytes of 0 to 255, which the network sees in 0…1
export function pixelsOf(counts) { return Float32Array.from(counts, (v) => Math.round(v * 255 / 16) / 255); }

// ---- random numbers that are the same everywhere

export function randomOf(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

export function gaussOf(random) { return () => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random()); }
