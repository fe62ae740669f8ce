"""A model's tensors to what was found in the frame.

What may live here: the one class that the detector calls. The checks of the shapes are in `heads`, the
maths in the kernels `_yolo`, `_ssd` and `_nms`, and for classifiers in `classify`.
"""

from __future__ import annotations

from collections.abc import Sequence

from qzd_ext._arrays import readable
from qzd_ext._nms import Candidates
from qzd_ext.classify import best_classes
from qzd_ext.detections import Classes, Detections, FloatArray
from qzd_ext.errors import ModelError
from qzd_ext.geometry import Transform
from qzd_ext.heads import ModelOutputs, parts_of, scan_for
from qzd_ext.manifest import Classification, DetectionOutput, EndToEnd, Manifest, Thresholds

__all__ = ["Decoder"]

EVERYTHING = 2**62


class Decoder:
    """Decodes the results of one model; many threads may share it.

    Parameters
    ----------
    manifest : Manifest
    shapes : sequence of tuple of int
        Of the model's results, in their order.
    priors : (N, 4) float32, optional
        For the head `ssd`.

    Raises
    ------
    ModelError
        The shapes are not what the manifest's head and labels need.
    """

    def __init__(
        self, manifest: Manifest, shapes: Sequence[tuple[int, ...]], priors: FloatArray | None = None
    ) -> None:
        outputs = ModelOutputs(manifest, tuple(tuple(shape) for shape in shapes), priors)
        self._shapes = [*outputs.shapes]
        self._classes = outputs.classes
        self._final = isinstance(manifest.head, DetectionOutput | EndToEnd)  # NMS is part of the model
        self._classifier = manifest.head if isinstance(manifest.head, Classification) else None
        if self._classifier:
            outputs.want((1, outputs.classes + self._classifier.background), why=f"{outputs.classes} names")
        else:
            self._scan, self._parts = scan_for(outputs), parts_of(manifest.head)

    def decode(
        self, tensors: Sequence[FloatArray], transform: Transform, thresholds: Thresholds
    ) -> Detections | Classes:
        """Decode one frame's results.

        Parameters
        ----------
        tensors : sequence of float32 arrays
            In the order and shapes of the model's results. C-contiguous ones are read where they are,
            read-only or not; others are copied.
        transform : Transform
            How the frame was laid into the input.
        thresholds : Thresholds
            A classifier's `top_k` best classes do not depend on them.

        Raises
        ------
        ModelError
            A tensor has another shape or dtype than the model's results, or a box a label that the
            manifest does not know.
        """
        values = readable(tensors, self._shapes)
        if values is None:
            raise self._unlike(tensors)
        head = self._classifier
        if head is not None:
            return best_classes(values[0][0], head.activation, head.background, head.top_k)
        t = thresholds
        candidates = Candidates(
            self._classes,
            1.0 if self._final else t.iou,
            t.nms == "diou",
            t.agnostic,
            EVERYTHING if self._final else t.max_candidates,
            t.max_detections,
            self._parts,
        )
        self._scan(values, candidates, t)
        boxes, scores, class_ids = candidates.arrays(
            transform.source_width,
            transform.source_height,
            transform.scale_x,
            transform.scale_y,
            transform.offset_x,
            transform.offset_y,
        )
        return Detections(boxes, scores, class_ids, candidates.truncated, candidates.dropped)

    def _unlike(self, tensors: Sequence[FloatArray]) -> ModelError:
        return ModelError(
            f"the model gave {', '.join(f'{t.dtype} {t.shape}' for t in tensors) or 'nothing'}",
            wanted=", ".join(f"float32 {shape}" for shape in self._shapes),
            fix="convert the model again",
        )
