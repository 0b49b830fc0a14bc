"""How attention scores are cut into pieces: what a GPU needs is planned without one."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fovea.attention import chunked_softmax
from fovea.attention.chunked_softmax import chunk_bytes_for, plan_chunks, score_chunks

GIB = 2**30
FLUX = (24, 4096 + 512)  # heads, tokens at 1024 pixels
QWEN = (24, 83 * 83 + 256)  # at 1328 pixels


def planned(heads: int, tokens: int, device: str, free: int) -> list[chunked_softmax.Chunk]:
    row = 4 * tokens
    return plan_chunks(1, heads, tokens, row, chunk_bytes_for(device, heads * tokens * row, free))


@pytest.mark.parametrize(("heads", "tokens"), [FLUX, QWEN], ids=["Flux", "Qwen-Image"])
def test_a_gpu_gets_few_pieces(heads: int, tokens: int) -> None:
    assert len(planned(heads, tokens, "cuda", 8 * GIB)) <= 32
    assert len(planned(heads, tokens, "cuda", GIB)) <= 32
    assert len(planned(heads, tokens, "cpu", 8 * GIB)) > 100, "twin: a CPU's pieces are small"


def test_a_gpu_that_is_nearly_full_gets_smaller_ones() -> None:
    free = 64 * 2**20
    rows = max(chunk.rows.stop - chunk.rows.start for chunk in planned(*FLUX, "cuda", free))
    assert rows * 4 * FLUX[1] <= free // 4


@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 9), st.integers(1, 400))
def test_every_score_is_in_one_piece(batch: int, heads: int, queries: int, chunk_bytes: int) -> None:
    seen = torch.zeros(batch, heads, queries)
    for chunk in plan_chunks(batch, heads, queries, 12, chunk_bytes):
        seen[chunk] += 1
        size = (chunk.heads.stop - chunk.heads.start) * (chunk.rows.stop - chunk.rows.start)
        assert 12 * size <= max(chunk_bytes, 12)
    assert (seen == 1).all()


@pytest.mark.parametrize("chunk_bytes", [1, 100, None])
def test_the_pieces_are_the_scores(chunk_bytes: int | None) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 3, 5, 4, generator=generator), torch.randn(2, 3, 7, 4, generator=generator)
    bias = torch.randn(1, 3, 1, 7, generator=generator)
    wanted, got = q @ k.mT / math.sqrt(4) + bias, torch.full((2, 3, 5, 7), math.nan)
    for chunk, scores in score_chunks(q, k, 0.5, bias, chunk_bytes):
        got[chunk] = scores
    torch.testing.assert_close(got, wanted)
