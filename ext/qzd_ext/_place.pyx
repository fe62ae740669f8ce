"""Ways to place a box: from the channels of one candidate to x0 y0 x1 y1 in input pixels.

The channels lie `step` values apart. Each function returns False if the box is not finite. A `Placement`
holds one of them with everything about the model bound to it; it is made once and shared by all frames.
"""

from libc.math cimport exp
from numpy cimport ndarray
from qzd_ext._arrays cimport floats, length
from qzd_ext._geometry cimport Box, round_box
from qzd_ext._scores cimport sigmoid

__all__ = ["Placement"]

ANY = -1


cdef class Placement:
    """One way to place boxes. Use the static methods to make one.

    Attributes
    ----------
    channels : int
        Channels that are read per box.
    boxes : int
        Boxes that it has cells or priors for; -1 means any number.
    """

    @staticmethod
    def center(double width, double height):
        """xc yc w h, in units of `width` and `height` input pixels."""
        cdef Placement made = make(place_center, 4, ANY, None)
        made.how.width, made.how.height = width, height
        return made

    @staticmethod
    def corners(double width, double height):
        """x0 y0 x1 y1, in units of `width` and `height` input pixels."""
        cdef Placement made = make(place_corners, 4, ANY, None)
        made.how.width, made.how.height = width, height
        return made

    @staticmethod
    def offsets(ndarray cells not None):
        """YOLOX: offsets from the cell's corner and log sizes, in strides.

        Parameters
        ----------
        cells : (N, 3) float32
            Column and row of each box's cell, and its stride in input pixels.
        """
        return on_cells(place_offset, 4, cells)

    @staticmethod
    def distributions(ndarray cells not None, int bins, double offset):
        """Logits of distributions over the distance to the left, top, right and bottom, in strides.

        Parameters
        ----------
        cells : (N, 3) float32
            As for `offsets`.
        bins : int
            Per distribution.
        offset : float
            Of the point in a cell that distances are measured from, in strides.
        """
        cdef Placement made = on_cells(place_distribution, 4 * bins, cells)
        made.how.bins, made.how.offset = bins, offset
        return made

    @staticmethod
    def distances(ndarray cells not None, double offset, bint pixels):
        """Distances to the left, top, right and bottom, in strides or in input `pixels`."""
        cdef Placement made = on_cells(place_distance, 4, cells)
        made.how.offset, made.how.linear = offset, pixels
        return made

    @staticmethod
    def anchor(Py_ssize_t columns, double width, double height, double anchor_width, double anchor_height,
               double scale_xy, bint v5):
        """One anchor on a grid, decoded as Darknet does, or as YOLOv5 with `v5`.

        Parameters
        ----------
        columns : int
            Of the grid; boxes are counted row by row.
        width, height : float
            Of a cell, in input pixels.
        anchor_width, anchor_height : float
            In input pixels.
        scale_xy : float
            Darknet's `scale_x_y`: stretches the offsets about the cell's centre.
        """
        cdef Placement made = make(place_v5_anchor if v5 else place_anchor, 4, ANY, None)
        made.how.columns, made.how.scale_xy = max(columns, 1), scale_xy
        made.how.width, made.how.height = width, height
        made.how.anchor_width, made.how.anchor_height = anchor_width, anchor_height
        return made

    @staticmethod
    def codes(ndarray priors not None, tuple scales not None, double width, double height, bint x_first,
              bint linear):
        """Box codes about priors.

        Parameters
        ----------
        priors : (N, 4) float32
            yc xc h w in 0..1.
        scales : 4 float
            Divisors of ty tx th tw.
        width, height : float
            Of the input, in pixels.
        x_first : bool
            Codes are tx ty tw th instead of ty tx th tw.
        linear : bool
            A side is the prior's side times the code, not times its exponential.
        """
        cdef Placement made = make(place_code, 4, length(priors, 0), priors)
        made.how.priors = floats(priors, 4 * made.boxes)
        y, x, h, w = scales
        made.how.scales = [x, y, w, h]
        made.how.width, made.how.height = width, height
        made.how.first, made.how.linear = x_first, linear
        return made


cdef Placement make(PlaceBox place, Py_ssize_t channels, Py_ssize_t boxes, ndarray table):
    cdef Placement made = Placement.__new__(Placement)
    made.place, made.channels, made.boxes, made.table = place, channels, boxes, table
    return made


cdef Placement on_cells(PlaceBox place, Py_ssize_t channels, ndarray cells):
    cdef Placement made = make(place, channels, length(cells, 0), cells)
    made.how.cells = floats(cells, 3 * made.boxes)
    return made


cdef inline bint around(double x, double y, double w, double h, Box *placed) noexcept nogil:
    return round_box(x - w / 2, y - h / 2, x + w / 2, y + h / 2, placed)


cdef bint place_center(
    const float *box, Py_ssize_t step, Py_ssize_t index, const Placing *how, Box *placed
) noexcept nogil:
    return around(box[0] * how.width, box[step] * how.height,
                  box[2 * step] * how.width, box[3 * step] * how.height, placed)


cdef bint place_corners(
    const float *box, Py_ssize_t step, Py_ssize_t index, const Placing *how, Box *placed
) noexcept nogil:
    return round_box(box[0] * how.width, box[step] * how.height,
                     box[2 * step] * how.width, box[3 * step] * how.height, placed)


cdef bint place_offset(
    const float *box, Py_ssize_t step, Py_ssize_t index, const Placing *how, Box *placed
) noexcept nogil:
    """YOLOX and YuNet: centre = (offset + cell) * stride, size = exp(log size) * stride."""
    cdef const float *cell = how.cells + 3 * index
    cdef double stride = cell[2]
    return around((<double> box[0] + cell[0]) * stride, (<double> box[step] + cell[1]) * stride,
                  exp(box[2 * step]) * stride, exp(box[3 * step]) * stride, placed)


cdef bint place_anchor(
    const float *box, Py_ssize_t step, Py_ssize_t index, const Placing *how, Box *placed
) noexcept nogil:
    """YOLOv3 and v4: the cell's corner plus a sigmoid, and the anchor's size times an exp."""
    cdef double shift = (how.scale_xy - 1) / 2
    return around((index % how.columns + sigmoid(box[0]) * how.scale_xy - shift) * how.width,
                  (index // how.columns + sigmoid(box[step]) * how.scale_xy - shift) * how.height,
                  exp(box[2 * step]) * how.anchor_width, exp(box[3 * step]) * how.anchor_height, placed)


cdef bint place_v5_anchor(
    const float *box, Py_ssize_t step, Py_ssize_t index, const Placing *how, Box *placed
) noexcept nogil:
    """YOLOv5 and v7: sigmoids that reach half a cell beyond it, and up to four times the anchor."""
    cdef double w = 2 * sigmoid(box[2 * step]), h = 2 * sigmoid(box[3 * step])
    return around((index % how.columns + 2 * sigmoid(box[0]) - 0.5) * how.width,
                  (index // how.columns + 2 * sigmoid(box[step]) - 0.5) * how.height,
                  w * w * how.anchor_width, h * h * how.anchor_height, placed)


cdef bint place_distribution(
    const float *box, Py_ssize_t step, Py_ssize_t index, const Placing *how, Box *placed
) noexcept nogil:
    """The expected distance from the cell's point to each side, in strides."""
    cdef const float *cell = how.cells + 3 * index
    cdef double x = cell[0] + how.offset, y = cell[1] + how.offset, stride = cell[2]
    cdef Py_ssize_t side = how.bins * step
    return round_box((x - expected(box, step, how.bins)) * stride,
                     (y - expected(box + side, step, how.bins)) * stride,
                     (x + expected(box + 2 * side, step, how.bins)) * stride,
                     (y + expected(box + 3 * side, step, how.bins)) * stride, placed)


cdef double expected(const float *logits, Py_ssize_t step, int bins) noexcept nogil:
    """The mean bin under the softmax of the logits; NaN if one of them is NaN or +inf."""
    cdef double largest = logits[0], weight, total = 0, mean = 0
    cdef int i
    for i in range(1, bins):
        largest = max(largest, logits[i * step])
    for i in range(bins):
        weight = exp(logits[i * step] - largest)
        total += weight
        mean += i * weight
    return mean / total


cdef bint place_distance(
    const float *box, Py_ssize_t step, Py_ssize_t index, const Placing *how, Box *placed
) noexcept nogil:
    """The distance from the cell's point to each side."""
    cdef const float *cell = how.cells + 3 * index
    cdef double stride = cell[2], unit = 1 if how.linear else stride
    cdef double x = (cell[0] + how.offset) * stride, y = (cell[1] + how.offset) * stride
    return round_box(x - box[0] * unit, y - box[step] * unit,
                     x + box[2 * step] * unit, y + box[3 * step] * unit, placed)


cdef bint place_code(
    const float *box, Py_ssize_t step, Py_ssize_t index, const Placing *how, Box *placed
) noexcept nogil:
    """SSD: the prior's centre plus a part of its side, and its side times an exp."""
    cdef const float *prior = how.priors + 4 * index
    cdef Py_ssize_t x_at = (1 - how.first) * step, y_at = how.first * step
    cdef double x = box[x_at] / how.scales[0] * prior[3] + prior[1]
    cdef double y = box[y_at] / how.scales[1] * prior[2] + prior[0]
    cdef double w = box[2 * step + x_at] / how.scales[2], h = box[2 * step + y_at] / how.scales[3]
    if not how.linear:
        w, h = exp(w), exp(h)
    return around(x * how.width, y * how.height, w * prior[3] * how.width, h * prior[2] * how.height,
                  placed)
