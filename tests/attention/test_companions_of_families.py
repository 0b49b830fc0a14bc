"""What stands beside the picture in a model's tokens: guides, references, styles, a side network, others' patches."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from unittest import mock

import comfy.ldm.modules.attention as host_attention
import comfy.ldm.wan.model
import comfy.model_base
import comfy.model_patcher
import comfy.supported_models
import pytest
import region_steps as steps
import tiny_models as tiny
import tiny_transformers as dit
import torch
from comfy_extras.nodes_flux import FluxKVCache
from comfy_extras.nodes_model_patch import UsoStyleProjectorPatch
from recording import recorded, watched
from sag_steps import guided
from torch import Tensor, nn

from fovea.attention import hooks
from fovea.attention.chunked_softmax import column_sums
from fovea.attention.families import registry
from fovea.attention.run import UNREAD
from fovea.attention.sites import Forward, Site
from fovea.attention.tensor_layout import split_heads
from fovea.guidance.gradients import autograd
from fovea.guidance.regions import prompt_encoding
from fovea.guidance.regions.control import RegionControl
from fovea.guidance.regions.prompt_regions import MARK
from fovea.guidance.regions.score_bias import RegionBias

NOW = RegionControl(RegionBias(temperature=0.0, background=False), 1.0, 0.3, 0.0, 1.0)
WORDS = ((9, 10), (11, 12))  # appended to a prompt of 9 tokens


def drawn(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


FLUX_2 = {"global_modulation": True, "vec_in_dim": None, "guidance_embed": False}


def small(make: Any, settings: Any) -> comfy.model_patcher.ModelPatcher:
    network = make(settings, device=tiny.CPU)
    tiny.initialize(network.diffusion_model, 0, 1.0)
    return comfy.model_patcher.ModelPatcher(network, tiny.CPU, tiny.CPU)


def evaluated(model: Any, start: Tensor, positive: list, count: int = 1, **more: Any) -> Tensor:
    return dit.sample(model, start, positive=positive, steps=count, cfg=1.0, **more)


def sites_of(model: Any, start: Tensor, positive: list, count: int = 1, **more: Any) -> list[Site]:
    patched, calls = watched(model)
    evaluated(patched, start, positive, count, **more)
    return [call.site for call in calls]


def appended(positive: list, control: RegionControl = NOW, **changes: Any) -> list:
    return steps.marked(positive, steps.two_regions(), WORDS, control, appended=9, **changes)


def first_tokens(conditioning: list, count: int) -> list:
    return [[text[:, :count], options] for text, options in conditioning]


class TestGuidesOfLtx:
    START, MASK = drawn(1, 128, 4, 8, 12), torch.ones(1, 1, 4, 8, 12)

    def prompt(self, seed: int = 1, **guide: Any) -> list:
        entry = {"pre_filter_count": 96, "latent_shape": [1, 8, 12], "strength": 1.0, "pixel_mask": None, **guide}
        return dit.prompt(seed, keyframe_idxs=torch.zeros(1, 3, 96, 2), guide_attention_entries=[entry])

    @pytest.mark.parametrize("mode", ["threshold", "soft", "global"])
    def test_sag_blurs_none_of_them(self, mode: str) -> None:
        model = dit.build("ltxv")
        with dit.watching(model, "ltxv") as calls:
            evaluated(guided(model, mask_mode=mode), self.START, self.prompt(), noise_mask=self.MASK)
        plain, degraded = (call["x"] for call in calls)
        assert torch.equal(plain[:, :, 3:], degraded[:, :, 3:])
        assert not torch.equal(plain[:, :, :3], degraded[:, :, :3]), "twin: the video's are"

    def test_a_mask_per_frame_is_the_videos(self) -> None:
        last = torch.zeros(3, 64, 96)
        last[2] = 1
        model = dit.build("ltxv")
        settings = {"positive": self.prompt(), "noise_mask": self.MASK}
        plain = evaluated(model, self.START, **settings)
        change = (evaluated(guided(model, mask=last), self.START, **settings) - plain).abs().amax(dim=(0, 1, 3, 4))
        assert change[2] > 0 and not change[[0, 1, 3]].any()

    @pytest.mark.parametrize("guide", [{"strength": 0.5}, {"pixel_mask": torch.full((1, 1, 1, 8, 12), 0.5)}])
    def test_with_a_strength_or_mask_the_video_is_read_and_steered(self, guide: Mapping[str, Any]) -> None:
        """A block's first attention comes in two calls; the video's is known, so is that with the text."""
        model, settings = dit.build("ltxv"), {"noise_mask": self.MASK}
        found = sites_of(model, self.START, self.prompt(**guide), **settings)
        kinds = ("self", "cross")
        assert [(site.block.number, site.kind) for site in found] == [(n, kind) for n in range(3) for kind in kinds]
        assert {site.grid for site in found} == {(3, 8, 12)}
        assert {site.text_tokens for site in found if site.kind == "cross"} == {13}
        marked = appended(self.prompt(**guide))
        without = evaluated(steps.steered(model), self.START, self.prompt(**guide), **settings)
        assert not torch.equal(evaluated(steps.steered(model), self.START, marked, **settings), without)


class TestStyleOfFlux:
    """Core's USO Style Reference puts tokens of a picture before the prompt."""

    def styled(self, count: int = 6) -> Any:
        class Projector(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.tokens = nn.Parameter(drawn(1, count, 64))

            def forward(self, encoded: Tensor) -> Tensor:
                return self.tokens

        model = dit.build("flux").clone()
        patch = comfy.model_patcher.ModelPatcher(Projector(), tiny.CPU, tiny.CPU)
        model.set_model_post_input_patch(UsoStyleProjectorPatch(patch, torch.zeros(3, 1, 4, 8)))
        return model

    def test_the_prompt_is_behind_it(self) -> None:
        found = sites_of(self.styled(), dit.noise("flux"), dit.prompt(1))
        assert {(site.text_tokens, site.text.of(site.text_tokens, 13)) for site in found} == {(19, (6, 13))}
        assert {site.start for site in found} == {19} and len(found) == 4

    def test_the_layers_know_it(self) -> None:
        network = dit.build("flux").model.diffusion_model
        family, inputs = registry.family_of(network), {"c_crossattn": drawn(1, 13, 32)}
        patches = {"post_input": [UsoStyleProjectorPatch(None, None)]}
        for given, start in ((patches, 6), ({}, None)):
            forward = Forward(network, 1, (16, 24), inputs, given)
            forward.around |= {"img": (1, 96, 64), "txt": (1, 19, 64)}
            found = family.layer_tokens(forward, "double_blocks.0.txt_attn.qkv", (1, 19, 192))
            assert (None if found is None else found.text.start) == start

    def test_regions_are_not_steered_by_what_is_not_known(self, caplog: pytest.LogCaptureFixture) -> None:
        def patch(inputs: dict[str, Any]) -> dict[str, Any]:
            more = {"txt": torch.cat([drawn(1, 2, 64), inputs["txt"]], dim=1)}
            return {**inputs, **more, "txt_ids": torch.cat([inputs["txt_ids"][:, :2], inputs["txt_ids"]], dim=1)}

        model = dit.build("flux").clone()
        model.set_model_post_input_patch(patch)
        assert not sites_of(model, dit.noise("flux"), dit.prompt(1), count=2)
        assert [record.message for record in caplog.records].count(UNREAD) == 1, "it is said once"


def test_hidream_with_a_picture_to_edit(caplog: pytest.LogCaptureFixture) -> None:
    """It stands beside the image, so that the rows of both alternate."""
    model, start = dit.build("hidream"), dit.noise("hidream")
    edited = dit.prompt(1, concat_latent_image=drawn(*start.shape))
    assert not sites_of(model, start, edited) and UNREAD in caplog.text
    caplog.clear()
    assert sites_of(model, start, dit.prompt(1)) and UNREAD not in caplog.text, "twin: without it"
    network = model.model.diffusion_model
    family, shape = registry.family_of(network), (1, 96, 64)
    told = [family.layer_tokens(Forward(network, 1, (16, 24), inputs), "x_embedder.proj", shape)
            for inputs in ({}, {"image_cond": start})]  # fmt: skip
    assert told[0] is not None and told[1] is None


@pytest.mark.parametrize(("name", "changes"), [("flux", FLUX_2), ("qwen", {}), ("krea2", {})])
def test_keys_that_flux_kv_cache_has_kept(name: str, changes: dict[str, Any]) -> None:
    """From the second evaluation on, references are among the keys alone. Regions act there, too."""
    start = dit.noise(name)
    model, picture = FluxKVCache.execute(dit.build(name, **changes)).result[0], drawn(*start.shape[:-2], 8, 8)
    positive = dit.prompt(1, reference_latents=[picture])
    patched, calls = watched(model)
    evaluated(patched, start, positive, count=2)
    first, second = calls[: len(calls) // 2], calls[len(calls) // 2 :]
    assert [call.site for call in first] == [call.site for call in second]
    assert {call.k.shape[2] - call.q.shape[2] for call in first} == {0}
    assert {call.k.shape[2] - call.q.shape[2] for call in second} == {16}
    later = replace(NOW, start=0.5)  # the second step alone
    plain, steered = (evaluated(steps.steered(model), start, each, count=2)
                      for each in (positive, steps.marked(positive, steps.two_regions(), control=later)))  # fmt: skip
    assert steered.isfinite().all() and not torch.equal(plain, steered)


class TestWordsThatAreCutOff:
    def flux_2(self) -> Any:
        """Numbered by position, so that moving a prompt shows."""
        config = {**dit.FLUX.config, **FLUX_2, "txt_ids_dims": [1], "dtype": torch.float32}
        return small(comfy.model_base.Flux2, comfy.supported_models.Flux(config))

    def test_flux_2_sees_the_prompt_alone_outside_of_the_window(self) -> None:
        """Its prompts are padded in front, each by its own length."""
        model, start, positive = self.flux_2(), dit.noise("flux"), dit.prompt(1)
        alone = dit.sample(model, start, positive=first_tokens(positive, 9), steps=1)
        after = dit.sample(steps.steered(model), start, positive=appended(positive, steps.LATER), steps=1)
        assert torch.equal(alone, after)
        assert not torch.equal(alone, dit.sample(steps.steered(model), start, positive=appended(positive), steps=1))

    @pytest.mark.parametrize("name", ["lumina", "zimage", "krea2", "kandinsky5", "hunyuan", "hunyuan_image"])
    def test_a_region_outside_of_its_own_window_is_not_read_in_advance(self, name: str) -> None:
        """Where layers mix the text before the blocks, its words would act through those of others."""
        extra = {"conditioning_byt5small": drawn(1, 5, 1472)} if name == "hunyuan_image" else {}
        model, start, positive = steps.steered(dit.build(name)), dit.noise(name), dit.prompt(1, **extra)
        both = appended(positive, windows=((0.0, 1.0), (0.123, 0.1231)))
        mark = both[0][1][MARK]
        one = replace(mark.only((0,)), length=11, unseen=())
        shorter = [[text, {**options, MARK: one}] for text, options in first_tokens(positive, 11)]
        assert torch.equal(evaluated(model, start, both), evaluated(model, start, shorter))
        assert not torch.equal(evaluated(model, start, both), evaluated(model, start, appended(positive))), "twin"


def test_the_side_network_of_vace_is_steered_too() -> None:
    config = {**dit.WAN.config, "model_type": "vace", "vace_layers": 3, "vace_in_dim": 96, "dtype": torch.float32}
    model = small(comfy.model_base.WAN21_Vace, comfy.supported_models.WAN21_Vace(config))
    start = dit.noise("wan", frames=2)
    shown = {"vace_frames": [drawn(1, 32, 2, 16, 24, seed=n) for n in (1, 2)],
             "vace_mask": [torch.ones(1, 64, 2, 16, 24)] * 2, "vace_strength": [1.0, 1.0]}  # fmt: skip
    positive = dit.prompt(1, **shown)
    patched, recording = recorded(model)
    patched, calls = watched(patched)
    evaluated(patched, start, positive)
    kinds = ["self", "cross"] * 3  # a block, and for each of the two things shown one of the side network
    assert [(call.site.block.number, call.site.kind) for call in calls] == [(n, k) for n in range(3) for k in kinds]
    assert {call.site.grid for call in calls} == {(2, 8, 12)}
    first = calls[6]
    q, k = (split_heads(t, first.heads, first.heads_first) for t in (first.q, first.k))
    record = recording.found["cond", "double.1"]
    torch.testing.assert_close(record.values, column_sums(q, k, None, None, first.site.image))
    marked = appended(positive)
    assert not torch.equal(evaluated(steps.steered(model), start, marked), evaluated(model, start, positive))


def test_gradients_keep_pytorchs_attention_where_heads_get_too_wide(caplog: pytest.LogCaptureFixture) -> None:
    """Ours is no kernel of another node's, and the backend in its place may have no backward."""
    model = steps.steered(dit.build("flux", hidden_size=256, axes_dim=[32, 48, 48]))
    autograd.with_backward(model)
    widths, plain = [], host_attention.attention_pytorch

    def seen(q: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        widths.append(q.shape[-1])
        return plain(q, *args, **kwargs)

    with mock.patch.object(host_attention, "attention_pytorch", seen):
        evaluated(model, dit.noise("flux"), appended(dit.prompt(1)))
        assert len(widths) == 4 and min(widths) > 128 and "replaced" not in caplog.text
        widths.clear()
        options = model.model_options["transformer_options"]
        options[hooks.OVERRIDE] = autograd.with_gradient(lambda func, *args, **kwargs: func(*args, **kwargs))
        evaluated(model, dit.noise("flux"), appended(dit.prompt(1)))
    assert len(widths) == 4 and "replaced" in caplog.text, "another node's inside of ours is passed by, and it is said"


def test_layers_of_kandinsky_5_image_that_keep_an_axis_for_frames() -> None:
    config = {**dit.KINDS["kandinsky5"].config, "visual_embed_dim": 64, "dtype": torch.float32}
    model = small(comfy.model_base.Kandinsky5Image, comfy.supported_models.Kandinsky5Image(config))
    network, shapes = model.model.diffusion_model, {}
    names = ("visual_embeddings.in_layer", "out_layer.out_layer")
    for name in names:
        network.get_submodule(name).register_forward_hook(
            lambda module, args, output, name=name: shapes.update({name: tuple(output.shape)})
        )
    evaluated(model, drawn(1, 16, 16, 24), dit.prompt(1))
    assert {shape[1:-1] for shape in shapes.values()} == {(1, 8, 12)}, "twin: they have it"
    family, forward = registry.family_of(network), Forward(network, 1, (16, 24), {})
    assert {family.layer_tokens(forward, name, shapes[name]).grid for name in names} == {(8, 12)}


@pytest.mark.parametrize(("network", "layer", "shape", "size", "given"), [
    ("zimage", "cap_embedder.1", (1, 13, 256), (16, 24), {"ref_contexts": [drawn(1, 13, 32)]}),
    ("hunyuan", "img_in.proj", (1, 64, 1, 8, 12), (1, 16, 24), {"ref_latent": drawn(1, 16, 1, 16, 24)}),
    ("joyimage", "img_in", (1, 256, 1, 8, 12), (1, 16, 24), {"ref_latents": [drawn(1, 16, 1, 16, 24)]}),
    ("HumoWanModel", "patch_embedding", (1, 64, 1, 8, 12), (1, 16, 24), {"reference_latent": drawn(1, 16, 1, 16, 24)}),
    ("WanModel_S2V", "patch_embedding", (1, 64, 1, 8, 12), (1, 16, 24), {"reference_latent": drawn(1, 16, 1, 16, 24)}),
    ("WanModel", "patch_embedding", (1, 64, 1, 8, 12), (1, 16, 24), {"context_latents": [drawn(1, 16, 1, 16, 24)]}),
])  # fmt: skip
def test_layers_that_make_tokens_of_references_too(
    network: str, layer: str, shape: tuple[int, ...], size: tuple[int, ...], given: dict[str, Any]
) -> None:
    """A reference of the picture's size cannot be told from it."""
    if network in dit.KINDS:
        made = dit.build(network).model.diffusion_model
        family = registry.family_of(made)
    else:
        made = SimpleNamespace(patch_size=(1, 2, 2))
        family = registry.TRANSFORMERS[getattr(comfy.ldm.wan.model, network)]
    assert family.layer_tokens(Forward(made, 1, size, given), layer, shape) is None
    told = family.layer_tokens(Forward(made, 1, size, {}), layer, shape)
    assert told is not None and math.prod(told.grid or (told.text_tokens,)) in (96, 13), "twin: without one"


class TaggedClip:
    """A text encoder as MiniMax H3's: the first two tokens of a prompt are a picture's."""

    def tokenize(self, text: str, return_word_ids: bool = False) -> dict[str, list]:
        words = [(at, 1.0, at + 1) for at, _ in enumerate(text.split())]
        return {"qwen3vl_32b": [words if return_word_ids else [each[:2] for each in words]]}

    def encode_from_tokens_scheduled(self, tokens: dict[str, list]) -> list:
        count = len(tokens["qwen3vl_32b"][0])
        tags = torch.ones(count, dtype=torch.long)
        tags[:2] = 0
        return [[drawn(1, count, 8), {"minimax_token_tags": tags}]]


def test_tags_of_minimax_h3_are_as_many_as_tokens() -> None:
    """Its network asks for the tag of every token; appended words are text."""
    found = prompt_encoding.positive(TaggedClip(), "a b c d e", steps.two_regions(), "concat", True, NOW)
    (text, options), *_ = found.conditioning
    assert options["minimax_token_tags"].tolist() == [0, 0, *[1] * (text.shape[1] - 2)]
    assert text.shape[1] > 5, "twin: there are appended ones"
