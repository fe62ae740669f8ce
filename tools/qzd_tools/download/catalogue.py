"""The models that are known by name: where their files are, and how they are converted.

The facts are in `catalogue.toml`, or in a file of the same form that a person gives.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from qzd_ext.errors import UsageError
from qzd_tools.files import reading

__all__ = ["Entry", "RemoteFile", "find", "load"]

PACKAGED = "catalogue.toml"
DIGITS = {"md5": 32, "sha256": 64, "sha384": 96}


class RemoteFile(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One file of a model."""

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
    addresses: Annotated[tuple[str, ...], Meta(min_length=1)]
    """http or https, in the order in which they are tried."""
    bytes: Annotated[int, Meta(ge=0)] = 0
    """0 where it is not known."""
    checksum: str = ""
    """`sha384:`, `sha256:`, or `md5:` where no better is published, and hex digits; empty where none is."""
    unpack: bool = False
    """It is an archive (tar or zip) and its content is what counts."""

    def __post_init__(self) -> None:
        for address in self.addresses:
            if not address.startswith(("http://", "https://")):
                raise ValueError(f"address {address!r} is neither http nor https")
        kind, _, digits = self.checksum.partition(":")
        if self.checksum and (len(digits) != DIGITS.get(kind) or set(digits) - set("0123456789abcdef")):
            raise ValueError(f"checksum {self.checksum!r} is not sha384:, sha256: or md5: and hex digits")


class Entry(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One model."""

    title: str
    task: Literal["detection", "classification"]
    format: str
    licence: str
    home: str = ""
    input: str = ""
    """What it was trained on, in words."""
    published: dict[str, float | str] = {}
    """What its makers measured, and on which `dataset`."""
    model: Annotated[tuple[str, ...], Meta(min_length=1, max_length=2)]
    """What convert is given: paths inside the downloaded directory."""
    convert: dict[str, Any] = {}
    """Options of `qzd-tools convert`."""
    files: Annotated[tuple[RemoteFile, ...], Meta(min_length=1)]

    def __post_init__(self) -> None:
        for path in self.model:
            if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
                raise ValueError(f"model {path!r} is not a path inside the downloaded directory")

    @property
    def bytes(self) -> int:
        """Of all files together; 0 where one is not known."""
        return sum(f.bytes for f in self.files) if all(f.bytes for f in self.files) else 0

    @property
    def verifiable(self) -> bool:
        """Every file has a checksum."""
        return all(f.checksum for f in self.files)


def load(path: Path | None = None) -> Mapping[str, Entry]:
    """Read a catalogue: the packaged one, or a file of the same form.

    Raises
    ------
    DataError
        It cannot be read, or an entry is wrong; the message names the key.
    """
    source = resources.files(__package__).joinpath(PACKAGED) if path is None else path
    wanted = "a catalogue: a table for each model, as `qzd-tools catalogue --json FILE` shows them"
    with reading(source, wanted=wanted, fix="mend the key that is named"):
        return msgspec.toml.decode(source.read_bytes(), type=dict[str, Entry])


def find(catalogue: Mapping[str, Entry], name: str) -> Entry:
    """Find the entry of a name.

    Raises
    ------
    UsageError
        There is none; the message names the nearest.
    """
    if name in catalogue:
        return catalogue[name]
    near = difflib.get_close_matches(name, catalogue, n=1, cutoff=0.5)
    raise UsageError(
        f"{name}: not in the catalogue",
        wanted=f"one of {', '.join(sorted(catalogue))}",
        fix=f"did you mean {near[0]}?" if near else "name one of these, or give --catalogue FILE",
    )
