// A folded hierarchical attribute CNN: the network of one page, in typed arrays. Runs after tiles.js, in a worker, on a
// page or in Node.
"use strict";
const hcnnNetwork = (() => {
  const LANES = 4, PAIR = 2; // filters and places that one pass over the taps computes
  const TILE = 4, WINDOW = 6, SPOTS = 36; // of the fast 3×3 convolution: outputs a side, inputs a side, products a tile

  function decode(text) {
    const bytes = Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
    return new Float32Array(bytes.buffer); // little-endian, as every browser's machine is
  }

  // weight (k, rows) becomes (rows, k), with k filled up to a whole number of lanes.
  function interleave(weight, filters, rows, lanes) {
    const out = new Float64Array(rows * lanes);
    for (let k = 0; k < filters; k++) for (let i = 0; i < rows; i++) out[i * lanes + k] = weight[k * rows + i];
    return out;
  }

  function prepare(layer, numbers, tables) {
    const take = ([start, length]) => numbers.subarray(start, start + length);
    const lanes = Math.ceil(layer.filters / LANES) * LANES;
    const [height, width] = layer.rank ? [1, 1] : layer.support, depth = layer.rank || layer.channels;
    const index = tables[layer.table], inputs = index.length / layer.outputs;
    const pairs = []; // for each output the (input, tap) that it sums
    for (let o = 0; o < layer.outputs; o++) {
      const joined = [];
      for (let a = 0; a < inputs; a++) if (index[o * inputs + a] >= 0) joined.push(a, index[o * inputs + a]);
      pairs.push(Int32Array.from(joined));
    }
    const weight = take(layer.weight), maps = layer.taps * depth;
    const fast = height === 3 && width === 3 && layer.stride[0] === 1 && layer.stride[1] === 1;
    return {
      ...layer, lanes, pairs, inputs, height, width, depth,
      weight: interleave(weight, layer.filters, maps * height * width, lanes),
      spots: fast ? hcnnTiles.filters(weight, layer.filters, maps, lanes) : null,
      bias: take(layer.bias),
      h: layer.rank ? take(layer.h) : null,
      shift: layer.rank ? take(layer.shift) : null,
    };
  }

  // (maps, rows, columns) with a border of the given width, of zeros or the opposite edge, and zeros beyond it.
  function extend(x, maps, [rows, columns], [top, left], periodic, [below, right] = [0, 0]) {
    const height = rows + 2 * top + below, width = columns + 2 * left + right, out = new Float32Array(maps * height * width);
    for (let m = 0; m < maps; m++) {
      for (let y = 0; y < rows + 2 * top; y++) {
        let from = y - top;
        if (periodic) from = (from + rows) % rows;
        else if (from < 0 || from >= rows) continue;
        const source = (m * rows + from) * columns, target = (m * height + y) * width;
        out.set(x.subarray(source, source + columns), target + left);
        if (!periodic) continue;
        for (let i = 0; i < left; i++) {
          out[target + i] = x[source + columns - left + i];
          out[target + left + columns + i] = x[source + i];
        }
      }
    }
    return out;
  }

  // The mean over the oldest attributes: (averaged · maps, places) to (maps, places).
  function average(x, averaged) {
    if (averaged === 1) return x;
    const size = x.length / averaged, out = new Float32Array(size);
    for (let i = 0; i < size; i++) {
      let sum = 0;
      for (let a = 0; a < averaged; a++) sum += x[a * size + i];
      out[i] = sum / averaged;
    }
    return out;
  }

  const elu = (x) => (x > 0 ? x : Math.exp(x) - 1); // in double precision, so that nothing is lost near 0

  // The inner step of HCNN(+): each map filtered by each h, shifted, ELU: (maps, …) to (maps · rank, rows', columns').
  function inner(layer, x, [rows, columns], extent) {
    const [ky, kx] = layer.support, [sy, sx] = layer.stride, border = [ky >> 1, kx >> 1];
    const padded = extend(x, layer.inputs, extent, border, layer.periodic);
    const pitch = extent[1] + 2 * border[1], map = pitch * (extent[0] + 2 * border[0]);
    const out = new Float32Array(layer.inputs * layer.rank * rows * columns);
    let to = 0;
    for (let a = 0; a < layer.inputs; a++) {
      for (let q = 0; q < layer.rank; q++) {
        for (let y = 0; y < rows; y++) {
          for (let i = 0; i < columns; i++) {
            let sum = layer.shift[q], w = q * ky * kx;
            for (let dy = 0; dy < ky; dy++) {
              const from = a * map + (y * sy + dy) * pitch + i * sx;
              for (let dx = 0; dx < kx; dx++) sum += layer.h[w++] * padded[from + dx];
            }
            out[to++] = elu(sum);
          }
        }
      }
    }
    return out;
  }

  // The inner loop of everything: out[k][place] = Σ over pairs and rows of weight[tap][row][k] · x[input][row][place].
  // x lies in panels of two places: (panel, input, row, 2); weight as (tap, row, lanes); `start` of both is an offset.
  function multiply(pairs, { inputs, lanes }, rows, weight, weightStart, x, start, panels, out, outStart) {
    const pitch = panels * PAIR, panel = inputs * rows * PAIR;
    for (let b = 0; b < panels; b++, start += panel) {
      for (let k = 0; k < lanes; k += LANES) {
        let a0 = 0, a1 = 0, a2 = 0, a3 = 0, b0 = 0, b1 = 0, b2 = 0, b3 = 0;
        for (let p = 0; p < pairs.length; p += 2) {
          let at = start + pairs[p] * rows * PAIR, w = weightStart + pairs[p + 1] * rows * lanes + k;
          for (const end = at + rows * PAIR; at < end; at += PAIR, w += lanes) {
            const u = x[at], v = x[at + 1], w0 = weight[w], w1 = weight[w + 1], w2 = weight[w + 2], w3 = weight[w + 3];
            a0 += u * w0; a1 += u * w1; a2 += u * w2; a3 += u * w3;
            b0 += v * w0; b1 += v * w1; b2 += v * w2; b3 += v * w3;
          }
        }
        const to = outStart + k * pitch + b * PAIR;
        out[to] = a0; out[to + pitch] = a1; out[to + 2 * pitch] = a2; out[to + 3 * pitch] = a3;
        out[to + 1] = b0; out[to + pitch + 1] = b1; out[to + 2 * pitch + 1] = b2; out[to + 3 * pitch + 1] = b3;
      }
    }
  }

  const biasOf = ({ bias, biasStep, filters }, o, k) => bias[biasStep ? o * filters + k : k];

  // Any support and stride: the patches of each place side by side, then `multiply`.
  function convolve(layer, padded, [rows, columns], [sy, sx], pitch, map) {
    const { inputs, depth, height, width, outputs, filters, lanes } = layer;
    const size = depth * height * width, places = rows * columns, panels = Math.ceil(places / PAIR);
    const patches = new Float64Array(panels * inputs * size * PAIR);
    for (let i = 0; i < places; i++) {
      const corner = Math.floor(i / columns) * sy * pitch + (i % columns) * sx;
      let to = Math.floor(i / PAIR) * inputs * size * PAIR + (i % PAIR);
      for (let m = 0; m < inputs * depth; m++) {
        for (let dy = 0; dy < height; dy++) {
          const from = m * map + corner + dy * pitch;
          for (let dx = 0; dx < width; dx++, to += PAIR) patches[to] = padded[from + dx];
        }
      }
    }
    const out = new Float32Array(outputs * filters * places), sums = new Float64Array(lanes * panels * PAIR);
    for (let o = 0; o < outputs; o++) {
      multiply(layer.pairs[o], layer, size, layer.weight, 0, patches, 0, panels, sums, 0);
      for (let k = 0; k < filters; k++) {
        const bias = biasOf(layer, o, k), to = (o * filters + k) * places, from = k * panels * PAIR;
        for (let i = 0; i < places; i++) out[to + i] = elu(sums[from + i] + bias);
      }
    }
    return out;
  }

  // 3×3 with stride 1 in tiles of 4×4 outputs: 36 products a tile in place of 144 (Winograd, in double precision).
  function convolveTiles(layer, padded, [rows, columns], pitch, map) {
    const { inputs, depth, outputs, filters, lanes, taps } = layer;
    const down = Math.ceil(rows / TILE), across = Math.ceil(columns / TILE), tiles = down * across;
    const panels = Math.ceil(tiles / PAIR), panel = inputs * depth * PAIR, plane = panels * panel;
    const x = new Float64Array(SPOTS * plane), places = rows * columns;
    for (let m = 0; m < inputs * depth; m++) {
      for (let t = 0; t < tiles; t++) {
        const corner = m * map + Math.floor(t / across) * TILE * pitch + (t % across) * TILE;
        hcnnTiles.input(padded, corner, pitch, x, Math.floor(t / PAIR) * panel + m * PAIR + (t % PAIR), plane);
      }
    }
    const out = new Float32Array(outputs * filters * places);
    const each = lanes * panels * PAIR, sums = new Float64Array(SPOTS * each), tile = new Float64Array(TILE * TILE);
    for (let o = 0; o < outputs; o++) {
      for (let s = 0; s < SPOTS; s++) {
        multiply(layer.pairs[o], layer, depth, layer.spots, s * taps * depth * lanes, x, s * plane, panels, sums, s * each);
      }
      for (let k = 0; k < filters; k++) {
        const bias = biasOf(layer, o, k);
        for (let t = 0; t < tiles; t++) {
          hcnnTiles.output(sums, k * panels * PAIR + t, each, tile);
          const top = Math.floor(t / across) * TILE, left = (t % across) * TILE;
          const high = Math.min(TILE, rows - top), wide = Math.min(TILE, columns - left);
          for (let y = 0; y < high; y++) {
            const to = (o * filters + k) * places + (top + y) * columns + left;
            for (let i = 0; i < wide; i++) out[to + i] = elu(tile[y * TILE + i] + bias);
          }
        }
      }
    }
    return out;
  }

  // x_j from x_{j-1}, both with their attributes flattened before the two axes of space.
  function runLayer(layer, x, extent) {
    x = average(x, layer.averaged);
    const shape = extent.map((n, axis) => Math.ceil(n / layer.stride[axis]));
    const { height, width, depth, inputs, periodic } = layer, border = [height >> 1, width >> 1];
    if (layer.rank) {
      x = inner(layer, x, shape, extent);
      return { values: convolve(layer, x, shape, [1, 1], shape[1], shape[0] * shape[1]), extent: shape };
    }
    // Tiles may reach beyond the border, where what they compute is not used.
    const tiled = layer.spots && Math.min(...shape) >= TILE, beyond = tiled ? extent.map((n) => -n & (TILE - 1)) : [0, 0];
    const padded = extend(x, inputs * depth, extent, border, periodic, beyond);
    const pitch = extent[1] + 2 * border[1] + beyond[1], map = pitch * (extent[0] + 2 * border[0] + beyond[0]);
    return {
      values: tiled ? convolveTiles(layer, padded, shape, pitch, map) : convolve(layer, padded, shape, layer.stride, pitch, map),
      extent: shape,
    };
  }

  function readout(spec, numbers, x) {
    const { values, extent } = x, places = extent[0] * extent[1];
    const maps = values.length / places, older = maps / spec.newest;
    const pooled = new Float64Array(spec.newest);
    for (let m = 0; m < maps; m++) {
      let sum = 0;
      for (let i = 0; i < places; i++) sum += values[m * places + i];
      pooled[m % spec.newest] += sum / places / older;
    }
    const weight = numbers.subarray(spec.readout[0], spec.readout[0] + spec.readout[1]);
    if (!spec.linear) return Array.from(pooled, (one) => one * weight[0]);
    const bias = numbers.subarray(spec.readoutBias[0], spec.readoutBias[0] + spec.readoutBias[1]);
    return Array.from(bias, (sum, n) => pooled.reduce((all, one, k) => all + weight[n * spec.newest + k] * one, sum));
  }

  // `spec` is what hcnn.export.html_file.network_spec writes.
  function load(spec) {
    const numbers = decode(spec.numbers);
    const layers = spec.layers.map((layer) => prepare({ ...layer, periodic: spec.periodic }, numbers, spec.tables));

    // From x_j on ({ values, extent }; j = 0 is the standardized image): the logits, and every x_i with i > j.
    function forwardFrom(x, j) {
      const arrays = {};
      for (let i = j; i < layers.length; i++) arrays[i + 1] = x = runLayer(layers[i], x.values, x.extent);
      return { logits: readout(spec, numbers, x), arrays };
    }

    // Bytes (channels, height, width), as the images of the data set are.
    function forward(bytes) {
      const places = spec.size[0] * spec.size[1], values = new Float32Array(bytes.length);
      for (let i = 0; i < bytes.length; i++) {
        const c = Math.floor(i / places);
        values[i] = (bytes[i] / 255 - spec.mean[c]) / spec.std[c];
      }
      return forwardFrom({ values, extent: spec.size }, 0);
    }

    // x_j translated by a whole amount along each attribute, periodically: y(v) = x(v - shift).
    function translate(x, j, shifts) {
      const sizes = spec.arrays[j - 1].sizes, places = x.extent[0] * x.extent[1];
      const out = new Float32Array(x.values.length), at = sizes.map(() => 0);
      for (let m = 0; m < x.values.length / places; m++) {
        let to = 0;
        for (let a = 0; a < sizes.length; a++) to = to * sizes[a] + (((at[a] + shifts[a]) % sizes[a]) + sizes[a]) % sizes[a];
        out.set(x.values.subarray(m * places, (m + 1) * places), to * places);
        for (let a = sizes.length - 1; a >= 0 && ++at[a] === sizes[a]; a--) at[a] = 0;
      }
      return { values: out, extent: x.extent };
    }

    return { forward, forwardFrom, translate };
  }

  return { load };
})();
if (typeof module !== "undefined") module.exports = hcnnNetwork;
