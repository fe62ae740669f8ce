"""Users and passwords: from wherever they are kept, into the URL, and out of every text."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qzd_daemon.config.schema import StreamConfig
from qzd_daemon.sources.credentials import Credentials
from qzd_ext.errors import SourceError

WORD = "p/a@s:s#w?o%rd"


def credentials(source: str = "rtsp://camera:8554/stream", **keys: str) -> Credentials:
    return Credentials(StreamConfig(source=source, model="any", **keys))  # type: ignore[arg-type]


@pytest.mark.parametrize("place", ["password", "password_file", "password_env", "url"])
def test_credentials_from_each_place_are_in_the_url(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    (tmp_path / "word").write_text(f"{WORD}\n")
    monkeypatch.setenv("GATE_PASSWORD", WORD)
    given = {"password": WORD, "password_file": str(tmp_path / "word"), "password_env": "GATE_PASSWORD"}
    if place == "url":
        found = credentials("rtsp://admin:p%2Fa%40s%3As%23w%3Fo%25rd@camera:8554/stream")
    else:
        found = credentials(user="admin", **{place: given[place]})
    assert (found.user, found.password) == ("admin", WORD)
    assert found.url == "rtsp://admin:p%2Fa%40s%3As%23w%3Fo%25rd@camera:8554/stream"
    assert found.plain_url == "rtsp://camera:8554/stream"


def test_credentials_when_there_are_none_leave_the_url_as_it_is() -> None:
    assert credentials().url == "rtsp://camera:8554/stream"


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"password_file": "/nowhere"}, "No such file or directory"),
        ({"password_env": "NO_SUCH_VARIABLE"}, "there is no environment variable NO_SUCH_VARIABLE"),
    ],
)
def test_credentials_that_cannot_be_read_name_their_place(keys: dict[str, str], expected: str) -> None:
    with pytest.raises(SourceError, match=expected):
        credentials(user="admin", **keys)


@given(st.text(st.characters(min_codepoint=33, max_codepoint=0x2FF), min_size=4, max_size=30))
def test_redact_leaves_no_spelling_of_a_password(word: str) -> None:
    found = credentials(user="admin", password=word)
    parts = urlsplit(found.url)
    assert (unquote(parts.password or ""), parts.hostname, parts.port) == (word, "camera", 8554)
    shown = found.redact(f"cannot open {found.url} with <{word}>")
    assert shown == "cannot open rtsp://admin:...@camera:8554/stream with <...>" or word in "admin...@camera"


@pytest.mark.parametrize(
    ("source", "secret"),
    [
        ("rtsp://camera/user=admin_password=word_channel=1", "word"),
        ("rtsp://camera/admin:word/ch1", "word"),
        ("http://camera/stream?user=admin&pwd=word", "word"),
    ],
)
def test_address_and_errors_show_no_password_of_the_path(source: str, secret: str) -> None:
    config = StreamConfig(source=source, model="any")
    assert secret not in config.address
    assert secret not in Credentials(config).redact(f"404: {source}")
