"""The old name of the client keeps working."""

from __future__ import annotations

import importlib
import sys

import pytest

import qzd_client


def test_old_name_gives_the_client_and_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "qzd_daemon.client", raising=False)
    with pytest.warns(DeprecationWarning, match="import qzd_client instead"):
        old = importlib.import_module("qzd_daemon.client")
    assert old.Client is qzd_client.Client
    assert all(getattr(old, name) is getattr(qzd_client, name) for name in old.__all__)
