"""Facts about families that whole runs do not show: where a prompt's words stand, subclasses, what is known."""

from __future__ import annotations

import ast
import importlib
import inspect
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import comfy.ldm.anima.model
import comfy.model_base
import comfy.supported_models
import pytest
import tiny_models as tiny
import tiny_transformers as dit
import torch
from recording import watched
from torch import Tensor, nn

from fovea.attention.conds import Row
from fovea.attention.families import registry
from fovea.attention.sites import TextPlace
from fovea.guidance.regions.control import RegionControl
from fovea.guidance.regions.prompt_regions import PromptRegions
from fovea.guidance.regions.score_bias import RegionBias


class TestWhereWordsStand:
    """Word 2 of a prompt is region 0's, word 4 region 1's: [count, regions]."""

    def keys(self, count: int, place: TextPlace, length: int, words: int = 6) -> list[tuple[int, int]]:
        control = RegionControl(RegionBias(), 1.0, 0.0)
        prompt = PromptRegions(control, torch.ones(1, 2, 4, 4), (1.0, 1.0), ((2,), (4,)), words, words)
        return [tuple(pair) for pair in prompt.keys(count, place, length).nonzero().tolist()]

    def test_repeated_to_the_length_of_a_longer_prompt(self) -> None:
        assert self.keys(12, TextPlace(repeats=True), 6) == [(2, 0), (4, 1), (8, 0), (10, 1)]

    def test_padding_repeats_no_word(self) -> None:
        """A prompt of 16 tokens that Z-Image pads to 32, one of 6 that Anima pads to 12."""
        assert self.keys(12, TextPlace(), 6) == [(2, 0), (4, 1)]

    def test_padded_in_front(self) -> None:
        """Flux 2 pads short prompts on the left; every row by its own length."""
        assert self.keys(12, TextPlace(at_end=True), 6) == [(8, 0), (10, 1)]
        assert self.keys(12, TextPlace(at_end=True), 9) == [(5, 0), (7, 1)], "with what others put behind it"

    def test_behind_another_encoders(self) -> None:
        assert self.keys(13, TextPlace(start=5), 6) == [(7, 0), (9, 1)]


def drawn(*size: int) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(0))


def sites_of(model: Any, start: Tensor, positive: list, **more: Any) -> list[tuple[Any, tuple[Row, ...]]]:
    """Every call that a wrapper sees in one evaluation."""
    patched, calls = watched(model)
    dit.sample(patched, start, positive=positive, steps=1, cfg=1.0, **more)
    return [(call.site, call.rows) for call in calls]


class TestFamilies:
    def test_flux_2(self) -> None:
        model = dit.build("flux", global_modulation=True, vec_in_dim=None, guidance_embed=False)
        (site, *_), *_ = sites_of(model, dit.noise("flux"), dit.prompt(1))
        assert site.text == TextPlace(at_end=True)

    def test_hunyuan_video_1_5_puts_other_encoders_first(self) -> None:
        kind = {"vec_in_dim": None, "in_channels": 65, "out_channels": 32, "patch_size": [1, 1, 1], "byt5": True,
                "guidance_embed": False, "use_cond_type_embedding": True, "vision_in_dim": 24}  # fmt: skip
        config = {**dit.KINDS["hunyuan"].config, **kind, "dtype": torch.float32}
        settings = comfy.supported_models.HunyuanVideo15(config)
        network = comfy.model_base.HunyuanVideo15(settings, device=tiny.CPU)
        tiny.initialize(network.diffusion_model, 0, 1.0)
        model = comfy.model_patcher.ModelPatcher(network, tiny.CPU, tiny.CPU)
        written = {"conditioning_byt5small": torch.randn(1, 5, 1472)}
        found = sites_of(model, torch.randn(1, 32, 2, 8, 12), dit.prompt(1, **written))
        assert {(site.start, site.text_tokens, site.text.start) for site, _ in found} == {(18, 18, 5)}

    def test_a_reference_before_the_image(self) -> None:
        """HunyuanVideo: [text | reference | image]; none of the reference's tokens is text."""
        model, picture = dit.build("hunyuan"), torch.randn(1, dit.CHANNELS, 1, 16, 24)
        found = sites_of(model, dit.noise("hunyuan", frames=2), dit.prompt(1, ref_latent=picture))
        assert {(site.start, site.text_tokens) for site, _ in found} == {(13 + 96, 13)}

    def test_guiding_frames_of_ltx_are_not_the_videos(self) -> None:
        start, mask = torch.randn(1, 128, 4, 8, 12), torch.ones(1, 1, 4, 8, 12)
        places = {"keyframe_idxs": torch.zeros(1, 3, 96, 2)}
        found = sites_of(dit.build("ltxv"), start, dit.prompt(1, **places), noise_mask=mask)
        assert {site.grid for site, _ in found} == {(3, 8, 12)} and {site.start for site, _ in found} == {0}

    @pytest.mark.parametrize("guides", [[], [{"strength": 1.0, "pixel_mask": None}]])
    def test_guides_as_ltx_adds_them_do_not_turn_it_off(self, guides: list[dict[str, Any]]) -> None:
        start, mask = torch.randn(1, 128, 4, 8, 12), torch.ones(1, 1, 4, 8, 12)
        more = {"keyframe_idxs": torch.zeros(1, 3, 96, 2)}
        more |= {"guide_attention_entries": [{**each, "pre_filter_count": 96, "latent_shape": [1, 8, 12]} for each in
                                             guides]} if guides else {}  # fmt: skip
        assert sites_of(dit.build("ltxv"), start, dit.prompt(1, **more), noise_mask=mask)

    def test_z_image_with_reference_pictures(self) -> None:
        """[text of the first | pads for the second | the prompt] [the pictures] [image], each piece padded to 32."""
        model, picture = dit.build("zimage"), torch.randn(1, 16, 12, 14)
        texts = {"reference_latents_text_embeds": [torch.randn(1, 40, 32)]}
        prompt = dit.prompt(1, reference_latents=[picture, picture], **texts)
        found = sites_of(model, torch.randn(1, 16, 16, 24), prompt)
        assert {(site.start, site.text_tokens, site.text.start) for site, _ in found} == {(64 + 32 + 32 + 128, 128, 96)}

    def test_kandinsky_5_image(self) -> None:
        config = {**dit.KINDS["kandinsky5"].config, "visual_embed_dim": 64}
        settings = comfy.supported_models.Kandinsky5Image({**config, "dtype": torch.float32})
        network = comfy.model_base.Kandinsky5Image(settings, device=tiny.CPU)
        tiny.initialize(network.diffusion_model, 0, 1.0)
        model = comfy.model_patcher.ModelPatcher(network, tiny.CPU, tiny.CPU)
        found = sites_of(model, torch.randn(1, 16, 16, 24), dit.prompt(1))
        assert {(site.grid, site.extent) for site, _ in found} == {((8, 12), (16, 24))}

    @pytest.mark.parametrize("variant", [
        {"default_ref_method": "index_timestep_zero"},
        {"use_additional_t_cond": True, "default_ref_method": "negative_index"},
    ], ids=["edit 2511", "layered"])  # fmt: skip
    def test_variants_of_qwen_image(self, variant: dict[str, Any]) -> None:
        """Layers are an axis of the grid; reference pictures follow."""
        model, picture = dit.build("qwen", **variant), torch.randn(1, dit.CHANNELS, 1, 12, 14)
        found = sites_of(model, torch.randn(2, 16, 5, 8, 12), dit.prompt(1, reference_latents=[picture]))
        assert {(site.start, site.grid, site.text_tokens) for site, _ in found} == {(13, (5, 4, 6), 13)}

    @pytest.mark.parametrize(("name", "config", "prompt", "start", "queries"), [
        ("WAN22_S2V", {"audio_dim": 32, "audio_inject_layers": [0, 2]},
         {"audio_embed": drawn(1, 25, 32, 12), "reference_motion": drawn(1, 16, 19, 16, 24)}, 0, 528),
        ("WAN21_HuMo", {}, {"audio_embed": drawn(1, 3, 8, 5, 1280)}, 0, 384),
        ("WAN21_SCAIL", {"in_dim": 20}, {"pose_video_latent": drawn(1, 16, 3, 8, 12)}, 96, 456),
    ])  # fmt: skip
    def test_classes_of_wan(
        self, name: str, config: dict[str, Any], prompt: dict[str, Any], start: int, queries: int
    ) -> None:
        """References behind the video (S2V, with frames before it; HuMo), or before it, and the pose behind (SCAIL)."""
        kind, picture = name.split("_")[1].lower(), torch.randn(1, 16, 1, 16, 24)
        settings = getattr(comfy.supported_models, name)({**dit.KINDS["wan"].config, "model_type": kind, **config,
                                                          "dtype": torch.float32})  # fmt: skip
        network = getattr(comfy.model_base, name)(settings, device=tiny.CPU)
        tiny.initialize(network.diffusion_model, 0, 1.0)
        model, counts = comfy.model_patcher.ModelPatcher(network, tiny.CPU, tiny.CPU), []
        layer = network.diffusion_model.blocks[0].self_attn.q
        layer.register_forward_hook(lambda m, a, y: counts.append(y.shape[1]))
        found = sites_of(model, torch.randn(1, 16, 3, 16, 24), dit.prompt(1, reference_latents=[picture], **prompt))
        assert set(counts) == {queries}
        places = {(site.kind, site.start, site.grid) for site, _ in found}
        assert places >= {("self", start, (3, 8, 12)), ("cross", start, (3, 8, 12))} and len(places) == 2

    def test_anima(self) -> None:
        config = {**dit.KINDS["cosmos"].config, "image_model": "anima"}
        small = partial(comfy.ldm.anima.model.LLMAdapter, source_dim=32, target_dim=32, model_dim=32, num_layers=1,
                        num_heads=2)  # fmt: skip
        with mock.patch.object(comfy.ldm.anima.model, "LLMAdapter", small):  # the real one is 1024 wide
            settings = comfy.supported_models.Anima({**config, "dtype": torch.float32})
            network = comfy.model_base.Anima(settings, device=tiny.CPU)
        tiny.initialize(network.diffusion_model, 0, 1.0)
        model = comfy.model_patcher.ModelPatcher(network, tiny.CPU, tiny.CPU)
        ids = {"t5xxl_ids": torch.arange(7), "t5xxl_weights": torch.ones(7)}
        found = sites_of(model, torch.randn(1, 16, 1, 16, 24), dit.prompt(1, **ids))
        assert {(site.kind, site.grid) for site, _ in found} == {("self", (1, 8, 12)), ("cross", (1, 8, 12))}
        assert {site.text_tokens for site, _ in found if site.kind == "cross"} == {512}


class TestSubclasses:
    def network(self, **methods: Any) -> nn.Module:
        parent = type(dit.build("flux").model.diffusion_model)
        made = type("Own", (parent,), methods)
        return made.__new__(made)

    def test_one_that_runs_its_blocks_as_its_parent_is_known(self) -> None:
        assert registry.family_of(self.network(extra=lambda self: 1)) is not None

    @pytest.mark.parametrize("method", ["forward", "_forward", "forward_orig"])
    def test_one_that_runs_them_in_another_way_is_not(self, method: str) -> None:
        assert registry.family_of(self.network(**{method: lambda self, *args: None})) is None


NOT_READ = {
    # why attention of these is neither read nor steered; SAG without attention (mask_mode global) works on pictures
    "sound": ("ace.ace_step15.AceStepConditionGenerationModel", "ace.model.ACEStepTransformer2DModel",
              "audio.dit.AudioDiffusionTransformer"),
    "3D, or no pictures of things": (
        "hunyuan3d.model.Hunyuan3Dv2", "hunyuan3dv2_1.hunyuandit.HunYuanDiTPlain",
        "triposplat.model.LatentSeqMMFlowModel",
        "depth_anything_3.model.DepthAnything3Net", "rt_detr.rtdetr_v4.RTv4", "sam3.detector.SAM3Model"),
    "its attention reaches no override": (
        "pixart.pixartms.PixArtMS", "hydit.models.HunYuanDiT", "ernie.model.ErnieImageModel"),
    "text and picture are read by one language model that keeps what it has read": (
        "hidream_o1.model.HiDreamO1Transformer",),
    "it draws frame after frame from what it keeps of those before": ("wan.ar_model.CausalWanModel",),
    "not yet": (
        "aura.mmdit.MMDiT", "cascade.stage_b.StageB", "cascade.stage_c.StageC",
        "genmo.joint_model.asymm_models_joint.AsymmDiTJoint",
        "boogu.model.BooguTransformer2DModel", "cogvideo.model.CogVideoXTransformer3DModel",
        "cosmos.model.GeneralDIT", "ideogram4.model.Ideogram4Transformer2DModel",
        "mage_flow.model.MageFlowTransformer2DModel", "omnigen.omnigen2.OmniGen2Transformer2DModel",
        "pixeldit.model.PixDiT_T2I", "pixeldit.pid.PidNet", "seedvr.model.NaDiT"),
}  # fmt: skip


def networks() -> set[str]:
    """Every diffusion network that ComfyUI's models are made with, by module and class under comfy.ldm."""
    tree, found = ast.parse(inspect.getsource(comfy.model_base)), set()
    named = {"OpenAISignatureMMDITWrapper", "UNetModel", "StageB", "StageC"}
    for node in ast.walk(tree):
        values = [k.value for k in node.keywords if k.arg == "unet_model"] if isinstance(node, ast.Call) else []
        if isinstance(node, ast.FunctionDef):
            pairs = zip(node.args.args[::-1], node.args.defaults[::-1])
            values += [default for argument, default in pairs if argument.arg == "unet_model"]
        found |= {ast.unparse(value) for value in values}
    paths = {each for each in found if each.startswith("comfy.ldm.") or each in named}
    classes = [getattr(comfy.model_base, each, None) or _class(each) for each in paths]
    return {f"{each.__module__}.{each.__qualname__}".removeprefix("comfy.ldm.") for each in classes}


def _class(path: str) -> type:
    module, name = path.rsplit(".", 1)
    return getattr(importlib.import_module(module), name)


def test_every_network_of_comfyui_is_read_or_it_is_said_why_not() -> None:
    """A family that a newer ComfyUI brings is found here."""
    read = {f"{kind.__module__}.{kind.__qualname__}".removeprefix("comfy.ldm.") for kind in registry.TRANSFORMERS}
    read |= {"modules.diffusionmodules.openaimodel.UNetModel"}
    told = [name for names in NOT_READ.values() for name in names]
    assert len(told) == len(set(told)) and not read & set(told)
    there = networks()
    assert len(there) > 40, "twin: they are found"
    assert not there - read - set(told), "new networks"


def test_the_page_of_models_lists_the_families() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    table = page.split("## Not yet")[0]
    rows = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| ")][1:]
    assert rows == [registry.UNETS, *registry.MODELS.split("; ")]
