"""From a model's tensors to what was found in the frame.

The checks of the shapes are in `heads`, the formulas in `_scan`, `_place` and `_nms`, and for classifiers
in `classify`.
"""

from __future__ import annotations

from collections.abc import Sequence

from qzd_ext._arrays import readable
from qzd_ext._nms import Candidates
from qzd_ext.classify import best_classes
from qzd_ext.detections import Classes, Detections, FloatArray
from qzd_ext.errors import DeviceError, ModelError
from qzd_ext.geometry import Transform
from qzd_ext.heads import scans_for
from qzd_ext.manifest import Classification, DetectionOutput, Detr, EndToEnd, Manifest, Thresholds
from qzd_ext.model_outputs import ModelOutputs

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
        self._final = isinstance(manifest.head, DetectionOutput | EndToEnd | Detr)  # these need no NMS
        self._classifier = manifest.head if isinstance(manifest.head, Classification) else None
        if self._classifier:
            outputs.want((1, outputs.classes + self._classifier.background), why=outputs.names)
        else:
            self._scans = scans_for(outputs)

    def decode(
        self,
        tensors: Sequence[FloatArray],
        transform: Transform,
        thresholds: Thresholds,
        floors: FloatArray | None = None,
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
        floors : (classes,) float32, optional
            The least score of each class. A lower one is left out before NMS, and suppresses nothing.

        Raises
        ------
        ModelError
            A tensor has another shape or dtype than the model's results, or a box a label that the
            manifest does not know.
        DeviceError
            A box is not finite, or a score is not finite or not in 0..1.
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
            len(self._scans),
        )
        if floors is not None:
            candidates.set_floors(floors)
        for scan in self._scans:
            scan(values, candidates, t)
        if candidates.invalid:
            raise DeviceError(
                f"the model gave {candidates.invalid} scores or boxes that no sound model gives",
                wanted="finite boxes, and finite scores in 0..1",
                fix="run the self-test; if it fails, use another device or precision, else convert again",
            )
        boxes, scores, class_ids = candidates.arrays(
            transform.source_width,
            transform.source_height,
            transform.scale_x,
            transform.scale_y,
            transform.offset_x,
            transform.offset_y,
        )
        return Detections(boxes, scores, class_ids, candidates.truncated)

    def _unlike(self, tensors: Sequence[FloatArray]) -> ModelError:
        return ModelError(
            f"the model gave {', '.join(f'{t.dtype} {t.shape}' for t in tensors) or 'nothing'}",
            wanted=", ".join(f"float32 {shape}" for shape in self._shapes),
            fix="convert the model again",
        )
