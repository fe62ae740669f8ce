"""What a model's classes are called: named sets, files, and lists that models carry."""

from __future__ import annotations

import functools
import json
import re
import tomllib
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path

from qzd_ext.errors import DataError, UsageError
from qzd_ext.manifest import Labels

__all__ = ["NAMED", "from_names", "load", "named", "read_labels", "usual"]

NAMED = ("coco80", "coco91", "voc", "imagenet")

USUAL = {80: "coco80", 90: "coco91", 20: "voc", 1000: "imagenet"}
"""The data set that a number of classes points to."""

MOST = 65536
"""The largest id of a label map that is believed: there is a class for each one below it."""

ALIASES = {
    "motorbike": "motorcycle", "aeroplane": "airplane", "sofa": "couch", "tvmonitor": "tv",
    "hairdryer": "hairdrier", "television": "tv", "cellularphone": "cellphone", "doughnut": "donut",
}  # fmt: skip
"""Other spellings of COCO's names, as Darknet and VOC have them."""

TOKENS = re.compile(
    r"""\#[^\n]* | ( "(?:\\.|[^"\\\n])*" | '(?:\\.|[^'\\\n])*' | ["'{}] | [^\s{}:,;"'\#]+ )""", re.VERBOSE
)
"""Of protobuf's text format: strings, a quote that is not closed, braces, words; of a comment nothing."""


@functools.cache
def _sets() -> dict[str, list[str]]:
    return tomllib.loads(resources.files(__package__).joinpath("label_sets.toml").read_text("utf-8"))


@functools.cache
def named(name: str) -> Labels:
    """The labels of a well known data set.

    `coco91` has 90 classes, the ids 1..90 of COCO; `coco80` the 80 of them that are used, in their order.
    """
    if name == "coco91":
        return Labels(names=tuple(_sets()[name]), category_ids=tuple(range(1, 91)))
    if name == "coco80":
        used = [(n, i) for i, n in enumerate(_sets()["coco91"], 1) if n]
        return Labels(names=tuple(n for n, _ in used), category_ids=tuple(i for _, i in used))
    return Labels(names=tuple(_sets()[name]))


def usual(classes: int) -> tuple[str, Labels] | None:
    """The named set that this number of classes points to; None where it points to none."""
    name = USUAL.get(classes)
    return (name, named(name)) if name is not None else None


def from_names(names: Sequence[str]) -> Labels:
    """Labels from a list of names.

    A list that is one of the COCO sets but for spelling (`traffic_light`, `motorbike`) becomes that set, so
    that it has COCO's category ids.
    """
    for known in (named("coco80"), named("coco91")):
        if [_plain(n) for n in names] == [_plain(n) for n in known.names]:
            return known
    return Labels(names=tuple(names))


def _plain(name: str) -> str:
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    return ALIASES.get(plain, plain)


def load(text: str) -> Labels:
    """Labels from what a person gave: a named set, a file, or names with commas between them.

    A file has one name per line (a blank line marks a class without a name), with or without its number; or
    it is a COCO annotation file (`.json`, its categories by id), a JSON list of names or table by class id,
    a label map of the TensorFlow Object Detection API (`.pbtxt`), or the data.yaml of Ultralytics.

    Raises
    ------
    UsageError
        Neither a named set nor a file, nor several names.
    DataError
        The file holds no names.
    """
    if text in NAMED:
        return named(text)
    path = Path(text)
    there = _is_file(path)
    if "," in text and not there:
        return from_names([name.strip() for name in text.removesuffix(",").split(",")])
    if not there:
        raise UsageError(
            f"labels {text}: no such file and no such set",
            wanted=f"a file, one of {', '.join(NAMED)}, or names such as person,cat,dog (one alone: person,)",
            fix="correct --labels",
        )
    try:
        found = read_labels(path.name, path.read_text(encoding="utf-8-sig"))
    except (OSError, ArithmeticError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise _no_names(path, f"cannot be read as labels: {error!r}") from error
    if not any(found.names):
        raise _no_names(path, "holds no names")
    return found


def read_labels(name: str, content: str) -> Labels:
    """Read labels from the content of a file of this name.

    Raises
    ------
    ArithmeticError, KeyError, RecursionError, TypeError, ValueError
        The content is no list of labels.
    """
    readers = {".json": _from_json, ".pbtxt": _from_label_map, ".yaml": _from_yaml, ".yml": _from_yaml}
    return readers.get(Path(name).suffix.lower(), _from_lines)(content)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # many labels are longer than a file's name may be
        return False


def _no_names(path: Path, what: str) -> DataError:
    return DataError(
        f"{path}: {what}",
        wanted="one name per line, COCO annotations or names (.json), a label map (.pbtxt) or a data.yaml",
        fix="correct the file, or name another with --labels",
    )


def _from_lines(content: str) -> Labels:
    """One name per line; numbers from 0 on in front of them, without a gap, are their ids."""
    lines = [line.strip() for line in content.rstrip().splitlines()]
    numbered = [re.fullmatch(r"(\d+)[:\s,]\s*(.+)", line) for line in lines if line]
    ids = sorted(int(found[1]) for found in numbered if found)
    if numbered and ids == list(range(len(numbered))):
        return _by_id({int(found[1]): found[2] for found in numbered if found})
    return from_names(lines)


def _by_id(names: dict[int, str]) -> Labels:
    """Names by class id; an id that is left out has none."""
    if max(names, default=0) > MOST:
        raise ValueError(f"id {max(names)} is above {MOST}")
    return from_names([names.get(i, "").strip() for i in range(max(names, default=-1) + 1)])


def _from_yaml(content: str) -> Labels:
    """The `names` of an Ultralytics data set: a list, or a table by class id, in the line or below it."""
    items = r"(?:[ \t]*(?:-|\d+:)[^\n]*\n?|[ \t]*#[^\n]*\n|[ \t]*\n)*"
    found = re.search(rf"^names:[ \t]*(.*)\n?({items})", content, re.M)
    if found is None:
        raise ValueError("no names")
    if found[1].strip():
        listed = [part.strip().strip("'\"") for part in found[1].split("#")[0].strip(" []").split(",")]
        return from_names([name for name in listed if name])
    pairs = re.findall(r"^[ \t]*(?:-|(\d+):)[ \t]*([^#\n]*)", found[2], re.M)
    return _by_id({int(key or i): name.strip().strip("'\"") for i, (key, name) in enumerate(pairs)})


def _from_json(content: str) -> Labels:
    """COCO's annotations, a list of names, or a table by class id."""
    document = json.loads(content)
    if isinstance(document, list):
        return from_names([str(name) for name in document])
    if "categories" not in document:
        return _by_id({int(key): str(name) for key, name in document.items()})
    categories = sorted((int(c["id"]), str(c["name"])) for c in document["categories"])
    return Labels(names=tuple(n for _, n in categories), category_ids=tuple(i for i, _ in categories))


def _from_label_map(content: str) -> Labels:
    """Items `item { id: 1 name: 'cat' }`, ids from 1; `display_name` is preferred."""
    by_id: dict[int, str] = {}
    for fields in _items(content):
        by_id[int(fields["id"])] = (fields.get("display_name") or fields["name"]).strip()
    if max(by_id, default=0) > MOST:
        raise ValueError(f"id {max(by_id)} is above {MOST}")
    names = tuple(by_id.get(i, "") for i in range(1, max(by_id, default=0) + 1))
    return Labels(names=names, category_ids=tuple(range(1, len(names) + 1)))


def _items(content: str) -> Iterator[dict[str, str]]:
    """The fields of each item of a label map; what is nested in one is left out."""
    depth, key = 0, ""
    fields: dict[str, str] = {}
    for part in filter(None, TOKENS.findall(content)):
        if part in {'"', "'"}:
            raise ValueError(f"a quote that is not closed, after {fields}")
        if part in {"{", "}"}:
            depth, key = depth + (1 if part == "{" else -1), ""
            if depth == 0:
                yield fields
                fields = {}
        elif depth == 1 and key:
            fields[key], key = _unquoted(part), ""
        else:
            key = part
    if depth:
        raise ValueError("an item that is not closed")


def _unquoted(token: str) -> str:
    return re.sub(r"\\(.)", r"\1", token[1:-1]) if token[0] in "\"'" else token
