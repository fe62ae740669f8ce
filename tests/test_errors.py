"""The hierarchy of errors: codes, exit codes and messages."""

from __future__ import annotations

import pytest

from qzd_client import probe, request_client
from qzd_daemon.server import operations
from qzd_ext import errors, images
from qzd_tools.quantize import run as quantize

CODES = [
    (errors.QzdError, 3, "qzd"),
    (errors.GateError, 1, "gate"),
    (errors.UsageError, 2, "usage"),
    (errors.ConfigError, 2, "config"),
    (errors.ResourceError, 3, "resource"),
    (errors.BundleError, 3, "bundle"),
    (errors.ModelError, 3, "model"),
    (errors.DeviceError, 3, "device"),
    (errors.DataError, 3, "data"),
    (errors.SourceError, 3, "source"),
    (errors.EndpointError, 3, "endpoint"),
    (errors.InterruptedByUser, 4, "interrupted_by_user"),
    (images.NotAnImageError, 2, "not_an_image"),
    (images.TooLargeError, 2, "too_large"),
    (operations.UnknownModelError, 2, "unknown_model"),
    (request_client.RefusedError, 3, "refused"),
    (probe.NothingListensError, 3, "nothing_listens"),
    (probe.SilentError, 3, "silent"),
    (quantize.GateMissedError, 1, "gate_missed"),
]


def _kinds(base: type[errors.QzdError] = errors.QzdError) -> set[type[errors.QzdError]]:
    """Return `base` and every class below it that has been imported."""
    return {base}.union(*(_kinds(kind) for kind in base.__subclasses__()))


@pytest.mark.parametrize(("kind", "exit_code", "code"), CODES, ids=str)
def test_each_error_has_its_exit_code_and_its_code_on_the_wire(
    kind: type[errors.QzdError], exit_code: int, code: str
) -> None:
    assert (exit_code, code) == (kind.exit_code, kind.code)


@pytest.mark.parametrize("kind", sorted(_kinds(), key=str))
def test_an_error_states_its_code_itself(kind: type[errors.QzdError]) -> None:
    assert "code" in vars(kind)
    assert kind in [kind for kind, _, _ in CODES]


def test_a_message_has_three_parts() -> None:
    error = errors.BundleError("model.bin is cut", wanted="8 bytes", fix="copy it again")
    assert str(error) == "model.bin is cut\n  Wanted: 8 bytes\n  To fix: copy it again"


def test_every_error_is_in_the_tree_that_the_docstring_draws() -> None:
    assert errors.__doc__ is not None
    for name in errors.__all__:
        assert name in errors.__doc__
