"""The command `qzd`: read the configuration, serve, and turn an error into its message and exit code."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import NoReturn

import click
import cv2

from qzd_client.text import printable
from qzd_daemon.config.load import read_config
from qzd_daemon.config.schema import Config
from qzd_daemon.sources.ffmpeg import limit_allocations
from qzd_daemon.sources.ingest import IngestRegistry
from qzd_daemon.sources.open import open_source
from qzd_daemon.sources.probe import camera_of, probe_camera
from qzd_daemon.system.logs import LogFormat, set_up_logging
from qzd_daemon.system.malloc import share_arenas
from qzd_daemon.system.secrets import forbid_dumps
from qzd_ext import __version__, bundle
from qzd_ext.errors import InterruptedByUser, QzdError, ResourceError, SourceError, UsageError

__all__ = ["main"]

log = logging.getLogger(__name__)

LEVELS = ("debug", "info", "warning", "error")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--config", "path", type=click.Path(path_type=Path), required=True, help="Configuration file.")
@click.option(
    "--check-config",
    is_flag=True,
    help="Check it, its bundles and files, and exit; not keys, devices, ports or cameras.",
)
@click.option(
    "--probe",
    type=click.Path(file_okay=False, path_type=Path),
    help="With --check-config: open each camera, write a JPEG of it here.",
)
@click.option("--until-idle", is_flag=True, help="Stop when every stream has ended.")
@click.option(
    "--log-level", type=click.Choice(LEVELS), default="info", show_default=True, help="Least that is logged."
)
@click.option(
    "--log-format",
    type=click.Choice(("text", "json", "journal")),
    help="Form of the log; default: journal under systemd, text elsewhere.",
)
@click.version_option(__version__, prog_name="qzd")
def main(
    path: Path,
    check_config: bool,
    probe: Path | None,
    until_idle: bool,
    log_level: str,
    log_format: LogFormat | None,
) -> None:
    """Run quantized detectors on streams and publish what they find over ZeroMQ.

    Exit codes: 0 done, 1 a self-test failed, 2 wrong usage or configuration, 3 a file, model, device or
    socket could not be used, 4 interrupted.
    """
    forbid_dumps()
    signal.signal(signal.SIGINT, _end)
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # it would end the process
    try:
        if probe is not None and not check_config:
            raise UsageError(
                "--probe checks cameras", wanted="--check-config with it", fix="add --check-config"
            )
        config = read_config(path)
        if check_config:
            _check(config)
            models, streams = _count(len(config.models), "model"), _count(len(config.streams), "stream")
            click.echo(f"{path}: {models} and {streams}: in order")
            if probe is not None and not _probe(config, probe):
                sys.exit(ResourceError.exit_code)
        else:
            set_up_logging(log_level, log_format)
            _serve(path, config, until_idle)
    except Exception as error:  # whatever it is, the process ends with its message and exit code
        log.debug("qzd ends", exc_info=error)
        _end_with(error)


def _end_with(error: Exception) -> NoReturn:
    """Say what happened and end at once: no thread that is left may go on serving."""
    known = isinstance(error, QzdError)
    text = str(error) if known else f"{type(error).__name__}: {error}"
    click.echo(f"qzd: {printable(text, keep=chr(10))}", err=True)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(error.exit_code if isinstance(error, QzdError) else ResourceError.exit_code)


def _end(number: int, _: FrameType | None) -> None:
    """End at once, until `Service` handles signals: an exception may be swallowed by what is imported.

    As process 1 of a container the default of SIGTERM would do nothing.
    """
    os._exit(InterruptedByUser.exit_code if number == signal.SIGINT else 0)


def _serve(path: Path, config: Config, until_idle: bool) -> NoReturn:
    gc.disable()  # what is loaded from here on stays: to look for garbage in it takes time
    sys.modules["openvino.tools.ovc"] = None  # type: ignore[assignment]  # its converter, which only tools need
    from qzd_daemon.service import Service  # OpenVINO is loaded only when it is needed

    gc.freeze()
    gc.enable()
    share_arenas()
    limit_allocations()
    cv2.setNumThreads(1)  # streams run side by side as it is, and the cores belong to the model
    code = Service(path, config, until_idle=until_idle).run()
    logging.shutdown()
    os._exit(code)  # a source that hangs in C code must not hold up the exit


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _probe(config: Config, directory: Path) -> bool:
    """Open every camera, say what each sends, and write a picture of it; returns whether all send."""
    directory.mkdir(parents=True, exist_ok=True)
    cameras = {name: camera for name, stream in config.streams.items() if (camera := camera_of(stream))}
    with ThreadPoolExecutor(max_workers=8) as pool:
        reports = {name: pool.submit(probe_camera, camera) for name, camera in cameras.items()}
    good = True
    for name, report in reports.items():
        try:
            found = report.result()
            file = directory / f"{name}.jpg"
            cv2.imwrite(str(file), found.picture)
            click.echo(f"{name}: {found}; see {file}")
        except SourceError as error:
            good = False
            click.echo(f"{name}: {printable(error.found)}", err=True)
    return good


def _check(config: Config) -> None:
    """Check what can be known without a device and without a port."""
    keys = Path(config.security.bundle_keys) if config.security.bundle_keys else None
    for model in config.models.values():
        bundle.read(Path(model.bundle), keys=keys)
    registry = IngestRegistry(config.ingest.max_pixels)
    for name, stream in config.streams.items():
        open_source(name, stream, registry).close()
