"""What the LoRAs of regions add to one layer: y + sum over regions of share * (W_region x + b_region).

Of all low-rank changes together two products are taken: their downs in one, then every column times its region's share
in every place, then their ups. Nothing of the size of the layer's weight is made for them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CONVOLUTIONS = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}  # by axes of the weight


@dataclass(frozen=True, eq=False)
class LowRank:
    """up @ down. down: [rank, in, *kernel], up: [out, rank] with all factors in it; region: whose it is."""

    region: int
    down: Tensor = field(repr=False)
    up: Tensor = field(repr=False)


@dataclass(frozen=True, eq=False)
class Whole:
    """A change as large as the weight, [out, in, *kernel] in float32, made anew on a device whenever it is used."""

    region: int
    make: Callable[[torch.device], Tensor] = field(repr=False)


@dataclass(frozen=True, eq=False)
class Bias:
    """A change of the bias, [out]."""

    region: int
    change: Tensor = field(repr=False)


@dataclass(frozen=True, eq=False)
class LayerChange:
    """Everything that is added to one layer."""

    low_rank: tuple[LowRank, ...] = ()
    whole: tuple[Whole, ...] = ()
    biases: tuple[Bias, ...] = ()

    def on(self, like: Tensor) -> OnDevice:
        """Its tensors where and in the type that a layer computes in."""
        downs = [each.down.to(like) for each in self.low_rank]
        ups = [each.up.to(like) for each in self.low_rank]
        owners = [each.region for each in self.low_rank for _ in range(len(each.down))]
        return OnDevice(
            torch.cat(downs) if downs else None, torch.cat(ups, dim=1) if ups else None,
            torch.tensor(owners, device=like.device, dtype=torch.long), self.whole,
            tuple(Bias(each.region, each.change.to(like)) for each in self.biases),
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class OnDevice:
    """A LayerChange on a device. down: [all ranks, in, *kernel], up: [out, all ranks]; owners: region of every rank."""

    down: Tensor | None = field(repr=False)
    up: Tensor | None = field(repr=False)
    owners: Tensor = field(repr=False)
    whole: Sequence[Whole]
    biases: Sequence[Bias]

    def added(self, layer: nn.Module, x: Tensor, y: Tensor, shares: Tensor) -> Tensor:
        """y with the regions' changes.

        shares: how much of every value is each region's, [batch, tokens or 1, regions] for layers with their channels
        last, [batch, regions, *grid] for convolutions. Where it has more tokens than y, so has the result. y is
        overwritten where no gradient is taken.
        """
        axis = 1 if is_convolution(layer) else -1
        if self.down is not None and self.up is not None:
            ranks = product(layer, x, self.down) * shares.index_select(axis, self.owners)
            y = _plus_product(y, ranks, self.up, axis)
        for each in self.whole:
            share = shares.narrow(axis, each.region, 1)
            y = _plus(y, product(layer, x, each.make(x.device).to(x)) * share)
        for bias in self.biases:
            per_channel = bias.change if axis == -1 else bias.change.view(-1, *[1] * (y.ndim - 2))
            y = _plus(y, shares.narrow(axis, bias.region, 1) * per_channel)
        return y


def is_convolution(layer: nn.Module) -> bool:
    return isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d))


def product(layer: nn.Module, x: Tensor, weight: Tensor) -> Tensor:
    """What a layer makes of x with another weight and no bias."""
    if not is_convolution(layer):
        return F.linear(x, weight)
    conv = CONVOLUTIONS[weight.ndim]
    if layer.padding_mode == "zeros":
        return conv(x, weight, None, layer.stride, layer.padding, layer.dilation)
    padded = F.pad(x, layer._reversed_padding_repeated_twice, mode=layer.padding_mode)
    return conv(padded, weight, None, layer.stride, 0, layer.dilation)


def _plus(y: Tensor, change: Tensor) -> Tensor:
    """Their sum, in place where that is possible: y is a layer's fresh output."""
    return y + change if torch.is_grad_enabled() or change.shape != y.shape else y.add_(change)


def _plus_product(y: Tensor, ranks: Tensor, up: Tensor, axis: int) -> Tensor:
    """y + up ranks, in one product where channels come last and nothing has to be kept."""
    if axis == 1:
        return _plus(y, CONVOLUTIONS[y.ndim](ranks, up[(...,) + (None,) * (y.ndim - 2)]))
    if torch.is_grad_enabled() or ranks.shape[:-1] != y.shape[:-1] or not y.is_contiguous():
        return _plus(y, F.linear(ranks, up))
    y.view(-1, y.shape[-1]).addmm_(ranks.reshape(-1, ranks.shape[-1]), up.T)
    return y
