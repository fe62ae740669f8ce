"""Checks of arrays that every frame passes, at the price of C: input of a decode, and its results."""

from numpy cimport (
    NPY_ARRAY_WRITEABLE, NPY_FLOAT32, NPY_INT32, PyArray_CLEARFLAGS, PyArray_DIM, PyArray_IS_C_CONTIGUOUS,
    PyArray_ISNOTSWAPPED, PyArray_NDIM, PyArray_TYPE, ndarray,
)

import numpy as np

__all__ = ["freeze", "readable"]


def readable(tensors, list shapes not None):
    """Tensors as the kernels read them.

    Parameters
    ----------
    tensors : sequence of arrays
    shapes : list of tuple of int

    Returns
    -------
    sequence of float32 arrays, C-contiguous, or None
        The very sequence where all are contiguous, else one with copies; None where one is not float32
        or not of its shape, or one is missing.
    """
    cdef bint contiguous = True
    cdef Py_ssize_t i = 0
    if len(tensors) != len(shapes):
        return None
    for tensor in tensors:
        if not isinstance(tensor, ndarray) or not is_float32(tensor) or not has_shape(tensor, shapes[i]):
            return None
        contiguous &= PyArray_IS_C_CONTIGUOUS(tensor)
        i += 1
    return tensors if contiguous else [np.ascontiguousarray(tensor) for tensor in tensors]


cdef bint has_shape(ndarray array, tuple shape) except -1:
    cdef Py_ssize_t i
    if PyArray_NDIM(array) != len(shape):
        return False
    for i in range(PyArray_NDIM(array)):
        if PyArray_DIM(array, <int> i) != <Py_ssize_t> shape[i]:
            return False
    return True


def freeze(str name, ndarray array not None, Py_ssize_t rows, Py_ssize_t columns=0, bint whole=False):
    """Make an array read-only.

    Parameters
    ----------
    name : str
        For the message.
    array : (rows, columns) array, or (rows,) where columns is 0
        float32, or int32 with `whole`.

    Raises
    ------
    ValueError
        It has another shape or dtype.
    """
    cdef int kind = NPY_INT32 if whole else NPY_FLOAT32
    cdef bint fits = PyArray_TYPE(array) == kind
    fits = fits and PyArray_ISNOTSWAPPED(array) and PyArray_NDIM(array) == (2 if columns else 1)
    fits = fits and PyArray_DIM(array, 0) == rows and (columns == 0 or PyArray_DIM(array, 1) == columns)
    if not fits:
        shape = f"({rows}, {columns})" if columns else f"({rows},)"
        wanted = f"{'int32' if whole else 'float32'} {shape}"
        raise ValueError(f"{name}: wanted {wanted}, got {array.dtype} {(<object> array).shape}")
    PyArray_CLEARFLAGS(array, NPY_ARRAY_WRITEABLE)
