/* The loops that see every value of a tensor: they only find what is worth a second look.
 *
 * Plain C that the compiler turns into vector code, twice on x86-64: for the baseline and for AVX2, chosen
 * when the module is loaded. What may live here: filters over contiguous memory; no decision is final here.
 */
#ifndef QZD_SIMD_H
#define QZD_SIMD_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__x86_64__) && defined(__GNUC__) && defined(__gnu_linux__) && !defined(QZD_DEBUG)
#define QZD_CLONES __attribute__((target_clones("avx2", "default")))
#else
#define QZD_CLONES
#endif

#define QZD_LANES 32

/* Places of the values that are not below the threshold; NaN and infinity are among them.
 * `places` has room for n. Returns how many there are. */
QZD_CLONES static size_t qzd_hits(const float *values, size_t n, float threshold, uint32_t *places)
{
    size_t count = 0, i = 0;
    for (; i + QZD_LANES <= n; i += QZD_LANES) {
        int any = 0;
        for (size_t k = 0; k < QZD_LANES; k++)
            any |= !(values[i + k] < threshold);
        if (any)
            for (size_t k = 0; k < QZD_LANES; k++) {
                places[count] = (uint32_t)(i + k);
                count += !(values[i + k] < threshold);
            }
    }
    for (; i < n; i++) {
        places[count] = (uint32_t)i;
        count += !(values[i] < threshold);
    }
    return count;
}

/* Rows of which one of `width` values is not below the threshold. `rows` has room for n.
 * `before` is 1 where the threshold is relative to the value before the first one (softmax and its
 * background class), else 0. Returns how many rows there are. */
QZD_CLONES static size_t qzd_row_hits(const float *first, size_t n, size_t stride, size_t width,
                                      float threshold, int before, uint32_t *rows)
{
    size_t count = 0;
    for (size_t r = 0; r < n; r++) {
        const float *row = first + r * stride;
        float limit = threshold;
        int any = 0;
        if (before) {
            limit += row[-1] - fabsf(row[-1]) * 1e-6f;
            any = !(row[-1] < INFINITY);
        }
        for (size_t k = 0; k < width; k++)
            any |= !(row[k] < limit);
        rows[count] = (uint32_t)r;
        count += any != 0;
    }
    return count;
}

/* A box against n others in planes: places of those that may overlap it by more than the threshold.
 * For IoU > t it must be that  overlap * scale >= slope * area + offset,  with scale = 1 + t, slope a
 * little below t, and offset a little below slope * the box's own area. */
typedef struct {
    float x0, y0, x1, y1;
    float scale, slope, offset;
} qzd_probe;

QZD_CLONES static size_t qzd_overlaps(const qzd_probe *box, const float *x0, const float *y0,
                                      const float *x1, const float *y1, const float *area, size_t n,
                                      uint32_t *places)
{
    const float bx0 = box->x0, by0 = box->y0, bx1 = box->x1, by1 = box->y1;
    const float scale = box->scale, slope = box->slope, offset = box->offset;
    size_t count = 0, i = 0;
#define QZD_SUSPECT(j, hit)                                      \
    do {                                                         \
        float left = x0[j] > bx0 ? x0[j] : bx0;                  \
        float top = y0[j] > by0 ? y0[j] : by0;                   \
        float right = x1[j] < bx1 ? x1[j] : bx1;                 \
        float bottom = y1[j] < by1 ? y1[j] : by1;                \
        float w = right - left, h = bottom - top;                \
        hit = (w > 0) & (h > 0) & (w * h * scale >= slope * area[j] + offset); \
    } while (0)
    for (; i + QZD_LANES <= n; i += QZD_LANES) {
        int any = 0, hit;
        for (size_t k = 0; k < QZD_LANES; k++) {
            QZD_SUSPECT(i + k, hit);
            any |= hit;
        }
        if (any)
            for (size_t k = 0; k < QZD_LANES; k++) {
                QZD_SUSPECT(i + k, hit);
                places[count] = (uint32_t)(i + k);
                count += hit;
            }
    }
    for (; i < n; i++) {
        int hit;
        QZD_SUSPECT(i, hit);
        places[count] = (uint32_t)i;
        count += hit;
    }
#undef QZD_SUSPECT
    return count;
}

#endif
