"""The package as a whole: its public names, its imports, and the examples in its docstrings."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import subprocess
import sys

import pytest

import qzd_client

MODULES = sorted(module.name for module in pkgutil.iter_modules(qzd_client.__path__))
DEPENDENCIES = {"qzd_client", "msgspec", "zmq"}
INTERNAL = ("_cython", "cython_runtime", "typing_extensions")  # of pyzmq and msgspec, if installed


@pytest.mark.parametrize("name", qzd_client.__all__)
def test_public_name_can_be_imported(name: str) -> None:
    assert getattr(qzd_client, name) is not None


def test_attribute_when_it_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Cleint'"):
        _ = qzd_client.Cleint


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_module_do_what_they_show(name: str) -> None:
    module = importlib.import_module(f"qzd_client.{name}")
    assert doctest.testmod(module).failed == 0


def test_some_modules_have_examples() -> None:
    tried = sum(doctest.testmod(importlib.import_module(f"qzd_client.{name}")).attempted for name in MODULES)
    assert tried >= 10


def loaded_by(name: str) -> set[str]:
    """Return the top-level modules that importing `name` loads, beyond the standard library."""
    code = (
        f"import sys; before = set(sys.modules); import {name}; "
        "print(*{m.partition('.')[0] for m in set(sys.modules) - before} - sys.stdlib_module_names)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name for name in done.stdout.split() if not name.startswith(INTERNAL)}


@pytest.mark.parametrize("name", MODULES)
def test_module_loads_no_other_distribution(name: str) -> None:
    assert loaded_by(f"qzd_client.{name}") <= DEPENDENCIES


@pytest.mark.parametrize("name", ["messages", "requests", "events", "errors"])
def test_protocol_without_a_socket_loads_no_zeromq(name: str) -> None:
    assert "zmq" not in loaded_by(f"qzd_client.{name}")
