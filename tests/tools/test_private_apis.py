"""What the code takes from OpenVINO and NNCF that they do not document, and may move in any release.

Each test fails with a sentence that names the file, so that an upgrade is not debugged from a traceback.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

from qzd_tools.graph.walk import simplify
from qzd_tools.quantize.recipe import SMOOTHING

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTED = (
    "nncf",
    "nncf.quantization.advanced_parameters",
    "openvino",
    "openvino.frontend",
    "openvino.passes",
    "openvino.preprocess",
)


class Private(NamedTuple):
    """One name that a file of ours imports from a module that is not documented."""

    file: str
    module: str
    name: str


def _private_imports() -> Iterator[Private]:
    for path in sorted((*(ROOT / "ext").rglob("*.py"), *(ROOT / "tools").rglob("*.py"))):
        nodes = ast.walk(ast.parse(path.read_text()))
        for imported in (node for node in nodes if isinstance(node, ast.ImportFrom)):
            module = imported.module or ""
            if module.partition(".")[0] in ("nncf", "openvino") and module not in DOCUMENTED:
                for alias in imported.names:
                    yield Private(str(path.relative_to(ROOT)), module, alias.name)


PRIVATE = list(_private_imports())


def _moved(private: Private, why: str) -> str:
    package = private.module.partition(".")[0]
    return (
        f"{private.module}.{private.name}, a private API of {package} that {private.file} uses, {why} in "
        f"{package} {version(package)}. To fix: find what replaces it, or require an older {package} "
        "in pyproject.toml"
    )


def _private(name: str) -> Private:
    found = [private for private in PRIVATE if private.name == name]
    assert found, f"no file imports {name} any longer. To fix: remove its test from this file"
    return found[0]


@pytest.mark.parametrize("private", PRIVATE, ids=lambda private: f"{private.module}.{private.name}")
def test_private_name_is_where_it_was(private: Private) -> None:
    try:
        module = importlib.import_module(private.module)
    except ImportError as error:
        pytest.fail(_moved(private, f"cannot be imported ({error})"))
    if not hasattr(module, private.name):
        try:
            importlib.import_module(f"{private.module}.{private.name}")
        except ImportError:
            pytest.fail(_moved(private, "does not exist"))


def test_apply_moc_transformations_folds_constants() -> None:
    frame = ops.parameter([1, 2], ov.Type.f32)
    folded = ops.add(ops.constant(np.array([1, 2], np.float32)), ops.constant(np.array([3, 4], np.float32)))
    model = ov.Model([ops.multiply(frame, folded)], [frame], "folds")
    try:
        simplify(model)
    except TypeError as error:
        pytest.fail(_moved(_private("apply_moc_transformations"), f"takes other arguments ({error})"))
    kinds = [node.get_type_name() for node in model.get_ordered_ops()]
    assert "Add" not in kinds, _moved(_private("apply_moc_transformations"), "no longer folds constants")


def _smooth_quant() -> Callable[..., object]:
    from nncf.quantization.algorithms.smooth_quant.algorithm import SmoothQuant

    return lambda: SmoothQuant(4, alpha_map=SMOOTHING)


def _pipeline() -> Callable[..., object]:
    from nncf.quantization.algorithms.pipeline import Pipeline

    return lambda: inspect.signature(Pipeline([[]]).run).bind("model", "dataset")


@pytest.mark.parametrize(("name", "make"), [("SmoothQuant", _smooth_quant), ("Pipeline", _pipeline)])
def test_private_call_takes_the_arguments_that_recipe_passes(
    name: str, make: Callable[[], Callable[..., object]]
) -> None:
    try:
        make()()
    except TypeError as error:
        pytest.fail(_moved(_private(name), f"takes other arguments ({error})"))
