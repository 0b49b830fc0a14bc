"""Self-Attention Guidance in the real sampling code of the host, on small models of its own classes."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

import comfy.context_windows
import comfy.model_management
import comfy.samplers
import pytest
import tiny_models as tiny
import torch
from comfy.model_base import ModelType
from comfy_extras.nodes_context_windows import ContextWindowsManualNode
from comfy_extras.nodes_custom_sampler import Guider_Basic, Guider_DualCFG, Guider_DualModel
from comfy_extras.nodes_easycache import EasyCacheNode
from comfy_extras.nodes_pag import PerturbedAttentionGuidance
from comfy_extras.nodes_perpneg import Guider_PerpNeg
from comfy_extras.nodes_sag import SelfAttentionGuidance as CoreSag
from fovea.attention import hooks
from fovea.attention.run import split_heads
from fovea.nodes.guidance import FoveaSelfAttentionGuidance
from reference import sag as reference
from torch import Tensor

DEFAULTS = {
    "scale": 0.75, "blur_sigma": 2.0, "threshold": 1.0, "mask_mode": "threshold", "branch": "auto", "blocks": "auto",
    "start_percent": 0.0, "end_percent": 1.0, "every": 1, "rescale": 0.0, "kernel": "auto",
}  # fmt: skip
CLOSE = {"rtol": 1e-4, "atol": 1e-3}  # latents have a spread of about 100 here


def guided(model: Any, **changes: Any) -> Any:
    return FoveaSelfAttentionGuidance.execute(model, **{**DEFAULTS, **changes}).result[0]


def chunks(calls: list[dict]) -> list[list[int]]:
    return [sorted(call["chunks"]) for call in calls]


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny.unet("sd15")


class Denoiser:
    """One guided denoising step, computed from the formulas with plain calls of the model: no hook, no sampler."""

    def __init__(self, model: Any, cfg: float = 5.0, branch: str = "uncond", flow: bool = False) -> None:
        self.model, self.cfg, self.branch, self.flow = model, cfg, branch, flow
        self.prompts = {"cond": tiny.prompt(1), "uncond": tiny.prompt(2)}

    def x0(self, name: str, x: Tensor, sigma: Tensor) -> Tensor:
        text, extra = self.prompts[name][0]
        conds = self.model.model.extra_conds(cross_attn=text, noise=x, device=x.device, **extra)
        conds = {key: cond.process_cond(batch_size=x.shape[0], area=None).cond for key, cond in conds.items()}
        options = {"cond_or_uncond": [0], "uuids": [None], "sigmas": sigma}
        return self.model.model.apply_model(x, sigma, transformer_options=options, **conds)

    def mask(self, call: dict, size: tuple[int, int], grid: tuple[int, int], threshold: float) -> Tensor:
        q, k = (split_heads(call[name], 4, False)[0] for name in "qk")
        attended = reference.saliency(q, k)
        assert (attended / attended.mean() - threshold).abs().min() > 1e-4
        return reference.pixel_mask(attended, grid, size, threshold)

    def __call__(
        self, x: Tensor, sigma: float, grid: tuple[int, int], scale: float = 0.75, blur: float = 2.0, threshold: float = 1.0
    ) -> Tensor:
        """Guided x0 of one sample [1, 4, height, width]."""
        sigmas = torch.full((1,), sigma)
        with torch.inference_mode(), tiny.watching(self.model) as calls:
            x0 = {"cond": self.x0("cond", x, sigmas)}
            if self.cfg != 1:
                x0["uncond"] = self.x0("uncond", x, sigmas)
            cfg = x0["uncond"] + self.cfg * (x0["cond"] - x0["uncond"]) if self.cfg != 1 else x0["cond"]
            size = (x.shape[2], x.shape[3])
            mask = self.mask(calls[list(x0).index(self.branch)], size, grid, threshold)
            radius = [min(math.ceil(3 * blur), n - 1) for n in size]
            branch = x0[self.branch]
            degraded = mask * reference.gaussian_blur(branch[0], blur, *radius) + (1 - mask) * branch[0].double()

            def denoise(spoilt: Tensor) -> Tensor:
                return self.x0(self.branch, spoilt.float(), sigmas)

            return reference.guide(x, cfg, branch, degraded.unsqueeze(0), denoise, sigma, scale, self.flow)


def one_step(model: Any, start: Tensor, cfg: float = 5.0, **extra: Any) -> tuple[Tensor, Tensor, float]:
    """One Euler step to zero noise: its result is the guided x0. Returns x, that x0 and sigma."""
    seen: dict[str, Any] = {}

    def keep(args: dict[str, Any]) -> Tensor:
        seen.update(x=args["input"].clone(), x0=args["denoised"].clone(), sigma=float(args["sigma"][0]))
        return args["denoised"]

    watched = model.clone()
    watched.set_model_sampler_post_cfg_function(keep)
    tiny.sample(watched, start, cfg, steps=1, **extra)
    return seen["x"], seen["x0"], seen["sigma"]


class TestAgainstTheFormulas:
    # Pictures of 512x512, 264x480, 520x520, 72x64 and 448x704 pixels; the last has 77 tokens in the middle block.
    @pytest.mark.parametrize(
        "size, grid", [((64, 64), (8, 8)), ((60, 33), (8, 5)), ((65, 65), (9, 9)), ((9, 8), (2, 1)), ((56, 88), (7, 11))]
    )
    @pytest.mark.parametrize("cfg", [1.0, 5.0])
    def test_any_size_with_and_without_cfg(self, model: Any, size: tuple, grid: tuple, cfg: float) -> None:
        x, x0, sigma = one_step(guided(model), tiny.noise(*size), cfg)
        slow = Denoiser(model, cfg, "cond" if cfg == 1 else "uncond")(x, sigma, grid)
        assert relative(x0.double(), slow) < 2e-5
        plain = one_step(model, tiny.noise(*size), cfg)[1]
        assert relative(plain.double(), slow) > 1e-2

    @pytest.mark.parametrize("wrong", ["transposed grid", "other branch", "other prompts"])
    def test_the_reference_would_notice(self, model: Any, wrong: str) -> None:
        x, x0, sigma = one_step(guided(model), tiny.noise(60, 33))
        slow = Denoiser(model, branch="cond" if wrong == "other branch" else "uncond")
        if wrong == "other prompts":
            slow.prompts["uncond"] = tiny.prompt(5)
        result = slow(x, sigma, (5, 8) if wrong == "transposed grid" else (8, 5))
        assert relative(x0.double(), result) > 1e-3

    @pytest.mark.parametrize(
        "prediction, flow",
        [(ModelType.EPS, False), (ModelType.V_PREDICTION, False), (ModelType.EDM, False), (ModelType.FLOW, True)],
    )
    def test_every_parameterisation(self, prediction: ModelType, flow: bool) -> None:
        model = tiny.unet("sd2", prediction)
        start = tiny.noise(24, 16)
        patched = guided(model)
        # Not the first step: a flow model's noise level 1 leaves nothing of x0 to blur.
        x, x0, sigma = one_step(patched, start, denoise=0.6, latent=tiny.noise(24, 16, seed=9))
        assert (sigma < 1) or not flow
        slow = Denoiser(model, flow=flow)(x, sigma, (3, 2))
        assert relative(x0.double(), slow) < 5e-5
        assert relative(one_step(model, start, denoise=0.6, latent=tiny.noise(24, 16, seed=9))[1], x0) > 1e-3

    @pytest.mark.parametrize("kind, grid", [("sdxl", (6, 4)), ("shallow", (6, 4))])
    def test_other_unets(self, kind: str, grid: tuple) -> None:
        model = tiny.unet(kind)
        x, x0, sigma = one_step(guided(model, scale=1.3, blur_sigma=1.1, threshold=1.2), tiny.noise(24, 16))
        slow = Denoiser(model)(x, sigma, grid, scale=1.3, blur=1.1, threshold=1.2)
        assert relative(x0.double(), slow) < 2e-5

    def test_other_block(self, model: Any) -> None:
        x, x0, sigma = one_step(guided(model, blocks="output.3"), tiny.noise(24, 16))
        at, watching = "output_blocks.3.1.transformer_blocks.0", tiny.watching
        try:
            tiny.watching = lambda m: watching(m, at)
            slow = Denoiser(model)(x, sigma, (6, 4))
        finally:
            tiny.watching = watching
        assert relative(x0.double(), slow) < 2e-5

    @pytest.mark.parametrize("kind", ["sd15", "sdxl"])
    @pytest.mark.parametrize("size", [(64, 64), (64, 96), (40, 24)])
    def test_equals_the_hosts_node_at_multiples_of_64_pixels(self, kind: str, size: tuple[int, int]) -> None:
        """Where the host's own node is right: uncond branch, its 9 taps, sizes whose grid it guesses correctly."""
        model, x = tiny.unet(kind), tiny.noise(*size)
        core = CoreSag.execute(model, 0.5, 2.0).result[0]
        ours = guided(model, scale=0.5, blur_sigma=2.0, kernel="taps")
        theirs = tiny.sample(core, x, steps=4)
        assert relative(tiny.sample(ours, x, steps=4), theirs) < 1e-5
        assert relative(tiny.sample(model, x, steps=4), theirs) > 1e-2


class TestCost:
    def test_evaluations_per_step(self, model: Any) -> None:
        patched, x = guided(model), tiny.noise(16, 16)
        for cfg, expected in ((5.0, [[0, 1], [1]]), (1.0, [[0], [0]])):
            with tiny.watching(model) as calls:
                tiny.sample(patched, x, cfg, steps=4)
            assert chunks(calls) == expected * 4

    @pytest.mark.parametrize("every, extra", [(2, [0, 2, 4]), (3, [0, 3]), (100, [0])])
    def test_every_kth_step(self, model: Any, every: int, extra: list[int]) -> None:
        with tiny.watching(model) as calls:
            result = tiny.sample(guided(model, every=every), tiny.noise(16, 16), steps=5)
        expected = [group for step in range(5) for group in ([[0, 1], [1]] if step in extra else [[0, 1]])]
        assert chunks(calls) == expected
        assert relative(result, tiny.sample(guided(model), tiny.noise(16, 16), steps=5)) > 1e-3

    @pytest.mark.parametrize("start, end, steps", [(0.0, 0.5, 5), (0.5, 1.0, 5), (0.25, 0.75, 5), (0.0, 1.0, 10)])
    def test_window(self, model: Any, start: float, end: float, steps: int) -> None:
        with tiny.watching(model) as calls:
            tiny.sample(guided(model, start_percent=start, end_percent=end), tiny.noise(16, 16), steps=10)
        extra = [call for call in calls if call["chunks"] == [1]]
        assert len(calls) == 10 + len(extra) and abs(len(extra) - steps) <= 1
        sampling = model.model.model_sampling
        low, high = sampling.percent_to_sigma(end), sampling.percent_to_sigma(start)
        assert all(low < call["sigma"] <= high for call in extra)

    def test_adjacent_windows_tile(self, model: Any) -> None:
        x = tiny.noise(16, 16)
        for cut in (0.3, 0.5):
            halves = guided(guided(model, end_percent=cut), start_percent=cut)
            assert torch.equal(tiny.sample(halves, x, steps=5), tiny.sample(guided(model), x, steps=5))

    @pytest.mark.parametrize(
        "off",
        [
            {"scale": 0.0},
            {"blur_sigma": 0.0},
            {"start_percent": 0.6, "end_percent": 0.6},
            {"start_percent": 0.7, "end_percent": 0.2},
            {"mask": torch.zeros(1, 64, 64)},
        ],
    )
    def test_neutral_settings_install_nothing(self, model: Any, off: dict) -> None:
        patched, x = guided(model, **off), tiny.noise(16, 16)
        assert repr(patched.model_options) == repr(model.model_options) and not patched.wrappers
        with tiny.watching(model) as calls:
            result = tiny.sample(patched, x)
        assert chunks(calls) == [[0, 1]] * 3 and torch.equal(result, tiny.sample(model, x))

    def test_outside_its_window_an_installed_guidance_is_free_and_bit_identical(self, model: Any) -> None:
        patched, x = guided(model, start_percent=0.9999), tiny.noise(16, 16)
        assert patched.wrappers
        with tiny.watching(model) as calls:
            result = tiny.sample(patched, x)
        assert chunks(calls) == [[0, 1]] * 3 and torch.equal(result, tiny.sample(model, x))

    def test_global_mode_records_nothing(self, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        def never(*_: Any) -> None:
            raise AssertionError("recorded")

        monkeypatch.setattr(hooks, "_override", never)
        tiny.sample(guided(model, mask_mode="global"), tiny.noise(16, 16))


class TestBatchesAndSizes:
    @pytest.mark.parametrize("cfg", [1.0, 5.0])
    @pytest.mark.parametrize("changes", [{}, {"mask_mode": "soft", "rescale": 0.7}, {"mask_mode": "global"}])
    def test_batch_equals_singles(self, model: Any, cfg: float, changes: dict) -> None:
        patched, x = guided(model, **changes), tiny.noise(17, 24, batch=3)
        together = tiny.sample(patched, x, cfg)
        for i in range(3):
            torch.testing.assert_close(together[i : i + 1], tiny.sample(patched, x[i : i + 1], cfg), **CLOSE)

    def test_split_calls_equal_one_batch(self, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        patched, x = guided(model), tiny.noise(24, 16, batch=2)
        expected = tiny.sample(patched, x)
        monkeypatch.setattr(model.model, "memory_required", lambda *a, **k: 1e30)  # the host then splits the batch
        with tiny.watching(model) as calls:
            torch.testing.assert_close(tiny.sample(patched, x), expected, **CLOSE)
        assert len(calls) == 9

    def test_two_sizes_in_one_process(self, model: Any) -> None:
        patched = guided(model)
        sizes = [(64, 64), (33, 60), (16, 16), (64, 64)]
        fresh = [tiny.sample(guided(model), tiny.noise(*size)) for size in sizes]
        again = [tiny.sample(patched, tiny.noise(*size)) for size in sizes]
        assert all(torch.equal(a, b) for a, b in zip(fresh, again))

    def test_cancelled_run_then_a_normal_one(self, model: Any) -> None:
        patched, x = guided(model, every=2), tiny.noise(16, 16)

        def cancel(step: int, *_: Any) -> None:
            if step == 1:
                raise comfy.model_management.InterruptProcessingException

        expected = tiny.sample(guided(model, every=2), x)
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            tiny.sample(patched, tiny.noise(24, 16), callback=cancel)
        assert torch.equal(tiny.sample(patched, x), expected)

    def test_original_model_is_untouched(self, model: Any) -> None:
        before, x = repr((model.model_options, model.wrappers)), tiny.noise(16, 16)
        expected = tiny.sample(model, x)
        tiny.sample(guided(model), x)
        assert repr((model.model_options, model.wrappers)) == before
        assert torch.equal(tiny.sample(model, x), expected)

    def test_users_mask_limits_where_guidance_acts(self, model: Any) -> None:
        start = tiny.noise(16, 24)
        mask = torch.zeros(1, 128, 192)
        mask[..., 96:] = 1
        plain, full = one_step(model, start)[1], one_step(guided(model), start)[1]
        limited = one_step(guided(model, mask=mask), start)[1]
        assert torch.equal(limited[..., :12], plain[..., :12])
        assert relative(limited[..., 12:], plain[..., 12:]) > 1e-2
        everywhere = one_step(guided(model, mask=torch.ones(1, 8, 8)), start)[1]
        torch.testing.assert_close(everywhere, full, rtol=1e-5, atol=1e-5)

    def test_inpainting(self, model: Any) -> None:
        x, latent = tiny.noise(16, 16), tiny.noise(16, 16, seed=4)
        inside = torch.zeros(1, 1, 128, 128)
        inside[..., :64] = 1
        plain = tiny.sample(model, x, latent=latent, noise_mask=inside)
        result = tiny.sample(guided(model), x, latent=latent, noise_mask=inside)
        torch.testing.assert_close(result[..., 8:], latent[..., 8:], rtol=1e-4, atol=1e-4)
        assert relative(result[..., :8], plain[..., :8]) > 1e-2 and torch.isfinite(result).all()

    def test_rescale_keeps_the_spread(self, model: Any) -> None:
        start = tiny.noise(16, 16, batch=2)
        plain, full = one_step(model, start)[1], one_step(guided(model, scale=3.0, rescale=1.0), start)[1]
        torch.testing.assert_close(full.flatten(1).std(1), plain.flatten(1).std(1), rtol=1e-4, atol=0)
        assert relative(one_step(guided(model, scale=3.0), start)[1], full) > 1e-2


class TestPrompts:
    def test_area_conds(self, model: Any) -> None:
        """Two regions and a background: each evaluation's own map, at its area, mixed as the host mixes predictions."""
        positive = (
            tiny.prompt(1) + tiny.prompt(3, area=(16, 12, 0, 0), strength=2.0) + tiny.prompt(4, area=(8, 16, 8, 8))
        )
        start, seen = tiny.noise(16, 24), {}

        def keep(args: dict[str, Any]) -> Tensor:
            seen.update(args)
            return args["denoised"]

        patched = guided(model)
        patched.set_model_sampler_post_cfg_function(keep)
        with tiny.watching(model) as calls:
            tiny.sample(patched, start, positive=positive, steps=1)
        main = [call for call in calls if hooks.DEGRADED not in call["options"]]
        extra = [call for call in calls if hooks.DEGRADED in call["options"]]
        assert sorted(c for call in main for c in call["chunks"]) == [0, 0, 0, 1, 1, 1]
        assert sorted(c for call in extra for c in call["chunks"]) == [1, 1, 1]
        uuids = [uid for call in extra for uid in call["uuids"]]
        assert len(set(uuids)) == 3 and not set(uuids) & {uid for call in main for uid in call["uuids"]}

        total, weights = torch.zeros(16, 24, dtype=torch.float64), torch.zeros(16, 24, dtype=torch.float64)
        for cond in seen["uncond"]:
            place = comfy.samplers.get_area_and_mult(cond, seen["input"], seen["sigma"])
            (call,) = [c for c in main if (1, cond["uuid"]) in zip(c["chunks"], c["uuids"])]
            row = list(zip(call["chunks"], call["uuids"])).index((1, cond["uuid"]))
            q, k = (split_heads(call[name][row : row + 1], 4, False)[0] for name in "qk")
            height, width, y, x = place.area or (16, 24, 0, 0)
            grid = (math.ceil(height / 8), math.ceil(width / 8))
            mask = reference.pixel_mask(reference.saliency(q, k), grid, (height, width), 1.0)
            weight = place.mult[0, 0].double()
            total[y : y + height, x : x + width] += mask * weight
            weights[y : y + height, x : x + width] += weight
        mask, x0 = total / weights, seen["uncond_denoised"]
        degraded = mask * reference.gaussian_blur(x0[0], 2.0, 6, 6) + (1 - mask) * x0[0].double()
        noisy = seen["input"] + (degraded - x0[0]).float()
        (whole,) = [c for c in extra if c["x"].shape[2:] == (16, 24)]
        scaled = model.model.model_sampling.calculate_input(seen["sigma"], noisy)
        torch.testing.assert_close(whole["x"][:1], scaled, rtol=1e-4, atol=1e-4)
        assert 0.05 < mask.mean() < 0.95

    def test_a_negative_prompt_that_ends_early(self, model: Any, caplog: pytest.LogCaptureFixture) -> None:
        """Steps in which the negative prompt is inactive use the positive one; nothing stale is reused."""
        negative = [[tiny.prompt(2)[0][0], {"start_percent": 0.0, "end_percent": 0.5}]]
        with tiny.watching(model) as calls:
            result = tiny.sample(guided(model), tiny.noise(16, 16), negative=negative, steps=4)
        extra = [call["chunks"] for call in calls if hooks.DEGRADED in call["options"]]
        assert set(map(tuple, extra)) == {(0,), (1,)} and torch.isfinite(result).all()
        assert not caplog.records

    @pytest.mark.parametrize("cfg, branch, chunk", [(5.0, "cond", 0), (5.0, "uncond", 1), (1.0, "cond", 0)])
    def test_branch(self, model: Any, cfg: float, branch: str, chunk: int) -> None:
        with tiny.watching(model) as calls:
            tiny.sample(guided(model, branch=branch), tiny.noise(16, 16), cfg)
        assert [c["chunks"] for c in calls if hooks.DEGRADED in c["options"]] == [[chunk]] * 3
        x, x0, sigma = one_step(guided(model, branch=branch), tiny.noise(24, 16), cfg)
        assert relative(x0.double(), Denoiser(model, cfg, branch)(x, sigma, (3, 2))) < 2e-5

    def test_a_branch_that_is_not_there_is_said_once(self, model: Any, caplog: pytest.LogCaptureFixture) -> None:
        x = tiny.noise(16, 16)
        with caplog.at_level(logging.WARNING), tiny.watching(model) as calls:
            result = tiny.sample(guided(model, branch="uncond"), x, cfg=1.0)
        assert chunks(calls) == [[0]] * 3 and torch.equal(result, tiny.sample(model, x, cfg=1.0))
        assert [r.message.count("negative prompt") for r in caplog.records] == [1]

    def test_context_windows(self, model: Any) -> None:
        """Windows over a batch of independent pictures change nothing, so guidance must not either."""
        x = tiny.noise(16, 16, batch=6)
        windows = ContextWindowsManualNode.execute(
            model, context_length=4, context_overlap=2, context_schedule=comfy.context_windows.ContextSchedules.STATIC_STANDARD,
            context_stride=1, closed_loop=False, fuse_method=comfy.context_windows.ContextFuseMethods.PYRAMID, dim=0,
            freenoise=False,
        ).result[0]  # fmt: skip
        expected = tiny.sample(guided(model), x)
        with tiny.watching(model) as calls:
            result = tiny.sample(guided(windows), x)
        assert {call["x"].shape[0] // len(call["chunks"]) for call in calls} <= {4, 5}
        torch.testing.assert_close(result, expected, **CLOSE)


def basic(model: Any, other: Any) -> Any:
    guider = Guider_Basic(model)
    guider.set_conds(tiny.prompt(1))
    return guider


def dual_cfg(nested: bool) -> Callable[[Any, Any], Any]:
    def make(model: Any, other: Any) -> Any:
        guider = Guider_DualCFG(model)
        guider.set_conds(tiny.prompt(1), tiny.prompt(3), tiny.prompt(2))
        guider.set_cfg(3.0, 4.0, nested=nested)
        return guider

    return make


def perp_neg(model: Any, other: Any) -> Any:
    guider = Guider_PerpNeg(model)
    guider.set_conds(tiny.prompt(1), tiny.prompt(2), tiny.prompt(3))
    guider.set_cfg(5.0, 1.0)
    return guider


def dual_model(model: Any, other: Any) -> Any:
    guider = Guider_DualModel(model, other)
    guider.set_conds(tiny.prompt(1), tiny.prompt(2))
    guider.set_cfg(5.0)
    return guider


class TestGuiders:
    # index of the spoilt list in the host's call: DualCFG evaluates [negative, middle, positive]
    @pytest.mark.parametrize(
        "make, index",
        [(basic, 0), (dual_cfg(False), 0), (dual_cfg(True), 1), (perp_neg, 1), (dual_model, 0)],
        ids=["Basic", "DualCFG", "DualCFG nested", "PerpNeg", "DualModel"],
    )
    def test_one_more_evaluation_of_the_right_prompt(
        self, model: Any, make: Callable, index: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        x, other = tiny.noise(16, 16), tiny.unet("sd15", seed=1)
        plain = tiny.sample_with(make(model, other), x)
        with tiny.watching(model) as calls, tiny.watching(other) as others:
            result = tiny.sample_with(make(guided(model), other), x)
        extra = [call for call in calls if hooks.DEGRADED in call["options"]]
        assert [call["chunks"] for call in extra] == [[index]] * 3 and len(calls) == 6
        assert not any(hooks.DEGRADED in call["options"] for call in others)
        assert relative(result, plain) > 1e-3 and torch.isfinite(result).all()
        assert not caplog.records

    def test_basic_guider_equals_cfg_one(self, model: Any) -> None:
        x = tiny.noise(16, 16)
        torch.testing.assert_close(
            tiny.sample_with(basic(guided(model), None), x), tiny.sample(guided(model), x, cfg=1.0), **CLOSE
        )

    @pytest.mark.parametrize("sampler", ["heun", "dpmpp_2m", "uni_pc", "euler_cfg_pp", "lcm", "dpmpp_2m_sde"])
    def test_samplers(self, model: Any, sampler: str) -> None:
        x = tiny.noise(16, 16)
        with tiny.watching(model) as calls:
            result = tiny.sample(guided(model), x, steps=4, sampler=sampler)
        main = [call for call in calls if hooks.DEGRADED not in call["options"]]
        assert len(calls) == 2 * len(main) and torch.isfinite(result).all()


class TestBesideOtherNodes:
    @pytest.mark.parametrize("ours_first", [True, False])
    @pytest.mark.parametrize("branch", ["auto", "cond"])
    def test_pags_effect_is_unchanged(self, model: Any, ours_first: bool, branch: str) -> None:
        def pag(before: Any) -> Any:
            return PerturbedAttentionGuidance.execute(before, 3.0).result[0]

        start = tiny.noise(24, 16)
        sag_only = guided(model, branch=branch)
        both = pag(sag_only) if ours_first else guided(pag(model), branch=branch)
        plain, with_pag, with_sag, with_both = (one_step(m, start)[1] for m in (model, pag(model), sag_only, both))
        torch.testing.assert_close(with_both - with_sag, with_pag - plain, rtol=1e-3, atol=1e-3 * float(plain.abs().max()))
        torch.testing.assert_close(with_both - with_pag, with_sag - plain, rtol=1e-3, atol=1e-3 * float(plain.abs().max()))
        assert relative(with_pag, plain) > 1e-2 and relative(with_sag, plain) > 1e-2
        with tiny.watching(model) as calls:
            tiny.sample(both, start, steps=2)
        assert len(calls) == 6

    def test_pag_before_ours_does_not_spoil_the_record(self, model: Any) -> None:
        """PAG evaluates the positive prompt again with broken attention before we read; a deeper block sees that."""
        start = tiny.noise(24, 16)
        settings = {"branch": "cond", "blocks": "output.2", "threshold": 1.05}
        pag = PerturbedAttentionGuidance.execute(model, 3.0).result[0]
        with_pag, plain = one_step(pag, start)[1], one_step(model, start)[1]
        both, with_sag = one_step(guided(pag, **settings), start)[1], one_step(guided(model, **settings), start)[1]
        torch.testing.assert_close(both - with_pag, with_sag - plain, rtol=1e-3, atol=1e-3 * float(plain.abs().max()))

    def test_two_of_ours_add_up(self, model: Any) -> None:
        start = tiny.noise(24, 16)
        twice = one_step(guided(guided(model, scale=0.25), scale=0.5), start)[1]
        torch.testing.assert_close(twice, one_step(guided(model), start)[1], rtol=1e-4, atol=1e-3)

    def test_beside_the_hosts_own_node(self, model: Any) -> None:
        """It replaces the attention of the very block we read."""
        x = tiny.noise(32, 24)
        core = CoreSag.execute(model, 0.5, 2.0).result[0]
        both = tiny.sample(guided(core, scale=0.25, kernel="taps"), x)
        assert relative(both, tiny.sample(CoreSag.execute(model, 0.75, 2.0).result[0], x)) < 1e-4

    def test_easycache(self, model: Any, caplog: pytest.LogCaptureFixture) -> None:
        """Where the cache skips the network, the last map stands in; its entries for the prompts stay their own."""
        cached = EasyCacheNode.execute(model, 100.0, 0.0, 1.0, False).result[0]
        x, attention = tiny.noise(16, 16), []
        block = model.model.diffusion_model.get_submodule("middle_block.1.transformer_blocks.0")
        handle = block.register_forward_hook(lambda *_: attention.append(1))
        try:
            with caplog.at_level(logging.WARNING):
                plain = tiny.sample(cached, x, steps=6)
                run = len(attention)
                result = tiny.sample(guided(cached), x, steps=6)
        finally:
            handle.remove()
        assert run < 6 and len(attention) - run == run + 6  # steps are skipped; each of ours is evaluated
        assert relative(result, plain) > 1e-3 and torch.isfinite(result).all()
        assert not [r for r in caplog.records if "Fovea" in r.message]


class TestBadInput:
    def test_unknown_block(self, model: Any) -> None:
        with pytest.raises(ValueError, match=r"Unknown block 'input\.4'.*input\.5, middle, output\.2, output\.3"):
            guided(model, blocks="input.4")

    @pytest.mark.parametrize("mode", ["threshold", "soft"])
    def test_unsupported_model_is_passed_on_with_a_warning(self, mode: str, caplog: pytest.LogCaptureFixture) -> None:
        model = tiny.flux()
        with caplog.at_level(logging.WARNING):
            patched = guided(model, mask_mode=mode)
        assert len(caplog.records) == 1 and "global" in caplog.text and "Flux" in caplog.text
        assert not patched.wrappers and repr(patched.model_options) == repr(model.model_options)

    def test_blur_guidance_works_on_a_transformer(self) -> None:
        model, x = tiny.flux(), torch.randn(1, 16, 12, 8, generator=torch.Generator().manual_seed(0))
        with tiny.watching(model, at="") as calls:
            result = tiny.sample(guided(model, mask_mode="global"), x, cfg=1.0)
        assert chunks(calls) == [[0]] * 6
        assert relative(result, tiny.sample(model, x, cfg=1.0)) > 1e-4

    def test_merged_tokens(self, model: Any, caplog: pytest.LogCaptureFixture) -> None:
        merging, x = model.clone(), tiny.noise(16, 16)
        merging.set_model_attn1_patch(lambda n, context, value, extra: (n, context[:, ::2], value[:, ::2]))
        with caplog.at_level(logging.WARNING), tiny.watching(model) as calls:
            result = tiny.sample(guided(merging), x)
        assert torch.equal(result, tiny.sample(merging, x)) and chunks(calls) == [[0, 1]] * 3
        assert len(caplog.records) == 1 and "no self-attention was recorded" in caplog.text

    def test_nan_of_one_picture_stays_with_it(self, model: Any, caplog: pytest.LogCaptureFixture) -> None:
        start, broken = tiny.noise(16, 16, batch=2), model.clone()

        def spoil(executor: Any, x: Tensor, t: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            result = executor(x, t, *args, **kwargs)
            if hooks.DEGRADED in args[3]:
                result[1] = float("nan")
            return result

        broken.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.APPLY_MODEL, "spoil", spoil)
        with caplog.at_level(logging.WARNING):
            result = tiny.sample(guided(broken), start)
        torch.testing.assert_close(result[:1], tiny.sample(guided(model), start[:1]), **CLOSE)
        torch.testing.assert_close(result[1:], tiny.sample(model, start[1:]), **CLOSE)
        assert len(caplog.records) == 1 and "NaN or infinity for the blurred latent" in caplog.text

    def test_nan_of_the_model_is_reported(self, model: Any, caplog: pytest.LogCaptureFixture) -> None:
        broken, x = model.clone(), tiny.noise(16, 16)

        def spoil(executor: Any, *args: Any, **kwargs: Any) -> Tensor:
            return executor(*args, **kwargs) * float("nan")

        broken.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.APPLY_MODEL, "spoil", spoil)
        with caplog.at_level(logging.WARNING):
            result = tiny.sample(guided(broken), x)
        assert torch.isnan(result).all() and len(caplog.records) == 1 and "latent itself" in caplog.text
