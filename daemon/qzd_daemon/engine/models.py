"""Load a model: read its bundle, compile it for its device, and test it there."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path

from qzd_client import messages
from qzd_daemon.config.schema import ModelConfig, StreamConfig
from qzd_daemon.engine import compile_cache
from qzd_daemon.engine.selection import Selection, select
from qzd_ext import bundle
from qzd_ext.bundle import Bundle
from qzd_ext.detector import Detector
from qzd_ext.errors import DeviceError, GateError
from qzd_ext.runner import RunOptions

__all__ = ["LoadedModel", "load", "locate", "self_test"]

log = logging.getLogger(__name__)

PROBLEMS_SHOWN = 8  # of a self-test; a device that computes wrongly has dozens


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """A detector that has passed its self-test.

    Attributes
    ----------
    detector : Detector
    info : ModelInfo
    config : ModelConfig
    selection : Selection
        What is published of it, if a stream does not choose otherwise.
    device : str
        The chosen one of the configuration's devices; `info.device` names the device that executes.
    """

    detector: Detector
    info: messages.ModelInfo
    config: ModelConfig
    selection: Selection
    device: str

    def select(self, stream: StreamConfig | None) -> Selection:
        """Return what is published of it for a stream.

        Raises
        ------
        ConfigError
            The stream names a label that the model does not have.
        """
        return (
            select(self.info.name, self.detector.bundle.manifest, self.config, stream)
            if stream
            else self.selection
        )


def locate(config: ModelConfig) -> Path:
    """Return the path of a configuration's bundle, with all links resolved, since they may change later.

    Raises
    ------
    BundleError
        It does not exist.
    """
    return bundle.locate(Path(config.bundle)).resolve()


def load(
    name: str, config: ModelConfig, cache_dir: Path | None, bundle_keys: Path | None = None
) -> LoadedModel:
    """Read a bundle, compile it, and run its golden frames on the device that will serve it.

    The first device of the configuration that passes is chosen.

    Raises
    ------
    BundleError, ModelError, DeviceError
        The bundle is damaged, or its last device cannot run it.
    GateError
        Its last device finds other boxes than the bundle's golden ones.
    """
    found = bundle.read(locate(config), check_ir=False, keys=bundle_keys)  # the detector hashes it
    *others, last = (config.device, *config.fallback)
    for device in others:
        try:
            return _load_on(device, name, config, cache_dir, found)
        except (DeviceError, GateError) as error:
            log.warning("model %s: %s is not used, the next device is tried: %s", name, device, error)
    return _load_on(last, name, config, cache_dir, found)


def _load_on(
    device: str, name: str, config: ModelConfig, cache_dir: Path | None, found: Bundle
) -> LoadedModel:
    selection = select(name, found.manifest, config)
    options = RunOptions(
        device=device,
        hint=config.hint,
        requests=config.requests,
        threads=config.threads,
        streams=config.streams,
        precision=config.precision,
    )
    with compile_cache.checked(cache_dir, found.digest) as folder:
        detector = Detector(
            found,
            dataclasses.replace(options, cache_dir=folder),
            selection.thresholds,
        )
    try:
        self_test(name, detector)
    except BaseException:
        detector.close()
        raise
    manifest = found.manifest
    executes = ",".join(detector.devices)
    identity = (name, manifest.version, found.digest, manifest.precision)
    info = messages.ModelInfo(*identity, executes, detector.precision, found.signer)
    log.info(
        "model %s: %s version %s (%s) runs on %s in %s with %d requests",
        *(name, manifest.name, manifest.version, manifest.precision),
        *(executes, detector.precision, detector.requests),
    )
    return LoadedModel(detector, info, config, selection, device)


def self_test(name: str, detector: Detector) -> None:
    """Run a model's golden frames on the device that serves it.

    Raises
    ------
    GateError
        The boxes differ from those of the bundle.
    """
    problems = detector.self_test()
    if problems:
        device, listed = ",".join(detector.devices), "\n    ".join(problems[:PROBLEMS_SHOWN])
        if len(problems) > PROBLEMS_SHOWN:
            listed += f"\n    and {len(problems) - PROBLEMS_SHOWN} more"
        raise GateError(
            f"model {name}: its self-test on {device} failed:\n    {listed}",
            wanted="the boxes that the bundle lists for its golden frames",
            fix="use another device, or quantize the model for this machine's instruction set",
        )
