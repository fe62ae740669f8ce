"""The demo's detector: a small anchor-free network with one output.

Only the network is here; train.py trains and exports it. Both need torch, and nothing else in qzd does.
"""

# mypy: disable-error-code="misc, untyped-decorator"
# torch is not installed where types are checked: what comes from it is Any there.

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["CLASSES", "INPUT_SIZE", "STRIDE", "Detector"]

INPUT_SIZE = 256
STRIDE = 8
CLASSES = 4

_CELLS = (INPUT_SIZE // STRIDE) ** 2


class Detector(nn.Module):
    """Convolutions, ReLU, one grid of stride 8, boxes as distances to four sides.

    What comes in is `(b, 3, 256, 256)` float32, RGB, 0..1.
    What goes out is `(b, 8, 1024)` float32: cx, cy, w, h in input pixels, then a score 0..1 for each class.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(_conv(3, 16, 3, 2), _conv(16, 32, 3, 2), _Residual(32, 16))
        self.fine = nn.Sequential(_conv(32, 64, 3, 2), _Residual(64, 32), _Residual(64, 32))
        self.coarse = nn.Sequential(_conv(64, 96, 3, 2), _Residual(96, 48), _Residual(96, 48), _conv(96, 64))
        self.merge = nn.Sequential(_conv(128, 64), _Residual(64, 32))
        self.box = nn.Sequential(_conv(64, 48, 3), nn.Conv2d(48, 4, 1))
        self.score = nn.Sequential(_conv(64, 32, 3), nn.Conv2d(32, CLASSES, 1))
        self.register_buffer("centres", _centres(), persistent=False)
        self._start()

    def forward(self, images: Tensor) -> Tensor:
        """`(b, 3, 256, 256)` pictures to `(b, 8, 1024)` boxes and scores, as the class says."""
        boxes, scores = self.raw(images)
        low, high = boxes[:, :2], boxes[:, 2:]
        return torch.cat([(low + high) / 2, high - low, scores.sigmoid()], dim=1)

    def raw(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes `(b, 4, 1024)` as x0 y0 x1 y1 in input pixels, and class logits `(b, 4, 1024)`."""
        fine = self.fine(self.stem(images))
        coarse = functional.interpolate(self.coarse(fine), scale_factor=2.0, mode="nearest")
        merged = self.merge(torch.cat([fine, coarse], dim=1))
        sides = functional.softplus(self.box(merged).reshape(-1, 4, _CELLS)) * STRIDE
        boxes = torch.cat([self.centres - sides[:, :2], self.centres + sides[:, 2:]], dim=1)
        return boxes, self.score(merged).reshape(-1, CLASSES, _CELLS)

    def _start(self) -> None:
        # A score starts at one in a hundred, a box at about the size of a part.
        nn.init.constant_(self.score[-1].bias, -math.log(99))
        nn.init.constant_(self.box[-1].bias, 2.0)


class _Residual(nn.Module):
    def __init__(self, channels: int, narrow: int) -> None:
        super().__init__()
        self.body = nn.Sequential(_conv(channels, narrow), _conv(narrow, channels, 3))

    def forward(self, values: Tensor) -> Tensor:
        return values + self.body(values)


def _conv(before: int, after: int, kernel: int = 1, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(after, momentum=0.03), nn.ReLU(inplace=True))


def _centres() -> Tensor:
    cells = torch.arange(INPUT_SIZE // STRIDE, dtype=torch.float32) * STRIDE + STRIDE / 2
    y, x = torch.meshgrid(cells, cells, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()])[None]
