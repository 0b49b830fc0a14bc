"""Latents of video and sound, which ComfyUI's samplers carry as one row of numbers: the video comes first."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

Shapes = Sequence[Sequence[int]]  # of the latents in a row, with their batch; one or none: nothing is packed


def picture_size(x: Tensor, shapes: Shapes) -> tuple[int, ...]:
    """Axes of the picture or video after the channels."""
    return tuple(shapes[0][2:] if len(shapes) > 1 else x.shape[2:])


def picture_of(x: Tensor, shapes: Shapes) -> Tensor:
    """The picture or video of a latent [batch, 1, n], as [batch, channels, ...]; x itself where nothing is packed."""
    if len(shapes) < 2:
        return x
    own = tuple(shapes[0][1:])
    return x[:, 0, : math.prod(own)].reshape(len(x), *own)


def with_picture(x: Tensor, picture: Tensor, shapes: Shapes) -> Tensor:
    """The latent x with another picture in it."""
    if len(shapes) < 2:
        return picture
    flat = picture.reshape(len(picture), 1, -1)
    return torch.cat([flat, x[..., flat.shape[-1] :]], dim=-1)
