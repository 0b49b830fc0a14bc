"""The wrapper with which regions steer attention: which rows of the batch, which tokens, on the layer's own grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ...attention.conds import Row
from ...attention.run import Attention, AttentionCall, Run
from ...attention.sites import BlockId
from ...attention.tensor_layout import as_bias, split_heads
from . import score_bias
from .augmented_attention import LowRankScores, attend
from .masks import Part, of_batch, part_of, token_shares
from .score_bias import RegionBias

MARK = "fovea_regions"  # key of a cond dict that holds the Layout of its prompt
HIDDEN = -1e4  # added to scores of tokens not to be seen, where keys cannot be cut; exp of it is 0 everywhere


@dataclass(frozen=True, eq=False)
class Layout:
    """Regions tied to an encoded prompt.

    canvas: [n, regions, height, width], see Regions.canvas. strengths: one per region. tokens: per region the places
    of its phrase in the prompt. length: tokens of the prompt. appended: place of the first token that is there for a
    region only, not seen where regions do not steer; `length` if there is none. negative: of a negative prompt.
    """

    canvas: Tensor = field(repr=False)
    strengths: tuple[float, ...]
    tokens: tuple[tuple[int, ...], ...]
    length: int
    appended: int
    negative: bool = False

    def keys(self, count: int, own: int = 0) -> Tensor:
        """T: whose every text token is, [count, regions]. ComfyUI repeats a prompt to the length of a longer one.

        own: tokens of the prompt now, with what other nodes have put behind it.
        """
        found = torch.zeros(self.length, len(self.tokens))
        for region, places in enumerate(self.tokens):
            found[list(places), region] = 1
        return _repeat_or_pad(found, count, own)

    def hidden(self, count: int, own: int = 0) -> Tensor:
        """Which text tokens are appended: [count, 1]; own: as in `keys`."""
        return _repeat_or_pad((torch.arange(self.length) >= self.appended).float()[:, None], count, own)


def _repeat_or_pad(tokens: Tensor, count: int, own: int) -> Tensor:
    """[length, c] as [count, c]: followed by zeros up to its own length, repeated if count is a multiple of that, else
    followed by zeros."""
    tokens = torch.cat([tokens, tokens.new_zeros(max(0, own - len(tokens)), tokens.shape[1])])
    if count % len(tokens) == 0:
        return tokens.repeat(count // len(tokens), 1)
    return torch.cat([tokens, tokens.new_zeros(max(0, count - len(tokens)), tokens.shape[1])])[:count]


@dataclass(frozen=True, eq=False)
class RegionAttention:
    """Steers attention of marked prompts in one step.

    text, image: strengths at this noise level between image and text tokens and among image tokens; 0 is off.
    kept: memory of the run for what depends on the layout and the grid alone. step: that of this step, for windows,
    which may lie elsewhere in the next.
    """

    blocks: frozenset[BlockId] | None
    operator: RegionBias
    text: float
    image: float
    kept: dict = field(default_factory=dict, repr=False)
    step: dict = field(default_factory=dict, repr=False)

    kinds: frozenset[str] = frozenset({"self", "cross", "joint"})
    reads: bool = False

    def wants(self, run: Run, rows: tuple[Row, ...], degraded: str | None) -> bool:
        return any(self._matters(layout) for row in rows if (layout := layout_of(row)) is not None)

    def _matters(self, layout: Layout) -> bool:
        return bool(self.text or self.image) or layout.appended < layout.length

    def attend(self, call: AttentionCall, attention: Attention) -> Tensor:
        """The call with the marked prompts' rows steered; shaped like `attention` gives it. See AttentionWrapper."""
        steered = [row for row in call.rows if self._is_steered(call, row)]
        if not steered:
            return attention(call.q, call.k, call.v)
        if call.plain is not None and call.site.kind == "cross":
            # What another node adds in place of this call (a picture prompt) keeps to itself; ours is beside it.
            ours = self._whole(call, steered, call.plain)
            return attention(call.q, call.k, call.v) + (ours - call.plain(call.q, call.k, call.v))
        if call.wrapped or (call.mask is not None and call.mask.ndim > 2):
            return self._whole(call, steered, attention)
        return self._split(call, steered, attention)

    def _is_steered(self, call: AttentionCall, row: Row) -> bool:
        layout = layout_of(row)
        if layout is None:
            return False
        kind, appended = call.site.kind, layout.appended < layout.length
        text, image = self._strengths(call, row)
        return bool((kind != "cross" and image) or (kind != "self" and (text or appended)))

    def _strengths(self, call: AttentionCall, row: Row) -> tuple[float, float]:
        """Of text and image; nothing where it is not known which part of the picture the network sees."""
        if _part(call, row) is not None:
            return self.text, self.image
        call.run.warn(
            "Regions do nothing here: the model sees a part of the picture of which neither the prompt's area nor a "
            "context window over frames tells, as tiling nodes give it. Sample the whole picture, or "
            "use Regions to Conditioning."
        )
        return 0.0, 0.0

    def _split(self, call: AttentionCall, steered: list[Row], attention: Attention) -> Tensor:
        """Each steered row by itself, the rest of the batch as it is."""
        parts, done = [], 0
        for row in [*sorted(steered, key=lambda row: row.start), None]:
            start = call.q.shape[0] if row is None else row.start
            if start > done:
                parts.append(attention(*(t[done:start] for t in (call.q, call.k, call.v))))
            if row is None:
                break
            q, k, v = (t[row.start : row.stop] for t in (call.q, call.k, call.v))
            if self._only_hides(call, row):
                visible = self._visible_keys(call, row)
                parts.append(attention(q, *(t.index_select(2 if call.heads_first else 1, visible) for t in (k, v))))
            else:
                parts.append(self._modulated(call, q, k, v, [(row, slice(None))], attention, whole=False))
            done = row.stop
        return torch.cat(parts)

    def _only_hides(self, call: AttentionCall, row: Row) -> bool:
        """Whether nothing is steered but appended tokens have to be left out, which needs no longer vectors."""
        words, places = self._strengths(call, row)
        return not words and (call.site.kind == "cross" or not places) and call.mask is None

    def _visible_keys(self, call: AttentionCall, row: Row) -> Tensor:
        """Which keys of a row are not appended ones."""
        layout, site, keys = layout_of(row), call.site, call.k.shape[2 if call.heads_first else 1]
        assert layout is not None

        def make() -> tuple[Tensor]:
            hidden = torch.zeros(keys, dtype=torch.bool)
            hidden[: site.text_tokens] = layout.hidden(site.text_tokens, row.length)[:, 0] > 0
            return ((~hidden).nonzero()[:, 0].to(call.k.device),)

        (visible,) = _memo(self.kept, (layout, "visible", keys, site.text_tokens, row.length, call.k.device), make)
        return visible

    def _whole(self, call: AttentionCall, steered: list[Row], attention: Attention) -> Tensor:
        """All rows and heads in one call, for functions of others that count on it."""
        where = [(row, slice(row.start, row.stop)) for row in steered]
        return self._modulated(call, call.q, call.k, call.v, where, attention, whole=True)

    def _modulated(
        self, call: AttentionCall, q: Tensor, k: Tensor, v: Tensor, steered: list[tuple[Row, slice]],
        attention: Attention, whole: bool,
    ) -> Tensor:  # fmt: skip
        queries, keys = (split_heads(t, call.heads, call.heads_first) for t in (q, k))

        def scores_for_heads(heads: slice) -> LowRankScores:
            pulls = [self._row_scores(call, row, queries[where, heads], keys[where, heads]) for row, where in steered]
            return _scatter_to_batch([where for _, where in steered], pulls, queries.shape[0])

        whole = whole or self.operator.measure in score_bias.OF_THE_CALL
        # Outside of inference mode gradients are taken, with PyTorch's attention: padding would cost their precision.
        for_kernels = call.wrapped and torch.is_inference_mode_enabled()
        return attend(
            q, k, v, call.heads_first, call.heads, call.scale, attention, scores_for_heads, whole, for_kernels
        )

    def _row_scores(self, call: AttentionCall, row: Row, q: Tensor, k: Tensor) -> LowRankScores:
        """What is done to the scores of one prompt's rows; q, k: [batch, heads, tokens, dim]."""
        layout = layout_of(row)
        assert layout is not None
        scale = q.shape[-1] ** -0.5 if call.scale is None else call.scale
        bias = None if call.mask is None else as_bias(call.mask, torch.float32).to(q.device)
        if bias is not None and bias.shape[0] > 1:
            bias = bias[row.start : row.stop]
        site, image, op = call.site, call.site.image, self.operator
        if site.kind == "joint":  # one softmax over text and image: a temperature for one part would move the other
            op = replace(op, temperature=0.0)
        parts = []
        words, places = self._strengths(call, row)
        for strength, text in ((words, True), (places, False)):
            columns = slice(0, site.text_tokens) if text else image
            if strength and (site.kind == "joint" or (site.kind == "cross") == text):
                queries, keys, amount = self._columns(call, row, layout, q, text, strength, op)
                part = None if bias is None else bias[..., columns]
                if part is not None and part.shape[2] > 1:
                    part = part[:, :, image]
                found = score_bias.pull(q[:, :, image], k[:, :, columns], scale, queries, keys, amount, op, part)
                parts.append(_expand_to_all_tokens(found, q.shape[2], image, k.shape[2], columns))
        if not words and site.kind != "self" and layout.appended < layout.length:
            parts.append(_mask_appended(layout, q, k, site.text_tokens, row.length))
        return _concat_columns(parts)

    def _columns(
        self, call: AttentionCall, row: Row, layout: Layout, q: Tensor, text: bool, strength: float, op: RegionBias
    ) -> tuple[Tensor, Tensor, Tensor]:
        """M [batch, image tokens, regions], T [batch or 1, keys, regions] and amounts a [batch, image tokens]."""

        part = _part(call, row)
        assert part is not None

        def make() -> tuple[Tensor, Tensor, Tensor]:
            site, canvas = call.site, layout.canvas
            frames = site.grid[0] if len(site.grid) == 3 else None
            shares = token_shares(canvas, site.grid[-2:], site.extent[-2:], part.size, part.origin)
            covered, strengths = canvas.mean(dim=(-2, -1)), torch.tensor(layout.strengths)
            if op.background or (text and op.against):
                shares = score_bias.with_background(shares)
                covered = score_bias.with_background(covered)
                strengths = torch.cat([strengths, torch.ones(1)])
            amount = score_bias.amounts(shares, strengths, covered, 1.0, op.area)[..., None]
            batch = q.shape[0]
            queries, amount = (of_batch(each, batch, frames, part.seen, part.total) for each in (shares, amount))
            amount = amount[..., 0]
            if not text:
                return queries.to(q.device), queries.to(q.device), amount.to(q.device)
            keys = score_bias.words_of(layout.keys(site.text_tokens, row.length), op.against)[None]
            columns = queries.shape[-1] if op.against else len(layout.tokens)  # else the background's pulls nothing
            return queries[..., :columns].to(q.device), keys[..., :columns].to(q.device), amount.to(q.device)

        key = (layout, call.site.grid, call.site.extent, part, q.shape[0], text, call.site.text_tokens, row.length,
               op, q.device)  # fmt: skip
        queries, keys, amount = _memo(self.kept if part.seen is None else self.step, key, make)
        return queries, keys, amount * strength


def layout_of(row: Row) -> Layout | None:
    """The regions of a row's prompt; None for a prompt that stands where it does not belong.

    ComfyUI copies a prompt with an area to the guider's other lists, its marks included.
    """
    layout = row.marks.get(MARK)
    return layout if layout is not None and row.own and layout.negative == row.negative else None


def _part(call: AttentionCall, row: Row) -> Part | None:
    return part_of(call.run.size, call.latent_size, row.area, row.key.window)


def _memo(kept: dict, key: tuple, make: Callable[[], tuple]) -> tuple:
    if key not in kept:
        kept[key] = make()
    return kept[key]


def _mask_appended(layout: Layout, q: Tensor, k: Tensor, text_tokens: int, own: int) -> LowRankScores:
    """All queries leave the appended tokens alone."""
    batch, _, queries, _ = q.shape
    hidden = torch.zeros(1, k.shape[2], 1, device=q.device)
    hidden[0, :text_tokens] = layout.hidden(text_tokens, own).to(q.device)
    keep = torch.ones(batch, 1, queries, device=q.device)
    return LowRankScores(keep, HIDDEN * keep[..., None], hidden)


def _expand_to_all_tokens(pull: LowRankScores, queries: int, image: slice, keys: int, columns: slice) -> LowRankScores:
    """A pull on a part of the queries and keys as one on all of them."""
    if pull.scale.shape[-1] == queries and pull.key_factor.shape[1] == keys:
        return pull
    keep = pull.scale.new_ones(*pull.scale.shape[:2], queries)
    keep[..., image] = pull.scale
    left = pull.query_factor.new_zeros(*pull.query_factor.shape[:2], queries, pull.query_factor.shape[-1])
    left[:, :, image] = pull.query_factor
    right = pull.key_factor.new_zeros(pull.key_factor.shape[0], keys, pull.key_factor.shape[-1])
    right[:, columns] = pull.key_factor
    return LowRankScores(keep, left, right)


def _concat_columns(pulls: list[LowRankScores]) -> LowRankScores:
    """Several pulls as one."""
    if len(pulls) == 1:
        return pulls[0]
    heads, batch = max(p.query_factor.shape[1] for p in pulls), pulls[0].query_factor.shape[0]
    keep = pulls[0].scale
    for p in pulls[1:]:
        keep = keep * p.scale
    left = torch.cat([p.query_factor.expand(-1, heads, -1, -1) for p in pulls], dim=-1)
    return LowRankScores(keep, left, torch.cat([p.key_factor.expand(batch, -1, -1) for p in pulls], dim=-1))


def _scatter_to_batch(places: list[slice], pulls: list[LowRankScores], batch: int) -> LowRankScores:
    """Pulls of parts of a batch as one of the whole batch; the other rows are left as they are."""
    pull = pulls[0]
    if len(pulls) == 1 and pull.scale.shape[0] == batch:
        return pull
    columns = max(p.query_factor.shape[-1] for p in pulls)
    heads = max(p.query_factor.shape[1] for p in pulls)
    keep = pull.scale.new_ones(batch, max(p.scale.shape[1] for p in pulls), pull.scale.shape[2])
    left = pull.query_factor.new_zeros(batch, heads, pull.query_factor.shape[2], columns)
    right = pull.key_factor.new_zeros(batch, pull.key_factor.shape[1], columns)
    for where, p in zip(places, pulls):
        keep[where] = p.scale
        left[where, :, :, : p.query_factor.shape[-1]] = p.query_factor
        right[where, :, : p.key_factor.shape[-1]] = p.key_factor
    return LowRankScores(keep, left, right)
