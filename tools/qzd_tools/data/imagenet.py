"""Classified pictures: ImageNet lists and class folders."""

from __future__ import annotations

from pathlib import Path

from qzd_ext.errors import DataError
from qzd_tools.data.coco import FLAGS, ClassDataset, Picture, image_directory, normalized
from qzd_tools.data.images import list_images

__all__ = ["read_imagenet"]

IMAGENETTE = {
    "n01440764": 0,
    "n02102040": 217,
    "n02979186": 482,
    "n03000684": 491,
    "n03028079": 497,
    "n03394916": 566,
    "n03417042": 569,
    "n03425413": 571,
    "n03445777": 574,
    "n03888257": 701,
}
"""ImageNet's class by WordNet id, for the ten that Imagenette has folders for."""

MOST_DIGITS = 9
"""Of a class; a longer number is not one of a class."""


def read_imagenet(labels: Path, images: Path | None, names: tuple[str, ...]) -> ClassDataset:
    """Read classified pictures: a list with a file and a class on each line, or a directory of class folders.

    Parameters
    ----------
    labels : Path
        A text file whose lines are `FILE CLASS`, or a directory with a folder a class.
    images : Path, optional
        Where the files of the list lie; `images/` beside it by default.
    names : tuple of str
        The model's labels, by class.

    Raises
    ------
    DataError
        A line or folder is wrong, or a file does not exist; the message names it.
    """
    if labels.is_dir():
        return _read_class_folders(labels, names)
    try:
        lines = labels.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{labels}: cannot be read: {error}") from error
    directory = image_directory(labels, images)
    numbered = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    pictures = [_listed(f"{labels}:{number}", line, directory, len(names)) for number, line in numbered]
    if not pictures:
        raise DataError(f"{labels}: no line in it", wanted="lines of `FILE CLASS`")
    return ClassDataset(labels, tuple(pictures), names)


def _listed(where: str, line: str, directory: Path, classes: int) -> Picture:
    *file, number = line.rsplit(maxsplit=1)
    if not file or not number.isdecimal() or len(number) > MOST_DIGITS:
        raise DataError(f"{where}: {line!r}", wanted="`FILE CLASS`, the class a number from 0")
    if int(number) >= classes:
        raise DataError(
            f"{where}: class {number}, but the model has {classes}",
            wanted=f"a class from 0 to {classes - 1}",
            fix="check that the list belongs to this model, and that its classes count from 0",
        )
    path = directory.joinpath(*file)
    if not path.is_file():
        fix = f"name the directory of the images with {FLAGS}"
        raise DataError(f"{where}: {path} does not exist", fix=fix)
    return Picture(path, int(number))


def _read_class_folders(directory: Path, names: tuple[str, ...]) -> ClassDataset:
    """Read a directory with one folder per class, named as its label, its index, or Imagenette's id."""
    folders = sorted(d for d in directory.iterdir() if d.is_dir() and not d.name.startswith("."))
    if not folders:
        raise DataError(f"{directory}: no folder in it", wanted="a folder of images for each class")
    spelt = [normalized(name) for name in names]
    pictures = []
    for folder in folders:
        meant = _folder_classes(folder.name, names, spelt)
        if len(meant) != 1:
            raise DataError(
                f"{folder}: " + (f"a label of the classes {meant}" if meant else "not a class of this model"),
                wanted=f"a label such as {names[0]!r}, an index below {len(names)}, or an Imagenette id",
                fix="rename the folder, or check that the images belong to this model",
            )
        pictures += [Picture(path, meant[0]) for path in list_images(folder)]
    return ClassDataset(directory, tuple(pictures), names)


def _folder_classes(folder: str, names: tuple[str, ...], spelt: list[str]) -> list[int]:
    """Return the classes that a folder's name may mean; `spelt` are the labels as they are compared."""
    alike = [index for index, name in enumerate(spelt) if name and name == normalized(folder)]
    exact = [index for index in alike if names[index] == folder]
    if alike:
        return exact if len(exact) == 1 else alike
    plain = folder.isdecimal() and len(folder) <= MOST_DIGITS
    number = int(folder) if plain else IMAGENETTE.get(folder, len(names))
    return [number] if number < len(names) else []
