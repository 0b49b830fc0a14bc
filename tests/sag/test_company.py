"""Self-Attention Guidance among other things: prompts by area and time, guiders, samplers, other nodes."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

import comfy.samplers
import pytest
import tiny_models as tiny
import torch
from comfy_extras.nodes_custom_sampler import Guider_Basic, Guider_DualCFG, Guider_DualModel
from comfy_extras.nodes_easycache import EasyCacheNode
from comfy_extras.nodes_pag import PerturbedAttentionGuidance
from comfy_extras.nodes_perpneg import Guider_PerpNeg
from comfy_extras.nodes_sag import SelfAttentionGuidance as CoreSag
from reference import sag as reference
from sag_steps import CLOSE, Denoiser, chunks, guided, one_step, relative
from torch import Tensor

from fovea.attention import hooks
from fovea.attention.tensor_layout import split_heads

BLACK = torch.zeros(1, 8, 8)


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny.unet("sd15")


class TestPrompts:
    def test_area_conds(self, model: Any) -> None:
        """Two regions and a background: each evaluation's own map, at its area, mixed as ComfyUI mixes predictions."""
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

    @pytest.mark.parametrize("cfg, prompt, chunk", [(5.0, "positive", 0), (5.0, "negative", 1), (1.0, "positive", 0)])
    def test_guided_prompt(self, model: Any, cfg: float, prompt: str, chunk: int) -> None:
        with tiny.watching(model) as calls:
            tiny.sample(guided(model, guided_prompt=prompt), tiny.noise(16, 16), cfg)
        assert [c["chunks"] for c in calls if hooks.DEGRADED in c["options"]] == [[chunk]] * 3
        x, x0, sigma = one_step(guided(model, guided_prompt=prompt), tiny.noise(24, 16), cfg)
        assert (
            relative(x0.double(), Denoiser(model, cfg, "cond" if prompt == "positive" else "uncond")(x, sigma, (3, 2)))
            < 2e-5
        )

    def test_a_prompt_that_is_not_there_is_said_once(self, model: Any, caplog: pytest.LogCaptureFixture) -> None:
        x = tiny.noise(16, 16)
        with caplog.at_level(logging.WARNING), tiny.watching(model) as calls:
            result = tiny.sample(guided(model, guided_prompt="negative"), x, cfg=1.0)
        assert chunks(calls) == [[0]] * 3 and torch.equal(result, tiny.sample(model, x, cfg=1.0))
        assert [r.message.count("negative prompt") for r in caplog.records] == [1]

    @pytest.mark.parametrize("ours_first", [False, True])
    def test_context_windows(self, model: Any, ours_first: bool) -> None:
        """Windows over a batch of independent pictures change nothing, so guidance must not either."""
        x = tiny.noise(16, 16, batch=6)
        expected = tiny.sample(guided(model), x)
        with tiny.watching(model) as calls:
            result = tiny.sample(tiny.windowed(guided(model)) if ours_first else guided(tiny.windowed(model)), x)
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
    # Index of the degraded list in ComfyUI's call: DualCFG evaluates [negative, middle, positive], PerpNeg [positive,
    # negative, empty], of which the empty one is what the paper calls unconditional.
    @pytest.mark.parametrize(
        "make, index",
        [(basic, 0), (dual_cfg(False), 0), (dual_cfg(True), 1), (perp_neg, 2), (dual_model, 0)],
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

    def test_a_run_without_guidance_says_why(self, model: Any, caplog: pytest.LogCaptureFixture) -> None:
        """At the end of the run, whatever its length: a window that no step lies in, a guider that does not ask."""
        x = tiny.noise(16, 16)
        tiny.sample(guided(model, end_percent=0.2), x)
        tiny.sample(guided(model, scale=0.0, end_percent=0.2), x, denoise=0.3)
        assert not caplog.records
        tiny.sample(guided(model, end_percent=0.2), x, denoise=0.3)
        assert [record.message.count("no step of this run") for record in caplog.records] == [1]
        caplog.clear()
        guider = dual_model(guided(model), tiny.unet("sd15", seed=1))
        guider.set_cfg(1.0)
        tiny.sample_with(guider, x, steps=2)
        assert [record.message.count("post-CFG") for record in caplog.records] == [1]

    @pytest.mark.parametrize(
        ("changes", "why"),
        [({"start_percent": 0.5, "end_percent": 0.5}, "not before end_percent"), ({"mask": BLACK}, "black")],
    )
    def test_settings_that_leave_nothing_to_guide(
        self, model: Any, changes: dict, why: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        guided(model, **changes)
        assert [why in record.message for record in caplog.records] == [True]

    def test_a_second_models_negative_prompt_is_not_evaluated_on_the_first(self, model: Any) -> None:
        x, other = tiny.noise(16, 16), tiny.unet("sd15", seed=1)
        auto, cond = (
            tiny.sample_with(dual_model(guided(model, guided_prompt=prompt), other), x)
            for prompt in ("auto", "positive")
        )
        assert torch.equal(auto, cond)

    def test_basic_guider_equals_cfg_one(self, model: Any) -> None:
        x = tiny.noise(16, 16)
        torch.testing.assert_close(
            tiny.sample_with(basic(guided(model), None), x), tiny.sample(guided(model), x, cfg=1.0), **CLOSE
        )


class TestBesideOtherNodes:
    @pytest.mark.parametrize("ours_first", [True, False])
    @pytest.mark.parametrize("prompt", ["auto", "positive"])
    def test_pags_effect_is_unchanged(self, model: Any, ours_first: bool, prompt: str) -> None:
        def pag(before: Any) -> Any:
            return PerturbedAttentionGuidance.execute(before, 3.0).result[0]

        start = tiny.noise(24, 16)
        sag_only = guided(model, guided_prompt=prompt)
        both = pag(sag_only) if ours_first else guided(pag(model), guided_prompt=prompt)
        plain, with_pag, with_sag, with_both = (one_step(m, start)[1] for m in (model, pag(model), sag_only, both))
        close = {"rtol": 1e-3, "atol": 1e-3 * float(plain.abs().max())}
        torch.testing.assert_close(with_both - with_sag, with_pag - plain, **close)
        torch.testing.assert_close(with_both - with_pag, with_sag - plain, **close)
        assert relative(with_pag, plain) > 1e-2 and relative(with_sag, plain) > 1e-2
        with tiny.watching(model) as calls:
            tiny.sample(both, start, steps=2)
        assert len(calls) == 6

    def test_pag_before_ours_does_not_spoil_the_record(self, model: Any) -> None:
        """PAG evaluates the positive prompt again with broken attention before we read; a deeper block sees that."""
        start = tiny.noise(24, 16)
        settings = {"guided_prompt": "positive", "blocks": "output.2", "threshold": 1.05}
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
        both = tiny.sample(guided(core, scale=0.25, blur_kernel="core: 9 px"), x)
        assert relative(both, tiny.sample(CoreSag.execute(model, 0.75, 2.0).result[0], x)) < 1e-4

    @pytest.mark.parametrize("ours_first", [False, True])
    def test_easycache(self, model: Any, caplog: pytest.LogCaptureFixture, ours_first: bool) -> None:
        """Where the cache skips the network, the last map stands in; its entries for the prompts stay their own."""

        def cached(model: Any) -> Any:
            return EasyCacheNode.execute(model, 100.0, 0.0, 1.0, False).result[0]

        x, attention = tiny.noise(16, 16), []
        block = model.model.diffusion_model.get_submodule("middle_block.1.transformer_blocks.0")
        handle = block.register_forward_hook(lambda *_: attention.append(1))
        try:
            with caplog.at_level(logging.WARNING):
                plain = tiny.sample(cached(model), x, steps=6)
                run = len(attention)
                both = cached(guided(model)) if ours_first else guided(cached(model))
                result = tiny.sample(both, x, steps=6)
        finally:
            handle.remove()
        assert run < 6 and len(attention) - run == run + 6  # steps are skipped; each of ours is evaluated
        assert relative(result, plain) > 1e-3 and torch.isfinite(result).all()
        assert not [r for r in caplog.records if "Fovea" in r.message]
