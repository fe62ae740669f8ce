"""Datasets: COCO, ImageNet and folders of images, whole and damaged."""

from __future__ import annotations

import codecs
import errno
import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from qzd_ext.errors import DataError
from qzd_tools.data.coco import normalized, read_coco
from qzd_tools.data.imagenet import read_imagenet
from qzd_tools.data.images import combined_digest, content_hashes, evenly, list_images, read_image


def picture(path: Path, width: int = 64, height: int = 48, grey: int = 90) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((height, width, 3), grey, np.uint8))
    return path


def coco(folder: Path, **changes: Any) -> Path:
    """Write a COCO file of two images and three boxes, with tables replaced by `changes`."""
    for name in ("a.png", "b.png"):
        picture(folder / "images" / name)
    document = {
        "images": [
            {"id": 2, "file_name": "b.png", "width": 64, "height": 48},
            {"id": 1, "file_name": "a.png", "width": 64, "height": 48},
        ],
        "annotations": [
            {"id": 0, "image_id": 1, "category_id": 3, "bbox": [0, 0, 64, 48], "area": 3072, "iscrowd": 0},
            {"id": 5, "image_id": 2, "category_id": 3, "bbox": [1.5, 2, 10, 10]},
            {"id": 6, "image_id": 2, "category_id": 9, "bbox": [1, 2, 10, 10], "iscrowd": 1},
        ],
        "categories": [{"id": 3, "name": "cat"}, {"id": 9, "name": "traffic light"}],
    }
    file = folder / "instances.json"
    file.write_text(json.dumps(document | changes))
    return file


def annotation(**changes: Any) -> dict[str, Any]:
    return {"id": 7, "image_id": 1, "category_id": 3, "bbox": [1, 1, 5, 5]} | changes


def test_read_coco_gives_pictures_by_id_when_images_lie_beside(tmp_path: Path) -> None:
    dataset = read_coco(coco(tmp_path))
    assert [p.truth for p in dataset.pictures] == [1, 2]
    assert dataset.pictures[0].path == tmp_path / "images" / "a.png"
    assert dataset.categories == {3: "cat", 9: "traffic light"}
    assert dataset.annotations[1].bbox == (1.5, 2, 10, 10)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"annotations": [annotation(category_id=4)]}, ["annotations[0] (id 7)", "category_id 4"]),
        ({"annotations": [annotation(image_id=4)]}, ["annotations[0] (id 7)", "image_id 4"]),
        ({"annotations": [annotation(bbox=[60, 0, 10, 10])]}, ["6 pixels outside", "64x48"]),
        ({"annotations": [annotation(bbox=[-3, 0, 10, 10])]}, ["annotations[0]", "3 pixels outside"]),
        ({"annotations": [annotation(bbox=[5, 5, -1, 10])]}, ["annotations[0]", "is not a box"]),
        ({"annotations": [annotation(bbox=[5, 5, 1])]}, ["$.annotations[0].bbox", "length 4"]),
        ({"annotations": [annotation(), annotation()]}, ["annotations[1] has id 7", "annotations[0]"]),
        ({"annotations": [{"id": 1, "image_id": 1}]}, ["missing required field", "$.annotations[0]"]),
        ({"annotations": [annotation(area=-4)]}, ["annotations[0] (id 7)", "area -4"]),
        ({"annotations": [annotation(image_id=2**63)]}, ["$.annotations[0].image_id", "<= 92233720"]),
        ({"images": []}, ["`images` is empty"]),
        ({"categories": []}, ["`categories` is empty"]),
        ({"categories": [{"id": 3, "name": "cat"}, {"id": 3, "name": "dog"}]}, ["categories[1] has id 3"]),
        ({"categories": [{"id": 3, "name": "a b"}, {"id": 9, "name": "A_b"}]}, ["[1] has name 'a b'"]),
        ({"images": [{"id": 1, "file_name": "no.png"}], "annotations": []}, ["images[0] (id 1)", "no.png"]),
    ],
)
def test_read_coco_names_the_entry_when_it_is_wrong(
    tmp_path: Path, changes: dict[str, list[dict[str, int | str | list[int]]]], words: list[str]
) -> None:
    with pytest.raises(DataError) as caught:
        read_coco(coco(tmp_path, **changes))
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b'{"images": [', b"[]", b"\xff\xfe", b"{}", b'{"info": ' + b"[" * 100_000,
     b'{"images": [{"id": 1, "file_name": "caf\xe9.jpg"}]}'],
)  # fmt: skip
def test_read_coco_fails_when_file_is_no_coco(tmp_path: Path, content: bytes) -> None:
    file = coco(tmp_path)
    file.write_bytes(content)
    with pytest.raises(DataError, match=str(file)):
        read_coco(file)


def test_read_coco_takes_whole_numbers_however_they_are_written(tmp_path: Path) -> None:
    images = [{"id": "1", "file_name": "a.png", "width": 64.0, "height": 48.0}]
    objects = [annotation(image_id=1.0, category_id="3")]
    dataset = read_coco(coco(tmp_path, images=images, annotations=objects))
    assert (dataset.pictures[0].truth, dataset.pictures[0].size) == (1, (64, 48))
    assert (dataset.annotations[0].image_id, dataset.annotations[0].category_id) == (1, 3)


def test_read_coco_takes_a_byte_order_mark(tmp_path: Path) -> None:
    file = coco(tmp_path)
    file.write_bytes(codecs.BOM_UTF8 + file.read_bytes())
    assert len(read_coco(file).pictures) == 2


def test_read_coco_fails_when_truncated(tmp_path: Path) -> None:
    file = coco(tmp_path)
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(DataError, match="truncated"):
        read_coco(file)


def test_read_coco_fails_when_nothing_is_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_coco(tmp_path / "no.json")
    with pytest.raises(DataError, match="no such directory"):
        read_coco(coco(tmp_path), tmp_path / "elsewhere")


def test_digest_changes_when_an_image_changes_and_not_with_its_name(tmp_path: Path) -> None:
    first = read_coco(coco(tmp_path / "1")).digest
    assert read_coco(coco(tmp_path / "2")).digest == first
    file = coco(tmp_path / "3")
    picture(tmp_path / "3" / "images" / "a.png", grey=91)
    assert read_coco(file).digest != first


def test_combined_digest_is_the_same_in_any_order() -> None:
    assert combined_digest(["a", "b"]) == combined_digest(["b", "a"]) != combined_digest(["a"])


@pytest.mark.parametrize(
    ("name", "same"),
    [("Traffic_Light", "traffic light"), ("hair  drier", "hair-drier"), ("TV", "tv"), ("e\u0301", "\u00c9")],
)
def test_normalized_is_the_same_when_spelling_differs(name: str, same: str) -> None:
    assert normalized(name) == normalized(same)


@pytest.mark.parametrize("content", [b"", b"hello", b"\xff\xd8\xff\xe0broken"])
def test_read_image_fails_when_file_is_no_image(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"x.jpg: not an image"):
        read_image(path)


def test_read_image_gives_three_channels_when_picture_has_one_or_four(tmp_path: Path) -> None:
    for channels in ((), (4,)):
        path = tmp_path / "x.png"
        assert cv2.imwrite(str(path), np.full((5, 7, *channels), 200, np.uint8))
        assert read_image(path).shape == (5, 7, 3)


def test_list_images_leaves_hidden_files_out(tmp_path: Path) -> None:
    picture(tmp_path / "b" / "2.png")
    picture(tmp_path / "1.png")
    (tmp_path / ".DS_Store").touch()
    assert [p.name for p in list_images(tmp_path)] == ["1.png", "2.png"]


def test_list_images_follows_links_to_folders_once(tmp_path: Path) -> None:
    picture(tmp_path / "elsewhere" / "1.png")
    (tmp_path / "here" / ".hidden").mkdir(parents=True)
    for link, target in (("a", "elsewhere"), ("b", "elsewhere"), (".hidden/c", "elsewhere"), ("d", "here")):
        (tmp_path / "here" / link).symlink_to(tmp_path / target)
    assert list_images(tmp_path / "here") == [tmp_path / "here" / "a" / "1.png"]


def test_the_digest_is_another_when_two_pictures_are_swapped(tmp_path: Path) -> None:
    annotations = coco(tmp_path)
    images = [picture(tmp_path / "images" / name, grey=grey) for name, grey in (("a.png", 1), ("b.png", 2))]
    before = read_coco(annotations).digest
    contents = [path.read_bytes() for path in images]
    for path, content in zip(images, reversed(contents), strict=True):
        path.write_bytes(content)
    assert read_coco(annotations).digest != before


def test_a_link_that_leads_nowhere_is_no_image_that_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "1.png").symlink_to(tmp_path / "moved" / "1.png")
    (path,) = list_images(tmp_path)
    with pytest.raises(DataError, match=r"1\.png: cannot be read: No such file"):
        read_image(path)


def test_list_images_fails_when_a_folder_may_not_be_looked_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture(tmp_path / "1.png")
    (tmp_path / "locked").mkdir()
    really = os.scandir

    def scandir(path: Any) -> Any:  # as the kernel answers anyone but root
        if Path(path).name == "locked":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return really(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError, match="locked: cannot be read: Permission denied"):
        list_images(tmp_path)


@pytest.mark.parametrize(
    ("count", "taken"), [(0, []), (2, [0, 1]), (4, [0, 1, 2, 3]), (5, [0, 1, 2, 3]), (9, [0, 2, 4, 6])]
)
def test_evenly_takes_from_all_of_them(count: int, taken: list[int]) -> None:
    assert evenly([Path(str(i)) for i in range(count)], 4) == [Path(str(i)) for i in taken]


@pytest.mark.parametrize("missing", [True, False])
def test_list_images_fails_when_there_is_none(tmp_path: Path, missing: bool) -> None:
    with pytest.raises(DataError, match=r"no such directory|no file in it"):
        list_images(tmp_path / "no" if missing else tmp_path)


def test_content_hashes_fail_when_a_file_is_gone(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone.png"):
        content_hashes([tmp_path / "gone.png"])


NAMES = ("tench", "great white shark", "")


def test_read_imagenet_gives_classes_when_list_is_sound(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a file.png")
    (tmp_path / "labels.txt").write_bytes(codecs.BOM_UTF8 + b"a file.png 1\r\n\na file.png\t0\n")
    dataset = read_imagenet(tmp_path / "labels.txt", None, NAMES)
    assert [(p.path.name, p.truth) for p in dataset.pictures] == [("a file.png", 1), ("a file.png", 0)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a.png 3\n", ":1: class 3"),
        ("a.png 0\nb.png 0\n", ":2: .*b.png does not exist"),
        ("a.png\n", ":1: 'a.png'"),
        ("0\n", ":1: '0'"),
        ("a.png x\n", ":1: 'a.png x'"),
        ("a.png -1\n", ":1:"),
        (f"a.png {'9' * 5000}\n", ":1:"),
        ("", "no line"),
    ],
)
def test_read_imagenet_names_the_line_when_it_is_wrong(tmp_path: Path, text: str, words: str) -> None:
    picture(tmp_path / "images" / "a.png")
    (tmp_path / "labels.txt").write_text(text)
    with pytest.raises(DataError, match=words):
        read_imagenet(tmp_path / "labels.txt", None, NAMES)


@pytest.mark.parametrize(
    ("folder", "truth"), [("Great_White_Shark", 1), ("2", 2), ("n01440764", 0)], ids=["label", "index", "id"]
)
def test_read_imagenet_takes_class_folders(tmp_path: Path, folder: str, truth: int) -> None:
    picture(tmp_path / folder / "x.png")
    dataset = read_imagenet(tmp_path, None, NAMES)
    assert [p.truth for p in dataset.pictures] == [truth]


def test_digest_changes_when_a_class_changes(tmp_path: Path) -> None:
    picture(tmp_path / "tench" / "x.png")
    before = read_imagenet(tmp_path, None, NAMES).digest
    (tmp_path / "tench").rename(tmp_path / "1")
    assert read_imagenet(tmp_path, None, NAMES).digest != before


def test_read_imagenet_refuses_a_folder_that_two_labels_answer_to(tmp_path: Path) -> None:
    names = ("Cardigan", "cardigan", "crane", "crane")
    for folder in ("Cardigan", "cardigan"):
        picture(tmp_path / folder / "x.png")
    assert [p.truth for p in read_imagenet(tmp_path, None, names).pictures] == [0, 1]
    picture(tmp_path / "crane" / "x.png")
    with pytest.raises(DataError, match=r"crane: a label of the classes \[2, 3\]"):
        read_imagenet(tmp_path, None, names)


@pytest.mark.parametrize("folder", ["whale", "3", "9" * 200, "n02102040"])
def test_read_imagenet_fails_when_folder_is_no_class(tmp_path: Path, folder: str) -> None:
    picture(tmp_path / folder / "x.png")
    with pytest.raises(DataError, match=f"{folder}: not a class"):
        read_imagenet(tmp_path, None, NAMES)
