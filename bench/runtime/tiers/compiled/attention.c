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
    CHUNK = 4,            /* vectors of a value summed at once */
    THREAD_WORK = 1 << 16 /* multiplications that are worth another thread */
};

/* Queries whose sums share a read of keys and values. A pair needs the registers of AVX-512. */
#if defined(__AVX512F__)
enum { SIDE_BY_SIDE = 2 };
#else
enum { SIDE_BY_SIDE = 1 };
#endif

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

#if defined(__AVX512F__)
/* Sums of neighbours, as _mm256_hadd_ps has them in each half. */
INLINED __m512 neighbours(__m512 a, __m512 b)
{
    return _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x88), _mm512_shuffle_ps(a, b, 0xDD));
}

/* Scores of two queries, whose heads alternate octet by octet in `heads`. The first query's numbers stay in
 * the lower halves of the vectors and the second's in the upper halves, so each has the bits of `score`. */
static void score_pair(const float *heads, const float *keys, int64_t size, float scale, int64_t slots,
                       float *first, float *second)
{
    for (int64_t n = 0; n < slots; n += OCTET) {
        __m512 parts[OCTET];
        for (int j = 0; j < OCTET; j++) parts[j] = _mm512_setzero_ps();
        for (int64_t i = 0; i < size; i += OCTET) {
            __m512 both = _mm512_loadu_ps(heads + 2 * i);
            for (int j = 0; j < OCTET; j++) {
                __m256d key = _mm256_castps_pd(_mm256_loadu_ps(keys + (n + j) * size + i));
                parts[j] = _mm512_fmadd_ps(both, _mm512_castpd_ps(_mm512_broadcast_f64x4(key)), parts[j]);
            }
        }
        __m512 low = neighbours(neighbours(parts[0], parts[1]), neighbours(parts[2], parts[3]));
        __m512 high = neighbours(neighbours(parts[4], parts[5]), neighbours(parts[6], parts[7]));
        __m512 sums = _mm512_add_ps(_mm512_shuffle_f32x4(low, high, 0x88), _mm512_shuffle_f32x4(low, high, 0xDD));
        sums = _mm512_mul_ps(_mm512_shuffle_f32x4(sums, sums, 0xD8), _mm512_set1_ps(scale));
        _mm256_storeu_ps(first + n, _mm512_castps512_ps256(sums));
        _mm256_storeu_ps(second + n, _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(sums), 1)));
    }
}

/* Let the heads of two queries alternate octet by octet, in the room of the first one's sums. */
static void alternate(const struct query *pair, int64_t size)
{
    for (int64_t i = 0; i < size; i += OCTET)
        for (int side = 0; side < 2; side++)
            *(octet *)(pair->even + 2 * i + side * OCTET) = load_octet(pair[side].head + i);
}
#endif

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

/* Add the values of one slot, each times its query's weight, to the sums over even or over odd slots. */
INLINED void add_slot(int queries, int vectors, const struct query *q, const float *value, int64_t slot,
                      vector (*sums)[2][CHUNK], int side)
{
    vector parts[CHUNK];
    for (int v = 0; v < vectors; v++) parts[v] = load(value + v * LANES);
    for (int k = 0; k < queries; k++)
        for (int v = 0; v < vectors; v++)
            sums[k][side][v] = fused(all(q[k].scores[slot]), parts[v], sums[k][side][v]);
}

/* Add the values of slots from `first` on to the sums over the earlier slots: so many vectors from number `i`
 * of a value on, for one query or for two that read the values together. */
INLINED void add_vectors(int queries, int vectors, const struct query *q, const float *values, int64_t size,
                         int64_t first, int64_t slots, int64_t i)
{
    vector sums[SIDE_BY_SIDE][2][CHUNK];
    int64_t n = first, end = first + slots;
    for (int k = 0; k < queries; k++)
        for (int v = 0; v < vectors; v++) {
            sums[k][0][v] = load(q[k].even + i + v * LANES);
            sums[k][1][v] = load(q[k].odd + i + v * LANES);
        }
    for (; n + 1 < end; n += 2) {
        add_slot(queries, vectors, q, values + n * size + i, n, sums, 0);
        add_slot(queries, vectors, q, values + (n + 1) * size + i, n + 1, sums, 1);
    }
    if (n < end) add_slot(queries, vectors, q, values + n * size + i, n, sums, 0);
    for (int k = 0; k < queries; k++)
        for (int v = 0; v < vectors; v++) {
            store(q[k].even + i + v * LANES, sums[k][0][v]);
            store(q[k].odd + i + v * LANES, sums[k][1][v]);
        }
}

/* What is left of a value after its whole vectors: one octet where a vector has two, then single numbers. */
static void add_rest(const struct query *q, const float *values, int64_t size, int64_t first, int64_t slots,
                     int64_t i)
{
    const float *weights = q->scores;
    for (; i + OCTET <= size; i += OCTET) {
        octet sums[2] = {load_octet(q->even + i), load_octet(q->odd + i)};
        for (int64_t n = first; n < first + slots; n++) {
            octet *to = sums + (n - first) % 2;
            *to = fused_octet(weights[n] - (octet){0}, load_octet(values + n * size + i), *to);
        }
        *(octet *)(q->even + i) = sums[0];
        *(octet *)(q->odd + i) = sums[1];
    }
    for (; i < size; i++)
        for (int64_t n = first; n < first + slots; n++) q->even[i] += weights[n] * values[n * size + i];
}

INLINED void add_values(int queries, const struct query *q, const float *values, int64_t size, int64_t first,
                        int64_t slots)
{
    int64_t i = 0;
    for (; i + CHUNK * LANES <= size; i += CHUNK * LANES)
        add_vectors(queries, CHUNK, q, values, size, first, slots, i);
    for (; i + LANES <= size; i += LANES) add_vectors(queries, 1, q, values, size, first, slots, i);
    for (int k = 0; k < queries && i < size; k++) add_rest(q + k, values, size, first, slots, i);
}

static void add_values_of_one(const struct query *q, const float *values, int64_t size, int64_t first,
                              int64_t slots)
{
    add_values(1, q, values, size, first, slots);
}

static void add_values_of_two(const struct query *q, const float *values, int64_t size, int64_t first,
                              int64_t slots)
{
    add_values(SIDE_BY_SIDE, q, values, size, first, slots);
}

INLINED int64_t between(int64_t low, int64_t number, int64_t high)
{
    return number < low ? low : number > high ? high : number;
}

/* Scores of a block of slots for one query or two. For the shorter of two, the scores behind its last slot
 * are never read. */
static void score_block(const struct query *q, int queries, const float *keys, int64_t size, float scale,
                        int64_t first)
{
    int64_t left[2] = {0}, most = 0;
    for (int k = 0; k < queries; k++) {
        left[k] = between(0, (q[k].visible - first + OCTET - 1) / OCTET * OCTET, SLOTS);
        most = left[k] > most ? left[k] : most;
    }
    keys += first * size;
#if defined(__AVX512F__)
    if (queries == 2 && size % OCTET == 0) {
        score_pair(q->even, keys, size, scale, most, q[0].scores + first, q[1].scores + first);
        return;
    }
#endif
    for (int k = 0; k < queries; k++) score(q[k].head, keys, size, scale, left[k], q[k].scores + first);
}

/* Values of a block of slots for one query or two: those that both see, then the others of each. */
static void add_block(const struct query *q, int queries, const float *values, int64_t size, int64_t first)
{
    int64_t left[2], both = SLOTS;
    for (int k = 0; k < queries; k++) {
        left[k] = between(0, q[k].visible - first, SLOTS);
        both = left[k] / 2 * 2 < both ? left[k] / 2 * 2 : both;
    }
    if (queries == 1) both = 0;
    if (both) add_values_of_two(q, values, size, first, both);
    for (int k = 0; k < queries; k++)
        if (left[k] > both) add_values_of_one(q + k, values, size, first + both, left[k] - both);
}

static void attend(const float *keys, const float *values, int64_t size, float scale,
                   const struct query *queries, int64_t count)
{
    int64_t longest = 0;
    for (int64_t i = 0; i < count; i++) longest = queries[i].visible > longest ? queries[i].visible : longest;
#if defined(__AVX512F__)
    for (int64_t i = 0; i + 1 < count && size % OCTET == 0; i += 2) alternate(queries + i, size);
#endif
    for (int64_t first = 0; first < longest; first += SLOTS)
        for (int64_t i = 0; i < count; i += SIDE_BY_SIDE)
            score_block(queries + i, (int)between(1, count - i, SIDE_BY_SIDE), keys, size, scale, first);
    float sums[TOGETHER];
    for (int64_t i = 0; i < count; i++) {
        sums[i] = weigh(queries + i);
        memset(queries[i].even, 0, size * sizeof(float));
        memset(queries[i].odd, 0, size * sizeof(float));
    }
    for (int64_t first = 0; first < longest; first += SLOTS)
        for (int64_t i = 0; i < count; i += SIDE_BY_SIDE)
            add_block(queries + i, (int)between(1, count - i, SIDE_BY_SIDE), values, size, first);
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
