"""Noise levels across kinds of models, borders, blending and schedules, on plain numbers."""

from __future__ import annotations

import math

import comfy.model_sampling
import comfy.samplers
import pytest
import tiny_models as tiny
import torch
from comfy.k_diffusion.sampling import half_log_snr_to_sigma, sigma_to_half_log_snr
from hypothesis import given
from hypothesis import strategies as st

from fovea.guidance import noise_levels
from fovea.guidance.experts import plan
from fovea.guidance.experts.plan import BadExperts


class FlowSampling(comfy.model_sampling.ModelSamplingDiscreteFlow, comfy.model_sampling.CONST):
    """As ComfyUI makes it for a flow model."""


class EpsSampling(comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.EPS):
    """As ComfyUI makes it for an eps model."""


def flow(shift: float = 3.0) -> FlowSampling:
    sampling = FlowSampling()
    sampling.set_parameters(shift=shift, multiplier=1000)
    return sampling


EPS = EpsSampling()


@given(st.floats(0.001, 0.999))
def test_levels_as_the_host_counts(sigma: float) -> None:
    for is_flow, sampling, value in ((True, flow(), sigma), (False, EPS, 20 * sigma)):
        level = noise_levels.half_log_snr(value, is_flow)
        assert level == pytest.approx(float(sigma_to_half_log_snr(torch.tensor(value), sampling)), abs=1e-3)
        assert noise_levels.sigma_of(level, is_flow) == pytest.approx(value)
        assert float(half_log_snr_to_sigma(torch.tensor(level), sampling)) == pytest.approx(value, rel=1e-4)


@given(st.floats(0.01, 0.99), st.integers(0, 99))
def test_one_latent_under_two_names(sigma: float, seed: int) -> None:
    """A flow's latent and the exploding one of the same picture, noise and half-logSNR go over into each other."""
    generator = torch.Generator().manual_seed(seed)
    x0, noise = torch.randn(2, 2, 4, 8, 8, generator=generator, dtype=torch.float64)
    level = noise_levels.half_log_snr(sigma, True)
    other = noise_levels.sigma_of(level, False)
    flowing, exploding = (1 - sigma) * x0 + sigma * noise, x0 + other * noise
    sigmas = torch.tensor([sigma] * 2, dtype=torch.float64)
    given_x, given_sigma = noise_levels.convert_latent(flowing, sigmas, True, False, 1e9)
    torch.testing.assert_close(given_x, exploding)
    back, sigma_back = noise_levels.convert_latent(given_x, given_sigma, False, True, 1.0)
    torch.testing.assert_close(back, flowing)
    assert float(sigma_back[0]) == pytest.approx(sigma) and float(given_sigma[0]) == pytest.approx(other)


def test_nothing_but_noise_has_the_highest_level() -> None:
    noise = torch.randn(1, 4, 8, 8)
    x, sigma = noise_levels.convert_latent(noise, torch.ones(1), True, False, 14.6)
    torch.testing.assert_close(x, 14.6 * noise)
    assert float(sigma) == pytest.approx(14.6)
    x, sigma = noise_levels.convert_latent(noise, torch.zeros(1), True, False, 14.6)
    assert torch.equal(x, noise) and float(sigma) == 0


def test_ways_to_give_a_level() -> None:
    assert noise_levels.sigma_from("sigma", 0.875, flow(), True) == 0.875
    assert noise_levels.sigma_from("timestep", 0.875, flow(8), True) == 0.875, "Wan's t / 1000 is after its shift"
    assert noise_levels.sigma_from("timestep", 0.2, EPS, False) == pytest.approx(0.572, abs=2e-3), "SDXL's 0.8"
    assert noise_levels.sigma_from("percent", 0.5, flow(5), True) == pytest.approx(5 / 6, abs=1e-3)
    assert noise_levels.sigma_from("percent", 0.0, EPS, False) == math.inf, "the very start"
    assert noise_levels.sigma_from("SNR dB", -16.9, flow(), True) == pytest.approx(0.875, abs=1e-3)
    assert noise_levels.sigma_from("SNR dB", 0.0, EPS, False) == 1
    for kind, value, sampling, is_flow in (("sigma", 7.0, flow(), True), ("percent", 1.5, EPS, False),
                                           ("timestep", -0.1, EPS, False), ("nonsense", 0.5, EPS, False)):  # fmt: skip
        with pytest.raises(ValueError, match=kind):
            noise_levels.sigma_from(kind, value, sampling, is_flow)


def test_the_noisier_side_owns_the_border() -> None:
    border = noise_levels.half_log_snr(0.875, True)
    boundaries = (border, math.inf)
    for sigma, who in ((1.0, 0), (0.8751, 0), (float(torch.tensor(0.875)), 0), (0.8745, 1), (0.0, 1)):
        assert plan.active_expert(noise_levels.half_log_snr(sigma, True), boundaries) == who, sigma


@given(st.floats(-5, 5), st.floats(0, 1.5))
def test_shares(level: float, window: float) -> None:
    boundaries = (-2.0, 1.0, math.inf)
    shared = plan.blend_weights(level, boundaries, window)
    assert sum(weight for _, weight in shared) == pytest.approx(1) and all(0 <= weight <= 1 for _, weight in shared)
    near = min(abs(level - end) for end in boundaries[:2])
    assert len(shared) == (2 if near < window / 2 else 1)
    if len(shared) == 1:
        assert shared[0][0] == plan.active_expert(level, boundaries)
    else:
        assert shared[1][0] == shared[0][0] + 1


def test_blending_is_continuous() -> None:
    boundaries = (0.0, math.inf)
    low = [sum(weight for who, weight in plan.blend_weights(level, boundaries, 1.0) if who == 1)
           for level in torch.linspace(-0.6, 0.6, 121).tolist()]  # fmt: skip
    assert low[0] == 0 and low[-1] == 1 and max(b - a for a, b in zip(low, low[1:])) < 0.02


def test_models_that_would_never_act() -> None:
    assert plan.sort_experts([2.0, -1.0]) == [1, 0]
    cases = (([1.0, 1.0], "same noise level"), ([-math.inf], "main model would never"), ([math.inf], "Raise"))
    for wrong, cure in cases:
        with pytest.raises(BadExperts, match=cure):
            plan.sort_experts(wrong)


class TestPiecewise:
    @pytest.mark.parametrize("shift", [1.0, 3.0, 8.0])
    def test_one_part_is_the_hosts_schedule(self, shift: float) -> None:
        for sampling, is_flow, steps in ((flow(shift), True, 10), (EPS, False, 12)):
            ours = plan.piecewise([sampling], [is_flow], [math.inf], [steps])
            host = comfy.samplers.calculate_sigmas(sampling, "simple" if is_flow else "normal", steps)
            torch.testing.assert_close(ours, host, rtol=2e-3, atol=2e-3)

    def test_levels_and_counts(self) -> None:
        """Two shifts, one border, a level just below it: each part has its steps, evenly spaced in its timesteps."""
        border = noise_levels.half_log_snr(0.875, True)
        ours = plan.piecewise([flow(5), flow(12)], [True, True], [border, math.inf], [3, 7])
        assert len(ours) == 11 and float(ours[0]) == 1 and float(ours[-1]) == 0
        assert float(ours[3]) == pytest.approx(0.875, abs=1e-4) and (ours.diff() < 0).all()
        who = [plan.active_expert(noise_levels.half_log_snr(float(s), True), (border, math.inf)) for s in ours[:-1]]
        assert who == [0] * 3 + [1] * 7, "as many steps for each as asked"
        for part, shift in ((ours[:4], 5.0), (ours[3:], 12.0)):
            u = part / (shift - (shift - 1) * part)
            torch.testing.assert_close(u.diff(), u.diff().mean().expand(len(u) - 1), rtol=0.02, atol=1e-3)

    def test_two_kinds(self) -> None:
        """An exploding model's part in a flow's schedule, and the other way round."""
        ours = plan.piecewise([flow(3), EPS], [True, False], [0.0, math.inf], [4, 4])
        assert (
            len(ours) == 9
            and float(ours[4]) == pytest.approx(0.5, abs=1e-4)
            and (ours.diff() < 0).all()
            and ours.max() <= 1
        )
        other = plan.piecewise([EPS, flow(3)], [False, True], [0.0, math.inf], [4, 4])
        assert float(other[4]) == pytest.approx(1.0, rel=1e-3) and (other.diff() < 0).all() and other.max() > 10

    def test_bad_numbers(self) -> None:
        for steps in ([3], [3, 0], [1, 2, 3]):
            with pytest.raises(BadExperts, match="numbers of steps"):
                plan.piecewise([flow(), flow()], [True, True], [0.0, math.inf], steps)
        with pytest.raises(BadExperts, match="outside"):
            plan.piecewise([EPS, EPS], [False, False], [-9.0, math.inf], [2, 2])


def test_report_says_who_acts() -> None:
    schedule = [noise_levels.half_log_snr(sigma, True) for sigma in (1.0, 0.9, 0.5, 0.0)]
    boundaries = (noise_levels.half_log_snr(0.875, True), math.inf)
    steps = plan.plan_steps(schedule, boundaries, (None, 1.0), 0.0)
    text = plan.format_table(steps, ["high", "low"], True)
    assert text.splitlines() == [
        "step 1: sigma 1, high, the sampler's CFG", "step 2: sigma 0.9, high, the sampler's CFG",
        "step 3: sigma 0.5, low, CFG 1 (no negative prompt)", "1 swap of models",
    ]  # fmt: skip
    assert "0.875 (-16.9 dB)" in plan.format_ranges(["high", "low"], boundaries, (None, 1.0), True)


def test_tiny_models_are_what_they_say() -> None:
    """The model kinds used beside: ComfyUI's own classes decide."""
    from comfy.model_base import ModelType

    from fovea.guidance.experts.expert_guider import is_flow

    assert not is_flow(tiny.unet("sd15")) and is_flow(tiny.unet("sd15", ModelType.FLOW))
