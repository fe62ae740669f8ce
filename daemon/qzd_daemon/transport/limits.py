"""Limit the connections to what the configuration and the limit on open files allow."""

from __future__ import annotations

import contextlib
import logging
import resource

import msgspec

from qzd_daemon.config.schema import Config
from qzd_daemon.transport.connections import PENDING
from qzd_ext.errors import ResourceError

__all__ = ["fit_connections", "raise_file_limit"]

log = logging.getLogger(__name__)

TABLES = ("publish", "control", "inference", "ingest")
OWN_FILES = 256  # devices, libraries, HTTP: more than they were ever seen to need
STREAM_FILES = 8  # of each source
FEWEST = 4  # connections on each endpoint, without which serving makes no sense


def raise_file_limit() -> int:
    """Raise the soft limit on open files to the hard one; return the new limit."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # a kernel whose own limit is below what was given
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def fit_connections(config: Config, files: int) -> Config:
    """Lower each `max_connections` so that all endpoints together stay within the open files.

    When they are used up, libzmq ends the process.

    Raises
    ------
    ResourceError
        There are too few files for any endpoint.
    """
    tables = {name: getattr(config, name) for name in TABLES}
    endpoints = sum(len(table.bind) for table in tables.values())
    wanted = sum(len(table.bind) * table.max_connections for table in tables.values())
    own = OWN_FILES + STREAM_FILES * len(config.streams) + PENDING * endpoints
    if files - own >= wanted:
        return config
    share = (files - own) / wanted
    if share * wanted < FEWEST * endpoints:
        raise ResourceError(
            f"only {files} files may be open",
            wanted=f"at least {own + FEWEST * endpoints} for {len(config.streams)} streams "
            f"and {endpoints} endpoints",
            fix="raise the limit: LimitNOFILE= in the unit, --ulimit nofile= of a container, `ulimit -Hn`",
        )
    fitted = {}
    for name, table in tables.items():
        limit = max(FEWEST, int(table.max_connections * share))
        if table.bind and limit < table.max_connections:
            log.warning(
                "[%s] max_connections is %d instead of %d: only %d files may be open. "
                "To fix: raise LimitNOFILE= or --ulimit nofile=",
                *(name, limit, table.max_connections, files),
            )
        fitted[name] = msgspec.structs.replace(table, max_connections=min(limit, table.max_connections))
    return msgspec.structs.replace(config, **fitted)
