"""Deterministic sampling through which gradients can be taken back, one step at a time, to the latent it began with.

Two ways. Euler steps (DDIM without noise, in ComfyUI's scaling of latents), each evaluated again on the way back from
the latent it started at: of a run of n steps n latents are kept. And EDICT's pair of coupled latents (arXiv 2211.12446,
sec. 4), whose steps have an exact inverse: on the way back every latent is computed from the one after it, so nothing
is kept.

Latents are scaled as ComfyUI has them: x = picture + sigma * noise for diffusion models, and what its `denoise`
predicts for any sigma is the picture. Then DDIM's step is x + (next - sigma) * eps with eps = (x - denoise(x)) / sigma,
for models that predict noise, v or flow alike.

EDICT looks at the second latent's direction with a first latent that has already moved on, at the old noise level. Its
authors' latents are scaled by the root of alpha; to show the network what theirs sees, ours are multiplied with the
ratio of that root after and before the step. `Schedule.scales` are those roots, or ones for flow models.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..gradients.errors import NoGradient

Denoise = Callable[[Tensor, float], Tensor]  # (x at sigma, sigma) -> the picture's latent, shaped like x
MIX = 0.93  # EDICT's p
REPLAY = 0.02  # by how much, in the mean, a step evaluated again may differ: more than rounding in half precision


class Schedule(NamedTuple):
    """Noise levels from the first to the last, and what the network's input is multiplied with at each."""

    sigmas: tuple[float, ...]
    scales: tuple[float, ...]

    @property
    def steps(self) -> int:
        return len(self.sigmas) - 1


class Pair(NamedTuple):
    """EDICT's two latents, or the gradients at them."""

    x: Tensor
    y: Tensor


def eps(denoise: Denoise, x: Tensor, sigma: float) -> Tensor:
    """The direction away from the picture. sigma > 0."""
    return (x - denoise(x, sigma)) / sigma


def euler(denoise: Denoise, schedule: Schedule, start: Tensor) -> list[Tensor]:
    """The latents at all sigmas; the last is the result."""
    states = [start]
    with torch.no_grad():
        for sigma, after in zip(schedule.sigmas, schedule.sigmas[1:]):
            states.append(states[-1] + (after - sigma) * eps(denoise, states[-1], sigma))
    return states


def euler_gradient(
    denoise: Denoise, schedule: Schedule, states: Sequence[Tensor], gradient: Tensor, through: int | None = None
) -> Tensor:
    """From the gradient at the last of `euler`'s states to that at the first. Raises NoGradient if the model answers
    otherwise than on the way there.

    through: None is exact. A number goes back through the model in that many of the last steps only; before them, the
    direction eps that a step took counts as given, whatever the latent (as DRTune does in training, arXiv 2405.00760).
    """
    first = 0 if through is None else max(0, schedule.steps - through)
    for i in reversed(range(first, schedule.steps)):
        step = schedule.sigmas[i + 1] - schedule.sigmas[i]
        direction, pulled = pull_back(denoise, states[i], schedule.sigmas[i], step * gradient)
        same(states[i] + step * direction, states[i + 1])
        gradient = gradient + pulled
    return gradient


def same(again: Tensor, before: Tensor) -> None:
    """Raise NoGradient if something of the run was not repeated: its gradient would be another function's."""
    if torch.isfinite(before).all() and not (again - before).norm() <= REPLAY * before.norm():
        raise NoGradient(
            "The model did not give the same result when a step was evaluated again, so gradients would be wrong. "
            "Remove nodes that draw random numbers or remember earlier steps (HyperTile, ToMe, APG with momentum)."
        )


def pull_back(denoise: Denoise, x: Tensor, sigma: float, gradient: Tensor, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """eps at scale * x, and the gradient at x that belongs to this one at eps."""
    size = _power_of_two(gradient)  # so that what half precision carries neither vanishes nor overflows
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        seen = scale * x
        picture = denoise(seen, sigma)
        if not picture.requires_grad:
            raise NoGradient(
                "The model's result has no gradient: a node or a kernel in it works without one. Use PyTorch's "
                "attention, and remove compiled engines (TensorRT)."
            )
        direction = (seen - picture) / sigma
        (pulled,) = torch.autograd.grad(direction, x, gradient * size)
    return direction.detach(), pulled / size


def _power_of_two(gradient: Tensor) -> float:
    """The factor, exact in every precision, that brings the largest element near 64."""
    largest = float(gradient.abs().amax())
    return 2.0 ** (6 - math.frexp(largest)[1]) if 0 < largest < math.inf else 1.0


def edict(denoise: Denoise, schedule: Schedule, start: Pair, mix: float = MIX) -> Pair:
    """Sample both latents, each with directions found at the other. mix in (0, 1]: how much of itself each keeps."""
    x, y = start
    with torch.no_grad():
        for i in range(schedule.steps):
            sigma, step, ahead = _step(schedule, i)
            x, y = _led(x, y, i)
            x = x + step * eps(denoise, y, sigma)
            y = y + step * eps(denoise, ahead * x, sigma)
            x, y = _led(x, y, i)
            x = mix * x + (1 - mix) * y
            y = mix * y + (1 - mix) * x
    return Pair(x, y)


def edict_inverse(denoise: Denoise, schedule: Schedule, end: Pair, mix: float = MIX) -> Pair:
    """Where `edict` began."""
    x, y = end
    with torch.no_grad():
        for i in reversed(range(schedule.steps)):
            sigma, step, ahead = _step(schedule, i)
            x, y = _led(*_unmixed(x, y, mix), i)
            y = y - step * eps(denoise, ahead * x, sigma)
            x = x - step * eps(denoise, y, sigma)
            x, y = _led(x, y, i)
    return Pair(x, y)


def edict_gradient(
    denoise: Denoise, schedule: Schedule, end: Pair, gradient: Pair, mix: float = MIX
) -> tuple[Pair, Pair]:
    """From the end of `edict` and the gradient there to its start and the gradient there. Nothing else is needed.
    Compare the start with the true one: it shows what rounding, or a model that answers otherwise, has done.

    The evaluations that undo a step are those whose gradients are wanted, so it takes two per step, not four.
    """
    (x, y), (g, h) = end, gradient
    for i in reversed(range(schedule.steps)):
        sigma, step, ahead = _step(schedule, i)
        x, y = _led(*_unmixed(x, y, mix), i)
        g = g + (1 - mix) * h
        g, h = _led(mix * g, mix * h + (1 - mix) * g, i)
        direction, pulled = pull_back(denoise, x, sigma, step * h, ahead)
        y, g = y - step * direction, g + pulled
        direction, pulled = pull_back(denoise, y, sigma, step * g)
        x, h = x - step * direction, h + pulled
        (x, y), (g, h) = _led(x, y, i), _led(g, h, i)
    return Pair(x, y), Pair(g, h)


def _step(schedule: Schedule, i: int) -> tuple[float, float, float]:
    """sigma, the change of sigma, and how much larger the network's input becomes by the step."""
    sigma, after = schedule.sigmas[i], schedule.sigmas[i + 1]
    return sigma, after - sigma, schedule.scales[i + 1] / schedule.scales[i]


def _unmixed(x: Tensor, y: Tensor, mix: float) -> tuple[Tensor, Tensor]:
    y = (y - (1 - mix) * x) / mix
    return (x - (1 - mix) * y) / mix, y


def _led(x: Tensor, y: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """The one that is denoised first, and the other: they take turns. Mixed is always the first latent first."""
    return (x, y) if step % 2 == 0 else (y, x)
