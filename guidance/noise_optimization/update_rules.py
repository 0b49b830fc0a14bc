"""How a starting latent moves down a loss: DOODL's rule, ReNO's, a plain turn on the sphere.

Latents are unit noise [n, ...], each by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Motion(NamedTuple):
    """What a rule remembers: the velocity, and each latent's norm at the beginning [n, 1, ...]."""

    velocity: Tensor
    norm: Tensor


class Rule(Protocol):
    """A way to move starting latents down their losses by the gradient; one update at a time, each latent by itself."""

    def update(self, z: Tensor, gradient: Tensor, motion: Motion, noise: Tensor, rate: Tensor) -> tuple[Tensor, Motion]:
        """The next latents. noise: fresh unit noise like z. rate: factor on the step of every latent, [n]."""
        ...


def at_rest(z: Tensor) -> Motion:
    """What a rule remembers at the beginning: no velocity, and the norms of these latents."""
    return Motion(torch.zeros_like(z), norms(z))


def norms(z: Tensor) -> Tensor:
    """Every latent's length, [n, 1, ...]."""
    return each(z.flatten(1).norm(dim=1), z)


def each(values: Tensor, like: Tensor) -> Tensor:
    """One value per latent [n], to be used with latents like these: [n, 1, ...]."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


@dataclass(frozen=True)
class Doodl:
    """DOODL (arXiv 2303.13703): every element of the gradient clamped, momentum, the length kept, a little noise."""

    rate: float = 1.0
    momentum: float = 0.9
    clamp: float = 1e-3
    perturb: float = 1e-4
    keep_norm: bool = True

    def update(
        self, z: Tensor, gradient: Tensor, motion: Motion, noise: Tensor, rate: Tensor
    ) -> tuple[Tensor, Motion]:  # fmt: skip
        """z moved against the clamped gradient, with momentum; at the length it had where that is kept."""
        velocity = self.momentum * motion.velocity + gradient.clamp(-self.clamp, self.clamp)
        z = z - self.rate * each(rate, z) * velocity
        z = z + self.perturb * noise
        if self.keep_norm:
            z = z * (motion.norm / norms(z))
        return z, motion._replace(velocity=velocity)


@dataclass(frozen=True)
class Reno:
    """ReNO (arXiv 2406.04312): clipped by norm, Nesterov momentum, and a pull to the length that noise has."""

    rate: float = 5.0
    momentum: float = 0.9
    clip: float = 0.1
    pull: float = 0.01

    def update(
        self, z: Tensor, gradient: Tensor, motion: Motion, noise: Tensor, rate: Tensor
    ) -> tuple[Tensor, Motion]:  # fmt: skip
        """z moved against the clipped gradient and towards the length that noise has, with momentum."""
        gradient = gradient + self.pull * self.regulariser_gradient(z)
        gradient = gradient * (self.clip / norms(gradient).clamp_min(1e-12)).clamp(max=1)
        velocity = self.momentum * motion.velocity + gradient
        step = gradient + self.momentum * velocity
        return z - self.rate * each(rate, z) * step, motion._replace(velocity=velocity)

    @staticmethod
    def regulariser_gradient(z: Tensor) -> Tensor:
        """Of |z|^2 / 2 - (d - 1) log |z|, the negative log density of the norm of d normal variables."""
        square = (norms(z) ** 2).clamp_min(1e-12)
        return z * (1 - (z[0].numel() - 1) / square)


@dataclass(frozen=True)
class Spherical:
    """Straight down, always equally far: the latent is turned by `rate` of its length, which it keeps.

    For gradients whose length says nothing: those of a long run are large where the picture is about to become another
    one, and those that leave the model out have another unit.
    """

    rate: float = 0.03

    def update(
        self, z: Tensor, gradient: Tensor, motion: Motion, noise: Tensor, rate: Tensor
    ) -> tuple[Tensor, Motion]:  # fmt: skip
        step = self.rate * each(rate, z) * motion.norm * gradient / norms(gradient).clamp_min(1e-30)
        z = z - step
        return z * (motion.norm / norms(z)), motion


RULES: dict[str, type] = {"doodl": Doodl, "reno": Reno, "spherical": Spherical}


def unit_noise(z: Tensor, generators: list[torch.Generator]) -> Tensor:
    """Fresh noise, every latent's from its own generator."""
    return torch.stack([torch.randn(z.shape[1:], generator=g, dtype=torch.float32) for g in generators]).to(z)
