// Vectors of floats, written once: LANES is 4, 8 or 16 as the instruction set that this is compiled for has them.
#pragma once
#include <cstdint>
#include <cstring>

#define INLINE static inline __attribute__((always_inline))

namespace {  // every variant has its own copy: nothing here may be shared between instruction sets

#if defined(__AVX512F__)
constexpr int LANES = 16, WIDE = 4;  // WIDE: vectors of a tile of four rows, as the registers allow
#define EACH_LANE(f) f(0), f(1), f(2), f(3), f(4), f(5), f(6), f(7), f(8), f(9), f(10), f(11), f(12), f(13), f(14), f(15)
#elif defined(__AVX2__)
constexpr int LANES = 8, WIDE = 2;
#define EACH_LANE(f) f(0), f(1), f(2), f(3), f(4), f(5), f(6), f(7)
#elif defined(__aarch64__)
constexpr int LANES = 4, WIDE = 6;
#define EACH_LANE(f) f(0), f(1), f(2), f(3)
#else
constexpr int LANES = 4, WIDE = 3;
#define EACH_LANE(f) f(0), f(1), f(2), f(3)
#endif

typedef float vf __attribute__((vector_size(LANES * 4)));
typedef float vf_anywhere __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef int32_t vi __attribute__((vector_size(LANES * 4)));
typedef uint32_t vu __attribute__((vector_size(LANES * 4)));

INLINE vf load(const float* p) { return *(const vf_anywhere*)p; }
INLINE void store(float* p, vf v) { *(vf_anywhere*)p = v; }
INLINE vf splat(float s) { return s - (vf){}; }

// The first `count` lanes are all ones, the others zeros.
INLINE vi first_lanes(long count) {
#define LANE(i) i
    const vi lane = {EACH_LANE(LANE)};
#undef LANE
    return lane < (int32_t)(count < LANES ? count : LANES);
}
INLINE vf keep(vf v, vi mask) { return (vf)((vi)v & mask); }

// What stands before and after one another in pairs, of two vectors; and back.
#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE(a, b, f) __builtin_shufflevector(a, b, EACH_LANE(f))
#else
#define SHUFFLE(a, b, f) __builtin_shuffle(a, b, (vi){EACH_LANE(f)})
#endif
#define EVEN(i) 2 * (i)
#define ODD(i) 2 * (i) + 1
#define LOWER(i) (i) / 2 + ((i) % 2 ? LANES : 0)
#define UPPER(i) (i) / 2 + ((i) % 2 ? LANES : 0) + LANES / 2
INLINE vf evens(vf a, vf b) { return SHUFFLE(a, b, EVEN); }
INLINE vf odds(vf a, vf b) { return SHUFFLE(a, b, ODD); }
INLINE vf interleave_lower(vf a, vf b) { return SHUFFLE(a, b, LOWER); }
INLINE vf interleave_upper(vf a, vf b) { return SHUFFLE(a, b, UPPER); }
#undef EVEN
#undef ODD
#undef LOWER
#undef UPPER

// memcpy of short rows, without a call.
INLINE void copy(float* to, const float* from, long count) {
    typedef float four __attribute__((vector_size(16), aligned(4), may_alias));
    long i = 0;
    for (; i + LANES <= count; i += LANES) store(to + i, load(from + i));
    if (LANES > 4)
        for (; i + 4 <= count; i += 4) *(four*)(to + i) = *(const four*)(from + i);
    for (; i < count; ++i) to[i] = from[i];
}

// Fetches what is copied next: a processor foresees reading on within a page, and a map is often just one.
INLINE void fetch(const float* from, long count) {
    for (long i = 0; i < count; i += 16) __builtin_prefetch(from + i);
}

template <int H>
INLINE vf swap_lanes(vf v) {  // lane l gets lane l ^ H
#define LANE(i) (i) ^ H
    return SHUFFLE(v, v, LANE);
#undef LANE
}

template <int H>
INLINE vf fold(vf a, vf b) {  // lanes without bit H: a summed over that bit; lanes with it: b
#define LANE(i) ((i) & H ? -1 : 0)
    const vi second = {EACH_LANE(LANE)};
#undef LANE
    const vf own = (vf)(((vi)a & ~second) | ((vi)b & second));
    const vf other = (vf)(((vi)b & ~second) | ((vi)a & second));
    return own + swap_lanes<H>(other);
}

// Lane l of the result is the sum over the lanes of v[l].
INLINE vf sums(vf (&v)[LANES]) {
    if constexpr (LANES >= 16)
        for (int i = 0; i < LANES / 2; ++i) v[i] = fold<LANES / 2>(v[i], v[i + LANES / 2]);
    constexpr int EIGHT = LANES < 8 ? LANES : 8;
    if constexpr (LANES >= 8)
        for (int i = 0; i < EIGHT / 2; ++i) v[i] = fold<EIGHT / 2>(v[i], v[i + EIGHT / 2]);
    for (int i = 0; i < 2; ++i) v[i] = fold<2>(v[i], v[i + 2]);
    return fold<1>(v[0], v[1]);
}
INLINE float sum(vf v) {
    float total = 0;
    for (int i = 0; i < LANES; ++i) total += v[i];
    return total;
}

// exp of numbers <= 0, to one unit in the last place; 0 stands for what is below 1e-38. NaN stays NaN.
INLINE vf exp_nonpositive(vf t) {
    t = t < splat(-87.3f) ? splat(-87.3f) : t;
    const vf shifted = t * 1.44269504f + 12582912.0f;  // rounds to the nearest integer, which lands in the low bits
    const vf n = shifted - 12582912.0f;
    vf r = t - n * 0.693145752f;
    r = r - n * 1.42860677e-6f;
    vf p = r * 1.98756915e-4f + 1.39819994e-3f;
    p = p * r + 8.33345187e-3f;
    p = p * r + 4.16657962e-2f;
    p = p * r + 1.66666657e-1f;
    p = p * r + 0.5f;
    p = p * r * r + r + 1.0f;
    const vu power = ((vu)shifted << 23) + (127u << 23);
    return p * (vf)power;
}
INLINE vf elu(vf t) {
    const vf zero = {};
    const vf e = exp_nonpositive(t > zero ? zero : t) - 1.0f;
    return t > zero ? t : e;
}

template <int N>
struct Size {
    static constexpr int value = N;
};

// The number of vectors `count` cut into spans of at most WIDE, as even as can be: body(Size<width>, first).
template <class Body>
INLINE void spans(long count, Body body) {
    const long pieces = (count + WIDE - 1) / WIDE;
    long first = 0;
    for (long i = 0; i < pieces; ++i) {
        const long width = (count - first + (pieces - i) - 1) / (pieces - i);
        switch (width) {
            case 1: body(Size<1>{}, first); break;
            case 2: body(Size<2>{}, first); break;
            case 3: body(Size<3>{}, first); break;
#if defined(__AVX512F__) || defined(__aarch64__)
            case 4: body(Size<4>{}, first); break;
            case 5: body(Size<5>{}, first); break;
            case 6: body(Size<6>{}, first); break;
#endif
        }
        first += width;
    }
}

template <class Body>
INLINE void rows_of(int rows, Body body) {
    switch (rows) {
        case 1: body(Size<1>{}); break;
        case 2: body(Size<2>{}); break;
        case 3: body(Size<3>{}); break;
        case 4: body(Size<4>{}); break;
    }
}

// The one product that everything here is made of: acc[r] += Σ_j matrix[j][r] · in[at[j] …], over V vectors.
template <int R, int V>
INLINE void accumulate(vf (&acc)[R][V], const float* in, const int32_t* at, const float* matrix, int count) {
    vf own[R][V];  // a copy that no one else has the address of stays in registers
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v) own[r][v] = acc[r][v];
    for (int j = 0; j < count; ++j) {
        const float* p = in + at[j];
        vf x[V];
        for (int v = 0; v < V; ++v) x[v] = load(p + v * LANES);
        for (int r = 0; r < R; ++r) {
            const vf m = splat(matrix[j * R + r]);
            for (int v = 0; v < V; ++v) own[r][v] += m * x[v];
        }
    }
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v) acc[r][v] = own[r][v];
}

template <class T>
INLINE T up(T n, T step) {
    return (n + step - 1) / step * step;
}

}  // namespace
