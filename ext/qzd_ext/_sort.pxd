"""Sorting candidates by falling score, then by rising index: inline, without the GIL.

A radix sort by bytes, since a frame can have a hundred thousand candidates; insertion where they are few.
"""

from libc.string cimport memcpy
from qzd_ext._nms cimport Candidate, Place

ctypedef unsigned long long Key     # score, falling, in the upper half; place among the items in the lower

cdef enum:
    FEW = 64            # up to this number are sorted by insertion


cdef inline Key key_of(float score, Py_ssize_t place) noexcept nogil:
    """A number that is smaller for a better score; the order of the bits of floats is that of their sizes."""
    cdef unsigned int bits
    score += 0      # -0 becomes 0
    memcpy(&bits, &score, sizeof(bits))
    bits = bits if bits >> 31 else ~bits & 0x7fffffff
    return (<Key> bits << 32) | <Key> place


cdef inline void sort(
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


cdef inline void insertion_sort(const Candidate *items, Py_ssize_t n, Key *keys) noexcept nogil:
    cdef Py_ssize_t i, j
    cdef Key key
    for i in range(1, n):
        key = keys[i]
        j = i
        while j > 0 and comes_before(items, key, keys[j - 1]):
            keys[j] = keys[j - 1]
            j -= 1
        keys[j] = key


cdef inline bint comes_before(const Candidate *items, Key a, Key b) noexcept nogil:
    if a >> 32 != b >> 32:
        return a >> 32 < b >> 32
    return items[<Place> a].index < items[<Place> b].index


cdef inline bint radix_pass(
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
