/* Products of rows with frozen weights.
 *
 * Every output is one sum over its inputs in order, whatever the number of rows, the position of a row and
 * the number of threads: a row verified among eight gives exactly the bits that it gives alone.
 *
 * Weights are stored in panels of LANES outputs: one input's weights are one vector, and a thread reads its
 * share of memory from front to back. A tile keeps the sums of its rows and panels in registers, as many
 * panels as fit, and up to MOST_ROWS rows share one read of the weights. More rows are cut into blocks, which
 * use the same panels one after another while the panels are in the processor's cache. Weights of 8 bits are
 * widened as they are read: a quarter of the memory passes by for as many multiplications.
 */
#include "native.h"
#include <omp.h>

#if defined(__AVX512F__)
enum { REGISTERS = 32, MOST_ROWS = 14, BLOCK = 14 };
#else
enum { REGISTERS = 16, MOST_ROWS = 12, BLOCK = 6 };
#endif
/* Up to MOST_ROWS rows share one read of the weights; more are cut into blocks of at most BLOCK rows. */

enum {
    TALLEST = 14,     /* rows of the tallest tile on any processor */
    WIDEST = 4,       /* panels of the widest tile */
    BLOCK_PANELS = 6, /* panels that all blocks use before the next panels */
    AHEAD = 2048,     /* bytes fetched per panel: the processor's own prefetching stops at pages */
    FAR_AHEAD = 4096, /* bytes fetched into the second-level cache, which can wait for more lines at once */
    SHARE = 1 << 17   /* weights that are worth another thread */
};

/* Panels of a tile: as many as leave room in the registers for the sums, a vector of weights for each panel
 * and one input. Each panel is a stream of its own from memory, and several streams hide its latency better. */
INLINED int panels_of(int rows)
{
    int fitting = (REGISTERS - 1) / (rows + 1);
    return fitting < 1 ? 1 : fitting < WIDEST ? fitting : WIDEST;
}

struct call {
    const struct projection *by;
    const float *residual;
    float *out;
};

/* The vector of weights number `index` from the front, `bytes` each; those that will be read soon are fetched:
 * into the second-level cache, then from there. With several rows that takes a twentieth less time than the
 * second step alone. */
INLINED vector weights_at(int bytes, const void *weights, int64_t index)
{
    const char *at = (const char *)weights + index * LANES * bytes;
    __builtin_prefetch(at + FAR_AHEAD, 0, 2);
    __builtin_prefetch(at + AHEAD);
    return bytes == 1 ? widened((const int8_t *)at) : load((const float *)at);
}

/* Rows from `row` on times panels from `panel` on; `x` holds the rows' inputs interleaved, [inputs, rows]. */
INLINED void tile(int bytes, int rows, int panels, const float *x, const struct call *to, int64_t row,
                  int64_t panel)
{
    const int64_t inputs = to->by->inputs, outputs = to->by->outputs;
    vector sums[TALLEST][WIDEST];
    for (int r = 0; r < rows; r++)
        for (int p = 0; p < panels; p++) sums[r][p] = (vector){0};
    for (int64_t k = 0; k < inputs; k++) {
        vector column[WIDEST];
        for (int p = 0; p < panels; p++)
            column[p] = weights_at(bytes, to->by->weights, (panel + p) * inputs + k);
        for (int r = 0; r < rows; r++)
            for (int p = 0; p < panels; p++) sums[r][p] = fused(all(x[k * rows + r]), column[p], sums[r][p]);
    }
    for (int r = 0; r < rows; r++)
        for (int p = 0; p < panels; p++) {
            int64_t output = (panel + p) * LANES, place = (row + r) * outputs + output;
            if (bytes == 1) sums[r][p] *= load(to->by->scales + output);
            if (to->by->bias) sums[r][p] += load(to->by->bias + output);
            if (to->residual) sums[r][p] += load(to->residual + place);
            store(to->out + place, sums[r][p]);
        }
}

INLINED void tiles_of(int bytes, int rows, const float *x, const struct call *to, int64_t row, int64_t panel,
                      int64_t end)
{
    const int panels = panels_of(rows);
    for (; end - panel >= panels; panel += panels) tile(bytes, rows, panels, x, to, row, panel);
    for (; panel < end; panel++) tile(bytes, rows, 1, x, to, row, panel);
}

/* Each number of rows has machine code of its own, in which its sums are registers. */
#define TILES(BYTES, ROWS)                                                                                   \
    case ROWS: tiles_of(BYTES, ROWS, x, to, row, panel, end); break;
#define ALL_TILES(BYTES)                                                                                     \
    switch (rows) {                                                                                          \
        TILES(BYTES, 1) TILES(BYTES, 2) TILES(BYTES, 3) TILES(BYTES, 4) TILES(BYTES, 5) TILES(BYTES, 6)      \
        TILES(BYTES, 7) TILES(BYTES, 8) TILES(BYTES, 9) TILES(BYTES, 10) TILES(BYTES, 11) TILES(BYTES, 12)   \
        TILES(BYTES, 13) TILES(BYTES, 14)                                                                    \
    }

static void tiles(int64_t rows, const float *x, const struct call *to, int64_t row, int64_t panel,
                  int64_t end)
{
    if (to->by->scales)
        ALL_TILES(1)
    else
        ALL_TILES(4)
}

static int64_t count_blocks(int64_t rows) { return rows <= MOST_ROWS ? 1 : (rows + BLOCK - 1) / BLOCK; }

/* Interleave the inputs of each block's rows: they are then read from front to back, while rows a power of
 * two apart would evict each other from the processor's cache. */
static const float *interleave(struct matrix x, int64_t inputs, float *scratch)
{
    int64_t blocks = count_blocks(x.rows);
    if (x.rows == 1) return x.data;
    for (int64_t b = 0; b < blocks; b++) {
        int64_t first = x.rows * b / blocks, count = x.rows * (b + 1) / blocks - first;
        for (int64_t r = 0; r < count; r++)
            for (int64_t k = 0; k < inputs; k++)
                scratch[first * inputs + k * count + r] = x.data[(first + r) * x.stride + k];
    }
    return scratch;
}

void project(const struct projection *by, struct matrix x, const float *residual, float *scratch, float *out,
             int threads)
{
    const struct call to = {by, residual, out};
    const int64_t panels = by->outputs / LANES, blocks = count_blocks(x.rows);
    const int64_t useful = 1 + by->inputs * by->outputs / SHARE;
    const float *inputs = interleave(x, by->inputs, scratch);
#pragma omp parallel num_threads(useful < threads ? (int)useful : threads)
    {
        int64_t begin = panels * omp_get_thread_num() / omp_get_num_threads();
        int64_t end = panels * (omp_get_thread_num() + 1) / omp_get_num_threads();
        int64_t step = blocks == 1 ? end - begin : BLOCK_PANELS;
        for (int64_t panel = begin; panel < end; panel += step)
            for (int64_t b = 0; b < blocks; b++) {
                int64_t first = x.rows * b / blocks, count = x.rows * (b + 1) / blocks - first;
                int64_t last = end - panel < step ? end : panel + step;
                tiles(count, inputs + first * by->inputs, &to, first, panel, last);
            }
    }
}

int64_t lanes(void) { return LANES; }

/* `project` for a single product; the rows are contiguous. */
void multiply(const struct projection *by, int64_t rows, const float *x, const float *residual,
              float *scratch, float *out, int threads)
{
    project(by, (struct matrix){x, rows, by->inputs}, residual, scratch, out, threads);
}
