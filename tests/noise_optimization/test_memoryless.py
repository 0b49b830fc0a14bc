"""Which samplers remember earlier steps, found by trying all: begun at step k, do they draw what the whole run does?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.sample
import comfy.samplers
import pytest
import tiny_models as tiny
import tiny_transformers as dit
import torch
from comfy_extras.nodes_apg import APG
from torch import Tensor

from fovea.guidance.noise_optimization import memoryless
from fovea.guidance.noise_optimization.candidate_legs import Candidates
from fovea.guidance.noise_optimization.candidate_sampler import CandidateSampler
from fovea.guidance.noise_optimization.guided_model import GuidedModel
from fovea.nodes.sag import FoveaSelfAttentionGuidance

SAMPLERS = comfy.samplers.KSampler.SAMPLERS
STEPS, CUT, SEED = 6, 3, 11
MODELS: dict[str, Callable[[], Any]] = {"eps": lambda: tiny.unet("sd15"), "flow": lambda: dit.build("flux")}


class Inside(comfy.samplers.Sampler):
    """Does something with a guided model in a run of ComfyUI."""

    def __init__(self, work: Callable[[GuidedModel], Tensor]) -> None:
        self.work = work

    def sample(self, wrap: Any, sigmas: Tensor, extra_args: dict, callback: Any, noise: Tensor, latent: Any = None,
               mask: Any = None, disable_pbar: bool = False) -> Tensor:  # fmt: skip
        model = GuidedModel(wrap, sigmas, extra_args, noise, latent, mask, through_model=False)
        return model.finished(self.work(model))


@pytest.fixture(scope="module", params=list(MODELS))
def kind(request: pytest.FixtureRequest) -> tuple[str, Any]:
    return request.param, MODELS[request.param]()


def prompts(name: str) -> tuple[list, list]:
    make = dit.prompt if name == "flow" else tiny.prompt
    return make(1), make(2)


def start(name: str, places: int = 1) -> Tensor:
    return dit.noise("flux", 8, 8, batch=places) if name == "flow" else tiny.noise(8, 8, batch=places)


def run(kind: tuple[str, Any], sampler: str, work: Callable[[GuidedModel], Tensor], noise: Tensor) -> Tensor:
    name, model = kind
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(*prompts(name))
    guider.set_cfg(3.0)
    sigmas = comfy.samplers.KSampler(model, STEPS, tiny.CPU, sampler, "normal").sigmas
    with torch.inference_mode():
        return guider.sample(noise, torch.zeros_like(noise), Inside(work), sigmas, disable_pbar=True, seed=SEED)


def plainly(kind: tuple[str, Any], sampler: str, noise: Tensor, seed: int = SEED) -> Tensor:
    name, model = kind
    positive, negative = prompts(name)
    with torch.inference_mode():
        return comfy.sample.sample(model, noise, STEPS, 3.0, sampler, "normal", positive, negative,
                                   torch.zeros_like(noise), disable_pbar=True, seed=seed)  # fmt: skip


def legs(sampler: str, noise: Tensor, *at: int) -> Callable[[GuidedModel], Tensor]:
    """Sample one candidate from cut to cut."""

    def work(model: GuidedModel) -> Tensor:
        whole = CandidateSampler(sampler, model, SEED, lambda _count: None)
        found = Candidates.drawn(0, [(noise, noise)])
        for before, after in zip(at, at[1:]):
            x, _ = whole.advance(found, before, after)
            found = Candidates(found.numbers, found.noise, found.begun, x, found.losses)
        return x[0]

    return work


def near(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> bool:
    return bool((a - b).norm() < tolerance * b.norm())


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_candidate_is_what_the_sampler_draws_of_its_noise(kind: tuple[str, Any], sampler: str) -> None:
    noise = start(kind[0], 2)
    got = run(kind, sampler, legs(sampler, noise, 0, STEPS), noise)
    assert near(got, plainly(kind, sampler, noise))


def test_those_that_go_on_are_the_listed_ones() -> None:
    found = {}
    for name, build in MODELS.items():
        kind = (name, build())
        noise = start(name)
        found[name] = {
            each for each in SAMPLERS
            if near(run(kind, each, legs(each, noise, 0, CUT, STEPS), noise),
                    run(kind, each, legs(each, noise, 0, STEPS), noise))
        }  # fmt: skip
    assert found["eps"] & found["flow"] == memoryless.MEMORYLESS


def test_every_sampler_is_known() -> None:
    """Those that draw noise are those whose result depends on the seed."""
    assert {*memoryless.DETERMINISTIC, *memoryless.DRAWN_NOISE} == set(SAMPLERS)
    assert not memoryless.DETERMINISTIC & memoryless.DRAWN_NOISE.keys()
    noise, drawn = start("eps"), set()
    for sampler in SAMPLERS:
        runs = [plainly(("eps", tiny.unet("sd15")), sampler, noise, seed) for seed in (1, 2)]
        drawn |= set() if torch.equal(*runs) else {sampler}
    assert drawn == memoryless.DRAWN_NOISE.keys()


def test_unknown_samplers_are_taken_to_remember() -> None:
    assert not memoryless.samples_together("new") and "new" in memoryless.what_remembers("new", {})
    assert memoryless.samples_together("euler") and not memoryless.samples_together("dpm_adaptive")
    assert memoryless.what_remembers("euler", {}) == ""


def test_nodes_that_remember_are_found() -> None:
    model = tiny.unet("sd15")
    momentum = APG.execute(model, 1.0, 5.0, 0.5).result[0]
    assert "Projected" in memoryless.what_remembers("euler", momentum.model_options)
    for every, wanted in ((1, ""), (2, "every_n_steps")):
        guided = FoveaSelfAttentionGuidance.execute(
            model, scale=0.5, blur_sigma=2.0, threshold=1.0, mask_mode="threshold", guided_prompt="auto", blocks="auto",
            start_percent=0.0, end_percent=1.0, every_n_steps=every, rescale=0.0, blur_kernel="auto",
        ).result[0]  # fmt: skip
        said = memoryless.what_remembers("euler", guided.model_options)
        assert wanted in said and bool(wanted) == bool(said)


@pytest.mark.parametrize("sampler", ["euler_ancestral", "dpmpp_sde", "seeds_2", "dpmpp_2m_sde_gpu", "lcm", "ddim"])
def test_candidates_in_one_batch_are_what_each_is_alone(kind: tuple[str, Any], sampler: str) -> None:
    """Places exchanged between candidates, too: each place keeps its own noise. Some CPUs multiply a batch otherwise
    than its parts, which this model makes 1e-3 of; with another's noise a place would be another picture."""
    places = [torch.cat([start(kind[0])[:1] * 0 + torch.randn(
        start(kind[0]).shape, generator=torch.Generator().manual_seed(10 * c + p)) for p in range(2)])
        for c in range(3)]  # fmt: skip
    numbers = torch.tensor([[2, 0], [1, 2]])
    mixed = torch.stack([torch.stack([places[number][p] for p, number in enumerate(row)]) for row in numbers.tolist()])

    def work(model: GuidedModel) -> Tensor:
        together = CandidateSampler(sampler, model, SEED, lambda _count: None)
        x, _ = together.advance(Candidates(numbers, mixed, mixed, mixed, numbers.float()), 0, STEPS)
        for row, numbers_there in enumerate(numbers.tolist()):
            for place, number in enumerate(numbers_there):
                alone = CandidateSampler(sampler, model, SEED, lambda _count: None)
                one, _ = alone.advance(Candidates(torch.tensor([[number, number]]), *[places[number][None]] * 3,
                                                  numbers.float()), 0, STEPS)  # fmt: skip
                assert near(x[row, place], one[0, place], 5e-3)
                assert not near(x[row, place], one[0, 1 - place], 0.1)
        return x[0]

    run(kind, sampler, work, start(kind[0], 2))
