"""Label files and the named sets of labels."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qzd_ext.errors import DataError, UsageError
from qzd_tools.convert.labels import NAMED, from_names, load, named, usual

LABEL_MAP = """
item {
  id: 1
  name: 'bolt'
}
item { name: "n"
  id: 3
  display_name: "nut"
}
"""


@pytest.mark.parametrize(
    ("name", "count", "first", "last"),
    [
        ("coco80", 80, "person", "toothbrush"),
        ("coco91", 90, "person", "toothbrush"),
        ("voc", 20, "aeroplane", "tvmonitor"),
        ("imagenet", 1000, "tench", "toilet tissue"),
    ],
)
def test_named_sets_are_whole(name: str, count: int, first: str, last: str) -> None:
    names = named(name).names
    assert (count, first, last) == (len(names), names[0], names[-1])
    used = [n for n in names if n]
    assert len(set(used)) == len(used)


def test_coco80_is_coco91_without_its_unused_ids() -> None:
    wide, narrow = named("coco91"), named("coco80")
    assert tuple(range(1, 91)) == wide.category_ids
    assert [i for i, n in enumerate(wide.names, 1) if n] == list(narrow.category_ids)
    assert narrow.names[79] == "toothbrush"
    assert narrow.category_ids[79] == 90


def test_named_sets_agree_with_the_images_of_imagenet(data: Path) -> None:
    names = [n.lower().replace("-", "_").replace(" ", "_") for n in named("imagenet").names]
    lines = (data / "imagenet" / "labels.txt").read_text().split()
    for file, index in zip(lines[::2], lines[1::2], strict=True):
        plain = file.partition("_")[2].rpartition(".")[0]
        assert names[int(index)] == plain.lower().replace("-", "_")


@pytest.mark.parametrize(
    ("count", "name"), [(80, "coco80"), (90, "coco91"), (20, "voc"), (1000, "imagenet"), (3, None)]
)
def test_usual_names_a_set_by_its_number_of_classes(count: int, name: str | None) -> None:
    found = usual(count)
    assert name == (found and found[0])


def test_from_names_takes_darknet_and_ultralytics_spellings_for_coco(data: Path) -> None:
    darknet = (data / "darknet" / "coco.names").read_text().splitlines()
    assert named("coco80") == from_names(darknet)
    assert named("coco80") == from_names([n.replace(" ", "_") for n in named("coco80").names])


def test_from_names_keeps_other_lists_as_they_are() -> None:
    labels = from_names(["bolt", "nut"])
    assert (labels.names, labels.category_ids) == (("bolt", "nut"), ())


@pytest.mark.parametrize("name", NAMED)
def test_load_knows_the_named_sets(name: str) -> None:
    assert named(name) == load(name)


@pytest.mark.parametrize(
    ("file", "content", "names", "ids"),
    [
        ("a.txt", "bolt\nnut\n\n", ("bolt", "nut"), ()),
        ("a.names", "bolt\n\nnut", ("bolt", "", "nut"), ()),
        ("bom.txt", "\ufeffbolt\nnut", ("bolt", "nut"), ()),
        ("a.json", json.dumps({"categories": [{"id": 7, "name": "nut"}, {"id": 2, "name": "bolt"}]}),
         ("bolt", "nut"), (2, 7)),
        ("a.pbtxt", LABEL_MAP, ("bolt", "", "nut"), (1, 2, 3)),
        ("b.pbtxt", """item { id: 1 name: 'cat' } item{name:"bishop's cap",id:2} # it's "one"
         item { id: 3 # }
         name: 'a } \\'b' parts { id: 9 label: "nose" } }""", ("cat", "bishop's cap", "a } 'b"), (1, 2, 3)),
    ],
    ids=["lines", "blank in between", "byte order mark", "coco", "label map", "label map in lines"],
)  # fmt: skip
def test_load_reads_files(
    tmp_path: Path, file: str, content: str, names: tuple[str, ...], ids: tuple[int, ...]
) -> None:
    (tmp_path / file).write_text(content, encoding="utf-8")
    labels = load(str(tmp_path / file))
    assert (names, ids) == (labels.names, labels.category_ids)


def test_load_takes_names_with_commas() -> None:
    assert load("person, cat,dog").names == ("person", "cat", "dog")
    assert load("person,").names == ("person",)
    many = tuple(f"number {i}" for i in range(80))  # together longer than a file's name may be
    assert load(",".join(many)).names == many


def test_load_says_what_it_knows_when_there_is_no_such_set_or_file() -> None:
    with pytest.raises(UsageError, match="coco80, coco91, voc, imagenet"):
        load("coco8O")
    with pytest.raises(UsageError, match="no such file"):
        load("x" * 300)


@pytest.mark.parametrize(
    ("file", "content"),
    [("empty.txt", b""), ("x.json", b"{}"), ("y.json", b"not json"), ("x.pbtxt", b"item { id: 1 }"),
     ("y.pbtxt", b"item { id: 1 name: 'bishop's cap' }"), ("z.pbtxt", b"item { id: 1 name: 'a'"),
     ("latin.txt", b"caf\xe9"), ("z.json", b'{"categories": [{"id": 1e999, "name": "a"}]}'),
     ("deep.json", b"[" * 99999), ("far.pbtxt", b"item { id: 4000000000 name: 'a' }")],
)  # fmt: skip
def test_load_refuses_a_file_without_names(tmp_path: Path, file: str, content: bytes) -> None:
    (tmp_path / file).write_bytes(content)
    with pytest.raises(DataError, match=file):
        load(str(tmp_path / file))
