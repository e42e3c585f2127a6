// Gradients of the inner step of HCNN(+): z is formed again for one q at a time, on its way from x and back to it.
#pragma once
#include "conv_backward.h"
#include "plus.h"

namespace {

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
    const Memory<int32_t> taps(l.taps);
    taps_of(*c, l, taps);
    const Memory<int32_t> at = Memory<int32_t>::zeros(c->aliases + TERMS);
    for (int s = 0; s < c->aliases; ++s) at[s] = (int32_t)(s * alone.x_plane);
    int32_t g_at[4];
    for (int k = 0; k < 4; ++k) g_at[k] = (int32_t)(k * alone.g_plane);
    const Memory<Phase> phase = Memory<Phase>::zeros(1);
    phase[0].taps = 1;
    const long weights = packed_weights(*c, 1);
    const Memory<float> packed(weights * c->rank);
    for (int q = 0; q < c->rank; ++q)
        pack_transposed(*c, alone, phase, w + (long)q * c->planes * c->filters, packed + q * weights);
    const int per_chunk = (c->images + 31) / 32, chunks = (c->images + per_chunk - 1) / per_chunk;
    ConvBackward products{*c, alone, Program(c->programs[0], c->matrices[0]), Program(c->programs[3], c->matrices[3]),
                          Program(c->programs[2], c->matrices[2]), grad, nullptr, packed, nullptr, nullptr, nullptr,
                          phase, at, g_at, 0, per_chunk};
    products.sums_size = products.size_of_sums();
    PlusBackward job{*c, l, {*c, l, x, h, shift, taps}, products, packed, grad_x, nullptr, per_chunk};
    const Memory<float> partial = Memory<float>::zeros(job.per_q() * c->rank * chunks);
    job.partial = partial;
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
}

}  // namespace
