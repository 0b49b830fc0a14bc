"""A start for models whose training never began with noise alone: noise with the mean of a picture.

Stable Diffusion's noise schedule ends where the mean of a picture can still be read, and sampling begins beyond that
(the flaw of arXiv 2305.08891; adding a mean is what arXiv 2309.15842 does about it). Without a prompt it shows: on the
demo model no background comes out white.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import starting_noise


@dataclass(frozen=True)
class PictureMean:
    """Adds the mean latent of one of some pictures. means: a value for each channel, of each of them."""

    means: tuple[tuple[float, ...], ...]

    @property
    def turn(self) -> int:
        return starting_noise.ADDS

    def changed(self, noise: Tensor, run: starting_noise.StartOfRun) -> Tensor:
        """noise [batch, channels, height, width]; which picture it is goes by the noise, so that a picture of a batch
        does not depend on its neighbors, and noise that is changed a little, as searches do, keeps its own."""
        vectors = torch.randn(len(self.means), noise[0].numel(), generator=torch.Generator().manual_seed(0))
        nearest = (noise.flatten(1).float().cpu() @ vectors.mT).argmax(1)
        mean = torch.tensor(self.means)[nearest].to(noise)[..., None, None] / float(run.sigmas[0])
        return noise + run.inside(noise) * mean  # what an inpainting keeps keeps its noise


def with_picture_means(model: Any, means: tuple[tuple[float, ...], ...]) -> Any:
    """A model patcher's clone, whose runs begin with these means in the noise. For samples without a prompt: what a
    prompt says of the background is not known here."""
    patched = model.clone()
    starting_noise.install(patched, PictureMean(means))
    return patched
