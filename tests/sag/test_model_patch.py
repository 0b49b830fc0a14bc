"""Self-Attention Guidance in the real sampling code of ComfyUI: results, costs, sizes, bad input."""

from __future__ import annotations

import logging
from typing import Any

import comfy.model_management
import comfy.patcher_extension
import comfy.samplers
import pytest
import tiny_models as tiny
import tiny_transformers as dit
import torch
from comfy.model_base import ModelType
from comfy_extras.nodes_sag import SelfAttentionGuidance as CoreSag
from sag_steps import CLOSE, Denoiser, chunks, guided, one_step, relative
from torch import Tensor

from fovea.attention import hooks


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny.unet("sd15")


class TestAgainstTheFormulas:
    # Pictures of 512x512, 264x480, 520x520, 72x64 and 448x704 pixels; the last has 77 tokens in the middle block.
    @pytest.mark.parametrize(
        "size, grid",
        [((64, 64), (8, 8)), ((60, 33), (8, 5)), ((65, 65), (9, 9)), ((9, 8), (2, 1)), ((56, 88), (7, 11))],
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
        at = {"sigmas": torch.tensor([0.7, 0.0]), "latent": tiny.noise(24, 16, seed=9)}
        x, x0, sigma = one_step(patched, start, **at)
        assert sigma == pytest.approx(0.7)
        slow = Denoiser(model, flow=flow)(x, sigma, (3, 2))
        assert relative(x0.double(), slow) < 5e-5
        assert relative(one_step(model, start, **at)[1], x0) > 1e-3

    # The second is 1024x520 pixels, where guessing the grid from the number of tokens goes wrong.
    @pytest.mark.parametrize(
        "kind, size, grid", [("sdxl", (24, 16), (6, 4)), ("sdxl", (65, 128), (17, 32)), ("shallow", (24, 16), (6, 4))]
    )
    def test_other_unets(self, kind: str, size: tuple, grid: tuple) -> None:
        model = tiny.unet(kind)
        x, x0, sigma = one_step(guided(model, scale=1.3, blur_sigma=1.1, threshold=1.2), tiny.noise(*size))
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
        """Where ComfyUI's own node is right: negative prompt, kernel of 9 pixels, sizes whose grid it guesses."""
        model, x = tiny.unet(kind), tiny.noise(*size)
        core = CoreSag.execute(model, 0.5, 2.0).result[0]
        ours = guided(model, scale=0.5, blur_sigma=2.0, blur_kernel="core: 9 px")
        theirs = tiny.sample(core, x, steps=1)
        assert relative(tiny.sample(ours, x, steps=1), theirs) < 1e-5
        assert relative(tiny.sample(model, x, steps=1), theirs) > 1e-2

    def test_equals_the_hosts_node_over_a_whole_run(self, model: Any) -> None:
        x = tiny.noise(32, 24)
        theirs = tiny.sample(CoreSag.execute(model, 0.5, 2.0).result[0], x, steps=6)
        assert relative(tiny.sample(guided(model, scale=0.5, blur_kernel="core: 9 px"), x, steps=6), theirs) < 1e-4


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
            result = tiny.sample(guided(model, every_n_steps=every), tiny.noise(16, 16), steps=5)
        expected = [group for step in range(5) for group in ([[0, 1], [1]] if step in extra else [[0, 1]])]
        assert chunks(calls) == expected
        assert relative(result, tiny.sample(guided(model), tiny.noise(16, 16), steps=5)) > 1e-3

    def test_rising_noise(self, model: Any, caplog: pytest.LogCaptureFixture) -> None:
        """Unsampling: guided as any run, every n-th step too, and nobody says that it is not."""
        levels = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", 6).flip(0)
        for every, passes in ((1, 6), (2, 3)):
            guider = comfy.samplers.CFGGuider(guided(model, every_n_steps=every))
            guider.set_conds(tiny.prompt(1), tiny.prompt(2))
            guider.set_cfg(3.0)
            sampler = comfy.samplers.sampler_object("euler")
            with tiny.watching(model) as calls, torch.inference_mode():
                guider.sample(torch.zeros(1, 4, 16, 16), tiny.noise(16, 16), sampler, levels.clamp_min(1e-3),
                              disable_pbar=True, seed=0)  # fmt: skip
            assert len(calls) == 6 + passes and not caplog.records

    def test_rising_noise_with_two_evaluations_per_step(self, model: Any) -> None:
        """A level that is evaluated twice is no new beginning: every fourth evaluation is guided."""
        levels = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", 6).flip(0)
        guider = comfy.samplers.CFGGuider(guided(model, every_n_steps=4))
        guider.set_conds(tiny.prompt(1), tiny.prompt(2))
        guider.set_cfg(3.0)
        with tiny.watching(model) as calls, torch.inference_mode():
            guider.sample(torch.zeros(1, 4, 16, 16), tiny.noise(16, 16), comfy.samplers.sampler_object("heun"),
                          levels.clamp_min(1e-3), disable_pbar=True, seed=0)  # fmt: skip
        extra = [call for call in calls if call["chunks"] == [1]]
        assert len(extra) == -(-(len(calls) - len(extra)) // 4)

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
        patched, x = guided(model, start_percent=0.1, end_percent=0.2), tiny.noise(16, 16)
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
        monkeypatch.setattr(model.model, "memory_required", lambda *a, **k: 1e30)  # ComfyUI then splits the batch
        with tiny.watching(model) as calls:
            torch.testing.assert_close(tiny.sample(patched, x), expected, **CLOSE)
        assert len(calls) == 9

    def test_two_sizes_in_one_process(self, model: Any) -> None:
        patched = guided(model)
        sizes = [(32, 32), (17, 30), (9, 8), (32, 32)]
        fresh = [tiny.sample(guided(model), tiny.noise(*size), steps=2) for size in sizes]
        again = [tiny.sample(patched, tiny.noise(*size), steps=2) for size in sizes]
        assert all(torch.equal(a, b) for a, b in zip(fresh, again))

    def test_canceled_run_then_a_normal_one(self, model: Any) -> None:
        patched, x = guided(model, every_n_steps=2), tiny.noise(16, 16)

        def cancel(step: int, *_: Any) -> None:
            if step == 1:
                raise comfy.model_management.InterruptProcessingException

        expected = tiny.sample(guided(model, every_n_steps=2), x)
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
        rescaled = one_step(guided(model, mask=mask, scale=3.0, rescale=0.7), start)[1]
        assert torch.equal(rescaled[..., :12], plain[..., :12])
        gray = one_step(guided(model, mask=mask / 2), start)[1]
        torch.testing.assert_close(gray[..., 12:], (plain + full)[..., 12:] / 2, rtol=1e-4, atol=1e-4)
        everywhere = one_step(guided(model, mask=torch.ones(1, 8, 8)), start)[1]
        torch.testing.assert_close(everywhere, full, rtol=1e-5, atol=1e-5)

    def test_masks_of_pictures_with_an_axis_for_frames(self) -> None:
        """Qwen-Image's latents: each picture has its own mask, as without that axis."""
        model, start = dit.build("qwen"), dit.noise("qwen", 8, 8, batch=2)
        masks = torch.zeros(2, 64, 64)
        masks[0, :, :32], masks[1, :, 32:] = 1, 1
        assert start.ndim == 5
        plain, found = (dit.sample(each, start, steps=1) for each in (model, guided(model, mask=masks)))
        half = start.shape[-1] // 2
        for i, (inside, outside) in enumerate([(slice(half), slice(half, None)), (slice(half, None), slice(half))]):
            assert torch.equal(found[i, ..., outside], plain[i, ..., outside])
            assert relative(found[i, ..., inside], plain[i, ..., inside]) > 1e-3

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


class TestBadInput:
    def test_unknown_block(self, model: Any) -> None:
        with pytest.raises(ValueError, match=r"Unknown block 'input\.4'.*input\.5, middle, output\.2 to output\.3"):
            guided(model, blocks="input.4")

    @pytest.mark.parametrize("mode", ["threshold", "soft"])
    def test_unsupported_model_is_passed_on_with_a_warning(self, mode: str, caplog: pytest.LogCaptureFixture) -> None:
        model = tiny.pixart()
        with caplog.at_level(logging.WARNING):
            patched = guided(model, mask_mode=mode)
        assert len(caplog.records) == 1 and "global" in caplog.text and "PixArt" in caplog.text
        assert not patched.wrappers and repr(patched.model_options) == repr(model.model_options)

    def test_blur_guidance_works_on_any_model(self) -> None:
        model, x = tiny.pixart(), tiny.noise(48, 40)
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


def test_the_degraded_pass_is_named_after_the_technique() -> None:
    """The same in every process: other packs recognize the pass by it."""
    model = tiny.unet("sd15")
    with tiny.watching(model) as calls:
        tiny.sample(guided(guided(model), scale=0.3), tiny.noise(16, 16), steps=1)
    named = [call for call in calls if hooks.DEGRADED in call["options"]]
    assert {call["options"][hooks.DEGRADED] for call in named} == {"fovea_sag"}
    assert len({tuple(call["uuids"]) for call in named}) == len(named) == 2, "two nodes never share a uuid"
