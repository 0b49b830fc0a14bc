"""The guided model under inpainting masks of every gray: its noise, and gradients at it, against the whole run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.samplers
import pytest
import tiny_models as tiny
import torch
from comfy.model_base import ModelType
from torch import Tensor

from fovea.guidance.gradients import autograd
from fovea.guidance.noise_optimization import reversible_ode
from fovea.guidance.noise_optimization.guided_model import GuidedModel

STEPS = 3


class Inside(comfy.samplers.Sampler):
    def __init__(self, work: Callable[[GuidedModel], Tensor]) -> None:
        self.work = work

    def sample(self, wrap: Any, sigmas: Tensor, extra_args: dict, callback: Any, noise: Tensor, latent: Any = None,
               mask: Any = None, disable_pbar: bool = False) -> Tensor:  # fmt: skip
        return self.work(GuidedModel(wrap, sigmas, extra_args, noise.double(), latent.double(), mask.double()))


def run(kind: ModelType, work: Callable[[GuidedModel], Tensor], mask: Tensor) -> None:
    model = tiny.unet("sd15", kind, dtype=torch.float64)
    with autograd.outside_inference_mode():
        patcher = autograd.fully_loaded(model)
        autograd.with_backward(patcher)
        guider = comfy.samplers.CFGGuider(patcher)
        guider.set_conds(tiny.prompt(1), tiny.prompt(2))
        guider.set_cfg(3.0)
        sigmas = comfy.samplers.calculate_sigmas(patcher.get_model_object("model_sampling"), "normal", STEPS)
        given = tiny.noise(16, 16, 2, seed=0), tiny.noise(16, 16, 2, seed=20)
        guider.sample(*given, Inside(work), sigmas, denoise_mask=mask, disable_pbar=True, seed=0)


MASKS = {"gray": torch.full((1, 1, 16, 16), 0.4), "ramp": torch.linspace(0, 1, 16).expand(1, 1, 16, 16),
         "hard": torch.ones(1, 1, 16, 16).tril()}  # fmt: skip


@pytest.mark.parametrize("kind", [ModelType.EPS, ModelType.FLOW], ids=str)
@pytest.mark.parametrize("mask", MASKS)
def test_gradients_are_those_of_the_whole_run(kind: ModelType, mask: str) -> None:
    """Written out with autograd: the latent is mixed with the noisy original at every step, the noise of which is the
    starting noise. Twin: what the mask protects has no gradient, what it does not protect has one."""
    found: list[tuple[Tensor, Tensor]] = []

    def work(model: GuidedModel) -> Tensor:
        assert model.latent is not None and model.mask is not None
        z = tiny.noise(16, 16, 2, seed=40).double()
        weight = tiny.noise(16, 16, 2, seed=60).double()
        states = reversible_ode.euler(model.denoise, model.schedule, model.start_of(z))
        at_first = reversible_ode.euler_gradient(model.denoise, model.schedule, states, model.gradient_of_state(weight))
        found.append((model.latent_of(states[-1]), model.gradient_of_noise(at_first)))
        with torch.enable_grad():
            leaf = z.clone().requires_grad_()
            noise = torch.where(model.mask > 0, leaf, model.noise)
            x = model.sampling.noise_scaling(model.sigmas[0], noise, model.latent, model.starts_at_full_noise)
            for sigma, after in zip(*[model.sigmas.double()[at:] for at in (0, 1)]):
                levels = sigma.repeat(len(x)).float()
                mixed = x * model.mask + (1 - model.mask) * model.sampling.noise_scaling(
                    sigma.reshape(1, 1, 1, 1), noise, model.latent
                )
                x0 = model.inner.inner_model(mixed, levels, **model.extra_args)
                x0 = x0 * model.mask + (1 - model.mask) * model.latent
                x = x + (after - sigma) * (x - x0) / sigma
            found.append((x.detach(), torch.autograd.grad((weight * x).sum(), leaf)[0]))
        return x.detach()

    run(kind, work, MASKS[mask])
    (end, got), (wanted_end, wanted) = found
    torch.testing.assert_close(end, wanted_end, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))
    free = (MASKS[mask] > 0).expand_as(got)
    assert not got[~free].any() and got[free].abs().mean() > 1e-3


def test_noise_keeps_its_deviation() -> None:
    """In every gray: the mean of two noises would have 0.71 of it."""
    seen: list[Tensor] = []

    def work(model: GuidedModel) -> Tensor:
        seen.append(model.settled(tiny.noise(16, 16, 2, seed=40).double()))
        return seen[0]

    run(ModelType.EPS, work, MASKS["gray"])
    assert float(seen[0].std()) == pytest.approx(1, abs=0.05)
