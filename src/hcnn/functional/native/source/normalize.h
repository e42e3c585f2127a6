// Batch normalization per value k, ELU and mean over the oldest attribute of y (images, oldest, others, filters, space).
//
// Sums are taken per image, in float32 about a pivot or the mean, and added over the images in float64 in their order.
#pragma once
#include <cmath>

#include "api.h"
#include "memory.h"
#include "simd.h"

namespace {

INLINE vf load_part(const float* p, long count) {
    if (count >= LANES) return load(p);
    vf v = {};
    memcpy(&v, p, sizeof(float) * count);
    return v;
}
INLINE void store_part(float* p, vf v, long count) {
    if (count >= LANES) store(p, v);
    else memcpy(p, &v, sizeof(float) * count);
}

struct Normalize {
    const HcnnNormalize& n;
    const float *y, *grad;
    const float *pivot, *scale, *shift;  // (filters): t = scale (y - pivot) + shift
    const float *constant, *slope;
    float* out;
    double* sums;  // (images, filters, 2)

    long at(int image, int a, int m, int k) const {
        return ((((long)image * n.oldest + a) * n.others + m) * n.filters + k) * n.space;
    }

    // Σ (y - pivot) and Σ (y - pivot)² of an image.
    void statistics(int image) const {
        for (int k = 0; k < n.filters; ++k) {
            vf first[2] = {}, second[2] = {};
            const vf middle = splat(pivot[k]);
            for (int am = 0; am < n.oldest * n.others; ++am) {
                const float* row = y + at(image, 0, am, k);
                fetch(row + n.filters * n.space, n.space);
                long u = 0;
                for (; u + 2 * LANES <= n.space; u += 2 * LANES)
                    for (int i = 0; i < 2; ++i) {
                        const vf off = load(row + u + i * LANES) - middle;
                        first[i] += off;
                        second[i] += off * off;
                    }
                for (; u < n.space; u += LANES) {
                    const long left = n.space - u;
                    const vf off = keep(load_part(row + u, left) - middle, first_lanes(left));
                    first[0] += off;
                    second[0] += off * off;
                }
            }
            double* to = sums + 2 * ((long)image * n.filters + k);
            to[0] = sum(first[0] + first[1]);
            to[1] = sum(second[0] + second[1]);
        }
    }

    void forward(int image) const {
        const float share = 1.0f / n.oldest;
        for (int m = 0; m < n.others; ++m)
            for (int k = 0; k < n.filters; ++k) {
                const float* from = y + at(image, 0, m, k);
                float* to = out + (((long)image * n.others + m) * n.filters + k) * n.space;
                const long step = (long)n.others * n.filters * n.space;
                const vf middle = splat(pivot[k]), factor = splat(scale[k]), offset = splat(shift[k]);
                for (int a = 0; a < n.oldest; ++a) fetch(from + a * step + n.space, n.space);
                for (long u = 0; u < n.space; u += LANES) {
                    const long left = n.space - u;
                    vf total = {};
                    for (int a = 0; a < n.oldest; ++a)
                        total += elu((load_part(from + a * step + u, left) - middle) * factor + offset);
                    store_part(to + u, n.oldest > 1 ? total * share : total, left);
                }
            }
    }

    // d = grad ELU'(t) of a vector of y, and y - mean.
    INLINE vf slope_at(vf off, vf factor, vf offset, vf g) {
        const vf zero = {}, t = off * factor + offset;
        return g * exp_nonpositive(t > zero ? zero : t);
    }

    // Σ d and Σ d (y - mean) of an image.
    void backward_sums(int image) const {
        const vf share = splat(1.0f / n.oldest);
        for (int k = 0; k < n.filters; ++k) {
            vf total = {}, along = {};
            const vf middle = splat(pivot[k]), factor = splat(scale[k]), offset = splat(shift[k]);
            for (int m = 0; m < n.others; ++m) {
                const float* g_row = grad + (((long)image * n.others + m) * n.filters + k) * n.space;
                const float* from = y + at(image, 0, m, k);
                const long step = (long)n.others * n.filters * n.space;
                for (long u = 0; u < n.space; u += LANES) {
                    const long left = n.space - u;
                    const vf g = load_part(g_row + u, left) * share;  // 0 in lanes beyond the row
                    for (int a = 0; a < n.oldest; ++a) {
                        const vf off = load_part(from + a * step + u, left) - middle;
                        const vf d = slope_at(off, factor, offset, g);
                        total += d;
                        along += d * off;
                    }
                }
            }
            double* to = sums + 2 * ((long)image * n.filters + k);
            to[0] = sum(total);
            to[1] = sum(along);
        }
    }

    void backward(int image) const {
        const vf share = splat(1.0f / n.oldest);
        for (int m = 0; m < n.others; ++m)
            for (int k = 0; k < n.filters; ++k) {
                const vf middle = splat(pivot[k]), factor = splat(scale[k]), offset = splat(shift[k]);
                const vf fixed = splat(constant[k]), tilt = splat(slope[k]);
                const float* g_row = grad + (((long)image * n.others + m) * n.filters + k) * n.space;
                const long step = (long)n.others * n.filters * n.space, start = at(image, 0, m, k);
                for (long u = 0; u < n.space; u += LANES) {
                    const long left = n.space - u;
                    const vf g = load_part(g_row + u, left) * share;
                    for (int a = 0; a < n.oldest; ++a) {
                        const vf off = load_part(y + start + a * step + u, left) - middle;
                        const vf d = slope_at(off, factor, offset, g);
                        store_part(out + start + a * step + u, d * factor + off * tilt + fixed, left);
                    }
                }
            }
    }

    void collect(int k, double& first, double& second) const {
        first = second = 0;
        for (int image = 0; image < n.images; ++image) {
            first += sums[2 * ((long)image * n.filters + k)];
            second += sums[2 * ((long)image * n.filters + k) + 1];
        }
    }
};

template <void (Normalize::*method)(int) const>
static void each_image(Normalize& job, int threads) {
    hcnn_parallel(job.n.images, threads, 0,
                  [](void* context, int image, float*) { (((const Normalize*)context)->*method)(image); }, &job);
}

// out, mean and variance of ELU(weight (y - mean) / sqrt(variance + eps) + bias), averaged over the oldest attribute.
static void normalize(const HcnnNormalize* n, const float* y, const float* weight, const float* bias, float* out,
                      float* mean, float* variance, int threads) {
    const Memory<float> scale(n->filters);
    const Memory<double> sums_of(2 * (size_t)n->images * n->filters);
    const double count = (double)n->images * n->oldest * n->others * n->space;
    for (int k = 0; k < n->filters; ++k) {  // a pivot near the mean: the sums of squares then hardly cancel
        double total = 0;
        for (long u = 0; u < n->space; ++u) total += y[(long)k * n->space + u];
        mean[k] = (float)(total / n->space);
    }
    Normalize job{*n, y, nullptr, mean, scale, bias, nullptr, nullptr, out, sums_of};
    each_image<&Normalize::statistics>(job, threads);
    for (int k = 0; k < n->filters; ++k) {
        double first, second;
        job.collect(k, first, second);
        first /= count, second = second / count - first * first;
        variance[k] = second < 0 ? 0.0f : (float)second;
        mean[k] = (float)(mean[k] + first);
        scale[k] = weight[k] / std::sqrt(variance[k] + n->eps);
    }
    each_image<&Normalize::forward>(job, threads);
}

static void normalize_backward(const HcnnNormalize* n, const float* grad, const float* y, const float* weight,
                               const float* bias, const float* mean, const float* variance, float* grad_y,
                               float* grad_weight, float* grad_bias, int threads) {
    const Memory<float> values(3 * (size_t)n->filters);
    float *scale = values, *constant = values + n->filters, *slope = constant + n->filters;
    const Memory<double> sums_of(2 * (size_t)n->images * n->filters);
    const double count = (double)n->images * n->oldest * n->others * n->space;
    for (int k = 0; k < n->filters; ++k) scale[k] = weight[k] / std::sqrt(variance[k] + n->eps);
    Normalize job{*n, y, grad, mean, scale, bias, constant, slope, grad_y, sums_of};
    each_image<&Normalize::backward_sums>(job, threads);
    for (int k = 0; k < n->filters; ++k) {
        double total, along;
        job.collect(k, total, along);
        const double square = (double)variance[k] + n->eps, inverse = 1 / std::sqrt(square);
        grad_weight[k] = (float)(along * inverse);
        grad_bias[k] = (float)total;
        slope[k] = (float)(-scale[k] / square * along / count);
        constant[k] = (float)(-scale[k] * total / count);
    }
    each_image<&Normalize::backward>(job, threads);
}

// ELU(scale y + shift), averaged over the oldest attribute.
static void scale_elu(const HcnnNormalize* n, const float* y, const float* scale, const float* shift, float* out,
                      int threads) {
    const Memory<float> none = Memory<float>::zeros(n->filters);
    Normalize job{*n, y, nullptr, none, scale, shift, nullptr, nullptr, out, nullptr};
    each_image<&Normalize::forward>(job, threads);
}

}  // namespace
