"""Regions on one attention call, against its scores written out: hard ones, weak ones, and two that steer at once."""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from fovea.attention.conds import Row, RowKey
from fovea.attention.run import AttentionCall, Run
from fovea.attention.sites import BlockId, Site
from fovea.guidance.region_lora import apart
from fovea.guidance.regions.attention_patch import RegionAttention
from fovea.guidance.regions.control import RegionControl
from fovea.guidance.regions.masks import Region, Regions
from fovea.guidance.regions.prompt_regions import MARK, PromptRegions
from fovea.guidance.regions.score_bias import RegionBias

HEADS, DIM, GRID, WORDS = 2, 10, (4, 4), 7
PLACES = math.prod(GRID)
OWN = ((1, 2), (3, 4))  # words of the two regions
FOVEA = RegionBias("row std", temperature=0.0, area_weight=0.0, background=False, outside_weight=1.0)
HARD = RegionBias("hard", temperature=0.0, area_weight=0.0, background=False)


def mask_of(shares: dict[int, float]) -> Tensor:
    """A mask of the grid's size, so that its pixels are the tokens' shares."""
    mask = torch.zeros(PLACES)
    for place, share in shares.items():
        mask[place] = share
    return mask.view(1, *GRID)


def marked(regions: Regions, control: RegionControl) -> PromptRegions:
    strengths = tuple(region.strength for region in regions.items)
    return PromptRegions(control, regions.canvas(), strengths, OWN, WORDS, WORDS, regions=regions)


def call_of(kind: str, regions: PromptRegions, heads_first: bool = False) -> AttentionCall:
    """A call of one picture: its places look at each other, or at words."""
    sampling = SimpleNamespace(percent_to_sigma=lambda percent: 1 - percent)
    run = Run((), model=SimpleNamespace(model_sampling=sampling), sigma=0.9, size=GRID)
    row = Row(RowKey((), 0, None), 0, uuid.uuid4(), None, {MARK: regions}, 0, 1, length=WORDS)
    words = WORDS if kind == "cross" else 0
    generator = torch.Generator().manual_seed(3)
    q, k, v = (2 * torch.randn(1, HEADS, n, DIM, generator=generator) for n in (PLACES, *[words or PLACES] * 2))
    if not heads_first:
        q, k, v = (t.transpose(1, 2).flatten(2) for t in (q, k, v))
    site = Site(BlockId("middle", 0, 0), kind, GRID, GRID, text_tokens=words)
    layout = {"heads": HEADS, "heads_first": heads_first, "mask": None, "scale": None, "width": DIM}
    return AttentionCall(site, (row,), q, k, v, run=run, latent_size=GRID, **layout)


def backend(heads_first: bool) -> Callable[..., Tensor]:
    """The user's, which takes its scale from the channels that it is given."""

    def attention(q: Tensor, k: Tensor, v: Tensor, heads: int | None = None) -> Tensor:
        parts = (q, k, v) if heads_first else (t.unflatten(2, (heads or HEADS, -1)).transpose(1, 2) for t in (q, k, v))
        return torch.nn.functional.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)

    return attention


def scores_of(call: AttentionCall) -> tuple[Tensor, Tensor]:
    """Scores [heads, queries, keys] and values [heads, keys, dim] in double precision."""
    q, k, v = (t[0].double() if call.heads_first else t[0].double().unflatten(1, (HEADS, DIM)).transpose(0, 1)
               for t in (call.q, call.k, call.v))  # fmt: skip
    return q @ k.mT * DIM**-0.5, v


def attended(scores: Tensor, v: Tensor) -> Tensor:
    return (scores.softmax(-1) @ v).transpose(0, 1).flatten(1)[None].float()


class TestHard:
    SHARES = ({0: 0.6, 1: 0.7, 2: 0.9, 3: 0.05, 4: 0.4, 5: 0.5, 6: 0.45}, {3: 0.8, 5: 0.4, 6: 0.45, 7: 0.6, 8: 0.3})
    TOKENS = ({0, 1, 2, 5}, {3, 6, 7})  # most of the token, at least half of the region's peak; of equals the front one

    @pytest.mark.parametrize("strengths", [(1.0, 1.0, 1.0), (0.01, 0.002, 0.03), (4.0, 4.0, 9.0)])
    @pytest.mark.parametrize("kind", ["self", "cross"])
    def test_places_see_all_of_their_own_region_and_nothing_else(self, kind: str, strengths: tuple) -> None:
        """However strong: strengths only switch it on. Places that are barely touched see everything."""
        text, image, of_region = strengths
        regions = Regions(tuple(Region(mask_of(each), strength=of_region) for each in self.SHARES), "share")
        call = call_of(kind, marked(regions, RegionControl(HARD, text, image, law="constant")))
        scores, v = scores_of(call)
        keys = OWN if kind == "cross" else self.TOKENS
        for place in range(PLACES):
            own = {key for region, tokens in enumerate(self.TOKENS) if place in tokens for key in keys[region]}
            for key in range(scores.shape[2]):
                if own and key not in own:
                    scores[:, place, key] = float("-inf")
        got = RegionAttention().attend(call, backend(False))
        torch.testing.assert_close(got, attended(scores, v), rtol=1e-4, atol=1e-5)

    def test_a_part_of_the_picture_with_a_sliver_of_a_region_has_nothing_of_it(self) -> None:
        """The left half by itself, whose last column has an eighth of the region."""
        mask = torch.zeros(1, 32, 64)
        mask[..., 31:] = 1
        regions = Regions((Region(mask), Region(0 * mask)))
        call = call_of("self", marked(regions, RegionControl(HARD, 1.0, 1.0, law="constant")))
        row = replace(call.rows[0], area=(*GRID, 0, 0))
        call.run.size = (4, 8)
        got = RegionAttention().attend(replace(call, rows=(row,)), backend(False))
        torch.testing.assert_close(got, attended(*scores_of(call)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("strength", [0.0, 0.05, 1.0, 2.0])
def test_a_weak_region_is_weak_outside_too(strength: float) -> None:
    """Its words are pushed down elsewhere as little as they are lifted in its place. The other region is at 1."""
    shares = ({0: 1.0, 1: 0.5}, {4: 1.0, 5: 1.0})
    regions = Regions(tuple(Region(mask_of(each), strength=s) for each, s in zip(shares, (strength, 1.0))))
    call = call_of("cross", marked(regions, RegionControl(FOVEA, 2.0, 0.0, law="constant")))
    scores, v = scores_of(call)
    spread, down = scores.std(-1, correction=0), (min(strength, 1.0), 1.0)
    for place in range(PLACES):
        of_regions = [each.get(place, 0.0) for each in shares]
        for owner, words in enumerate(OWN):
            other = 1 - owner
            own = of_regions[owner] * (strength, 1.0)[owner]
            elsewhere = of_regions[other] * (strength, 1.0)[other] + 1 - sum(of_regions)
            for word in words:
                scores[:, place, word] += 2.0 * spread[:, place] * (own - down[owner] * elsewhere)
    got = RegionAttention().attend(call, backend(False))
    torch.testing.assert_close(got, attended(scores, v), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("heads_first", [False, True])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_two_that_steer_at_once_measure_plain_scores(temperature: float, heads_first: bool) -> None:
    """Dense Diffusion and `apart` of Region LoRA, in either order: both biases on the scores that the network has."""
    left = mask_of({place: 1.0 for place in range(PLACES) if place % 4 < 2})
    regions = Regions((Region(left), Region(1 - left)))
    bias = replace(FOVEA, temperature=temperature)
    call = call_of("self", marked(regions, RegionControl(bias, 0.0, 0.6, law="constant")), heads_first)
    scores, v = scores_of(call)
    columns = left.flatten() > 0
    pairs = (columns[:, None] == columns[None]).double()
    spread = scores.std(-1, correction=0, keepdim=True)
    kept, ours = 1 - 0.6 * temperature, 0.6 * spread * pairs
    wanted = attended(kept * (scores + 0.1 * apart.FULL * spread * pairs) + ours, v)
    steering, keeping_apart = RegionAttention(), apart.Apart(regions=regions, strength=0.1)
    orders: Sequence[tuple[RegionAttention, RegionAttention]] = (
        (steering, keeping_apart), (keeping_apart, steering)
    )  # fmt: skip
    for outer, inner in orders:

        def inside(q: Tensor, k: Tensor, v: Tensor, heads: int | None = None, inner: RegionAttention = inner) -> Tensor:
            given = replace(call, q=q, k=k, v=v, heads=heads or HEADS)
            return inner.attend(given, backend(heads_first))

        got = outer.attend(replace(call, wrapped=True), inside)
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
