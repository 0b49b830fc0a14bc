"""Starting noises to try, and the random numbers of a search."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

# What random numbers are for: each has streams of its own.
CANDIDATES, UPDATES, CUTOUTS, SAMPLING, RESAMPLING = range(5)


def generators(seed: int, count: int, purpose: int) -> list[torch.Generator]:
    """A generator per picture, unlike those of any other seed, picture or purpose.

    Hashed, not counted: neighboring seeds would otherwise share noises, and ComfyUI counts seeds up by one.
    """
    states = [np.random.SeedSequence((seed, picture, purpose)).generate_state(2) for picture in range(count)]
    return [torch.Generator().manual_seed(int(high) << 31 | int(low) >> 1) for high, low in states]


def candidate_noises(noise: Tensor, seed: int, count: int) -> Iterator[Tensor]:
    """Unit noises [n, ...] to try: the given one, which the seed gives everywhere in ComfyUI, then fresh ones."""
    fresh = generators(seed, len(noise), CANDIDATES)
    yield noise
    for _ in range(count - 1):
        yield torch.cat([torch.randn(noise[:1].shape, generator=each) for each in fresh]).to(noise)


def sampling_seed(seed: int, number: int) -> int:
    """The seed of a candidate for samplers that draw noise: the first has the run's own, the others each another."""
    if number == 0:
        return seed
    high, low = np.random.SeedSequence((seed, number, SAMPLING)).generate_state(2)
    return int(high) << 31 | int(low) >> 1
