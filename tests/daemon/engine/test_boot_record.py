"""A bundle that has ended the process is passed over at the next start."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from qzd_client.control import ControlClient
from qzd_daemon.engine.boot_record import FILE, BootRecord
from support.processes import Daemon, run_python
from support.tiny_model import paint, write_tiny_bundle
from support.videos import write_clip


@pytest.fixture
def versions(tmp_path: Path) -> Path:
    """Three numbered bundles."""
    for number in (1, 2, 3):
        (tmp_path / "m" / str(number)).mkdir(parents=True)
        (tmp_path / "m" / str(number) / "bundle.toml").write_text(f"version = {number}")
    return tmp_path / "m"


def _end_during_load(state: Path, bundle: Path) -> None:
    """Begin to load a bundle in a process that ends at once, as one that is killed."""
    done = run_python(f"""
import os
from pathlib import Path
from qzd_daemon.engine.boot_record import BootRecord
with BootRecord(Path({str(state)!r})).attempt(Path({str(bundle)!r})):
    os._exit(9)
""")
    assert done.returncode == 9, done.stderr


def test_the_version_before_is_chosen_when_the_highest_has_ended_the_process(
    tmp_path: Path, versions: Path
) -> None:
    _end_during_load(tmp_path, versions / "3")
    assert BootRecord(tmp_path).choose(versions) == (versions / "2", versions / "3")
    _end_during_load(tmp_path, versions / "2")
    assert BootRecord(tmp_path).choose(versions) == (versions / "1", versions / "3")


def test_a_single_bundle_is_tried_again(tmp_path: Path, versions: Path) -> None:
    _end_during_load(tmp_path, versions / "3")
    assert BootRecord(tmp_path).choose(versions / "3") == (versions / "3", None)


def test_a_bundle_that_has_proven_itself_is_trusted(tmp_path: Path, versions: Path) -> None:
    record = BootRecord(tmp_path)
    with record.attempt(versions / "3"):
        pass
    record.prove()
    _end_during_load(tmp_path, versions / "3")
    assert BootRecord(tmp_path).choose(versions) == (versions / "3", None)


def test_a_bundle_that_is_tried_again_and_proves_itself_is_no_longer_passed_over(
    tmp_path: Path, versions: Path
) -> None:
    _end_during_load(tmp_path, versions / "3")
    record = BootRecord(tmp_path)
    with record.attempt(versions / "3"):
        pass
    record.prove()
    assert BootRecord(tmp_path).choose(versions) == (versions / "3", None)


def test_an_error_or_a_stop_is_no_end(tmp_path: Path, versions: Path) -> None:
    record = BootRecord(tmp_path)
    with pytest.raises(ValueError), record.attempt(versions / "3"):
        raise ValueError
    with record.attempt(versions / "3"):
        pass
    record.forgive()
    assert BootRecord(tmp_path).choose(versions) == (versions / "3", None)


def test_a_bundle_with_another_content_at_the_same_path_is_another(tmp_path: Path, versions: Path) -> None:
    _end_during_load(tmp_path, versions / "3")
    (versions / "3" / "bundle.toml").write_text("version = 3.1")
    assert BootRecord(tmp_path).choose(versions) == (versions / "3", None)


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b'{"trying": 1}'])
def test_a_damaged_record_begins_anew(tmp_path: Path, versions: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    assert BootRecord(tmp_path).choose(versions) == (versions / "3", None)


def test_without_a_directory_nothing_is_kept(versions: Path) -> None:
    record = BootRecord(None)
    with record.attempt(versions / "3"):
        pass
    assert record.choose(versions) == (versions / "3", None)


CONFIG = """
[publish]
bind = ["ENDPOINT"]
[control]
bind = ["ipc://{directory}/control"]
[service]
state_dir = "{directory}/state"
[models.tiny]
bundle = "{directory}/models"
device = "CPU"
[streams.clip]
source = "{directory}/clip.mp4"
model = "tiny"
loop = true
when_behind = "drop"
"""


def test_a_daemon_that_was_killed_by_a_new_bundle_serves_the_one_before(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    for number in (1, 2):
        write_tiny_bundle(tmp_path / "models" / str(number), version=str(number))
    write_clip(tmp_path / "clip.mp4", [paint((1, 1, "red"))] * 25)
    killed = Daemon(tmp_path, CONFIG.format(directory=tmp_path)).ready()
    killed.process.send_signal(signal.SIGKILL)
    killed.wait()
    killed.kill()
    again = Daemon(tmp_path, CONFIG.format(directory=tmp_path)).ready()
    try:
        assert f"{tmp_path}/models/2 has ended the process before" in again.log
        with ControlClient(again.socket_of("control")) as control:
            (model,) = control.models()
            assert model.bundle.endswith("models/1")
            assert model.passed_over == f"{tmp_path}/models/2"
        assert again.stop() == 0
    finally:
        again.kill()
