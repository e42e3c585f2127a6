// The inner step of HCNN(+): z = ELU(x * h_q + shift_q), then the convolution of z along the attributes, summed over q.
//
// Both per strip of rows: z is formed, transformed and multiplied while it lies in the cache, for some q at a time, and
// formed again for the gradient. Behind h the step is `conv` with a single tap, so its products are used.
#pragma once
#include "conv.h"
#include "normalize.h"

namespace {

struct Inner {  // x and h of a strip
    const HcnnConv& c;
    const Layout& layout;
    const float *x, *h, *shift;
    const int32_t* at;  // (taps) in x

    void gather(int image, int first, float* gathered) const {
        for (int v = 0; v < c.channels; ++v)
            gather_x(c, layout, x + ((long)image * c.channels + v) * c.height * c.width, first,
                     gathered + v * layout.x_plane);
    }

    // z of R values of q from `q`, to (R, channels, y_plane); those beyond the last q are zero.
    template <int R>
    void form(int q, long vectors, const float* gathered, float* z) const {
        float* filters = (float*)__builtin_alloca(sizeof(float) * R * layout.taps);
        for (int t = 0; t < layout.taps; ++t)
            for (int r = 0; r < R; ++r) filters[t * R + r] = q + r < c.rank ? h[(q + r) * layout.taps + t] : 0.0f;
        for (int v = 0; v < c.channels; ++v)
            spans(vectors, [&](auto width, long from) {
                constexpr int V = decltype(width)::value;
                const long p = from * LANES;
                vf acc[R][V];
                for (int r = 0; r < R; ++r)
                    for (int i = 0; i < V; ++i) acc[r][i] = splat(q + r < c.rank ? shift[q + r] : 0.0f);
                accumulate(acc, gathered + v * layout.x_plane + p, at, filters, layout.taps);
                for (int r = 0; r < R; ++r)
                    for (int i = 0; i < V; ++i)
                        store(z + ((long)r * c.channels + v) * layout.y_plane + p + i * LANES, elu(acc[r][i]));
            });
    }
};

struct PlusForward {
    const HcnnConv& c;
    const Layout layout;
    const Inner inner;
    const Program analysis, synthesis;
    const float* weights;  // (q / 4, filters / 4, groups, products, aliases, 4 q, 4 filters)
    float* out;
    const int32_t* at;  // (aliases, 4)
    int strips;

    long tiles() const { return (c.filters + 3) / 4; }
    long scratch() const {
        const long between = analysis.between > synthesis.between ? analysis.between : synthesis.between;
        return c.channels * layout.x_plane +
               (4L * c.channels + 4L * c.planes + 4L * c.aliases + 4L * c.dofs * tiles() + c.outputs) * layout.y_plane +
               between * WIDE * LANES + 64 * LANES;
    }

    void run(int task, float* scratch) const {
        const int image = task / strips, strip = task % strips, first = strip * layout.rows;
        const int rows = c.out_height - first < layout.rows ? c.out_height - first : layout.rows;
        const long vectors = (rows * layout.pitch + LANES - 1) / LANES, py = layout.y_plane;
        float* gathered = scratch;
        float* z = gathered + c.channels * layout.x_plane;  // (4, channels, py)
        float* spectrum = z + 4L * c.channels * py;         // (planes, 4, py)
        float* added = spectrum + 4L * c.planes * py;       // (aliases, 4, py)
        float* result = added + 4L * c.aliases * py;        // (tiles, dofs, 4, py)
        float* y = result + 4L * c.dofs * tiles() * py;
        float* between = y + c.outputs * py;
        inner.gather(image, first, gathered);
        const float* w = weights;
        const int terms = 4 * c.aliases;
        for (int q = 0; q < c.rank; q += 4) {
            inner.form<4>(q, vectors, gathered, z);
            for (int r = 0; r < 4; ++r)
                transform(analysis, z + (long)r * c.channels * py, py, spectrum + r * py, 4 * py, vectors, between);
            for (int tile = 0; tile < tiles(); ++tile)
                for (int i = 0; i < c.groups; ++i) {
                    const Group group = group_of(c, i);
                    const float* re = spectrum + group.plane * 4 * py;
                    const float* im = re + c.aliases * 4 * py;
                    float* to = result + ((long)tile * c.dofs + group.dof) * 4 * py;
                    if (group.complex)
                        for (long p = 0; p < c.aliases * 4 * py; p += LANES)
                            store(added + p, load(re + p) + load(im + p));
                    spans(vectors, [&](auto width, long from) {
                        constexpr int V = decltype(width)::value;
                        const long p = from * LANES;
                        vf acc[4][V] = {}, common[4][V];
                        if (!group.complex) {
                            accumulate(acc, re + p, at, w, terms);
                            put(acc, to + p, py, q == 0);
                            return;
                        }
                        accumulate(acc, added + p, at, w, terms);
                        memcpy(common, acc, sizeof(acc));
                        accumulate(acc, im + p, at, w + 4 * terms, terms);
                        put(acc, to + p, py, q == 0);
                        accumulate(common, re + p, at, w + 8 * terms, terms);
                        put(common, to + 4 * py + p, py, q == 0);
                    });
                    w += (group.complex ? 12 : 4) * terms;
                }
        }
        for (int k = 0; k < c.filters; ++k) {
            transform(synthesis, result + (k / 4 * c.dofs * 4L + k % 4) * py, 4 * py, y, py, vectors, between);
            for (int v = 0; v < c.outputs; ++v)
                for (int row = 0; row < rows; ++row)
                    memcpy(out + ((((long)image * c.outputs + v) * c.filters + k) * c.out_height + first + row) * c.out_width,
                           y + v * py + row * layout.pitch, sizeof(float) * c.out_width);
        }
    }
};

// Weights (q, planes, filters) in the order in which the forward products read them.
static void pack_plus(const HcnnConv& c, const float* w, float* out) {
    for (int q = 0; q < c.rank; q += 4)
        for (int first = 0; first < c.filters; first += 4)
            for (int i = 0; i < c.groups; ++i) {
                const Group group = group_of(c, i);
                for (int product = 0; product < (group.complex ? 3 : 1); ++product)
                    for (int s = 0; s < c.aliases; ++s)
                        for (int r = q; r < q + 4; ++r)
                            for (int k = first; k < first + 4; ++k) {
                                const auto of = [&](int plane) {
                                    return k < c.filters && r < c.rank ? w[((long)r * c.planes + plane) * c.filters + k]
                                                                       : 0.0f;
                                };
                                const float a = of(group.plane + s);
                                const float b = group.complex ? of(group.plane + c.aliases + s) : 0.0f;
                                *out++ = product == 0 ? a : product == 1 ? -(a + b) : b - a;
                            }
            }
}

static void taps_of(const HcnnConv& c, const Layout& l, int32_t* at) {
    for (int i1 = 0; i1 < c.support[0]; ++i1)
        for (int i2 = 0; i2 < c.support[1]; ++i2) *at++ = (int32_t)l.tap(c, i1, i2);
}

static void plus(const HcnnConv* c, const float* x, const float* h, const float* shift, const float* w, float* out,
                 int threads) {
    const long tiles = (c->filters + 3) / 4;
    const Layout l(*c, rows_of_strip(*c, 6.0 * c->channels + 4.0 * c->planes + 4.0 * c->dofs * tiles));
    const Memory<int32_t> taps(l.taps);
    taps_of(*c, l, taps);
    const Memory<int32_t> at(4 * (size_t)c->aliases);
    for (int i = 0; i < 4 * c->aliases; ++i) at[i] = (int32_t)(i * l.y_plane);
    const Memory<float> packed(packed_weights(*c, 4) * ((c->rank + 3) / 4));
    pack_plus(*c, w, packed);
    const int strips = (c->out_height + l.rows - 1) / l.rows;
    const PlusForward job{*c, l, {*c, l, x, h, shift, taps}, Program(c->programs[0], c->matrices[0]),
                          Program(c->programs[1], c->matrices[1]), packed, out, at, strips};
    hcnn_parallel(c->images * strips, threads, job.scratch(),
                  [](void* context, int task, float* scratch) { ((const PlusForward*)context)->run(task, scratch); },
                  (void*)&job);
}

}  // namespace
