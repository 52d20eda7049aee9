/* Attention of a pass's queries over the key/value cache. All queries of a key/value head (of several rows,
 * and of the query heads that share it) use a block of slots while it is in the processor's nearest cache,
 * then go on to the next block. Each query sums over its slots in order, so the other queries of the pass do
 * not change its bits; a hidden slot adds exactly zero.
 */
#include "native.h"
#include <math.h>
#include <omp.h>
#include <string.h>

enum {
    OCTET = 8,            /* slots scored at once; numbers of a head multiplied at once */
    TOGETHER = 8,         /* queries that share a block */
    SLOTS = 64,           /* slots of a block: even and a multiple of OCTET */
    CHUNK = 4,            /* octets of a value summed at once */
    THREAD_WORK = 1 << 16 /* multiplications that are worth another thread */
};

typedef float octet __attribute__((vector_size(4 * OCTET), aligned(4), may_alias));

/* One query: one head of one row. */
struct query {
    const float *head, *mask;
    float *scores, *even, *odd, *out; /* scores, then weights; sums over even and odd slots, [D] */
    int64_t visible;
};

INLINED octet load_octet(const float *at) { return *(const octet *)at; }

INLINED octet fused_octet(octet a, octet b, octet c)
{
#if defined(__AVX512F__)
    return _mm256_fmadd_ps(a, b, c);
#else
    return fused(a, b, c); /* an octet is a vector here */
#endif
}

/* Eight sums, one of each octet. */
INLINED octet sums_of(const octet *parts)
{
#if defined(__AVX__)
    __m256 low = _mm256_hadd_ps(_mm256_hadd_ps(parts[0], parts[1]), _mm256_hadd_ps(parts[2], parts[3]));
    __m256 high = _mm256_hadd_ps(_mm256_hadd_ps(parts[4], parts[5]), _mm256_hadd_ps(parts[6], parts[7]));
    return _mm256_permute2f128_ps(low, high, 0x20) + _mm256_permute2f128_ps(low, high, 0x31);
#else
    octet sums;
    for (int i = 0; i < OCTET; i++) {
        octet part = parts[i];
        sums[i] = ((part[0] + part[1]) + (part[2] + part[3])) + ((part[4] + part[5]) + (part[6] + part[7]));
    }
    return sums;
#endif
}

/* Scores of a query for keys [slots, D], computed for whole octets of slots. */
static void score(const float *head, const float *keys, int64_t size, float scale, int64_t slots,
                  float *scores)
{
    for (int64_t n = 0; n < slots; n += OCTET) {
        octet parts[OCTET] = {{0}};
        int64_t i = 0;
        for (; i + OCTET <= size; i += OCTET) {
            octet part = load_octet(head + i);
            for (int j = 0; j < OCTET; j++)
                parts[j] = fused_octet(part, load_octet(keys + (n + j) * size + i), parts[j]);
        }
        octet sums = sums_of(parts);
        for (; i < size; i++)
            for (int j = 0; j < OCTET; j++) sums[j] += head[i] * keys[(n + j) * size + i];
        *(octet *)(scores + n) = sums * scale;
    }
}

/* The largest of `count` numbers, a multiple of LANES. */
INLINED float largest(const float *numbers, int64_t count)
{
    vector most = all(-INFINITY);
    for (int64_t n = 0; n < count; n += LANES) {
        vector next = load(numbers + n);
        integers is_larger = next > most;
        most = (vector)(((integers)next & is_larger) | ((integers)most & ~is_larger));
    }
    float parts[LANES];
    store(parts, most);
    for (int i = 1; i < LANES; i++) parts[0] = parts[i] > parts[0] ? parts[i] : parts[0];
    return parts[0];
}

/* Mask the scores and turn them into weights (not yet normalised); returns the sum of the weights. */
static float weigh(const struct query *q)
{
    for (int64_t n = q->visible; n < padded(q->visible); n++) q->scores[n] = -INFINITY;
    if (q->mask)
        for (int64_t n = 0; n < q->visible; n++) q->scores[n] += q->mask[n];
    const float most = largest(q->scores, padded(q->visible));
    vector sums = {0};
    for (int64_t n = 0; n < q->visible; n += LANES) {
        vector weights = exponential(load(q->scores + n) - most);
        store(q->scores + n, weights);
        sums += weights;
    }
    return total(sums);
}

/* Add values [slots, D], each times its weight, to the sums over the earlier slots. */
INLINED void add_octets(int octets, const float *weights, const float *values, int64_t size, int64_t slots,
                        float *even, float *odd)
{
    octet sums[2][CHUNK];
    for (int v = 0; v < octets; v++) {
        sums[0][v] = load_octet(even + v * OCTET);
        sums[1][v] = load_octet(odd + v * OCTET);
    }
    int64_t n = 0;
    for (; n + 1 < slots; n += 2)
        for (int side = 0; side < 2; side++)
            for (int v = 0; v < octets; v++)
                sums[side][v] =
                    fused_octet(weights[n + side] - (octet){0},
                                load_octet(values + (n + side) * size + v * OCTET), sums[side][v]);
    for (int v = 0; v < octets && n < slots; v++)
        sums[0][v] =
            fused_octet(weights[n] - (octet){0}, load_octet(values + n * size + v * OCTET), sums[0][v]);
    for (int v = 0; v < octets; v++) {
        *(octet *)(even + v * OCTET) = sums[0][v];
        *(octet *)(odd + v * OCTET) = sums[1][v];
    }
}

static void add_values(const struct query *q, const float *values, int64_t size, int64_t first, int64_t slots)
{
    const float *weights = q->scores + first;
    int64_t i = 0;
    values += first * size;
    for (; i + CHUNK * OCTET <= size; i += CHUNK * OCTET)
        add_octets(CHUNK, weights, values + i, size, slots, q->even + i, q->odd + i);
    for (; i + OCTET <= size; i += OCTET)
        add_octets(1, weights, values + i, size, slots, q->even + i, q->odd + i);
    for (; i < size; i++)
        for (int64_t n = 0; n < slots; n++) q->even[i] += weights[n] * values[n * size + i];
}

static void attend(const float *keys, const float *values, int64_t size, float scale,
                   const struct query *queries, int64_t count)
{
    int64_t longest = 0;
    for (int64_t i = 0; i < count; i++) longest = queries[i].visible > longest ? queries[i].visible : longest;
    for (int64_t first = 0; first < longest; first += SLOTS)
        for (const struct query *q = queries; q < queries + count; q++) {
            int64_t left = (q->visible - first + OCTET - 1) / OCTET * OCTET;
            score(q->head, keys + first * size, size, scale, left < SLOTS ? left : SLOTS, q->scores + first);
        }
    float sums[TOGETHER];
    for (int64_t i = 0; i < count; i++) {
        sums[i] = weigh(queries + i);
        memset(queries[i].even, 0, size * sizeof(float));
        memset(queries[i].odd, 0, size * sizeof(float));
    }
    for (int64_t first = 0; first < longest; first += SLOTS)
        for (const struct query *q = queries; q < queries + count; q++) {
            int64_t left = q->visible - first;
            add_values(q, values, size, first, left < SLOTS ? left : SLOTS);
        }
    for (int64_t i = 0; i < count; i++)
        for (int64_t d = 0; d < size; d++)
            queries[i].out[d] = (queries[i].even[d] + queries[i].odd[d]) / sums[i];
}

static int64_t score_stride(const struct model *m) { return padded(m->capacity) + SLOTS; }

static int64_t query_size(const struct model *m) { return score_stride(m) + 2 * padded(m->head_dim); }

int64_t attention_scratch(const struct model *m, int64_t threads)
{
    return threads * TOGETHER * query_size(m);
}

/* Query `index` of a key/value head, counted over all rows of its first query head, then of the next. */
static struct query query_of(const struct model *m, const struct pass *p, const struct place *at,
                             struct attended a, int64_t kv_head, int64_t index, float *scratch)
{
    int64_t row = index % p->rows, head = kv_head * (m->heads / m->kv_heads) + index / p->rows;
    float *even = scratch + score_stride(m);
    return (struct query){
        .head = a.queries + row * a.query_stride + head * m->head_dim,
        .mask = at->mask ? at->mask + row * at->mask_stride : 0,
        .scores = scratch,
        .even = even,
        .odd = even + padded(m->head_dim),
        .out = a.out + row * a.out_stride + head * m->head_dim,
        .visible = at->is_causal ? p->base + row + 1 : p->base + p->writes,
    };
}

void attend_rows(const struct model *m, const struct layer *layer, const struct pass *p, struct attended a)
{
    const int64_t shared = m->heads / m->kv_heads * p->rows, blocks = (shared + TOGETHER - 1) / TOGETHER;
    const int64_t useful = 1 + m->heads * m->head_dim * p->rows * (p->base + p->rows) / THREAD_WORK;
#pragma omp parallel for num_threads(useful < p->threads ? (int)useful : (int)p->threads)
    for (int64_t task = 0; task < m->kv_heads * blocks; task++) {
        const int64_t kv_head = task / blocks, place = kv_head * m->capacity * m->head_dim;
        const int64_t first = shared * (task % blocks) / blocks, end = shared * (task % blocks + 1) / blocks;
        float *scratch = a.scratch + omp_get_thread_num() * TOGETHER * query_size(m);
        struct query queries[TOGETHER];
        for (int64_t i = first; i < end; i++)
            queries[i - first] = query_of(m, p, p->places + layer->place, a, kv_head, i, scratch + (i - first) * query_size(m));
        attend(layer->keys + place, layer->values + place, m->head_dim, layer->score_scale, queries, end - first);
    }
}
