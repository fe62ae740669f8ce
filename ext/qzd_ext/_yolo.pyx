"""The heads of the YOLO family: raw tensors to candidates.

Objectness or class values are looked at first, and box channels are read for candidates alone: a head is
one of three ways to find anchors (`scan_objects`, `scan_rows`, `scan_columns`) and one way to `place` a box.
What may live here: the heads; what becomes of the candidates is in `_nms`.

Parameters that all of them share: `out` receives the candidates, `confidence` is the least score, and with
`every_label` every class that passes makes a candidate, not only the best one. Boxes are in input pixels.
"""

from libc.math cimport INFINITY, exp
from libc.stdlib cimport free, malloc
from libc.string cimport memset
from numpy cimport ndarray
from qzd_ext._arrays cimport floats, length
from qzd_ext._geometry cimport Box, round_box
from qzd_ext._nms cimport Candidate, Candidates
from qzd_ext._scores cimport (
    BLOCK, NEXT, NONE, SIGMOID, Activation, Wanted, add_labels, blocks, qzd_fetch, qzd_hits, qzd_row_hits,
    qzd_stride_hits, score_of, sigmoid, wanted,
)

__all__ = ["scan_anchor", "scan_v5", "scan_v8_columns", "scan_v8_raw", "scan_v8_rows", "scan_x"]


cdef struct Placing:            # what a way to place boxes needs besides the box channels
    double width, height        # input pixels a unit: of the frame, or of a cell
    double anchor_width, anchor_height
    double scale_xy
    Py_ssize_t columns          # of the grid
    int bins
    const float *cells          # column, row and stride of each anchor


ctypedef bint (*PlaceBox)(
    const float *box, Py_ssize_t step, Py_ssize_t anchor, const Placing *how, Box *placed
) noexcept nogil


def scan_v5(ndarray tensor not None, double width, double height,
            Candidates out not None, float confidence, bint every_label):
    """YOLOv5 and v7.

    Parameters
    ----------
    tensor : (1, N, 5 + C) float32
        xc yc w h, objectness, classes; all activated.
    width, height : float
        Input pixels a unit of the boxes.
    """
    cdef Placing how
    how.width, how.height = width, height
    scan_object_rows(tensor, NONE, place_center, &how, out, confidence, every_label)


def scan_x(ndarray tensor not None, ndarray cells not None,
           Candidates out not None, float confidence, bint every_label):
    """YOLOX: centre = (offset + cell) * stride, size = exp(log size) * stride.

    Parameters
    ----------
    tensor : (1, N, 5 + C) float32
        Offsets x y, log sizes w h, objectness, classes; scores activated.
    cells : (N, 3) float32
        Column and row of each anchor's cell, and its stride in input pixels.
    """
    cdef Placing how
    how.cells = floats(cells, 3 * length(tensor, 1))
    scan_object_rows(tensor, NONE, place_offset, &how, out, confidence, every_label)


def scan_anchor(ndarray tensor not None, ndarray anchors not None,
                double width, double height, double scale_xy, bint channels_last, Py_ssize_t first_index,
                Candidates out not None, float confidence, bint every_label):
    """One scale of YOLOv3 or v4, nothing activated.

    Parameters
    ----------
    tensor : (1, A * (5 + C), h, w) float32, or (1, h, w, A * (5 + C)) with `channels_last`
        For each anchor tx ty tw th, objectness, classes.
    anchors : (A, 2) float32
        Width and height in input pixels.
    width, height : float
        Of the input, in pixels.
    scale_xy : float
        Darknet's `scale_x_y`: stretches the offsets about the cell's centre.
    first_index : int
        Of this scale's anchors among all; they count anchor by anchor, then row by row.
    """
    cdef Py_ssize_t rows = length(tensor, 1 if channels_last else 2)
    cdef Py_ssize_t columns = length(tensor, 2 if channels_last else 3)
    cdef Py_ssize_t channels = length(tensor, 3 if channels_last else 1)
    cdef Py_ssize_t count = length(anchors, 0), cells = rows * columns, a
    cdef Py_ssize_t depth = channels // max(count, 1)
    cdef Py_ssize_t stride = channels if channels_last else 1
    cdef Py_ssize_t step = 1 if channels_last else cells
    cdef const float *first = floats(tensor, cells * channels)
    cdef const float *sizes = floats(anchors, 2 * count)
    cdef const float *values
    cdef Placing how
    cdef Wanted want = wanted(confidence, every_label, SIGMOID)
    how.scale_xy, how.columns = scale_xy, columns
    with nogil:
        for a in range(count if depth > 5 else 0):
            values = first + a * depth * step
            how.width, how.height = width / columns, height / rows
            how.anchor_width, how.anchor_height = sizes[2 * a], sizes[2 * a + 1]
            scan_objects(out, values, cells, stride, step, depth - 5, SIGMOID, &want,
                         first_index + a * cells, place_anchor, &how)
        out.scanned()


def scan_v8_rows(ndarray tensor not None, double width, double height,
                 Candidates out not None, float confidence, bint every_label):
    """YOLOv8, 9, 11 and 12 with an anchor a row.

    Parameters
    ----------
    tensor : (1, N, 4 + C) float32
        xc yc w h, activated classes.
    width, height : float
        Input pixels a unit of the boxes.
    """
    cdef Py_ssize_t n = length(tensor, 1), stride = length(tensor, 2)
    cdef const float *values = floats(tensor, n * stride)
    cdef Placing how
    how.width, how.height = width, height
    cdef Wanted want = wanted(confidence, every_label, NONE)
    with nogil:
        if n > 0 and stride > 4:
            scan_rows(out, values, n, stride, &want, place_center, &how)
        out.scanned()


def scan_v8_columns(ndarray tensor not None, double width, double height, Candidates out not None,
                    float confidence, bint every_label):
    """YOLOv8, 9, 11 and 12 with an anchor a column.

    Parameters
    ----------
    tensor : (1, 4 + C, N) float32
        xc yc w h, activated classes.
    width, height : float
        Input pixels a unit of the boxes.
    """
    cdef Py_ssize_t depth = length(tensor, 1), n = length(tensor, 2)
    cdef const float *boxes = floats(tensor, depth * n)
    cdef Placing how
    how.width, how.height = width, height
    scan_plane(boxes, boxes + 4 * n, n, depth - 4, NONE, 0, place_center, &how, out, confidence, every_label)


def scan_v8_raw(ndarray sides not None, ndarray classes, ndarray cells not None, int bins,
                Py_ssize_t first_index, Candidates out not None, float confidence, bint every_label):
    """YOLOv8 cut before DFL.

    Parameters
    ----------
    sides : (1, 4 * bins, N) float32
        Logits of the distance from the cell's centre to the left, top, right and bottom, in strides.
    classes : (1, C, N) float32, or None
        Logits. None: they follow the sides in one tensor, (1, 4 * bins + C, N).
    cells : (N, 3) float32
        Column and row of each anchor's cell, and its stride in input pixels.
    first_index : int
        Of these anchors among all.
    """
    cdef Py_ssize_t n = length(cells, 0), between = 4 * bins * n, depth
    cdef const float *logits = NULL
    cdef const float *distances
    cdef Placing how
    how.cells, how.bins = floats(cells, 3 * n), bins
    if classes is None:
        depth = length(sides, 1) - 4 * bins
        distances = floats(sides, between + depth * n)
        logits = distances + between
    else:
        depth = length(classes, 1)
        distances, logits = floats(sides, between), floats(classes, depth * n)
    scan_plane(distances, logits, n, depth, SIGMOID, first_index, place_sides, &how, out, confidence,
               every_label)


# --- ways to find anchors

cdef int scan_object_rows(ndarray tensor, Activation activation, PlaceBox place, const Placing *how,
                          Candidates out, float confidence, bint every_label) except -1:
    cdef Py_ssize_t n = length(tensor, 1), stride = length(tensor, 2)
    cdef const float *values = floats(tensor, n * stride)
    cdef Wanted want = wanted(confidence, every_label, activation)
    with nogil:
        if n > 0 and stride > 5:
            scan_objects(out, values, n, stride, 1, stride - 5, activation, &want, 0, place, how)
        out.scanned()
    return 0


cdef int scan_objects(
    Candidates out, const float *values, Py_ssize_t n, Py_ssize_t stride, Py_ssize_t step,
    Py_ssize_t classes, Activation activation, const Wanted *want, Py_ssize_t first_index,
    PlaceBox place, const Placing *how
) except -1 nogil:
    """n anchors `stride` apart, whose channels lie `step` apart: box, objectness, classes."""
    cdef unsigned int places[BLOCK]
    cdef Py_ssize_t block, begin, i, k, m, first, anchor
    cdef const float *v
    cdef double objectness
    for block in range(blocks(n)):
        begin = block * BLOCK
        m = min(n - begin, BLOCK)
        v = values + begin * stride + 4 * step
        if stride == 1:
            k = qzd_hits(v, m, want.raw, places)
        else:
            k = qzd_stride_hits(v, m, stride, want.raw, places)
        for i in range(k):
            if i + NEXT < k:
                qzd_fetch(values + (begin + places[i + NEXT]) * stride, classes + 5, step)
            anchor = begin + places[i]
            v = values + anchor * stride
            if not v[4 * step] < INFINITY:
                out.dropped += 1
                continue
            objectness = v[4 * step] if activation == NONE else sigmoid(v[4 * step])
            if <float> objectness < want.confidence:
                continue
            first = out.count
            if add_labels(out, v + 5 * step, step, classes, objectness, activation, want,
                          first_index + anchor):
                settle(out, first, v, step, anchor, place, how)
    return 0


cdef int scan_rows(
    Candidates out, const float *values, Py_ssize_t n, Py_ssize_t stride, const Wanted *want,
    PlaceBox place, const Placing *how
) except -1 nogil:
    """n anchors in rows: box, activated classes."""
    cdef unsigned int rows[BLOCK]
    cdef Py_ssize_t block, begin, i, k, first, anchor
    cdef const float *row
    for block in range(blocks(n)):
        begin = block * BLOCK
        k = qzd_row_hits(values + begin * stride + 4, min(n - begin, BLOCK), stride, stride - 4,
                         want.raw, rows)
        for i in range(k):
            anchor = begin + rows[i]
            row = values + anchor * stride
            first = out.count
            if add_labels(out, row + 4, 1, stride - 4, 1, NONE, want, anchor):
                settle(out, first, row, 1, anchor, place, how)
    return 0


cdef inline void settle(
    Candidates out, Py_ssize_t first, const float *box, Py_ssize_t step, Py_ssize_t anchor, PlaceBox place,
    const Placing *how
) noexcept nogil:
    """PlaceBox the candidates of one anchor, or drop them."""
    cdef Box placed
    cdef Py_ssize_t i
    if place(box, step, anchor, how, &placed):
        for i in range(first, out.count):
            out.items[i].box = placed
    else:
        out.count = first
        out.dropped += 1


cdef enum:
    UNSEEN = -1     # marks of a column: else the place of its candidate; all of its bytes are 0xff
    DROPPED = -2


cdef int scan_plane(const float *boxes, const float *values, Py_ssize_t n, Py_ssize_t classes,
                    Activation activation, Py_ssize_t first_index, PlaceBox place, const Placing *how,
                    Candidates out, float confidence, bint every_label) except -1:
    """An anchor a column: class by class, each one contiguous; then the boxes of those that were found."""
    cdef Wanted want = wanted(confidence, every_label, activation)
    cdef Py_ssize_t first = out.count
    cdef int *marks = <int *> malloc((n + 1) * sizeof(int))
    if marks == NULL:
        raise MemoryError
    try:
        with nogil:
            if n > 0 and classes > 0:
                memset(marks, UNSEEN, n * sizeof(int))
                scan_columns(out, values, n, classes, &want, marks)
                settle_columns(out, first, boxes, n, classes, first_index, activation, &want, marks, place,
                               how)
            out.scanned()
    finally:
        free(marks)
    return 0


cdef int scan_columns(
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
        k = qzd_hits(values + begin, min(n * classes - begin, BLOCK), want.raw, places)
        for i in range(k):
            while begin + places[i] >= row + n:
                row += n
                c += 1
            value = values[begin + places[i]]
            column = begin + places[i] - row
            if not value < INFINITY:
                out.dropped += marks[column] != DROPPED
                marks[column] = DROPPED
            elif marks[column] == UNSEEN or (want.every_label and marks[column] != DROPPED):
                marks[column] = <int> out.count
                out.add(value, <int> c, column * classes + c)
            elif marks[column] != DROPPED and value > out.items[marks[column]].score:
                item = out.items + marks[column]
                item.score, item.class_id = value, <int> c
                item.index = <unsigned int> (column * classes + c)
    return 0


cdef void settle_columns(
    Candidates out, Py_ssize_t first, const float *boxes, Py_ssize_t n, Py_ssize_t classes,
    Py_ssize_t first_index, Activation activation, const Wanted *want, int *marks, PlaceBox place,
    const Placing *how
) noexcept nogil:
    """Activate and place the candidates from `first` on; leave out those of dropped columns."""
    cdef Py_ssize_t i, column, kept = first
    cdef Candidate item
    for i in range(first, out.count):
        item = out.items[i]
        column = item.index // classes
        if marks[column] == DROPPED:
            continue
        item.score = score_of(item.score, 1, activation)
        if item.score < want.confidence:
            continue
        if place(boxes + column, n, column, how, &item.box):
            item.index += <unsigned int> (first_index * classes)
            out.items[kept] = item
            kept += 1
        else:
            out.dropped += 1
            marks[column] = DROPPED
    out.count = kept


# --- ways to place a box, from channels that lie `step` values apart; False where it is not finite

cdef bint place_center(
    const float *box, Py_ssize_t step, Py_ssize_t anchor, const Placing *how, Box *placed
) noexcept nogil:
    """xc yc w h"""
    return around(box[0] * how.width, box[step] * how.height,
                  box[2 * step] * how.width, box[3 * step] * how.height, placed)


cdef bint place_offset(
    const float *box, Py_ssize_t step, Py_ssize_t anchor, const Placing *how, Box *placed
) noexcept nogil:
    """YOLOX: offsets from the cell's corner and log sizes, in strides."""
    cdef const float *cell = how.cells + 3 * anchor
    cdef double stride = cell[2]
    return around((<double> box[0] + cell[0]) * stride, (<double> box[step] + cell[1]) * stride,
                  exp(box[2 * step]) * stride, exp(box[3 * step]) * stride, placed)


cdef bint place_anchor(
    const float *box, Py_ssize_t step, Py_ssize_t anchor, const Placing *how, Box *placed
) noexcept nogil:
    """YOLOv3 and v4: the cell's corner plus a sigmoid, and the anchor's size times an exp."""
    cdef double shift = (how.scale_xy - 1) / 2
    return around((anchor % how.columns + sigmoid(box[0]) * how.scale_xy - shift) * how.width,
                  (anchor // how.columns + sigmoid(box[step]) * how.scale_xy - shift) * how.height,
                  exp(box[2 * step]) * how.anchor_width, exp(box[3 * step]) * how.anchor_height, placed)


cdef bint place_sides(
    const float *box, Py_ssize_t step, Py_ssize_t anchor, const Placing *how, Box *placed
) noexcept nogil:
    """YOLOv8: the expected distance from the cell's centre to each side, in strides."""
    cdef const float *cell = how.cells + 3 * anchor
    cdef double x = cell[0] + 0.5, y = cell[1] + 0.5, stride = cell[2]
    cdef Py_ssize_t side = how.bins * step
    return round_box((x - expected(box, step, how.bins)) * stride,
                     (y - expected(box + side, step, how.bins)) * stride,
                     (x + expected(box + 2 * side, step, how.bins)) * stride,
                     (y + expected(box + 3 * side, step, how.bins)) * stride, placed)


cdef double expected(const float *logits, Py_ssize_t step, int bins) noexcept nogil:
    """The mean bin under the softmax of the logits; NaN where one of them is NaN or +inf."""
    cdef double largest = logits[0], weight, total = 0, mean = 0
    cdef int i
    for i in range(1, bins):
        largest = max(largest, logits[i * step])
    for i in range(bins):
        weight = exp(logits[i * step] - largest)
        total += weight
        mean += i * weight
    return mean / total


cdef inline bint around(double x, double y, double w, double h, Box *placed) noexcept nogil:
    return round_box(x - w / 2, y - h / 2, x + w / 2, y + h / 2, placed)
