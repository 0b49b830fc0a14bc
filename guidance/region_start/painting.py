"""A flat painting of regions in their things' colors, as a latent: what the starting noise is shifted toward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..regions.masks import Regions, is_video, of_batch, token_shares
from ..regions.score_bias import with_background
from ..starting_noise import ADDS, StartOfRun
from . import colors
from .colors import RGB

# At strength 1 the noise of a pixel has so much of the painting's latent: three times the painting, as it is beside the
# noise where Stable Diffusion begins (3 / 14.6), which was measured best: docs/techniques/regions.md.
UNIT = 0.2
UNPAINTED = (0.5, 0.5, 0.5)
PATCH = 256  # pixels of the flat pictures that a VAE encodes: eight latent pixels where one is 32 wide


class NoColor(ValueError):
    """A color cannot be brought into the model's latents; the message names the cure."""


@dataclass(frozen=True, eq=False)
class Painting:
    """Whose every pixel is, and what is painted there, as a latent in the model's own scale.

    latents: [regions + 1, channels], the last one of what no region has; zeros where nothing is painted.
    """

    regions: Regions = field(repr=False)
    latents: Tensor = field(repr=False)

    def fitted(self, like: Tensor) -> Tensor:
        """The painting at the size of a latent [batch, channels, (frames,) height, width], shaped like it."""
        *axes, height, width = like.shape[2:]
        frames = axes[0] if axes else None
        canvas = self.regions.canvas(is_video(frames, 0))
        shares = token_shares(canvas, (height, width), (height, width), (height, width))
        shares = of_batch(with_background(shares), like.shape[0], frames)
        return (shares @ self.latents).mT.reshape(like.shape).to(like)

    @classmethod
    def of(cls, regions: Regions, found: Sequence[RGB | None], latent_of: Mapping[RGB, Tensor]) -> Painting:
        """found: color of every region and of the background; latent_of: their latents [channels]. Each region's is as
        strong as the region."""
        nothing = torch.zeros_like(next(iter(latent_of.values())))
        latents = torch.stack([nothing if color is None else latent_of[color] for color in found])
        return cls(regions, latents * torch.tensor([*(each.strength for each in regions.items), 1.0])[:, None])


@dataclass(frozen=True, eq=False)
class PaintedStart:
    """Noise shifted toward a flat painting of the regions (2309.15842: what a model reads of its start)."""

    painting: Painting = field(repr=False)
    strength: float

    turn: int = ADDS

    def changed(self, noise: Tensor, run: StartOfRun) -> Tensor:
        return noise + UNIT * self.strength * run.inside(noise) * self.painting.fitted(noise)


def picture(canvas: Tensor, found: Sequence[RGB | None], side: int) -> Tensor:
    """A painting to look at, [n, height, width, 3], its longer side so long; gray where nothing is painted."""
    height, width = canvas.shape[-2:]
    scale = side / max(height, width)
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    shares = with_background(token_shares(canvas, size, size, size))
    return (shares @ torch.tensor([color or UNPAINTED for color in found])).unflatten(1, size)


def colored_regions(regions: Regions, painted: bool, picture: Tensor | None) -> list[RGB | None]:
    """The color of every region, None where it has none.

    Of a picture [n, height, width, 3] the mean over the region; else the region's own color; else, if `painted`, the
    one it was painted in; else the color word of its prompt.
    """
    if picture is not None:
        return [_mean_color(picture, share) for share in regions.canvas().unbind(1)]
    return [
        region.color or (region.painted_in if painted else None) or colors.named_in(region.prompt)
        for region in regions.items
    ]


def background_color(regions: Regions, text: str, picture: Tensor | None) -> RGB | None:
    """The background's color: of a picture the mean where no region is; else `text`, a color or a prompt that may name
    one. Raises ValueError for a number of a color that is none."""
    if picture is not None:
        return _mean_color(picture, 1 - regions.canvas().sum(dim=1))
    return colors.parse(text) if colors.is_number(text) else colors.named(text) or colors.background_of(text)


def _mean_color(picture: Tensor, share: Tensor) -> RGB | None:
    """The mean of a picture [n, height, width, 3], weighted by a share [m, height', width']; None where it is 0."""
    height, width = picture.shape[1:3]
    weights = token_shares(share[:, None], (height, width), (height, width), (height, width))[..., 0]
    count = max(len(weights), len(picture))
    weights = weights[torch.arange(count) % len(weights)]
    pixels = picture[..., :3].float().cpu().flatten(1, 2)[torch.arange(count) % len(picture)]
    total = float(weights.sum())
    if total <= 0:
        return None
    red, green, blue = ((pixels * weights[..., None]).sum(dim=(0, 1)) / total).clamp(0, 1).tolist()
    return red, green, blue


def latents_of(model: Any, vae: Any | None, rgb: Sequence[RGB]) -> dict[RGB, Tensor]:
    """Colors as latents [channels] in the model's own scale, from flat pictures that the VAE encodes.

    Without a VAE from the linear map by which ComfyUI's previews turn latents into colors, the smallest that it turns
    into these. Raises NoColor.
    """
    if vae is None:
        return dict(zip(rgb, _by_preview(model.latent_format, torch.tensor(rgb))))
    return {color: _encoded(model, vae, color) for color in rgb}


def _encoded(model: Any, vae: Any, color: RGB) -> Tensor:
    """One color as the VAE encodes it, the middle of the picture: borders know that nothing is beyond them."""
    latent = model.process_latent_in(vae.encode(torch.tensor(color).expand(1, PATCH, PATCH, 3).clone()).cpu().float())
    channels = model.latent_format.latent_channels
    if latent.ndim < 4 or latent.shape[1] != channels:
        raise NoColor(
            f"the VAE's latents (of shape {tuple(latent.shape)}) are not the model's, which have {channels} channels: "
            "connect the VAE that belongs to the model, or none."
        )
    (y, x) = ((side // 4, side - side // 4) for side in latent.shape[-2:])
    middle = latent[0, :, ..., y[0] : y[1], x[0] : x[1]].flatten(1).mean(dim=1)
    if not torch.isfinite(middle).all():
        raise NoColor("the VAE gives no numbers for a flat color. Run it in another precision (--fp32-vae).")
    return middle


def _by_preview(latent_format: Any, rgb: Tensor) -> Tensor:
    factors = getattr(latent_format, "latent_rgb_factors", None)
    if factors is None:
        raise NoColor("the model has no colors for its latents (no preview): connect its VAE.")
    if len(factors) != latent_format.latent_channels:
        raise NoColor("the model's preview looks at its latents in another form: connect its VAE.")
    factors = torch.tensor(factors, dtype=torch.float32)
    bias = torch.tensor(getattr(latent_format, "latent_rgb_factors_bias", None) or [0.0] * 3)
    return (2 * rgb - 1 - bias) @ torch.linalg.pinv(factors)
