"""Teach the demo's detector and write parts.onnx; parts.toml beside it gets seeds, versions and duration.

    python -m demo_model.train --minutes 30

Here lives learning only. It needs torch and onnx; who runs the demo needs no torch. The figures that count,
mAP of FP32 and INT8, are measured with qzd-tools quantize as for any other model, then added to parts.toml.
Learning is plain, nothing in it knows of 8 bits; the export evens out the channels, which changes no sum.
"""

# mypy: disable-error-code="misc, untyped-decorator"
# torch is not installed where types are checked: what comes from it is Any there.

from __future__ import annotations

import argparse
import copy
import math
import platform
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional

from demo_model.network import CLASSES, INPUT_SIZE, Detector
from qzd_tools.demo.dataset import TRAIN_SEED
from qzd_tools.demo.scene import LABELS, Frame, still

__all__ = ["main"]

_MOST = 14  # parts a picture, for tensors of one shape
_BATCH = 16
_PEAK_RATE = 3e-3
_DECAY = 0.03
_PAD = 114
_LEVELLED = 64  # pictures that show how large each channel gets
_CANDIDATES = 9  # grid cells that answer for one part

Store = tuple[np.ndarray, np.ndarray, np.ndarray]


def main() -> None:
    """Render, learn, export, record."""
    arguments = _arguments()
    torch.manual_seed(TRAIN_SEED)
    start = time.monotonic()
    store = _render(arguments.images)
    print(f"{arguments.images} pictures in {time.monotonic() - start:.0f} s", flush=True)
    model, steps, loss = _train(store, arguments.minutes * 60)
    _fuse(model.eval())
    _level(model, _pictures(store[0][:_LEVELLED]))
    _export(model, arguments.output)
    _record(arguments, steps, loss, time.monotonic() - start)


def _arguments() -> argparse.Namespace:
    output = Path(__file__).with_name("parts.onnx")
    parser = argparse.ArgumentParser(description="Train the demo's detector and export it as ONNX.")
    parser.add_argument("--images", type=int, default=10000, help="pictures to learn from (10000)")
    parser.add_argument("--minutes", type=float, default=30.0, help="time to learn, after rendering (30)")
    parser.add_argument("--output", type=Path, default=output, help="the ONNX file")
    return parser.parse_args()


# -- data -----------------------------------------------------------------------------------------


def _render(images: int) -> Store:
    pixels = np.empty((images, INPUT_SIZE, INPUT_SIZE, 3), np.uint8)
    boxes = np.zeros((images, _MOST, 4), np.float32)
    classes = np.full((images, _MOST), -1, np.int64)
    for number in range(images):
        frame = still(TRAIN_SEED, number)
        count = len(frame.boxes)
        pixels[number], boxes[number, :count] = _letterbox(frame, number)
        classes[number, :count] = frame.classes
    return pixels, boxes, classes


def _letterbox(frame: Frame, number: int) -> tuple[np.ndarray, np.ndarray]:
    height, width = frame.pixels.shape[:2]
    scale = INPUT_SIZE / max(height, width)
    inner = round(width * scale), round(height * scale)
    left, top = (INPUT_SIZE - inner[0]) // 2, (INPUT_SIZE - inner[1]) // 2
    quality = [cv2.IMWRITE_JPEG_QUALITY, 70 + number % 30]  # what files and clips lose
    seen = np.asarray(cv2.imdecode(cv2.imencode(".jpg", frame.pixels, quality)[1], cv2.IMREAD_COLOR))
    canvas = np.full((INPUT_SIZE, INPUT_SIZE, 3), _PAD, np.uint8)
    small = cv2.resize(seen, inner, interpolation=cv2.INTER_LINEAR)
    canvas[top : top + inner[1], left : left + inner[0]] = small
    return canvas[..., ::-1], frame.boxes * np.float32(scale) + np.array([left, top, left, top], np.float32)


def _batches(store: Store, rng: np.random.Generator) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    pixels, boxes, classes = store
    while True:
        order = rng.permutation(len(pixels))
        for start in range(0, len(order) - _BATCH + 1, _BATCH):
            chosen = order[start : start + _BATCH]
            images = _pictures(pixels[chosen])
            # a batch turns as one: flips and quarter turns keep a letterbox a letterbox
            images, turned = _turn(images, torch.from_numpy(boxes[chosen]), rng)
            light = torch.from_numpy(rng.uniform(0.85, 1.15, (_BATCH, 3, 1, 1)).astype(np.float32))
            images = (images * light).clamp_(0, 1).contiguous(memory_format=torch.channels_last)
            yield images, turned, torch.from_numpy(classes[chosen])


def _pictures(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255


def _turn(images: Tensor, boxes: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    flip_x, flip_y, swap = rng.random(3) < (0.5, 0.5, 0.25)
    if flip_x:
        images, boxes = images.flip(3), (boxes * boxes.new_tensor([-1, 1, -1, 1]))[..., [2, 1, 0, 3]]
        boxes = boxes + boxes.new_tensor([INPUT_SIZE, 0, INPUT_SIZE, 0])
    if flip_y:
        images, boxes = images.flip(2), (boxes * boxes.new_tensor([1, -1, 1, -1]))[..., [0, 3, 2, 1]]
        boxes = boxes + boxes.new_tensor([0, INPUT_SIZE, 0, INPUT_SIZE])
    if swap:
        images, boxes = images.transpose(2, 3), boxes[..., [1, 0, 3, 2]]
    return images, boxes


# -- learning -------------------------------------------------------------------------------------


def _train(store: Store, seconds: float) -> tuple[Detector, int, float]:
    model = Detector().to(memory_format=torch.channels_last)
    smooth = copy.deepcopy(model).eval()
    optimiser = torch.optim.AdamW(_groups(model), lr=_PEAK_RATE)
    batches = _batches(store, np.random.default_rng([TRAIN_SEED, TRAIN_SEED]))
    start, step, mean = time.monotonic(), 0, math.nan
    while (progress := (time.monotonic() - start) / seconds) < 1:
        for group in optimiser.param_groups:
            group["lr"] = _rate(step, progress)
        images, boxes, classes = next(batches)
        found, logits = model.raw(images)
        loss = _loss(found, logits, boxes, classes, model.centres)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimiser.step()
        step += 1
        _follow(smooth, model, min(0.999, 1 - 1 / (1 + step / 4)))
        mean = float(loss.detach()) if math.isnan(mean) else 0.99 * mean + 0.01 * float(loss.detach())
        if step % 100 == 0:
            print(f"step {step}  {progress:.1%}  loss {mean:.4f}", flush=True)
    return smooth, step, mean


def _rate(step: int, progress: float) -> float:
    cosine = (1 + math.cos(math.pi * progress)) / 2
    return _PEAK_RATE * min(1.0, (step + 1) / 200) * (0.01 + 0.99 * cosine)


def _groups(model: nn.Module) -> list[dict[str, object]]:
    weights = [value for value in model.parameters() if value.ndim > 1]
    others = [value for value in model.parameters() if value.ndim <= 1]
    return [{"params": weights, "weight_decay": _DECAY}, {"params": others, "weight_decay": 0.0}]


@torch.no_grad()
def _follow(smooth: nn.Module, model: nn.Module, keep: float) -> None:
    for mine, theirs in zip(smooth.state_dict().values(), model.state_dict().values(), strict=True):
        if mine.dtype.is_floating_point:
            mine.lerp_(theirs, 1 - keep)
        else:
            mine.copy_(theirs)


def _loss(boxes: Tensor, logits: Tensor, truth: Tensor, classes: Tensor, centres: Tensor) -> Tensor:
    boxes, logits = boxes.transpose(1, 2), logits.transpose(1, 2)
    owner, quality = _assign(boxes.detach(), logits.detach().sigmoid(), truth, classes, centres[0].T)
    taken = quality > 0
    wanted = torch.zeros_like(logits)
    kinds = classes.clamp(min=0).gather(1, owner)
    wanted.scatter_(2, kinds[..., None], quality[..., None])
    # varifocal weights: the many empty cells count for little once they are found empty
    weight = torch.where(wanted > 0, wanted, 0.75 * logits.detach().sigmoid() ** 2)
    score = functional.binary_cross_entropy_with_logits(logits, wanted, weight, reduction="sum")
    targets = truth.gather(1, owner[..., None].expand(-1, -1, 4))[taken]
    given, total = boxes[taken], quality.sum().clamp(min=1)
    place = (quality[taken] * (1 - _ciou(given, targets))).sum()
    size = (targets[:, 2:] - targets[:, :2]).clamp(min=1).repeat(1, 2)
    sides = (quality[taken] * ((given - targets).abs() / size).mean(1)).sum()
    return (score + 2.5 * place + 5.0 * sides) / total


@torch.no_grad()
def _assign(
    boxes: Tensor, scores: Tensor, truth: Tensor, classes: Tensor, centres: Tensor
) -> tuple[Tensor, Tensor]:
    """Task-aligned: the cells within a part that already find it best answer for it."""
    real = classes >= 0
    sides = torch.cat([centres - truth[:, :, None, :2], truth[:, :, None, 2:] - centres], dim=-1)
    inside = (sides.amin(-1) > 0.5) & real[..., None]
    overlap = _iou(truth[:, :, None], boxes[:, None]).clamp(min=0) * inside
    kinds = classes.clamp(min=0)[..., None].expand(-1, -1, scores.shape[1])
    metric = scores.transpose(1, 2).gather(1, kinds).sqrt() * overlap**4 + 1e-9 * inside
    best = metric.topk(_CANDIDATES, dim=-1).indices
    metric = metric * torch.zeros_like(metric).scatter_(2, best, 1.0)
    overlap = overlap * (metric > 0)
    share = metric / metric.amax(-1, keepdim=True).clamp(min=1e-9)
    share = share * overlap.amax(-1, keepdim=True).clamp(min=0.05)
    owner = metric.argmax(1)
    quality = share.gather(1, owner[:, None])[:, 0] * (metric.amax(1) > 0)
    return owner, quality


def _iou(one: Tensor, other: Tensor) -> Tensor:
    low, high = torch.maximum(one[..., :2], other[..., :2]), torch.minimum(one[..., 2:], other[..., 2:])
    common = (high - low).clamp(min=0).prod(-1)
    return common / (_area(one) + _area(other) - common).clamp(min=1e-6)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).prod(-1)


def _ciou(one: Tensor, other: Tensor) -> Tensor:
    overlap = _iou(one, other)
    hull = torch.maximum(one[..., 2:], other[..., 2:]) - torch.minimum(one[..., :2], other[..., :2])
    apart = (one[..., :2] + one[..., 2:] - other[..., :2] - other[..., 2:]).square().sum(-1) / 4
    (w1, h1), (w2, h2) = ((box[..., 2:] - box[..., :2]).clamp(min=1e-3).unbind(-1) for box in (one, other))
    shape = (4 / math.pi**2) * (torch.atan(w2 / h2) - torch.atan(w1 / h1)).square()
    weight = (shape / (1 - overlap + shape).clamp(min=1e-6)).detach()
    return overlap - apart / hull.square().sum(-1).clamp(min=1e-6) - weight * shape


# -- what is kept ---------------------------------------------------------------------------------


def _export(model: Detector, path: Path) -> None:
    model = model.to(memory_format=torch.contiguous_format)
    example = torch.zeros(1, 3, INPUT_SIZE, INPUT_SIZE)
    names = {"input_names": ["images"], "output_names": ["output0"]}
    torch.onnx.export(model, (example,), str(path), opset_version=17, dynamo=False, **names)
    onnx.checker.check_model(onnx.load(str(path)), full_check=True)
    parameters = sum(value.numel() for value in model.parameters())
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB, {parameters} parameters")


def _fuse(module: nn.Module) -> None:
    for child in module.children():
        if isinstance(child, nn.Sequential) and len(child) == 3 and isinstance(child[1], nn.BatchNorm2d):
            child[0], child[1] = nn.utils.fuse_conv_bn_eval(child[0], child[1]), nn.Identity()
        else:
            _fuse(child)


@dataclass(frozen=True)
class _Stage:
    """Convolutions that write one set of channels, where it can be watched, and convolutions that read it."""

    writers: list[nn.Conv2d]
    seen: list[nn.Module]
    readers: list[tuple[nn.Conv2d, slice]]


@torch.no_grad()
def _level(model: Detector, images: Tensor) -> None:
    """Give the channels of each tensor one range: the same sums in floats, kinder to 8 bits."""
    stages = _stages(model)
    peaks: dict[nn.Module, Tensor] = {}
    hooks = [module.register_forward_hook(_watch(peaks)) for stage in stages for module in stage.seen]
    model(images)
    for hook in hooks:
        hook.remove()
    for stage in stages:
        peak = torch.stack([peaks[module] for module in stage.seen]).amax(0)
        gain = peak.mean() / peak.clamp(min=0.05 * float(peak.mean()))
        for conv in stage.writers:
            conv.weight.mul_(gain[:, None, None, None])
            conv.bias.mul_(gain)
        for conv, channels in stage.readers:
            conv.weight[:, channels].div_(gain[:, None, None])


def _stages(model: Detector) -> list[_Stage]:
    stem, fine, coarse, merge, box, score = (
        model.stem, model.fine, model.coarse, model.merge, model.box, model.score
    )  # fmt: skip
    bodies = [module.body for module in model.modules() if hasattr(module, "body")]
    inner = [(body[0], body[1][0]) for body in bodies]
    chains = [(stem[0], stem[1][0]), *inner, (box[0], box[1]), (score[0], score[1])]
    return [
        *(_stage([first], second) for first, second in chains),
        _stage(stem[1:], fine[0][0]),
        _stage(fine, coarse[0][0], (merge[0][0], slice(0, 64))),
        _stage(coarse[:3], coarse[3][0]),
        _stage(coarse[3:], (merge[0][0], slice(64, 128))),
        _stage(merge, box[0][0], score[0][0]),
    ]


def _stage(modules: Iterable[nn.Module], *readers: nn.Conv2d | tuple[nn.Conv2d, slice]) -> _Stage:
    """Join a convolution and the residual blocks that add to it; each block reads what it adds to."""
    first, *blocks = modules
    outside = [reader if isinstance(reader, tuple) else (reader, slice(None)) for reader in readers]
    return _Stage(
        writers=[first[0], *(block.body[1][0] for block in blocks)],
        seen=[first, *blocks],
        readers=[*((block.body[0][0], slice(None)) for block in blocks), *outside],
    )


def _watch(peaks: dict[nn.Module, Tensor]) -> Callable[[nn.Module, object, Tensor], None]:
    def note(module: nn.Module, _: object, values: Tensor) -> None:
        peaks[module] = values.amax((0, 2, 3))

    return note


def _record(arguments: argparse.Namespace, steps: int, loss: float, seconds: float) -> None:
    lines = [
        "# Written by train.py beside the model it describes.",
        "[input]",
        f"size = [{INPUT_SIZE}, {INPUT_SIZE}]",
        'colour = "RGB"',
        "scale = 255",
        'resize = "letterbox"',
        'anchor = "center"',
        f"pad = {_PAD}",
        "",
        "[output]",
        'layout = "cx cy w h in input pixels, then a score for each class: [1, 8, 1024]"',
        f"labels = {list(LABELS[:CLASSES])}".replace("'", '"'),
        "",
        "[training]",
        f"seed = {TRAIN_SEED}",
        f"pictures = {arguments.images}",
        f"steps = {steps}",
        f"batch = {_BATCH}",
        f"seconds = {seconds:.0f}",
        f"last_loss = {loss:.4f}",
        f'processor = "{platform.machine()}, {torch.get_num_threads()} threads"',
        "",
        "[versions]",
        f'python = "{platform.python_version()}"',
        f'torch = "{torch.__version__}"',
        f'numpy = "{np.__version__}"',
        f'opencv = "{cv2.__version__}"',
        f'onnx = "{onnx.__version__}"',
    ]
    arguments.output.with_suffix(".toml").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
