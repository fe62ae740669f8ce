"""The growing list of candidates that the scans fill, outside of Python."""

from qzd_ext._geometry cimport Box


ctypedef unsigned int Place     # of a candidate among the items


cdef struct Candidate:
    Box box
    float score
    int class_id
    unsigned int index      # among equal scores the lower one is the better


cdef struct Rules:
    double iou
    bint diou
    bint agnostic
    Py_ssize_t classes
    Py_ssize_t max_candidates
    Py_ssize_t max_detections


cdef class Candidates:
    cdef Candidate *items
    cdef Place *picks                   # places of the items that remain, best first
    cdef Py_ssize_t count, capacity, picked
    cdef Rules rules
    cdef int parts                      # scans that are still to come
    cdef const float[::1] floors        # the least score of each class, if there is one
    cdef bint has_floors
    cdef readonly Py_ssize_t invalid
    cdef readonly bint truncated

    cdef int add(self, float score, int class_id, Py_ssize_t index) except -1 nogil
    cdef int grow(self) except -1 nogil
    cdef int scanned(self) except -1 nogil
    cdef int pick(self) except -1 nogil
    cdef void keep_above_floors(self) noexcept nogil
