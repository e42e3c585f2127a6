// First and second moments of all 3×3 patches in one pass over x, and their gradient.
//
// Every second moment is a sum of products of two values at most two rows and two columns apart. Rows are extended by
// their margins and taken about a pivot; for row distances 0, 1 and 2 the sums over a row of all pairs of column
// offsets (6, 9 and 9 of them) and of the three first moments are kept in lanes. A patch's row i runs over all rows
// but two at the ends, whose sums are kept apart.
#pragma once
#include "normalize.h"

namespace {

constexpr int SUMS = 27;  // first moments 0 … 2; distance 0: 3 … 8; 1: 9 … 17; 2: 18 … 26
constexpr int PAIR[3][3] = {{0, 1, 2}, {1, 3, 4}, {2, 4, 5}};

struct Moments {
    const HcnnMoments& m;
    const float* x;
    float pivot;
    double* out;  // (images, 5, SUMS): all rows, then the rows 0, 1, height, height + 1 of the extended x

    long pitch() const { return up<long>(m.width + 2, LANES) + LANES; }
    long scratch() const { return up<long>((m.height + 4) * pitch(), LANES) + 5L * SUMS * LANES; }

    // A map with margins: `margin` rows and columns more on each side, minus the pivot.
    static void extend(const HcnnMoments& m, const float* map, float pivot, int margin, float* to, long pitch) {
        fetch(map + (long)m.height * m.width, (long)m.height * m.width);
        for (int row = -margin; row < m.height + margin; ++row, to += pitch) {
            const int from = row < 0 || row >= m.height ? (m.wrap ? ((row % m.height) + m.height) % m.height : -1) : row;
            if (from < 0) {
                for (long i = 0; i < m.width + 2 * margin; ++i) to[i] = -pivot;
                continue;
            }
            const float* line = map + (long)from * m.width;
            for (int i = 0; i < m.width; ++i) to[margin + i] = line[i] - pivot;
            for (int i = 1; i <= margin; ++i) {
                const int before = (((-i) % m.width) + m.width) % m.width, after = (i - 1) % m.width;
                to[margin - i] = m.wrap ? line[before] - pivot : -pivot;
                to[margin + m.width - 1 + i] = m.wrap ? line[after] - pivot : -pivot;
            }
        }
    }

    // Adds the products of all pairs of column offsets of some rows with those that many rows below.
    template <int DISTANCE>
    INLINE void row_sums(const float* row, long pitch, int rows, int width, vf* total) {
        vf acc[9] = {};
        for (int r = 0; r < rows; ++r)
            for (int c = 0; c < width; c += LANES) {
                const float* p = row + r * pitch + c;
                const int left = width - c;
                vf upper[3], lower[3];
                for (int j = 0; j < 3; ++j) {
                    upper[j] = load(p + j);
                    if (left < LANES) upper[j] = keep(upper[j], first_lanes(left));
                    lower[j] = DISTANCE ? load(p + DISTANCE * pitch + j) : upper[j];
                }
                if constexpr (DISTANCE == 0) {
                    for (int j = 0; j < 3; ++j) acc[j] += upper[j];
                    for (int i = 0; i < 3; ++i)
                        for (int j = i; j < 3; ++j) acc[3 + PAIR[i][j]] += upper[i] * lower[j];
                } else
                    for (int i = 0; i < 3; ++i)
                        for (int j = 0; j < 3; ++j) acc[3 * i + j] += upper[i] * lower[j];
            }
        for (int i = 0; i < 9; ++i) total[i] += acc[i];
    }

    void run(int image, float* memory) const {
        const long p = pitch();
        memset(memory, 0, sizeof(float) * scratch());
        float* map = memory;
        vf* total = (vf*)(memory + up<long>((m.height + 4) * p, LANES));
        for (int v = 0; v < m.maps; ++v) {
            extend(m, x + ((long)image * m.maps + v) * m.height * m.width, pivot, 1, map, p);
            row_sums<0>(map, p, m.height + 2, m.width, total);
            row_sums<1>(map, p, m.height + 1, m.width, total + 9);
            row_sums<2>(map, p, m.height, m.width, total + 18);
            const int edges[4] = {0, 1, m.height, m.height + 1};
            for (int e = 0; e < 4; ++e) {
                const float* r = map + edges[e] * p;
                row_sums<0>(r, p, 1, m.width, total + (e + 1) * SUMS);
                if (edges[e] <= m.height) row_sums<1>(r, p, 1, m.width, total + (e + 1) * SUMS + 9);
            }
        }
        for (int i = 0; i < 5 * SUMS; ++i) out[(long)image * 5 * SUMS + i] = sum(total[i]);
    }
};

// result: mean (9) and covariance (9, 9), in float64.
static void moments(const HcnnMoments* m, const float* x, double* result, int threads) {
    const long size = (long)m->height * m->width;
    double pivot = 0;  // of the first map; any value near the mean does
    for (long i = 0; i < size; ++i) pivot += x[i];
    const Memory<double> parts((size_t)m->images * 5 * SUMS);
    Moments job{*m, x, (float)(pivot / size), parts};
    hcnn_parallel(m->images, threads, job.scratch(),
                  [](void* context, int image, float* scratch) { ((const Moments*)context)->run(image, scratch); }, &job);
    double total[5][SUMS] = {};
    for (int image = 0; image < m->images; ++image)
        for (int e = 0; e < 5; ++e)
            for (int i = 0; i < SUMS; ++i) total[e][i] += parts[((long)image * 5 + e) * SUMS + i];
    const double count = (double)m->images * m->maps * size;
    // Rows 0 … 2 of a patch run over all extended rows but two.
    const int left_out[3][2] = {{3, 4}, {1, 4}, {1, 2}}, left_out_next[2] = {3, 1};
    const auto of = [&](int i, int distance, int slot) {
        if (distance == 0) return total[0][slot] - total[left_out[i][0]][slot] - total[left_out[i][1]][slot];
        if (distance == 1) return total[0][9 + slot] - total[left_out_next[i]][9 + slot];
        return total[0][18 + slot];
    };
    double *mean = result, *covariance = result + 9;
    for (int i = 0; i < 3; ++i)
        for (int j = 0; j < 3; ++j) mean[3 * i + j] = of(i, 0, j) / count;
    for (int a = 0; a < 9; ++a)
        for (int b = a; b < 9; ++b) {
            const int i = a / 3, distance = b / 3 - i;
            const double second = of(i, distance, distance ? 3 * (a % 3) + b % 3 : 3 + PAIR[a % 3][b % 3]) / count;
            covariance[9 * a + b] = covariance[9 * b + a] = second - mean[a] * mean[b];
        }
    for (int a = 0; a < 9; ++a) mean[a] += job.pivot;
}

// dx(u) = Σ_t e_t(u - t) with e(u) = (G (p(u) - mean) + dmean) / n, G = dC + dCᵀ: a 5×5 filter of x and a constant. At
// borders of zeros the patches whose centre lies outside are missing, hence filters for each kind of row and column.
struct MomentsBackward {
    const HcnnMoments& m;
    const float* x;
    float pivot;
    float filter[4][4][25], constant[4][4];  // kind: 1 without the patch before, 2 without the one behind, 3 both
    float* out;

    long pitch() const { return up<long>(m.width + 4, LANES) + LANES; }
    long scratch() const { return (m.height + 4) * pitch(); }
    // R rows of the result that have the same filter; a value of x that is loaded serves all of them.
    template <int R>
    void filtered(int rows, const float* from, float* to) const {
        const long p = pitch();
        const float* f = filter[rows][0];
        for (int c = 0; c < m.width; c += LANES) {
            vf acc[R];
            for (int r = 0; r < R; ++r) acc[r] = splat(constant[rows][0]);
            for (int j = 0; j < 5; ++j) {
                vf tap[5];
                for (int i = 0; i < 5; ++i) tap[i] = splat(f[5 * i + j]);
                for (int i = 0; i < R + 4; ++i) {
                    const vf value = load(from + i * p + c + j);
                    for (int r = 0; r < R; ++r)
                        if (i >= r && i < r + 5) acc[r] += value * tap[i - r];
                }
            }
            for (int r = 0; r < R; ++r) store_part(to + (long)r * m.width + c, acc[r], m.width - c);
        }
    }

    int kind(int at, int size) const { return m.wrap ? 0 : (at == 0 ? 1 : 0) + (at == size - 1 ? 2 : 0); }

    void run(int image, float* map) const {
        const long p = pitch();
        memset(map, 0, sizeof(float) * scratch());
        for (int v = 0; v < m.maps; ++v) {
            const long at = ((long)image * m.maps + v) * m.height * m.width;
            Moments::extend(m, x + at, pivot, 2, map, p);
            for (int row = 0, count; row < m.height; row += count) {
                count = 1;
                while (count < 4 && row + count < m.height && kind(row + count, m.height) == kind(row, m.height)) ++count;
                rows_of(count, [&](auto height) {
                    filtered<decltype(height)::value>(kind(row, m.height), map + row * p, out + at + (long)row * m.width);
                });
            }
            if (m.wrap) continue;
            for (int row = 0; row < m.height; ++row) {
                const int rows = kind(row, m.height);
                const float* from = map + row * p;
                float* to = out + at + (long)row * m.width;
                for (int c = 0; c < m.width; c += m.width > 1 ? m.width - 1 : 1) {
                    const int columns = kind(c, m.width);
                    const float* g = filter[rows][columns];
                    float value = constant[rows][columns];
                    for (int i = 0; i < 5; ++i)
                        for (int j = 0; j < 5; ++j) value += from[i * p + c + j] * g[5 * i + j];
                    to[c] = value;
                }
            }
        }
    }
};

static void moments_backward(const HcnnMoments* m, const float* x, const float* mean, const float* grad_mean,
                             const float* grad_covariance, float* grad_x, int threads) {
    MomentsBackward job{*m, x, mean[4], {}, {}, grad_x};
    const double count = (double)m->images * m->maps * m->height * m->width;
    for (int rows = 0; rows < 4; ++rows)
        for (int columns = 0; columns < 4; ++columns)
            for (int t = 0; t < 9; ++t) {
                // Row t of the patch centred one row above u (t = 2, so u is its last row) is missing in the first row.
                if ((t / 3 == 2 && rows & 1) || (t / 3 == 0 && rows & 2)) continue;
                if ((t % 3 == 2 && columns & 1) || (t % 3 == 0 && columns & 2)) continue;
                double constant = grad_mean[t];
                for (int s = 0; s < 9; ++s) {
                    const double g = (double)grad_covariance[9 * t + s] + grad_covariance[9 * s + t];
                    constant -= g * ((double)mean[s] - job.pivot);
                    const int i = s / 3 - t / 3 + 2, j = s % 3 - t % 3 + 2;
                    job.filter[rows][columns][5 * i + j] += (float)(g / count);
                }
                job.constant[rows][columns] += (float)(constant / count);
            }
    hcnn_parallel(m->images, threads, job.scratch(),
                  [](void* context, int image, float* map) { ((const MomentsBackward*)context)->run(image, map); }, &job);
}

}  // namespace
