// Gradients of the convolution per frequency: that of x by the transposes, that of the weights from both spectra, which
// are formed again strip by strip and never stored whole.
//
// With ĝ the gradient of ŷ: dX̂ = Σ_k conj(w) ĝ and dw = Σ_u ĝ conj(X̂), again three real products each:
//   conj(w) g:  a (gr + gi) + (b - a) gi,  a (gr + gi) - (a + b) gr
//   g conj(x):  c (gr + gi) - (c - d) gi,  c (gr + gi) - (c + d) gr
#pragma once
#include "phases.h"

namespace {

constexpr int TERMS = LANES == 16 ? 4 : LANES == 8 ? 2 : WIDE > 4 ? 4 : 2;  // of a tile of sums with four filters

struct ConvBackward {
    const HcnnConv& c;
    const Layout layout;
    const Program analysis, from_y, to_x;
    const float *grad, *x, *weights;
    float *grad_x, *partial, *bias_partial;  // the latter: (chunks, outputs, filters)
    const Phase* phases;
    const int32_t *at, *g_at;  // at: (aliases, taps) in x, padded; g_at: for each phase (4, its taps) in ĝ
    long sums_size;            // of the partial sums of one chunk
    int per_chunk;             // images

    long size_of_sums() const {
        long products = 0;
        for (int i = 0; i < c.groups; ++i) products += group_of(c, i).complex ? 3 : 1;
        return products * 4 * TERMS * term_tiles() * ((c.filters + 3) / 4);
    }
    int terms() const { return c.aliases * layout.taps; }
    int term_tiles() const { return (terms() + TERMS - 1) / TERMS; }
    long d_plane() const { return layout.phases * layout.y_plane; }
    long x_room() const { return layout.x_plane > d_plane() ? layout.x_plane : d_plane(); }

    long scratch() const {
        long between = analysis.between;
        if (from_y.between > between) between = from_y.between;
        if (to_x.between > between) between = to_x.between;
        return c.channels * x_room() + c.planes * (layout.x_plane + d_plane()) +
               4L * (c.outputs + c.dofs) * layout.g_plane + work_size() + between * WIDE * LANES + 64 * LANES;
    }
    long work_size() const { return 2L * c.aliases * layout.x_plane + 4 * layout.g_plane; }

    void run(int chunk, float* scratch) const {
        for (int image = chunk * per_chunk; image < (chunk + 1) * per_chunk && image < c.images; ++image)
            for (int first = 0; first < c.out_height; first += layout.rows)
                strip(image, first, partial + chunk * sums_size, bias_partial + (long)chunk * c.outputs * c.filters, scratch);
    }

    void strip(int image, int first, float* sums_out, float* bias_sums, float* scratch) const {
        const int rows = c.out_height - first < layout.rows ? c.out_height - first : layout.rows;
        const long px = layout.x_plane, pg = layout.g_plane, pd = d_plane();
        float* gathered = scratch;
        float* spectrum = gathered + c.channels * x_room();
        float* d_spectrum = spectrum + c.planes * px;  // (planes, phases, y_plane)
        float* g = d_spectrum + c.planes * pd;         // (outputs, 4, g_plane)
        float* g_spectrum = g + 4 * c.outputs * pg;    // (dofs, 4, g_plane)
        float* work = g_spectrum + 4 * c.dofs * pg;
        float* between = work + work_size();
        for (int v = 0; v < c.channels; ++v)
            gather_x(c, layout, x + ((long)image * c.channels + v) * c.height * c.width, first, gathered + v * px);
        transform(analysis, gathered, px, spectrum, px, px / LANES, between);
        const float* w = weights;
        for (int k = 0; k < c.filters; k += 4) {
            for (int v = 0; v < c.outputs; ++v)
                for (int one = 0; one < 4; ++one) {
                    float* to = g + (4L * v + one) * pg;
                    if (k + one >= c.filters) {
                        memset(to, 0, sizeof(float) * pg);
                        continue;
                    }
                    const long at = (long)v * c.filters + k + one;
                    gather_g(c, layout, grad + ((long)image * c.outputs * c.filters + at) * c.out_height * c.out_width,
                             first, to);
                    bias_sums[at] += total(to, rows);
                }
            transform(from_y, g, 4 * pg, g_spectrum, 4 * pg, 4 * pg / LANES, between);
            products(k == 0, rows, spectrum, g_spectrum, work, w, sums_out, d_spectrum);
        }
        transform(to_x, d_spectrum, pd, gathered, pd, pd / LANES, between);
        for (int v = 0; v < c.channels; ++v)
            scatter(gathered + v * pd, first, rows, grad_x + ((long)image * c.channels + v) * c.height * c.width);
    }

    // What four filters of every group give to both gradients, from a spectrum of x and one of the gradient of y
    // (dofs, 4, g_plane).
    void products(bool fresh, int rows, const float* spectrum, const float* g_spectrum, float* work, const float*& w,
                  float*& sums_out, float* d_spectrum) const {
        const long px = layout.x_plane, pg = layout.g_plane;
        float *added = work, *subtracted = added + c.aliases * px, *g_added = subtracted + c.aliases * px;
        for (int i = 0; i < c.groups; ++i) {
            const Group group = group_of(c, i);
            const float* re = g_spectrum + group.dof * 4 * pg;
            const float* im = re + 4 * pg;
            const float* xr = spectrum + group.plane * px;
            const float* xi = xr + c.aliases * px;
            if (!group.complex) {
                w = to_spectrum(group, fresh, rows, w, re, im, g_added, d_spectrum);
                sums_out = to_weights(rows, re, xr, sums_out);
                continue;
            }
            for (long p = 0; p < 4 * pg; p += LANES) store(g_added + p, load(re + p) + load(im + p));
            w = to_spectrum(group, fresh, rows, w, re, im, g_added, d_spectrum);
            for (long p = 0; p < c.aliases * px; p += LANES) {
                const vf one = load(xr + p), other = load(xi + p);
                store(added + p, one + other);
                store(subtracted + p, one - other);
            }
            sums_out = to_weights(rows, g_added, xr, sums_out);
            sums_out = to_weights(rows, im, subtracted, sums_out);
            sums_out = to_weights(rows, re, added, sums_out);
        }
    }

    float total(const float* g, int rows) const {
        vf all = {};
        for (int row = 0; row < rows; ++row)
            for (int column = 0; column < c.out_width; column += LANES) {
                const vf one = load(g + (row + layout.above) * layout.pitch + layout.left + column);
                all += c.out_width - column < LANES ? keep(one, first_lanes(c.out_width - column)) : one;
            }
        return sum(all);
    }

    // Adds what four filters of a group give to the gradient of its planes.
    const float* to_spectrum(const Group& group, bool fresh, int rows, const float* w, const float* re, const float* im,
                             const float* both, float* d_spectrum) const {
        const long vectors = (rows * layout.pitch + LANES - 1) / LANES, pd = d_plane();
        const int32_t* where = g_at;
        for (int f = 0; f < layout.phases; ++f) {
            const int terms = 4 * phases[f].taps;
            for (int s = 0; s < c.aliases; s += 4) {
                float* to = d_spectrum + (group.plane + s) * pd + f * layout.y_plane;
                rows_of(c.aliases - s < 4 ? c.aliases - s : 4, [&](auto height) {
                    constexpr int R = decltype(height)::value;
                    spans(vectors, [&](auto width, long from) {
                        constexpr int V = decltype(width)::value;
                        const long p = from * LANES;
                        vf acc[R][V] = {}, common[R][V];
                        if (!group.complex) {
                            accumulate(acc, re + p, where, w, terms);
                            put(acc, to + p, pd, fresh);
                            return;
                        }
                        accumulate(acc, both + p, where, w, terms);
                        memcpy(common, acc, sizeof(acc));
                        accumulate(acc, im + p, where, w + R * terms, terms);
                        put(acc, to + p, pd, fresh);
                        accumulate(common, re + p, where, w + 2 * R * terms, terms);
                        put(common, to + c.aliases * pd + p, pd, fresh);
                    });
                    w += (group.complex ? 3 : 1) * R * terms;
                });
            }
            where += terms;
        }
        return w;
    }

    // Adds Σ_u g(k, u) x(term, u) of four filters and all terms to the partial sums, in the order (terms, 4).
    float* to_weights(int rows, const float* g, const float* from, float* out) const {
        const long pg = layout.g_plane;
        const int whole = c.out_width / LANES, rest = c.out_width % LANES;
        const vi mask = first_lanes(rest);
        for (int tile = 0; tile < term_tiles(); ++tile, out += 4 * TERMS) {
            const int32_t* where = at + tile * TERMS;
            vf acc[TERMS * 4] = {};
            const auto step = [&](long p, const float* q, bool partly) {
                vf filter[4];
                for (int k = 0; k < 4; ++k) {
                    filter[k] = load(g + k * pg + p);
                    if (partly) filter[k] = keep(filter[k], mask);
                }
                for (int t = 0; t < TERMS; ++t) {
                    const vf value = load(q + where[t]);
                    for (int k = 0; k < 4; ++k) acc[4 * t + k] += filter[k] * value;
                }
            };
            for (int row = 0; row < rows; ++row) {
                const long p = (row + layout.above) * layout.pitch + layout.left;
                const float* q = from + row * layout.pitch;
                for (int i = 0; i < whole; ++i) step(p + i * LANES, q + i * LANES, false);
                if (rest) step(p + whole * LANES, q + whole * LANES, true);
            }
            for (int i = 0; i < 4 * TERMS; i += LANES) {
                vf part[LANES];
                memcpy(part, acc + i, sizeof(part));
                store(out + i, load(out + i) + sums(part));
            }
        }
        return out;
    }

    // Rows of one plane of x from its phases.
    void scatter(const float* d, int first, int rows, float* out) const {
        const int s1 = c.stride[0], s2 = c.stride[1];
        for (int p1 = 0; p1 < s1; ++p1, d += s2 * layout.y_plane)
            for (int row = 0; row < rows && (first + row) * s1 + p1 < c.height; ++row) {
                float* line = out + (long)((first + row) * s1 + p1) * c.width;
                const float* from = d + row * layout.pitch;
                if (s2 == 1) {
                    copy(line, from, c.width);
                    continue;
                }
                int at = 0;
                if (s2 == 2)
                    for (; at + 2 * LANES <= c.width; at += 2 * LANES) {
                        const vf even = load(from + at / 2), odd = load(from + layout.y_plane + at / 2);
                        store(line + at, interleave_lower(even, odd));
                        store(line + at + LANES, interleave_upper(even, odd));
                    }
                for (; at < c.width; ++at) line[at] = from[at % s2 * layout.y_plane + at / s2];
            }
    }
};

// Sums over chunks of images in their order, whatever the threads were, into the first.
static void add_chunks(int chunks, long size, float* sums_in) {
    for (int chunk = 1; chunk < chunks; ++chunk)
        for (long i = 0; i < size; ++i) sums_in[i] += sums_in[chunk * size + i];
}

// Sums as `to_weights` leaves them to (planes, filters, taps).
static void unpack_sums(const HcnnConv& c, const ConvBackward& job, const float* sums_in, float* grad_w) {
    const int taps = job.layout.taps;
    const long each = 4L * TERMS * job.term_tiles();
    const float* at = sums_in;
    for (int first = 0; first < c.filters; first += 4)
        for (int i = 0; i < c.groups; ++i) {
            const Group group = group_of(c, i);
            for (int s = 0; s < c.aliases; ++s)
                for (int t = 0; t < taps; ++t)
                    for (int k = first; k < first + 4 && k < c.filters; ++k) {
                        const float* one = at + (s * taps + t) * 4 + k - first;
                        const auto to = [&](int plane) -> float& { return grad_w[((long)plane * c.filters + k) * taps + t]; };
                        to(group.plane + s) = group.complex ? one[0] - one[each] : one[0];
                        if (group.complex) to(group.plane + c.aliases + s) = one[0] - one[2 * each];
                    }
            at += (group.complex ? 3 : 1) * each;
        }
}

static void conv_backward(const HcnnConv* c, const float* grad, const float* x, const float* w, float* grad_x,
                          float* grad_w, float* grad_bias, int threads) {
    // Longer strips than forward, beyond a small second-level cache: sums over a strip end in sums over lanes, which cost
    // as much as three vectors. Half as long was 2 to 8 % slower, a quarter 5 to 25 %.
    const double per_position = 0.5 * (c->channels + c->planes) + c->dofs + c->outputs;
    const Layout l(*c, rows_of_strip(*c, per_position));
    const Memory<Phase> phases(l.phases);
    find_phases(*c, l, phases);
    const Memory<float> packed(packed_weights(*c, l.taps));
    pack_transposed(*c, l, phases, w, packed);
    const Memory<int32_t> g_at(4 * (size_t)l.taps);
    int32_t* to = g_at;
    for (int f = 0; f < l.phases; ++f)
        for (int k = 0; k < 4; ++k)
            for (int t = 0; t < phases[f].taps; ++t) *to++ = (int32_t)(k * l.g_plane + phases[f].at[t]);
    const int per_chunk = (c->images + 31) / 32, chunks = (c->images + per_chunk - 1) / per_chunk;
    const Memory<int32_t> at = Memory<int32_t>::zeros((size_t)c->aliases * l.taps + TERMS);
    for (int s = 0, j = 0; s < c->aliases; ++s)
        for (int i1 = 0; i1 < c->support[0]; ++i1)
            for (int i2 = 0; i2 < c->support[1]; ++i2) at[j++] = (int32_t)(s * l.x_plane + l.tap(*c, i1, i2));
    ConvBackward job{*c, l, Program(c->programs[0], c->matrices[0]), Program(c->programs[3], c->matrices[3]),
                     Program(c->programs[2], c->matrices[2]), grad, x, packed, grad_x, nullptr, nullptr, phases, at, g_at, 0,
                     per_chunk};
    job.sums_size = job.size_of_sums();
    const Memory<float> partial = Memory<float>::zeros(job.sums_size * chunks);
    job.partial = partial;
    const long biases = (long)c->outputs * c->filters;
    const Memory<float> bias_partial = Memory<float>::zeros(biases * chunks);
    job.bias_partial = bias_partial;
    hcnn_parallel(chunks, threads, job.scratch(),
                  [](void* context, int chunk, float* scratch) { ((const ConvBackward*)context)->run(chunk, scratch); },
                  (void*)&job);
    add_chunks(chunks, job.sums_size, job.partial);
    unpack_sums(*c, job, job.partial, grad_w);
    add_chunks(chunks, biases, job.bias_partial);
    memcpy(grad_bias, job.bias_partial, sizeof(float) * biases);
}

}  // namespace
