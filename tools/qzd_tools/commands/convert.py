"""`qzd-tools convert`: a model of any format into a bundle."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import click

from qzd_ext.errors import UsageError
from qzd_ext.options import Finite
from qzd_tools.commands import json_option, say, write_json

__all__ = ["command"]

HEADS = (
    "detection_output", "ssd", "detr", "end_to_end", "dfl", "distances", "yolox", "yolo_v8_raw", "yolo_v8",
    "yolo_v5", "yolo_anchor", "boxes_scores", "classification",
)  # fmt: skip


class Numbers(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.2 on
    """Numbers with commas between them, in brackets or not; finite, and above 0 where that is wanted."""

    name = "numbers"

    def __init__(self, kind: type, counts: tuple[int, ...], what: str, positive: bool = False) -> None:
        self.kind, self.counts, self.what, self.positive = kind, counts, what, positive

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[Any, ...]:
        try:
            found = tuple(self.kind(x) for x in re.split(r"[,x\s]+", str(value).strip("[]() ")))
        except ValueError:
            found = ()
        if not found or (self.counts and len(found) not in self.counts):
            self.fail(f"{value!r} is not {self.what}", param, ctx)
        if not all(map(math.isfinite, found)) or (self.positive and min(found) <= 0):
            self.fail(f"{value!r}: numbers above 0 are wanted" if self.positive
                      else f"{value!r} is not finite", param, ctx)  # fmt: skip
        return found


class Pairs(Numbers):
    """Numbers that belong together two by two."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[Any, ...]:
        flat = super().convert(value, param, ctx)
        if len(flat) % 2:
            self.fail(f"{value!r} is not {self.what}", param, ctx)
        return tuple(zip(flat[::2], flat[1::2], strict=True))


class Groups(Numbers):
    """Groups of numbers with slashes between them."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[Any, ...]:
        return tuple(super(Groups, self).convert(group, param, ctx) for group in str(value).split("/"))


class Columns(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.2 on
    """Names of columns with commas between them."""

    name = "names"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        found = tuple(name.strip() for name in str(value).split(","))
        if not set(found) <= COLUMNS:
            self.fail(f"{value!r} is not a list of {', '.join(sorted(COLUMNS))}", param, ctx)
        return found


COLUMNS = {"x0", "y0", "x1", "y1", "xc", "yc", "w", "h", "score", "class", "-"}
NAMES = Columns()
PER_CHANNEL = "one number, or three with commas between them"
MEAN = Numbers(float, (1, 3), PER_CHANNEL)
SCALE = Numbers(float, (1, 3), PER_CHANNEL, positive=True)
ANCHORS = Pairs(float, (), "WIDTH,HEIGHT,WIDTH,HEIGHT,...", positive=True)
MASKS = Groups(int, (), "0,1,2/3,4,5, a group for each output")
SHAPE = Numbers(int, (2, 4), "HEIGHT,WIDTH or four dimensions with commas between them", positive=True)
SCALE_XY = Numbers(float, (), "numbers", positive=True)


def _plain(_context: click.Context, option: click.Parameter, value: str | None) -> str | None:
    """Refuse what is not a name for a bundle before the work, not after it."""
    if value is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", value):
        raise UsageError(
            f"--{option.name} {value}: not a name", wanted="letters, digits, dots, dashes and underscores"
        )
    return value


@click.command()
@click.argument("model", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="The bundle.  [default: ./NAME-PRECISION]"
)
@click.option("--head", type=click.Choice(HEADS), help="Name the head if it is not recognised.")
@click.option("--labels", help="A file, coco80, coco91, voc, imagenet, or names with commas.")
@click.option("--resize", type=click.Choice(["stretch", "letterbox", "crop"]), help="How frames are fitted.")
@click.option("--anchor", type=click.Choice(["center", "corner"]), help="Where a letterboxed frame lies.")
@click.option("--pad", type=click.IntRange(0, 255), help="Grey around a letterboxed frame.")
@click.option("--short-side", type=click.IntRange(1, 16384), help="Of the frame that a crop is cut from.")
@click.option("--color", type=click.Choice(["rgb", "bgr"]), help="Channel order that the model expects.")
@click.option("--mean", type=MEAN, help="Subtracted from pixels in 0..255.")
@click.option("--scale", type=SCALE, help="What they are divided by then.")
@click.option("--shape", type=SHAPE, help="HEIGHT,WIDTH, where the model leaves it open.")
@click.option("--first-label", type=click.IntRange(0), help="Label of the first name, for detection_output.")
@click.option("--background/--no-background", default=None, help="Whether class 0 is background.")
@click.option("--normalized/--pixels", default=None, help="Unit of boxes that the graph decodes.")
@click.option("--anchors", type=ANCHORS, help="WIDTH,HEIGHT,... in input pixels, for yolo_anchor.")
@click.option("--masks", type=MASKS, help="Anchors of each output, such as 0,1,2/3,4,5/6,7,8.")
@click.option("--scale-xy", type=SCALE_XY, help="Of each output: Darknet's scale_x_y.")
@click.option("--decode", type=click.Choice(["darknet", "v5"]), help="How raw anchor grids are decoded.")
@click.option("--columns", type=NAMES, help="Of final rows, such as x0,y0,x1,y1,score,class; - is skipped.")
@click.option("--boxes-only", is_flag=True, help="Leave out the masks or keypoints of a model.")
@click.option("--confidence", type=Finite(0, 1), help="Threshold that the bundle serves with.")
@click.option("--iou", type=Finite(0, 1), help="Overlap that NMS suppresses above.")
@click.option("--nms", type=click.Choice(["iou", "diou"]), help="The overlap that NMS measures.")
@click.option("--fp16", is_flag=True, help="Store weights in half precision.")
@click.option("--golden", multiple=True, type=click.Path(path_type=Path), help="A picture, or a directory.")
@click.option("--name", callback=_plain, help="Of the bundle.  [default: the model's file]")
@click.option("--version", default="1", show_default=True, callback=_plain, help="Of the bundle.")
@click.option("--unproven", is_flag=True, help="Write the bundle although its source gives other results.")
@click.option("--overwrite", is_flag=True, help="Replace a bundle that is there.")
@json_option
def command(model: tuple[Path, ...], output: Path | None, json_file: Path | None, **options: Any) -> None:
    """Make a bundle of MODEL: IR, ONNX, TensorFlow, TFLite, PaddlePaddle or Darknet.

    The weights beside the file are found by themselves, or named after it. What is inferred is printed
    with its reason; what cannot be inferred is asked for by one of the options.
    """
    from qzd_tools.convert.run import ConvertOptions, convert

    bundle = convert(model, output, ConvertOptions(**options), say)
    say(f"written: {bundle.path} ({bundle.size / 1e6:.1f} MB)")
    document = {
        "bundle": str(bundle.path),
        "name": bundle.manifest.name,
        "digest": bundle.digest,
        "precision": bundle.manifest.precision,
        "head": bundle.manifest.head,
        "input": bundle.manifest.input,
        "classes": len(bundle.manifest.labels.names),
        "bytes": bundle.size,
        "notes": bundle.manifest.provenance.notes,
        "proof": bundle.manifest.provenance.proof,
    }
    write_json(json_file, document)
