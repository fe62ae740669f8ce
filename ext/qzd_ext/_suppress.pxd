"""Greedy suppression: inline, without the GIL.

The best box is taken, those of its class that overlap it by more than the threshold go, and so on with the
best that is left. The boxes of a class lie in a grid by their centres, so that a box meets only those that
can overlap it enough: for IoU > t the overlap along each axis must be above t too, which bounds the distance
of the centres by (w0 + w1) / 2 * (1 - t) / (1 + t), and w1 by w0 / t.
"""

from libc.math cimport INFINITY, sqrt
from libc.stdlib cimport calloc, free, malloc
from qzd_ext._geometry cimport Box, area, diou, iou
from qzd_ext._nms cimport Candidate, Place, Rules

cdef extern from "_simd.h" nogil:
    ctypedef struct qzd_probe:
        float x0, y0, x1, y1
        float scale, slope, offset
    size_t qzd_overlaps(const qzd_probe *box, const float *x0, const float *y0, const float *x1,
                        const float *y1, const float *area, size_t n, unsigned int *places)

cdef enum:
    GRID_FROM = 128     # boxes of one class from which a grid pays
    PER_CELL = 8        # boxes in a cell, on average


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


cdef inline float capped_area(const Box *box) noexcept nogil:
    """At most a quarter of what float32 holds: a sum of two stays finite."""
    return <float> min(area(box), 8e37)


cdef inline Py_ssize_t suppress_few(
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


cdef inline Py_ssize_t suppress(
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


cdef inline Group *group_of(Group *group, const Candidate *item, const Rules *rules) noexcept nogil:
    return group if rules.agnostic else group + item.class_id


cdef inline Py_ssize_t lay_out(
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


cdef inline Py_ssize_t run(
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


cdef inline void fill(
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
        planes.area[slot] = capped_area(box)
    for i in range(cells, 0, -1):
        starts[i] = starts[i - 1]
    starts[0] = 0


cdef inline double reach(double side, double largest, double t) noexcept nogil:
    """How far apart two centres can be, doubled, for an overlap along one axis above t."""
    cdef double far = side + largest
    if t > 0:
        far = min(far, side * (1 - t) / t)
    return far * (1 + 1e-6)


cdef inline void clear_around(
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
    probe.offset = slope * capped_area(box) - <float> 1e-30
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
