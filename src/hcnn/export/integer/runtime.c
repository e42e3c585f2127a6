/* Two 16-bit numbers, and the sum of their products with two others: one instruction where the processor has it. */
#if defined(__ARM_FEATURE_SIMD32) && !defined(__ARM_BIG_ENDIAN) && !defined(NET_PLAIN_C)
#include <arm_acle.h>
typedef int16x2_t net_two;
#define NET_DUAL(x, w, sum) __smlad(x, w, sum)
typedef uint32_t net_four;
static inline net_two net_pair(const int16_t *x)
{
    net_two both;
    memcpy(&both, x, sizeof both);
    return both;
}
static inline net_four net_weights(const int8_t *w)
{
    net_four four;
    memcpy(&four, w, sizeof four);
    return four;
}
/* Weights 0 and 1, and 2 and 3, of four that lie in memory as 0 2 1 3. */
static inline net_two net_first(net_four w) { return __sxtb16((int8x4_t)w); }
static inline net_two net_second(net_four w)
{
#ifdef __GNUC__
    net_two both; /* there is no intrinsic for the rotation that the instruction includes */
    __asm__("sxtb16 %0, %1, ror #8" : "=r"(both) : "r"(w));
    return both;
#else
    return __sxtb16((int8x4_t)(w >> 8));
#endif
}
#else
typedef struct { int32_t low, high; } net_two;
typedef const int8_t *net_four;
#define NET_DUAL(x, w, sum) ((sum) + (x).low * (w).low + (x).high * (w).high)
static inline net_two net_pair(const int16_t *x)
{
    const net_two both = {x[0], x[1]};
    return both;
}
static inline net_four net_weights(const int8_t *w) { return w; }
static inline net_two net_first(net_four w)
{
    const net_two both = {w[0], w[2]};
    return both;
}
static inline net_two net_second(net_four w)
{
    const net_two both = {w[1], w[3]};
    return both;
}
#endif

typedef struct { uint16_t line, tap, count; } net_run_t; /* neighbouring lines that meet neighbouring taps */
typedef struct { int32_t left, multiplier, half, right; } net_rescale_t; /* half is 2^(right - 1) */

/* One convolution. An array lies pixel by pixel in 8 bits, x = scale (q - zero); a pixel is lines of the newest attribute. */
typedef struct net_layer_t {
    int16_t height, width, lines, length;       /* of x */
    int16_t rows, columns;                      /* of y */
    int16_t step_y, step_x, support_y, support_x;
    int16_t lead, pitch;                        /* in the ring: where the values of a line begin, and its room */
    int16_t filters, outputs, kept, averaged;   /* y: averaged parts of (kept, outputs, filters) */
    int16_t taps, padded;                       /* of the older attributes; of a line, with zeros to a multiple of 4 */
    int16_t activation;                         /* 0 none, 1 max(0, x), 2 ELU */
    int16_t bias_step;                          /* filters if every output has biases of its own, else 0 */
    int16_t zero, source_zero, residual_zero;
    int32_t target, source, residual;           /* offsets; -1 for the image and for none */
    net_rescale_t inner, added, outer;
    const int32_t *multiplier;                  /* of `inner`, one per filter */
    const int8_t *weight;                       /* (filters, support_y, taps, support_x, padded), see also below */
    const int32_t *bias;
    const net_run_t *runs;
    const uint16_t *ends;                       /* where the runs of each older output end */
    void (*sum)(int32_t *sums, const int16_t *const *rows, const int8_t *w, const net_run_t *run);
                                                /* NULL if there are no lines but channels */
} net_layer_t;

/* TABLES */

static int8_t net_arena[NET_ARENA];
static int16_t net_ring[NET_RING]; /* the rows of x that a row of y needs, in 16 bits, zeros subtracted */

/* floor(left a multiplier / 2^(32 + right) + 1/2) */
static inline int32_t net_scaled(int32_t a, int32_t multiplier, const net_rescale_t *r)
{
    return ((int32_t)((int64_t)(a * r->left) * multiplier >> 32) + r->half) >> r->right;
}

/* The activation of a value in 2^-F. */
static inline int32_t net_active(int32_t v, int activation)
{
    if (v > 0 || activation == 0) return v;
    if (activation == 1) return 0;
    v = (NET_ELU_HALF - v) >> NET_ELU_STEP;
    return net_elu[v < 255 ? v : 255];
}

static inline int8_t net_code(const net_layer_t *l, int32_t v)
{
    v = net_scaled(v, l->outer.multiplier, &l->outer) + l->zero;
    return (int8_t)(v < -128 ? -128 : v > 127 ? 127 : v);
}

/* Bring a row of x into the ring. */
static void net_load(int16_t *to, const net_layer_t *l, int row, const unsigned char *bytes)
{
    const int border = l->support_x / 2, pixel = l->lines * l->pitch;
    const int8_t *from = net_arena + l->source + row * l->width * l->lines * l->length;
    for (int j = 0; j < l->width; j++) {
        int16_t *at = to + (j + border) * pixel + l->lead;
        for (int line = 0; line < l->lines; line++, at += l->pitch) {
            if (l->source < 0)
                for (int i = 0; i < l->length; i++)
                    at[i] = (int16_t)(bytes[(i * l->height + row) * l->width + j] - net_pixel_zero[i]);
            else
                for (int i = 0; i < l->length; i++) at[i] = (int16_t)(*from++ - l->source_zero);
#if NET_PERIODIC
            for (int i = -l->lead; i < 0; i++) at[i] = at[(i % l->length + l->length) % l->length];
            for (int i = l->length; i < l->pitch - l->lead; i++) at[i] = at[i % l->length];
#endif
        }
    }
#if NET_PERIODIC
    for (int j = 0; j < border; j++) {
        memcpy(to + j * pixel, to + (l->width + j) * pixel, sizeof *to * (size_t)pixel);
        memcpy(to + (border + l->width + j) * pixel, to + (border + j) * pixel, sizeof *to * (size_t)pixel);
    }
#endif
}

/* A row of y where each value of x is a channel: two pixels and two filters at once, whose weights lie in turn by four. */
static void net_channels_row(int8_t *y, const int8_t *added, const int16_t *const *rows, const net_layer_t *l)
{
    const int length = l->support_x * l->pitch;
    for (int j = 0; j < l->columns; j += 2) {
        const int next = j + 1 < l->columns, advance = next ? l->step_x * l->pitch : 0;
        const int8_t *w = l->weight;
        for (int k = 0; k < l->filters; k += 2) {
            const int other = k + 1 < l->filters;
            int32_t a = l->bias[k], b = l->bias[k + other], c = a, d = b;
            for (int dy = 0; dy < l->support_y; dy++) {
                if (!rows[dy]) {
                    w += 2 * length;
                    continue;
                }
                const int16_t *x = rows[dy] + j * l->step_x * l->pitch;
                for (const int16_t *end = x + length; x != end; x += 4, w += 8) {
                    const net_four wk = net_weights(w), wn = net_weights(w + 4);
                    const net_two x0 = net_pair(x), z0 = net_pair(x + advance);
                    a = NET_DUAL(x0, net_first(wk), a);
                    c = NET_DUAL(z0, net_first(wk), c);
                    b = NET_DUAL(x0, net_first(wn), b);
                    d = NET_DUAL(z0, net_first(wn), d);
                    const net_two x1 = net_pair(x + 2), z1 = net_pair(x + 2 + advance);
                    a = NET_DUAL(x1, net_second(wk), a);
                    c = NET_DUAL(z1, net_second(wk), c);
                    b = NET_DUAL(x1, net_second(wn), b);
                    d = NET_DUAL(z1, net_second(wn), d);
                }
            }
            const int32_t sums[2][2] = {{a, b}, {c, d}};
            for (int n = 0; n <= next; n++)
                for (int m = 0; m <= other; m++) {
                    const int at = (j + n) * l->filters + k + m;
                    int32_t v = net_scaled(sums[n][m], l->multiplier[k + m], &l->inner);
                    if (added) v += net_scaled(added[at] - l->residual_zero, l->added.multiplier, &l->added);
                    y[at] = net_code(l, net_active(v, l->activation));
                }
        }
    }
}

/* A row of y where the values of a line of x are those of an attribute. */
static void net_lines_row(int8_t *y, const int16_t *const *rows, const net_layer_t *l)
{
    const int advance = l->step_x * l->lines * l->pitch, size = l->support_y * l->support_x * l->taps * l->padded;
    const int outputs = l->outputs, filters = l->filters;
    const int16_t *seen[NET_MAX_SUPPORT] = {0};
    for (int j = 0; j < l->columns; j++) {
        for (int dy = 0; dy < l->support_y; dy++) seen[dy] = rows[dy] ? rows[dy] + j * advance : 0;
        for (int older = 0; older < l->kept; older++, y += outputs * filters) {
            const int8_t *w = l->weight;
            for (int k = 0; k < filters; k++, w += size) {
                int32_t total[NET_MAX_OUTPUTS] = {0};
                for (int o = older; o < l->kept * l->averaged; o += l->kept) {
                    int32_t sums[NET_MAX_OUTPUTS];
                    const int32_t *bias = l->bias + o * outputs * l->bias_step + k;
                    for (int n = 0; n < outputs; n++, bias += l->bias_step) sums[n] = *bias;
                    for (int run = o ? l->ends[o - 1] : 0; run < l->ends[o]; run++) l->sum(sums, seen, w, l->runs + run);
                    for (int n = 0; n < outputs; n++)
                        total[n] += net_active(net_scaled(sums[n], l->multiplier[k], &l->inner), l->activation);
                }
                for (int n = 0; n < outputs; n++) y[n * filters + k] = net_code(l, total[n]);
            }
        }
    }
}

static void net_run_layer(const net_layer_t *l, const unsigned char *bytes)
{
    const int border = l->support_y / 2;
    const int size = (l->width + 2 * (l->support_x / 2)) * l->lines * l->pitch;
    const int wide = l->columns * l->kept * l->outputs * l->filters;
    const int16_t *rows[NET_MAX_SUPPORT] = {0};
    int loaded = NET_PERIODIC ? -border : 0;
    memset(net_ring, 0, sizeof *net_ring * (size_t)(l->support_y * size));
    for (int i = 0; i < l->rows; i++) {
        const int first = i * l->step_y - border;
        for (; loaded < first + l->support_y && (NET_PERIODIC || loaded < l->height); loaded++)
            net_load(net_ring + (loaded + border) % l->support_y * size, l, (loaded + l->height) % l->height, bytes);
        for (int dy = 0; dy < l->support_y; dy++) {
            const int row = first + dy, inside = NET_PERIODIC || (row >= 0 && row < l->height);
            rows[dy] = inside ? net_ring + (row + border) % l->support_y * size : 0;
        }
        int8_t *y = net_arena + l->target + i * wide;
        if (l->sum) net_lines_row(y, rows, l);
        else net_channels_row(y, l->residual < 0 ? 0 : net_arena + l->residual + i * wide, rows, l);
    }
}

int net_classify(const unsigned char *bytes, int32_t *logits)
{
    int32_t pooled[NET_NEWEST] = {0};
    int best = 0;
    for (int j = 0; j < NET_LAYERS; j++) net_run_layer(&net_layers[j], bytes);
    const net_layer_t *l = &net_layers[NET_LAYERS - 1];
    const int8_t *x = net_arena + l->target;
    for (int i = l->rows * l->columns * l->kept * l->outputs * l->filters / NET_NEWEST; i; i--)
        for (int k = 0; k < NET_NEWEST; k++) pooled[k] += *x++ - l->zero;
    for (int n = 0; n < NET_CLASSES; n++) {
#if NET_LINEAR
        logits[n] = net_readout_bias[n];
        for (int k = 0; k < NET_NEWEST; k++) logits[n] += net_readout[n * NET_NEWEST + k] * pooled[k];
#else
        logits[n] = NET_SIGN * pooled[n];
#endif
        if (logits[n] > logits[best]) best = n;
    }
    return best;
}

