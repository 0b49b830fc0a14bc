"""Saliency and guidance on transformers: SD3.5, Flux, Chroma, Qwen-Image, Lumina 2, Z-Image, Wan video."""

from __future__ import annotations

import math
from typing import Any

import pytest
import sag_steps as steps
import tiny_models as tiny
import tiny_transformers as dit
import torch
from recording import recorded
from reference import sag as reference
from torch import Tensor

from fovea.attention import block_names as naming
from fovea.attention.families import registry
from fovea.attention.families.transformer import Transformer
from fovea.attention.sites import Forward

NAMES = tuple(dit.KINDS)


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    return {name: dit.build(name) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_no_value_is_left_to_chance(name: str) -> None:
    assert not tiny.left_to_chance(lambda: dit.build(name))


def image_saliency(q: Tensor, k: Tensor, start: int, count: int) -> Tensor:
    """How much each image token is looked at by the image's tokens, from the full map of one sample [heads, N, dim]."""
    whole = reference.attention_map(q, k.repeat_interleave(q.shape[0] // k.shape[0], dim=0))
    return whole[:, start : start + count, start : start + count].mean(dim=0).sum(dim=0)


def sizes_of(name: str) -> list[tuple[int, ...]]:
    """Latent sizes to try: whole numbers of tokens, and where ComfyUI takes them others too."""
    kind = dit.KINDS[name]
    if kind.one_frame:
        return [(1, 16, 24), (1, 15, 21)]
    times = max(1, kind.patch // 2)
    if kind.video:
        return [(3, 12, 10), (2, 9, 13) if kind.odd else (2, 8, 14)]
    return [(16 * times, 24 * times), (15 * times, 22 * times)]


SIZES = {name: sizes_of(name) for name in NAMES}


class TestSaliency:
    @pytest.mark.parametrize("name, size", [(name, size) for name in NAMES for size in SIZES[name]])
    def test_equals_the_full_map_of_the_images_tokens(self, models: Any, name: str, size: tuple[int, ...]) -> None:
        patched, recording = recorded(models[name])
        start = torch.randn(2, dit.KINDS[name].channels, *size, generator=torch.Generator().manual_seed(3))
        with dit.watching(models[name], name) as calls:
            dit.sample(patched, start, steps=1)
        grid = dit.tokens(name, size)
        count = math.prod(grid)
        assert len(recording.found) == 2 * len(dit.KINDS[name].calls)
        entropies = []
        for (cond, block), record in recording.found.items():
            chunk = calls[0]["chunks"].index(("cond", "uncond").index(cond))
            q, k = calls[0]["qk"][dit.KINDS[name].calls[block]]
            padded = -(-count // dit.KINDS[name].pad) * dit.KINDS[name].pad
            begin = q.shape[2] - padded - dit.KINDS[name].behind
            assert begin == (0 if block.count(".") == 2 else dit.KINDS[name].begin)
            for sample in range(2):
                row = 2 * chunk + sample
                expected = image_saliency(q[row], k[row], begin, count)
                torch.testing.assert_close(record.values[sample].double(), expected, rtol=1e-5, atol=1e-6)
                whole = reference.attention_map(q[row], k[row].repeat_interleave(q.shape[1] // k.shape[1], dim=0))
                entropies.append(float(-(whole * whole.clamp_min(1e-30).log()).sum(-1).mean()) / math.log(k.shape[2]))
            assert record.grid == grid and record.latent_size == size
        assert min(entropies) < 0.8  # some map is peaked, so the comparison means something

    @pytest.mark.parametrize("name", NAMES)
    def test_looking_changes_nothing(self, models: Any, name: str) -> None:
        start = dit.noise(name)
        plain = dit.sample(models[name], start, steps=2)
        patched, recording = recorded(models[name])
        assert torch.equal(dit.sample(patched, start, steps=2), plain)
        assert recording.found

    def test_calls_of_the_refiners_of_lumina_are_not_taken_for_blocks(self, models: Any) -> None:
        network = models["lumina"].model.diffusion_model
        assert len(registry.family_of(network).blocks(network)) == 3


class TestReferencePictures:
    @pytest.mark.parametrize("name", ["flux", "qwen"])
    def test_are_left_out(self, models: Any, name: str) -> None:
        patched, recording = recorded(models[name])
        start = dit.noise(name, 16, 24)
        picture = dit.noise(name, 12, 14, seed=9)
        prompts = {"positive": dit.prompt(1, reference_latents=[picture]), "negative": dit.prompt(2)}
        with dit.watching(models[name], name) as calls:
            dit.sample(patched, start, steps=1, **prompts)
        record = recording.found["cond", "double.1"]
        call = next(call for call in calls if call["chunks"] == [0])
        q, k = call["qk"][1]
        assert q.shape[2] == dit.TEXT + 8 * 12 + 6 * 7
        torch.testing.assert_close(
            record.values[0].double(), image_saliency(q[0], k[0], dit.TEXT, 96), rtol=1e-5, atol=1e-6
        )

    def test_before_the_tokens_of_wan(self) -> None:
        model = dit.build("wan", in_dim_ref_conv=dit.CHANNELS)
        patched, recording = recorded(model)
        start = dit.noise("wan", 8, 12, frames=2)
        picture = dit.noise("wan", 8, 12, seed=9)
        with dit.watching(model, "wan") as calls:
            dit.sample(patched, start, steps=1, positive=dit.prompt(1, reference_latents=[picture]))
        call = next(call for call in calls if 0 in call["chunks"])
        row = call["chunks"].index(0)
        q, k = call["qk"][2]
        assert q.shape[2] == 24 + 2 * 24
        expected = image_saliency(q[row], k[row], 24, 48)
        torch.testing.assert_close(
            recording.found["cond", "double.1"].values[0].double(), expected, rtol=1e-5, atol=1e-6
        )


def x0(model: Any, prompt: list, x: Tensor, sigma: Tensor) -> Tensor:
    """A plain call of the model."""
    text, extra = prompt[0]
    about = {"noise": x, "device": x.device, "height": 8 * x.shape[-2], "width": 8 * x.shape[-1], **extra}
    conds = model.model.extra_conds(cross_attn=text, prompt_type="x", **about)
    conds = {key: cond.process_cond(batch_size=x.shape[0], area=None).cond for key, cond in conds.items()}
    options = {"cond_or_uncond": [0], "uuids": [None], "sigmas": sigma}
    return model.model.apply_model(x, sigma, transformer_options=options, **conds)


def expected_step(
    model: Any,
    name: str,
    x: Tensor,
    sigma: float,
    cfg: float,
    call: int,
    begin: int,
    blur: float = 2.0,
    scale: float = 4.0,
) -> Tensor:
    """Guided x0 of one sample, from the formulas and plain calls; frames are blurred one by one."""
    sigmas = torch.full((1,), sigma)
    with torch.inference_mode(), dit.watching(model, name) as calls:
        found = {"cond": x0(model, dit.prompt(1), x, sigmas)}
        if cfg != 1:
            found["uncond"] = x0(model, dit.prompt(2), x, sigmas)
        mixed = found["uncond"] + cfg * (found["cond"] - found["uncond"]) if cfg != 1 else found["cond"]
        branch = "uncond" if cfg != 1 else "cond"
        q, k = calls[list(found).index(branch)]["qk"][call]
        grid = dit.tokens(name, tuple(x.shape[2:]))
        attended = image_saliency(q[0], k[0], begin, math.prod(grid))
        attended = attended / attended.mean()
        assert (attended - 1).abs().min() > 1e-5
        picture = found[branch][0].double()
        frames = picture.unsqueeze(1) if picture.ndim == 3 else picture
        degraded = torch.empty_like(frames)
        patch = dit.KINDS[name].patch
        covered, size = (patch * grid[-2], patch * grid[-1]), frames.shape[-2:]
        radius = [min(math.ceil(3 * blur), n - 1) for n in size]
        for t, seen in enumerate(attended.reshape(-1, *grid[-2:])):
            above = (seen > 1).double().flatten()
            mask = reference.pixel_mask(above, grid[-2:], covered, 0.5 / max(float(above.mean()), 1e-9))[
                : size[0], : size[1]
            ]
            degraded[:, t] = mask * reference.gaussian_blur(frames[:, t], blur, *radius) + (1 - mask) * frames[:, t]
        degraded = degraded.reshape(1, *picture.shape)
        prompts = {"cond": dit.prompt(1), "uncond": dit.prompt(2)}

        def denoise(degraded: Tensor) -> Tensor:
            return x0(model, prompts[branch], degraded.float(), sigmas)

        return reference.guide(x, mixed, found[branch], degraded, denoise, sigma, scale, dit.KINDS[name].flow)


class TestGuidance:
    @pytest.mark.parametrize("cfg", [1.0, 4.0])
    @pytest.mark.parametrize("name, size", [(name, size) for name in NAMES for size in SIZES[name]])
    def test_equals_the_formulas(self, models: Any, name: str, size: tuple[int, ...], cfg: float) -> None:
        start = torch.randn(1, dit.KINDS[name].channels, *size, generator=torch.Generator().manual_seed(5))
        second = dit.KINDS[name].second
        guided = steps.guided(models[name], blocks=second, scale=4.0)
        # Not from pure noise: a flow model's formula in noise space divides by 1 - sigma.
        x, ours, sigma = steps.one_step(
            guided, start, cfg, positive=dit.prompt(1), negative=dit.prompt(2), denoise=0.4, latent=0.5 * start.flip(-1)
        )
        assert sigma < 0.95
        begin, call = dit.KINDS[name].begin, dit.KINDS[name].calls[second]
        expected = expected_step(models[name], name, x, sigma, cfg, call, begin)
        assert steps.relative(ours.double(), expected) < 2e-4
        plain = steps.one_step(models[name], start, cfg, positive=dit.prompt(1), negative=dit.prompt(2), denoise=0.4,
                               latent=0.5 * start.flip(-1))[1]  # fmt: skip
        assert steps.relative(ours, plain) > 1e-3

    @pytest.mark.parametrize("name", NAMES)
    def test_batch_equals_singles_and_costs_one_more_evaluation(self, models: Any, name: str) -> None:
        guided = steps.guided(models[name])
        start = dit.noise(name, batch=2)
        with dit.watching(models[name], name) as calls:
            together = dit.sample(guided, start, cfg=3.0, steps=2)
        assert steps.chunks(calls) == [[0, 1], [1]] * 2
        for i in range(2):
            alone = dit.sample(guided, start[i : i + 1], cfg=3.0, steps=2)
            assert steps.relative(together[i : i + 1], alone) < 1e-3
        plain = dit.sample(models[name], start, cfg=3.0, steps=2)
        assert steps.relative(together, plain) > 3e-3, "the default settings do something visible"

    @pytest.mark.parametrize("name", NAMES)
    def test_scale_zero_is_free_and_bit_identical(self, models: Any, name: str) -> None:
        start = dit.noise(name)
        with dit.watching(models[name], name) as calls:
            off = dit.sample(steps.guided(models[name], scale=0.0), start, steps=2)
        assert steps.chunks(calls) == [[0, 1]] * 2
        assert torch.equal(off, dit.sample(models[name], start, steps=2))

    def test_second_attention_of_a_block(self, models: Any) -> None:
        start = dit.noise("sd3")
        both = [dit.sample(steps.guided(models["sd3"], blocks=block), start) for block in ("double.1", "double.1.1")]
        assert not torch.equal(*both)

    def test_skipped_layers_beside_it(self, models: Any) -> None:
        """ComfyUI's skip-layer guidance replaces blocks; ours names the blocks of SD3 by replacing them, too."""
        from comfy_extras.nodes_slg import SkipLayerGuidanceDiT

        start = dit.noise("sd3")
        skipping = {"double_layers": "1", "single_layers": "", "scale": 2.0, "start_percent": 0.0, "end_percent": 1.0,
                    "rescaling_scale": 0.0}  # fmt: skip
        model = models["sd3"]

        def slg(patcher: Any) -> Any:
            return SkipLayerGuidanceDiT.execute(patcher, **skipping).result[0]

        def term(patcher: Any) -> Tensor:
            return steps.one_step(patcher, start, 3.0, positive=dit.prompt(1), negative=dit.prompt(2))[1]

        plain, alone, ours = term(model), term(slg(model)), term(steps.guided(model, blocks="double.1"))
        assert steps.relative(alone, plain) > 1e-3
        for together in (
            term(slg(steps.guided(model, blocks="double.1"))),
            term(steps.guided(slg(model), blocks="double.1")),
        ):
            assert steps.relative(together - plain, (alone - plain) + (ours - plain)) < 1e-3

    def test_a_node_that_evaluates_prompts_its_own_way(self, models: Any) -> None:
        """It skips layers of the negative prompt alone. Where nothing is blurred, ours adds nothing: like is compared
        with like."""
        from comfy_extras.nodes_slg import SkipLayerGuidanceDiTSimple

        (skipping,) = SkipLayerGuidanceDiTSimple.execute(models["sd3"], 0.0, 1.0, double_layers="0").result
        prompts = {"positive": dit.prompt(1), "negative": dit.prompt(2)}
        start = dit.noise("sd3")
        alone = steps.one_step(skipping, start, 3.0, **prompts)[1]
        unblurred = steps.one_step(steps.guided(skipping, blur_sigma=1e-3), start, 3.0, **prompts)[1]
        guided = steps.one_step(steps.guided(skipping), start, 3.0, **prompts)[1]
        assert steps.relative(unblurred, alone) < 1e-4 < steps.relative(guided, alone)
        assert steps.relative(alone, steps.one_step(models["sd3"], start, 3.0, **prompts)[1]) > 1e-3

    def test_first_step_of_any_shift(self, models: Any) -> None:
        """In float32 the first level lies above percent_to_sigma(0) for some shifts."""
        from comfy_extras.nodes_model_advanced import ModelSamplingSD3

        shifted = ModelSamplingSD3().patch(models["sd3"], 4.03)[0]
        sampling = shifted.get_model_object("model_sampling")
        assert float(sampling.sigma_max) > sampling.percent_to_sigma(0)
        start = dit.noise("sd3")
        with dit.watching(models["sd3"], "sd3") as calls:
            dit.sample(steps.guided(shifted), start, cfg=3.0, steps=2)
        assert steps.chunks(calls) == [[0, 1], [1]] * 2

    def test_context_windows_of_a_video(self, models: Any) -> None:
        """Each window records its own frames; the guided video is whole and differs from the plain one everywhere."""
        import comfy.context_windows as windows

        model = models["wan"].clone()
        model.model_options["context_handler"] = windows.IndexListContextHandler(
            context_schedule=windows.get_matching_context_schedule(windows.ContextSchedules.STATIC_STANDARD),
            fuse_method=windows.get_matching_fuse_method(windows.ContextFuseMethods.PYRAMID),
            context_length=3, context_overlap=1, context_stride=1, closed_loop=False, dim=2,
        )  # fmt: skip
        start = dit.noise("wan", 8, 12, frames=5)
        plain = dit.sample(model, start, cfg=3.0, steps=2)
        with dit.watching(models["wan"], "wan") as calls:
            guided = dit.sample(steps.guided(model), start, cfg=3.0, steps=2)
        # Of two windows per evaluation the second has the anchor frame that ComfyUI puts before it.
        assert [call["x"].shape[2] for call in calls] == [3, 4] * 4
        assert ((guided - plain).abs().amax(dim=(0, 1, 3, 4)) > 1e-3).all()

    def test_a_users_mask_on_a_video(self, models: Any) -> None:
        mask = torch.zeros(1, 64, 96)
        mask[:, :, 48:] = 1
        start = dit.noise("wan", 8, 12, frames=2)
        whole, half = (
            steps.one_step(steps.guided(models["wan"], mask_mode="global", mask=m), start, 3.0, positive=dit.prompt(1),
                           negative=dit.prompt(2))[1]
            for m in (None, mask)
        )  # fmt: skip
        plain = steps.one_step(models["wan"], start, 3.0, positive=dit.prompt(1), negative=dit.prompt(2))[1]
        assert torch.equal(half[..., :6], plain[..., :6]) and not torch.equal(half[..., 6:], plain[..., 6:])
        assert not torch.equal(whole, half)

    def test_every_frame_has_its_mask(self, models: Any) -> None:
        masks = torch.zeros(4, 64, 96)
        masks[2:] = 1
        start = dit.noise("wan", 8, 12, frames=2)
        prompts = {"positive": dit.prompt(1), "negative": dit.prompt(2)}
        plain = steps.one_step(models["wan"], start, 3.0, **prompts)[1]
        half = steps.one_step(steps.guided(models["wan"], mask_mode="global", mask=masks), start, 3.0, **prompts)[1]
        assert torch.equal(half[:, :, 0], plain[:, :, 0]) and steps.relative(half[:, :, 1], plain[:, :, 1]) > 1e-3


class TestNames:
    @pytest.mark.parametrize(
        "name, default, described",
        [
            ("sd3", "double.1", "double.0 to double.1 (layers double.0.0 to double.1.1), double.2"),
            ("flux", "double.1", "double.0 to double.1, single.0 to single.1"),
            ("wan", "double.1", "double.0 to double.2"),
        ],
    )
    def test_blocks(self, models: Any, name: str, default: str, described: str) -> None:
        network = models[name].model.diffusion_model
        family = registry.family_of(network)
        assert naming.describe_blocks(family.blocks(network)) == described
        assert {naming.block_name(b) for b in family.default_blocks(network)} == {default}

    def test_unknown_block(self, models: Any) -> None:
        with pytest.raises(ValueError, match=r"Unknown block 'middle'.*double\.0 to double\.1, single\.0"):
            steps.guided(models["flux"], blocks="middle")


@pytest.mark.parametrize(("name", "kinds"), [
    ("wan", ["self", "cross", None, None]),  # VACE runs blocks of a side network under the same number
    ("sd3", ["joint", "self", "joint", "self"]),  # a checkpointed block is computed again on the way back
])  # fmt: skip
def test_more_calls_of_a_block_than_it_makes(name: str, kinds: list[str | None]) -> None:
    network = dit.build(name).model.diffusion_model
    family, forward = registry.family_of(network), Forward(network, 1, (16, 16), {})
    assert isinstance(family, Transformer)
    section = next(iter(family.sections))
    assert [family.kind(network, family.call(forward, section, 0)) for _ in range(4)] == kinds
