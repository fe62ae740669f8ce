"""Candidates, and which of them remain. The sort is in `_sort`, the suppression in `_suppress`."""

from libc.math cimport INFINITY
from libc.stdlib cimport free, malloc, realloc
from numpy cimport (
    NPY_FLOAT32, NPY_INT32, PyArray_DATA, PyArray_SimpleNew, import_array, ndarray, npy_intp,
)
from qzd_ext._geometry cimport Box, clip, round_box
from qzd_ext._suppress cimport suppress, suppress_few
from qzd_ext._sort cimport FEW, Key, sort

import numpy as np

__all__ = ["Candidates", "nms"]

import_array()


cdef class Candidates:
    """Boxes that passed the confidence threshold, and in the end the best of them.

    The heads' scans fill it; the last one suppresses and selects before it takes the GIL back.

    Parameters
    ----------
    classes : int
        All class ids are below this.
    iou : float
        A box is suppressed when its overlap with a better one is above this; 1 keeps all.
    diou : bool
        Measure the overlap by DIoU instead of IoU.
    agnostic : bool
        Boxes suppress those of other classes too.
    max_candidates, max_detections : int
        How many enter, and how many leave.
    parts : int
        How many scans there will be.

    Attributes
    ----------
    invalid : int
        Candidates whose box is not finite, or with a score that is not finite or not in 0..1.
    truncated : bool
        More boxes passed the thresholds than these limits let through.
    """

    def __cinit__(self, Py_ssize_t classes, double iou, bint diou, bint agnostic,
                  Py_ssize_t max_candidates, Py_ssize_t max_detections, int parts=1):
        self.rules = Rules(iou, diou, agnostic, classes, max_candidates, max_detections)
        self.parts = parts

    def __dealloc__(self):
        free(self.items)
        free(self.picks)

    def __len__(self):
        return self.picked

    cdef int add(self, float score, int class_id, Py_ssize_t index) except -1 nogil:
        """Append a candidate whose box is still to be placed."""
        if self.count == self.capacity:
            self.grow()
        cdef Candidate *item = self.items + self.count
        item.score = score
        item.class_id = class_id
        item.index = <unsigned int> index
        self.count += 1
        return 0

    cdef int grow(self) except -1 nogil:
        cdef Py_ssize_t capacity = max(256, 2 * self.capacity)
        cdef Candidate *items = <Candidate *> realloc(self.items, capacity * sizeof(Candidate))
        if items == NULL:
            with gil:
                raise MemoryError
        self.items = items
        self.capacity = capacity
        return 0

    def extend(self, const float[:, ::1] boxes not None, const float[::1] scores not None,
               const int[::1] class_ids not None):
        """Scan boxes, (n, 4) float32 xyxy, with their scores and class ids.

        Raises
        ------
        ValueError
            The lengths differ.
        """
        cdef Py_ssize_t i, n = scores.shape[0]
        cdef Box box
        if boxes.shape[0] != n or class_ids.shape[0] != n or boxes.shape[1] != 4:
            raise ValueError(
                f"wanted boxes (n, 4), scores (n,) and class_ids (n,), got ({boxes.shape[0]}, "
                f"{boxes.shape[1]}), ({n},) and ({class_ids.shape[0]},)"
            )
        with nogil:
            for i in range(n):
                if (-INFINITY < scores[i] < INFINITY
                        and round_box(boxes[i, 0], boxes[i, 1], boxes[i, 2], boxes[i, 3], &box)):
                    self.add(scores[i], class_ids[i], i)
                    self.items[self.count - 1].box = box
                else:
                    self.invalid += 1
            self.scanned()

    def set_floors(self, const float[::1] floors not None):
        """Leave out candidates below the least score of their class, (classes,) float32.

        Raises
        ------
        ValueError
            There is not one for each class.
        """
        if floors.shape[0] != self.rules.classes:
            raise ValueError(f"wanted {self.rules.classes} floors, got {floors.shape[0]}")
        self.floors = floors
        self.has_floors = True

    cdef void keep_above_floors(self) noexcept nogil:
        """Move the candidates that reach their floor together, in their order."""
        cdef Py_ssize_t i, kept = 0
        for i in range(self.count):
            if self.items[i].score >= self.floors[self.items[i].class_id]:
                self.items[kept] = self.items[i]
                kept += 1
        self.count = kept

    cdef int scanned(self) except -1 nogil:
        """Note that a scan has ended; select after the last one."""
        self.parts -= 1
        if self.parts == 0:
            self.pick()
        return 0

    cdef int pick(self) except -1 nogil:
        """Sort by score, suppress what overlaps a better box, and keep the best of the rest."""
        cdef Py_ssize_t n, entering
        cdef Key *keys
        if self.has_floors:
            self.keep_above_floors()
        n = self.count
        entering = min(n, self.rules.max_candidates)
        self.truncated = n > entering
        if n == 0:
            return 0
        keys = <Key *> malloc(2 * n * sizeof(Key))
        self.picks = <Place *> malloc(entering * sizeof(Place))
        if keys == NULL or self.picks == NULL:
            free(keys)
            with gil:
                raise MemoryError
        sort(self.items, n, keys, self.picks, entering)
        free(keys)
        self.picked = entering
        if self.rules.iou < 1:
            if entering <= FEW:
                self.picked = suppress_few(self.items, self.picks, entering, &self.rules)
            else:
                self.picked = suppress(self.items, self.picks, entering, &self.rules)
            if self.picked < 0:
                self.picked = 0
                with gil:
                    raise MemoryError
        if self.picked > self.rules.max_detections:
            self.picked = self.rules.max_detections
            self.truncated = True
        return 0

    def indices(self):
        """The index of each box that remains, best first, (k,) int64."""
        out = np.empty(self.picked, np.int64)
        cdef long long[::1] view = out
        cdef Py_ssize_t i
        for i in range(self.picked):
            view[i] = self.items[self.picks[i]].index
        return out

    def arrays(self, float width, float height, float scale_x, float scale_y, float offset_x, float offset_y):
        """What remains, best first, in the frame that the input was made of.

        The parameters are the attributes of `geometry.Transform`: `source = (input - offset) / scale`.

        Returns
        -------
        boxes : (k, 4) float32, x0 y0 x1 y1 in source pixels, clipped
        scores : (k,) float32
        class_ids : (k,) int32
        """
        cdef npy_intp n = self.picked
        cdef npy_intp[2] shape = [n, 4]
        cdef ndarray boxes = PyArray_SimpleNew(2, shape, NPY_FLOAT32)
        cdef ndarray scores = PyArray_SimpleNew(1, shape, NPY_FLOAT32)
        cdef ndarray class_ids = PyArray_SimpleNew(1, shape, NPY_INT32)
        cdef float *box = <float *> PyArray_DATA(boxes)
        cdef float *score = <float *> PyArray_DATA(scores)
        cdef int *class_id = <int *> PyArray_DATA(class_ids)
        cdef const Candidate *item
        cdef Py_ssize_t i
        for i in range(n):
            item = self.items + self.picks[i]
            box[4 * i] = clip((item.box.x0 - offset_x) / scale_x, width)
            box[4 * i + 1] = clip((item.box.y0 - offset_y) / scale_y, height)
            box[4 * i + 2] = clip((item.box.x1 - offset_x) / scale_x, width)
            box[4 * i + 3] = clip((item.box.y1 - offset_y) / scale_y, height)
            score[i] = item.score
            class_id[i] = item.class_id
        return boxes, scores, class_ids


def nms(boxes, scores, class_ids, *, double iou, bint diou=False, bint agnostic=False,
        Py_ssize_t max_candidates=2**31 - 1, Py_ssize_t max_detections=2**31 - 1):
    """Greedy non-maximum suppression.

    Parameters
    ----------
    boxes : (n, 4) float32, C-contiguous, x0 y0 x1 y1
    scores : (n,) float32
    class_ids : (n,) int32, 0 or more
    iou : float
        A box is suppressed when its overlap with a better one of its class is above this.
    diou, agnostic, max_candidates, max_detections
        As in `manifest.Thresholds`.

    Returns
    -------
    (k,) int64
        Indices of the boxes that remain, best score first, equal ones by lower index. Boxes and scores
        that are not finite never remain.

    Raises
    ------
    ValueError
        Shapes that do not belong together, or a negative class id.
    """
    cdef Py_ssize_t i, classes = 1
    cdef const int[::1] ids = class_ids
    for i in range(ids.shape[0]):
        if ids[i] < 0:
            raise ValueError(f"class_ids: wanted 0 or more, got {ids[i]}")
        classes = max(classes, <Py_ssize_t> ids[i] + 1)
    candidates = Candidates(classes, iou, diou, agnostic, max_candidates, max_detections)
    candidates.extend(boxes, scores, class_ids)
    return candidates.indices()
