"""Regions on plain tensors: token shares of any mask, and modulated attention against the published operators."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import dense as reference
from torch import Tensor

from fovea.attention import chunked_softmax
from fovea.guidance.regions import augmented_attention, score_bias
from fovea.guidance.regions.masks import Region, Regions, of_batch, token_shares, vanishing
from fovea.guidance.regions.score_bias import RegionBias

HEADS, DIM = 3, 10


def backend(q: Tensor, k: Tensor, v: Tensor, heads: int | None = None) -> Tensor:
    """What a host's backend does: [batch, tokens, heads * dim], its scale taken from the channels it sees."""
    parts = [t.unflatten(2, (heads or HEADS, -1)).transpose(1, 2) for t in (q, k, v)]
    return torch.nn.functional.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)


def tensors(seed: int, batch: int, queries: int, keys: int, spread: float = 2.0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    make = lambda n: torch.randn(batch, n, HEADS * DIM, generator=generator) * spread  # noqa: E731
    return make(queries), make(keys), make(keys)


def modulated(
    q: Tensor, k: Tensor, v: Tensor, weights: Tensor, keys: Tensor, op: RegionBias, amount: Tensor | None = None
) -> Tensor:
    amount = weights.sum(dim=-1) if amount is None else amount
    parts = [augmented_attention.split_heads(t, HEADS, False) for t in (q, k)]
    scores = score_bias.bias_scores(*parts, DIM**-0.5, weights, keys, amount, op)
    return augmented_attention.attend(q, k, v, False, HEADS, None, backend, scores)


def heads(tensor: Tensor) -> Tensor:
    """[tokens, heads * dim] as [heads, tokens, dim] in double precision."""
    return tensor.double().unflatten(1, (HEADS, DIM)).transpose(0, 1)


def joined(tensor: Tensor) -> Tensor:
    return tensor.transpose(0, 1).flatten(1).float()


def stripe(start: int, stop: int) -> Tensor:
    """Some rows of a 6x4 mask."""
    mask = torch.zeros(6, 4)
    mask[start:stop] = 1
    return mask


def pixel(index: int) -> Tensor:
    return (torch.arange(24) == index).float().reshape(6, 4)


MASKS = {
    "two halves": torch.stack([stripe(0, 3), stripe(3, 6)]),
    "touching, rest free": torch.stack([stripe(0, 2), stripe(2, 4)]),
    "overlapping": torch.stack([stripe(0, 4), stripe(2, 5)]),
    "empty and full": torch.stack([stripe(0, 0), stripe(0, 6)]),
    "one pixel": torch.stack([pixel(9), pixel(10)]),
    "soft": torch.rand(2, 6, 4, generator=torch.Generator().manual_seed(0)) / 2,
}


def shares_of(masks: Tensor) -> Tensor:
    """One picture's shares on a grid of the masks' own size: [1, tokens, regions]."""
    canvas = Regions(tuple(Region(mask[None]) for mask in masks), "share").canvas()
    return token_shares(canvas, *[masks.shape[1:]] * 3)


@pytest.mark.parametrize("kind", ["self", "cross"])
@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("strength", [0.05, 0.6, 0.93])
def test_paper_operator_equals_the_published_one(kind: str, name: str, strength: float) -> None:
    """Masks of any softness; what no region has is a segment of its own, as in the paper."""
    shares = shares_of(MASKS[name])
    segments = score_bias.with_background(shares)
    covered = segments.mean(dim=1)
    keys = segments if kind == "self" else torch.zeros(1, 11, 2)
    if kind == "cross":
        keys[0, 2:4, 0] = keys[0, 6, 1] = 1
    q, k, v = tensors(1, 1, shares.shape[1], keys.shape[1])
    weights = score_bias.weigh(segments, torch.ones(3), covered, strength, 1.0)
    columns = keys.shape[-1]
    got = modulated(q, k, v, weights[..., :columns], keys, RegionBias(), weights.sum(dim=-1))[0]
    pairs = (segments[0, :, :columns] @ keys[0].T).double()
    area = (segments[0] * covered).sum(dim=-1).double()
    wanted = joined(reference.dense_diffusion(heads(q[0]), heads(k[0]), heads(v[0]), DIM**-0.5, pairs, area, strength))
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
    assert name == "empty and full" or not torch.allclose(got, backend(q, k, v)[0], atol=1e-3)


def test_a_share_of_a_region_is_that_share_of_its_bias() -> None:
    """Whatever else is there: half of one region gets half of the bias, and strengths are each region's own."""
    q, k, _ = tensors(4, 1, 2, 3)
    parts = [augmented_attention.split_heads(t, HEADS, False) for t in (q, k)]
    shares, words = torch.tensor([[[0.5, 0.0], [0.5, 0.5]]]), torch.tensor([[[1.0, 0], [0, 1], [0, 0]]])
    for unit in ("range", "row max", "row std", "max", "std"):
        bias = RegionBias(unit, temperature=0.0, area_weight=0.0, background=False)
        weights = score_bias.weigh(shares, torch.tensor([1.5, 0.2]), torch.zeros(1, 2), 0.8, 0.0)
        found = score_bias.bias_scores(*parts, DIM**-0.5, weights, words, weights.sum(dim=-1), bias)
        pairs = (found.query_factor @ found.key_factor[:, None].mT).expand(1, HEADS, 2, 3)
        full = score_bias.unit_height(*parts, DIM**-0.5, bias).expand(1, HEADS, 2)
        wanted = 0.8 * torch.tensor([[0.75, 0.0, 0.0], [0.75, 0.1, 0.0]])
        torch.testing.assert_close(pairs, full[..., None] * wanted, rtol=1e-6, atol=1e-6)


def test_paint_with_words_equals_the_published_one() -> None:
    shares = shares_of(MASKS["two halves"])
    keys = torch.zeros(1, 9, 2)
    keys[0, 3:5, 0] = keys[0, 5, 1] = 1
    q, k, v = tensors(2, 1, shares.shape[1], 9)
    weight, sigma = 0.4, 3.3
    weights = score_bias.weigh(shares, torch.ones(2), torch.zeros(1, 2), weight * math.log(1 + sigma), 0.0)
    whole = RegionBias("max", temperature=0, area_weight=0, background=False)
    parts = [augmented_attention.split_heads(t, HEADS, False) for t in (q, k)]
    pull = score_bias.bias_scores(*parts, DIM**-0.5, weights, keys, weights.sum(dim=-1), whole)
    got = augmented_attention.attend(q, k, v, False, HEADS, None, backend, pull, whole=True)[0]
    pairs = (shares[0] @ keys[0].T).double()
    wanted = reference.paint_with_words(heads(q[0]), heads(k[0]), heads(v[0]), DIM**-0.5, pairs, weight, sigma)
    torch.testing.assert_close(got, joined(wanted), rtol=1e-5, atol=1e-5)


def test_words_of_other_regions_are_pushed_down() -> None:
    words = torch.tensor([[0, 0], [1, 0], [1, 0], [0, 1], [1, 1], [0, 0]]).float()  # the last but one is of both
    red, blue, free = score_bias.word_factors(words, 0.5).T.tolist()
    assert red == [0, 1, 1, -0.5, 1, 0] and blue == [0, -0.5, -0.5, 1, 1, 0] and free == [0, -0.5, -0.5, -0.5, -0.5, 0]
    torch.testing.assert_close(score_bias.word_factors(words, 0.0)[:, :2], words)

    shares, amount = torch.tensor([[[1.0, 0, 0], [0.25, 0.25, 0.5]]]), torch.tensor([[0.8, 0.4]])
    q, k, v = tensors(8, 1, 2, 6)
    factors, plain_scores = score_bias.word_factors(words, 0.5)[None], RegionBias(temperature=0.0)
    got = modulated(q, k, v, amount[..., None] * shares, factors, plain_scores)[0]
    scores = heads(q[0]) @ heads(k[0]).mT * DIM**-0.5
    bias = amount[0, :, None] * torch.tensor([red, [0.25 * (r + b) + 0.5 * f for r, b, f in zip(red, blue, free)]])
    scores = scores + (scores.amax(-1, keepdim=True) - scores.amin(-1, keepdim=True)) * bias
    torch.testing.assert_close(got, joined(scores.softmax(-1) @ heads(v[0])), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("weak", [0.0, 0.05, 0.5, 1.0, 3.0])
def test_words_of_a_weak_region_are_pushed_down_as_little(weak: float) -> None:
    """Outside of its place; with the other region's words, which are as they were, and at strength 1 bit for bit."""
    words = torch.tensor([[0, 0], [1, 0], [0, 1], [1, 1]]).float()  # the last is of both
    given, plain = score_bias.word_factors(words, 0.7, torch.tensor([weak, 1.0])), score_bias.word_factors(words, 0.7)
    assert torch.equal(given[[0, 2, 3]], plain[[0, 2, 3]])
    down = -0.7 * min(weak, 1.0)
    torch.testing.assert_close(given[1], torch.tensor([1.0, down, down]))
    assert torch.equal(score_bias.word_factors(words, 0.7, torch.tensor([max(weak, 1.0), 2.0])), plain)


@pytest.mark.parametrize("chunk", [64, 10**9])
@pytest.mark.parametrize("shape", [(1, 1, 1, 5), (2, 1, 1, 5), (2, HEADS, 7, 5)])
def test_std_is_that_of_the_scores_that_are_seen(
    shape: tuple, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunked_softmax, "chunk_bytes_for", lambda *_: chunk)
    q, k, _ = tensors(3, 2, 7, 5)
    q, k = (augmented_attention.split_heads(t, HEADS, False) for t in (q, k))
    bias = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    bias[..., 2] = float("-inf")
    scores = (torch.einsum("bhid,bhjd->bhij", q, k) * 0.3 + bias).double()
    seen = scores[scores > float("-inf")]
    assert len(seen) == scores.numel() * 4 / 5
    torch.testing.assert_close(score_bias.scores_std(q, k, 0.3, bias), seen.std().float())
    hidden = score_bias.scores_std(q, k, 0.3, torch.full(shape, float("-inf")))
    assert torch.isfinite(hidden) and hidden < 1e-3, "where nothing is seen there is nothing to count in"


def test_std_is_that_of_all_scores() -> None:
    q, k, _ = tensors(3, 2, 7, 5)
    q, k = (augmented_attention.split_heads(t, HEADS, False) for t in (q, k))
    scores = torch.einsum("bhid,bhjd->bhij", q, k) * 0.3
    torch.testing.assert_close(score_bias.scores_std(q, k, 0.3), scores.std())


@pytest.mark.parametrize("chunk", [1, 64, 10**9])
@pytest.mark.parametrize("masked", [False, True])
def test_range_is_that_of_the_whole_matrix(chunk: int, masked: bool) -> None:
    q, k, _ = tensors(4, 2, 7, 5)
    q, k = (augmented_attention.split_heads(t, HEADS, False) for t in (q, k))
    bias = torch.zeros(2, 1, 1, 5)
    bias[0, ..., 3:] = bias[1, ..., 0] = float("-inf")
    scores = torch.einsum("bhid,bhjd->bhij", q, k) * 0.3 + (bias if masked else 0)
    found = augmented_attention.score_range(q, k, 0.3, bias if masked else None, chunk_bytes=chunk)
    torch.testing.assert_close(found.largest, scores.amax(-1))
    torch.testing.assert_close(found.smallest, torch.where(scores.isinf(), torch.inf, scores).amin(-1))


@pytest.mark.parametrize("unit", ["range", "row max", "row std", "std"])
def test_gradients_are_those_of_the_written_out_operator(unit: str) -> None:
    """The range's own gradient included: it reaches the keys that have the largest and the smallest score."""
    shares = score_bias.with_background(shares_of(MASKS["two halves"]))
    q, k, v = (t.double().requires_grad_() for t in tensors(11, 1, 24, 24))
    weights = score_bias.weigh(shares, torch.ones(3), shares.mean(dim=1), 0.6, 1.0)
    amount = weights.sum(dim=-1)
    weight = torch.randn(24, HEADS * DIM, generator=torch.Generator().manual_seed(1)).double()
    out = modulated(q, k, v, weights.double(), shares.double(), RegionBias(unit))
    got = torch.autograd.grad((out[0] * weight).sum(), (q, k, v))
    split = [t[0].unflatten(1, (HEADS, DIM)).transpose(0, 1) for t in (q, k, v)]
    s = torch.einsum("hid,hjd->hij", *split[:2]) * DIM**-0.5
    height = {
        "range": s.amax(-1) - s.amin(-1), "row max": s.amax(-1).clamp_min(0), "row std": s.std(-1, correction=0),
        "std": s.std().expand(s.shape[:2]),
    }  # fmt: skip
    keep, pairs = (1 - amount.double())[0, :, None], (shares[0] @ shares[0].T).double()
    s = keep * s + (amount.double()[0] * height[unit])[..., None] * pairs
    wanted_out = (s.softmax(-1) @ split[2]).transpose(0, 1).flatten(1)
    wanted = torch.autograd.grad((wanted_out * weight).sum(), (q, k, v))
    torch.testing.assert_close(out[0], wanted_out, rtol=1e-6, atol=1e-6)
    for a, b in zip(got, wanted):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6), regions=st.integers(1, 6), soft=st.booleans(), strength=st.floats(0, 4),
    operator=st.sampled_from([
        RegionBias(), RegionBias("row max", 0, 0, False), RegionBias("std", 0.5, 1, True), RegionBias("row std", 0, 0),
    ]),
    region_strength=st.floats(0, 10),
)  # fmt: skip
def test_any_masks_give_finite_attention(
    seed: int, regions: int, soft: bool, strength: float, operator: RegionBias, region_strength: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(regions, 9, 7, generator=generator)
    masks = masks if soft else (masks > masks.median() * 1.6).float()
    masks[0] *= seed % 2  # an empty one every other time
    shares = token_shares(Regions(tuple(Region(m[None]) for m in masks)).canvas(), (4, 3), (9, 7), (9, 7))
    columns = score_bias.with_background(shares) if operator.background else shares
    strengths = torch.full((columns.shape[-1],), region_strength)
    weights = score_bias.weigh(columns, strengths, columns.mean(dim=1), strength, operator.area_weight)
    q, k, v = tensors(seed, 1, 12, 12, spread=8.0)
    out = modulated(q, k, v, weights, columns, operator)
    assert torch.isfinite(out).all()
    assert out.abs().max() <= v.abs().max() * 1.001  # a mean of values


def test_items_do_not_depend_on_their_neighbors() -> None:
    fading = torch.tensor([1.0, 0.5, 0.1])[:, None, None]
    shares = score_bias.with_background(of_batch(shares_of(MASKS["soft"]), 3, None) * fading)
    q, k, v = tensors(5, 3, 24, 24)
    weights = score_bias.weigh(shares, torch.ones(3), shares.mean(dim=1), 0.7, 1.0)
    together = modulated(q, k, v, weights, shares, RegionBias())
    alone = [modulated(*(t[i : i + 1] for t in (q, k, v, weights, shares)), RegionBias()) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("keep", [1.0, 0.4])
@pytest.mark.parametrize("bias", [RegionBias(temperature=0.0), RegionBias(), RegionBias("row max", 0.0)])
def test_tokens_of_no_region_keep_their_share(bias: RegionBias, keep: float) -> None:
    """Against softmax written out: what the lifted tokens get of all attention is that part of what they got before."""
    q, k, _ = tensors(11, 2, 5, 7)
    words = torch.tensor([[0, 0], [1, 0], [0, 1], [1, 1], [0, 0], [0, 0], [0, 0]]).float()
    free = torch.tensor([0, 0, 0, 0, 1, 1, 0]).bool()
    shares = score_bias.with_background(torch.rand(2, 5, 2, generator=torch.Generator().manual_seed(1)) / 2)
    amount = 12 * torch.rand(2, 5, generator=torch.Generator().manual_seed(2))
    mask = torch.randn(1, 1, 1, 7, generator=torch.Generator().manual_seed(3))
    keys = score_bias.word_factors(words, 1.0)[None]
    q, k = (augmented_attention.split_heads(t, HEADS, False) for t in (q, k))
    weights = amount[..., None] * shares
    changed = score_bias.bias_scores(q, k, DIM**-0.5, weights, keys, amount, bias, mask)
    found = score_bias.free_keys(free.float())
    lift = score_bias.free_lift(q, k, DIM**-0.5, changed, found, torch.full((2, 5), keep), mask)
    before = (q @ k.mT * DIM**-0.5 + mask).double()
    scaled = before if changed.scale is None else changed.scale[..., None] * before
    after = scaled + changed.query_factor.double() @ changed.key_factor.double()[:, None].mT
    lifted = after + lift[..., None].double() * free
    had, has, gets = (s.softmax(-1)[..., free].sum(-1) for s in (before, after, lifted))
    drowned = has < keep * had
    assert drowned.any() and (lift >= 0).all()
    torch.testing.assert_close(gets[drowned], keep * had[drowned], rtol=1e-4, atol=1e-5)
    assert torch.equal(lift[~drowned], torch.zeros_like(lift[~drowned])), "what has gained already is left alone"


@given(
    sizes=st.tuples(st.integers(1, 40), st.integers(1, 40)), grid=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    patch=st.integers(1, 8), cut=st.integers(0, 3), overlap=st.sampled_from(["top", "share"]), seed=st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_token_shares_are_shares(
    sizes: tuple[int, int], grid: tuple[int, int], patch: int, cut: int, overlap: str, seed: int
) -> None:
    masks = torch.rand(3, 1, *sizes, generator=torch.Generator().manual_seed(seed))
    extent = (grid[0] * patch, grid[1] * patch)
    size = tuple(max(1, n - cut) for n in extent)
    canvas = Regions(tuple(Region(m) for m in masks), overlap).canvas()
    shares = token_shares(canvas, grid, extent, size)
    assert shares.shape == (1, math.prod(grid), 3)
    assert shares.min() >= 0 and shares.sum(dim=-1).max() <= 1 + 1e-5


def test_token_shares_are_area_means() -> None:
    mask = torch.rand(1, 12, 8, generator=torch.Generator().manual_seed(1)) * 0.2 + 0.6
    canvas = Regions((Region(mask),)).canvas()
    shares = token_shares(canvas, (3, 4), (12, 8), (12, 8)).reshape(3, 4)
    for y in range(3):
        for x in range(4):
            torch.testing.assert_close(shares[y, x], mask[0, 4 * y : 4 * y + 4, 2 * x : 2 * x + 2].mean())


def test_a_thin_region_keeps_its_strongest_token() -> None:
    thin = torch.zeros(1, 64, 64)
    thin[0, :, 21] = 1
    wide = torch.ones(1, 64, 64)
    regions = Regions((Region(wide), Region(thin)))
    shares = token_shares(regions.canvas(), (8, 8), (64, 64), (64, 64))
    assert (shares[0, :, 1] == 1).sum() == 1
    assert shares.sum(dim=-1).max() <= 1
    assert vanishing(regions.canvas(), (8, 8)) == [1]
    assert vanishing(regions.canvas(), (64, 64)) == []


def dot(y: int, x: int, size: int = 2) -> Tensor:
    mask = torch.zeros(1, 64, 64)
    mask[0, y : y + size, x : x + size] = 1
    return mask


@pytest.mark.parametrize("overlap", ["top", "share"])
def test_thin_regions_share_their_strongest_token(overlap: str) -> None:
    """Two dots of four pixels in one cell of a coarse grid: each has half of it, what else is there has the rest."""
    dots, wide = [dot(17, 17), dot(20, 20)], torch.ones(1, 64, 64)
    canvas = Regions((Region(wide), *map(Region, dots)), overlap).canvas()
    coarse = token_shares(canvas, (8, 8), (64, 64), (64, 64))[0].unflatten(0, (8, 8))
    means = canvas[0].unflatten(1, (8, 8)).unflatten(3, (8, 8)).mean(dim=(2, 4)).movedim(0, -1)
    peak = {"top": 1.0, "share": 0.5}[overlap]  # of a dot, over the wide one
    torch.testing.assert_close(coarse[2, 2], torch.tensor([means[2, 2, 0] * (1 - peak), peak / 2, peak / 2]))
    coarse[2, 2] = means[2, 2]
    torch.testing.assert_close(coarse, means, msg="elsewhere nothing changes")
    lone = token_shares(Regions((Region(wide), Region(dots[0]))).canvas(), (8, 8), (64, 64), (64, 64))
    assert lone[0, 18].tolist() == [0, 1], "one alone has all of it"


def test_a_thin_region_does_not_take_the_only_token_of_another() -> None:
    """A box that fills 0.6 of a cell and hardly anything beside it, with a dot in that cell."""
    box = dot(16, 16, 8)
    box[0, 21:] = 0
    regions = Regions((Region(box), Region(dot(21, 17))))
    shares = token_shares(regions.canvas(), (8, 8), (64, 64), (64, 64))[0]
    assert shares[18].tolist() == [0.5, 0.5] and shares.sum() == 1
    box[0, 8:16, 16:24] = 1  # another large cell: now the first can be spared
    shares = token_shares(Regions((Region(box), regions.items[1])).canvas(), (8, 8), (64, 64), (64, 64))[0]
    assert shares[18].tolist() == [0, 1] and shares[10].tolist() == [1, 0]
    part = token_shares(Regions((Region(box), regions.items[1])).canvas(), (4, 4), (32, 32), (64, 64), (16, 16))[0]
    assert part[0].tolist() == [0, 1], "also where the part that is seen has no other"


def test_the_last_painted_is_on_top() -> None:
    below, above = torch.ones(1, 4, 4), torch.zeros(1, 4, 4)
    above[0, 0, 0], above[0, 1, 1] = 1, 0.5
    canvas = Regions((Region(below), Region(above))).canvas()[0]
    assert canvas[:, 0, 0].tolist() == [0, 1] and canvas[:, 1, 1].tolist() == [0.5, 0.5]
    assert canvas[:, 2, 2].tolist() == [1, 0]
    shared = Regions((Region(below), Region(above)), "share").canvas()[0]
    torch.testing.assert_close(shared[:, 1, 1], torch.tensor([2 / 3, 1 / 3]))


def test_masks_of_other_sizes_and_numbers_are_fitted() -> None:
    one, many = torch.ones(1, 8, 8), torch.zeros(3, 16, 4)
    many[1] = 1
    canvas = Regions((Region(one), Region(many)), "share").canvas()
    assert canvas.shape == (3, 2, 16, 8)
    assert canvas[1, :, 0, 0].tolist() == [0.5, 0.5] and canvas[2, :, 0, 0].tolist() == [1, 0]


def numbered(*counts: int) -> Regions:
    """Regions with so many masks each; mask i of region r is all (i + 1) / 100."""
    masks = (torch.arange(1.0, n + 1)[:, None, None].expand(n, 2, 2) / 100 for n in counts)
    return Regions(tuple(Region(mask) for mask in masks), "share")


@pytest.mark.parametrize("counts", [(2, 3), (1, 4), (4, 6), (3, 3), (7, 5, 2)])
def test_masks_of_pictures_go_round_each_by_itself(counts: tuple[int, ...]) -> None:
    """Picture i has mask i modulo their number, of every region, in a batch of any size."""
    shares = token_shares(numbered(*counts).canvas(), (2, 2), (2, 2), (2, 2))
    found = (of_batch(shares, 150, None)[:, 0] * 100).round().int().tolist()
    if math.lcm(*counts) <= 64:
        assert found == [[i % n + 1 for n in counts] for i in range(150)]
    assert found[:64] == [[i % n + 1 for n in counts] for i in range(64)]


@pytest.mark.parametrize("frames", [1, 3, 4, 8])
@pytest.mark.parametrize("counts", [(2, 4), (2, 3), (1, 4), (3, 3)])
def test_masks_of_frames_are_spread_each_by_itself(counts: tuple[int, ...], frames: int) -> None:
    shares = token_shares(numbered(*counts).canvas(frames=True), (2, 2), (2, 2), (2, 2))
    found = of_batch(shares, 1, frames, tuple(range(frames)), 8)[0, ::4] * 100
    wanted = [[f * n // 8 + 1 for n in counts] for f in range(frames)]
    assert found.round().int().tolist() == wanted


def test_a_film_of_many_masks_is_not_multiplied() -> None:
    for frames in (False, True):
        assert len(numbered(81, 80, 1).canvas(frames)) == 81
        assert len(numbered(81, 81, 1).canvas(frames)) == 81
    assert numbered(1, 5, 5).canvas() is not numbered(1, 5, 5).canvas(), "twin: two of their own"
    same = numbered(1, 5, 5)
    assert same.canvas() is same.canvas(frames=True)


def test_frames_get_their_own_masks() -> None:
    shares = torch.arange(4.0)[:, None, None].expand(4, 6, 2)
    assert of_batch(shares, 2, 4)[1, :, 0].tolist() == [0.0] * 6 + [1.0] * 6 + [2.0] * 6 + [3.0] * 6
    assert of_batch(shares, 1, 2)[0, ::6, 0].tolist() == [0, 2]
    assert of_batch(shares, 1, 8)[0, ::6, 0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert of_batch(shares, 6, None)[:, 0, 0].tolist() == [0, 1, 2, 3, 0, 1]
    assert of_batch(shares, 6, 1)[:, 0, 0].tolist() == [0, 1, 2, 3, 0, 1], "pictures that have an axis for frames"
    assert of_batch(shares, 1, 1, (2,), 4)[:, 0, 0].tolist() == [2], "one frame of a video"


def test_standard_deviation_needs_no_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some devices have none. Exact also where the mean is far from zero."""
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(2, 3, 50, 8, generator=generator) + 5 for _ in range(2))
    scores = q.double() @ k.double().mT * 0.3
    monkeypatch.setattr(Tensor, "double", lambda *_: pytest.fail("float64"))
    torch.testing.assert_close(score_bias.scores_std(q, k, 0.3), scores.std().float(), rtol=1e-5, atol=0)
