"""Run `qzdctl infer`: ask the daemon what is in one image."""

from __future__ import annotations

from pathlib import Path

import click

from qzd_client import messages
from qzd_client.inference import InferenceClient
from qzd_client.requests import ImageFormat
from qzd_daemon.ctl.target import Target
from qzd_ext.errors import DataError

__all__ = ["infer"]

STARTS: dict[bytes, ImageFormat] = {b"\xff\xd8": "jpeg", b"\x89PNG": "png"}


@click.command()
@click.argument("image", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--model", help="Use this model; optional if the daemon has only one.")
@click.option(
    "--draw",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the image with its boxes to this file.",
)
@click.option("--json", "as_json", is_flag=True, help="The daemon's answer as JSON.")
@click.pass_obj
def infer(target: Target, image: Path, model: str | None, draw: Path | None, as_json: bool) -> None:
    """Ask the daemon what is in IMAGE.

    Exits with 3 when the daemon does not know.
    """
    content, form, size = _read(image)
    with InferenceClient(target.reach("inference"), keys=target.keys) as caller:
        found = caller.infer(content, form, model=model, size=size)
    click.echo(messages.encode(found).decode() if as_json else _text(found))
    if found.outcome != "ok":
        raise DataError(f"{image}: {found.outcome}: {found.reason}")
    if draw is not None:
        _draw(image, draw, found)


def _read(path: Path) -> tuple[bytes, ImageFormat, tuple[int, int] | None]:
    """Return the file as it is, or its pixels if the daemon does not know its format."""
    content = path.read_bytes()
    for start, form in STARTS.items():
        if content.startswith(start):
            return content, form, None
    image = _pixels(path, content)
    return image.tobytes(), "bgr", (image.shape[1], image.shape[0])


def _pixels(path: Path, content: bytes):  # type: ignore[no-untyped-def]  # NumPy is loaded only when it is needed
    """Decode an image; OpenCV is not given the path, since a name that is not UTF-8 crashes it."""
    import cv2
    import numpy as np

    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:  # such as an impossible size
        image = None
    if image is None:
        raise DataError(f"{path}: not an image", wanted="a file that OpenCV can read")
    return image


def _text(found: messages.Detections) -> str:
    if found.outcome != "ok":
        return f"{found.outcome}: {found.reason}"
    boxes = [
        f"{b.label:<16} {b.score:.3f}  {' '.join(f'{v:7.1f}' for v in b.box)}" for b in found.detections or ()
    ]
    classes = [f"{c.label:<16} {c.score:.3f}" for c in found.classes or ()]
    times = found.timing_ms
    spent = (times.preprocess, times.inference, times.postprocess)
    of = f"{found.model.name} version {found.model.version} on {found.model.device}: "
    of += "preprocess {:.1f}, inference {:.1f}, postprocess {:.1f} ms".format(*spent)
    return "\n".join([*(boxes or classes or ["nothing"]), of])


def _draw(source: Path, destination: Path, found: messages.Detections) -> None:
    import cv2

    from qzd_daemon.monitoring.draw import draw_found

    image = _pixels(source, source.read_bytes())
    draw_found(image, [found])
    try:
        destination.write_bytes(cv2.imencode(destination.suffix, image)[1].tobytes())
    except (cv2.error, OSError) as error:
        raise DataError(
            f"{destination}: cannot be written",
            wanted="a name that ends in .png or .jpg, in a directory that exists",
            fix="choose another name",
        ) from error
