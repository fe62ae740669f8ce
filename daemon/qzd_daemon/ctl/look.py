"""Run `qzdctl look`: show or write the newest picture of a stream, with what was found in it."""

from __future__ import annotations

import base64
import os
import sys
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from urllib.parse import quote

import click

from qzd_ext.errors import DataError, EndpointError, UsageError

__all__ = ["look"]

URL = "http://127.0.0.1:9178"
TIMEOUT_SECONDS = 5.0
CHUNK = 4096  # of kitty's graphics protocol


@click.command()
@click.argument("stream")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write a JPEG file.")
@click.option("--no-boxes", is_flag=True, help="Leave out what was found.")
@click.option("--url", default=URL, envvar="QZD_HTTP", show_default=True, help="Ask the daemon's HTTP here.")
@click.option(
    "--token-file",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar="QZD_TOKEN_FILE",
    help="Read the page's password from this file.",
)
def look(stream: str, output: Path | None, no_boxes: bool, url: str, token_file: Path | None) -> None:
    """Show the newest picture of STREAM, with what was found in it.

    Needs `[http] page = true`. Without --output the picture appears in the terminal, if that speaks kitty's
    graphics protocol, as kitty, Ghostty, WezTerm and Konsole do.
    """
    if output is None and not _shows_pictures():
        raise UsageError("this terminal shows no pictures", fix=f"qzdctl look {stream} -o {stream}.jpg")
    boxes = "?boxes=0" if no_boxes else ""
    picture = _get(f"{url.rstrip('/')}/streams/{quote(stream, safe='')}.jpg{boxes}", token_file)
    if output is None:
        _show(picture)
        return
    try:
        output.write_bytes(picture)
    except OSError as error:
        raise DataError(
            f"{output}: cannot be written: {error.strerror}", fix="choose another name"
        ) from error
    click.echo(f"{output}: {len(picture)} bytes", err=True)


def _get(url: str, token_file: Path | None) -> bytes:
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"{url}: not a URL", wanted=f"such as {URL}")
    request = urllib.request.Request(url, headers=_authorization(token_file))  # noqa: S310 - checked above
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310
            content: bytes = answer.read()
            return content
    except urllib.error.HTTPError as error:
        raise _refused(url, error) from error
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        why = getattr(reason, "strerror", None) or reason
        raise EndpointError(
            f"{url}: {why}",
            wanted="a running qzd with [http] listen and page = true",
            fix="start qzd, or give its address as --url",
        ) from error


def _refused(url: str, error: urllib.error.HTTPError) -> EndpointError:
    said = error.read(1000).decode("utf-8", "replace").strip()
    if error.code == 404 and "no such stream" not in said:
        return EndpointError(
            f"{url}: there is no page", wanted="[http] page = true", fix="add it, restart qzd"
        )
    if error.code == 401:
        return EndpointError(
            f"{url}: {said}", wanted="--token-file", fix="name the file of [http] token_file"
        )
    return EndpointError(f"{url}: {said}")


def _authorization(token_file: Path | None) -> dict[str, str]:
    if token_file is None:
        return {}
    try:
        token = token_file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "not UTF-8"
        raise DataError(f"{token_file}: cannot be read: {why}") from error
    return {"Authorization": "Basic " + base64.b64encode(f"qzd:{token}".encode()).decode()}


def _shows_pictures() -> bool:
    terminals = ("kitty", "ghostty", "wezterm", "konsole")
    name = f"{os.environ.get('TERM', '')} {os.environ.get('TERM_PROGRAM', '')}".lower()
    konsole = "KONSOLE_VERSION" in os.environ
    return sys.stdout.isatty() and (konsole or any(terminal in name for terminal in terminals))


def _show(picture: bytes) -> None:
    """Source: sw.kovidgoyal.net/kitty/graphics-protocol; it takes PNG, in chunks of base64."""
    import cv2
    import numpy as np

    pixels = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR)
    if pixels is None:
        raise DataError("what the daemon has sent is not a picture", wanted="JPEG")
    click.echo(kitty(cv2.imencode(".png", pixels)[1].tobytes()))


def kitty(png: bytes) -> str:
    """Return the escape sequences that show a PNG."""
    text = base64.b64encode(png).decode()
    chunks = [text[at : at + CHUNK] for at in range(0, len(text), CHUNK)]
    parts = []
    for number, chunk in enumerate(chunks):
        first = "a=T,f=100," if number == 0 else ""
        parts.append(f"\x1b_G{first}m={int(number < len(chunks) - 1)};{chunk}\x1b\\")
    return "".join(parts)
