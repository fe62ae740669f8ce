"""Darknet's two files: the sections of a `.cfg`, and the numbers of a `.weights`.

An option that would change what the network computes and is not understood is an error that names its
line; what only concerns training is left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from qzd_ext.detections import FloatArray
from qzd_ext.errors import ModelError

__all__ = ["Network", "Section", "Weights", "fault", "parse", "read_network"]

USED = {
    "net": {"width", "height", "channels", "letter_box"},
    "convolutional": {
        "batch_normalize", "filters", "size", "stride", "stride_x", "stride_y", "pad", "padding", "groups",
        "dilation", "activation",
    },
    "shortcut": {"from", "activation"},
    "route": {"layers", "groups", "group_id"},
    "maxpool": {"size", "stride", "stride_x", "stride_y", "padding"},
    "upsample": {"stride", "scale"},
    "dropout": set(),
    "yolo": {"mask", "anchors", "classes", "num", "scale_x_y", "nms_kind"},
}  # fmt: skip
"""By section: the options that the graph follows."""

TRAINING = {
    "net": {
        "batch", "subdivisions", "momentum", "decay", "angle", "saturation", "exposure", "hue", "aspect",
        "learning_rate", "learning_rate_min", "burn_in", "power", "max_batches", "policy", "step", "steps",
        "scale", "scales", "seq_scales", "gamma", "mosaic", "mosaic_bound", "mixup", "cutmix", "blur", "flip",
        "gaussian_noise", "contrastive", "max_crop", "min_crop", "crop", "center", "adam", "b1", "b2", "eps",
        "loss_scale", "dynamic_minibatch", "optimized_memory", "workspace_size_limit_mb", "ema_alpha",
        "try_fix_nan", "label_smooth_eps", "resize_step", "attention", "adversarial_lr", "max_chart_loss",
        "show_receptive_field", "weights_reject_freq", "equidistant_point", "badlabels_rejection_percentage",
        "num_sigmas_reject_badlabels", "sgdr_cycle", "sgdr_mult", "track", "augment_speed",
    },
    "dropout": {
        "probability", "dropblock", "dropblock_size_rel", "dropblock_size_abs", "dropblock_size",
    },
    "yolo": {
        "jitter", "ignore_thresh", "truth_thresh", "iou_thresh", "random", "resize", "max", "max_delta",
        "label_smooth_eps", "objectness_smooth", "cls_normalizer", "iou_normalizer", "obj_normalizer",
        "delta_normalizer", "iou_loss", "iou_thresh_kind", "beta_nms", "focal_loss", "counters_per_class",
        "show_details", "track_history_size", "sim_thresh", "dets_for_track", "dets_for_show",
        "track_ciou_norm", "embedding_layer",
    },
    "": {
        "learning_rate", "stopbackward", "onlyforward", "train_only_bn", "dont_update", "burnin_update",
        "clip", "grad_centr", "angle", "stream", "wait_stream",
    },
}  # fmt: skip
"""By section, and for all of them: the options that only concern training, or how Darknet runs."""

OFF = {
    "antialiasing": 0, "assisted_excitation": 0, "binary": 0, "xnor": 0, "bin_output": 0, "cbn": 0,
    "flipped": 0, "dot": 0, "sway": 0, "rotate": 0, "stretch": 0, "stretch_sway": 0, "reverse": 0,
    "coordconv": 0, "maxpool_depth": 0, "out_channels": 1, "new_coords": 0, "dontload": 0,
    "dontloadscales": 0, "time_steps": 1,
}  # fmt: skip
"""Options that change the results, and the value with which they do not."""

MOST = 65536
"""The largest whole number that is believed; a layer with more of anything is a slip of the pen."""


@dataclass(frozen=True, slots=True)
class Section:
    """One section of a cfg.

    Attributes
    ----------
    file : Path
    line : int
        Of its `[kind]`, from 1.
    kind : str
    options : dict of str to str
        Without spaces, as Darknet reads them.
    lines : dict of str to int
        Of each option.
    """

    file: Path
    line: int
    kind: str
    options: dict[str, str] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)

    def integer(self, name: str, default: int, least: int = 0) -> int:
        """A whole number from `least` on; `default` where the option is not given."""
        found = float(self.number(name, default))
        if name in self.options and not (found.is_integer() and least <= found <= MOST):
            wanted = f"a whole number from {least} to {MOST}"
            raise fault(self, f"{name}={self.options[name]}", wanted, option=name)
        return int(found)

    def number(self, name: str, default: float) -> float:
        """A number; `default` where the option is not given."""
        found = self.numbers(name)
        if len(found) > 1:
            raise fault(self, f"{name} has {len(found)} values", "one", option=name)
        return found[0] if found else default

    def numbers(self, name: str) -> list[float]:
        """Numbers with commas between them; none where the option is not given."""
        text = self.options.get(name, "")
        try:
            found = [float(x) for x in text.split(",") if x]
        except ValueError as error:
            raise fault(self, f"{name}={text} is not a number", "numbers", option=name) from error
        if not all(map(math.isfinite, found)):
            raise fault(self, f"{name}={text}", "finite numbers", option=name)
        return found


def fault(
    section: Section, found: str, wanted: str, *, option: str = "", fix: str | None = None
) -> ModelError:
    """An error that names the file, the line and the section."""
    line = section.lines.get(option, section.line)
    return ModelError(f"{section.file}:{line}: [{section.kind}]: {found}", wanted=wanted, fix=fix)


def parse(text: str, path: Path) -> list[Section]:
    """Read a cfg's sections, the first of which is `[net]`.

    Raises
    ------
    ModelError
        A line cannot be read, or a section or option is not known; the message names its line.
    """
    sections: list[Section] = []
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.split("#")[0].split(";")[0].replace(" ", "").replace("\t", "").strip()
        if not line:
            continue
        if line.startswith("["):
            kind = line.strip("[]").lower()
            sections.append(Section(path, number, "net" if kind == "network" else kind))
            _check_kind(sections)
            continue
        name, equals, value = line.partition("=")
        if not equals or not sections:
            raise ModelError(f"{path}:{number}: {raw.strip()[:80]!r}", wanted="[section] or option=value")
        section = sections[-1]
        if section.options.get(name, value) != value and name in USED[section.kind]:
            found = f"{name}={section.options[name]}, and {value} in line {number}"
            raise fault(section, found, "each option once", option=name)
        section.options[name] = value
        section.lines[name] = number
        _check_option(section, name, value)
    if not sections:
        raise ModelError(f"{path}: no sections", wanted="a Darknet cfg, which starts with [net]")
    return sections


def _check_kind(sections: list[Section]) -> None:
    last = sections[-1]
    if last.kind not in USED:
        raise fault(last, "this section is not known", f"one of {', '.join(sorted(USED))}")
    if (last.kind == "net") != (len(sections) == 1):
        raise fault(last, "it is out of place", "[net] first, and only once")


def _check_option(section: Section, name: str, value: str) -> None:
    kind = section.kind
    if name in USED[kind] or name in TRAINING.get(kind, set()) or name in TRAINING[""]:
        return
    if name in OFF and section.number(name, 0) == OFF[name]:
        return
    wanted = f"{name}={OFF[name]}" if name in OFF else f"one of {', '.join(sorted(USED[kind])) or 'none'}"
    raise fault(
        section,
        f"{name}={value} is not understood, and it may change the results",
        wanted,
        option=name,
        fix="take the line out if it only concerns training",
    )


class Weights:
    """A `.weights` file that is read from front to back.

    The header is three int32 (major, minor, revision) and the number of images seen in training, int32
    up to version 0.1 and int64 from 0.2 on; float32 follow.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = path.stat().st_size
        if self.size < 16:
            raise ModelError(f"{path}: {self.size} bytes", wanted="a Darknet weights file with a header")
        major, minor = np.fromfile(path, "<i4", 2).tolist()
        wide = major * 10 + minor >= 2 and major < 1000 and minor < 1000
        self.consumed = 20 if wide else 16
        usable = max(self.size - self.consumed, 0) // 4
        self._floats = np.memmap(path, "<f4", "r", self.consumed, (usable,)) if usable else np.empty(0, "<f4")
        self._next = 0
        if not np.isfinite(self._floats).all():
            at = self.consumed + 4 * int(np.argmin(np.isfinite(self._floats)))
            raise ModelError(
                f"{path}: the number at byte {at:,} is not finite",
                wanted="weights that a training has ended with",
                fix="get the file again",
            )

    def take(self, *shape: int) -> FloatArray:
        """The next numbers, in this shape.

        Past the end these are zeros, so that `check` can say how many there should have been.
        """
        count = int(np.prod(shape))
        taken = np.asarray(self._floats[self._next : self._next + count], np.float32)
        self._next += count
        self.consumed += 4 * count
        return np.resize(taken, shape) if len(taken) == count else np.zeros(shape, np.float32)

    def check(self) -> None:
        """Insist that every byte was consumed, and that there were enough.

        Raises
        ------
        ModelError
            With both counts.
        """
        if self.consumed != self.size:
            what = "bytes are missing" if self.consumed > self.size else "bytes are left over"
            raise ModelError(
                f"{self.path}: it has {self.size:,} bytes, and the cfg consumes {self.consumed:,}: "
                f"{abs(self.consumed - self.size):,} {what}",
                wanted="weights of the very network that the cfg describes",
                fix="get the file again, or name the cfg that belongs to it",
            )


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """A cfg and its weights, nothing built yet."""

    net: Section
    layers: tuple[Section, ...]
    weights: Weights


def read_network(cfg: Path, weights: Path) -> Network:
    """Read both files.

    Raises
    ------
    ModelError
        As `parse` and `Weights` have it.
    """
    try:
        text = cfg.read_text(encoding="utf-8-sig", errors="replace")
        net, *layers = parse(text, cfg)
        return Network(net, tuple(layers), Weights(weights))
    except OSError as error:
        raise ModelError(f"{error.filename or cfg}: cannot be read: {error.strerror}") from error
