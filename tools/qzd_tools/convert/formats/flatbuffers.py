"""Just enough of FlatBuffers and FlexBuffers to read the options of a custom operation in a .tflite file.

OpenVINO's frontend does not hand those options on.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["custom_options", "flexbuffer_map"]

MODEL_OPERATOR_CODES, MODEL_SUBGRAPHS = 1, 2
CODE_CUSTOM = 1
SUBGRAPH_OPERATORS = 3
OPERATOR_CODE_INDEX, OPERATOR_CUSTOM_OPTIONS = 0, 5
"""Numbers of fields in the tables Model, OperatorCode, SubGraph and Operator."""


@dataclass(frozen=True, slots=True)
class _Table:
    """A FlatBuffers table: a place in the data."""

    data: bytes
    at: int

    def _field(self, number: int) -> int | None:
        """Where a field's value is; None where it is left at its default."""
        vtable = self.at - _signed(self.data, self.at)
        slot = 4 + 2 * number
        if slot >= _u16(self.data, vtable):
            return None
        offset = _u16(self.data, vtable + slot)
        return self.at + offset if offset else None

    def number(self, field: int) -> int:
        at = self._field(field)
        return 0 if at is None else _u32(self.data, at)

    def content(self, field: int) -> bytes:
        """A string or a vector of bytes; empty where it is not given."""
        at = self._field(field)
        if at is None:
            return b""
        start = at + _u32(self.data, at)
        return self.data[start + 4 : start + 4 + _u32(self.data, start)]

    def tables(self, field: int) -> Iterator[_Table]:
        """The tables of a vector of tables."""
        at = self._field(field)
        if at is None:
            return
        start = at + _u32(self.data, at)
        for i in range(_u32(self.data, start)):
            slot = start + 4 + 4 * i
            yield _Table(self.data, slot + _u32(self.data, slot))


def _u16(data: bytes, at: int) -> int:
    return int(struct.unpack_from("<H", data, at)[0])


def _u32(data: bytes, at: int) -> int:
    return int(struct.unpack_from("<I", data, at)[0])


def _signed(data: bytes, at: int) -> int:
    return int(struct.unpack_from("<i", data, at)[0])


def custom_options(data: bytes, operation: str) -> bytes | None:
    """The options of the first operation of that name; None where the model has none.

    Raises
    ------
    ValueError
        The data is no .tflite file.
    """
    if data[4:8] != b"TFL3":
        raise ValueError("no TFL3 identifier")
    try:
        model = _Table(data, _u32(data, 0))
        names = [code.content(CODE_CUSTOM).decode("utf-8") for code in model.tables(MODEL_OPERATOR_CODES)]
        for graph in model.tables(MODEL_SUBGRAPHS):
            for node in graph.tables(SUBGRAPH_OPERATORS):
                if names[node.number(OPERATOR_CODE_INDEX)] == operation:
                    return node.content(OPERATOR_CUSTOM_OPTIONS)
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise ValueError("it is cut off or damaged") from error
    return None


INT, UINT, FLOAT, MAP, BOOL = 1, 2, 3, 9, 26
INDIRECT_INT, INDIRECT_UINT, INDIRECT_FLOAT = 6, 7, 8
INTEGERS = {1: "b", 2: "h", 4: "i", 8: "q"}
FLOATS = {2: "e", 4: "f", 8: "d"}


def _scalar(data: bytes, at: int, width: int, kind: int) -> float:
    formats = FLOATS if kind == FLOAT else INTEGERS
    code = formats[width] if kind in {INT, FLOAT} else formats[width].upper()
    value: float = struct.unpack_from(f"<{code}", data, at)[0]
    return value


def flexbuffer_map(data: bytes) -> dict[str, float]:
    """The numbers of a FlexBuffers map, by key; what is not a number is left out.

    Raises
    ------
    ValueError
        The data is no such map.
    """
    try:
        root_width, root_type = data[-1], data[-2]
        if root_type >> 2 != MAP:
            raise ValueError(f"type {root_type >> 2} is not a map")
        root = len(data) - 2 - root_width
        values = root - int(_scalar(data, root, root_width, UINT))
        width = 1 << (root_type & 3)
        count = int(_scalar(data, values - width, width, UINT))
        keys = values - 3 * width - int(_scalar(data, values - 3 * width, width, UINT))
        key_width = int(_scalar(data, values - 2 * width, width, UINT))
        found = {}
        for i in range(count):
            slot = keys + i * key_width
            start = slot - int(_scalar(data, slot, key_width, UINT))
            name = data[start : data.index(0, start)].decode("utf-8")
            value = _value(data, values + i * width, width, data[values + count * width + i])
            if value is not None:
                found[name] = value
    except (struct.error, IndexError, KeyError, UnicodeDecodeError) as error:
        raise ValueError("it is cut off or damaged") from error
    return found


def _value(data: bytes, at: int, width: int, packed: int) -> float | None:
    kind = packed >> 2
    if kind in {INT, UINT, FLOAT, BOOL}:
        return _scalar(data, at, width, UINT if kind == BOOL else kind)
    if kind in {INDIRECT_INT, INDIRECT_UINT, INDIRECT_FLOAT}:
        target = at - int(_scalar(data, at, width, UINT))
        return _scalar(data, target, 1 << (packed & 3), kind - INDIRECT_INT + INT)
    return None
