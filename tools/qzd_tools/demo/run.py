"""The main job from end to end, as a person would do it: the commands themselves, in real processes.

Data set, convert, quantize, serve a clip, receive the detections in another process, stop. Every step is
printed as the command that it is, so that it can be repeated by hand on one's own model.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from qzd_ext.errors import ResourceError
from qzd_ext.geometry import Frame
from qzd_tools.data.images import write_image
from qzd_tools.demo.dataset import CALIBRATION_SEED, VALIDATION_SEED, write_clip, write_dataset
from qzd_tools.demo.parts import LABELS

__all__ = ["run_demo"]

CALIBRATION_IMAGES = 200
VALIDATION_IMAGES = 200
CLIP_FRAMES = 250
SHOWN = 5
STOP_SECONDS = 20
SERVE_SECONDS = 90

CONFIG = """\
# A configuration as it would lie in /etc/qzd/qzd.toml.
[publish]
bind = ["ipc://{socket}"]
wait_for_subscribers = 1     # the clip starts when somebody listens

[models.parts]
bundle = "models/parts-int8"
device = "CPU"
confidence = 0.5

[streams.belt]
source = "belt.mp4"
model = "parts"
when_behind = "wait"         # a file: every frame, in order
"""

Say = Callable[[str], None]


def run_demo(directory: Path, say: Say) -> None:
    """Run the demo and leave what it made in `directory`.

    Parameters
    ----------
    directory : Path
        Made if need be; what an earlier run left there is replaced.
    say : callable
        Told each step.

    Raises
    ------
    ResourceError
        A step failed; the message names it and shows what it printed last.
    """
    directory.mkdir(parents=True, exist_ok=True)
    say(f"1/5  A data set of made-up parts, with other seeds than the model was trained on: {directory}")
    write_dataset(directory / "calibration", CALIBRATION_IMAGES, CALIBRATION_SEED)
    write_dataset(directory / "validation", VALIDATION_IMAGES, VALIDATION_SEED)
    write_clip(directory / "belt.mp4", CLIP_FRAMES)
    (directory / "parts.txt").write_text("".join(f"{label}\n" for label in LABELS), encoding="utf-8")
    _convert(directory, say)
    _quantize(directory, say)
    lines = _serve(directory, say)
    _summarise(directory, lines, say)


def _convert(directory: Path, say: Say) -> None:
    say("\n2/5  The model becomes a bundle: graph, labels and preprocessing in one place")
    with resources.as_file(resources.files("qzd_tools.demo") / "parts.onnx") as model:
        _command(
            say, directory, "qzd-tools", "convert", str(model), "-o", "models/parts", "--overwrite",
            "--head", "yolo_v8", "--labels", "parts.txt", "--resize", "letterbox", "--anchor", "center",
            "--pad", "114", "--color", "rgb", "--mean", "0", "--scale", "255",
        )  # fmt: skip


def _quantize(directory: Path, say: Say) -> None:
    say("\n3/5  INT8, and what it costs: measured before and after, and refused if it is more than 0.005")
    _command(
        say, directory, "qzd-tools", "quantize", "models/parts", "-o", "models/parts-int8", "--overwrite",
        "--annotations", "calibration/instances.json",
        "--validation-annotations", "validation/instances.json", "--max-drop", "0.005",
        "--json", "quantize.json",
    )  # fmt: skip
    say("\n" + _table(json.loads((directory / "quantize.json").read_text(encoding="utf-8"))))


def _table(found: dict[str, Any]) -> str:
    before, after = found["baseline"], found["metrics"]
    rows = [
        ("mAP", before["map"], after["map"], "{:.4f}"),
        ("AP50", before["map50"], after["map50"], "{:.4f}"),
        ("size, MB", found["bytes"]["before"] / 1e6, found["bytes"]["after"] / 1e6, "{:.2f}"),
        ("inferences/s", found["throughput"]["before"], found["throughput"]["after"], "{:.0f}"),
    ]
    lines = [f"     {'':<14}{'FP32':>10}{'INT8':>10}"]
    lines += [f"     {name:<14}{form.format(a):>10}{form.format(b):>10}" for name, a, b, form in rows]
    return "\n".join(lines)


def _serve(directory: Path, say: Say) -> list[dict[str, Any]]:
    """Serve the clip; returns the messages that a subscriber in another process received."""
    say("\n4/5  The daemon serves a clip; a client in another process receives the detections")
    with tempfile.TemporaryDirectory(prefix="qzd-") as short:  # a socket's path may have 107 characters
        endpoint = f"{short}/detections"
        (directory / "qzd.toml").write_text(CONFIG.format(socket=endpoint), encoding="utf-8")
        daemon = ["qzd", "--config", "qzd.toml"]
        client = ["qzdctl", "--endpoint", f"ipc://{endpoint}", "tail", "--json"]
        with _process(say, directory, daemon, "daemon.log") as qzd, _process(say, directory, client) as tail:
            lines = list(_until_ended(tail, qzd, directory))
            _stop(qzd, say)
    with (directory / "detections.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    return lines


def _until_ended(
    tail: subprocess.Popen[str], qzd: subprocess.Popen[str], directory: Path
) -> Iterator[dict[str, Any]]:
    """Yield what the subscriber prints, until the clip has ended."""
    assert tail.stdout is not None
    overdue = time.monotonic() + SERVE_SECONDS

    def watch() -> None:
        while qzd.poll() is None and time.monotonic() < overdue:
            time.sleep(0.1)
        tail.kill()

    threading.Thread(target=watch, daemon=True).start()
    for text in tail.stdout:
        line = json.loads(text)
        yield line
        if line.get("schema") == "qzd.stream/1" and line["state"] in ("ended", "failed"):
            return
    log = (directory / "daemon.log").read_text(encoding="utf-8")[-2000:]
    ended = "is still running" if qzd.poll() is None else f"ended with {qzd.returncode}"
    raise ResourceError(
        f"serve: the clip's end was not received; the daemon {ended}:\n{log}",
        wanted=f"a message within {SERVE_SECONDS} s that the stream has ended",
        fix=f"read {directory / 'daemon.log'}",
    )


def _stop(qzd: subprocess.Popen[str], say: Say) -> None:
    qzd.send_signal(signal.SIGTERM)
    begin = time.monotonic()
    try:
        code = qzd.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise ResourceError(
            f"stop: the daemon did not end within {STOP_SECONDS} s of SIGTERM", fix="read daemon.log"
        ) from error
    if code != 0:
        raise ResourceError(f"stop: the daemon ended with {code}", wanted="0", fix="read daemon.log")
    say(f"     $ kill -TERM {qzd.pid}    # it drained and ended in {time.monotonic() - begin:.1f} s")


def _summarise(directory: Path, lines: list[dict[str, Any]], say: Say) -> None:
    say("\n5/5  What was received")
    frames = [line for line in lines if line.get("schema") == "qzd.detections/1"]
    found = [line for line in frames if line.get("detections")]
    if len(frames) != CLIP_FRAMES or not found:
        raise ResourceError(
            f"receive: {len(frames)} messages, {len(found)} of them with detections",
            wanted=f"one message for each of the clip's {CLIP_FRAMES} frames, with detections",
            fix=f"read {directory / 'detections.jsonl'} and {directory / 'daemon.log'}",
        )
    for line in frames[:SHOWN]:
        boxes = ", ".join(f"{b['label']} {b['score']:.2f}" for b in line["detections"])
        say(f"     frame {line['frame']:>3} seq {line['seq']:>3}: {boxes or 'nothing'}")
    totals = Counter(box["label"] for line in frames for box in line["detections"])
    counted = ", ".join(f"{label} {count}" for label, count in totals.most_common())
    say(f"     {len(frames)} frames, {totals.total()} detections: {counted}")
    clearest = max(frames, key=lambda line: sum(1 if b["score"] > 0.8 else -1 for b in line["detections"]))
    _draw(directory / "belt.mp4", clearest, directory / "belt.png")
    for name in ("belt.png", "detections.jsonl", "qzd.toml", "quantize.json", "models"):
        say(f"     {directory / name}")


def _draw(clip: Path, line: dict[str, Any], picture: Path) -> None:
    """Draw the frame of a message, three times as large, with its boxes."""
    frame = _frame(clip, line["frame"])
    image = np.asarray(cv2.resize(frame, None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC), np.uint8)
    colors = [(60, 200, 255), (80, 255, 80), (255, 160, 60), (200, 80, 255)]
    for box in line["detections"]:
        x0, y0, x1, y1 = (round(3 * v) for v in box["box"])
        color = colors[box["class_id"] % len(colors)]
        cv2.rectangle(image, (x0, y0), (x1, y1), color, 2, cv2.LINE_AA)
        text = f"{box['label']} {box['score']:.2f}"
        above = (x0 + 2, max(y0 - 5, 12))
        cv2.putText(image, text, above, cv2.FONT_HERSHEY_SIMPLEX, 0.5, color, 1, cv2.LINE_AA)
    write_image(picture, image)


def _frame(clip: Path, number: int) -> Frame:
    with av.open(str(clip)) as container:
        for index, picture in enumerate(container.decode(video=0)):
            if index == number:
                return picture.to_ndarray(format="bgr24")  # type: ignore[return-value]
    raise ResourceError(f"{clip}: it has no frame {number}")


def _command(say: Say, directory: Path, *arguments: str) -> None:
    """Run a command of this installation to its end."""
    say(f"     $ {shlex.join(arguments)}")
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            _absolute(arguments), cwd=directory, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        with process:
            assert process.stdout is not None
            for line in process.stdout:
                say(f"       {line.rstrip()}")
        errors.seek(0)
        if process.returncode != 0:
            raise ResourceError(
                f"{shlex.join(arguments)}: ended with {process.returncode}:\n{errors.read()[-2000:]}",
                fix=f"run it by hand in {directory}",
            )


@contextlib.contextmanager
def _process(
    say: Say, directory: Path, arguments: list[str], log: str | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Run a command of this installation beside; end it in any case."""
    say(f"     $ {shlex.join(arguments)} &")
    output = (directory / log).open("w") if log else subprocess.PIPE
    errors = subprocess.STDOUT if log else None
    process = subprocess.Popen(_absolute(arguments), cwd=directory, stdout=output, stderr=errors, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdout, output):
            if not isinstance(stream, int | None):
                stream.close()


def _absolute(arguments: tuple[str, ...] | list[str]) -> list[str]:
    """Return the console script of this installation, whatever is on the PATH."""
    script = Path(sys.executable).parent / arguments[0]
    if not os.access(script, os.X_OK):
        raise ResourceError(f"{script}: not there", fix="install qzd with `pip install 'qzd[tools]'`")
    return [str(script), *arguments[1:]]
