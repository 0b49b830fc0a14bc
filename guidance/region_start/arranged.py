"""The noise's own blocks, moved to where they are wanted: no gradient, and with one noise still exactly Gaussian.

A block of noise prefers a content, and takes that along when it is moved (arXiv 2305.03382; mined from several noises:
2312.08872). One evaluation of the model tells which words look at which block; each region gets the blocks that its
words look at and others' do not.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ...attention.conds import Row
from ...attention.run import AttentionCall
from ..gradients.errors import NoGradient
from ..gradients.refusals import refuse_step_caches
from ..regions.masks import of_batch, part_of, token_shares
from ..regions.prompt_regions import MARK, PromptRegions
from ..starting_noise import EXCHANGES, StartOfRun, spatial_mean
from .probe import NOTHING_READ, attention_to_regions, read

logger = logging.getLogger(__name__)
OWNED = 0.5  # of a block, for it to be a region's
WHOLE = 0.999  # of a pixel that is drawn anew altogether


@dataclass(frozen=True, eq=False)
class ArrangedStart:
    """The noise of prompts whose control asks for it, arranged from `arranged_noises` noises, its own the first."""

    turn: int = EXCHANGES

    def changed(self, noise: Tensor, run: StartOfRun) -> Tensor:
        """Shaped like the noise, which comes back as it is, and the log says so, where it cannot be arranged."""
        conds = run.guider.conds.get("positive") or ()
        of_the_whole = (cond for cond in conds if MARK in cond and cond.get("area") is None)
        marked = next((cond for cond in of_the_whole if cond[MARK].control.arranged_noises), None)
        if marked is None:
            return noise
        why = _reason_against(run)
        if why:
            logger.warning("The starting noise is not arranged: %s", why)
            return noise
        regions: PromptRegions = marked[MARK].now(run.sampling, float(run.sigmas[0]))
        noises, maps = [], []
        for number in range(regions.control.arranged_noises):
            another = noise if number == 0 else _another(noise, number)
            with torch.no_grad():
                reading = read(another, run, [marked], _looked_at, {})
            if not reading.values:
                logger.warning(NOTHING_READ, "arranged")
                return noise
            noises.append(another)
            maps.append(torch.stack(reading.values).mean(dim=0))
        inside = run.inside(noise)
        canvas = regions.canvas_for(noise.shape[2] if noise.ndim == 5 else None, 0)
        made = arranged(torch.stack(noises, dim=1), torch.stack(maps, dim=1), canvas, inside)
        if len(noises) == 1:
            return made
        # The mean stays: it is the picture's brightness and tint, see layout_loss.py. A permutation keeps it anyway.
        whole = (inside > WHOLE).to(noise)
        return made - whole * spatial_mean(made - noise, whole)


ARRANGED = ArrangedStart()


def _reason_against(run: StartOfRun) -> str:
    """Why a run's noise cannot be arranged; "" if it can."""
    if run.model_options.get("context_handler") is not None:
        return "the model sees it through context windows, in parts."
    try:
        refuse_step_caches(run.guider.model_patcher)
    except NoGradient as why:
        return f"an evaluation before the first step would confuse a cache. {why}"
    return ""


def _looked_at(call: AttentionCall, row: Row, regions: PromptRegions) -> Tensor | None:
    """How much every place looks at each region's words: [batch, regions, height, width], the mean over frames; None
    where it is not known which part of the picture these places are."""
    if part_of(call.run.size, call.latent_size, row.area, row.key.window) is None:
        return None
    looked = torch.stack([own.sum(dim=-1) for own in attention_to_regions(call, row, regions)], dim=1)
    looked = looked.unflatten(2, call.site.grid)
    return looked.mean(dim=2) if len(call.site.grid) == 3 else looked


def arranged(noises: Tensor, maps: Tensor, canvas: Tensor, inside: Tensor) -> Tensor:
    """Noise made of blocks of noises [batch, n, channels, (frames,) height, width].

    maps: attention to each region's words in each of them, [batch, n, regions, rows, columns]: a block is what one of
    its places covers. canvas: whose every pixel is, [masks, regions, height, width]; for a video, whose blocks go
    through all frames, the mean of its masks. inside: how much of every pixel is drawn anew, like one of the noises;
    blocks that are not wholly so stay.
    """
    batch, size, grid = noises.shape[0], noises.shape[-2:], maps.shape[-2:]
    block = tuple(max(1, round(side / cells)) for side, cells in zip(size, grid))
    cells = (size[0] // block[0], size[1] // block[1])
    covered = (cells[0] * block[0], cells[1] * block[1])  # what is left at the far edges stays
    canvas = canvas.mean(dim=0, keepdim=True) if noises.ndim == 6 and noises.shape[3] > 1 else canvas
    shares = of_batch(token_shares(canvas, cells, covered, size), batch, None)
    looked = F.interpolate(maps.flatten(0, 1).float(), size=cells, mode="area").unflatten(0, maps.shape[:2])

    def blocks(values: Tensor) -> Tensor:
        part = values[..., : covered[0], : covered[1]]
        return rearrange(part, "n ... (y p) (x q) -> (n y x) ... p q", p=block[0], q=block[1])

    made = noises[:, 0].clone()
    for i in range(batch):
        movable = (blocks(inside[i : i + 1]).flatten(1).amin(dim=1) > WHOLE).cpu()
        order = chosen_blocks(rearrange(looked[i], "n r y x -> (n y x) r"), shares[i].to(looked), movable)
        made[i, ..., : covered[0], : covered[1]] = rearrange(
            blocks(noises[i])[order.to(noises.device)], "(y x) ... p q -> ... (y p) (x q)", y=cells[0]
        )
    return made


def chosen_blocks(looked: Tensor, shares: Tensor, movable: Tensor) -> Tensor:
    """Which block goes into which cell: [cells], numbers of blocks, each at most once.

    looked: attention to each region's words [blocks, regions], the first `cells` blocks those that are there; shares:
    how much of each cell is each region's [cells, regions]; movable: [cells], whether a cell takes part. Small regions
    choose first, by what their words look at more than others' do. Blocks that are right where they are stay; with one
    noise so do all others that nobody wants elsewhere, with several the rest is filled with blocks that no region's
    words look at.
    """
    looked = (looked / looked.mean(dim=0).clamp_min(1e-12)).cpu()
    rest, owners = looked.sum(dim=1, keepdim=True), shares.cpu().argmax(dim=1)
    owners[(shares.cpu().amax(dim=1) < OWNED) | ~movable] = -1
    score, count = 2 * looked - rest, len(owners)
    order, used = torch.arange(count), torch.zeros(len(looked), dtype=torch.bool)
    used[:count] = ~movable
    wanted = [(owners == r).nonzero()[:, 0] for r in range(looked.shape[1])]
    for r in sorted(range(len(wanted)), key=lambda r: len(wanted[r])):
        best = score[:, r].masked_fill(used, -torch.inf).topk(len(wanted[r])).indices
        _place(order, wanted[r], best)
        used[best] = True
    free = ((owners < 0) & movable).nonzero()[:, 0]
    if len(looked) == count:
        _place(order, free, (~used).nonzero()[:, 0])
    else:
        _place(order, free, looked.amax(dim=1).masked_fill(used, torch.inf).topk(len(free), largest=False).indices)
    return order


def _place(order: Tensor, cells: Tensor, blocks: Tensor) -> None:
    """Put blocks into cells, as many of each; those that are there already stay, the others come in any order, so that
    no gradient of how much they are wanted runs through them."""
    there = torch.isin(cells, blocks)
    order[cells[there]] = cells[there]
    moved = blocks[~torch.isin(blocks, cells)]
    order[cells[~there]] = moved[torch.randperm(len(moved), generator=torch.Generator().manual_seed(len(moved)))]


def _another(noise: Tensor, number: int) -> Tensor:
    """Noise like a picture's, the same for the same picture's noise whatever its place in the batch."""
    made = []
    for each in noise:
        seed = int(each.flatten()[:64].cpu().double().mul(2**20).abs().sum()) + number
        generator = torch.Generator().manual_seed(seed)
        made.append(torch.randn(each.shape, generator=generator))
    return torch.stack(made).to(noise)
