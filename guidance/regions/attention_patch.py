"""The wrapper with which regions steer attention: which rows of the batch, which tokens, on the layer's own grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...attention.conds import Row
from ...attention.run import Attention, AttentionCall, Run
from ...attention.tensor_layout import as_bias, precision, split_heads, split_key_heads
from . import score_bias
from .augmented_attention import LowRankScores, attend
from .control import RegionControl, Strengths
from .masks import Part, of_batch, part_of, token_shares
from .prompt_regions import MARK, PromptRegions, regions_of

HIDDEN = -1e4  # added to scores of tokens not to be seen, where keys cannot be cut; exp of it is 0 everywhere
NO_PART = (
    "Regions do nothing here: the model sees a part of the picture of which neither the prompt's area nor a "
    "context window over frames tells, as tiling nodes give it. Sample the whole picture, or "
    "each part by itself with Crop Regions."
)


class Factors(NamedTuple):
    """W [batch, image tokens, columns], T [batch or 1, keys, columns] and a [batch, image tokens] at strength 1.

    free: text tokens of no region that keep some of their share, `keep` [batch, image tokens]; None where there
    are none.
    """

    weights: Tensor
    keys: Tensor
    amount: Tensor
    free: score_bias.FreeKeys | None = None
    keep: Tensor | None = None

    @property
    def columns(self) -> int:
        return self.weights.shape[-1] + (self.free is not None)


class SteeredRow(NamedTuple):
    """A row of a call with what is done to it. hides: appended tokens must not be seen, where nothing
    steers them."""

    row: Row
    regions: PromptRegions
    strengths: Strengths
    text: Factors | None
    image: Factors | None
    hides: bool

    @property
    def columns(self) -> int:
        return sum(each.columns for each in (self.text, self.image) if each is not None) + self.hides

    @property
    def tempered(self) -> bool:
        """Whether scores are scaled beside what is added to them."""
        return self.regions.control.bias.temperature > 0


@dataclass(frozen=True, eq=False)
class RegionAttention:
    """Steers the attention of prompts with regions in one step.

    facts: memory of the run for what depends on a prompt's regions and the grid alone. step: that of this step, for
    strengths, and for windows, which may lie elsewhere in the next.
    """

    facts: dict = field(default_factory=dict, repr=False)
    step: dict = field(default_factory=dict, repr=False)

    blocks: None = None  # every prompt names its own
    kinds: frozenset[str] = frozenset({"self", "cross", "joint"})
    reads: bool = False

    def wants(self, run: Run, rows: tuple[Row, ...], degraded: str | None) -> bool:
        for row in rows:
            regions = self.regions_for(run, row)
            if regions is not None and (self._steers(run, regions) or regions.appended < row.length):
                return True
        return False

    def visible_text(self, run: Run, rows: tuple[Row, ...]) -> int | None:
        """See TextTrimmer: what was appended for regions is cut off the prompts, where a row is steered as far as no
        region that acts is behind it."""
        kept: set[int] = set()
        others: set[int] = set()
        for row in rows:
            regions = self.regions_for(run, row)
            if regions is None or regions.appended == regions.length:
                others.add(row.length)
            elif row.length != regions.length:
                return None
            else:
                kept.add(_last_seen(regions) if self._steers(run, regions) else regions.appended)
        if len(kept) != 1 or any(not length or min(kept) % length for length in others):
            return None
        return kept.pop()

    def added_text(self, marks: Mapping[str, Any]) -> slice:
        """See TextTrimmer. Others may have put more behind it."""
        regions: PromptRegions | None = marks.get(MARK)
        return slice(0, 0) if regions is None else slice(regions.appended, regions.length)

    def attend(self, call: AttentionCall, attention: Attention) -> Tensor:
        """The call with the marked prompts' rows steered; shaped like `attention` gives it. See AttentionWrapper."""
        steered = [one for row in call.rows if (one := self._steered(call, row)) is not None]
        if not steered:
            return attention(call.q, call.k, call.v)
        if call.plain is not None and call.site.kind == "cross":
            # What another node adds in place of this call (a picture prompt) keeps to itself; ours is beside it.
            ours = self._whole(call, steered, call.plain)
            return attention(call.q, call.k, call.v) + (ours - call.plain(call.q, call.k, call.v))
        if call.wrapped or (call.mask is not None and call.mask.ndim > 2):
            return self._whole(call, steered, attention)
        return self._split(call, steered, attention)

    def regions_for(self, run: Run, row: Row) -> PromptRegions | None:
        """Those of a row that act in this step, the same object whenever these act; none of them in a row that has the
        text of a prompt with regions in another place."""
        regions, text = regions_of(row), row.text_marks.get(MARK)
        if regions is None and text is not None:
            return self._only(text, ())
        if regions is None or not regions.windows:
            return regions
        if regions not in self.step:
            self.step[regions] = self._only(regions, regions.acting(run.model.model_sampling, run.sigma))
        return self.step[regions]

    def _only(self, regions: PromptRegions, acting: tuple[int, ...]) -> PromptRegions:
        if (regions, acting) not in self.facts:
            self.facts[regions, acting] = regions.only(acting)
        return self.facts[regions, acting]

    def _steers(self, run: Run, regions: PromptRegions) -> bool:
        return bool(regions.tokens) and any(self._strengths(run, regions.control))

    def _strengths(self, run: Run, control: RegionControl) -> Strengths:
        if control not in self.step:
            self.step[control] = control.strengths(run.model.model_sampling, run.sigma)
        return self.step[control]

    def _steered(self, call: AttentionCall, row: Row) -> SteeredRow | None:
        """What is done to a row of a call, None if nothing is."""
        regions, kind = self.regions_for(call.run, row), call.site.kind
        if regions is None:
            return None
        if regions.unseen and 0 < row.length <= regions.unseen[-1]:  # cut off this call: there is nothing to hide
            unseen = tuple(place for place in regions.unseen if place < row.length)
            regions = self.facts.setdefault((regions, row.length), replace(regions, unseen=unseen))
        strengths, blocks = self._strengths(call.run, regions.control), regions.control.blocks
        text, image = strengths.text if kind != "self" else 0.0, strengths.image if kind != "cross" else 0.0
        if not regions.tokens or (blocks is not None and call.site.block not in blocks):
            text = image = 0.0
        words, places = self._factors(call, row, regions) if text or image else (None, None)
        words, places = words if text else None, places if image else None
        own_text = call.site.text_tokens - call.site.text.of(call.site.text_tokens, row.length)[0]
        hides = kind != "self" and (words is None or bool(regions.unseen)) and regions.appended < own_text
        if words is None and places is None and not hides:
            return None
        return SteeredRow(row, regions, strengths, words, places, hides)

    def _factors(self, call: AttentionCall, row: Row, regions: PromptRegions) -> tuple[Factors | None, Factors | None]:
        """Of words and of places, made once per prompt and grid; nothing where it is not known which part of the
        picture the network sees."""
        site, window = call.site, row.key.window
        key = (regions, site.kind, site.grid, site.extent, site.text_tokens, site.text, call.latent_size,
               row.area, window, row.length, row.stop - row.start, call.q.device)  # fmt: skip
        memory = self.facts if window is None else self.step
        if key not in memory:
            part = part_of(call.run.size, call.latent_size, row.area, window)
            memory[key] = (None, None) if part is None else _factors(call, row, regions, part)
        if memory[key] == (None, None):
            call.run.warn(NO_PART)
        return memory[key]

    def _split(self, call: AttentionCall, steered: list[SteeredRow], attention: Attention) -> Tensor:
        """Each steered row by itself, the rest of the batch as it is."""
        parts, done = [], 0
        for each in [*sorted(steered, key=lambda each: each.row.start), None]:
            start = call.q.shape[0] if each is None else each.row.start
            if start > done:
                parts.append(attention(*(t[done:start] for t in (call.q, call.k, call.v))))
            if each is None:
                break
            q, k, v = (t[each.row.start : each.row.stop] for t in (call.q, call.k, call.v))
            if each.text is None and each.image is None and call.mask is None:
                visible = self._visible_keys(call, each)
                parts.append(attention(q, *(t.index_select(2 if call.heads_first else 1, visible) for t in (k, v))))
            else:
                parts.append(self._modulated(call, q, k, v, [(each, slice(None))], attention, whole=False))
            done = each.row.stop
        return torch.cat(parts)

    def _visible_keys(self, call: AttentionCall, each: SteeredRow) -> Tensor:
        """Which keys of a row are not appended ones."""
        text, keys = call.site.text_tokens, call.k.shape[2 if call.heads_first else 1]
        key = (each.regions, "visible", keys, text, call.site.text, each.row.length, call.k.device)
        if key not in self.facts:
            hidden = torch.zeros(keys, dtype=torch.bool)
            hidden[call.site.words] = each.regions.hidden(text, call.site.text, each.row.length) > 0
            self.facts[key] = (~hidden).nonzero()[:, 0].to(call.k.device)
        return self.facts[key]

    def _whole(self, call: AttentionCall, steered: list[SteeredRow], attention: Attention) -> Tensor:
        """All rows and heads in one call, for functions of others that count on it."""
        where = [(each, slice(each.row.start, each.row.stop)) for each in steered]
        return self._modulated(call, call.q, call.k, call.v, where, attention, whole=True)

    def _modulated(
        self, call: AttentionCall, q: Tensor, k: Tensor, v: Tensor, steered: list[tuple[SteeredRow, slice]],
        attention: Attention, whole: bool,
    ) -> Tensor:  # fmt: skip
        queries = split_heads(q, call.heads, call.heads_first)
        keys = split_key_heads(k, call.heads, queries.shape[-1], call.heads_first)
        scores = _scores(call, queries, keys, steered)
        # Outside of inference mode gradients are taken, with PyTorch's attention: padding would cost their precision.
        for_kernels = call.wrapped and torch.is_inference_mode_enabled()
        return attend(q, k, v, call.heads_first, call.heads, call.scale, attention, scores, whole, for_kernels)


def _last_seen(regions: PromptRegions) -> int:
    """How many tokens a prompt has without those behind the words of the regions that act."""
    return next((n for n in range(regions.length, 0, -1) if n - 1 not in regions.unseen), 0)


def shares_of(call: AttentionCall, row: Row, regions: PromptRegions) -> Tensor | None:
    """How much of every token of a call's grid is each region's: [batch, image tokens, regions]; None where it is not
    known which part of the picture the network sees."""
    part = part_of(call.run.size, call.latent_size, row.area, row.key.window)
    if part is None:
        return None
    return _seen(call, row, part, _shares(call, regions.canvas_for(_frames(call), part.total), part))


def _frames(call: AttentionCall) -> int | None:
    """Of a call's grid; None where it has no axis for them."""
    return call.site.grid[0] if len(call.site.grid) == 3 else None


def _shares(call: AttentionCall, canvas: Tensor, part: Part) -> Tensor:
    """The same of all masks: [n, tokens of a frame, regions]."""
    site = call.site
    return token_shares(canvas, site.grid[-2:], site.extent[-2:], part.size, part.origin)


def _seen(call: AttentionCall, row: Row, part: Part, per_mask: Tensor) -> Tensor:
    """What is known per mask [n, tokens, regions], for the pictures or frames that the network sees."""
    return of_batch(per_mask, row.stop - row.start, _frames(call), part.seen, part.total).to(call.q.device)


def _factors(
    call: AttentionCall, row: Row, regions: PromptRegions, part: Part
) -> tuple[Factors | None, Factors | None]:
    """M, T and a of words and of places on the call's grid. Cross-attention has no places, self-attention no words."""
    site, bias, device = call.site, regions.control.bias, call.q.device
    canvas, given = regions.canvas_for(_frames(call), part.total), torch.tensor(regions.strengths)
    shares, strengths, covered = _shares(call, canvas, part), given, canvas.mean(dim=(-2, -1))
    if bias.score_unit == "hard":  # tokens are wholly a region's or not, whatever its strength
        shares, strengths = score_bias.whole_tokens(shares, canvas.amax(dim=(-2, -1))), torch.ones_like(given)
    with_background = score_bias.with_background

    def seen(per_mask: Tensor) -> Tensor:
        return _seen(call, row, part, per_mask)

    def weigh(background: bool) -> Tensor:
        m = with_background(shares) if background else shares
        cover = with_background(covered) if background else covered
        each = torch.cat([strengths, torch.ones(1)]) if background else strengths
        return seen(score_bias.weigh(m, each, cover, 1.0, bias.area_weight))

    words = places = None
    if site.kind != "cross":
        weights = weigh(bias.background)
        places = Factors(weights, seen(with_background(shares) if bias.background else shares), weights.sum(dim=-1))
    if site.kind != "self":
        weights = weigh(bias.background or bias.outside_weight > 0)
        whose = regions.keys(site.text_tokens, site.text, row.length)
        keys = score_bias.word_factors(whose, bias.outside_weight, given)[None]
        # Without a weight outside, the background's column lifts nothing.
        columns = weights.shape[-1] if bias.outside_weight else len(regions.tokens)
        free = score_bias.free_keys(regions.free_tokens(site.text_tokens, site.text, row.length).to(device))
        keeps = bias.free_weight > 0 and free.others < site.text_tokens
        # Where regions leave room, free places bear what is asked for beside them: the fuller, the more has to be kept.
        full = covered.sum(dim=-1)[:, None, None].expand(-1, shares.shape[1], 1)
        kept = (free, bias.free_weight * seen(full)[..., 0]) if keeps else (None, None)
        words = Factors(weights[..., :columns], keys[..., :columns].to(device), weights.sum(dim=-1), *kept)
    return words, places


def _scores(call: AttentionCall, q: Tensor, k: Tensor, steered: Sequence[tuple[SteeredRow, slice]]) -> LowRankScores:
    """What is done to the scores of all heads, all rows' columns in one buffer. q, k: [batch, heads, tokens, dim]."""
    (batch, heads, queries, dim), keys = q.shape, k.shape[2]
    columns, dtype = max(each.columns for each, _ in steered), precision(q)
    tempered = any(each.tempered for each, _ in steered)
    scores = LowRankScores(
        torch.ones(batch, 1, queries, device=q.device, dtype=dtype) if tempered else None,
        torch.zeros(batch, heads, queries, columns, device=q.device, dtype=dtype),
        torch.zeros(batch, keys, columns, device=q.device, dtype=dtype),
    )
    scale = dim**-0.5 if call.scale is None else call.scale
    # Behind its own channels a head may have what another such wrapper adds to scores: nothing to be measured here.
    q, k = q[..., : call.width], k[..., : call.width]
    mask = None if call.mask is None else as_bias(call.mask, torch.float32).to(q.device)
    for each, where in steered:
        row = each.row
        own_mask = mask[row.start : row.stop] if mask is not None and mask.shape[0] > 1 else mask
        _write(scores, where, call, each, q[where], k[where], scale, own_mask)
    return scores


def _write(
    scores: LowRankScores, where: slice, call: AttentionCall, each: SteeredRow, q: Tensor, k: Tensor, scale: float,
    mask: Tensor | None,
) -> None:  # fmt: skip
    """Write the columns of one row into the buffer of the batch."""
    site, image, bias, column = call.site, call.site.image, each.regions.control.bias, 0
    if site.kind == "joint":  # one softmax over text and image: a temperature for one part would move the other
        bias = replace(bias, temperature=0.0)
    for factors, strength, keys in (
        (each.text, each.strengths.text, site.words),
        (each.image, each.strengths.image, image),
    ):
        if factors is None:
            continue
        part = None if mask is None else mask[..., keys]
        if factors is each.text and each.regions.unseen:  # keys that nobody sees do not count
            unseen = each.regions.hidden(site.text_tokens, site.text, each.row.length, steered=True).to(q.device) > 0
            part = (torch.zeros(1, 1, 1, len(unseen), device=q.device) if part is None else part).masked_fill(
                unseen, float("-inf")
            )
        if part is not None and part.shape[2] > 1:
            part = part[:, :, image]
        queries, seen = q[:, :, image], k[:, :, keys]
        low_rank = score_bias.bias_scores(
            queries, seen, scale, factors.weights * strength, factors.keys, factors.amount * strength, bias, part
        )
        after = column + low_rank.query_factor.shape[-1]
        if scores.scale is not None and low_rank.scale is not None:
            scores.scale[where, :, image] *= low_rank.scale
        scores.query_factor[where, :, image, column:after] = low_rank.query_factor.to(scores.query_factor.dtype)
        scores.key_factor[where, keys, column:after] = low_rank.key_factor.to(scores.key_factor.dtype)
        column = after
        if factors.free is not None and factors.keep is not None:
            scores.query_factor[where, :, image, column] = score_bias.free_lift(
                queries, seen, scale, low_rank, factors.free, factors.keep, part
            )
            scores.key_factor[where, keys, column] = factors.free.chosen
            column += 1
    if each.hides:  # all queries leave the appended tokens alone
        hidden = each.regions.hidden(site.text_tokens, site.text, each.row.length, each.text is not None)
        scores.query_factor[where, :, :, column] = HIDDEN
        scores.key_factor[where, site.words, column] = hidden.to(scores.key_factor)
