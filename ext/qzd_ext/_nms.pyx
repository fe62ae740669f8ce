"""Candidates, and which of them remain: sorting by score and greedy non-maximum suppression.

Greedy NMS takes the best box, drops those of its class that overlap it by more than the threshold, and
goes on with the best that is left. Here the boxes of a class lie in a grid by their centres, so that a box
meets only those that can overlap it enough: for IoU > t the overlap along each axis must be above t too,
which bounds the distance of the centres by (w0 + w1) / 2 * (1 - t) / (1 + t), and w1 by w0 / t.

What may live here: what happens to candidates once a head has made them.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.math cimport INFINITY, sqrt
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy
from qzd_ext._geometry cimport Box, area, clip, diou, iou, round_box

import numpy as np

from numpy import ndarray

__all__ = ["Candidates", "nms"]

FLOAT, INT = np.dtype(np.float32), np.dtype(np.int32)

cdef extern from "_simd.h" nogil:
    ctypedef struct qzd_probe:
        float x0, y0, x1, y1
        float scale, slope, offset
    size_t qzd_overlaps(const qzd_probe *box, const float *x0, const float *y0, const float *x1,
                        const float *y1, const float *area, size_t n, unsigned int *places)

ctypedef unsigned long long Key     # score, falling, in the upper half; place among the items in the lower
ctypedef unsigned int Place

cdef enum:
    FEW = 64            # so many are sorted by insertion, and compared one by one
    GRID_FROM = 128     # boxes of one class from which a grid pays
    PER_CELL = 8        # boxes in a cell, on average

cdef float LARGEST_AREA = 8e37      # a quarter of what float32 holds: a sum of two stays finite


cdef struct Group:      # the boxes of one class: its grid
    Py_ssize_t count
    Py_ssize_t first_cell
    Py_ssize_t columns, rows
    double left, top, right, bottom     # of the centres, doubled
    double width, height                # of the largest box
    double per_x, per_y                 # cells a doubled pixel


cdef struct Planes:     # boxes in the order of their cells; x1 is -inf where a box was suppressed
    float *x0
    float *y0
    float *x1
    float *y1
    float *area


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
    dropped : int
        Candidates left out because a coordinate or score was NaN or infinite.
    truncated : bool
        More boxes were there than these limits let through.
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

    cdef bint place(
        self, Py_ssize_t first, double x0, double y0, double x1, double y1
    ) noexcept nogil:
        """Give a box to all candidates from `first` on; False, and they are gone, if it is not finite."""
        cdef Box box
        cdef Py_ssize_t i
        if not round_box(x0, y0, x1, y1, &box):
            self.count = first
            self.dropped += 1
            return False
        for i in range(first, self.count):
            self.items[i].box = box
        return True

    def extend(self, const float[:, ::1] boxes not None, const float[::1] scores not None,
               const int[::1] class_ids not None):
        """Scan boxes, (n, 4) float32 xyxy, with their scores and class ids.

        Raises
        ------
        ValueError
            The lengths differ.
        """
        cdef Py_ssize_t i, first, n = scores.shape[0]
        if boxes.shape[0] != n or class_ids.shape[0] != n or boxes.shape[1] != 4:
            raise ValueError(
                f"wanted boxes (n, 4), scores (n,) and class_ids (n,), got ({boxes.shape[0]}, "
                f"{boxes.shape[1]}), ({n},) and ({class_ids.shape[0]},)"
            )
        with nogil:
            for i in range(n):
                if not -INFINITY < scores[i] < INFINITY:
                    self.dropped += 1
                    continue
                first = self.count
                self.add(scores[i], class_ids[i], i)
                self.place(first, boxes[i, 0], boxes[i, 1], boxes[i, 2], boxes[i, 3])
            self.scanned()

    cdef int scanned(self) except -1 nogil:
        """A scan is through; after the last one, select."""
        self.parts -= 1
        if self.parts == 0:
            self.pick()
        return 0

    cdef int pick(self) except -1 nogil:
        """Sort by score, suppress what overlaps a better box, and keep the best of the rest."""
        cdef Py_ssize_t n = self.count, entering = min(n, self.rules.max_candidates)
        cdef Key *keys
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

        The maths is that of `geometry.Transform.to_source`, whose attributes the parameters are.

        Returns
        -------
        Read-only arrays that share one block of memory.
        boxes : (k, 4) float32, x0 y0 x1 y1 in source pixels, clipped
        scores : (k,) float32
        class_ids : (k,) int32
        """
        cdef Py_ssize_t i, n = self.picked
        cdef bytes block = PyBytes_FromStringAndSize(NULL, 6 * n * sizeof(float))
        cdef float *boxes = <float *> PyBytes_AS_STRING(block)
        cdef float *scores = boxes + 4 * n
        cdef int *class_ids = <int *> (scores + n)
        cdef const Candidate *item
        for i in range(n):
            item = self.items + self.picks[i]
            boxes[4 * i] = clip((item.box.x0 - offset_x) / scale_x, width)
            boxes[4 * i + 1] = clip((item.box.y0 - offset_y) / scale_y, height)
            boxes[4 * i + 2] = clip((item.box.x1 - offset_x) / scale_x, width)
            boxes[4 * i + 3] = clip((item.box.y1 - offset_y) / scale_y, height)
            scores[i] = item.score
            class_ids[i] = item.class_id
        return (
            ndarray((n, 4), FLOAT, block),
            ndarray(n, FLOAT, block, 4 * n * sizeof(float)),
            ndarray(n, INT, block, 5 * n * sizeof(float)),
        )


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


# --- sorting: by falling score, then by rising index

cdef Key key_of(float score, Py_ssize_t place) noexcept nogil:
    """A number that is smaller for a better score; the order of the bits of floats is that of their sizes."""
    cdef unsigned int bits
    score += 0      # -0 becomes 0
    memcpy(&bits, &score, sizeof(bits))
    bits = bits if bits >> 31 else ~bits & 0x7fffffff
    return (<Key> bits << 32) | <Key> place


cdef void sort(
    const Candidate *items, Py_ssize_t n, Key *keys, Place *places, Py_ssize_t wanted
) noexcept nogil:
    """The places of the best `wanted` items. `keys` has room for 2 n."""
    cdef Key *source = keys
    cdef Key *target = keys + n
    cdef bint in_order = True
    cdef Py_ssize_t i
    cdef int shift
    for i in range(n):
        keys[i] = key_of(items[i].score, i)
        if i > 0 and items[i].index < items[i - 1].index:
            in_order = False
    if n <= FEW:
        insertion_sort(items, n, keys)
    else:
        if not in_order:
            for shift in range(0, 32, 8):
                if radix_pass(source, target, n, shift, items):
                    source, target = target, source
        for shift in range(32, 64, 8):
            if radix_pass(source, target, n, shift, NULL):
                source, target = target, source
    for i in range(wanted):
        places[i] = <Place> source[i]


cdef void insertion_sort(const Candidate *items, Py_ssize_t n, Key *keys) noexcept nogil:
    cdef Py_ssize_t i, j
    cdef Key key
    for i in range(1, n):
        key = keys[i]
        j = i
        while j > 0 and comes_before(items, key, keys[j - 1]):
            keys[j] = keys[j - 1]
            j -= 1
        keys[j] = key


cdef bint comes_before(const Candidate *items, Key a, Key b) noexcept nogil:
    if a >> 32 != b >> 32:
        return a >> 32 < b >> 32
    return items[<Place> a].index < items[<Place> b].index


cdef bint radix_pass(
    const Key *source, Key *target, Py_ssize_t n, int shift, const Candidate *items
) noexcept nogil:
    """Stable sort by one byte: of the key, or of the index where `items` is given. False if all are equal."""
    cdef Py_ssize_t starts[256]
    cdef Py_ssize_t i, total = 0, count
    cdef Key digit
    for i in range(256):
        starts[i] = 0
    for i in range(n):
        starts[digit_of(source[i], shift, items)] += 1
    if starts[digit_of(source[0], shift, items)] == n:
        return False
    for i in range(256):
        count = starts[i]
        starts[i] = total
        total += count
    for i in range(n):
        digit = digit_of(source[i], shift, items)
        target[starts[digit]] = source[i]
        starts[digit] += 1
    return True


cdef inline Key digit_of(Key key, int shift, const Candidate *items) noexcept nogil:
    if items == NULL:
        return (key >> shift) & 255
    return (items[<Place> key].index >> shift) & 255


# --- suppression

cdef Py_ssize_t suppress_few(
    const Candidate *items, Place *picks, Py_ssize_t n, const Rules *rules
) noexcept nogil:
    """As `suppress`, each box against those that were kept: for few boxes a grid does not pay."""
    cdef Py_ssize_t i, j, kept = 0
    cdef const Candidate *item
    cdef const Candidate *better
    for i in range(n):
        item = items + picks[i]
        for j in range(kept):
            better = items + picks[j]
            if (rules.agnostic or better.class_id == item.class_id) and (
                diou(&better.box, &item.box) if rules.diou else iou(&better.box, &item.box)
            ) > rules.iou:
                break
        else:
            picks[kept] = picks[i]
            kept += 1
            if kept > rules.max_detections:
                break
    return kept


cdef Py_ssize_t suppress(
    const Candidate *items, Place *picks, Py_ssize_t n, const Rules *rules
) noexcept nogil:
    """Leave in `picks`, n items best first, those that remain; at most one more than may leave.

    Returns how many they are, or -1 when there is no memory.
    """
    cdef Py_ssize_t groups = 1 if rules.agnostic else rules.classes
    cdef Group *group = <Group *> calloc(groups, sizeof(Group))
    cdef Py_ssize_t cells = -1, kept = -1
    cdef Py_ssize_t *starts = NULL
    cdef Place *slots = NULL
    cdef float *planes = NULL
    if group != NULL:
        cells = lay_out(items, picks, n, rules, group, groups)
        starts = <Py_ssize_t *> calloc(cells + 1, sizeof(Py_ssize_t))
        slots = <Place *> malloc(2 * n * sizeof(Place))
        planes = <float *> malloc(5 * n * sizeof(float))
    if starts != NULL and slots != NULL and planes != NULL:
        kept = run(items, picks, n, rules, group, starts, cells, slots, planes)
    free(group)
    free(starts)
    free(slots)
    free(planes)
    return kept


cdef Group *group_of(Group *group, const Candidate *item, const Rules *rules) noexcept nogil:
    return group if rules.agnostic else group + item.class_id


cdef Py_ssize_t lay_out(
    const Candidate *items, const Place *picks, Py_ssize_t n, const Rules *rules, Group *group,
    Py_ssize_t groups
) noexcept nogil:
    """Choose the grid of each class. Returns how many cells there are in all."""
    cdef Py_ssize_t i, side, cells = 0
    cdef Group *g
    cdef const Box *box
    for i in range(n):
        g = group_of(group, items + picks[i], rules)
        box = &items[picks[i]].box
        if g.count == 0:
            g.left = g.right = <double> box.x0 + box.x1
            g.top = g.bottom = <double> box.y0 + box.y1
        g.count += 1
        g.left = min(g.left, <double> box.x0 + box.x1)
        g.right = max(g.right, <double> box.x0 + box.x1)
        g.top = min(g.top, <double> box.y0 + box.y1)
        g.bottom = max(g.bottom, <double> box.y0 + box.y1)
        g.width = max(g.width, <double> box.x1 - box.x0)
        g.height = max(g.height, <double> box.y1 - box.y0)
    for i in range(groups):
        g = group + i
        side = <Py_ssize_t> sqrt(<double> g.count / PER_CELL) if g.count >= GRID_FROM else 1
        g.columns = side if g.right > g.left else 1
        g.rows = side if g.bottom > g.top else 1
        g.per_x = g.columns / (g.right - g.left) if g.columns > 1 else 0
        g.per_y = g.rows / (g.bottom - g.top) if g.rows > 1 else 0
        g.first_cell = cells
        cells += g.columns * g.rows
    return cells


cdef inline Py_ssize_t cell_along(double position, double start, double per, Py_ssize_t n) noexcept nogil:
    cdef double cell = (position - start) * per
    return 0 if not cell > 0 else n - 1 if cell >= n else <Py_ssize_t> cell


cdef inline Py_ssize_t cell_of(const Group *g, const Box *box) noexcept nogil:
    cdef Py_ssize_t column = cell_along(<double> box.x0 + box.x1, g.left, g.per_x, g.columns)
    cdef Py_ssize_t row = cell_along(<double> box.y0 + box.y1, g.top, g.per_y, g.rows)
    return g.first_cell + row * g.columns + column


cdef Py_ssize_t run(
    const Candidate *items, Place *picks, Py_ssize_t n, const Rules *rules, Group *group,
    Py_ssize_t *starts, Py_ssize_t cells, Place *slots, float *memory
) noexcept nogil:
    cdef Planes planes = Planes(memory, memory + n, memory + 2 * n, memory + 3 * n, memory + 4 * n)
    cdef Place *suspects = slots + n
    cdef Py_ssize_t i, slot, kept = 0
    cdef const Candidate *item
    fill(items, picks, n, rules, group, starts, cells, slots, &planes)
    for i in range(n):
        slot = slots[i]
        if planes.x1[slot] == -INFINITY:
            continue
        item = items + picks[i]
        picks[kept] = picks[i]
        kept += 1
        if kept > rules.max_detections:
            break
        clear_around(&item.box, slot, rules, group_of(group, item, rules), starts, &planes, suspects)
    return kept


cdef void fill(
    const Candidate *items, const Place *picks, Py_ssize_t n, const Rules *rules, Group *group,
    Py_ssize_t *starts, Py_ssize_t cells, Place *slots, Planes *planes
) noexcept nogil:
    """Lay the boxes into planes, cell by cell; within a cell the better ones come first.

    In the end cell c lies at starts[c] .. starts[c + 1].
    """
    cdef Py_ssize_t i, slot, total = 0, count
    cdef const Box *box
    for i in range(n):
        slots[i] = <Place> cell_of(group_of(group, items + picks[i], rules), &items[picks[i]].box)
        starts[slots[i]] += 1
    for i in range(cells + 1):
        count = starts[i]
        starts[i] = total
        total += count
    for i in range(n):
        slot = starts[slots[i]]
        starts[slots[i]] += 1
        slots[i] = <Place> slot
        box = &items[picks[i]].box
        planes.x0[slot], planes.y0[slot] = box.x0, box.y0
        planes.x1[slot], planes.y1[slot] = box.x1, box.y1
        planes.area[slot] = <float> min(area(box), <double> LARGEST_AREA)
    for i in range(cells, 0, -1):
        starts[i] = starts[i - 1]
    starts[0] = 0


cdef inline double reach(double side, double largest, double t) noexcept nogil:
    """How far apart two centres can be, doubled, for an overlap along one axis above t."""
    cdef double far = side + largest
    if t > 0:
        far = min(far, side * (1 - t) / t)
    return far * (1 + 1e-6)


cdef void clear_around(
    const Box *box, Py_ssize_t own, const Rules *rules, const Group *g, const Py_ssize_t *starts,
    Planes *planes, Place *suspects
) noexcept nogil:
    """Suppress what overlaps a box that is kept."""
    cdef double x = <double> box.x0 + box.x1, y = <double> box.y0 + box.y1
    cdef double far_x, far_y
    cdef Py_ssize_t row, first, last, c0, c1
    if area(box) <= 0:
        return
    if g.columns == 1 and g.rows == 1:      # all before it are better, and so done with
        clear_run(box, own, rules, own + 1, starts[g.first_cell + 1], planes, suspects)
        return
    far_x = reach(<double> box.x1 - box.x0, g.width, rules.iou)
    far_y = reach(<double> box.y1 - box.y0, g.height, rules.iou)
    c0 = cell_along(x - far_x, g.left, g.per_x, g.columns)
    c1 = cell_along(x + far_x, g.left, g.per_x, g.columns)
    first = cell_along(y - far_y, g.top, g.per_y, g.rows)
    last = cell_along(y + far_y, g.top, g.per_y, g.rows)
    for row in range(first, last + 1):
        clear_run(
            box, own, rules, starts[g.first_cell + row * g.columns + c0],
            starts[g.first_cell + row * g.columns + c1 + 1], planes, suspects
        )


cdef inline void clear_run(
    const Box *box, Py_ssize_t own, const Rules *rules, Py_ssize_t begin, Py_ssize_t end, Planes *p,
    Place *suspects
) noexcept nogil:
    cdef qzd_probe probe
    cdef Py_ssize_t i, slot, n
    cdef Box other
    cdef float slope = <float> (rules.iou * (1 - 1e-5))
    probe.x0, probe.y0, probe.x1, probe.y1 = box.x0, box.y0, box.x1, box.y1
    probe.scale = <float> (1 + rules.iou)
    probe.slope = slope
    probe.offset = slope * <float> min(area(box), <double> LARGEST_AREA) - <float> 1e-30
    n = <Py_ssize_t> qzd_overlaps(
        &probe, p.x0 + begin, p.y0 + begin, p.x1 + begin, p.y1 + begin, p.area + begin,
        end - begin, suspects
    )
    for i in range(n):
        slot = begin + suspects[i]
        if slot == own:
            continue
        other = Box(p.x0[slot], p.y0[slot], p.x1[slot], p.y1[slot])
        if (diou(box, &other) if rules.diou else iou(box, &other)) > rules.iou:
            p.x1[slot] = -INFINITY
