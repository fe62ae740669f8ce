"""The open files decide how many may connect."""

from __future__ import annotations

import pytest

from qzd_daemon.config.schema import Config, ControlConfig, PublishConfig, StreamConfig
from qzd_daemon.transport.connections import PENDING
from qzd_daemon.transport.limits import FEWEST, OWN_FILES, STREAM_FILES, TABLES, fit_connections
from qzd_ext.errors import ResourceError


def _config(publish: int, control: int, streams: int = 0) -> Config:
    return Config(
        models={},
        publish=PublishConfig(("ipc:///a", "tcp://127.0.0.1:*"), max_connections=publish),
        control=ControlConfig(("ipc:///b",), max_connections=control),
        streams={str(i): StreamConfig(source="rtsp://a", model="m") for i in range(streams)},
    )


def _needed(config: Config) -> int:
    tables = [getattr(config, name) for name in TABLES]
    peers: int = sum(len(table.bind) * (table.max_connections + PENDING) for table in tables)
    return OWN_FILES + STREAM_FILES * len(config.streams) + peers


def test_what_fits_stays_as_it_is() -> None:
    config = _config(1000, 64, 10)
    assert fit_connections(config, _needed(config)) is config


@pytest.mark.parametrize("files", [500, 1024, 2000])
@pytest.mark.parametrize("streams", [0, 5])
def test_what_does_not_fit_is_lowered_in_proportion(files: int, streams: int) -> None:
    config = _config(1000, 64, streams)
    fitted = fit_connections(config, files)
    assert _needed(fitted) <= files
    assert FEWEST <= fitted.control.max_connections < 64
    assert 40 <= fitted.publish.max_connections < 1000


def test_a_small_table_keeps_what_it_has() -> None:
    assert fit_connections(_config(1000, 1), 1024).control.max_connections == 1


@pytest.mark.parametrize("files", [16, 256, 360])
def test_too_few_files_for_any_endpoint_are_an_error(files: int) -> None:
    with pytest.raises(ResourceError, match=f"only {files} files may be open"):
        fit_connections(_config(1000, 64), files)
