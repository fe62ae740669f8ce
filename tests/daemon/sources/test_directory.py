"""A directory that is followed, by real files in every way in which they come."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from qzd_daemon.sources.directory import DirectorySource
from qzd_daemon.sources.frames import SourceFrame, SourceState
from qzd_ext.errors import SourceError
from support.tiny_model import encode, paint

PNG = encode(paint((1, 1, "red")))


class Follower:
    """Takes frames of a directory one by one."""

    def __init__(self, path: Path) -> None:
        self.stopping = threading.Event()
        self.source = DirectorySource(path, watch=True)
        self._items = self.source.frames(self.stopping)
        assert next(self._items) == SourceState("running")

    def take(self, count: int) -> list[str | None]:
        frames = [next(self._items) for _ in range(count)]
        return [frame.file for frame in frames if isinstance(frame, SourceFrame)]


@pytest.fixture
def follower(tmp_path: Path) -> Iterator[Follower]:
    (tmp_path / "watched").mkdir()
    follower = Follower(tmp_path / "watched")
    yield follower
    follower.source.close()


def test_watch_takes_what_is_there_and_then_what_is_written(tmp_path: Path) -> None:
    (tmp_path / "b.png").write_bytes(PNG)
    (tmp_path / "a.png").write_bytes(PNG)
    follower = Follower(tmp_path)
    assert follower.take(2) == ["a.png", "b.png"]
    (tmp_path / "0.png").write_bytes(PNG)
    assert follower.take(1) == ["0.png"]
    follower.source.close()


def test_watch_takes_a_file_when_it_is_closed_and_not_before(follower: Follower, tmp_path: Path) -> None:
    with (tmp_path / "watched" / "slow.png").open("wb") as slow:
        slow.write(PNG[:20])
        slow.flush()
        (tmp_path / "watched" / "quick.png").write_bytes(PNG)
        assert follower.take(1) == ["quick.png"]
        slow.write(PNG[20:])
    assert follower.take(1) == ["slow.png"]


def test_watch_takes_a_file_that_is_moved_in(follower: Follower, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    (tmp_path / "a.png").rename(tmp_path / "watched" / "a.png")
    assert follower.take(1) == ["a.png"]


def test_watch_takes_each_file_once_and_again_when_it_is_written_again(
    follower: Follower, tmp_path: Path
) -> None:
    path = tmp_path / "watched" / "a.png"
    path.write_bytes(PNG)
    path.open("ab").close()  # closed again, with the same content
    (tmp_path / "watched" / "b.png").write_bytes(PNG)
    assert follower.take(2) == ["a.png", "b.png"]
    path.unlink()
    path.write_bytes(PNG)
    assert follower.take(1) == ["a.png"]


def test_watch_passes_over_what_is_removed_and_what_is_hidden(follower: Follower, tmp_path: Path) -> None:
    for name in ("gone.png", ".hidden.png", "kept.png"):
        (tmp_path / "watched" / name).write_bytes(PNG)
    (tmp_path / "watched" / "gone.png").unlink()
    assert follower.take(1) == ["kept.png"]


def test_watch_ends_when_it_is_told_to(tmp_path: Path) -> None:
    source = DirectorySource(tmp_path, watch=True)
    stopping = threading.Event()
    items = source.frames(stopping)
    next(items)
    stopping.set()
    assert list(items) == []
    source.close()


def test_watch_when_the_directory_is_removed_says_so(follower: Follower, tmp_path: Path) -> None:
    (tmp_path / "watched").rmdir()
    with pytest.raises(SourceError, match=r"the directory was removed|cannot be listed"):
        follower.take(1)


def test_frames_when_a_file_is_removed_before_it_is_read_go_on(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.png"):
        (tmp_path / name).write_bytes(PNG)
    source = DirectorySource(tmp_path)
    items = source.frames(threading.Event())
    assert next(items) == SourceState("running")
    next(items)
    (tmp_path / "b.png").unlink()
    assert [item.file for item in items if isinstance(item, SourceFrame)] == ["c.png"]
    assert (source.end, source.complete) == ("end of directory after 2 images", True)


def test_frames_when_looping_list_the_directory_anew(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    items = DirectorySource(tmp_path, loop=True).frames(threading.Event())
    assert [type(next(items)) for _ in range(2)] == [SourceState, SourceFrame]
    (tmp_path / "b.png").write_bytes(PNG)
    files = [item.file for item in (next(items) for _ in range(2)) if isinstance(item, SourceFrame)]
    assert files == ["a.png", "b.png"]
