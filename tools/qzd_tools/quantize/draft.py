"""A bundle in the making: the graph that goes into it, its manifest, its golden frames."""

from __future__ import annotations

import importlib.metadata
import shutil
from collections.abc import Callable
from typing import Literal

import msgspec
import openvino as ov

from qzd_ext import __version__
from qzd_ext import bundle as bundles
from qzd_ext.bundle import Bundle, Draft
from qzd_ext.detector import Detector
from qzd_ext.geometry import Frame
from qzd_ext.golden import GoldenFrame, read_golden, write_golden
from qzd_ext.manifest import Accuracy, Manifest
from qzd_ext.runner import RunOptions
from qzd_tools.convert.golden import GOLDEN_FRAMES
from qzd_tools.data.coco import Dataset
from qzd_tools.data.images import evenly, read_image, shrunk
from qzd_tools.graph.save import save_ir
from qzd_tools.quantize.calibration import Calibration, kept, preparer
from qzd_tools.quantize.compress import compress_weights
from qzd_tools.quantize.recipe import Recipe, apply_recipe
from qzd_tools.system import isa
from qzd_tools.validate.run import Validation, validate

__all__ = ["Job", "Mode", "Say"]

Mode = Literal["int8", "int8-weights", "fp16"]
Say = Callable[[str], None]


class Job:
    """A bundle in the making: its parent, its draft, and how it is made."""

    def __init__(
        self, parent: Bundle, draft: Draft, mode: Mode, recipe: Recipe, seed: int, options: RunOptions
    ) -> None:
        self.parent = parent
        self.draft = draft
        self.mode = mode
        self.recipe = recipe
        self.seed = seed
        self.options = options
        self.calibration: Calibration | None = None
        self.candidates: list[str] = []
        self.prepare = kept(preparer(parent.manifest.input), parent.manifest.input)
        if parent.priors is not None:
            shutil.copy(parent.path / bundles.PRIORS, draft.directory)

    def make(self, model: ov.Model, recipe: Recipe) -> ov.Model:
        """Make the smaller graph; the model itself is not changed."""
        if self.mode == "int8":
            assert self.calibration is not None
            return apply_recipe(model, self.calibration.images, self.prepare, recipe)
        if self.mode == "int8-weights":
            model = model.clone()
            compress_weights(model)
        return model

    def save(self, graph: ov.Model, recipe: Recipe, reverted: tuple[str, ...]) -> Bundle:
        """Put a graph into the draft, in place of what is there; the bundle that it is so far."""
        save_ir(graph, self.draft.directory / bundles.MODEL, fp16=self.mode == "fp16")
        self.draft.manifest = self._manifest(recipe, reverted)
        return bundles.unsealed(self.draft.directory, self.draft.manifest, self.parent.priors)

    def measure(
        self, graph: ov.Model, recipe: Recipe, reverted: tuple[str, ...], dataset: Dataset
    ) -> Validation:
        """Save a graph and run it over a dataset."""
        return validate(self.save(graph, recipe, reverted), dataset, options=self.options, title=self.mode)

    def record(self, accuracy: Accuracy) -> None:
        """Write a measured accuracy into the manifest."""
        assert self.draft.manifest is not None
        self.draft.manifest = msgspec.structs.replace(self.draft.manifest, accuracy=(accuracy,))

    def _manifest(self, recipe: Recipe, reverted: tuple[str, ...]) -> Manifest:
        own = self.parent.manifest
        made: dict[str, str | int | float | bool | list[str]] = {"mode": self.mode}
        tools = own.provenance.tools | {"qzd": __version__, "openvino": ov.__version__}
        if self.calibration is not None:
            made |= recipe.as_record() | {"seed": self.seed, "layers_reverted_to_float": list(reverted)}
            made["host_isa"] = list(isa.host_isa())
            if self.candidates:
                made["candidates"] = self.candidates
            tools["nncf"] = importlib.metadata.version("nncf")
        provenance = msgspec.structs.replace(
            own.provenance,
            tools=tools,
            parent=self.parent.digest,
            quantization=made,
            target_isa=recipe.target_isa if self.calibration else "",
            calibration_digest=self.calibration.digest if self.calibration else "",
            calibration_images=len(self.calibration.images) if self.calibration else 0,
        )
        return msgspec.structs.replace(
            own,
            precision=self.mode,
            inference_precision=self.options.precision or own.inference_precision,
            provenance=provenance,
            accuracy=(),
            files={},
        )

    def write_golden(self, say: Say) -> None:
        """Write what the new model finds on the parent's golden frames, or else on calibration images.

        A model that saturates on this machine would make frames that every right machine fails; the float
        model's boxes stand for it then.
        """
        frames: list[Frame] = [golden.frame for golden in read_golden(self.parent)]
        if not frames and self.calibration is not None:
            chosen = evenly(self.calibration.images, GOLDEN_FRAMES)
            frames = [shrunk(read_image(path)) for path in chosen]
        if not frames:
            say("no golden frames: the bundle that this one is made from has none")
            return
        assert self.draft.manifest is not None
        bundle = bundles.unsealed(self.draft.directory, self.draft.manifest, self.parent.priors)
        if self.calibration is not None and isa.is_wrong_here(self.recipe.target_isa, isa.host_isa()):
            bundle = self.parent
        options = RunOptions(device=self.options.device, hint="latency", precision="f32")
        with Detector(bundle, options) as detector:
            for index, frame in enumerate(frames):
                write_golden(self.draft.directory, index, GoldenFrame(frame, detector.detect(frame).found))
