// The convolution per frequency: analysis, one complex product per output frequency and tap, synthesis, by strips.
//
// A complex product takes three real ones: with w = a + ib and x = c + id,
//   re = a (c + d) - (a + b) d,   im = a (c + d) + (b - a) c.
// Output frequencies that are their own conjugates are real and take one.
#pragma once
#include "layout.h"
#include "transform.h"

namespace {

struct Group {
    bool complex;
    int plane, dof;
};
INLINE Group group_of(const HcnnConv& c, int i) {
    return {c.group[3 * i] != 0, c.group[3 * i + 1], c.group[3 * i + 2]};
}

// Weights (planes, filters, taps) in the order in which the products read them: for each tile of four filters and each
// group the one or three matrices (aliases, taps, 4).
static long packed_weights(const HcnnConv& c, int taps) {
    long total = 0;
    for (int i = 0; i < c.groups; ++i) total += (group_of(c, i).complex ? 3L : 1L) * c.aliases * taps * 4;
    return total * ((c.filters + 3) / 4);
}
static void pack_weights(const HcnnConv& c, int taps, const float* w, float* out) {
    for (int first = 0; first < c.filters; first += 4)
        for (int i = 0; i < c.groups; ++i) {
            const Group group = group_of(c, i);
            for (int product = 0; product < (group.complex ? 3 : 1); ++product)
                for (int s = 0; s < c.aliases; ++s)
                    for (int t = 0; t < taps; ++t)
                        for (int k = first; k < first + 4; ++k) {
                            const auto of = [&](int plane) {
                                return k < c.filters ? w[((long)plane * c.filters + k) * taps + t] : 0.0f;
                            };
                            const float a = of(group.plane + s);
                            const float b = group.complex ? of(group.plane + c.aliases + s) : 0.0f;
                            *out++ = product == 0 ? a : product == 1 ? -(a + b) : b - a;
                        }
        }
}

// Stores a tile of sums, or adds it to what is there.
template <int R, int V>
INLINE void put(vf (&acc)[R][V], float* to, long pitch, bool fresh = true) {
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v) {
            float* p = to + r * pitch + v * LANES;
            store(p, fresh ? acc[r][v] : acc[r][v] + load(p));
        }
}

struct ConvForward {
    const HcnnConv& c;
    const Layout layout;
    const Program analysis, synthesis;
    const float *x, *weights, *bias;
    float* out;
    const int32_t* at;  // (aliases, taps)
    int strips;

    long scratch() const {
        const long between = analysis.between > synthesis.between ? analysis.between : synthesis.between;
        return (c.channels + c.planes + c.aliases) * layout.x_plane + (4L * c.dofs + c.outputs) * layout.y_plane +
               between * WIDE * LANES + 64 * LANES;
    }

    void run(int task, float* scratch) const {
        const int image = task / strips, strip = task % strips, first = strip * layout.rows;
        const int rows = c.out_height - first < layout.rows ? c.out_height - first : layout.rows;
        const long vectors = (rows * layout.pitch + LANES - 1) / LANES, px = layout.x_plane, py = layout.y_plane;
        float* gathered = scratch;
        float* spectrum = gathered + c.channels * px;
        float* added = spectrum + c.planes * px;
        float* result = added + c.aliases * px;  // (dofs, 4, py)
        float* y = result + 4 * c.dofs * py;
        float* between = y + c.outputs * py;
        for (int v = 0; v < c.channels; ++v)
            gather_x(c, layout, x + ((long)image * c.channels + v) * c.height * c.width, first, gathered + v * px);
        transform(analysis, gathered, px, spectrum, px, px / LANES, between);
        const int terms = c.aliases * layout.taps;
        const float* w = weights;
        for (int k = 0; k < c.filters; k += 4) {
            for (int i = 0; i < c.groups; ++i) {
                const Group group = group_of(c, i);
                const float* re = spectrum + group.plane * px;
                const float* im = re + c.aliases * px;
                float* to = result + group.dof * 4 * py;
                if (group.complex)
                    for (long p = 0; p < c.aliases * px; p += LANES) store(added + p, load(re + p) + load(im + p));
                spans(vectors, [&](auto width, long from) {
                    constexpr int V = decltype(width)::value;
                    const long p = from * LANES;
                    vf acc[4][V] = {}, common[4][V];
                    if (!group.complex) {
                        accumulate(acc, re + p, at, w, terms);
                        put(acc, to + p, py);
                        return;
                    }
                    accumulate(acc, added + p, at, w, terms);
                    memcpy(common, acc, sizeof(acc));
                    accumulate(acc, im + p, at, w + 4 * terms, terms);
                    put(acc, to + p, py);
                    accumulate(common, re + p, at, w + 8 * terms, terms);
                    put(common, to + 4 * py + p, py);
                });
                w += (group.complex ? 12 : 4) * terms;
            }
            for (int one = k; one < c.filters && one < k + 4; ++one) {
                transform(synthesis, result + (one - k) * py, 4 * py, y, py, vectors, between);
                finish(image, one, first, rows, y);
            }
        }
    }

    // Bias, ELU and mean over the oldest attribute on the way out.
    void finish(int image, int k, int first, int rows, const float* y) const {
        const int oldest = c.average ? c.average : 1, others = c.outputs / oldest;
        const float share = 1.0f / oldest;
        for (int m = 0; m < others; ++m)
            for (int row = 0; row < rows; ++row) {
                float* to = out + ((((long)image * others + m) * c.filters + k) * c.out_height + first + row) * c.out_width;
                for (int column = 0; column < c.out_width; column += LANES) {
                    vf total = {};
                    for (int a = 0; a < oldest; ++a) {
                        const int v = a * others + m;
                        vf value = load(y + v * layout.y_plane + row * layout.pitch + column);
                        if (bias) value += bias[v * c.filters + k];
                        total += c.elu ? elu(value) : value;
                    }
                    if (oldest > 1) total *= share;
                    const int left = c.out_width - column;
                    if (left >= LANES) store(to + column, total);
                    else memcpy(to + column, &total, sizeof(float) * left);
                }
            }
    }
};

static void conv(const HcnnConv* c, const float* x, const float* w, const float* bias, float* out, int threads) {
    const double per_position = c->channels + c->planes + 4.0 * c->dofs + c->outputs;
    const Layout layout(*c, rows_of_strip(*c, per_position));
    const long size = packed_weights(*c, layout.taps);
    const Memory<float> packed(size);
    pack_weights(*c, layout.taps, w, packed);
    const Memory<int32_t> at((size_t)c->aliases * layout.taps);
    for (int s = 0, j = 0; s < c->aliases; ++s)
        for (int i1 = 0; i1 < c->support[0]; ++i1)
            for (int i2 = 0; i2 < c->support[1]; ++i2) at[j++] = (int32_t)(s * layout.x_plane + layout.tap(*c, i1, i2));
    const int strips = (c->out_height + layout.rows - 1) / layout.rows;
    const ConvForward job{*c, layout, Program(c->programs[0], c->matrices[0]), Program(c->programs[1], c->matrices[1]),
                          x, packed, bias, out, at, strips};
    hcnn_parallel(c->images * strips, threads, job.scratch(),
                  [](void* context, int task, float* scratch) { ((const ConvForward*)context)->run(task, scratch); },
                  (void*)&job);
}

}  // namespace
