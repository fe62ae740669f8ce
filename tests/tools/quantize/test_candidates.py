"""The choice among candidates, and what a quantization that chooses records."""

from __future__ import annotations

import functools
from pathlib import Path

import openvino as ov
import pytest

from qzd_ext import bundle as bundles
from qzd_tools.benchmark.throughput import throughputs
from qzd_tools.data.images import list_images
from qzd_tools.graph.structure import find_head, weighted_layers
from qzd_tools.quantize import candidates as module
from qzd_tools.quantize.calibration import Calibration, hold_out, preparer
from qzd_tools.quantize.candidates import Candidate, Measured, Prefer, make_candidates, pick
from qzd_tools.quantize.overflow import quantized_weight
from qzd_tools.quantize.recipe import Recipe, apply_recipe, make_names_unique
from qzd_tools.quantize.run import Quantized, quantize
from qzd_tools.validate.bootstrap import Interval
from support.painted_model import write_painted_bundle, write_painted_dataset

IMAGES = 80


@pytest.fixture(autouse=True)
def short_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Throughput is measured in turns of a moment: no test here asserts a speed."""
    monkeypatch.setattr(module, "throughputs", functools.partial(throughputs, rounds=1, seconds=0.02))


@pytest.fixture(scope="module")
def painted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("candidates")
    write_painted_bundle(folder / "detector")
    write_painted_dataset(folder / "calibration", IMAGES)
    return folder


def quantized(folder: Path, target: Path, prefer: Prefer | None) -> Quantized:
    images = list_images(folder / "calibration" / "images")
    return quantize(bundles.read(folder / "detector"), target, prefer=prefer, images=images)


def measured(*figures: tuple[float, float]) -> list[Measured]:
    return [
        Measured(Candidate(str(i), ov.Model([], []), ()), Interval(agreement, 0.01, 50), speed)
        for i, (agreement, speed) in enumerate(figures)
    ]


@pytest.mark.parametrize(
    ("figures", "prefer", "chosen"),
    [
        ([(0.96, 2.0), (0.98, 1.5)], "speed", 0),
        ([(0.96, 2.0), (0.98, 1.5)], "accuracy", 1),
        ([(0.94, 2.0), (0.95, 1.5), (0.99, 1.2)], "speed", 1),
        ([(0.90, 2.0), (0.92, 1.5), (0.94, 1.0)], "speed", 1),
        ([(0.90, 1.0), (0.92, 0.9), (0.91, 1.05)], "speed", 1),
        ([(0.96, 1.2), (0.99, 1.0)], "accuracy", 0),
    ],
    ids=[
        "both agree: the faster", "both agree: the nearer", "one does not agree",
        "none agrees: the nearest fast one", "none is faster than float", "the nearest is too slow",
    ],
)  # fmt: skip
def test_pick_takes_the_best(figures: list[tuple[float, float]], prefer: Prefer, chosen: int) -> None:
    assert pick(measured(*figures), prefer).candidate.name == str(chosen)


def test_hold_out_sets_a_quarter_apart() -> None:
    images = tuple(Path(str(i)) for i in range(101))
    fitted, held_out = hold_out(Calibration(images, tuple(f"{i}" for i in range(101))))
    assert len(held_out) == 26
    assert set(held_out) | set(fitted.images) == set(images)
    assert not set(held_out) & set(fitted.images)
    assert [str(path) for path in fitted.images] == list(fitted.hashes)


def test_hold_out_keeps_all_when_they_are_few() -> None:
    few = Calibration(tuple(Path(str(i)) for i in range(79)), ("",) * 79)
    assert hold_out(few) == (few, ())


def test_quantize_chooses_on_images_that_it_did_not_calibrate_with(painted: Path, tmp_path: Path) -> None:
    result = quantized(painted, tmp_path / "int8", "accuracy")
    made = result.bundle.manifest.provenance
    assert made.calibration_images == 60
    assert len(result.candidates) >= 2
    assert all(one.agreement.images == 20 for one in result.candidates)
    listed = made.quantization["candidates"]
    assert isinstance(listed, list)
    assert len(listed) == len(result.candidates)
    (chosen,) = (one for one in listed if one.endswith(", chosen"))
    best = max(result.candidates, key=lambda one: one.agreement.value)
    assert best.agreement.value == pytest.approx(1, abs=0.05)
    assert bool(made.quantization["layers_reverted_to_float"]) == ("depthwise" in chosen)
    assert (made.quantization["head_layers"] == "float") == ("last" in chosen)


def test_quantize_makes_the_plain_recipe_when_it_is_to_be_quick(painted: Path, tmp_path: Path) -> None:
    result = quantized(painted, tmp_path / "int8", None)
    assert result.candidates == ()
    assert result.bundle.manifest.provenance.calibration_images == IMAGES


def test_candidates_put_their_layers_back_to_float(painted: Path) -> None:
    parent = bundles.read(painted / "detector")
    model = ov.Core().read_model(parent.model)
    make_names_unique(model)
    images = list_images(painted / "calibration" / "images")[:8]
    int8 = apply_recipe(model, images, preparer(parent.manifest.input), Recipe(head_layers="int8"))
    made = {one.name: one for one in make_candidates(int8, model)}
    assert next(iter(made)) == "all layers in int8"
    assert len(made) == 4
    for one in made.values():
        layers = weighted_layers(one.graph)
        stored = {n.get_friendly_name() for n in layers if quantized_weight(n) is not None}
        assert stored | set(one.reverted) == {n.get_friendly_name() for n in layers}
        assert not stored & set(one.reverted)
    assert set(made["last layers in float"].reverted) == set(find_head(model).layers)
