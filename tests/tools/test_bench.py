"""The benchmark's memory meter counts what is alive, and the recorder stays far below the full map."""

from __future__ import annotations

import pytest
import torch

from fovea.attention.chunked_softmax import column_sums
from tools.studies import meter
from tools.studies.regions import speed as regions

CPU = torch.device("cpu")
KIB = 1024


def test_counts_tensors_that_are_alive_together() -> None:
    def work() -> None:
        a = torch.zeros(256 * KIB // 4)
        b = a + 1  # both alive: 512 KiB
        del a
        c = b * 2  # b and c
        c.add_(1)  # in place: nothing new
        c.view(2, -1).t()  # a view: nothing new

    assert meter.peak_bytes(work, CPU) == 512 * KIB


def test_what_was_there_before_does_not_count() -> None:
    x = torch.zeros(KIB)
    assert meter.peak_bytes(lambda: x.mul_(2), CPU) == 0


def test_recorder_needs_under_two_percent_of_the_full_map() -> None:
    """At SDXL's middle block with 2048x2048 pixels it has 4096 tokens and 20 heads; here half the tokens."""
    heads, tokens, dim = 20, 2048, 64
    q, k = (torch.randn(1, heads, tokens, dim, generator=torch.Generator().manual_seed(i)) for i in range(2))
    full = heads * tokens**2 * 4
    assert meter.peak_bytes(lambda: column_sums(q, k), CPU) < 0.02 * full


@pytest.mark.parametrize("call", regions.CALLS)
def test_a_steered_call_needs_at_most_a_fifth_more_than_plain_attention(call: str) -> None:
    heads, tokens, dim = regions.CALLS[call]
    ways = regions.variants(heads, tokens, dim, CPU)
    inputs = 3 * heads * tokens * dim * 4
    plain, ours = (inputs + meter.peak_bytes(ways[name], CPU) for name in ("plain", "ours"))
    assert ours <= 1.2 * plain
