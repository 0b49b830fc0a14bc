"""UNISAL's way for pictures (Droste, Jiao, Noble, ECCV 2020, arXiv 2003.05477): a small model of where people look.

MobileNet V2, learnt Gaussian priors, and a decoder with two skips. The published file also holds norms and layers for
videos, a recurrent one among them; those are left aside. Names are the published ones, so its weights load unchanged.
"""

from __future__ import annotations

import itertools
from typing import Any

import comfy.ops
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CELL = 32  # pixels per cell of the coarsest map
BLOCKS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
FINE, MIDDLE = 7, 14  # blocks whose maps, of stride 8 and 16, skip to the decoder
GAUSSIANS, GAUSSIAN_SCALE = 16, 6.0
SMOOTHING = 41


class Norm(nn.Module):
    """The norm for pictures among those of several kinds of data."""

    def __init__(self, channels: int, operations: Any) -> None:
        super().__init__()
        self.bn_SALICON = operations.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn_SALICON(x)


class InvertedResidual(nn.Module):
    """Widen, filter every channel by itself, narrow (MobileNet V2)."""

    def __init__(self, n_in: int, n_out: int, widen: int, norm: Any, operations: Any) -> None:
        super().__init__()
        wide = n_in * widen
        first = [operations.Conv2d(n_in, wide, 1, bias=False), norm(wide), nn.ReLU6()] if widen > 1 else []
        self.conv = nn.Sequential(
            *first,
            operations.Conv2d(wide, wide, 3, 1, 1, groups=wide, bias=False), norm(wide), nn.ReLU6(),
            operations.Conv2d(wide, n_out, 1, bias=False), norm(n_out),
        )  # fmt: skip
        self.residual = n_in == n_out

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNet(nn.Module):
    """The last map, 1280 channels wide, and those two that skip. Strides are taken after a block, not inside it."""

    def __init__(self, operations: Any) -> None:
        super().__init__()
        stem = nn.Sequential(operations.Conv2d(3, 32, 3, 2, 1, bias=False), operations.BatchNorm2d(32), nn.ReLU6())
        parts: list[nn.Module] = [stem]
        width, self.halved = 32, set()
        for widen, n_out, count, stride in BLOCKS:
            if stride == 2:
                self.halved.add(len(parts))
            for _ in range(count):
                parts.append(InvertedResidual(width, n_out, widen, operations.BatchNorm2d, operations))
                width = n_out
        head = nn.Sequential(operations.Conv2d(width, 1280, 1, bias=False), operations.BatchNorm2d(1280), nn.ReLU6())
        self.features = nn.Sequential(*parts, head)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A picture [n, 3, height, width] -> its features at three scales, the coarsest first."""
        skips = []
        for number, part in enumerate(self.features):
            x = part(x)
            if number in (FINE, MIDDLE):
                skips.append(x)
            if number in self.halved:
                x = x[..., ::2, ::2]
        return x, skips[1], skips[0]


class Skip(nn.Module):
    """Takes a finer map to the decoder: twice the channels, then n_out of them; its size stays."""

    def __init__(self, n_in: int, n_out: int, operations: Any) -> None:
        super().__init__()
        wide = 2 * n_in
        self.expansion = nn.Sequential(
            operations.Conv2d(n_in, wide, 1, bias=False), Norm(wide, operations), nn.ReLU6()
        )  # fmt: skip
        self.reduction = nn.Sequential(operations.Conv2d(wide, n_out, 1), Norm(n_out, operations))

    def forward(self, x: Tensor) -> Tensor:
        return self.reduction(self.expansion(x))


class Unisal(nn.Module):
    """The network: MobileNet, priors, decoder, smoothing. `saliency` takes pictures as they are."""

    def __init__(self, operations: Any = comfy.ops.disable_weight_init) -> None:
        super().__init__()

        def named(n_in: int, n_out: int, widen: int, norm: Any) -> nn.Module:
            return nn.ModuleDict({"inv_res": InvertedResidual(n_in, n_out, widen, norm, operations)})

        def norm(channels: int) -> Norm:
            return Norm(channels, operations)

        self.cnn = MobileNet(operations)
        self.post_cnn = named(1280 + GAUSSIANS, 256, 1, operations.BatchNorm2d)
        self.skip_2x, self.skip_4x = Skip(160, 128, operations), Skip(64, 64, operations)
        self.upsampling_2 = named(256 + 128, 128, 2, norm)
        self.post_upsampling_2 = named(128 + 64, 64, 2, norm)
        self.coarse_gaussians_salicon = nn.Parameter(torch.zeros(GAUSSIANS, 2, 2))
        self.adaptation_salicon = nn.Sequential(operations.Conv2d(64, 1, 1))
        self.smoothing_salicon = operations.Conv2d(1, 1, SMOOTHING, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised pictures [n, 3, rows, columns], multiples of 32 -> log density [n, rows, columns]."""
        coarse, middle, fine = self.cnn(x)
        double = lambda x: F.interpolate(x, scale_factor=2, mode="bilinear")  # noqa: E731
        coarse = self.post_cnn["inv_res"](torch.cat([coarse, self._priors(coarse)], dim=1))
        middle = torch.cat([double(coarse), self.skip_2x(middle)], dim=1)
        fine = torch.cat([double(self.upsampling_2["inv_res"](middle)), self.skip_4x(fine)], dim=1)
        logits = self.adaptation_salicon(self.post_upsampling_2["inv_res"](fine))
        logits = F.interpolate(logits, size=x.shape[-2:], mode="nearest")
        logits = self.smoothing_salicon(F.pad(logits, [SMOOTHING // 2] * 4, mode="replicate"))[:, 0]
        return logits.flatten(1).log_softmax(1).view_as(logits)

    def _priors(self, like: Tensor) -> Tensor:
        """Gaussians at learnt places: [n, 16, rows, columns]; parameters are (y, x) by (mean, log deviation)."""
        maps = torch.full((1, 1, 1), GAUSSIAN_SCALE, device=like.device, dtype=like.dtype)
        for axis, count in enumerate(like.shape[-2:]):
            mean, deviation = self.coarse_gaussians_salicon[:, axis].to(like).unbind(1)
            at = torch.linspace(0, 1, count, device=like.device, dtype=like.dtype)
            along = torch.exp(-(((at - mean[:, None]) / deviation.exp()[:, None]) ** 2) / 2)
            maps = maps * (along[:, :, None] if axis == 0 else along[:, None, :])
        return maps.expand(len(like), -1, -1, -1)

    def saliency(self, pictures: Tensor) -> Tensor:
        """Pictures [n, 3, height, width] in 0..1 of any size -> maps [n, height, width], the largest value 1.

        Prepared as its authors do: 8 bits, Lanczos.
        """
        mean, std = (pictures.new_tensor(values)[:, None, None] for values in (MEAN, STD))
        size = pictures.shape[-2:]
        fitted = torch.stack([_lanczos(picture, working_size(*size)) for picture in pictures]).to(pictures)
        log_map = self((fitted - mean) / std)
        log_map = F.interpolate(log_map[:, None], size=size, mode="bilinear")[:, 0]
        return (log_map - log_map.amax((-2, -1), keepdim=True)).exp()


def _lanczos(picture: Tensor, size: tuple[int, int]) -> Tensor:
    """A picture [3, height, width] in 0..1 in 8 bits at another size (height, width)."""
    values = (picture.movedim(0, -1).clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    fitted = np.asarray(Image.fromarray(values).resize(size[::-1], Image.Resampling.LANCZOS))
    return torch.from_numpy(fitted.astype(np.float32) / 255).movedim(-1, 0)


def working_size(height: int, width: int) -> tuple[int, int]:
    """As published for MIT300: of 7 to 13 cells a side and 100 to 120 in all, those of the nearest shape."""
    cells = [(n, m) for n, m in itertools.product(range(7, 14), repeat=2) if 100 <= n * m <= 120]
    ratio = lambda size: min(size[0] * width, size[1] * height) / max(size[0] * width, size[1] * height)  # noqa: E731
    n, m = max(cells, key=ratio)
    return n * CELL, m * CELL


def is_unisal(state: dict[str, Tensor]) -> bool:
    """Whether a state dict is UNISAL's, told by its learnt priors for pictures."""
    return "coarse_gaussians_salicon" in state
