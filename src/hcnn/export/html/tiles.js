// The transforms of Winograd's convolution F(4×4, 3×3): 4×4 outputs of a 3×3 filter from 36 products.
"use strict";
const hcnnTiles = (() => {
  const G = [[1 / 4, 0, 0], [-1 / 6, -1 / 6, -1 / 6], [-1 / 6, 1 / 6, -1 / 6], [1 / 24, 1 / 12, 1 / 6], [1 / 24, -1 / 12, 1 / 6],
    [0, 0, 1]];

  // weight (k, maps, 3, 3) becomes (36, maps, lanes).
  function filters(weight, count, maps, lanes) {
    const out = new Float64Array(36 * maps * lanes);
    for (let k = 0; k < count; k++) {
      for (let m = 0; m < maps; m++) {
        const w = weight.subarray((k * maps + m) * 9, (k * maps + m + 1) * 9);
        for (let s = 0; s < 36; s++) {
          const down = G[Math.floor(s / 6)], across = G[s % 6];
          let sum = 0;
          for (let i = 0; i < 9; i++) sum += down[Math.floor(i / 3)] * across[i % 3] * w[i];
          out[(s * maps + m) * lanes + k] = sum;
        }
      }
    }
    return out;
  }

  function inputLine(x, at, step, out, to, stride) {
    const a = x[at], b = x[at + step], c = x[at + 2 * step], d = x[at + 3 * step], e = x[at + 4 * step], f = x[at + 5 * step];
    const p = e - 4 * c, q = d - 4 * b, r = e - c, s = 2 * (d - b);
    out[to] = 4 * a - 5 * c + e;
    out[to + stride] = p + q;
    out[to + 2 * stride] = p - q;
    out[to + 3 * stride] = r + s;
    out[to + 4 * stride] = r - s;
    out[to + 5 * stride] = 4 * b - 5 * d + f;
  }

  function outputLine(x, at, step, out, to, stride) {
    const b = x[at + step], c = x[at + 2 * step], d = x[at + 3 * step], e = x[at + 4 * step];
    const p = b + c, q = b - c, r = d + e, s = d - e;
    out[to] = x[at] + p + r;
    out[to + stride] = q + 2 * s;
    out[to + 2 * stride] = p + 4 * r;
    out[to + 3 * stride] = q + 8 * s + x[at + 5 * step];
  }

  const half = new Float64Array(36);

  // The 36 spots of the 6×6 window of x at a corner, to out[to + spot · plane].
  function input(x, corner, pitch, out, to, plane) {
    for (let y = 0; y < 6; y++) inputLine(x, corner + y * pitch, 1, half, y * 6, 1);
    for (let i = 0; i < 6; i++) inputLine(half, i, 6, out, to + i * plane, 6 * plane);
  }

  // The 4×4 outputs of the 36 sums at x[at + spot · each].
  function output(x, at, each, tile) {
    for (let i = 0; i < 6; i++) outputLine(x, at + i * each, 6 * each, half, i, 6);
    for (let y = 0; y < 4; y++) outputLine(half, y * 6, 1, tile, y * 4, 1);
  }

  return { filters, input, output };
})();
