"""How far a row's scores spread, from moments of q and k: against the scores written out."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import dense as reference
from torch import Tensor

from fovea.attention import chunked_softmax
from fovea.attention.chunked_softmax import head_chunks
from fovea.guidance.regions import augmented_attention, score_bias
from fovea.guidance.regions.score_bias import RegionBias
from tools.studies import meter

HIDDEN = float("-inf")


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def bias_of(kind: str, seed: int, batch: int, heads: int, queries: int, keys: int) -> Tensor | None:
    """What a call's mask adds: per key or per query, hiding some; of one sample and head or of all."""
    if kind == "none":
        return None
    several = seed % 2 == 0
    shape = (batch if several else 1, heads if several else 1, queries if "query" in kind else 1, keys)
    hidden = normal(seed, *shape) > 0.4
    return (normal(seed + 1, *shape) * 3 * ("number" in kind)).masked_fill(hidden, HIDDEN)


@given(
    seed=st.integers(0, 999), batch=st.integers(1, 2), heads=st.integers(1, 3), queries=st.integers(1, 9),
    keys=st.integers(1, 12), dim=st.integers(1, 9), scale=st.floats(0.05, 2), offset=st.sampled_from([0.0, 20.0]),
    kind=st.sampled_from(["none", "key", "key number", "query", "query number"]),
)  # fmt: skip
def test_is_that_of_the_scores(
    seed: int, batch: int, heads: int, queries: int, keys: int, dim: int, scale: float, offset: float, kind: str
) -> None:
    """For any shape and mask; also where all keys have a large part in common, and where a query sees no key."""
    q, k = normal(seed, batch, heads, queries, dim), normal(seed + 7, batch, heads, keys, dim) + offset
    bias = bias_of(kind, seed, batch, heads, queries, keys)
    whole = None if bias is None else bias.double().expand(batch, heads, queries, keys)
    wanted = reference.row_spread(q.double(), k.double(), scale, whole)
    got = score_bias.row_std(q, k, scale, bias)
    assert got.dtype == torch.float32 and (got >= 0).all()
    # What all keys have in common cancels out, but not the rounding of it.
    torch.testing.assert_close(got.double(), wanted, rtol=1e-5, atol=1e-5 * (1 + offset))


def test_hidden_keys_do_not_count() -> None:
    q, k = normal(1, 2, 3, 8, 5), normal(2, 2, 3, 11, 5)
    bias = torch.zeros(1, 1, 1, 11)
    bias[..., [2, 7, 10]] = HIDDEN
    seen = [j for j in range(11) if j not in (2, 7, 10)]
    got = score_bias.row_std(q, k, 0.3, bias)
    torch.testing.assert_close(got, score_bias.row_std(q, k[:, :, seen], 0.3), rtol=1e-5, atol=1e-6)
    assert (got - score_bias.row_std(q, k, 0.3)).abs().max() > 0.01, "twin: they would"
    torch.testing.assert_close(got, score_bias.row_std(q, k, 0.3, bias.expand(-1, -1, 8, -1)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["none", "key number"])
def test_half_precision_is_summed_in_single(dtype: torch.dtype, kind: str) -> None:
    """4096 keys with a large mean, whose squares half precision could not add up."""
    q, k = normal(3, 1, 2, 16, 40).to(dtype), (normal(4, 1, 2, 4096, 40) * 4 + 9).to(dtype)
    bias = bias_of(kind, 3, 1, 2, 16, 4096)
    whole = None if bias is None else bias.double().expand(1, 2, 16, -1)
    got = score_bias.row_std(q, k, 0.2, bias)
    assert got.dtype == torch.float32
    wanted = reference.row_spread(q.double(), k.double(), 0.2, whole)
    torch.testing.assert_close(got.double(), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["none", "key number", "query number"])
def test_gradients(kind: str) -> None:
    q, k = (normal(seed, 1, 2, n, 3).double().requires_grad_() for seed, n in ((5, 4), (6, 7)))
    bias = bias_of(kind, 5, 1, 2, 4, 7)
    bias = None if bias is None else bias.double()
    assert torch.autograd.gradcheck(lambda q, k: score_bias.row_std(q, k, 0.4, bias), (q, k))


@pytest.mark.parametrize("kind", ["one key", "equal keys", "none seen"])
def test_gradients_are_finite_without_any_spread(kind: str) -> None:
    q = normal(1, 1, 1, 3, 4).requires_grad_()
    k = normal(2, 1, 1, 1, 4).expand(-1, -1, 1 if kind == "one key" else 5, -1).clone().requires_grad_()
    bias = torch.full((1, 1, 1, 5), HIDDEN) if kind == "none seen" else None
    found = score_bias.row_std(q, k, 0.5, bias)
    assert found.abs().max() < 1e-5
    for gradient in torch.autograd.grad(found.sum(), (q, k)):
        assert torch.isfinite(gradient).all()


def test_a_few_heads_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, bias = normal(1, 2, 13, 6, 4), normal(2, 2, 13, 9, 4), bias_of("key number", 2, 2, 13, 6, 9)
    assert bias is not None and bias.shape[1] == 13
    together = [score_bias.row_std(q, k, 0.5, each) for each in (None, bias, bias[:, :1])]
    monkeypatch.setattr(chunked_softmax, "MAX_CPU_BYTES", 1)
    for wanted, each in zip(together, (None, bias, bias[:, :1])):
        torch.testing.assert_close(score_bias.row_std(q, k, 0.5, each), wanted, rtol=1e-6, atol=1e-7)


@given(heads=st.integers(1, 64), head_bytes=st.integers(0, 2**24))
def test_groups_of_heads_are_all_heads(heads: int, head_bytes: int) -> None:
    chunks = head_chunks("cpu", heads, head_bytes)
    assert [head for chunk in chunks for head in range(heads)[chunk]] == list(range(heads))
    largest = max(chunk.stop - chunk.start for chunk in chunks)
    assert largest <= max(1, heads / 6) or largest * head_bytes <= chunked_softmax.MAX_CPU_BYTES


def test_no_matrix_of_scores_is_made() -> None:
    q, k = normal(1, 1, 6, 2048, 8), normal(2, 1, 6, 2048, 8)
    scores = q.shape[1] * q.shape[2] * k.shape[2] * 4
    for bias in (None, torch.zeros(1, 1, 1, 2048)):
        peak = meter.peak_bytes(lambda bias=bias: score_bias.row_std(q, k, 0.3, bias), torch.device("cpu"))
        assert peak < 0.02 * scores


@pytest.mark.parametrize("strength", [0.05, 0.6, 0.93])
def test_steering_is_the_published_form_with_another_unit(strength: float) -> None:
    """(1 - a) s + a unit R, for self-attention with two segments and a rest."""
    heads, dim, tokens = 3, 10, 24
    segments = torch.nn.functional.one_hot(torch.arange(tokens) // 10, 3).float()[None]
    q, k, v = (normal(seed, 1, heads, tokens, dim) * 2 for seed in range(3))
    covered = segments.mean(dim=1)
    weights = score_bias.weigh(segments, torch.ones(3), covered, strength, 1.0)
    scores = score_bias.bias_scores(q, k, dim**-0.5, weights, segments, weights.sum(dim=-1), RegionBias("row std"))

    def backend(q: Tensor, k: Tensor, v: Tensor, heads: int | None = None) -> Tensor:
        return torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

    got = augmented_attention.attend(q, k, v, True, heads, None, backend, scores)
    area = (segments[0] * covered).sum(dim=-1).double()
    pairs = (segments[0] @ segments[0].T).double()
    double = [t[0].double() for t in (q, k, v)]
    wanted = reference.dense_diffusion_by_spread(*double, dim**-0.5, pairs, area, strength)
    torch.testing.assert_close(got[0].double(), wanted.transpose(0, 1).flatten(1), rtol=1e-5, atol=1e-5)
    ranges = reference.dense_diffusion(*double, dim**-0.5, pairs, area, strength)
    assert (ranges - wanted).abs().max() > 0.01, "twin: the range is another unit"


def test_samples_do_not_depend_on_their_neighbors() -> None:
    q, k = normal(1, 3, 2, 8, 5), normal(2, 3, 2, 11, 5) * torch.tensor([1.0, 5.0, 0.2])[:, None, None, None]
    alone = [score_bias.row_std(q[i : i + 1], k[i : i + 1], 0.3) for i in range(3)]
    torch.testing.assert_close(score_bias.row_std(q, k, 0.3), torch.cat(alone), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("heads_first", [False, True])
def test_grouped_queries(heads_first: bool) -> None:
    """Two key heads for six query heads: as if each was there three times."""
    q, k, v = (normal(seed, 2, heads, 7, 8) for seed, heads in ((1, 6), (2, 2), (3, 2)))
    every = [t if t.shape[1] == 6 else t.repeat_interleave(3, dim=1) for t in (q, k, v)]
    shares = normal(4, 2, 7, 3).softmax(-1)
    scores = score_bias.bias_scores(*every[:2], 0.3, shares, shares, shares.sum(-1), RegionBias("row std", 0.0))

    def backend(q: Tensor, k: Tensor, v: Tensor, heads: int | None = None) -> Tensor:
        parts = (q, k, v) if heads_first else (t.unflatten(2, (heads or 6, -1)).transpose(1, 2) for t in (q, k, v))
        return torch.nn.functional.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)

    def given_as(t: Tensor) -> Tensor:
        return t if heads_first else t.transpose(1, 2).flatten(2)

    grouped, whole = (
        augmented_attention.attend(*map(given_as, parts), heads_first, 6, None, backend, scores)
        for parts in ((q, k, v), every)
    )
    assert torch.equal(grouped, whole) and grouped.shape == (2, 7, 48)
