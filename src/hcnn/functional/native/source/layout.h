// Where the pixels of a strip of rows lie in scratch: rows with their margins side by side, one phase of the spatial
// strides after the other, so that a tap of a filter is one distance whatever the size, stride and boundary are.
#pragma once
#include "api.h"
#include "memory.h"
#include "simd.h"

namespace {

INLINE int wrapped(int at, int size, bool wrap) {  // -1 for outside
    if (at >= 0 && at < size) return at;
    if (!wrap) return -1;
    at %= size;
    return at < 0 ? at + size : at;
}

struct Layout {
    int margin[2], phases, taps;
    int pitch;            // of a row, in x and in y alike
    int above, below;     // rows of y that the gradient of a strip of x needs beyond its own
    int left;             // columns of y before the first
    int rows;             // of y in a strip
    int x_rows;           // of each phase of x in a strip
    long x_plane, y_plane, g_plane;  // floats; y_plane: a strip of y, g_plane: with the rows above and below

    Layout(const HcnnConv& c, int rows_of_strip) : rows(rows_of_strip) {
        int beside[2], after[2], before[2];
        for (int i = 0; i < 2; ++i) {
            const int k = c.support[i], s = c.stride[i];
            margin[i] = k / 2;
            before[i] = margin[i] / s;
            after[i] = (s - 1 + margin[i]) / s;
            beside[i] = (k - 1) / s;
            if (before[i] + after[i] > beside[i]) beside[i] = before[i] + after[i];
        }
        phases = c.stride[0] * c.stride[1];
        taps = c.support[0] * c.support[1];
        pitch = c.out_width + beside[1];
        above = before[0], below = after[0], left = before[1];
        x_rows = rows + (c.support[0] - 1) / c.stride[0];
        // A vector read at the last position of a plane ends within it.
        x_plane = up<long>((long)phases * x_rows * pitch + 2 * LANES, LANES);
        y_plane = up<long>((long)rows * pitch, LANES);
        g_plane = up<long>((long)(rows + above + below) * pitch + 2 * LANES, LANES);
    }
    // The layout of what has been convolved along space already: a strip of y without margins.
    Layout pointwise() const {
        Layout l = *this;
        l.margin[0] = l.margin[1] = l.above = l.below = l.left = 0;
        l.phases = l.taps = 1;
        l.x_rows = rows;
        l.x_plane = l.g_plane = l.y_plane;
        return l;
    }
    // Distance from the first position of y to what a tap of a filter meets in x.
    int tap(const HcnnConv& c, int i, int j) const {
        const int phase = (i % c.stride[0]) * c.stride[1] + j % c.stride[1];
        return (phase * x_rows + i / c.stride[0]) * pitch + j / c.stride[1];
    }
};

// One row of `pitch` columns, of which column j is from[j · stride + offset], wrapped or zero where that is outside.
INLINE void gather_row(const float* from, int width, int stride, int offset, bool wrap, int pitch, float* to) {
    const auto outside = [&](int column) {
        const int at = wrapped(column * stride + offset, width, wrap);
        to[column] = at < 0 ? 0.0f : from[at];
    };
    int column = 0;
    for (; column < pitch && column * stride + offset < 0; ++column) outside(column);
    const int inside = (width - 1 - offset + stride) / stride, stop = inside < pitch ? inside : pitch;
    const float* shifted = from + offset;
    if (stride == 1) {
        copy(to + column, shifted + column, stop - column);
        column = stop;
    } else if (stride == 2)
        for (; 2 * (column + LANES) + offset <= width && column + LANES <= stop; column += LANES)
            store(to + column, evens(load(shifted + 2 * column), load(shifted + 2 * column + LANES)));
    for (; column < stop; ++column) to[column] = shifted[(long)column * stride];
    for (; column < pitch; ++column) outside(column);
}

// Rows of one plane of x as a strip needs them; `first` is the strip's first row of y.
static void gather_x(const HcnnConv& c, const Layout& l, const float* x, int first, float* out) {
    const int s1 = c.stride[0], s2 = c.stride[1];
    float* to = out;
    const int next = first * s1 < c.height - l.x_rows * s1 ? first * s1 : 0;
    fetch(x + (long)(c.height + next) * c.width, (long)l.x_rows * s1 * c.width);
    for (int p1 = 0; p1 < s1; ++p1)
        for (int p2 = 0; p2 < s2; ++p2)
            for (int row = 0; row < l.x_rows; ++row, to += l.pitch) {
                const int from = wrapped((first + row) * s1 + p1 - l.margin[0], c.height, c.wrap);
                if (from < 0) memset(to, 0, sizeof(float) * l.pitch);
                else gather_row(x + (long)from * c.width, c.width, s2, p2 - l.margin[1], c.wrap, l.pitch, to);
            }
    memset(to, 0, sizeof(float) * (out + l.x_plane - to));
}

// Rows of one plane of the gradient of y, with those above and below.
static void gather_g(const HcnnConv& c, const Layout& l, const float* g, int first, float* out) {
    float* to = out;
    fetch(g + (long)(c.out_height + first) * c.out_width, (long)l.rows * c.out_width);
    for (int row = -l.above; row < l.rows + l.below; ++row, to += l.pitch) {
        const int from = wrapped(first + row, c.out_height, c.wrap);
        if (from < 0) memset(to, 0, sizeof(float) * l.pitch);
        else gather_row(g + (long)from * c.out_width, c.out_width, 1, -l.left, c.wrap, l.pitch, to);
    }
    memset(to, 0, sizeof(float) * (out + l.g_plane - to));
}

// Rows of y in a strip, so that `floats` floats per row of scratch stay within a second-level cache; strips are even.
static int rows_of_strip(const HcnnConv& c, double floats_per_position) {
    const double most = 150e3 / (floats_per_position * (c.out_width + 2));
    int rows = most < 2 ? 2 : most > c.out_height ? c.out_height : (int)most;
    const int strips = (c.out_height + rows - 1) / rows;
    return (c.out_height + strips - 1) / strips;
}

}  // namespace
