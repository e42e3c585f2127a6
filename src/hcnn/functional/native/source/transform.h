// Linear maps between planes, along the lanes of pixels: the Fourier transforms along attributes and their transposes.
#pragma once
#include "simd.h"

namespace {

// One small matrix between some planes of a source and some of a target; a view of the arrays that plan.py makes.
struct Block {
    int rows, columns;
    const float* matrix;   // tiles of four rows (the last may have fewer), column by column
    const int32_t *source, *target;
};

// At most two stages of blocks; every plane of the target is written once.
struct Program {
    int stages, between;   // planes between the stages
    int count[2];
    const int32_t* blocks[2];
    const int32_t* indices;
    const float* matrices;

    Program(const int32_t* ints, const float* floats) : stages(ints[0]), between(ints[1]), matrices(floats) {
        count[0] = ints[2], count[1] = ints[3];
        blocks[0] = ints + 4, blocks[1] = blocks[0] + 5 * count[0];
        indices = blocks[1] + 5 * count[1];
    }
    Block block(int stage, int i) const {
        const int32_t* b = blocks[stage] + 5 * i;
        return {b[0], b[1], matrices + b[2], indices + b[3], indices + b[4]};
    }
};

constexpr int MOST = 512;  // planes that a block reads; plan.py keeps to it

template <int V>
INLINE void apply(const Block& block, const float* in, long in_pitch, float* out, long out_pitch) {
    int32_t at[MOST];
    for (int j = 0; j < block.columns; ++j) at[j] = (int32_t)(block.source[j] * in_pitch);
    const float* matrix = block.matrix;
    const auto tile = [&](auto height, int row) {
        constexpr int R = decltype(height)::value;
        vf acc[R][V] = {};
        accumulate(acc, in, at, matrix, block.columns);
        for (int r = 0; r < R; ++r)
            for (int v = 0; v < V; ++v) store(out + block.target[row + r] * out_pitch + v * LANES, acc[r][v]);
        matrix += R * block.columns;
    };
    int row = 0;
    for (; row + 4 <= block.rows; row += 4) tile(Size<4>{}, row);
    if (row < block.rows) rows_of(block.rows - row, [&](auto height) { tile(height, row); });
}

// All of a program over `vectors` vectors of pixels, a few at a time so that what lies between stays in L1.
// `scratch` holds program.between · WIDE · LANES floats.
static void transform(const Program& program, const float* in, long in_pitch, float* out, long out_pitch, long vectors,
                      float* scratch) {
    spans(vectors, [&](auto width, long first) {
        constexpr int V = decltype(width)::value;
        const float* from = in + first * LANES;
        float* to = out + first * LANES;
        if (program.stages == 1) {
            for (int i = 0; i < program.count[0]; ++i) apply<V>(program.block(0, i), from, in_pitch, to, out_pitch);
            return;
        }
        for (int i = 0; i < program.count[0]; ++i) apply<V>(program.block(0, i), from, in_pitch, scratch, V * LANES);
        for (int i = 0; i < program.count[1]; ++i) apply<V>(program.block(1, i), scratch, V * LANES, to, out_pitch);
    });
}

}  // namespace
