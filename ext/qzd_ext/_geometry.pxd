"""Boxes for the kernels: inline, without the GIL.

A box is x0 y0 x1 y1, float32. Areas and overlaps are taken in double: differences and products of float32
values are then exact for all boxes of a picture's size, so that a threshold decides the same everywhere.
"""

from libc.math cimport INFINITY


cdef struct Box:
    float x0
    float y0
    float x1
    float y1


cdef inline double area(const Box *a) noexcept nogil:
    return (<double> a.x1 - a.x0) * (<double> a.y1 - a.y0)


cdef inline double iou(const Box *a, const Box *b) noexcept nogil:
    """Intersection over union; 0 where one of the boxes is empty."""
    cdef double w = <double> min(a.x1, b.x1) - max(a.x0, b.x0)
    cdef double h = <double> min(a.y1, b.y1) - max(a.y0, b.y0)
    if w <= 0 or h <= 0:
        return 0
    return w * h / (area(a) + area(b) - w * h)


cdef inline double diou(const Box *a, const Box *b) noexcept nogil:
    """IoU less the squared distance of the centres over the squared diagonal of the hull of both.

    Source: Distance-IoU Loss (Zheng et al., 2020).
    """
    cdef double overlap = iou(a, b)
    cdef double dx = (<double> a.x0 + a.x1 - b.x0 - b.x1) / 2
    cdef double dy = (<double> a.y0 + a.y1 - b.y0 - b.y1) / 2
    cdef double w = <double> max(a.x1, b.x1) - min(a.x0, b.x0)
    cdef double h = <double> max(a.y1, b.y1) - min(a.y0, b.y0)
    cdef double diagonal = w * w + h * h
    return overlap - (dx * dx + dy * dy) / diagonal if diagonal > 0 else overlap


cdef inline bint round_box(double x0, double y0, double x1, double y1, Box *box) noexcept nogil:
    """Round to float32. False if the box is not finite; one that ends before it begins becomes empty."""
    box.x0, box.y0, box.x1, box.y1 = <float> x0, <float> y0, <float> x1, <float> y1
    if not (-INFINITY < box.x0 < INFINITY and -INFINITY < box.y0 < INFINITY
            and -INFINITY < box.x1 < INFINITY and -INFINITY < box.y1 < INFINITY):
        return False
    box.x1 = max(box.x0, box.x1)
    box.y1 = max(box.y0, box.y1)
    return True


cdef inline float clip(float value, float limit) noexcept nogil:
    """Into 0..limit."""
    return 0 if value < 0 else limit if value > limit else value
