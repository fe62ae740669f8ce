"""Predictions by the workers of a Dask cluster: shards of a data set there, the judging here.

The workers have qzd installed, in the same versions, and see the bundle and the images under the same
paths. A shard whose worker is lost is done by another one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import openvino as ov

from qzd_ext import __version__
from qzd_ext import bundle as bundles
from qzd_ext.bundle import Bundle
from qzd_ext.errors import DeviceError, EndpointError, UsageError
from qzd_ext.manifest import Thresholds
from qzd_ext.runner import RunOptions
from qzd_tools.data.coco import Picture
from qzd_tools.progress import progress
from qzd_tools.validate.predict import Predictions, Ran, predict

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["predict_on_cluster"]

CONNECT_SECONDS = 10
MOST_PICTURES = 256
"""In a shard: lost work is small, and loading the model is a small part of it."""
SHARDS_A_WORKER = 4
VERSIONS = {"qzd": __version__, "openvino": ov.__version__}


@dataclass(frozen=True, slots=True, eq=False)
class _Shard:
    """A part of the work, as it travels to a worker."""

    bundle: Bundle
    pictures: tuple[Picture, ...]
    thresholds: Thresholds
    options: RunOptions
    versions: dict[str, str]


def predict_on_cluster(
    address: str,
    bundle: Bundle,
    pictures: Sequence[Picture],
    thresholds: Thresholds,
    options: RunOptions,
    title: str,
) -> tuple[Predictions, Ran]:
    """Run a bundle over pictures on the workers of a cluster.

    Parameters
    ----------
    address : str
        Of the scheduler, such as tcp://host:8786.
    bundle : Bundle
    pictures : sequence of Picture
    thresholds : Thresholds
    options : RunOptions
        For each worker.
    title : str
        What the progress bar says.

    Raises
    ------
    EndpointError
        No scheduler answers there, or it has no workers.
    UsageError
        The extra `cluster` is not installed, or a worker has other versions.
    DeviceError
        One shard after another lost its worker.
    """
    bundle = dataclasses.replace(bundle, path=bundle.path.absolute())  # workers are in other directories
    pictures = [dataclasses.replace(picture, path=picture.path.absolute()) for picture in pictures]
    with _client(address) as client, _explained(address):
        workers = max(len(client.scheduler_info(n_workers=-1)["workers"]), 1)
        size = min(math.ceil(len(pictures) / (SHARDS_A_WORKER * workers)), MOST_PICTURES)
        starts = range(0, len(pictures), size)
        shards = [
            _Shard(bundle, tuple(pictures[i : i + size]), thresholds, options, VERSIONS) for i in starts
        ]
        with progress(title, len(shards)) as step:
            parts = _run(client, address, shards, lambda: step(f"{workers} workers"))
    found = [one for predictions, _ in parts for one in predictions]
    columns = zip(*(ran for _, ran in parts), strict=True)
    return found, Ran(*(",".join(sorted(set(names))) for names in columns))


def _run(
    client: Client, address: str, shards: Sequence[_Shard], done: Callable[[], None]
) -> list[tuple[Predictions, Ran]]:
    """Run the shards and keep their order; `done` is called for each."""
    from distributed import as_completed

    futures = client.map(_predict_shard, shards, pure=False)
    parts: dict[Any, tuple[Predictions, Ran]] = {}
    try:
        for future, outcome in as_completed(futures, loop=client.loop, with_results=True):
            if not isinstance(outcome, tuple):  # why Dask has cancelled it
                raise _lost(address)
            parts[future] = outcome
            done()
    finally:
        with contextlib.suppress(Exception):  # a scheduler that is gone has nothing to cancel
            client.cancel(futures)
    return [parts[future] for future in futures]


@contextlib.contextmanager
def _explained(address: str) -> Iterator[None]:
    """Raise what the workers end by or lack as errors with a message."""
    from distributed import KilledWorker

    try:
        yield
    except KilledWorker as error:
        raise DeviceError(
            f"{address}: a shard lost its worker again and again: {error}",
            fix="look at the workers' logs; a worker that runs out of memory is killed",
        ) from error
    except ImportError as error:
        raise UsageError(
            f"{address}: a worker cannot import {error.name or error}",
            fix="install qzd[tools,cluster] there, in the version that is here",
        ) from error


def _lost(address: str) -> EndpointError:
    return EndpointError(
        f"{address}: the scheduler went away in the middle of the work",
        fix="look at its log, start it and its workers again, and repeat",
    )


@contextlib.contextmanager
def _client(address: str) -> Iterator[Client]:
    """Connect a client to the scheduler, which must have workers."""
    try:
        from distributed import Client
        from distributed.comm.addressing import get_address_host_port
    except ImportError as error:
        raise UsageError(
            "--scheduler needs Dask, which is not installed",
            fix="install qzd[cluster] here and on the workers",
        ) from error
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # what it has to say is raised too
    try:
        get_address_host_port(address)  # a client that cannot be made says it less well, and too late
        client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise EndpointError(
            f"{address}: no scheduler answers: {error}",
            wanted="a Dask scheduler, such as tcp://host:8786",
            fix="start one with `dask scheduler`, and workers with `dask worker ADDRESS`",
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=CONNECT_SECONDS)
        except TimeoutError as error:
            raise EndpointError(
                f"{address}: the scheduler has no workers", fix="start some with `dask worker ADDRESS`"
            ) from error
        yield client


def _predict_shard(shard: _Shard) -> tuple[Predictions, Ran]:
    """Run a shard; this is what a worker does."""
    if shard.versions != VERSIONS:
        raise UsageError(
            f"a worker has {VERSIONS}", wanted=f"{shard.versions}", fix="install the same versions everywhere"
        )
    bundle = bundles.read(shard.bundle.path)
    if bundle.digest != shard.bundle.digest:
        raise UsageError(
            f"a worker finds another bundle at {bundle.path}: {bundle.digest}",
            wanted=shard.bundle.digest,
            fix="give the workers the same files under the same paths",
        )
    return predict(bundle, shard.pictures, shard.thresholds, shard.options, "")
