/* The loops that see every value of a tensor: they only find what is worth a second look.
 *
 * Plain C that the compiler turns into vector code, twice on x86-64: for the baseline and for AVX2, chosen
 * when the module is loaded. No decision is final here.
 */
#ifndef QZD_SIMD_H
#define QZD_SIMD_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* A filter: no module needs all of them. */
#if defined(__x86_64__) && defined(__GNUC__) && defined(__gnu_linux__) && !defined(QZD_DEBUG)
#define QZD_FILTER __attribute__((unused, target_clones("avx2", "default"))) static
#else
#define QZD_FILTER __attribute__((unused)) static
#endif

#define QZD_SIDE 8      /* values side by side: one vector of AVX2, two of SSE or NEON */
#define QZD_LANES 16    /* values between two branches: some vectors on any CPU */
#define QZD_STREAM 64   /* the same where hardly anything is found */
#define QZD_AHEAD 512   /* values to fetch ahead of a pass over memory, so that it does not wait */
#define QZD_ROWS_AHEAD 32
#define QZD_SLACK 0.02f /* what bf16 and 8 bits may add to a score of 0 or 1 */

/* Whether one of the values is not below the limit; NaN is not. */
static inline int qzd_any(const float *values, size_t n, float limit)
{
    int below = -1;
    for (size_t k = 0; k < n; k++)
        below &= -(values[k] < limit);
    return !below;
}

/* The same for a limit above 0, where negative values count as well: as unsigned integers, the bits of all
 * of these are not below those of the limit. One comparison sees both. */
static inline int qzd_any_or_negative(const float *values, size_t n, float limit)
{
    uint32_t most = 0, bits;
    for (size_t k = 0; k < n; k++) {
        memcpy(&bits, values + k, sizeof bits);
        most = bits > most ? bits : most;
    }
    memcpy(&bits, &limit, sizeof bits);
    return most >= bits;
}

/* Whether one of the values is not in floor..ceiling; NaN is not. */
QZD_FILTER int qzd_outside(const float *values, size_t n, float floor, float ceiling)
{
    int within = -1;
    for (size_t k = 0; k < n; k++)
        within &= -((values[k] >= floor) & (values[k] <= ceiling));
    return !within;
}

/* Places of the values that are not below the threshold, or below the floor; NaN is among them, and others
 * may be. `places` has room for n. Returns how many there are. */
QZD_FILTER size_t qzd_hits(const float *values, size_t n, float floor, float threshold, uint32_t *places)
{
    const int logits = floor == -INFINITY || !(threshold > 0);
    const float limit = floor > -INFINITY && logits ? -INFINITY : threshold;
    size_t count = 0, i = 0, j, k;
    for (; i + QZD_STREAM <= n; i += QZD_STREAM) {
        for (k = 0; k < QZD_STREAM; k += 16)
            __builtin_prefetch(values + i + k + QZD_AHEAD);
        if (logits ? qzd_any(values + i, QZD_STREAM, limit)
                   : qzd_any_or_negative(values + i, QZD_STREAM, limit))
            for (j = i; j < i + QZD_STREAM; j += QZD_LANES)
                if (logits ? qzd_any(values + j, QZD_LANES, limit)
                           : qzd_any_or_negative(values + j, QZD_LANES, limit))
                    for (k = j; k < j + QZD_LANES; k++) {
                        places[count] = (uint32_t)k;
                        count += !((values[k] >= floor) & (values[k] < threshold));
                    }
    }
    for (; i < n; i++) {
        places[count] = (uint32_t)i;
        count += !((values[i] >= floor) & (values[i] < threshold));
    }
    return count;
}

/* Some values side by side, and whether each is as it should be: -1 if it is, else 0. */
typedef float qzd_floats __attribute__((vector_size(4 * QZD_SIDE)));
typedef int32_t qzd_within __attribute__((vector_size(4 * QZD_SIDE)));

static inline int qzd_all_within(const qzd_within *within)
{
    uint64_t words[QZD_SIDE / 2], all = ~(uint64_t)0;
    memcpy(words, within, sizeof words);
    for (size_t k = 0; k < QZD_SIDE / 2; k++)
        all &= words[k];
    return all == ~(uint64_t)0;
}

/* Rows of which one of `width` values is not below the threshold or, if asked for, is negative.
 *
 * Four rows are taken at once, since each alone is short, and a row ends with as many values as lie side by
 * side, some of them for the second time. */
static inline __attribute__((always_inline)) size_t qzd_rows(
    const float *first, size_t n, size_t stride, size_t width, float threshold, uint32_t *rows,
    const int negatives)
{
    const qzd_floats limit = threshold - (qzd_floats){0};
    size_t count = 0, r = 0, k, q;
    for (; width >= QZD_SIDE && r + 4 <= n; r += 4) {
        const float *row = first + r * stride;
        qzd_within within[4], signs[4], all;
        for (q = 0; q < 4; q++) {
            within[q] = (qzd_within){0} - 1;
            signs[q] = (qzd_within){0};
        }
        for (k = 0; k < width; k += QZD_SIDE) {
            const size_t at = k + QZD_SIDE <= width ? k : width - QZD_SIDE;
            __builtin_prefetch(row + 4 * k + QZD_AHEAD); /* four rows, of two lines of cache in all */
            __builtin_prefetch(row + 4 * k + QZD_AHEAD + 16);
            for (q = 0; q < 4; q++) {
                qzd_floats values;
                qzd_within bits;
                memcpy(&values, row + q * stride + at, sizeof values);
                memcpy(&bits, &values, sizeof bits);
                within[q] &= values < limit;
                if (negatives)
                    signs[q] |= bits;
            }
        }
        for (q = 0; q < 4; q++)
            within[q] &= signs[q] >= 0;
        all = within[0] & within[1] & within[2] & within[3];
        if (!qzd_all_within(&all))
            for (q = 0; q < 4; q++) {
                rows[count] = (uint32_t)(r + q);
                count += !qzd_all_within(&within[q]);
            }
    }
    for (; r < n; r++) {
        const float *row = first + r * stride;
        rows[count] = (uint32_t)r;
        count += negatives ? qzd_any_or_negative(row, width, threshold) : qzd_any(row, width, threshold);
    }
    return count;
}

/* Rows of which one of `width` values is not below the threshold, or below the floor; others may be among
 * them. `rows` has room for n. Returns how many there are. */
QZD_FILTER size_t qzd_row_hits(const float *first, size_t n, size_t stride, size_t width, float floor,
                               float threshold, uint32_t *rows)
{
    if (floor > -INFINITY && threshold > 0)
        return qzd_rows(first, n, stride, width, threshold, rows, 1);
    return qzd_rows(first, n, stride, width, floor > -INFINITY ? -INFINITY : threshold, rows, 0);
}

/* The same where the threshold is relative to the value before the first one: a softmax whose background
 * class comes first. What float32 loses in the sum is allowed for. */
QZD_FILTER size_t qzd_row_hits_over(const float *first, size_t n, size_t stride, size_t width,
                                           float threshold, uint32_t *rows)
{
    size_t count = 0;
    for (size_t r = 0; r < n; r++) {
        const float *row = first + r * stride;
        float limit = row[-1] + threshold - fabsf(row[-1]) * 1e-6f;
        rows[count] = (uint32_t)r;
        count += (!(row[-1] < INFINITY)) | qzd_any(row, width, limit);
    }
    return count;
}

/* Rows of which the first value is not below the threshold, or below the floor; others may be among them.
 * The rows that come are fetched ahead, for each lies in a cache line of its own. */
static inline size_t qzd_stride_hits(const float *first, size_t n, size_t stride, float floor,
                                     float threshold, uint32_t *rows)
{
    const int negatives = floor > -INFINITY && threshold > 0;
    const float limit = floor > -INFINITY && !negatives ? -INFINITY : threshold;
    uint32_t bits, most;
    size_t count = 0;
    memcpy(&most, &threshold, sizeof most);
    for (size_t r = 0; r < n; r++) {
        __builtin_prefetch(first + (r + QZD_ROWS_AHEAD) * stride);
        rows[count] = (uint32_t)r;
        memcpy(&bits, first + r * stride, sizeof bits);
        count += negatives ? bits >= most : !(first[r * stride] < limit);
    }
    return count;
}

/* Fetch n values that lie `step` apart. */
static inline void qzd_fetch(const float *values, size_t n, size_t step)
{
    for (size_t k = 0; k < n; k += step == 1 ? 16 : 1)
        __builtin_prefetch(values + k * step);
}

/* The place of the largest of n values, none of them NaN; the first one among equals.
 * The largest is sought among integers in the order of the floats, for which compilers have vector code. */
QZD_FILTER size_t qzd_best(const float *values, size_t n)
{
    int32_t most = INT32_MIN;
    float largest;
    size_t k;
    for (k = 0; k < n; k++) {
        int32_t bits;
        memcpy(&bits, values + k, sizeof bits);
        bits ^= (bits >> 31) & 0x7fffffff;
        most = bits > most ? bits : most;
    }
    most ^= (most >> 31) & 0x7fffffff;
    memcpy(&largest, &most, sizeof largest);
    /* nothing is above the largest: the first chunk with something not below it has it */
    for (k = 0; k + QZD_LANES <= n && !qzd_any(values + k, QZD_LANES, largest); k += QZD_LANES)
        ;
    while (values[k] != largest)
        k++;
    return k;
}

/* A box, and when another one may overlap it by more than a threshold t. For IoU > t it must be that
 * overlap * scale >= slope * area + offset,  with scale = 1 + t, slope a little below t, and offset a
 * little below slope * the box's own area. */
typedef struct {
    float x0, y0, x1, y1;
    float scale, slope, offset;
} qzd_probe;

static inline int qzd_meets(qzd_probe box, float x0, float y0, float x1, float y1, float area)
{
    float left = x0 > box.x0 ? x0 : box.x0, right = x1 < box.x1 ? x1 : box.x1;
    float top = y0 > box.y0 ? y0 : box.y0, bottom = y1 < box.y1 ? y1 : box.y1;
    float w = right - left, h = bottom - top;
    return (w > 0) & (h > 0) & (w * h * box.scale >= box.slope * area + box.offset);
}

/* Places of those of n boxes, in planes, that may overlap one box by more than the threshold. */
QZD_FILTER size_t qzd_overlaps(const qzd_probe *box, const float *x0, const float *y0,
                                      const float *x1, const float *y1, const float *area, size_t n,
                                      uint32_t *places)
{
    const qzd_probe probe = *box;
    size_t count = 0, i = 0, k;
    for (; i + QZD_LANES <= n; i += QZD_LANES) {
        int any = 0;
        for (k = i; k < i + QZD_LANES; k++)
            any |= -qzd_meets(probe, x0[k], y0[k], x1[k], y1[k], area[k]);
        if (any)
            for (k = i; k < i + QZD_LANES; k++) {
                places[count] = (uint32_t)k;
                count += qzd_meets(probe, x0[k], y0[k], x1[k], y1[k], area[k]);
            }
    }
    for (; i < n; i++) {
        places[count] = (uint32_t)i;
        count += qzd_meets(probe, x0[i], y0[i], x1[i], y1[i], area[i]);
    }
    return count;
}

#endif
