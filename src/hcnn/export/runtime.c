
typedef struct { unsigned short input, tap; } net_pair_t;

/* One layer: x (inputs maps, with a border) -> y, whose oldest attributes are averaged out for the next layer. */
typedef struct {
    int inputs, channels;          /* attributes of x, and unordered channels in each */
    int outputs, filters;          /* attributes (all but the newest) of y, and its newest */
    int averaged;                  /* values of y's oldest attribute that the next layer averages out; 1 for none */
    int height, width;             /* of x without its border */
    int rows, columns;             /* of y */
    int step_y, step_x;            /* spatial strides */
    int support_y, support_x;      /* spatial supports, odd */
    int border_y, border_x;        /* of y: what the next layer needs around it */
    int taps, rank;                /* taps along attributes; separable terms of HCNN(+), 0 for composed filters */
    int bias_step;                 /* filters if every output has biases of its own, else 0 */
    const float *weight, *bias;    /* (filters, taps, channels, support) or g (filters, taps, rank); (outputs, filters) */
    const float *h, *shift;        /* HCNN(+): (rank, support), (rank) */
    const net_pair_t *pairs;           /* which tap joins which input to an output, output by output */
    const int *ends;               /* where the pairs of each output end */
} net_layer_t;

/* TABLES */

static float net_elu(float x) { return x > 0 ? x : expm1f(x); }

/* sum over the spatial support of one map: out[column] += weight * x, three taps of a row at a time where it has three */
static void net_add_row(float *out, const float *x, const float *w, const net_layer_t *l, int row)
{
    const int pitch = l->width + 2 * (l->support_x / 2), step = l->step_x, columns = l->columns;
    for (int dy = 0; dy < l->support_y; dy++) {
        const float *from = x + (row * l->step_y + dy) * pitch;
        if (l->support_x == 3 && step == 1) {
            const float a = w[0], b = w[1], c = w[2];
            for (int i = 0; i < columns; i++) out[i] += a * from[i] + b * from[i + 1] + c * from[i + 2];
            w += 3;
            continue;
        }
        for (int dx = 0; dx < l->support_x; dx++, from++) {
            const float c = *w++;
            for (int i = 0; i < columns; i++) out[i] += c * from[i * step];
        }
    }
}

/* out (columns) of output o, filter k, before the ELU */
static void net_composed_row(float *out, const float *x, const net_layer_t *l, int o, int k, int row)
{
    const int border = l->support_y / 2, size = l->support_y * l->support_x;
    const int map = (l->height + 2 * border) * (l->width + 2 * (l->support_x / 2));
    for (int p = o ? l->ends[o - 1] : 0; p < l->ends[o]; p++)
        for (int c = 0; c < l->channels; c++)
            net_add_row(out, x + (l->pairs[p].input * l->channels + c) * map,
                    l->weight + ((k * l->taps + l->pairs[p].tap) * l->channels + c) * size, l, row);
}

/* z (inputs, rank, columns) = ELU(x * h + shift) */
static void net_inner_row(float *z, const float *x, const net_layer_t *l, int row)
{
    const int size = l->support_y * l->support_x;
    const int map = (l->height + 2 * (l->support_y / 2)) * (l->width + 2 * (l->support_x / 2));
    for (int a = 0; a < l->inputs; a++)
        for (int q = 0; q < l->rank; q++, z += l->columns) {
            for (int i = 0; i < l->columns; i++) z[i] = l->shift[q];
            net_add_row(z, x + a * map, l->h + q * size, l, row);
            for (int i = 0; i < l->columns; i++) z[i] = net_elu(z[i]);
        }
}

static void net_factorized_row(float *out, const float *z, const net_layer_t *l, int o, int k)
{
    for (int p = o ? l->ends[o - 1] : 0; p < l->ends[o]; p++) {
        const float *g = l->weight + (k * l->taps + l->pairs[p].tap) * l->rank;
        const float *from = z + l->pairs[p].input * l->rank * l->columns;
        for (int q = 0; q < l->rank; q++, from += l->columns)
            for (int i = 0; i < l->columns; i++) out[i] += g[q] * from[i];
    }
}

/* Fill the border of each map: with zeros, which are there already, or periodically. */
static void net_wrap(float *x, int maps, int rows, int columns, int border_y, int border_x)
{
    const int pitch = columns + 2 * border_x, height = rows + 2 * border_y;
    for (int m = 0; m < maps; m++, x += pitch * height) {
        for (int i = border_y; i < border_y + rows; i++)
            for (int j = 0; j < border_x; j++) {
                x[i * pitch + j] = x[i * pitch + columns + j];
                x[i * pitch + border_x + columns + j] = x[i * pitch + border_x + j];
            }
        for (int i = 0; i < border_y; i++)
            for (int j = 0; j < pitch; j++) {
                x[i * pitch + j] = x[(rows + i) * pitch + j];
                x[(border_y + rows + i) * pitch + j] = x[(border_y + i) * pitch + j];
            }
    }
}

static void net_run_layer(float *y, const float *x, const net_layer_t *l)
{
    static float out[NET_MAX_COLUMNS], z[NET_MAX_INNER];
    const int pitch = l->columns + 2 * l->border_x, map = pitch * (l->rows + 2 * l->border_y);
    const int kept = l->outputs / l->averaged; /* y's maps: (kept, filters) */
    memset(y, 0, sizeof(float) * (size_t)(kept * l->filters * map));
    for (int row = 0; row < l->rows; row++) {
        if (l->rank) net_inner_row(z, x, l, row);
        for (int o = 0; o < l->outputs; o++)
            for (int k = 0; k < l->filters; k++) {
                const float bias = l->bias[o * l->bias_step + k];
                float *to = y + ((o % kept) * l->filters + k) * map + (row + l->border_y) * pitch + l->border_x;
                for (int i = 0; i < l->columns; i++) out[i] = bias;
                if (l->rank) net_factorized_row(out, z, l, o, k);
                else net_composed_row(out, x, l, o, k, row);
                for (int i = 0; i < l->columns; i++) to[i] += net_elu(out[i]) / (float)l->averaged;
            }
    }
    if (NET_PERIODIC) net_wrap(y, kept * l->filters, l->rows, l->columns, l->border_y, l->border_x);
}

void net_logits(const float *pixels, float *logits)
{
    static float even[NET_EVEN], odd[NET_ODD]; /* the input of each layer with an even, an odd number */
    const int pitch = NET_WIDTH + 2 * NET_BORDER_X, map = pitch * (NET_HEIGHT + 2 * NET_BORDER_Y);
    memset(even, 0, sizeof(float) * NET_CHANNELS * (size_t)map);
    for (int c = 0; c < NET_CHANNELS; c++)
        for (int i = 0; i < NET_HEIGHT; i++)
            for (int j = 0; j < NET_WIDTH; j++)
                even[c * map + (i + NET_BORDER_Y) * pitch + NET_BORDER_X + j] =
                    (pixels[(c * NET_HEIGHT + i) * NET_WIDTH + j] - net_mean[c]) / net_deviation[c];
    if (NET_PERIODIC) net_wrap(even, NET_CHANNELS, NET_HEIGHT, NET_WIDTH, NET_BORDER_Y, NET_BORDER_X);
    for (int j = 0; j < NET_LAYERS; j++) net_run_layer(j % 2 ? even : odd, j % 2 ? odd : even, &net_layers[j]);

    const float *x = NET_LAYERS % 2 ? odd : even;
    const int places = net_layers[NET_LAYERS - 1].rows * net_layers[NET_LAYERS - 1].columns;
    float pooled[NET_NEWEST];
    for (int k = 0; k < NET_NEWEST; k++) {
        double sum = 0;
        for (int i = 0; i < places; i++) sum += x[k * places + i];
        pooled[k] = (float)(sum / places);
    }
    for (int n = 0; n < NET_CLASSES; n++) {
#if NET_LINEAR
        logits[n] = net_readout_bias[n];
        for (int k = 0; k < NET_NEWEST; k++) logits[n] += net_readout[n * NET_NEWEST + k] * pooled[k];
#else
        logits[n] = pooled[n] * net_readout[0];
#endif
    }
}

int net_classify(const unsigned char *bytes, float *logits)
{
    static float pixels[NET_CHANNELS * NET_HEIGHT * NET_WIDTH];
    int best = 0;
    for (int i = 0; i < NET_CHANNELS * NET_HEIGHT * NET_WIDTH; i++) pixels[i] = (float)bytes[i] / 255.0f;
    net_logits(pixels, logits);
    for (int n = 1; n < NET_CLASSES; n++)
        if (logits[n] > logits[best]) best = n;
    return best;
}

