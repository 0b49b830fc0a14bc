"""Experts beside LoRA hooks whose strength changes on the way, and beside functions that samplers add for a call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import comfy.hooks
import comfy.model_patcher
import comfy.samplers
import lora_files as files
import pytest
import tiny_models as tiny
import torch
from torch import Tensor

from fovea.guidance import noise_levels
from fovea.guidance.experts import model_patch
from fovea.guidance.experts.model_patch import Expert, ExpertSwitch
from fovea.guidance.experts.plan import blend_weights

X = tiny.noise(8, 8)


def unet(seed: int = 0) -> Any:
    return tiny.unet("shallow", seed=seed)


def level(sigma: float) -> float:
    return noise_levels.half_log_snr(sigma, False)


def hooks(model: Any, frames: Sequence[tuple[float, float, int]] = ()) -> comfy.hooks.HookGroup:
    """A LoRA. frames: strength, percent, for how many steps at least."""
    group = comfy.hooks.create_hook_lora(files.weights(model, 1), 1.0, 0.0)
    if frames:
        keyframes = comfy.hooks.HookKeyframeGroup()
        for strength, percent, least in frames:
            keyframes.add(comfy.hooks.HookKeyframe(strength, percent, least))
        group.set_keyframes_on_hooks(keyframes)
    return group


@pytest.mark.parametrize("sampler", ["euler", "heun"])
@pytest.mark.parametrize("least", [0, 1])
@pytest.mark.parametrize("border", [0.35, 0.7])
def test_keyframes_go_on_over_the_border(border: float, least: int, sampler: str) -> None:
    """Two models of the same weights are one. Twins: strengths differ, and the expert is asked."""
    main, low = unet(), unet()
    frames = [(1.0, 0.0, least), (0.5, 0.3, least), (-0.5, 0.6, least), (0.0, 0.9, least)]
    sigma = main.get_model_object("model_sampling").percent_to_sigma(border)
    both = ExpertSwitch.of(main, [Expert(low, level(sigma))]).patched(main)
    alone = unet()
    given = {"steps": 10, "sampler": sampler}
    with tiny.watching(low, "") as calls:
        got = tiny.sample(both, X, positive=tiny.prompt(1, hooks=hooks(main, frames)), **given)
    wanted = tiny.sample(alone, X, positive=tiny.prompt(1, hooks=hooks(alone, frames)), **given)
    assert calls
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
    constant = tiny.sample(alone, X, positive=tiny.prompt(1, hooks=hooks(alone)), **given)
    assert (wanted - constant).abs().max() > 1e-2


def test_a_model_on_two_expert_nodes_keeps_the_hooks_of_each() -> None:
    def drawn(apart: bool) -> Tensor:
        main, low = unet(), unet(1)
        lower = low.clone() if apart else low
        first = Expert(low, level(3.0), positive=tiny.prompt(3, hooks=hooks(low)), negative=tiny.prompt(4))
        second = Expert(lower, level(0.5), cfg=2.0, positive=tiny.prompt(5), negative=tiny.prompt(6))
        return tiny.sample(ExpertSwitch.of(main, [first, second]).patched(main), X, steps=8)

    torch.testing.assert_close(drawn(False), drawn(True), rtol=1e-5, atol=1e-5)


class Again(comfy.samplers.Sampler):
    """Euler's sampler, once more where memory did not suffice."""

    def sample(self, *given: Any, **named: Any) -> Tensor:
        euler = comfy.samplers.sampler_object("euler")
        try:
            return euler.sample(*given, **named)
        except torch.OutOfMemoryError:
            return euler.sample(*given, **named)


def test_a_load_that_failed_leaves_it_open_who_is_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    main, low = unet(), unet(1)
    brought, real = list[int](), model_patch._Run.bring

    def bring(self: Any, who: int, more: list) -> None:
        brought.append(who)
        if len(brought) == 1:
            raise torch.OutOfMemoryError("out of memory")
        real(self, who, more)

    guider = comfy.samplers.CFGGuider(ExpertSwitch.of(main, [Expert(low, level(2.0))]).patched(main))
    guider.set_conds(tiny.prompt(1), tiny.prompt(2))
    sigmas = comfy.samplers.calculate_sigmas(main.get_model_object("model_sampling"), "normal", 6)
    wanted = tiny.sample_with(guider, X, steps=6)
    monkeypatch.setattr(model_patch._Run, "bring", bring)
    with torch.inference_mode():
        got = guider.sample(X, torch.zeros_like(X), Again(), sigmas, disable_pbar=True, seed=0)
    assert brought == [1, 0, 1] and torch.equal(got, wanted)


class Asks(comfy.samplers.Sampler):
    """One evaluation at a level, with a post-CFG function for this call, as samplers of the kind CFG++ have it."""

    def __init__(self) -> None:
        self.told = list[dict]()

    def sample(
        self, model_wrap: Any, sigmas: Tensor, extra_args: dict, callback: Any, noise: Tensor, *_: Any
    ) -> Tensor:
        options = comfy.model_patcher.set_model_options_post_cfg_function(
            extra_args["model_options"].copy(), self.keep, disable_cfg1_optimization=True
        )
        return model_wrap(noise, sigmas[:1], model_options=options)

    def keep(self, args: dict) -> Tensor:
        self.told.append(args)
        return args["denoised"] + 1


@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_functions_of_the_sampler_see_the_mixture_once(cfg: float) -> None:
    main, low = unet(), unet(1)
    sigma, width = 2.0, 1.0
    weights = dict(blend_weights(level(sigma), (level(1.5), float("inf")), width))
    assert 0.05 < weights[0] < 0.95

    def asked(model: Any) -> tuple[Tensor, Asks]:
        guider, sampler = comfy.samplers.CFGGuider(model), Asks()
        guider.set_conds(tiny.prompt(1), tiny.prompt(2))
        guider.set_cfg(cfg)
        with torch.inference_mode():
            levels = torch.tensor([sigma, 0.0])
            return guider.sample(X, torch.zeros_like(X), sampler, levels, disable_pbar=True), sampler

    both = ExpertSwitch.of(main, [Expert(low, level(1.5))], blend=width).patched(main)
    (got, mixed), (first, one), (second, other) = asked(both), asked(main), asked(low)
    assert len(mixed.told) == 1
    for name in ("denoised", "cond_denoised", "uncond_denoised"):
        wanted = weights[0] * one.told[0][name] + weights[1] * other.told[0][name]
        torch.testing.assert_close(mixed.told[0][name], wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(got, weights[0] * first + weights[1] * second, rtol=1e-5, atol=1e-5)
