"""What exporters leave beside a model or inside its file: metadata and label files.

Ultralytics writes `metadata.yaml` beside an IR or a SavedModel, and a `metadata.json` into the zip archive
that a .tflite file may end with. TensorFlow Lite's own tools put label files into that archive. The YAML is
of one writer and two levels, so that it needs no library.
"""

from __future__ import annotations

import ast
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

from qzd_ext.errors import DataError
from qzd_tools.convert.facts import Facts, known
from qzd_tools.convert.labels import load, read_labels

__all__ = ["labels_beside", "labels_inside", "properties_of"]

LARGEST = 1 << 20
"""Bytes of a metadata or label file that is read."""
METADATA = ("metadata.yaml", "metadata.json", "temp_meta.txt")
LABELS = re.compile(r"(.*[_-])?(labels?|label_?map|classes|names)\.(txt|pbtxt|json)|.*\.names|data\.yaml")


def properties_of(main: Path) -> dict[str, str]:
    """Return the metadata that Ultralytics left beside a model or inside its file; empty if there is none."""
    for name, content in (*_archived(main), *_beside(main)):
        if name in METADATA:
            found = _properties(content)
            if {"names", "stride"} <= found.keys():
                return found
    return {}


def labels_inside(main: Path) -> Facts:
    """Return the labels that a .tflite file holds as an associated file."""
    for name, content in _archived(main):
        if LABELS.fullmatch(name.lower()) and name not in METADATA:
            try:
                return known(f"{name} in {main.name}", labels=read_labels(name, content))
            except ValueError as error:
                found = f"{main}: its {name} cannot be read: {error}"
                raise DataError(found, fix="state --labels") from error
    return Facts()


def labels_beside(main: Path) -> Facts:
    """Return the labels of the one label file beside a model, in a folder that was named."""
    folder = main if main.is_dir() else main.parent
    found = [p for p in sorted(folder.iterdir()) if LABELS.fullmatch(p.name.lower()) and p.is_file()]
    if len(found) != 1:
        return Facts()
    return known(f"{found[0].name} beside the model", labels=load(str(found[0])))


def _archived(main: Path) -> Iterator[tuple[str, str]]:
    """Text files in the zip archive that a .tflite file may end with."""
    if main.suffix.lower() != ".tflite" or not zipfile.is_zipfile(main):
        return
    with zipfile.ZipFile(main) as archive:
        for entry in archive.infolist():
            if entry.file_size <= LARGEST:
                yield entry.filename, archive.read(entry).decode("utf-8", "replace")


def _beside(main: Path) -> Iterator[tuple[str, str]]:
    folder = main if main.is_dir() else main.parent
    for name in METADATA[:2]:
        path = folder / name
        if path.is_file() and path.stat().st_size <= LARGEST:
            yield name, path.read_text("utf-8", "replace")


def _properties(content: str) -> dict[str, str]:
    """Keys and values as text; lists and tables in the form that Ultralytics' ONNX files have them in."""
    text = content.strip()
    if text.startswith("{"):
        try:
            return {str(key): str(value) for key, value in json.loads(text).items()}
        except (ValueError, AttributeError):
            return _of_python(text)
    found: dict[str, str] = {}
    tables: dict[str, dict[int, str] | list[str]] = {}
    key = ""
    for line in text.splitlines():
        item = re.fullmatch(r"\s*(?:(\d+):|-)\s*(.*)", line)
        top = re.fullmatch(r"([A-Za-z_]\w*):\s*(.*)", line)
        if top:
            key, value = top[1], _unquoted(top[2])
            found[key] = value
        elif item and key:
            _add(tables, key, item[1], _unquoted(item[2]))
    return found | {name: str(table) for name, table in tables.items()}


def _add(
    tables: dict[str, dict[int, str] | list[str]], key: str, number: str | None, value: str
) -> None:
    table = tables.setdefault(key, [] if number is None else {})
    if isinstance(table, list):
        table.append(value)
    elif number is not None:
        table[int(number)] = value


def _of_python(text: str) -> dict[str, str]:
    """The text of a Python dictionary, as older exports have it."""
    try:
        table = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return {}
    return {str(key): str(value) for key, value in table.items()} if isinstance(table, dict) else {}


def _unquoted(text: str) -> str:
    text = text.strip()
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text
