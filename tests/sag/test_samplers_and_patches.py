"""Guidance with every sampler of ComfyUI, and before and after ComfyUI's other model patches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.samplers
import pytest
import tiny_models as tiny
import torch
from comfy.samplers import SAMPLER_NAMES
from comfy_api.torch_helpers import set_torch_compile_wrapper
from comfy_extras.nodes_freelunch import FreeU, FreeU_V2
from comfy_extras.nodes_hypertile import HyperTile
from comfy_extras.nodes_model_downscale import PatchModelAddDownscale
from comfy_extras.nodes_nag import NAGuidance
from comfy_extras.nodes_tomesd import TomePatchModel
from sag_steps import Denoiser, guided, one_step, relative
from torch import Tensor

from fovea.attention import hooks

EVERYWHERE = {"transformer_depth": [1, 1, 1], "transformer_depth_output": [1, 1, 1, 1, 1, 1]}


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny.unet("sd15")


@pytest.fixture(scope="module")
def everywhere() -> Any:
    """A UNet with attention at the latent's own size too, where HyperTile and ToMe act."""
    return tiny.unet("shallow", **EVERYWHERE)


class TestEverySampler:
    @pytest.mark.parametrize("sampler", SAMPLER_NAMES)
    def test_evaluations_batch_and_off(self, model: Any, sampler: str) -> None:
        x = tiny.noise(16, 16, batch=2)
        with tiny.watching(model) as calls:
            both = tiny.sample(guided(model), x, cfg=3.0, steps=4, sampler=sampler)
        main = [call for call in calls if hooks.DEGRADED not in call["options"]]
        assert len(main) >= 4 and len(calls) == 2 * len(main)
        assert all(call["chunks"] == [1] for call in calls if hooks.DEGRADED in call["options"])
        plain = tiny.sample(model, x, cfg=3.0, steps=4, sampler=sampler)
        assert torch.isfinite(both).all() and relative(both, plain) > 1e-4
        off = tiny.sample(guided(model, scale=0.0), x, cfg=3.0, steps=4, sampler=sampler)
        assert torch.equal(off, plain)
        # dpm_adaptive chooses its steps by the whole batch.
        if not tiny.adds_noise(sampler) and sampler != "dpm_adaptive":
            alone = tiny.sample(guided(model), x[1:], cfg=3.0, steps=4, sampler=sampler)
            assert relative(both[1:], alone) < 1e-3

    @pytest.mark.parametrize("cfg", [1.0, 3.0, 7.5])
    def test_cfg(self, model: Any, cfg: float) -> None:
        x = tiny.noise(16, 16, batch=3)
        with tiny.watching(model) as calls:
            result = tiny.sample(guided(model), x, cfg=cfg, steps=2)
        rows = [len(call["chunks"]) for call in calls]
        assert len(calls) == 2 * 2 and sum(rows) == 2 * (2 if cfg == 1 else 3)
        assert torch.isfinite(result).all()


class InTurn(comfy.samplers.Sampler):
    """Euler on one noise after the other in one run, as a search goes on; keeps all results."""

    def __init__(self, noises: list[Tensor]) -> None:
        self.noises, self.found = noises, list[Tensor]()

    def sample(self, wrap: Any, sigmas: Tensor, extra_args: dict, callback: Any, noise: Tensor, *rest: Any) -> Tensor:
        euler = comfy.samplers.sampler_object("euler")
        self.found = [euler.sample(wrap, sigmas, extra_args, callback, each, *rest) for each in self.noises]
        return self.found[-1]


def in_turn(model: Any, noises: list[Tensor], steps: int) -> list[Tensor]:
    guider, sampler = comfy.samplers.CFGGuider(model), InTurn(noises)
    guider.set_conds(tiny.prompt(1), tiny.prompt(2))
    guider.set_cfg(3.0)
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", steps)
    with torch.inference_mode():
        guider.sample(noises[0], torch.zeros_like(noises[0]), sampler, sigmas, disable_pbar=True, seed=0)
    return sampler.found


class TestOneRunManyTrials:
    @pytest.mark.parametrize("every", [2, 3])
    @pytest.mark.parametrize(
        ("steps", "window"),
        [(4, (0.0, 1.0)), (4, (0.1, 0.5)), (4, (0.5, 1.0)), (4, (0.0, 0.2)), (3, (0.3, 0.6)), (1, (0.0, 1.0))],
    )  # fmt: skip
    def test_each_is_what_it_is_alone(self, model: Any, steps: int, window: tuple[float, float], every: int) -> None:
        """Whatever part of the schedule guidance has, one evaluation too. Twin: it does something."""
        patched = guided(model, every_n_steps=every, start_percent=window[0], end_percent=window[1])
        noises = [tiny.noise(16, 16, seed=seed) for seed in range(3)]
        together = in_turn(patched, noises, steps)
        for noise, found in zip(noises, together):
            (alone,) = in_turn(patched, [noise], steps)
            assert torch.equal(found, alone)
            assert relative(found, *in_turn(model, [noise], steps)) > 1e-4


def freeu(model: Any) -> Any:
    return FreeU.execute(model, 1.4, 1.6, 0.9, 0.2).result[0]


def freeu_v2(model: Any) -> Any:
    return FreeU_V2.execute(model, 1.3, 1.4, 0.9, 0.2).result[0]


def hypertile(model: Any) -> Any:
    return HyperTile.execute(model, 32, 2, 0, False)[0]  # this node still answers with a tuple


def tome(model: Any) -> Any:
    return TomePatchModel.execute(model, 0.4).result[0]


def deep_shrink(model: Any) -> Any:
    return PatchModelAddDownscale.execute(model, 3, 2.0, 0.0, 1.0, True, "bicubic", "bicubic").result[0]


def nag(model: Any) -> Any:
    return NAGuidance.execute(model, 5.0, 0.5, 2.5).result[0]


def blurred_queries(model: Any) -> Any:
    """As SEG does: a second evaluation of the positive prompt with the middle block's queries averaged."""
    from comfy.model_patcher import create_model_options_clone, set_model_options_patch_replace
    from comfy.samplers import calc_cond_batch

    def seg(q: Tensor, k: Tensor, v: Tensor, extra: dict[str, Any]) -> Tensor:
        from comfy.ldm.modules.attention import optimized_attention

        return optimized_attention(q.mean(dim=1, keepdim=True).expand_as(q).contiguous(), k, v, extra["n_heads"])

    def post_cfg(args: dict[str, Any]) -> Tensor:
        options = create_model_options_clone(args["model_options"])
        options = set_model_options_patch_replace(options, seg, "attn1", "middle", 0)
        (degraded,) = calc_cond_batch(args["model"], [args["cond"]], args["input"], args["sigma"], options)
        return args["denoised"] + 2.0 * (args["cond_denoised"] - degraded)

    patched = model.clone()
    patched.set_model_sampler_post_cfg_function(post_cfg)
    return patched


PATCHES = [freeu, freeu_v2, hypertile, tome, deep_shrink, nag, blurred_queries]


class TestBesideModelPatches:
    @pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.__name__)
    def test_before_and_after(
        self, everywhere: Any, patch: Callable[[Any], Any], caplog: pytest.LogCaptureFixture
    ) -> None:
        """Order does not matter, and neither of the two takes the other's effect away."""

        def result(patcher: Any) -> Tensor:
            torch.manual_seed(0)  # HyperTile and ToMe draw from the global generator
            return one_step(patcher, start, 3.0)[1]

        # FreeU acts on blocks of 4 and 2 times the model's channels; the small model has none, others do.
        target = tiny.unet("shallow", channel_mult=[1, 2, 4]) if patch in (freeu, freeu_v2) else everywhere
        start = tiny.noise(32, 24)
        plain, alone, ours = result(target), result(patch(target)), result(guided(target))
        before, after = result(guided(patch(target))), result(patch(guided(target)))
        assert relative(before, after) < 1e-5
        assert relative(alone, plain) > 1e-4
        assert relative(before, alone) > 1e-3 and relative(before, ours) > 1e-4
        assert not [record for record in caplog.records if "Fovea" in record.message]

    def test_saliency_under_deep_shrink_lies_on_the_shrunken_grid(self, everywhere: Any) -> None:
        shrunken = deep_shrink(everywhere)
        x, x0, sigma = one_step(guided(shrunken), tiny.noise(32, 24))
        slow = Denoiser(everywhere)
        slow.options = shrunken.model_options["transformer_options"]
        # The middle block of this model sees a quarter of the latent, here of half of it.
        assert relative(x0.double(), slow(x, sigma, (4, 3))) < 2e-5

    def test_compiled_before_and_after(self, model: Any) -> None:
        """Dynamo runs our hooks inside what it compiles; without the C++ backend, which would take minutes."""

        def compiled(patcher: Any) -> Any:
            patched = patcher.clone()
            set_torch_compile_wrapper(patched, backend="eager")
            return patched

        start = tiny.noise(16, 16)
        expected = one_step(guided(model), start)[1]
        try:
            for both in (compiled(guided(model)), guided(compiled(model))):
                assert relative(one_step(both, start)[1], expected) < 1e-4
        finally:
            torch.compiler.reset()

    def test_lora_before_and_after(self) -> None:
        """Equals a model whose weights have the LoRA in them."""
        model, merged, start = tiny.unet("sd15"), tiny.unet("sd15"), tiny.noise(24, 16)
        merged.model.diffusion_model.get_submodule(f"{tiny.MIDDLE}.attn1.to_q").weight.data += tiny.lora_change()
        expected = one_step(guided(merged), start)[1]
        for both in (guided(tiny.with_lora(model)), tiny.with_lora(guided(model))):
            assert relative(one_step(both, start)[1], expected) < 1e-4
        assert relative(one_step(guided(model), start)[1], expected) > 1e-3

    def test_controlnet(self, model: Any) -> None:
        """It steers the degraded pass too, and is not asked more often than the network."""
        network, control = tiny.controlnet()
        hint = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(2))
        extra = {"control": control.copy().set_cond_hint(hint, 1.0), "control_apply_to_uncond": False}
        conds = {"positive": tiny.prompt(1, **extra), "negative": tiny.prompt(2, **extra)}
        asked: list[int] = []
        handle = network.register_forward_hook(lambda *_: asked.append(1))
        x = tiny.noise(16, 16)
        try:
            with tiny.watching(model) as calls:
                result = tiny.sample(guided(model), x, steps=2, **conds)
        finally:
            handle.remove()
        assert len(asked) == len(calls) == 4
        assert relative(result, tiny.sample(guided(model), x, steps=2)) > 1e-3
        assert relative(result, tiny.sample(model, x, steps=2, **conds)) > 1e-3
