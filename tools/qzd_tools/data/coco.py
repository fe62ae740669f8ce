"""Ground truth: what a dataset is, and COCO annotations, checked entry by entry when read."""

from __future__ import annotations

import hashlib
import math
import unicodedata
from codecs import BOM_UTF8
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated

import msgspec

from qzd_ext.errors import DataError
from qzd_tools.data.images import combined_digest, content_hashes
from qzd_tools.files import reading

__all__ = [
    "FLAGS",
    "Annotation",
    "BoxDataset",
    "ClassDataset",
    "Dataset",
    "Picture",
    "image_directory",
    "normalized",
    "read_coco",
]

BOX_TOLERANCE = 1.0
"""Pixels that a box may reach over its image's border; COCO's own are rounded."""

Id = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
"""What NumPy keeps apart: beyond 64 bits it rounds, and two ids become one."""

WANTED = "a COCO annotation file: images, annotations and categories, each with its id"
FIX = "mend the entry that is named, or export the annotations again"

FLAGS = "--images, or --validation-images where quantize or prepare validates; prepare calibrates with one"
"""How a person names where images lie."""


class _Image(msgspec.Struct, frozen=True):
    id: Id
    file_name: str
    width: int = 0
    height: int = 0


class Annotation(msgspec.Struct, frozen=True):
    """One object: COCO's own keys. `bbox` is x y width height in pixels of the image."""

    id: int
    image_id: Id
    category_id: Id
    bbox: tuple[float, float, float, float]
    area: float | None = None
    iscrowd: int | bool = 0


class _Category(msgspec.Struct, frozen=True):
    id: Id
    name: str


class _Coco(msgspec.Struct, frozen=True):
    images: list[_Image]
    annotations: list[Annotation]
    categories: list[_Category]


@dataclass(frozen=True, slots=True)
class Picture:
    """An image file of a dataset.

    Attributes
    ----------
    path : Path
    truth : int
        Its COCO image id, or the class of a classified picture.
    size : (int, int), optional
        Width and height that its boxes are drawn in, where the annotations say so.
    """

    path: Path
    truth: int
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class BoxDataset:
    """Images with boxes.

    Attributes
    ----------
    source : Path
        The annotation file.
    pictures : tuple of Picture
        Sorted by image id.
    categories : dict of int to str
        Name by category id.
    annotations : tuple of Annotation
    """

    source: Path
    pictures: tuple[Picture, ...]
    categories: dict[int, str]
    annotations: tuple[Annotation, ...]

    @cached_property
    def digest(self) -> str:
        """Hex sha256 of the annotations and of the images' contents, each with its id."""
        return combined_digest([*content_hashes([self.source]), *_picture_hashes(self.pictures)])


@dataclass(frozen=True)
class ClassDataset:
    """Images with one class each.

    Attributes
    ----------
    source : Path
        The list, or the directory.
    pictures : tuple of Picture
        Each with an index into `names`.
    names : tuple of str
        The labels of the model that it was read for.
    """

    source: Path
    pictures: tuple[Picture, ...]
    names: tuple[str, ...]

    @cached_property
    def digest(self) -> str:
        """Hex sha256 of the images' contents, each with its class."""
        return combined_digest(_picture_hashes(self.pictures))


Dataset = BoxDataset | ClassDataset


def _picture_hashes(pictures: Sequence[Picture]) -> list[str]:
    """Of each picture's content together with what is true of it."""
    hashes = content_hashes([p.path for p in pictures])
    lines = [f"{content} {p.truth}" for content, p in zip(hashes, pictures, strict=True)]
    return [hashlib.sha256(line.encode()).hexdigest() for line in lines]


def normalized(name: str) -> str:
    """Spell a label for comparison: case, underscores, hyphens and double spaces do not matter.

    Nor does how an accent is written: names of folders that come from macOS have it as a letter of its own.
    """
    plain = unicodedata.normalize("NFC", name).lower()
    return " ".join(plain.replace("_", " ").replace("-", " ").split())


def read_coco(annotations: Path, images: Path | None = None) -> BoxDataset:
    """Read a COCO annotation file and check every entry.

    Whole numbers may be written as 640.0 or "640", as some exporters do.

    Parameters
    ----------
    annotations : Path
    images : Path, optional
        Where the images lie; `images/` beside the annotations by default.

    Raises
    ------
    DataError
        It cannot be read, is no COCO file, or an entry is wrong; the message names the entry.
    """
    with reading(annotations, wanted=WANTED, fix=FIX):
        content = annotations.read_bytes().removeprefix(BOM_UTF8)
        coco = msgspec.json.decode(content, type=_Coco, strict=False)
    _check_entries(annotations, coco)
    directory = image_directory(annotations, images)
    for index, image in enumerate(coco.images):
        path = directory / image.file_name
        if not path.is_file():
            raise DataError(
                f"{annotations}: images[{index}] (id {image.id}): {path} does not exist",
                fix=f"name the directory of the images of {annotations.name} with {FLAGS}",
            )
    pictures = sorted((_picture(directory, image) for image in coco.images), key=lambda p: p.truth)
    categories = {c.id: c.name for c in coco.categories}
    return BoxDataset(annotations, tuple(pictures), categories, tuple(coco.annotations))


def _picture(directory: Path, image: _Image) -> Picture:
    size = (image.width, image.height) if image.width and image.height else None
    return Picture(directory / image.file_name, image.id, size)


def _wrong(annotations: Path, found: str) -> DataError:
    return DataError(f"{annotations}: {found}", wanted=WANTED, fix=FIX)


def _check_entries(path: Path, coco: _Coco) -> None:
    if not coco.images:
        raise _wrong(path, "`images` is empty")
    if not coco.categories:
        raise _wrong(path, "`categories` is empty")
    _check_unique(path, "images", (i.id for i in coco.images))
    _check_unique(path, "annotations", (a.id for a in coco.annotations))
    _check_unique(path, "categories", (c.id for c in coco.categories))
    _check_unique(path, "categories", (normalized(c.name) for c in coco.categories), "name")
    images = {image.id: image for image in coco.images}
    categories = {category.id for category in coco.categories}
    for index, annotation in enumerate(coco.annotations):
        problem = _annotation_problem(annotation, images, categories)
        if problem:
            raise _wrong(path, f"annotations[{index}] (id {annotation.id}): {problem}")


def _check_unique(path: Path, table: str, keys: Iterable[int | str], what: str = "id") -> None:
    seen: dict[int | str, int] = {}
    for index, key in enumerate(keys):
        if key in seen:
            raise _wrong(path, f"{table}[{index}] has {what} {key!r}, which {table}[{seen[key]}] has already")
        seen[key] = index


def _annotation_problem(
    annotation: Annotation, images: dict[int, _Image], categories: set[int]
) -> str | None:
    if annotation.image_id not in images:
        return f"image_id {annotation.image_id} is not among the images"
    if annotation.category_id not in categories:
        return f"category_id {annotation.category_id} is not among the categories"
    x, y, width, height = annotation.bbox
    if not all(map(math.isfinite, annotation.bbox)) or width < 0 or height < 0:
        return f"bbox {list(annotation.bbox)} is not a box: x, y, width, height"
    if annotation.area is not None and not annotation.area >= 0:
        return f"area {annotation.area:g} is less than nothing"
    image = images[annotation.image_id]
    if image.width and image.height:
        over = max(-x, -y, x + width - image.width, y + height - image.height)
        if over > BOX_TOLERANCE:
            size = f"{image.width}x{image.height}"
            return f"bbox {list(annotation.bbox)} reaches {over:g} pixels outside its image, {size}"
    return None


def image_directory(source: Path, images: Path | None) -> Path:
    """Where the images of an annotation file lie: the directory given, or `images/` beside the file.

    Raises
    ------
    DataError
        There is no such directory.
    """
    directory = images if images is not None else source.parent / "images"
    if not directory.is_dir():
        raise DataError(
            f"{directory}: no such directory",
            wanted=f"the images of {source}",
            fix=f"name their directory with {FLAGS}",
        )
    return directory
