"""qzd.toml: what is accepted, and the message for each kind of mistake."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from qzd_daemon.config.load import read_config
from qzd_daemon.config.schema import Config, StreamConfig
from qzd_ext.errors import ConfigError
from support.configuration import publish, stream, table

GOOD = (
    publish("tcp://127.0.0.1:0")
    + table("models.ssd", bundle="models/ssd", confidence=0.4)
    + stream("gate", "clips/gate.mp4", "ssd", max_fps=10)
)


def read(tmp_path: Path, text: str) -> Config:
    path = tmp_path / "qzd.toml"
    path.write_text(text)
    return read_config(path)


def test_read_config_when_good_resolves_paths_beside_the_file(tmp_path: Path) -> None:
    config = read(tmp_path, GOOD)
    assert config.models["ssd"].bundle == str(tmp_path / "models/ssd")
    assert config.streams["gate"].source == str(tmp_path / "clips/gate.mp4")
    assert (config.models["ssd"].confidence, config.streams["gate"].max_fps) == (0.4, 10)


def test_read_config_when_paths_are_absolute_keeps_them(tmp_path: Path) -> None:
    config = read(tmp_path, GOOD.replace("models/ssd", "/srv/ssd"))
    assert config.models["ssd"].bundle == "/srv/ssd"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("max_fps", "max_fsp"), ["unknown key streams.gate.max_fsp", "did you mean streams.gate.max_fps?"]),
        (("[publish]", "[pubish]"), ["unknown key pubish", "did you mean publish?"]),
        (("confidence", "zzzzzz"), ["unknown key models.ssd.zzzzzz", "remove models.ssd.zzzzzz"]),
        (("0.4", '"high"'), ["models.ssd.confidence: Expected a number or a table, got text in quotes"]),
        (("0.4", "1.5"), ["models.ssd.confidence: Expected a number <= 1.0"]),
        (("max_fps = 10", "max_fps = 0"), ["streams.gate.max_fps: Expected a number >= 0.0001"]),
        (("0.4", "9" * 5000), ["not TOML: Exceeds the limit"]),
        (("0.4", "[" * 3000 + "]" * 3000), ["not TOML: maximum recursion depth"]),
        (("[publish]", f"[inference]\nmax_image_bytes = {10**20}\n[publish]"), ["inference.max_image_bytes"]),
        (('model = "ssd"', ""), ["streams.gate.model is missing", "to [streams.gate]"]),
        (('model = "ssd"', 'model = "sdd"'), ["there is no model 'sdd'", "did you mean 'ssd'?"]),
        (('["tcp://127.0.0.1:0"]', "[]"), ["publish.bind"]),
        (("[streams.gate]", "[streams.'a/b']"), ["streams.'a/b': a name that cannot be part of a topic"]),
        (("[models.ssd]", "[models]"), ["models.bundle: Expected a table, got str"]),
        (("[publish]", "[publish"), ["not TOML", "line 1"]),
        (('["tcp://127.0.0.1:0"]', '"x"'), ['publish.bind: Expected a list, as in ["one", "two"], got text']),
        (("[publish]", "[publish]\nconfidence = 0.4"), ["publish.confidence", "move it to [models.NAME]"]),
        (("[publish]", "[publish]\nlisten = 'x'"), ["unknown key publish.listen", "move it to [http]"]),
        (("[publish]", "[publish]\nsend_hwm = 3000000000"), ["publish.send_hwm: Expected an integer <= 2"]),
        (("[publish]", "[service]\nstop_timeout_s = inf\n[publish]"), ["stop_timeout_s", "<= 86400.0"]),
        (('["tcp://127.0.0.1:0"]', '["ipc://@qzd"]'), ["publish.bind: ipc://@qzd", "ipc:///PATH"]),
        (('["tcp://127.0.0.1:0"]', '["inproc://qzd"]'), ["publish.bind: inproc://qzd", "tcp://ADDRESS:PORT"]),
        (("clips/gate.mp4", "rtsp://me:se[cret@cam/1"), ["streams.gate.source: it is not clear", "%5B"]),
        (("clips/gate.mp4", "rtsp://me:se/cret@cam/1"), ["streams.gate.source: it is not clear", "%2F"]),
    ],
)
def test_read_config_when_wrong_names_the_key(
    tmp_path: Path, change: tuple[str, str], expected: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, GOOD.replace(*change))
    text = str(caught.value)
    assert str(tmp_path / "qzd.toml") in text
    for part in expected:
        assert part in text
    assert caught.value.exit_code == 2


def test_read_config_when_there_is_no_model_asks_for_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no model[\s\S]*models.NAME"):
        read(tmp_path, "[models]\n")


def test_read_config_when_the_file_is_not_there_names_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere.toml: cannot be read: No such file"):
        read_config(tmp_path / "nowhere.toml")


def test_every_key_has_a_line_of_help() -> None:
    _, definitions = msgspec.json.schema_components([Config])
    tables = {name: d for name, d in definitions.items() if name != "Config"}
    missing = [f"{t}.{k}" for t, d in tables.items() for k, v in d["properties"].items() if not _help(v)]
    assert missing == []


def _help(schema: dict[str, object]) -> object:
    options = schema.get("anyOf", [schema])
    assert isinstance(options, list)
    return schema.get("description") or any("description" in option for option in options)


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("rtsp://me:secret@cam:554/1?key=secret", "rtsp://cam:554/1"),
        ("rtsp://cam/user=me_password=secret_channel=1/live.sdp?real", "rtsp://cam/.../live.sdp"),
        ("v4l2:///dev/video0", "v4l2:///dev/video0"),
        ("ingest://", "ingest://"),
        ("/clips/a?b.mp4", "/clips/a?b.mp4"),
    ],
)
def test_address_of_a_stream_has_no_password(source: str, shown: str) -> None:
    assert StreamConfig(source=source, model="m").address == shown
