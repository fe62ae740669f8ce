"""From an anchor's class values to candidates: inline, without the GIL.

A score is `objectness * activate(value)`, taken in double and rounded to float32 once. Values are compared
raw, with a threshold that was led back through the activation, before anything is exponentiated; what
passes is then held against the confidence itself. NaN or +inf among the values drops the anchor; -inf is a
score of 0 like any other that is too low.
"""

from libc.math cimport INFINITY, exp, log
from qzd_ext._nms cimport Candidates

cdef extern from "_simd.h" nogil:
    size_t qzd_hits(const float *values, size_t n, float threshold, unsigned int *places)
    size_t qzd_row_hits(const float *first, size_t n, size_t stride, size_t width, float threshold,
                        unsigned int *rows)
    size_t qzd_row_hits_over(const float *first, size_t n, size_t stride, size_t width, float threshold,
                             unsigned int *rows)
    size_t qzd_stride_hits(const float *first, size_t n, size_t stride, float threshold,
                           unsigned int *rows)
    size_t qzd_best(const float *values, size_t n)
    void qzd_fetch(const float *values, size_t n, size_t step)

cdef enum Activation:
    NONE = 0
    SIGMOID = 1
    SOFTMAX = 2

cdef enum:
    BLOCK = 4096        # values or rows that are filtered at once
    NEXT = 2            # so many anchors ahead their values are fetched


cdef struct Wanted:
    float confidence
    float raw               # no value below this can give a score of `confidence`
    bint every_label        # every class that passes, not only the best one


cdef inline Py_ssize_t blocks(Py_ssize_t n) noexcept nogil:
    return (n + BLOCK - 1) // BLOCK


cdef inline double sigmoid(double x) noexcept nogil:
    return 1 / (1 + exp(-x))


cdef inline float raw_floor(double confidence, Activation activation) noexcept nogil:
    """A little below the raw value that gives this score."""
    cdef double p = confidence * (1 - 1e-6)
    if p <= 0:
        return -INFINITY
    return <float> p if activation == NONE else <float> (log(p / (1 - p)) - 1e-4)


cdef inline Wanted wanted(float confidence, bint every_label, Activation activation) noexcept nogil:
    cdef float raw = confidence if activation == NONE else raw_floor(confidence, activation)
    return Wanted(confidence, raw, every_label)


cdef inline float score_of(float value, double objectness, Activation activation) noexcept nogil:
    return <float> (objectness * (value if activation == NONE else sigmoid(value)))


cdef inline Py_ssize_t best_label(const float *values, Py_ssize_t step, Py_ssize_t classes) noexcept nogil:
    """The class of the largest value, the lower one among equals; -1 where one is NaN or +inf."""
    cdef Py_ssize_t c, best = 0
    cdef float value, largest = values[0]
    cdef bint poison = False
    if step == 1:
        best = <Py_ssize_t> qzd_best(values, classes)
        return best if best < classes else -1
    for c in range(classes):
        value = values[c * step]
        poison |= not value < INFINITY
        if value > largest:
            largest, best = value, c
    return -1 if poison else best


cdef inline int add_labels(
    Candidates out, const float *values, Py_ssize_t step, Py_ssize_t classes, double objectness,
    Activation activation, const Wanted *want, Py_ssize_t anchor
) except -1 nogil:
    """Append an anchor's candidates, without boxes. Returns whether there are any.

    `values` lie `step` apart. The index of a candidate is anchor * classes + class.
    """
    cdef Py_ssize_t c, first = out.count, best = best_label(values, step, classes)
    cdef float score, raw
    if best < 0:
        out.dropped += 1
        return False
    score = score_of(values[best * step], objectness, activation)
    if score < want.confidence or not want.every_label:
        if score >= want.confidence:
            out.add(score, <int> best, anchor * classes + best)
        return out.count > first
    raw = raw_floor(want.confidence / objectness if objectness > 0 else 0, activation)
    for c in range(classes):
        if values[c * step] >= raw:
            score = score_of(values[c * step], objectness, activation)
            if score >= want.confidence:
                out.add(score, <int> c, anchor * classes + c)
    return out.count > first
