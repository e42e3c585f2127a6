// The inner step of HCNN(+): z = ELU(x * h_q + shift_q), then the convolution of z along the attributes, summed over q.
//
// Both per strip of rows: z is formed, transformed and multiplied while it lies in the cache, for some q at a time, and
// formed again for the gradient. Behind h the step is `conv` with a single tap, so its products are used.
#pragma once
#include "conv_backward.h"
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
                            ConvBackward::add(acc, to + p, py, q == 0);
                            return;
                        }
                        accumulate(acc, added + p, at, w, terms);
                        memcpy(common, acc, sizeof(acc));
                        accumulate(acc, im + p, at, w + 4 * terms, terms);
                        ConvBackward::add(acc, to + p, py, q == 0);
                        accumulate(common, re + p, at, w + 8 * terms, terms);
                        ConvBackward::add(common, to + 4 * py + p, py, q == 0);
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
    int32_t* taps = (int32_t*)malloc(sizeof(int32_t) * l.taps);
    taps_of(*c, l, taps);
    int32_t* at = (int32_t*)malloc(sizeof(int32_t) * 4 * c->aliases);
    for (int i = 0; i < 4 * c->aliases; ++i) at[i] = (int32_t)(i * l.y_plane);
    float* packed = (float*)malloc(sizeof(float) * packed_weights(*c, 4) * ((c->rank + 3) / 4));
    pack_plus(*c, w, packed);
    const int strips = (c->out_height + l.rows - 1) / l.rows;
    const PlusForward job{*c, l, {*c, l, x, h, shift, taps}, Program(c->programs[0], c->matrices[0]),
                          Program(c->programs[1], c->matrices[1]), packed, out, at, strips};
    hcnn_parallel(c->images * strips, threads, job.scratch(),
                  [](void* context, int task, float* scratch) { ((const PlusForward*)context)->run(task, scratch); },
                  (void*)&job);
    free(packed);
    free(at);
    free(taps);
}

struct PlusBackward {
    const HcnnConv& c;
    const Layout layout;
    const Inner inner;
    const ConvBackward products;  // of one q, on the layout without margins
    const float* weights;         // for each q as `pack_transposed` leaves them
    float *grad_x, *partial;      // partial: (chunks, q, sums of the products + taps + 1)
    int per_chunk;

    long tiles() const { return (c.filters + 3) / 4; }
    long per_q() const { return products.sums_size + layout.taps + 1; }
    long lead() const { return up<long>((long)(c.support[0] - 1) / c.stride[0] * layout.pitch + layout.pitch, LANES); }
    long d_room() const { return 2 * lead() + layout.x_plane; }  // a plane of d, with zeros before and behind
    long scratch() const {
        long between = products.analysis.between;
        if (products.from_y.between > between) between = products.from_y.between;
        if (products.to_x.between > between) between = products.to_x.between;
        return 2L * c.channels * layout.x_plane + (2L * c.channels + 2L * c.planes) * layout.y_plane +
               (4L * c.outputs + 4L * c.dofs * tiles()) * layout.y_plane + d_room() + products.work_size() +
               between * WIDE * LANES + 64 * LANES;
    }

    void run(int chunk, float* scratch) const {
        for (int image = chunk * per_chunk; image < (chunk + 1) * per_chunk && image < c.images; ++image) {
            memset(grad_x + (long)image * c.channels * c.height * c.width, 0,
                   sizeof(float) * c.channels * c.height * c.width);
            for (int first = 0; first < c.out_height; first += layout.rows)
                strip(image, first, partial + (long)chunk * c.rank * per_q(), scratch);
        }
    }

    void strip(int image, int first, float* sums_out, float* scratch) const {
        const int rows = c.out_height - first < layout.rows ? c.out_height - first : layout.rows;
        const long vectors = (rows * layout.pitch + LANES - 1) / LANES, px = layout.x_plane, py = layout.y_plane;
        float* gathered = scratch;
        float* d_gathered = gathered + c.channels * px;
        float* z = d_gathered + c.channels * px;
        float* dz = z + c.channels * py;
        float* spectrum = dz + c.channels * py;
        float* d_spectrum = spectrum + c.planes * py;
        float* g = d_spectrum + c.planes * py;           // (outputs, 4, py)
        float* g_spectrum = g + 4L * c.outputs * py;     // (tiles, dofs, 4, py)
        float* d = g_spectrum + 4L * c.dofs * tiles() * py;
        float* work = d + d_room();
        float* between = work + products.work_size();
        inner.gather(image, first, gathered);
        memset(d_gathered, 0, sizeof(float) * c.channels * px);
        memset(d, 0, sizeof(float) * d_room());
        for (int tile = 0; tile < tiles(); ++tile) {
            for (int v = 0; v < c.outputs; ++v)
                for (int one = 0; one < 4; ++one) {
                    float* to = g + (4L * v + one) * py;
                    const int k = 4 * tile + one;
                    memset(to, 0, sizeof(float) * py);
                    if (k >= c.filters) continue;
                    const float* from = products.grad +
                                        ((((long)image * c.outputs + v) * c.filters + k) * c.out_height + first) * c.out_width;
                    for (int row = 0; row < rows; ++row)
                        memcpy(to + row * layout.pitch, from + (long)row * c.out_width, sizeof(float) * c.out_width);
                }
            transform(products.from_y, g, 4 * py, g_spectrum + 4L * tile * c.dofs * py, 4 * py, 4 * py / LANES, between);
        }
        const float* w = weights;
        for (int q = 0; q < c.rank; ++q) {
            inner.form<1>(q, vectors, gathered, z);
            transform(products.analysis, z, py, spectrum, py, vectors, between);
            float* sums_of_q = sums_out + q * per_q();
            float* sums_at = sums_of_q;
            for (int tile = 0; tile < tiles(); ++tile)
                products.products(tile == 0, rows, spectrum, g_spectrum + 4L * tile * c.dofs * py, work, w, sums_at,
                                  d_spectrum);
            transform(products.to_x, d_spectrum, py, dz, py, vectors, between);
            through_h(q, rows, gathered, z, dz, d + lead(), d_gathered, sums_of_q + products.sums_size);
        }
        for (int v = 0; v < c.channels; ++v)
            spread(first, d_gathered + v * px, grad_x + ((long)image * c.channels + v) * c.height * c.width);
    }

    // d = dz ELU'(t), its sums with x at every tap, its own sum, and what it gives to x.
    void through_h(int q, int rows, const float* gathered, const float* z, const float* dz, float* d, float* d_gathered,
                   float* sums_of) const {
        const long px = layout.x_plane, py = layout.y_plane;
        const int taps = layout.taps;
        const vf zero = {};
        vf* acc = (vf*)(((uintptr_t)__builtin_alloca(sizeof(vf) * (taps + 2)) + sizeof(vf) - 1) / sizeof(vf) * sizeof(vf));
        for (int t = 0; t <= taps; ++t) acc[t] = zero;
        const long vectors = (rows * layout.pitch + LANES - 1) / LANES;
        for (int v = 0; v < c.channels; ++v) {
            for (int row = 0; row < rows; ++row)  // columns between rows stay zero
                for (int column = 0; column < c.out_width; column += LANES) {
                    const long p = row * layout.pitch + column;
                    const int left = c.out_width - column;
                    const vf value = load(z + v * py + p);
                    vf one = load(dz + v * py + p) * (value > zero ? splat(1.0f) : value + 1.0f);
                    if (left < LANES) one = keep(one, first_lanes(left));
                    acc[taps] += one;
                    store_part(d + p, one, left);
                }
            const float* from = gathered + v * px;
            for (int t = 0; t < taps; ++t) {
                vf total[2] = {};
                const float* shifted = from + inner.at[t];
                for (long i = 0; i < vectors; ++i) total[i & 1] += load(d + i * LANES) * load(shifted + i * LANES);
                acc[t] += total[0] + total[1];
            }
            back(q, d, d_gathered + v * px);
        }
        for (int t = 0; t <= taps; ++t) sums_of[t] += sum(acc[t]);
    }

    // Transposed convolution by h_q, one phase of x after the other; d is zero around its rows.
    void back(int q, const float* d, float* to) const {
        const int s1 = c.stride[0], s2 = c.stride[1];
        const long area = (long)layout.x_rows * layout.pitch;
        for (int p1 = 0; p1 < s1; ++p1)
            for (int p2 = 0; p2 < s2; ++p2, to += area) {
                int count = 0;
                int32_t at[512];
                float value[512];
                for (int i = p1; i < c.support[0]; i += s1)
                    for (int j = p2; j < c.support[1]; j += s2) {
                        at[count] = -(i / s1 * layout.pitch + j / s2);
                        value[count++] = inner.h[q * layout.taps + i * c.support[1] + j];
                    }
                for (long p = 0; p < area; p += LANES) {
                    vf acc[1][1] = {};
                    accumulate(acc, d + p, at, value, count);
                    const long left = area - p;
                    store_part(to + p, acc[0][0] + load_part(to + p, left), left);
                }
            }
    }

    // Adds a strip of the gradient of the extended x to that of x.
    void spread(int first, const float* from, float* out) const {
        const int s1 = c.stride[0], s2 = c.stride[1];
        for (int p1 = 0; p1 < s1; ++p1)
            for (int p2 = 0; p2 < s2; ++p2)
                for (int row = 0; row < layout.x_rows; ++row, from += layout.pitch) {
                    const int to = wrapped((first + row) * s1 + p1 - layout.margin[0], c.height, c.wrap);
                    if (to < 0) continue;
                    for (int column = 0; column < layout.pitch; ++column) {
                        const int at = wrapped(column * s2 + p2 - layout.margin[1], c.width, c.wrap);
                        if (at >= 0) out[(long)to * c.width + at] += from[column];
                    }
                }
    }
};

static void plus_backward(const HcnnConv* c, const float* grad, const float* x, const float* h, const float* shift,
                          const float* w, float* grad_x, float* grad_h, float* grad_shift, float* grad_w, int threads) {
    const long tiles = (c->filters + 3) / 4;
    const Layout l(*c, rows_of_strip(*c, 4.0 * c->channels + 2.0 * c->planes + 4.0 * c->dofs * tiles));
    const Layout alone = l.pointwise();
    int32_t* taps = (int32_t*)malloc(sizeof(int32_t) * l.taps);
    taps_of(*c, l, taps);
    int32_t* at = (int32_t*)calloc(c->aliases + TERMS, sizeof(int32_t));
    for (int s = 0; s < c->aliases; ++s) at[s] = (int32_t)(s * alone.x_plane);
    int32_t g_at[4];
    for (int k = 0; k < 4; ++k) g_at[k] = (int32_t)(k * alone.g_plane);
    Phase* phase = (Phase*)calloc(1, sizeof(Phase));
    phase->taps = 1;
    const long weights = packed_weights(*c, 1);
    float* packed = (float*)malloc(sizeof(float) * weights * c->rank);
    for (int q = 0; q < c->rank; ++q)
        pack_transposed(*c, alone, phase, w + (long)q * c->planes * c->filters, packed + q * weights);
    const int per_chunk = (c->images + 31) / 32, chunks = (c->images + per_chunk - 1) / per_chunk;
    ConvBackward products{*c, alone, Program(c->programs[0], c->matrices[0]), Program(c->programs[3], c->matrices[3]),
                          Program(c->programs[2], c->matrices[2]), grad, nullptr, packed, nullptr, nullptr, nullptr,
                          phase, at, g_at, 0, per_chunk};
    products.sums_size = products.size_of_sums();
    PlusBackward job{*c, l, {*c, l, x, h, shift, taps}, products, packed, grad_x, nullptr, per_chunk};
    job.partial = (float*)calloc(job.per_q() * c->rank * chunks, sizeof(float));
    hcnn_parallel(chunks, threads, job.scratch(),
                  [](void* context, int chunk, float* scratch) { ((const PlusBackward*)context)->run(chunk, scratch); },
                  (void*)&job);
    add_chunks(chunks, job.per_q() * c->rank, job.partial);
    for (int q = 0; q < c->rank; ++q) {
        const float* sums_of = job.partial + q * job.per_q();
        unpack_sums(*c, products, sums_of, grad_w + (long)q * c->planes * c->filters);
        memcpy(grad_h + (long)q * l.taps, sums_of + products.sums_size, sizeof(float) * l.taps);
        grad_shift[q] = sums_of[products.sums_size + l.taps];
    }
    free(job.partial);
    free(packed);
    free(phase);
    free(at);
    free(taps);
}

}  // namespace
