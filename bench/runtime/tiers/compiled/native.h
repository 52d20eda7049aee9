/* Vectors and structures that the C files share. Strides and sizes count fp32 numbers, not bytes. */
#ifndef NATIVE_H
#define NATIVE_H

#include <stdint.h>

#if defined(__AVX__)
#include <immintrin.h>
#elif defined(__ARM_NEON) && defined(__ARM_FEATURE_FMA)
#include <arm_neon.h>
#endif

#if defined(__AVX512F__)
enum { LANES = 16 };
#else
enum { LANES = 8 };
#endif

typedef float vector __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t integers __attribute__((vector_size(4 * LANES)));

#define INLINED static inline __attribute__((always_inline))

INLINED int64_t padded(int64_t count) { return (count + LANES - 1) / LANES * LANES; }

INLINED vector load(const float *at) { return *(const vector *)at; }

INLINED void store(float *at, vector numbers) { *(vector *)at = numbers; }

/* a b + c, rounded once where the processor can. Left to the compiler, some loops would fuse and others not,
 * and their results would differ: it is forbidden to (-ffp-contract=off). */
INLINED vector fused(vector a, vector b, vector c)
{
#if defined(__AVX512F__)
    return _mm512_fmadd_ps(a, b, c);
#elif defined(__FMA__)
    return _mm256_fmadd_ps(a, b, c);
#elif defined(__ARM_NEON) && defined(__ARM_FEATURE_FMA)
    union { vector whole; float32x4_t parts[LANES / 4]; } x = {a}, y = {b}, sums = {c};
    for (int i = 0; i < LANES / 4; i++) sums.parts[i] = vfmaq_f32(sums.parts[i], x.parts[i], y.parts[i]);
    return sums.whole;
#else
    return a * b + c;
#endif
}

/* LANES numbers of 8 bits as fp32. */
INLINED vector widened(const int8_t *at)
{
#if defined(__AVX512F__)
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)at)));
#elif defined(__AVX2__)
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)at)));
#else
    vector numbers;
    for (int i = 0; i < LANES; i++) numbers[i] = at[i];
    return numbers;
#endif
}

/* A vector that repeats one number. */
INLINED vector all(float number)
{
#if defined(__AVX512F__)
    return _mm512_set1_ps(number);
#elif defined(__FMA__)
    return _mm256_set1_ps(number);
#else
    return number - (vector){0};
#endif
}

/* The sum of a vector's numbers. */
INLINED float total(vector numbers)
{
    float parts[LANES];
    store(parts, numbers);
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++) parts[i] += parts[i + half];
    return parts[0];
}

/* e^x within two units in the last place; exactly 0 below -87, at most e^88. Computed as a power of two times
 * a polynomial of the remainder (coefficients of Cephes). */
INLINED vector exponential(vector x)
{
    const vector round = all(12582912.0f); /* 1.5 * 2^23: adding it rounds to an integer */
    integers is_small = x < -87.0f, is_large = x > 88.0f;
    x = (vector)(((integers)x & ~is_small & ~is_large) | ((integers)all(88.0f) & is_large));
    vector shifted = fused(x, all(1.44269504f), round), power = shifted - round;
    vector rest = fused(power, all(2.12194440e-4f), fused(power, all(-0.693359375f), x));
    vector sum = fused(rest, all(1.9875691500e-4f), all(1.3981999507e-3f));
    sum = fused(sum, rest, all(8.3334519073e-3f));
    sum = fused(sum, rest, all(4.1665795894e-2f));
    sum = fused(sum, rest, all(1.6666665459e-1f));
    sum = fused(sum, rest, all(5.0000001201e-1f));
    sum = fused(sum * rest, rest, rest) + 1.0f;
    integers scale = ((integers)shifted - (integers)round + 127) << 23;
    return (vector)((integers)(sum * (vector)scale) & ~is_small);
}

/* A frozen projection: weights in panels [outputs / LANES, inputs, LANES], bias [outputs] or null. `outputs`
 * is a multiple of LANES; the surplus weights are zeros. Weights are fp32, or numbers of 8 bits where there are
 * scales [outputs]: each times its output's scale is a weight. */
struct projection {
    const void *weights;
    const float *scales, *bias;
    int64_t inputs, outputs;
};

/* Rows of a matrix; each begins `stride` numbers after the previous one. */
struct matrix {
    const float *data;
    int64_t rows, stride;
};

/* out = x W' (+ bias) (+ residual), [rows, outputs]; `residual`, null or of the same shape, may be `out`.
 * `scratch` has room for rows * inputs numbers. */
void project(const struct projection *by, struct matrix x, const float *residual, float *scratch, float *out,
             int threads);

/* A low-rank change of a projection: x inner outer is added to the first `outputs` outputs of a row x. Inner
 * is [inputs, padded(rank)], outer [rank, padded(outputs)], both zero-padded; inner is null for no change. */
struct change {
    const float *inner, *outer;
    int64_t rank, outputs;
};

/* structures.py repeats projection, change, model, residual, layer, place and pass: change both
 * files together. */
struct model {
    int64_t width, heads, kv_heads, head_dim, capacity, most_inputs, most_outputs;
    float eps;
    int64_t activation;
};

/* How a sub-layer's output joins the residual stream: after a norm, or null, and times a factor. */
struct residual {
    const float *norm;
    float scale;
};

struct layer {
    const float *attention_norm, *query_norm, *key_norm, *mlp_norm; /* each may be null */
    int64_t query_norm_width, key_norm_width; /* of one head, or of all heads of a row together */
    float score_scale;
    int64_t place; /* which of the pass's places the layer uses */
    struct residual attention_residual, mlp_residual;
    struct projection qkv, o, gate_up, down; /* without an MLP the last two have no weights */
    float *keys, *values; /* [Hkv, S, D] */
};

/* Positions and visibility of a pass's rows, for layers of one kind. */
struct place {
    const float *cos, *sin;         /* [R, rotary]; the sine carries the sign of the first half */
    int64_t rotary;
    const float *mask;              /* [R, base + writes] with a stride, or null */
    int64_t mask_stride, is_causal; /* row r sees the slots up to base + r */
};

struct pass {
    int64_t rows, base, writes;     /* rows, first slot written, number of rows stored */
    struct place places[2];         /* of most layers, and of the alternate ones */
    int64_t start, stop;            /* layers */
    const uint8_t *skips;           /* flags by layer, or null */
    const float *hidden;            /* [R, d], left unchanged */
    float *out, *scratch;           /* [R, d]; `scratch_size` numbers */
    int64_t threads;
    const struct change *changes; /* [L, 4]: of qkv, o, gate_up and down; or null */
    int64_t first_changed;        /* the rows before it stay unchanged */
};

/* Memory of one attention: queries [R, H, D] in rows of a stride, where to write the results, and scratch
 * room of `attention_scratch` numbers. */
struct attended {
    const float *queries;
    float *out, *scratch;
    int64_t query_stride, out_stride;
};

/* Attention of every query over the slots that its row may see, those written by this pass included. */
void attend_rows(const struct model *m, const struct layer *layer, const struct pass *p, struct attended a);

int64_t attention_scratch(const struct model *m, int64_t threads);

#endif
