"""Writing protocol buffers by hand, and with them the smallest models of TensorFlow and PaddlePaddle.

The formats' own frameworks are too large to be asked for by tests.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

__all__ = ["tensorflow_graph", "write_paddle", "write_saved_model"]

DT_FLOAT, DT_INT32 = 1, 3
"""TensorFlow's types."""


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def message(*fields: tuple[int, int | float | str | bytes]) -> bytes:
    """Fields in order: whole numbers as varint, floats as 32 bits, the rest with its length before it."""
    out = b""
    for number, value in fields:
        if isinstance(value, int):
            out += varint(number << 3) + varint(value)
        elif isinstance(value, float):
            out += varint(number << 3 | 5) + struct.pack("<f", value)
        else:
            content = value.encode() if isinstance(value, str) else value
            out += varint(number << 3 | 2) + varint(len(content)) + content
    return out


def _entry(key: str, value: bytes) -> bytes:
    return message((1, key), (2, value))


def _shape(*dims: int) -> bytes:
    return message(*((2, message((1, d))) for d in dims))


def _node(name: str, op: str, inputs: tuple[str, ...] = (), **attributes: bytes) -> tuple[int, bytes]:
    fields = [(1, name), (2, op), *((3, i) for i in inputs)]
    return 1, message(*fields, *((5, _entry(k, v)) for k, v in attributes.items()))


def _constant(name: str, array: np.ndarray) -> tuple[int, bytes]:
    kind = DT_FLOAT if array.dtype == np.float32 else DT_INT32
    tensor = message((1, kind), (2, _shape(*array.shape)), (4, array.tobytes()))
    return _node(name, "Const", dtype=message((6, kind)), value=message((8, tensor)))


def tensorflow_graph(weights: np.ndarray) -> bytes:
    """Make a GraphDef: softmax of the channel means times weights, `[3, C]`. Input `[1, 8, 8, 3]`."""
    kind, whole = message((6, DT_FLOAT)), message((6, DT_INT32))
    return message(
        _node("image", "Placeholder", dtype=kind, shape=message((7, _shape(1, 8, 8, 3)))),
        _constant("axes", np.array([1, 2], np.int32)),
        _node("mean", "Mean", ("image", "axes"), T=kind, Tidx=whole, keep_dims=message((5, 0))),
        _constant("weights", weights.astype(np.float32)),
        _node("logits", "MatMul", ("mean", "weights"), T=kind),
        _node("scores", "Softmax", ("logits",), T=kind),
    )


def write_saved_model(directory: Path, weights: np.ndarray) -> None:
    """Write the same graph as a SavedModel with its serving signature, and no variables."""
    def info(name: str, *dims: int) -> bytes:
        return message((1, name), (2, DT_FLOAT), (3, _shape(*dims)))

    signature = message(
        (1, _entry("image", info("image:0", 1, 8, 8, 3))),
        (2, _entry("scores", info("scores:0", 1, weights.shape[1]))),
        (3, "tensorflow/serving/predict"),
    )
    graph = message(
        (1, message((4, "serve"))), (2, tensorflow_graph(weights)), (5, _entry("serving_default", signature))
    )
    directory.mkdir()
    (directory / "saved_model.pb").write_bytes(message((1, 1), (2, graph)))


FLOAT32, LOD_TENSOR, FEED, FETCH = 5, 7, 9, 10
"""PaddlePaddle's types."""


def _variable(
    name: str, dims: tuple[int, ...], *, kept: bool = False, kind: int = LOD_TENSOR
) -> tuple[int, bytes]:
    fields: list[tuple[int, int | bytes]] = [(1, kind)]
    if kind == LOD_TENSOR:
        tensor = message((1, FLOAT32), *((2, d) for d in dims))
        fields.append((3, message((1, tensor), (2, 0))))
    return 3, message((1, name), (2, message(*fields)), (3, int(kept)))


def _operation(
    kind: str, inputs: dict[str, str], outputs: dict[str, str], *attributes: bytes
) -> tuple[int, bytes]:
    def ports(number: int, named: dict[str, str]) -> list[tuple[int, bytes]]:
        return [(number, message((1, name), (2, argument))) for name, argument in named.items()]

    return 4, message(*ports(1, inputs), *ports(2, outputs), (3, kind), *((4, a) for a in attributes))


def write_paddle(path: Path, weights: np.ndarray) -> None:
    """Write a .pdmodel and .pdiparams: softmax of the one pixel `[1, 3, 1, 1]` times weights, `[C, 3]`."""
    count = len(weights)
    kernel = weights.astype(np.float32).reshape(count, 3, 1, 1)

    def whole(name: str, value: int) -> bytes:
        return message((1, name), (2, 0), (3, value))

    def wholes(name: str, *values: int) -> bytes:
        return message((1, name), (2, 3), *((6, v) for v in values))

    def text(name: str, value: str) -> bytes:
        return message((1, name), (2, 2), (5, value))

    block = message(
        (1, 0), (2, 0),
        _variable("feed", (), kept=True, kind=FEED), _variable("fetch", (), kept=True, kind=FETCH),
        _variable("image", (1, 3, 1, 1)), _variable("kernel", kernel.shape, kept=True),
        _variable("maps", (1, count, 1, 1)), _variable("scores", (1, count, 1, 1)),
        _operation("feed", {"X": "feed"}, {"Out": "image"}, whole("col", 0)),
        _operation(
            "conv2d", {"Input": "image", "Filter": "kernel"}, {"Output": "maps"},
            wholes("strides", 1, 1), wholes("paddings", 0, 0), wholes("dilations", 1, 1), whole("groups", 1),
            text("padding_algorithm", "EXPLICIT"), text("data_format", "NCHW"),
        ),
        _operation("softmax", {"X": "maps"}, {"Out": "scores"}, whole("axis", 1)),
        _operation("fetch", {"X": "scores"}, {"Out": "fetch"}, whole("col", 0)),
    )  # fmt: skip
    path.write_bytes(message((1, block), (4, message((1, 2_000_000)))))
    description = message((1, FLOAT32), *((2, d) for d in kernel.shape))
    head = struct.pack("<IQIi", 0, 0, 0, len(description))
    path.with_suffix(".pdiparams").write_bytes(head + description + kernel.tobytes())
