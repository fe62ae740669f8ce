"""NumPy's arrays for the kernels: seen as C sees them, which costs a tenth of a typed memoryview."""

from numpy cimport (
    NPY_FLOAT32, PyArray_DATA, PyArray_DIM, PyArray_IS_C_CONTIGUOUS, PyArray_ISNOTSWAPPED, PyArray_NDIM,
    PyArray_SIZE, PyArray_TYPE, ndarray,
)


cdef inline bint is_float32(ndarray array) noexcept:
    return PyArray_TYPE(array) == NPY_FLOAT32 and PyArray_ISNOTSWAPPED(array)


cdef inline Py_ssize_t length(ndarray array, int axis) except -1:
    """Of one axis; ValueError where there is none."""
    if not 0 <= axis < PyArray_NDIM(array):
        raise ValueError(f"wanted an axis {axis}, got {(<object> array).shape}")
    return PyArray_DIM(array, axis)


cdef inline const float *floats(ndarray array, Py_ssize_t size) except NULL:
    """The values of a C-contiguous float32 array of this size. The shape is its owner's business.

    Raises
    ------
    ValueError
        It is another one.
    """
    if PyArray_SIZE(array) != size or not is_float32(array) or not PyArray_IS_C_CONTIGUOUS(array):
        raise ValueError(f"wanted {size} contiguous float32 values, got {array.dtype} {(<object> array).shape}")
    return <const float *> PyArray_DATA(array)
