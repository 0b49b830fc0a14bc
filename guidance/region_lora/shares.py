"""How much of every value of a layer is each region's: in places of the picture, for words, for what has no place."""

from __future__ import annotations

import torch
from torch import Tensor

from ...attention.conds import Row
from ...attention.run import Run
from ...attention.sites import LayerTokens
from ..regions.masks import Part, Regions, area_means, is_video, of_batch, part_of, token_shares
from ..regions.prompt_regions import regions_of


def shares_of_row(
    row: Row, run: Run, latent_size: tuple[int, ...], tokens: LayerTokens | None, regions: Regions, common: float
) -> Tensor:
    """[pictures, tokens, regions] of one prompt's rows; one token where the layer has no token axis.

    regions: with black masks where they do not act. What has no place (words of no region, tokens of reference
    pictures, the time embedding) takes `common` times what the regions cover of the part that the network sees. The
    words of a region are its own.
    """
    count, tokens = row.stop - row.start, tokens or LayerTokens()
    part = part_of(run.size, latent_size, row.area, row.key.window)
    assert part is not None, "rows of which it is not known are left out: see knows_its_part"
    placeless = common * _covered(regions, latent_size, count, part)  # [pictures, 1, regions]
    parts = []
    if tokens.text_tokens:
        parts.append(_of_words(row, run, tokens, regions, placeless))
    if tokens.before:
        parts.append(placeless.expand(-1, tokens.before, -1))
    if tokens.grid:
        frames = tokens.grid[0] if len(tokens.grid) == 3 else None
        canvas = regions.canvas(is_video(frames, part.total))
        shares = token_shares(canvas, tokens.grid[-2:], tokens.extent[-2:], part.size, part.origin)
        parts.append(of_batch(shares, count, frames, part.seen, part.total))
    if tokens.behind:
        parts.append(placeless.expand(-1, tokens.behind, -1))
    return torch.cat(parts, dim=1) if parts else placeless


def knows_its_part(row: Row, run: Run, latent_size: tuple[int, ...]) -> bool:
    """Whether it is known which part of the picture a row's call of the network sees. Tiling nodes do not tell."""
    return part_of(run.size, latent_size, row.area, row.key.window) is not None


def words_now(row: Row, run: Run) -> tuple[int, ...]:
    """Which of a prompt's regions act at this noise level, whose words are theirs."""
    known = regions_of(row)
    return () if known is None else known.acting(run.model.model_sampling, run.sigma)


def _covered(regions: Regions, latent_size: tuple[int, ...], count: int, part: Part) -> Tensor:
    """What share of the part each region covers, of a video in the mean over the frames seen: [pictures, 1, regions].
    """
    frames = latent_size[0] if len(latent_size) == 3 else None
    canvas = regions.canvas(is_video(frames, part.total))
    covered = area_means(canvas, (1, 1), latent_size[-2:], part.size, part.origin).flatten(1, 2)
    each = of_batch(covered, count, frames, part.seen, part.total)
    return each.mean(dim=1, keepdim=True)


def _of_words(row: Row, run: Run, tokens: LayerTokens, regions: Regions, placeless: Tensor) -> Tensor:
    """[pictures, words, regions]. Words of several regions are shared among them, those of regions that do not act now
    are nobody's. The prompt's regions may be earlier or later forms of these: cropped, without a LoRA."""
    count = tokens.text_tokens
    shares = placeless.expand(-1, count, -1)
    known = regions_of(row)
    if known is None or not len(known.regions):
        return shares
    known = known.only(words_now(row, run))
    members = known.keys(count, tokens.text, row.length)  # [words, regions of the prompt]
    owned, places = torch.zeros(count, len(regions)), {region.origin: i for i, region in enumerate(regions.items)}
    for i, region in enumerate(known.regions.items):
        if region.origin in places:
            owned[:, places[region.origin]] = members[:, i]
    owners = members.sum(dim=1, keepdim=True)
    return torch.where(owners > 0, owned / owners.clamp_min(1), shares)
