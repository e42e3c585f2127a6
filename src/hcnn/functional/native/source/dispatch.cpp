// What Python calls: each function of the variant that suits this processor, or the one that was asked for.
#include <cstring>
#include <new>

#include "api.h"

#if defined(_WIN32)
#define EXPORT extern "C" __declspec(dllexport)
#else
#define EXPORT extern "C" __attribute__((visibility("default")))
#endif

extern const HcnnVariant hcnn_baseline;
#if defined(__x86_64__)
extern const HcnnVariant hcnn_avx2, hcnn_avx512;
static const HcnnVariant* const variants[] = {&hcnn_avx512, &hcnn_avx2, &hcnn_baseline};
static bool runs(const HcnnVariant* variant) {
    if (variant == &hcnn_avx512)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
               __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
    return variant != &hcnn_avx2 || (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"));
}
#else
static const HcnnVariant* const variants[] = {&hcnn_baseline};  // NEON is part of every aarch64
static bool runs(const HcnnVariant*) { return true; }
#endif

static const HcnnVariant* chosen = nullptr;

// Takes the variant of a name, or the best one if it is null; returns the name of the one taken, null if it cannot be.
EXPORT const char* hcnn_choose(const char* name) {
    for (const HcnnVariant* variant : variants)
        if (runs(variant) && (!name || !std::strcmp(name, variant->name))) {
            chosen = variant;
            return variant->name;
        }
    return nullptr;
}

EXPORT void hcnn_use_team(void* function) { hcnn_set_team(function); }

EXPORT const char* hcnn_source() { return HCNN_SOURCE; }  // a digest of what this was compiled from

// 0, or 1 where there was not enough memory.
template <class Call>
static int attempt(Call call) {
    try {
        call();
        return 0;
    } catch (const std::bad_alloc&) {
        return 1;
    }
}

EXPORT int hcnn_conv(const HcnnConv* c, const float* x, const float* w, const float* bias, float* out, int threads) {
    return attempt([&] { chosen->conv(c, x, w, bias, out, threads); });
}
EXPORT int hcnn_conv_backward(const HcnnConv* c, const float* grad, const float* x, const float* w, float* grad_x,
                              float* grad_w, float* grad_bias, int threads) {
    return attempt([&] { chosen->conv_backward(c, grad, x, w, grad_x, grad_w, grad_bias, threads); });
}
EXPORT int hcnn_plus(const HcnnConv* c, const float* x, const float* h, const float* shift, const float* w, float* out,
                     int threads) {
    return attempt([&] { chosen->plus(c, x, h, shift, w, out, threads); });
}
EXPORT int hcnn_plus_backward(const HcnnConv* c, const float* grad, const float* x, const float* h, const float* shift,
                              const float* w, float* grad_x, float* grad_h, float* grad_shift, float* grad_w,
                              int threads) {
    return attempt([&] { chosen->plus_backward(c, grad, x, h, shift, w, grad_x, grad_h, grad_shift, grad_w, threads); });
}
EXPORT int hcnn_normalize(const HcnnNormalize* n, const float* y, const float* weight, const float* bias, float* out,
                          float* mean, float* variance, int threads) {
    return attempt([&] { chosen->normalize(n, y, weight, bias, out, mean, variance, threads); });
}
EXPORT int hcnn_normalize_backward(const HcnnNormalize* n, const float* grad, const float* y, const float* weight,
                                   const float* bias, const float* mean, const float* variance, float* grad_y,
                                   float* grad_weight, float* grad_bias, int threads) {
    return attempt([&] {
        chosen->normalize_backward(n, grad, y, weight, bias, mean, variance, grad_y, grad_weight, grad_bias, threads);
    });
}
EXPORT int hcnn_scale_elu(const HcnnNormalize* n, const float* y, const float* scale, const float* shift, float* out,
                          int threads) {
    return attempt([&] { chosen->scale_elu(n, y, scale, shift, out, threads); });
}
EXPORT int hcnn_moments(const HcnnMoments* m, const float* x, double* result, int threads) {
    return attempt([&] { chosen->moments(m, x, result, threads); });
}
EXPORT int hcnn_moments_backward(const HcnnMoments* m, const float* x, const float* mean, const float* grad_mean,
                                 const float* grad_covariance, float* grad_x, int threads) {
    return attempt([&] { chosen->moments_backward(m, x, mean, grad_mean, grad_covariance, grad_x, threads); });
}
