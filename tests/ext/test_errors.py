"""The hierarchy of errors and what each says."""

from __future__ import annotations

import pytest

from qzd_ext import errors


@pytest.mark.parametrize(
    ("kind", "exit_code", "code"),
    [
        (errors.GateError, 1, "gate"),
        (errors.UsageError, 2, "usage"),
        (errors.ConfigError, 2, "config"),
        (errors.BundleError, 3, "bundle"),
        (errors.EndpointError, 3, "endpoint"),
        (errors.InterruptedByUser, 4, "interrupted_by_user"),
    ],
)
def test_each_error_has_its_exit_code(kind: type[errors.QzdError], exit_code: int, code: str) -> None:
    error = kind("x")
    assert (error.exit_code, error.code) == (exit_code, code)


def test_a_message_has_three_parts() -> None:
    error = errors.BundleError("model.bin is cut", wanted="8 bytes", fix="copy it again")
    assert str(error) == "model.bin is cut\n  Wanted: 8 bytes\n  To fix: copy it again"


def test_every_error_is_in_the_tree_that_the_docstring_draws() -> None:
    assert errors.__doc__ is not None
    for name in errors.__all__:
        assert name in errors.__doc__
