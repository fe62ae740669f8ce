"""The SSD head, and the heads whose graph has left final boxes: tensors to candidates.

What may live here: the heads; what becomes of the candidates is in `_nms`.
"""

from libc.math cimport INFINITY, exp, isnan, log
from numpy cimport PyArray_NDIM, PyArray_SIZE, ndarray
from qzd_ext._arrays cimport floats, length
from qzd_ext._nms cimport Candidates
from qzd_ext._scores cimport (
    BLOCK, NEXT, NONE, SOFTMAX, Activation, Wanted, add_labels, blocks, qzd_fetch, qzd_row_hits,
    qzd_row_hits_over, wanted,
)

__all__ = ["scan_boxes", "scan_ssd"]


def scan_boxes(ndarray rows not None, int label_column, int score_column, int box_column, int end_column,
               double width, double height, int first_label, int classes, Candidates out not None,
               float confidence):
    """Finished boxes, one a row, each with one label.

    Parameters
    ----------
    rows : (..., K) float32
    label_column, score_column, box_column : int
        Where in a row these are; x0 y0 x1 y1 begin at box_column.
    end_column : int
        The rows end where this column is negative; -1: all rows count.
    width, height : float
        Input pixels a unit of the boxes.
    first_label, classes : int
        Labels are first_label .. first_label + classes - 1.
    out : Candidates
    confidence : float

    Returns
    -------
    float or None
        The first label that is none of the model's; the rows after it are not read.

    Raises
    ------
    ValueError
        K is too small for these columns.
    """
    cdef Py_ssize_t i, first, columns = length(rows, PyArray_NDIM(rows) - 1)
    if max(label_column, score_column, box_column + 3, end_column) >= columns:
        raise ValueError(f"rows of {columns} columns, too few")
    cdef Py_ssize_t n = PyArray_SIZE(rows) // columns
    cdef const float *values = floats(rows, n * columns)
    cdef const float *row = NULL
    cdef float score, label
    cdef bint strange = False
    with nogil:
        for i in range(n):
            row = values + i * columns
            if end_column >= 0 and row[end_column] < 0:
                break
            score = row[score_column]
            if score < confidence:
                continue
            label = row[label_column] - first_label
            if not score < INFINITY or isnan(label):
                out.dropped += 1
                continue
            if not -0.5 < label < classes - 0.5:
                strange = True
                break
            first = out.count
            out.add(score, <int> (label + 0.5), i)
            row += box_column
            out.place(first, row[0] * width, row[1] * height, row[2] * width, row[3] * height)
        out.scanned()
    return float(row[label_column]) if strange else None


cdef struct Prior:              # how box codes are read
    const float *codes          # ty tx th tw an anchor
    const float *priors         # yc xc h w
    double scales[4]
    double width, height        # of the input


def scan_ssd(ndarray codes not None, ndarray scores not None, ndarray priors not None,
             tuple scales not None, double width, double height, int activation, bint background,
             Candidates out not None, float confidence, bint every_label):
    """SSD: box codes about priors, as the FasterRcnnBoxCoder of the TF Object Detection API.

    Parameters
    ----------
    codes : (1, N, 4) float32
        ty tx th tw.
    scores : (1, N, C + background) float32
    priors : (N, 4) float32
        yc xc h w in 0..1.
    scales : 4 float
        Divisors of ty tx th tw.
    width, height : float
        Of the input, in pixels.
    activation : int
        0: none, 1: sigmoid, 2: softmax over all classes; still to be applied to the scores.
    background : bool
        The first score is that of the background. It is not read but for the softmax.
    out : Candidates
    confidence : float
        The least score.
    every_label : bool
        Every class that passes makes a candidate, not only the best one.
    """
    cdef Py_ssize_t n = length(scores, 1), depth = length(scores, 2)
    cdef const float *values = floats(scores, n * depth)
    cdef Prior prior
    cdef Wanted want = wanted(confidence, every_label, <Activation> activation)
    prior.codes, prior.priors = floats(codes, 4 * n), floats(priors, 4 * n)
    prior.scales = scales
    prior.width, prior.height = width, height
    with nogil:
        if n > 0 and depth > background:
            scan_anchors(out, values, n, depth, <Activation> activation, background, &want, &prior)
        out.scanned()


cdef int scan_anchors(
    Candidates out, const float *scores, Py_ssize_t n, Py_ssize_t depth, Activation activation,
    bint background, const Wanted *want, const Prior *prior
) except -1 nogil:
    cdef unsigned int rows[BLOCK]
    cdef Py_ssize_t block, begin, i, k, m, anchor, first
    cdef bint relative = activation == SOFTMAX and background
    cdef float least = -INFINITY if activation == SOFTMAX and not background else want.raw
    cdef const float *row
    for block in range(blocks(n)):
        begin = block * BLOCK
        row = scores + begin * depth + background
        m = min(n - begin, BLOCK)
        if relative:
            k = qzd_row_hits_over(row, m, depth, depth - 1, least, rows)
        else:
            k = qzd_row_hits(row, m, depth, depth - background, least, rows)
        for i in range(k):
            if i + NEXT < k:
                qzd_fetch(prior.codes + 4 * (begin + rows[i + NEXT]), 1, 1)
                qzd_fetch(prior.priors + 4 * (begin + rows[i + NEXT]), 1, 1)
            anchor = begin + rows[i]
            row = scores + anchor * depth + background
            first = out.count
            if activation == SOFTMAX:
                add_softmax(out, row, depth - background, background, want, anchor)
            else:
                add_labels(out, row, 1, depth - background, 1, activation, want, anchor)
            if out.count > first:
                place_code(out, first, anchor, prior)
    return 0


cdef int add_softmax(
    Candidates out, const float *values, Py_ssize_t classes, bint background, const Wanted *want,
    Py_ssize_t anchor
) except -1 nogil:
    """Append an anchor's candidates under a softmax that the background, at values[-1], takes part in."""
    cdef Py_ssize_t c, best = 0
    cdef double largest = values[-<Py_ssize_t> background], total = 0, least
    cdef float score
    for c in range(-<Py_ssize_t> background, classes):
        if not values[c] < INFINITY:
            out.dropped += 1
            return 0
        largest = max(largest, values[c])
        if c > 0 and values[c] > values[best]:
            best = c
    for c in range(-<Py_ssize_t> background, classes):
        total += exp(values[c] - largest)
    least = log(want.confidence * total * (1 - 1e-6)) - 1e-9 if want.confidence > 0 else -INFINITY
    for c in range(classes):
        if (want.every_label or c == best) and values[c] - largest >= least:
            score = <float> (exp(values[c] - largest) / total)
            if score >= want.confidence:
                out.add(score, <int> c, anchor * classes + c)
    return 0


cdef bint place_code(Candidates out, Py_ssize_t first, Py_ssize_t anchor, const Prior *p) noexcept nogil:
    cdef const float *code = p.codes + 4 * anchor
    cdef const float *prior = p.priors + 4 * anchor
    cdef double y = code[0] / p.scales[0] * prior[2] + prior[0]
    cdef double x = code[1] / p.scales[1] * prior[3] + prior[1]
    cdef double h = exp(code[2] / p.scales[2]) * prior[2]
    cdef double w = exp(code[3] / p.scales[3]) * prior[3]
    return out.place(first, (x - w / 2) * p.width, (y - h / 2) * p.height,
                     (x + w / 2) * p.width, (y + h / 2) * p.height)
