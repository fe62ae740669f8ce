"""Files are read whole, within a limit and without waiting, or not at all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from qzd_ext.files import PIECE, hash_file, read_array, read_file

Read = Callable[[Path, int], object]
READERS = [hash_file, read_file, read_array]


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, 2 * PIECE + 1])
def test_all_ways_of_reading_give_the_same_content(tmp_path: Path, size: int) -> None:
    content = np.random.default_rng(size).bytes(size)
    (tmp_path / "f").write_bytes(content)
    array, digest = read_array(tmp_path / "f", size)
    assert content == read_file(tmp_path / "f", size) == array.tobytes()
    assert hashlib.sha256(content).hexdigest() == digest == hash_file(tmp_path / "f", size)


def test_an_array_keeps_its_content_when_the_file_is_cut(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(bytes(range(256)) * 64)
    array, _ = read_array(tmp_path / "f", 1 << 20)
    os.truncate(tmp_path / "f", 0)
    assert bytes(range(256)) * 64 == array.tobytes()


@pytest.mark.parametrize("read", READERS)
def test_a_file_over_the_limit_is_refused_before_it_is_read(tmp_path: Path, read: Read) -> None:
    with (tmp_path / "f").open("wb") as file:
        file.truncate(4 << 40)  # sparse: it takes no space, and would take an hour to hash
    with pytest.raises(OSError, match="4398046511104 bytes, and at most 100"):
        read(tmp_path / "f", 100)


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("kind", ["pipe", "device", "directory"])
def test_what_is_not_a_regular_file_is_refused_at_once(tmp_path: Path, read: Read, kind: str) -> None:
    path = tmp_path / kind
    match kind:
        case "pipe":
            os.mkfifo(path)  # nobody writes to it
        case "device":
            path.symlink_to("/dev/zero")
        case "directory":
            path.mkdir()
    with pytest.raises(OSError):
        read(path, 1 << 20)
