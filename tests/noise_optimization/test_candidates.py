"""Starting noises to try: the first is ComfyUI's own, the others belong to their seed alone."""

from __future__ import annotations

import comfy.sample
import torch

from fovea.guidance.noise_optimization.candidates import CANDIDATES, CUTOUTS, UPDATES, candidate_noises, generators

LATENT = torch.zeros(3, 4, 8, 8)


def drawn(seed: int, count: int) -> list[torch.Tensor]:
    return list(candidate_noises(comfy.sample.prepare_noise(LATENT, seed), seed, count))


def test_the_first_is_what_a_sampler_begins_with() -> None:
    first, *more = drawn(7, 3)
    assert torch.equal(first, comfy.sample.prepare_noise(LATENT, 7)) and len(more) == 2


def test_neighboring_seeds_share_no_noise() -> None:
    """ComfyUI counts seeds up by one: the second candidate of a seed must not be the first of the next."""
    seen = set()
    seeds = (*range(20), 1000, 1007, 2**64 - 1)
    for seed in seeds:
        for noise in drawn(seed, 4):
            seen |= {tuple(picture.flatten()[:8].tolist()) for picture in noise}
    assert len(seen) == len(seeds) * 4 * len(LATENT)


def test_a_seed_gives_the_same_noises_again() -> None:
    assert all(torch.equal(a, b) for a, b in zip(drawn(5, 4), drawn(5, 4)))
    assert all(torch.equal(a, b) for a, b in zip(drawn(5, 4), drawn(5, 2))), "however many are tried"


def test_every_purpose_has_numbers_of_its_own() -> None:
    drawn_by = {tuple(torch.randn(4, generator=each).tolist())
                for purpose in (CANDIDATES, UPDATES, CUTOUTS) for each in generators(3, 5, purpose)}  # fmt: skip
    assert len(drawn_by) == 15
