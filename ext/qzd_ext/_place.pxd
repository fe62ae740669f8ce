"""Ways to place a box, for the scans: a function and what it needs besides the box channels."""

from numpy cimport ndarray
from qzd_ext._geometry cimport Box


cdef struct Placing:
    double width, height            # input pixels per unit: of the frame, or of a cell
    double anchor_width, anchor_height
    double scale_xy
    double scales[4]                # divisors of the codes x y w h
    double offset                   # of the point in a cell that distances are measured from
    Py_ssize_t columns              # of the grid
    int bins
    int first                       # code of y: 0 if it comes before x
    bint linear                     # sizes are linear, not exponential
    const float *cells              # column, row and stride of each box
    const float *priors             # yc xc h w of each box


ctypedef bint (*PlaceBox)(
    const float *box, Py_ssize_t step, Py_ssize_t index, const Placing *how, Box *placed
) noexcept nogil


cdef class Placement:
    cdef Placing how
    cdef PlaceBox place
    cdef readonly Py_ssize_t channels   # that are read per box
    cdef readonly Py_ssize_t boxes      # that it has cells or priors for; -1 for any number
    cdef ndarray table                  # keeps the cells or priors alive
