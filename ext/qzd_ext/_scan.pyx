"""From a model's tensors to candidates: four ways that they lie in memory.

Scores are looked at first, and box channels are read only for candidates. A head is one of these scans and
one `Placement`. What becomes of the candidates is in `_nms`.

Parameters that the scans share: `placement` reads a box, `out` receives the candidates, `confidence` is the
least score, and with `every_label` every class that passes makes a candidate, not only the best one.
`first_index` is the index of the scan's first box among all that the model gives; the lower one wins ties.
"""

from libc.math cimport INFINITY, isnan
from libc.stdlib cimport free, malloc
from libc.string cimport memset
from numpy cimport PyArray_NDIM, PyArray_SIZE, ndarray
from qzd_ext._arrays cimport floats, length
from qzd_ext._geometry cimport Box
from qzd_ext._nms cimport Candidate, Candidates
from qzd_ext._place cimport Placement
from qzd_ext._scores cimport (
    BLOCK, NEXT, NONE, SOFTMAX, Activation, Wanted, activated, add_labels, add_softmax, blocks, is_valid,
    qzd_fetch, qzd_hits, qzd_row_hits, qzd_row_hits_over, qzd_stride_hits, score_of, wanted,
)

__all__ = ["scan_columns", "scan_final", "scan_objects", "scan_rows"]


cdef const float *span(
    ndarray tensor, Py_ssize_t first, Py_ssize_t n, Py_ssize_t stride, Py_ssize_t channels, Py_ssize_t step
) except NULL:
    """The value at `first`, if n boxes of that many channels, that far apart, lie within the tensor."""
    cdef Py_ssize_t size = PyArray_SIZE(tensor)
    cdef Py_ssize_t last = first + (n - 1) * stride + (channels - 1) * step
    if min(first, n - 1, stride, channels - 1, step) < 0 or last >= size:
        raise ValueError(f"wanted at least {last + 1} values, got {(<object> tensor).shape}")
    return floats(tensor, size) + first


cdef int check_boxes(Placement placement, Py_ssize_t n) except -1:
    if placement.boxes >= 0 and placement.boxes != n:
        raise ValueError(f"wanted {placement.boxes} boxes, got {n}")
    return 0


cdef inline void settle(
    Candidates out, Py_ssize_t first, const float *box, Py_ssize_t step, Py_ssize_t index,
    Placement placement
) noexcept nogil:
    """Place the candidates from `first` on, which share one box; without it they are invalid."""
    cdef Box placed
    cdef Py_ssize_t i
    if placement.place(box, step, index, &placement.how, &placed):
        for i in range(first, out.count):
            out.items[i].box = placed
    else:
        out.count = first
        out.invalid += 1


# --- boxes with an objectness

def scan_objects(ndarray tensor not None, Py_ssize_t first, Py_ssize_t n, Py_ssize_t stride, Py_ssize_t step,
                 Py_ssize_t classes, int activation, bint root, Py_ssize_t first_index,
                 Placement placement not None, Candidates out not None, float confidence, bint every_label):
    """Scan n boxes whose channels are box, objectness, classes.

    Parameters
    ----------
    tensor : float32, C-contiguous
    first, n, stride, step : int
        The first channel of the first box, how many boxes there are, and how many values lie between two
        boxes and between two channels.
    classes : int
    activation : int
        0: none, 1: sigmoid; still to be applied to objectness and classes.
    root : bool
        The score is the geometric mean of objectness and class, not their product.
    """
    cdef const float *values = span(tensor, first, n, stride, 5 + classes, step)
    cdef Wanted want = wanted(confidence, every_label, <Activation> activation, root)
    check_boxes(placement, n)
    with nogil:
        find_objects(out, values, n, stride, step, classes, <Activation> activation, &want, first_index,
                     placement)
        out.scanned()


cdef int find_objects(
    Candidates out, const float *values, Py_ssize_t n, Py_ssize_t stride, Py_ssize_t step,
    Py_ssize_t classes, Activation activation, const Wanted *want, Py_ssize_t first_index,
    Placement placement
) except -1 nogil:
    cdef unsigned int places[BLOCK]
    cdef Py_ssize_t block, begin, i, k, m, first, index
    cdef const float *v
    cdef double objectness, least = want.confidence
    if want.root:
        least = least * least
    for block in range(blocks(n)):
        begin = block * BLOCK
        m = min(n - begin, BLOCK)
        v = values + begin * stride + 4 * step
        if stride == 1:
            k = <Py_ssize_t> qzd_hits(v, m, want.floor, want.raw, places)
        else:
            k = <Py_ssize_t> qzd_stride_hits(v, m, stride, want.floor, want.raw, places)
        for i in range(k):
            if i + NEXT < k:
                qzd_fetch(values + (begin + places[i + NEXT]) * stride, classes + 5, step)
            index = begin + places[i]
            v = values + index * stride
            if not is_valid(v[4 * step], want):
                out.invalid += 1
                continue
            objectness = activated(v[4 * step], activation)
            if objectness < least:
                continue
            first = out.count
            if add_labels(out, v + 5 * step, step, classes, objectness, activation, want,
                          first_index + index):
                settle(out, first, v, step, index, placement)
    return 0


# --- class scores in rows

def scan_rows(ndarray scores not None, Py_ssize_t first, Py_ssize_t n, Py_ssize_t stride, Py_ssize_t depth,
              Py_ssize_t first_class, Py_ssize_t classes, int activation,
              ndarray boxes not None, Py_ssize_t first_box, Py_ssize_t box_stride, Py_ssize_t box_step,
              Py_ssize_t first_index, Placement placement not None, Candidates out not None,
              float confidence, bint every_label):
    """Scan n rows of class scores, which are contiguous, and their boxes, which may lie elsewhere.

    Parameters
    ----------
    scores : float32, C-contiguous
    first, n, stride, depth : int
        The first score of the first row, how many rows there are, how many values lie between two rows,
        and how many scores a row has.
    first_class, classes : int
        Where among the scores the classes are; one more score may stand for the background.
    activation : int
        0: none, 1: sigmoid, 2: softmax over all scores of a row; still to be applied.
    boxes : float32, C-contiguous
        May be `scores`.
    first_box, box_stride, box_step : int
        The first channel of the first box, and how many values lie between two boxes and two channels.
    """
    cdef const float *values = span(scores, first, n, stride, depth, 1)
    cdef const float *box = span(boxes, first_box, n, box_stride, placement.channels, box_step)
    cdef Wanted want = wanted(confidence, every_label, <Activation> activation)
    if first_class < 0 or classes < 1 or first_class + classes > depth:
        raise ValueError(f"wanted classes {first_class} to {first_class + classes} within {depth} scores")
    check_boxes(placement, n)
    with nogil:
        find_rows(out, values, n, stride, depth, first_class, classes, <Activation> activation, &want,
                  box, box_stride, box_step, first_index, placement)
        out.scanned()


cdef int find_rows(
    Candidates out, const float *scores, Py_ssize_t n, Py_ssize_t stride, Py_ssize_t depth,
    Py_ssize_t first_class, Py_ssize_t classes, Activation activation, const Wanted *want,
    const float *boxes, Py_ssize_t box_stride, Py_ssize_t box_step, Py_ssize_t first_index,
    Placement placement
) except -1 nogil:
    cdef unsigned int rows[BLOCK]
    cdef Py_ssize_t block, begin, i, k, m, index, first
    cdef bint relative = activation == SOFTMAX and first_class == 1
    cdef float least = -INFINITY if activation == SOFTMAX else want.raw
    cdef const float *row
    for block in range(blocks(n)):
        begin = block * BLOCK
        row = scores + begin * stride + first_class
        m = min(n - begin, BLOCK)
        if relative:
            k = <Py_ssize_t> qzd_row_hits_over(row, m, stride, classes, want.raw, rows)
        elif classes == 1 and stride == 1:
            k = <Py_ssize_t> qzd_hits(row, m, want.floor, least, rows)
        elif classes == 1:
            k = <Py_ssize_t> qzd_stride_hits(row, m, stride, want.floor, least, rows)
        else:
            k = <Py_ssize_t> qzd_row_hits(row, m, stride, classes, want.floor, least, rows)
        for i in range(k):
            if i + NEXT < k:
                qzd_fetch(boxes + (begin + rows[i + NEXT]) * box_stride, placement.channels, box_step)
            index = begin + rows[i]
            row = scores + index * stride
            first = out.count
            if activation == SOFTMAX:
                add_softmax(out, row, depth, first_class, classes, want, first_index + index)
            else:
                add_labels(out, row + first_class, 1, classes, 1, activation, want, first_index + index)
            if out.count > first:
                settle(out, first, boxes + index * box_stride, box_step, index, placement)
    return 0


# --- class scores in columns

cdef enum:
    UNSEEN = -1     # mark of a column; else the place of its last candidate


def scan_columns(ndarray scores not None, Py_ssize_t first, Py_ssize_t n, Py_ssize_t classes, int activation,
                 ndarray boxes not None, Py_ssize_t first_box, Py_ssize_t box_stride, Py_ssize_t box_step,
                 Py_ssize_t first_index, Placement placement not None, Candidates out not None,
                 float confidence, bint every_label):
    """Scan n columns of class scores: class by class, each one contiguous; then the boxes of those found.

    Parameters
    ----------
    scores : float32, C-contiguous
    first, n, classes : int
        The first score of the first class, and how many columns and classes there are.
    activation : int
        0: none, 1: sigmoid; still to be applied.
    boxes, first_box, box_stride, box_step
        As for `scan_rows`.
    """
    cdef const float *values = span(scores, first, n, 1, classes, n)
    cdef const float *box = span(boxes, first_box, n, box_stride, placement.channels, box_step)
    cdef Wanted want = wanted(confidence, every_label, <Activation> activation)
    cdef Py_ssize_t before = out.count
    check_boxes(placement, n)
    cdef int *marks = <int *> malloc(n * sizeof(int))
    if marks == NULL:
        raise MemoryError
    try:
        with nogil:
            memset(marks, UNSEEN, n * sizeof(int))
            find_columns(out, values, n, classes, &want, marks)
            settle_columns(out, before, box, box_stride, box_step, classes, first_index,
                           <Activation> activation, &want, placement)
            out.scanned()
    finally:
        free(marks)


cdef int find_columns(
    Candidates out, const float *values, Py_ssize_t n, Py_ssize_t classes, const Wanted *want, int *marks
) except -1 nogil:
    """Append candidates, boxless, with their raw values; the index of each is column * classes + class.

    The classes lie behind each other, so that they are one stream of values.
    """
    cdef unsigned int places[BLOCK]
    cdef Py_ssize_t block, begin, i, k, column, c = 0, row = 0
    cdef float value
    cdef Candidate *item
    for block in range(blocks(n * classes)):
        begin = block * BLOCK
        k = <Py_ssize_t> qzd_hits(values + begin, min(n * classes - begin, BLOCK), want.floor, want.raw,
                                  places)
        for i in range(k):
            while begin + places[i] >= row + n:
                row += n
                c += 1
            value = values[begin + places[i]]
            column = begin + places[i] - row
            if not is_valid(value, want):
                out.invalid += 1
            elif marks[column] == UNSEEN or want.every_label:
                marks[column] = <int> out.count
                out.add(value, <int> c, column * classes + c)
            elif value > out.items[marks[column]].score:
                item = out.items + marks[column]
                item.score, item.class_id = value, <int> c
                item.index = <unsigned int> (column * classes + c)
    return 0


cdef void settle_columns(
    Candidates out, Py_ssize_t first, const float *boxes, Py_ssize_t box_stride, Py_ssize_t box_step,
    Py_ssize_t classes, Py_ssize_t first_index, Activation activation, const Wanted *want,
    Placement placement
) noexcept nogil:
    """Activate and place the candidates from `first` on."""
    cdef Py_ssize_t i, column, kept = first
    cdef Candidate item
    for i in range(first, out.count):
        item = out.items[i]
        column = item.index // classes
        item.score = score_of(item.score, 1, activation, want)
        if item.score < want.confidence:
            continue
        if placement.place(boxes + column * box_stride, box_step, column, &placement.how, &item.box):
            item.index += <unsigned int> (first_index * classes)
            out.items[kept] = item
            kept += 1
        else:
            out.invalid += 1
    out.count = kept


# --- final boxes

def scan_final(ndarray rows not None, int score_column, int label_column, tuple box_columns not None,
               int end_column, double first_label, int classes, Placement placement not None,
               Candidates out not None, float confidence):
    """Scan final boxes, one per row, each with one label.

    Parameters
    ----------
    rows : (..., K) float32
    score_column, label_column : int
        Where in a row these are.
    box_columns : 4 int
        Where in a row the channels of the box are.
    end_column : int
        The rows end where this column is negative; -1: all rows count.
    first_label, classes : int
        Labels are first_label .. first_label + classes - 1.

    Returns
    -------
    float or None
        The first label that is not the model's; the rows after it are not read.

    Raises
    ------
    ValueError
        K is too small for these columns.
    """
    cdef Py_ssize_t i, k, first, columns = length(rows, PyArray_NDIM(rows) - 1)
    cdef int[4] at = box_columns
    if min(score_column, label_column, min(box_columns)) < 0 or (
            max(score_column, label_column, max(box_columns), end_column) >= columns):
        raise ValueError(f"rows of {columns} columns, too few")
    cdef Py_ssize_t n = PyArray_SIZE(rows) // columns
    cdef const float *values = floats(rows, n * columns)
    cdef const float *row = NULL
    cdef float[4] box
    cdef double label
    cdef bint strange = False
    cdef Wanted want = wanted(confidence, False, NONE)
    check_boxes(placement, n)
    with nogil:
        for i in range(n):
            row = values + i * columns
            if end_column >= 0 and row[end_column] < 0:
                break
            if not -INFINITY < row[score_column] <= want.ceiling:
                out.invalid += 1
            if not row[score_column] >= confidence:
                continue
            label = row[label_column] - first_label
            if isnan(label):
                out.invalid += 1
                continue
            if not -0.5 < label < classes - 0.5:
                strange = True
                break
            for k in range(4):
                box[k] = row[at[k]]
            first = out.count
            out.add(score_of(row[score_column], 1, NONE, &want), <int> (label + 0.5), i)
            settle(out, first, box, 1, i, placement)
        out.scanned()
    return float(row[label_column]) if strange else None
