// A folded hierarchical attribute CNN: the network of one page, in typed arrays. Runs in a worker, on a page or in Node.
"use strict";
const hcnnNetwork = (() => {
  const LANES = 4; // filters that one pass over the taps computes

  function decode(text) {
    const bytes = Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
    return new Float32Array(bytes.buffer); // little-endian, as every browser's machine is
  }

  // weight (k, tap, channel, y, x) becomes (tap, channel, y, x, k), with k filled up to a whole number of lanes.
  function interleave(weight, filters, rest, lanes) {
    const out = new Float32Array(rest * lanes);
    for (let k = 0; k < filters; k++) for (let i = 0; i < rest; i++) out[i * lanes + k] = weight[k * rest + i];
    return out;
  }

  function prepare(layer, numbers, tables) {
    const take = ([start, length]) => numbers.subarray(start, start + length);
    const lanes = Math.ceil(layer.filters / LANES) * LANES;
    const [height, width] = layer.rank ? [1, 1] : layer.support;
    const channels = layer.rank || layer.channels;
    const size = channels * height * width;
    const index = tables[layer.table], inputs = index.length / layer.outputs;
    const pairs = []; // for each output the (input, tap) that it sums
    for (let o = 0; o < layer.outputs; o++) {
      const joined = [];
      for (let a = 0; a < inputs; a++) if (index[o * inputs + a] >= 0) joined.push(a, index[o * inputs + a]);
      pairs.push(Int32Array.from(joined));
    }
    return {
      ...layer, lanes, pairs, inputs, height, width, depth: channels,
      weight: interleave(take(layer.weight), layer.filters, layer.taps * size, lanes),
      bias: take(layer.bias),
      h: layer.rank ? take(layer.h) : null,
      shift: layer.rank ? take(layer.shift) : null,
    };
  }

  // (maps, rows, columns) with a border of the given width: of zeros, or the opposite edge.
  function extend(x, maps, [rows, columns], [top, left], periodic) {
    if (!top && !left) return x;
    const height = rows + 2 * top, width = columns + 2 * left, out = new Float32Array(maps * height * width);
    for (let m = 0; m < maps; m++) {
      for (let y = 0; y < height; y++) {
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

  const elu = (x) => (x > 0 ? x : Math.expm1(x));

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

  // x_j from x_{j-1}, both with their attributes flattened before the two axes of space.
  function runLayer(layer, x, extent) {
    x = average(x, layer.averaged);
    const rows = Math.ceil(extent[0] / layer.stride[0]), columns = Math.ceil(extent[1] / layer.stride[1]);
    let [sy, sx] = layer.stride;
    if (layer.rank) {
      x = inner(layer, x, [rows, columns], extent);
      extent = [rows, columns];
      sy = sx = 1;
    }
    const { height, width, depth, lanes, filters, weight } = layer;
    const border = [height >> 1, width >> 1];
    const padded = extend(x, layer.inputs * depth, extent, border, layer.periodic);
    const pitch = extent[1] + 2 * border[1], map = pitch * (extent[0] + 2 * border[0]);
    const out = new Float32Array(layer.outputs * filters * rows * columns), places = rows * columns;
    const tap = depth * height * width * lanes;
    for (let o = 0; o < layer.outputs; o++) {
      const pairs = layer.pairs[o];
      for (let k = 0; k < filters; k += LANES) {
        for (let y = 0; y < rows; y++) {
          for (let i = 0; i < columns; i += 2) { // two places at a time share the weights
            const next = i + 1 < columns ? sx : 0;
            let a0 = 0, a1 = 0, a2 = 0, a3 = 0, b0 = 0, b1 = 0, b2 = 0, b3 = 0;
            for (let p = 0; p < pairs.length; p += 2) {
              let w = pairs[p + 1] * tap + k;
              let start = pairs[p] * depth * map + y * sy * pitch + i * sx;
              for (let c = 0; c < depth; c++, start += map) {
                for (let dy = 0, from = start; dy < height; dy++, from += pitch) {
                  for (let dx = 0; dx < width; dx++, w += lanes) {
                    const u = padded[from + dx], v = padded[from + dx + next];
                    const w0 = weight[w], w1 = weight[w + 1], w2 = weight[w + 2], w3 = weight[w + 3];
                    a0 += u * w0; a1 += u * w1; a2 += u * w2; a3 += u * w3;
                    b0 += v * w0; b1 += v * w1; b2 += v * w2; b3 += v * w3;
                  }
                }
              }
            }
            const left = [a0, a1, a2, a3], right = [b0, b1, b2, b3];
            for (let f = 0; f < LANES && k + f < filters; f++) {
              const bias = layer.bias[layer.biasStep ? o * filters + k + f : k + f];
              const at = (o * filters + k + f) * places + y * columns + i;
              out[at] = elu(left[f] + bias);
              if (next) out[at + 1] = elu(right[f] + bias);
            }
          }
        }
      }
    }
    return { values: out, extent: [rows, columns] };
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
