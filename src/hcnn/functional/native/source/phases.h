// The transposed product's taps and weights: every phase of x meets its own taps of a filter.
#pragma once
#include "conv.h"

namespace {

// Taps of one phase of x: which they are and where in the gradient of y they lie.
struct Phase {
    int taps;
    int32_t tap[512], at[512];
};

static void find_phases(const HcnnConv& c, const Layout& l, Phase* phases) {
    for (int p1 = 0; p1 < c.stride[0]; ++p1)
        for (int p2 = 0; p2 < c.stride[1]; ++p2, ++phases) {
            phases->taps = 0;
            for (int i = 0; i < c.support[0]; ++i)
                for (int j = 0; j < c.support[1]; ++j) {
                    const int e1 = p1 + l.margin[0] - i, e2 = p2 + l.margin[1] - j;
                    if (e1 % c.stride[0] || e2 % c.stride[1]) continue;
                    const int row = l.above + e1 / c.stride[0], column = l.left + e2 / c.stride[1];
                    phases->tap[phases->taps] = i * c.support[1] + j;
                    phases->at[phases->taps++] = row * l.pitch + column;
                }
        }
}

// As `pack_weights`, for the transposed product: (tiles of four filters, groups, phases, tiles of aliases, products,
// 4 filters, taps of the phase, aliases).
static void pack_transposed(const HcnnConv& c, const Layout& l, const Phase* phases, const float* w, float* out) {
    for (int first = 0; first < c.filters; first += 4)
        for (int i = 0; i < c.groups; ++i) {
            const Group group = group_of(c, i);
            for (int f = 0; f < l.phases; ++f)
                for (int tile = 0; tile < c.aliases; tile += 4) {
                    const int stop = tile + 4 < c.aliases ? tile + 4 : c.aliases;
                    for (int product = 0; product < (group.complex ? 3 : 1); ++product)
                        for (int k = first; k < first + 4; ++k)
                            for (int t = 0; t < phases[f].taps; ++t)
                                for (int s = tile; s < stop; ++s) {
                                    const auto of = [&](int plane) {
                                        const long at = ((long)plane * c.filters + k) * l.taps + phases[f].tap[t];
                                        return k < c.filters ? w[at] : 0.0f;
                                    };
                                    const float a = of(group.plane + s);
                                    const float b = group.complex ? of(group.plane + c.aliases + s) : 0.0f;
                                    *out++ = product == 0 ? a : product == 1 ? b - a : -(a + b);
                                }
                }
        }
}

}  // namespace
