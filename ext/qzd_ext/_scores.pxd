"""From a candidate's class values to scores: inline, without the GIL.

A score is `objectness * activate(value)`, taken in double and rounded to float32 once. Values are compared
raw, with a threshold that is mapped back through the activation, before anything is exponentiated; what
passes is then compared with the confidence itself. A value that no sound model gives counts as invalid:
NaN and +inf, and for values that are activated already all outside of 0..1. A logit of -inf is sound: it
is a score of 0.
"""

from libc.float cimport FLT_MAX
from libc.math cimport INFINITY, exp, log, sqrt
from qzd_ext._nms cimport Candidates

cdef extern from "_simd.h" nogil:
    const float QZD_SLACK
    size_t qzd_hits(const float *values, size_t n, float floor, float threshold, unsigned int *places)
    size_t qzd_row_hits(const float *first, size_t n, size_t stride, size_t width, float floor,
                        float threshold, unsigned int *rows)
    size_t qzd_row_hits_over(const float *first, size_t n, size_t stride, size_t width, float threshold,
                             unsigned int *rows)
    size_t qzd_stride_hits(const float *first, size_t n, size_t stride, float floor, float threshold,
                           unsigned int *rows)
    int qzd_outside(const float *values, size_t n, float floor, float ceiling)
    size_t qzd_best(const float *values, size_t n)
    void qzd_fetch(const float *values, size_t n, size_t step)

cdef enum Activation:
    NONE = 0
    SIGMOID = 1
    SOFTMAX = 2

cdef enum:
    BLOCK = 4096        # values or rows that are filtered at once
    NEXT = 2            # candidates ahead whose values are fetched


cdef struct Wanted:
    float confidence
    float raw               # no value below this can give a score of `confidence`
    float floor, ceiling    # a value outside of these is invalid
    bint every_label        # every class that passes, not only the best one
    bint root               # the score is the geometric mean of objectness and class


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


cdef inline Wanted wanted(float confidence, bint every_label, Activation activation,
                          bint root=False) noexcept nogil:
    cdef float raw
    if activation == NONE:
        raw = <float> (<double> confidence * confidence * (1 - 1e-6)) if root else confidence
        return Wanted(confidence, raw, -QZD_SLACK, 1 + QZD_SLACK, every_label, root)
    raw = raw_floor(confidence, activation)
    return Wanted(confidence, raw, -INFINITY, FLT_MAX, every_label, root)


cdef inline bint is_valid(float value, const Wanted *want) noexcept nogil:
    return want.floor <= value <= want.ceiling


cdef inline bint are_valid(
    const float *values, Py_ssize_t step, Py_ssize_t n, const Wanted *want
) noexcept nogil:
    cdef Py_ssize_t c
    if step == 1:
        return not qzd_outside(values, n, want.floor, want.ceiling)
    for c in range(n):
        if not is_valid(values[c * step], want):
            return False
    return True


cdef inline double activated(float value, Activation activation) noexcept nogil:
    """A probability; one that rounding has taken above 1 is 1."""
    return min(<double> value, 1) if activation == NONE else sigmoid(value)


cdef inline float score_of(
    float value, double objectness, Activation activation, const Wanted *want
) noexcept nogil:
    cdef double product = objectness * activated(value, activation)
    return <float> (sqrt(product) if want.root else product)


cdef inline Py_ssize_t best_label(const float *values, Py_ssize_t step, Py_ssize_t classes) noexcept nogil:
    """The class of the largest value, the lower one among equals."""
    cdef Py_ssize_t c, best = 0
    if step == 1:
        return <Py_ssize_t> qzd_best(values, classes)
    for c in range(1, classes):
        if values[c * step] > values[best * step]:
            best = c
    return best


cdef inline int add_labels(
    Candidates out, const float *values, Py_ssize_t step, Py_ssize_t classes, double objectness,
    Activation activation, const Wanted *want, Py_ssize_t index
) except -1 nogil:
    """Append the candidates of one box, without the box. Returns whether there are any.

    `values` lie `step` apart. The index of a candidate is index * classes + class.
    """
    cdef Py_ssize_t c, first = out.count, best
    cdef float score, least
    if not are_valid(values, step, classes, want):
        out.invalid += 1
        return False
    best = best_label(values, step, classes)
    score = score_of(values[best * step], objectness, activation, want)
    if score < want.confidence or not want.every_label:
        if score >= want.confidence:
            out.add(score, <int> best, index * classes + best)
        return out.count > first
    least = least_class(objectness, activation, want)
    for c in range(classes):
        if values[c * step] >= least:
            score = score_of(values[c * step], objectness, activation, want)
            if score >= want.confidence:
                out.add(score, <int> c, index * classes + c)
    return out.count > first


cdef inline float least_class(double objectness, Activation activation, const Wanted *want) noexcept nogil:
    """A little below the class value that gives a score of `confidence` with this objectness."""
    cdef double least = want.confidence
    if objectness <= 0:
        return -INFINITY
    return raw_floor((least * least if want.root else least) / objectness, activation)


cdef inline int add_softmax(
    Candidates out, const float *values, Py_ssize_t depth, Py_ssize_t first, Py_ssize_t classes,
    const Wanted *want, Py_ssize_t index
) except -1 nogil:
    """Append the candidates of one box under a softmax over `depth` values; classes begin at `first`."""
    cdef Py_ssize_t c, best = first, before = out.count
    cdef double largest = values[0], total = 0, least
    cdef float score
    if not are_valid(values, 1, depth, want):
        out.invalid += 1
        return False
    for c in range(1, depth):
        largest = max(largest, values[c])
    if largest == -INFINITY:
        out.invalid += 1
        return False
    for c in range(depth):
        total += exp(values[c] - largest)
    for c in range(first + 1, first + classes):
        if values[c] > values[best]:
            best = c
    least = log(want.confidence * total * (1 - 1e-6)) - 1e-9 if want.confidence > 0 else -INFINITY
    for c in range(first, first + classes):
        if (want.every_label or c == best) and values[c] - largest >= least:
            score = <float> (exp(values[c] - largest) / total)
            if score >= want.confidence:
                out.add(score, <int> (c - first), index * classes + c - first)
    return out.count > before
