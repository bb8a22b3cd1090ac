/* `align` for CPUs: similarity, Sinkhorn and filtering of one pair after another, each while its plan is in the cache.

   The steps and their order are the reference's (`reference.py`), in fp32. A pair is worked on alone, with sums whose order
   follows from its own lengths, so that its links never depend on what else is in the batch. `native.py` compiles and calls
   this file; every array is the caller's. Loops are written for the compiler to vectorise: "omp simd" allows it to reorder
   the sum or maximum that it names.

   Names: m rows and n columns of a pair; a row of the plan takes `stride` >= n numbers, the rest of which is padding that has
   no mass and wins no maximum. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
enum { GAP = 16 }; /* numbers between the parts of a scratch, see tests/tools/sanitize_native.py */
#else
enum { GAP = 0 };
#endif
enum { PARTS = 14 };

/* What a caller may choose, and the constants of the definition (`settings.py`, which passes them). */
typedef struct {
    int32_t cost_is_clip, cosine, iterations, rounds, smallest_for_more_rounds, non_finite;
    float temperature, log_discount, clip_floor, largest_similarity;
} Settings;

/* A batch: hidden [tokens, width], index vectors [pairs]; links [rounds, tokens], partner and score [tokens] and status
   [pairs] hold the answer for no link. `similarity`, where it is not null, holds every pair's [m, n] from `similarity_at` on,
   and the hidden states are not read. */
typedef struct {
    const float *hidden;
    int64_t tokens, width;
    const int64_t *source_start, *source_length, *target_start, *target_length;
    const float *similarity;
    const int64_t *similarity_at;
    int32_t *links, *partner;
    float *score;
    int32_t *status;
} Batch;

/* Memory for the largest pair, and where its parts lie. */
typedef struct {
    float *memory, *plan, *kernel, *unit, *row_scale, *column_scale, *column_mass, *best, *add_open, *add_linked, *candidate;
    int32_t *best_column, *best_row, *row_linked, *column_linked;
} Scratch;

enum { PADDED = 16, WIDEST_PRODUCT_RANGE = 40 };

/* As many sums at a time as leave vector registers for the operands: of 32, or of the 16 that AVX2 has. */
#if defined(__AVX512F__)
enum { LANES = 16, ROWS_AT_ONCE = 4, COLUMNS_AT_ONCE = 4 };
#else
enum { LANES = 8, ROWS_AT_ONCE = 2, COLUMNS_AT_ONCE = 4 };
#endif
typedef float Vector __attribute__((vector_size(LANES * sizeof(float)), aligned(4), may_alias));

static int64_t padded(int64_t length) { return (length + PADDED - 1) / PADDED * PADDED; }

/* ---- Elementary functions, accurate to 2 units in the last place; polynomials from Moshier's Cephes library. */

static inline float exponential(float x) { /* x <= 0 */
    const float clamped = x < -87.0f ? -87.0f : x;
    const float n = rintf(clamped * 1.44269504f);
    const float r = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    const int32_t bits = ((int32_t)n + 127) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    const float value = (p * r * r + r + 1.0f) * power;
    return x < -87.0f ? 0.0f : value;
}

static inline float logarithm(float x) { /* x a positive, normal number */
    int32_t bits;
    memcpy(&bits, &x, sizeof bits);
    const int32_t shifted = bits - 0x3f3504f3; /* the exponent changes at sqrt(1/2), so that the rest is close to 1 */
    const float e = (float)(shifted >> 23);
    bits = (shifted & 0x007fffff) + 0x3f3504f3;
    float rest;
    memcpy(&rest, &bits, sizeof rest);
    const float r = rest - 1.0f, square = r * r;
    float p = 7.0376836292e-2f;
    p = p * r - 1.1514610310e-1f;
    p = p * r + 1.1676998740e-1f;
    p = p * r - 1.2420140846e-1f;
    p = p * r + 1.4249322787e-1f;
    p = p * r - 1.6668057665e-1f;
    p = p * r + 2.0000714765e-1f;
    p = p * r - 2.4999993993e-1f;
    p = p * r + 3.3333331174e-1f;
    return ((p * r * square + e * -2.12194440e-4f) - 0.5f * square) + r + e * 0.693359375f;
}

/* ---- Similarity. */

/* out[i][j] = rows[i] . columns[j]; every operand is read into registers once for all products it takes part in. */
static void products(const float *const rows[ROWS_AT_ONCE], const float *const columns[COLUMNS_AT_ONCE], int64_t width,
                     float out[ROWS_AT_ONCE][COLUMNS_AT_ONCE]) {
    Vector sum[ROWS_AT_ONCE][COLUMNS_AT_ONCE] = {0};
    int64_t k = 0;
    for (; k + LANES <= width; k += LANES) {
        Vector column[COLUMNS_AT_ONCE];
        for (int j = 0; j < COLUMNS_AT_ONCE; ++j) column[j] = *(const Vector *)(columns[j] + k);
        for (int i = 0; i < ROWS_AT_ONCE; ++i) {
            const Vector row = *(const Vector *)(rows[i] + k);
            for (int j = 0; j < COLUMNS_AT_ONCE; ++j) sum[i][j] += row * column[j];
        }
    }
    for (int i = 0; i < ROWS_AT_ONCE; ++i) {
        for (int j = 0; j < COLUMNS_AT_ONCE; ++j) {
            float total = 0.0f;
            for (int lane = 0; lane < LANES; ++lane) total += sum[i][j][lane];
            for (int64_t rest = k; rest < width; ++rest) total += rows[i][rest] * columns[j][rest];
            out[i][j] = total;
        }
    }
}

static void similarities(const float *source, int64_t m, const float *target, int64_t n, int64_t width, int64_t stride,
                         float *plan) {
    float tile[ROWS_AT_ONCE][COLUMNS_AT_ONCE];
    const float *rows[ROWS_AT_ONCE], *columns[COLUMNS_AT_ONCE];
    for (int64_t i = 0; i < m; i += ROWS_AT_ONCE) {
        /* Beyond the end the last token stands in; its products are not kept. */
        for (int k = 0; k < ROWS_AT_ONCE; ++k) rows[k] = source + (i + k < m ? i + k : m - 1) * width;
        for (int64_t j = 0; j < n; j += COLUMNS_AT_ONCE) {
            for (int k = 0; k < COLUMNS_AT_ONCE; ++k) columns[k] = target + (j + k < n ? j + k : n - 1) * width;
            products(rows, columns, width, tile);
            for (int a = 0; a < ROWS_AT_ONCE && i + a < m; ++a)
                for (int b = 0; b < COLUMNS_AT_ONCE && j + b < n; ++b) plan[(i + a) * stride + j + b] = tile[a][b];
        }
    }
}

/* Rows of length one; zero rows stay zero. Divided by the largest entry first, so that no square leaves fp32's range. */
static void unit_rows(const float *rows, int64_t count, int64_t width, float *unit) {
    for (int64_t i = 0; i < count; ++i, rows += width, unit += width) {
        float largest = 0.0f, square = 0.0f;
#pragma omp simd reduction(max : largest)
        for (int64_t k = 0; k < width; ++k) largest = fabsf(rows[k]) > largest ? fabsf(rows[k]) : largest;
        const float divisor = largest == 0.0f ? 1.0f : largest;
#pragma omp simd reduction(+ : square)
        for (int64_t k = 0; k < width; ++k) {
            unit[k] = rows[k] / divisor;
            square += unit[k] * unit[k];
        }
        const float norm = square == 0.0f ? 1.0f : sqrtf(square);
#pragma omp simd
        for (int64_t k = 0; k < width; ++k) unit[k] /= norm;
    }
}

/* ---- The plan. */

/* Turn S into log K and store its range; 0 where a similarity, also over the temperature, is no number within range. */
static int log_kernel(float *plan, int64_t m, int64_t n, int64_t stride, const Settings *settings, float *least, float *most) {
    const float limit = settings->largest_similarity, floor = settings->clip_floor, temperature = settings->temperature;
    const float factor = temperature < 1.0f ? 1.0f / temperature : 1.0f;
    float low = INFINITY, high = -INFINITY;
    int32_t broken = 0;
    for (int64_t i = 0; i < m; ++i) {
        float *row = plan + i * stride;
#pragma omp simd reduction(| : broken)
        for (int64_t j = 0; j < n; ++j) broken |= fabsf(row[j]) * factor <= limit ? 0 : 1;
        if (settings->cost_is_clip) {
#pragma omp simd
            for (int64_t j = 0; j < n; ++j) row[j] = logarithm(row[j] > floor ? row[j] : floor);
        } else {
#pragma omp simd
            for (int64_t j = 0; j < n; ++j) row[j] /= temperature;
        }
#pragma omp simd reduction(min : low) reduction(max : high)
        for (int64_t j = 0; j < n; ++j) {
            low = row[j] < low ? row[j] : low;
            high = row[j] > high ? row[j] : high;
        }
    }
    *least = low, *most = high;
    return !broken;
}

/* The potentials of `iterations` Sinkhorn steps as factors of rows and columns: reciprocals of the mass that the kernel
   exp(log K - most) has in them. Exact where log K spans no more than WIDEST_PRODUCT_RANGE: no product leaves fp32's range. */
static void scale_by_products(const Scratch *s, int64_t m, int64_t n, int64_t stride, const Settings *settings, float most) {
    for (int64_t i = 0; i < m; ++i) {
        const float *log_row = s->plan + i * stride;
        float *row = s->kernel + i * stride;
#pragma omp simd
        for (int64_t j = 0; j < n; ++j) row[j] = exponential(log_row[j] - most);
        s->row_scale[i] = 1.0f;
    }
    for (int64_t j = 0; j < n; ++j) s->column_scale[j] = 1.0f;
    for (int half_step = 0; half_step < 2 * settings->iterations; ++half_step) {
        if ((half_step % 2 == 0) == settings->cost_is_clip) {
            memset(s->column_mass, 0, n * sizeof(float));
            for (int64_t i = 0; i < m; ++i) {
                const float *row = s->kernel + i * stride, scale = s->row_scale[i];
#pragma omp simd
                for (int64_t j = 0; j < n; ++j) s->column_mass[j] += row[j] * scale;
            }
#pragma omp simd
            for (int64_t j = 0; j < n; ++j) s->column_scale[j] = 1.0f / s->column_mass[j];
        } else {
            for (int64_t i = 0; i < m; ++i) {
                const float *row = s->kernel + i * stride;
                float mass = 0.0f;
#pragma omp simd reduction(+ : mass)
                for (int64_t j = 0; j < n; ++j) mass += row[j] * s->column_scale[j];
                s->row_scale[i] = 1.0f / mass;
            }
        }
    }
    for (int64_t i = 0; i < m; ++i) s->row_scale[i] = logarithm(s->row_scale[i]);
#pragma omp simd
    for (int64_t j = 0; j < n; ++j) s->column_scale[j] = logarithm(s->column_scale[j]) - most;
}

/* The same potentials as sums of exponentials below the largest, whatever the range of the kernel. */
static void potentials_by_logarithms(const Scratch *s, int64_t m, int64_t n, int64_t stride, const Settings *settings) {
    memset(s->row_scale, 0, m * sizeof(float));
    memset(s->column_scale, 0, n * sizeof(float));
    for (int half_step = 0; half_step < 2 * settings->iterations; ++half_step) {
        if ((half_step % 2 == 0) == settings->cost_is_clip) {
            for (int64_t j = 0; j < n; ++j) s->best[j] = -INFINITY, s->column_mass[j] = 0.0f;
            for (int64_t i = 0; i < m; ++i) {
                const float *row = s->plan + i * stride, potential = s->row_scale[i];
#pragma omp simd
                for (int64_t j = 0; j < n; ++j) s->best[j] = row[j] + potential > s->best[j] ? row[j] + potential : s->best[j];
            }
            for (int64_t i = 0; i < m; ++i) {
                const float *row = s->plan + i * stride, potential = s->row_scale[i];
#pragma omp simd
                for (int64_t j = 0; j < n; ++j) s->column_mass[j] += exponential(row[j] + potential - s->best[j]);
            }
#pragma omp simd
            for (int64_t j = 0; j < n; ++j) s->column_scale[j] = -(s->best[j] + logarithm(s->column_mass[j]));
        } else {
            for (int64_t i = 0; i < m; ++i) {
                const float *row = s->plan + i * stride;
                float largest = -INFINITY, mass = 0.0f;
#pragma omp simd reduction(max : largest)
                for (int64_t j = 0; j < n; ++j)
                    largest = row[j] + s->column_scale[j] > largest ? row[j] + s->column_scale[j] : largest;
#pragma omp simd reduction(+ : mass)
                for (int64_t j = 0; j < n; ++j) mass += exponential(row[j] + s->column_scale[j] - largest);
                s->row_scale[i] = -(largest + logarithm(mass));
            }
        }
    }
}

/* Turn log K into log P = log K + f + g. */
static void transport_plan(const Scratch *s, int64_t m, int64_t n, int64_t stride, const Settings *settings, float least,
                           float most) {
    if (settings->iterations == 0) return;
    if (m == 1 || n == 1) { /* one-token sides: every cell has the same mass, see the reference */
        memset(s->plan, 0, m * stride * sizeof(float));
        least = most = 0.0f;
    }
    if (most - least <= WIDEST_PRODUCT_RANGE) {
        scale_by_products(s, m, n, stride, settings, most);
    } else {
        potentials_by_logarithms(s, m, n, stride, settings);
    }
    for (int64_t i = 0; i < m; ++i) {
        float *row = s->plan + i * stride;
        const float potential = s->row_scale[i];
#pragma omp simd
        for (int64_t j = 0; j < n; ++j) row[j] = row[j] + potential + s->column_scale[j];
    }
}

/* ---- Links. */

/* The first of the largest candidates of every row and column. A candidate is the plan's cell plus what `add_open` or, in a
   row that has a link, `add_linked` holds for its column. */
static void best_cells(const Scratch *s, int64_t m, int64_t n, int64_t stride) {
    for (int64_t j = 0; j < n; ++j) s->best[j] = -INFINITY, s->best_row[j] = 0;
    for (int64_t i = 0; i < m; ++i) {
        const float *row = s->plan + i * stride, *add = s->row_linked[i] ? s->add_linked : s->add_open;
        float largest = -INFINITY;
#pragma omp simd reduction(max : largest)
        for (int64_t j = 0; j < n; ++j) {
            const float value = row[j] + add[j];
            s->candidate[j] = value;
            largest = value > largest ? value : largest;
            s->best_row[j] = value > s->best[j] ? (int32_t)i : s->best_row[j];
            s->best[j] = value > s->best[j] ? value : s->best[j];
        }
        int64_t first = 0;
        while (s->candidate[first] != largest) ++first;
        s->best_column[i] = (int32_t)first;
    }
}

/* Keep a link of a token where it is heavier than what is kept, or as heavy and of a lower index. */
static void offer(const Batch *batch, int64_t token, int64_t other, float mass) {
    const int better = mass > batch->score[token] || (mass == batch->score[token] && other < batch->partner[token]);
    if (batch->partner[token] < 0 || better) batch->partner[token] = (int32_t)other, batch->score[token] = mass;
}

static void filter_plan(const Scratch *s, int64_t m, int64_t n, int64_t stride, const Settings *settings, const Batch *batch,
                        int64_t source, int64_t target) {
    int64_t open_rows = m, open_columns = n;
    memset(s->row_linked, 0, m * sizeof(int32_t));
    memset(s->column_linked, 0, n * sizeof(int32_t));
    for (int64_t j = 0; j < n; ++j) s->add_open[j] = 0.0f;
    for (int round = 0; round < settings->rounds && open_rows > 0 && open_columns > 0; ++round) {
        if (round > 0 && (m < n ? m : n) < settings->smallest_for_more_rounds) return;
        best_cells(s, m, n, stride);
        for (int64_t i = 0; i < m; ++i) {
            const int64_t j = s->best_column[i];
            if (s->best_row[j] != i || (s->row_linked[i] && s->column_linked[j])) continue;
            batch->links[round * batch->tokens + source + i] = (int32_t)(target + j);
            offer(batch, source + i, target + j, s->plan[i * stride + j]);
            offer(batch, target + j, source + i, s->plan[i * stride + j]);
            /* No other row has this column for its mutual best, so that this changes nothing more in this round. */
            open_rows -= !s->row_linked[i];
            open_columns -= !s->column_linked[j];
            s->row_linked[i] = s->column_linked[j] = 1;
        }
        for (int64_t j = 0; j < n; ++j) {
            s->add_open[j] = s->column_linked[j] ? settings->log_discount : 0.0f;
            s->add_linked[j] = s->column_linked[j] ? -INFINITY : settings->log_discount;
        }
    }
}

/* ---- Pairs. */

/* The next part of the scratch. Under the address sanitizer what is behind it may not be touched. */
static void *part(float **at, int64_t numbers) {
    float *found = *at;
    *at += numbers;
#ifdef __SANITIZE_ADDRESS__
    ASAN_POISON_MEMORY_REGION(*at, GAP * sizeof(float));
#endif
    *at += GAP;
    return found;
}

static int make_scratch(Scratch *s, int64_t m, int64_t n, int64_t width) {
    const int64_t stride = padded(n), rows = padded(m), cells = rows * stride;
    const int64_t numbers = 2 * cells + (m + n) * width + 3 * rows + 8 * stride;
    s->memory = malloc((numbers + PARTS * GAP) * sizeof(float));
    if (s->memory == NULL) return 0;
    float *at = s->memory;
    s->plan = part(&at, cells);
    s->kernel = part(&at, cells);
    s->unit = part(&at, (m + n) * width);
    s->row_scale = part(&at, rows);
    s->column_scale = part(&at, stride);
    s->column_mass = part(&at, stride);
    s->best = part(&at, stride);
    s->add_open = part(&at, stride);
    s->add_linked = part(&at, stride);
    s->candidate = part(&at, stride);
    s->best_column = part(&at, rows);
    s->row_linked = part(&at, rows);
    s->best_row = part(&at, stride);
    s->column_linked = part(&at, stride);
    return 1;
}

/* Align the pairs `first` to `last` (not included); 0 where there is no memory for the largest of them. */
int align_pairs(const Batch *batch, const Settings *settings, int64_t first, int64_t last) {
    int64_t most_rows = 0, most_columns = 0;
    for (int64_t pair = first; pair < last; ++pair) {
        most_rows = batch->source_length[pair] > most_rows ? batch->source_length[pair] : most_rows;
        most_columns = batch->target_length[pair] > most_columns ? batch->target_length[pair] : most_columns;
    }
    Scratch s;
    if (!make_scratch(&s, most_rows, most_columns, settings->cosine ? batch->width : 0)) return 0;
    for (int64_t pair = first; pair < last; ++pair) {
        const int64_t m = batch->source_length[pair], n = batch->target_length[pair], stride = padded(n);
        if (m == 0 || n == 0) continue; /* `status` says so already */
        const int64_t source = batch->source_start[pair], target = batch->target_start[pair], width = batch->width;
        if (batch->similarity != NULL) {
            const float *given = batch->similarity + batch->similarity_at[pair];
            for (int64_t i = 0; i < m; ++i) memcpy(s.plan + i * stride, given + i * n, n * sizeof(float));
        } else if (settings->cosine) {
            unit_rows(batch->hidden + source * width, m, width, s.unit);
            unit_rows(batch->hidden + target * width, n, width, s.unit + m * width);
            similarities(s.unit, m, s.unit + m * width, n, width, stride, s.plan);
        } else {
            similarities(batch->hidden + source * width, m, batch->hidden + target * width, n, width, stride, s.plan);
        }
        float least, most;
        const int finite = log_kernel(s.plan, m, n, stride, settings, &least, &most);
        batch->status[pair] = finite ? 0 : settings->non_finite;
        if (!finite) continue;
        transport_plan(&s, m, n, stride, settings, least, most);
        filter_plan(&s, m, n, stride, settings, batch, source, target);
    }
    free(s.memory);
    return 1;
}
