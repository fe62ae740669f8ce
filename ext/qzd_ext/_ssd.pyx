"""The SSD heads, and those whose graph has left final boxes: tensors to candidates.

What may live here: the heads; what becomes of the candidates is in `_nms`.
"""

from libc.math cimport INFINITY, exp, isnan
from qzd_ext._geometry cimport Box, round_box
from qzd_ext._nms cimport Candidates
from qzd_ext._scores cimport (
    BLOCK, NONE, SIGMOID, SOFTMAX, Activation, Wanted, add_labels, qzd_row_hits, wanted,
)

__all__ = ["scan_boxes", "scan_ssd"]


def scan_boxes(const float[:, ::1] rows not None, int label_column, int score_column, int box_column,
               int end_column, double width, double height, int first_label, int classes,
               Candidates out not None, float confidence):
    """Finished boxes, one a row, each with one label.

    Parameters
    ----------
    rows : (N, K) float32
    label_column, score_column, box_column : int
        Where in a row these are; x0 y0 x1 y1 begin at box_column.
    end_column : int
        The rows end where this column is negative; -1: all rows count.
    width, height : float
        Input pixels a unit of the boxes.
    first_label, classes : int
        Labels are first_label .. first_label + classes - 1.
    out : Candidates
    confidence : float

    Returns
    -------
    float or None
        The first label that is none of the model's; the rows after it are not read.
    """
    cdef Py_ssize_t i, first
    cdef const float *row
    cdef float score, label
    cdef bint strange = False
    with nogil:
        for i in range(rows.shape[0]):
            row = &rows[i, 0]
            if end_column >= 0 and row[end_column] < 0:
                break
            score = row[score_column]
            if score < confidence:
                continue
            label = row[label_column] - first_label
            if not score < INFINITY or isnan(label):
                out.dropped += 1
                continue
            if not -0.5 < label < classes - 0.5:
                strange = True
                break
            first = out.count
            out.add(score, <int> (label + 0.5), i)
            row += box_column
            out.place(first, row[0] * width, row[1] * height, row[2] * width, row[3] * height)
    return float(row[label_column]) if strange else None
