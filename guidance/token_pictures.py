"""Values per token as pictures."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def saliency_map(
    saliency: Tensor,
    grid: tuple[int, ...],
    size: tuple[int, ...],
    smooth: bool = False,
    extent: tuple[int, ...] | None = None,
) -> Tensor:
    """Column sums [batch, tokens] of one block as a picture [batch, 1, *size] whose tokens average 1 per sample.

    Rows of attention sum to 1, so the mean of plain self-attention is 1 already; dividing by it keeps the threshold's
    meaning where queries and keys differ in number. The other arguments are those of `token_picture`.
    """
    return token_picture(saliency / saliency.mean(dim=-1, keepdim=True), grid, size, smooth, extent)


def token_picture(
    values: Tensor,
    grid: tuple[int, ...],
    size: tuple[int, ...],
    smooth: bool = False,
    extent: tuple[int, ...] | None = None,
) -> Tensor:
    """A value per token [batch, tokens] as a picture [batch, 1, *size]; tokens become squares, or flow (`smooth`).

    grid, size: (height, width), for video (frames, height, width). extent: pixels that the grid spans if not `size`;
    what lies beyond is cut off, and frames that it does not reach (guiding ones) are 0.
    """
    picture = values.reshape(values.shape[0], 1, *grid)
    if smooth:
        mode = "bilinear" if len(grid) == 2 else "trilinear"
        picture = F.interpolate(picture, size=extent or size, mode=mode, align_corners=False)
    else:
        picture = F.interpolate(picture, size=extent or size, mode="nearest")
    inside = (slice(None), slice(None), *(slice(n) for n in size))
    picture = picture[inside]
    missing = size[0] - picture.shape[2]
    return F.pad(picture, (*(0, 0) * (len(size) - 1), 0, missing)) if missing else picture
