/* A pass of rows through a range of layers in one call: norm, projections, rotation, attention over the
 * cache, gated MLP. A row gives the same bits whatever other rows are in the pass.
 *
 * Shapes: R rows, d width, H query heads, Hkv key/value heads, D head width, f MLP width, S slots of the
 * cache, N of them visible.
 */
#include "native.h"
#include <math.h>
#include <string.h>

enum { SILU, GELU_TANH };
enum { NO_ATTENTION = 1, NO_MLP = 2 }; /* bits of a layer's skip flags */
enum { QKV, O, GATE_UP, DOWN, PROJECTIONS };

struct buffers {
    float *hidden, *narrow, *wide, *interleaved, *attention;
};

static struct buffers carve(const struct model *m, const struct pass *p)
{
    int64_t narrow = padded(m->most_inputs);
    float *hidden = p->scratch, *first = hidden + p->rows * padded(m->width) + LANES;
    float *wide = first + p->rows * narrow + LANES;
    float *interleaved = wide + p->rows * m->most_outputs + LANES;
    return (struct buffers){hidden, first, wide, interleaved, interleaved + p->rows * narrow + LANES};
}

int64_t scratch_size(const struct model *m, int64_t rows, int64_t threads)
{
    int64_t row = padded(m->width) + 2 * padded(m->most_inputs) + m->most_outputs;
    return rows * row + 4 * LANES + attention_scratch(m, threads);
}

INLINED float dot(const float *a, const float *b, int64_t count)
{
    vector sums = {0};
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) sums = fused(load(a + i), load(b + i), sums);
    float sum = total(sums);
    for (; i < count; i++) sum += a[i] * b[i];
    return sum;
}

/* Root-mean-square norm of one row; `out` may be `x`. */
static void norm(const float *x, const float *weight, float eps, int64_t width, float *out)
{
    float scale = 1.0f / sqrtf(dot(x, x, width) / (float)width + eps);
    for (int64_t i = 0; i < width; i++) out[i] = x[i] * scale * weight[i];
}

void norm_rows(int64_t rows, int64_t width, const float *x, const float *weight, float eps, float *out)
{
    for (int64_t r = 0; r < rows; r++) norm(x + r * width, weight, eps, width, out + r * width);
}

/* Add a low-rank change to `out`, rows of a stride, for the rows from `first_changed` on. */
static void add_change(const struct change *by, const struct pass *p, struct matrix x, int64_t inputs,
                       float *out, int64_t stride)
{
    if (!by->inner) return;
    const int64_t ranks = padded(by->rank), outputs = padded(by->outputs);
    for (int64_t r = p->first_changed; r < p->rows; r++)
        for (int64_t j = 0; j < ranks; j += LANES) {
            float inner[LANES];
            vector sums = {0};
            for (int64_t k = 0; k < inputs; k++)
                sums = fused(all(x.data[r * x.stride + k]), load(by->inner + k * ranks + j), sums);
            store(inner, sums);
            for (int64_t i = 0; i < LANES && j + i < by->rank; i++)
                for (int64_t o = 0; o < outputs; o += LANES) {
                    float *at = out + r * stride + o;
                    store(at, fused(all(inner[i]), load(by->outer + (j + i) * outputs + o), load(at)));
                }
        }
}

/* A projection of a layer, and its low-rank change if the pass has one. */
static void project_changed(const struct projection *by, int which, int64_t index, const struct pass *p,
                            struct matrix x, const float *residual, float *scratch, float *out)
{
    project(by, x, residual, scratch, out, p->threads);
    if (p->changes) add_change(p->changes + index * PROJECTIONS + which, p, x, by->inputs, out, by->outputs);
}

static void rotate(float *head, const float *cos, const float *sin, int64_t rotary)
{
    float *other = head + rotary / 2;
    for (int64_t i = 0; i < rotary / 2; i++) {
        float first = head[i], second = other[i];
        head[i] = first * cos[i] + second * sin[i];
        other[i] = second * cos[i + rotary / 2] + first * sin[i + rotary / 2];
    }
}

/* Norms of parts of a row, each `width` long; none if there is no weight. */
static void norm_parts(float *x, int64_t total, const float *weight, float eps, int64_t width)
{
    if (!weight) return;
    for (int64_t i = 0; i < total; i += width) norm(x + i, weight, eps, width, x + i);
}

/* Rotate queries and keys of row r, after their norms if the family has them; store its keys and values. */
static void place_row(const struct model *m, const struct layer *layer, const struct pass *p, int64_t r,
                  float *qkv)
{
    const int64_t size = m->head_dim, turned = m->heads + m->kv_heads;
    const struct place *at = p->places + layer->place;
    norm_parts(qkv, m->heads * size, layer->query_norm, m->eps, layer->query_norm_width);
    norm_parts(qkv + m->heads * size, m->kv_heads * size, layer->key_norm, m->eps, layer->key_norm_width);
    for (int64_t h = 0; h < turned; h++)
        rotate(qkv + h * size, at->cos + r * at->rotary, at->sin + r * at->rotary, at->rotary);
    if (r >= p->writes) return;
    for (int64_t h = 0; h < m->kv_heads; h++) {
        int64_t slot = (h * m->capacity + p->base + r) * size;
        memcpy(layer->keys + slot, qkv + (m->heads + h) * size, size * sizeof(float));
        memcpy(layer->values + slot, qkv + (turned + h) * size, size * sizeof(float));
    }
}

/* The rows that enter a sub-layer's first projection: normed, or as they are where there is no norm. */
static struct matrix entering(const struct model *m, const struct pass *p, struct buffers b,
                              const float *weight)
{
    const int64_t stride = padded(m->width), narrow = padded(m->most_inputs);
    if (!weight) return (struct matrix){b.hidden, p->rows, stride};
    for (int64_t r = 0; r < p->rows; r++)
        norm(b.hidden + r * stride, weight, m->eps, m->width, b.narrow + r * narrow);
    return (struct matrix){b.narrow, p->rows, narrow};
}

/* Add the last projection of a sub-layer to the residual stream; its inputs are in `narrow`. */
static void add_output(const struct model *m, const struct projection *last, int which, int64_t index,
                       const struct pass *p, struct residual by, struct buffers b)
{
    const struct matrix inputs = {b.narrow, p->rows, padded(m->most_inputs)};
    if (!by.norm && by.scale == 1.0f) {
        project_changed(last, which, index, p, inputs, b.hidden, b.interleaved, b.hidden);
        return;
    }
    project_changed(last, which, index, p, inputs, 0, b.interleaved, b.wide);
    for (int64_t r = 0; r < p->rows; r++) {
        float *to = b.hidden + r * padded(m->width), *row = b.wide + r * last->outputs;
        norm_parts(row, m->width, by.norm, m->eps, m->width);
        for (int64_t i = 0; i < m->width; i++) to[i] += by.scale * row[i];
    }
}

static void attention(const struct model *m, const struct layer *layer, int64_t index, const struct pass *p,
                      struct buffers b)
{
    const int64_t wide = layer->qkv.outputs, narrow = padded(m->most_inputs);
    const struct matrix rows = entering(m, p, b, layer->attention_norm);
    project_changed(&layer->qkv, QKV, index, p, rows, 0, b.interleaved, b.wide);
    for (int64_t r = 0; r < p->rows; r++) place_row(m, layer, p, r, b.wide + r * wide);
    attend_rows(m, layer, p, (struct attended){b.wide, b.narrow, b.attention, wide, narrow});
    add_output(m, &layer->o, O, index, p, layer->attention_residual, b);
}

INLINED vector activated(vector x, int64_t activation)
{
    vector inner = x;
    if (activation == GELU_TANH) inner = 1.59576912f * (x + 0.044715f * x * x * x); /* 2 sqrt(2 / pi) */
    return x / (1.0f + exponential(-inner));
}

static void feed_forward(const struct model *m, const struct layer *layer, int64_t index,
                         const struct pass *p, struct buffers b)
{
    const int64_t narrow = padded(m->most_inputs), width = layer->down.inputs;
    const struct matrix rows = entering(m, p, b, layer->mlp_norm);
    project_changed(&layer->gate_up, GATE_UP, index, p, rows, 0, b.interleaved, b.wide);
    for (int64_t r = 0; r < p->rows; r++) {
        const float *gate = b.wide + r * layer->gate_up.outputs;
        for (int64_t i = 0; i < width; i += LANES)
            store(b.narrow + r * narrow + i,
                  activated(load(gate + i), m->activation) * load(gate + width + i));
    }
    add_output(m, &layer->down, DOWN, index, p, layer->mlp_residual, b);
}

static void copy_rows(int64_t rows, int64_t width, const float *from, int64_t from_stride, float *to,
                      int64_t to_stride)
{
    for (int64_t r = 0; r < rows; r++)
        memcpy(to + r * to_stride, from + r * from_stride, width * sizeof(float));
}

void run_layers(const struct model *m, const struct layer *layers, const struct pass *p)
{
    const struct buffers b = carve(m, p);
    const int64_t stride = padded(m->width);
    copy_rows(p->rows, m->width, p->hidden, m->width, b.hidden, stride);
    for (int64_t index = p->start; index < p->stop; index++) {
        int skipped = p->skips ? p->skips[index] : 0;
        if (!(skipped & NO_ATTENTION)) attention(m, layers + index, index, p, b);
        if (layers[index].down.weights && !(skipped & NO_MLP)) feed_forward(m, layers + index, index, p, b);
    }
    copy_rows(p->rows, m->width, b.hidden, stride, p->out, m->width);
}
