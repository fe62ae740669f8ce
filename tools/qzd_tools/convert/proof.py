"""Proof that a bundle's graph is its source: both are run, each in its own runtime, and compared.

The source runs in onnxruntime if it is an ONNX file, else in OpenVINO as it is, uncut. Its input is made by
NumPy here; the bundle's graph makes its own of the same pixels. Compared are the source's results, and at the
cut the results of the bundle's file. How frames are resized and how results become boxes is not part of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import openvino as ov

from qzd_ext.detections import FloatArray
from qzd_ext.errors import ModelError
from qzd_ext.geometry import Frame
from qzd_tools.convert.facts import Facts
from qzd_tools.convert.inputs import SIZES, Picture, make_static
from qzd_tools.graph.walk import ancestors, core, cut

__all__ = ["Proof", "prove", "whole_graph"]

Proof = dict[str, str | int | float | bool | list[str]]
Results = dict[str, FloatArray]

EXACT = {"INFERENCE_PRECISION_HINT": "f32"}
TOLERANCE, ROUGH = 2e-3, 5e-2
"""Largest difference in units of a channel's largest value: of floats, and of halves and 8 bits."""
LEAST = 1e-2
"""A channel whose values are all smaller is compared in units of this."""
CHOOSERS = frozenset({"TopK", "NonMaxSuppression", "MulticlassNms", "MatrixNms"})


def whole_graph(model: ov.Model, outputs: Sequence[ov.Output]) -> tuple[ov.Model | None, list[str]]:
    """Return a copy of a source's graph that gives the outputs of the cut, then the source's own results.

    Returns
    -------
    ov.Model or None
        None if the cut is at the source's own results, in their order.
    list of str
        The names of the results; empty for those that the source does not have.
    """
    results = [r.input_value(0) for r in model.get_results()]
    names = [min(output.get_names(), default="") for output in results]
    if not outputs or [*map(_place, outputs)] == [*map(_place, results)]:
        return None, names
    return cut(model, [*outputs, *results]).clone(), names


def _place(output: ov.Output) -> tuple[str, int]:
    return output.get_node().get_friendly_name(), output.get_index()


def prove(
    path: Path,
    whole: ov.Model | None,
    names: Sequence[str],
    bundle: Path,
    picture: Picture,
    facts: Facts,
    *,
    rough: bool,
) -> Proof:
    """Compare a bundle's graph with its source.

    Parameters
    ----------
    path : Path
        The source's file.
    whole, names
        From `whole_graph`, with the preprocessing folded in.
    bundle : Path
        The bundle's model.xml.
    picture, facts
        The source's input, and what is known of it.
    rough : bool
        Whether the source or the bundle computes in halves or 8 bits.

    Returns
    -------
    dict
        For the bundle's provenance: the runtime, the number of pictures and the largest differences; or, as
        `unproven`, why there is no proof.

    Raises
    ------
    ModelError
        The results differ.
    """
    wanted = [name for name in names if name]
    try:
        runtime = _OnnxRuntime(path) if path.suffix.lower() == ".onnx" else _Uncut(path, picture)
        missing = set(wanted) - set(runtime.names)
    except (ImportError, RuntimeError, ModelError) as error:
        return {"unproven": f"the source does not run in its own runtime: {str(error).splitlines()[0]}"}
    if not wanted or missing:
        return {"unproven": "the source's results are not those of the graph that was read"}
    tolerance = ROUGH if rough else TOLERANCE
    made = core().compile_model(bundle, "CPU", EXACT)
    compiled = made if whole is None else core().compile_model(whole, "CPU", EXACT)
    results = (whole or core().read_model(bundle)).get_results()[-len(names) :]
    chosen = {name for name, result in zip(names, results, strict=True) if _is_chosen(result)}
    at_source = at_cut = 0.0
    pixels = _made_up(picture)
    for frame in pixels:
        ours = [np.array(value, np.float32) for value in compiled([frame[None]]).values()]
        cuts = [np.array(v, np.float32) for v in made([frame[None]]).values()] if whole is not None else []
        theirs = runtime.run(_input_of(frame, picture, facts))
        for a, b in zip(cuts, ours, strict=False):
            at_cut = max(at_cut, _difference(a, b))
        for name, a in zip(names, ours[-len(names) :], strict=True):
            if name:
                at_source = max(at_source, _difference(a, theirs[name], chosen=name in chosen))
    _check(at_cut, tolerance, "the bundle's file differs from the graph that it was cut from")
    if not at_source <= tolerance:
        fault = _located(runtime, compiled, names, pixels[-1], picture, facts, tolerance)
        _check(at_source, tolerance, f"the graph's results differ from those of {runtime.label}{fault}")
    return {"runtime": runtime.label, "pictures": len(pixels), "difference": round(at_source, 8),
            "difference_at_cut": round(at_cut, 8), "tolerance": tolerance}  # fmt: skip


def _located(
    runtime: _OnnxRuntime | _Uncut, compiled: ov.CompiledModel, names: Sequence[str], frame: Frame,
    picture: Picture, facts: Facts, tolerance: float,
) -> str:  # fmt: skip
    """Return what to change of the preprocessing for the results to agree, if anything is enough."""
    ours = [np.array(v, np.float32) for v in compiled([frame[None]]).values()][-len(names) :]
    for what, other in _variants(facts):
        theirs = runtime.run(_input_of(frame, picture, other))
        if all(_difference(a, theirs[n]) <= tolerance for n, a in zip(names, ours, strict=True) if n):
            return f"; they agree with {what}"
    return "; no other colour order, mean or scale makes them agree, so an operation or a constant differs"


def _variants(facts: Facts) -> list[tuple[str, Facts]]:
    color: Literal["rgb", "bgr"] = "bgr" if facts.color == "rgb" else "rgb"
    means = ((0.0,), (127.5,), (123.675, 116.28, 103.53), (103.53, 116.28, 123.675))
    scales = ((1.0,), (255.0,), (127.5,), (58.395, 57.12, 57.375), (57.375, 57.12, 58.395))
    found = [(f"color {color}", dataclasses.replace(facts, color=color))]
    found += [(f"mean {','.join(map(str, mean))}", dataclasses.replace(facts, mean=mean)) for mean in means]
    found += [(f"scale {','.join(map(str, s))}", dataclasses.replace(facts, scale=s)) for s in scales]
    return found


def _check(difference: float, tolerance: float, what: str) -> None:
    if not difference <= tolerance:
        raise ModelError(
            f"{what}: by {difference:.2g} of a channel's largest value",
            wanted=f"at most {tolerance:g}",
            fix="report the model; --unproven writes the bundle without proof",
        )


class _OnnxRuntime:
    """The source in onnxruntime, without its optimizations, which would be another graph."""

    def __init__(self, path: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self.label = f"onnxruntime {onnxruntime.__version__}"
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.names = [output.name for output in self._session.get_outputs()]

    def run(self, pixels: FloatArray) -> Results:
        height, width = pixels.shape[2:] if pixels.shape[1] == 3 else pixels.shape[1:3]
        feed = {}
        for port in self._session.get_inputs():
            kind = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8,
                    "tensor(int64)": np.int64}[port.type]  # fmt: skip
            sides = {"w": width, "h": height, "1": 1}
            value = [[sides[s] for s in SIZES[port.name]]] if port.name in SIZES else pixels
            feed[port.name] = np.asarray(value).astype(kind)
        found = self._session.run(None, feed)
        return {name: np.asarray(value, np.float32) for name, value in zip(self.names, found, strict=True)}


class _Uncut:
    """The source in OpenVINO, read again and left as it is."""

    def __init__(self, path: Path, picture: Picture) -> None:
        model = core().read_model(path)
        make_static(model, (picture.height, picture.width))
        self.label = f"OpenVINO {ov.__version__.split('-')[0]}, uncut"
        self.names = [min(output.get_names(), default="") for output in model.outputs]
        self._kind = model.inputs[0].element_type.to_dtype()
        self._compiled = core().compile_model(model, "CPU", EXACT)

    def run(self, pixels: FloatArray) -> Results:
        found = self._compiled([pixels.astype(self._kind)])
        return {name: np.array(found[i], np.float32) for i, name in enumerate(self.names)}


def _made_up(picture: Picture) -> list[Frame]:
    """Pictures with edges, colours and shapes: (h, w, 3) uint8 of the input's size."""
    height, width = picture.height, picture.width
    rng = np.random.default_rng(7)
    y, x = np.mgrid[:height, :width]
    slopes = np.stack([x * 255 // width, y * 255 // height, (x + y) * 255 // (width + height)], -1)
    shapes = np.full((height, width, 3), (200, 120, 40), np.uint8)
    for _ in range(12):
        corner = rng.integers(0, (width, height)).tolist()
        size = rng.integers(1, (width // 2 + 2, height // 2 + 2)).tolist()
        colour = rng.integers(0, 256, 3).tolist()
        cv2.rectangle(shapes, corner, (corner[0] + size[0], corner[1] + size[1]), colour, -1)
    return [np.ascontiguousarray(slopes, np.uint8), shapes]


def _input_of(frame: Frame, picture: Picture, facts: Facts) -> FloatArray:
    """What the source was trained to see of a frame, in its own layout."""
    ordered = frame[..., ::-1] if facts.color == "rgb" else frame
    pixels = (ordered - np.array(facts.mean, np.float64)) / np.array(facts.scale, np.float64)
    laid = pixels.transpose(2, 0, 1) if picture.layout == "NCHW" else pixels
    return np.ascontiguousarray(laid, np.float32)[None]


def _is_chosen(result: ov.Node) -> bool:
    """Whether near ties may come in another order: TopK or an NMS has chosen the rows."""
    return bool({node.get_type_name() for node in ancestors(result.input_value(0))} & CHOOSERS)


def _difference(a: FloatArray, b: FloatArray, *, chosen: bool = False) -> float:
    """Return the largest difference in units of a channel's largest value; infinity for other shapes."""
    if a.shape != b.shape or not np.isfinite(a).all():
        return float("inf")
    if a.ndim < 2 or a.size == 0:
        return float(np.abs(a - b).max(initial=0) / max(np.abs(b).max(initial=0), LEAST))
    axis = min((n, i) for i, n in enumerate(a.shape[1:], 1))[1]
    rows = (np.moveaxis(v, axis, -1).reshape(-1, a.shape[axis]) for v in (a, b))
    ours, theirs = (np.sort(v, 0) if chosen else v for v in rows)
    unit = np.maximum(np.abs(theirs).max(0), LEAST)
    return float((np.abs(ours - theirs) / unit).max())
