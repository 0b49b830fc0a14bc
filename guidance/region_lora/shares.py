"""How much of every value of a layer is each region's: in places of the picture, for words, for what has no place."""

from __future__ import annotations

import torch
from torch import Tensor

from ...attention.conds import Row
from ...attention.run import Run
from ...attention.sites import LayerTokens
from ..regions.masks import Part, Region, of_batch, part_of, token_shares
from ..regions.prompt_regions import regions_of


def shares_of_row(
    row: Row, run: Run, latent_size: tuple[int, ...], tokens: LayerTokens | None, canvas: Tensor,
    regions: tuple[Region, ...], common: float,
) -> Tensor:  # fmt: skip
    """[pictures, tokens, regions] of one prompt's rows; one token where the layer has no token axis.

    canvas: [n, regions, height, width], see Regions.canvas. What has no place (words of no region, tokens of reference
    pictures, the time embedding) takes `common` times what the regions cover of the part that the network sees. The
    words of a region are its own.
    """
    count, tokens = row.stop - row.start, tokens or LayerTokens()
    part = part_of(run.size, latent_size, row.area, row.key.window) or Part(latent_size[-2:])
    covered = _seen(_covered(canvas, latent_size, part), count, None, part)  # [pictures, 1, regions]
    placeless = common * covered
    parts = []
    if tokens.text_tokens:
        parts.append(_of_words(row, tokens, regions, placeless))
    if tokens.before:
        parts.append(placeless.expand(-1, tokens.before, -1))
    if tokens.grid:
        frames = tokens.grid[0] if len(tokens.grid) == 3 else None
        shares = token_shares(canvas, tokens.grid[-2:], tokens.extent[-2:], part.size, part.origin)
        parts.append(_seen(shares, count, frames, part))
    if tokens.behind:
        parts.append(placeless.expand(-1, tokens.behind, -1))
    return torch.cat(parts, dim=1) if parts else placeless


def _covered(canvas: Tensor, latent_size: tuple[int, ...], part: Part) -> Tensor:
    """What share of the part each region covers: [n, 1, regions]."""
    return token_shares(canvas, (1, 1), latent_size[-2:], part.size, part.origin)


def _seen(shares: Tensor, count: int, frames: int | None, part: Part) -> Tensor:
    """What is known per mask for the pictures or frames that the network sees. Without frames a video's are averaged
    over those."""
    if frames is None and part.total:
        seen = torch.tensor(part.seen) * len(shares) // part.total
        return shares[seen].mean(dim=0, keepdim=True).expand(count, -1, -1)
    return of_batch(shares, count, frames, part.seen, part.total)


def _of_words(row: Row, tokens: LayerTokens, regions: tuple[Region, ...], placeless: Tensor) -> Tensor:
    """[pictures, words, regions]. Words of several regions are shared among them."""
    count = tokens.text_tokens
    shares = placeless.expand(-1, count, -1)
    known = regions_of(row)
    if known is None or not known.items:
        return shares
    members = known.keys(count, tokens.text, row.length)  # [words, regions of the prompt]
    owned = torch.zeros(count, len(regions))
    for place, region in enumerate(known.items):
        if region in regions:
            owned[:, regions.index(region)] = members[:, place]
    owners = members.sum(dim=1, keepdim=True)
    return torch.where(owners > 0, owned / owners.clamp_min(1), shares)
