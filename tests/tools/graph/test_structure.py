"""The structure of graphs: weighted layers, the head, and what is quantized."""

from __future__ import annotations

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

from qzd_ext.errors import UsageError
from qzd_tools.graph.structure import (
    find_head,
    is_quantized,
    match_names,
    match_patterns,
    match_types,
    weighted_layers,
)
from qzd_tools.quantize.compress import compress_weights
from qzd_tools.quantize.recipe import Recipe, ignored_operations, make_names_unique
from support.painted_model import build_painted


def kinds(model: ov.Model, names: tuple[str, ...]) -> list[str]:
    found = {node.get_friendly_name(): node.get_type_name() for node in model.get_ordered_ops()}
    return sorted(found[name] for name in names)


def test_find_head_ends_at_the_last_weighted_layer() -> None:
    model = build_painted()
    head = find_head(model)
    assert head.layers == ("mix",)
    assert kinds(model, head.arithmetic) == ["Add", "Concat", "Reshape", "Sigmoid"]


def test_head_is_cheap_when_it_has_a_small_part_of_the_model() -> None:
    head = find_head(build_painted())
    cells, depthwise, mix = 48 * 3 * 64, 48, 3 * 48
    assert head.weights == pytest.approx(mix / (cells + depthwise + mix))
    assert head.multiplications == pytest.approx(head.weights)  # every layer has 8x8 results
    assert head.is_cheap


def test_head_is_dear_when_it_is_the_model() -> None:
    frame = ops.parameter([1, 8], ov.Type.f32)
    only = ops.matmul(frame, np.ones((8, 100), np.float32), False, False)
    head = find_head(ov.Model([only], [frame], "linear"))
    assert (head.multiplications, head.weights, head.is_cheap) == (1.0, 1.0, False)


def test_find_head_does_not_change_when_names_do() -> None:
    model = build_painted()
    before = len(find_head(model).arithmetic)
    for index, node in enumerate(model.get_ordered_ops()):
        node.set_friendly_name(f"x{index}")
    assert len(find_head(model).arithmetic) == before
    assert kinds(model, find_head(model).layers) == ["Convolution"]


def test_find_head_goes_through_a_convolution_that_averages_a_distribution() -> None:
    """YOLOv8's DFL: a softmax over bins, then a 1x1 convolution with the bins' values as weights."""
    frame = ops.parameter([1, 3, 8, 8], ov.Type.f32)
    layer = ops.convolution(frame, np.ones((16, 3, 1, 1), np.float32), [1, 1], [0, 0], [0, 0], [1, 1])
    layer.set_friendly_name("layer")
    bins = ops.softmax(ops.reshape(layer, np.array([1, 16, 1, 64]), special_zero=False), 1)
    values = np.arange(16, dtype=np.float32).reshape(1, 16, 1, 1)
    average = ops.convolution(bins, values, [1, 1], [0, 0], [0, 0], [1, 1])
    model = ov.Model([average], [frame], "dfl")
    assert find_head(model).layers == ("layer",)
    assert kinds(model, find_head(model).arithmetic) == ["Convolution", "Reshape", "Softmax"]


def test_weighted_layers_counts_weights_that_are_compressed_and_no_products_of_activations() -> None:
    frame = ops.parameter([1, 4, 8], ov.Type.f32)
    half = ops.convert(ops.constant(np.ones((8, 8), np.float16)), "f32")
    layer = ops.matmul(frame, half, False, False)
    product = ops.matmul(layer, layer, False, True)
    model = ov.Model([product], [frame], "attention")
    assert [n.get_type_name() for n in weighted_layers(model)] == ["MatMul"]
    assert compress_weights(model) == 1
    assert len(weighted_layers(model)) == 1


def test_is_quantized_when_activations_are() -> None:
    assert not is_quantized(build_painted())
    frame = ops.parameter([1, 3], ov.Type.f32)
    zero, one = np.float32(0), np.float32(1)
    assert is_quantized(ov.Model([ops.fake_quantize(frame, zero, one, zero, one, 256)], [frame], "q"))


def test_matches_give_names_of_operations() -> None:
    model = build_painted()
    assert match_names(model, ["mix"]) == ["mix"]
    assert match_patterns(model, ["m.x$", "cell"]) == ["mix", "cells"]
    assert match_types(model, ["GroupConvolution", "Convolution"]) == ["cells", "depthwise", "mix"]


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (Recipe(ignored_names=("mixx",)), ["--ignored-name mixx", "nearest are mix"]),
        (Recipe(ignored_patterns=("mix", "model.22")), ["--ignored-pattern model.22 matches nothing"]),
        (Recipe(ignored_patterns=("(",)), ["--ignored-pattern (", "no regular expression"]),
        (Recipe(ignored_types=("Convolutions",)), ["--ignored-type Convolutions", "Convolution"]),
    ],
)
def test_ignored_operations_fails_when_something_matches_nothing(recipe: Recipe, words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        ignored_operations(build_painted(), recipe)
    for word in words:
        assert word in str(caught.value)


def test_ignored_operations_hold_the_head_and_what_was_asked_for() -> None:
    model = build_painted()
    plain = ignored_operations(model, Recipe(head_layers="int8"))
    assert "mix" not in plain
    assert set(ignored_operations(model, Recipe(head_layers="float"))) - set(plain) == {"mix"}
    assert set(ignored_operations(model, Recipe(ignored_types=("Divide",)))) > set(plain)


def test_make_names_unique_renames_only_the_doubled() -> None:
    model = build_painted()
    for node in weighted_layers(model):
        node.set_friendly_name("same")
    make_names_unique(model)
    names = [node.get_friendly_name() for node in model.get_ordered_ops()]
    assert len(set(names)) == len(names)
    assert "same" in names
