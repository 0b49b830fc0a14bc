"""CLIP B as a judge: how well pictures fit captions, and picture features for distances between sets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..shapesworld import words


@torch.no_grad()
def image_vectors(clip_b: Any, pictures: Tensor) -> Tensor:
    """pictures [n, height, width, 3] in 0..1 -> [n, 192]."""
    return clip_b.image(F.interpolate(pictures.movedim(-1, 1).float(), size=(64, 64), mode="area"))


@torch.no_grad()
def text_vectors(clip_b: Any, captions: Sequence[str]) -> Tensor:
    """-> [n, 192]."""
    ids = np.stack([words.encode(caption) for caption in captions])
    ends = torch.from_numpy(words.ends(ids))
    rows = torch.from_numpy(words.rows(ids[:, : int(ends.max()) + 1]))
    keep = (torch.arange(rows.shape[1]) <= ends[:, None]).float()
    return clip_b.text(rows, keep)


def scores(clip_b: Any, pictures: Tensor, captions: Sequence[str]) -> Tensor:
    """Cosine of every picture with its caption, [n]."""
    return F.cosine_similarity(image_vectors(clip_b, pictures), text_vectors(clip_b, captions))


def surroundings(picture: Tensor, mask: np.ndarray, margin: float = 1.3) -> Tensor:
    """The square of a picture [height, width, 3] around a mask's bounding box, `margin` times as wide, inside the
    picture; [64, 64, 3]."""
    at = np.argwhere(mask)
    (top, left), (bottom, right) = at.min(0), at.max(0) + 1
    height, width = mask.shape
    side = int(min(max(bottom - top, right - left) * margin, height, width))
    y = int(np.clip((top + bottom - side) // 2, 0, height - side))
    x = int(np.clip((left + right - side) // 2, 0, width - side))
    crop = picture[y : y + side, x : x + side].movedim(-1, 0)[None]
    return F.interpolate(crop.float(), size=(64, 64), mode="bilinear", antialias=True)[0].movedim(0, -1)
