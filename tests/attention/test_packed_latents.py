"""Models of video with sound: their latents come packed into one, the techniques act on the video."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import comfy.ldm.minimax.model
import comfy.ldm.modules.attention
import comfy.model_base
import comfy.model_patcher
import comfy.sample
import comfy.sd
import comfy.supported_models
import comfy.utils
import lora_files as files
import pytest
import tiny_models as tiny
import tiny_transformers as dit
import torch
from comfy.nested_tensor import NestedTensor
from recording import recorded
from reference import sag as reference
from region_steps import LATER, marked, steered, two_regions
from sag_steps import guided, relative
from torch import Tensor

from fovea.attention import hooks, packed
from fovea.guidance.region_lora import model_patch
from fovea.guidance.regions.control import RegionControl
from fovea.guidance.regions.score_bias import RegionBias

NOW = RegionControl(RegionBias(temperature=0.0, background=False), 1.0, 0.3, 0.0, 0.9)


@dataclass(frozen=True)
class Kind:
    """A small model of a class, its latents, and what its attention calls look like.

    begin: tokens before the video's. calls: blocks -> the place of their call among all. text: tokens of the prompt.
    """

    settings: type
    model: type
    config: dict[str, Any]
    video: tuple[int, ...]
    sound: tuple[int, ...]
    module: Any
    calls: dict[str, int]
    grid: tuple[int, ...]
    begin: int
    text: dict[str, int]


LTX = Kind(
    comfy.supported_models.LTXAV, comfy.model_base.LTXAV,
    {"image_model": "ltxav", "attention_head_dim": 24, "num_attention_heads": 2, "cross_attention_dim": 48,
     "audio_attention_head_dim": 12, "audio_num_attention_heads": 2, "audio_cross_attention_dim": 24,
     "caption_channels": tiny.CONTEXT // 2, "num_layers": 3, "in_channels": 128, "connector_attention_head_dim": 16,
     "connector_num_attention_heads": 2, "connector_num_layers": 1},
    (128, 2, 6, 10), (8, 7, 16), comfy.ldm.modules.attention, {"double.0": 0, "double.1": 6, "double.2": 12},
    (2, 6, 10), 0, {"cross": dit.TEXT, "self": 0},
)  # fmt: skip
MINIMAX = Kind(
    comfy.supported_models.MiniMaxH3, comfy.model_base.MiniMaxH3,
    {"image_model": "minimax_h3", "hidden_size": 64, "num_layers": 3, "token_refiner_num_layers": 1,
     "num_attention_heads": 2, "attention_head_dim": 32, "ffn_hidden_size": 128, "text_dim": tiny.CONTEXT,
     "time_embed_hidden_size": 32, "time_embed_dim": 32, "rope_inv_freq_len": 5},
    (24, 3, 11, 14), (32, 2, 5), comfy.ldm.minimax.model, {"double.0": 0, "double.1": 1, "double.2": 2},
    (3, 6, 7), dit.TEXT + 10, {"joint": dit.TEXT},
)  # fmt: skip
KINDS = {"ltx": LTX, "minimax": MINIMAX}


def build(kind: Kind) -> comfy.model_patcher.ModelPatcher:
    model = kind.model(kind.settings({**kind.config, "dtype": torch.float32}), device=tiny.CPU)
    tiny.initialize(model.diffusion_model, 0, 1.0)
    for label, parameter in model.diffusion_model.named_parameters():
        if label.endswith(("q_norm.weight", "k_norm.weight")):  # attention peaked enough to see something
            parameter.data.mul_(1.6)
    return comfy.model_patcher.ModelPatcher(model, tiny.CPU, tiny.CPU)


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


@pytest.fixture(scope="module")
def model(kind: Kind) -> Any:
    return build(kind)


def test_no_value_is_left_to_chance(kind: Kind) -> None:
    assert not tiny.left_to_chance(lambda: build(kind))


def noise(kind: Kind, seed: int = 0) -> NestedTensor:
    generator = torch.Generator().manual_seed(seed)
    return NestedTensor([torch.randn(1, *size, generator=generator) for size in (kind.video, kind.sound)])


def sample(model: Any, start: NestedTensor, steps: int = 2, cfg: float = 3.0, **prompts: Any) -> list[Tensor]:
    """[video, sound]."""
    prompts = {"positive": dit.prompt(1), "negative": dit.prompt(2), **prompts}
    latent = NestedTensor([torch.zeros_like(part) for part in start.unbind()])
    with torch.inference_mode():
        made = comfy.sample.sample(
            model, start, steps, cfg, "euler", "normal", prompts["positive"], prompts["negative"], latent,
            disable_pbar=True, seed=0,
        )  # fmt: skip
    return list(made.unbind())


@contextmanager
def attention_calls(kind: Kind) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """q and k of every attention call, [batch, heads, tokens, dim], seen where the network makes it."""
    calls, real = [], kind.module.optimized_attention

    def logged(q: Tensor, k: Tensor, v: Tensor, heads: int, *args: Any, **kwargs: Any) -> Tensor:
        split = [t if kwargs.get("skip_reshape") else t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k)]
        calls.append(tuple(t.clone() for t in split))
        return real(q, k, v, heads, *args, **kwargs)

    with mock.patch.object(kind.module, "optimized_attention", logged):
        yield calls


def test_what_is_packed_comes_apart_as_comfyui_has_it() -> None:
    parts = [torch.randn(2, 3, 2, 4, 5), torch.randn(2, 8, 7)]
    x, shapes = comfy.utils.pack_latents(parts)
    assert torch.equal(packed.picture_of(x, shapes), parts[0]) and packed.picture_size(x, shapes) == (2, 4, 5)
    other = torch.randn_like(parts[0])
    back = comfy.utils.unpack_latents(packed.with_picture(x, other, shapes), shapes)
    assert torch.equal(back[0], other) and torch.equal(back[1], parts[1])
    for none in ((), shapes[:1]):
        assert packed.picture_of(other, none) is other and packed.with_picture(x, other, none) is other


def test_saliency_is_that_of_the_videos_tokens(kind: Kind, model: Any) -> None:
    patched, recording = recorded(model)
    with attention_calls(kind) as calls:
        sample(patched, noise(kind), steps=1, cfg=1.0)
    assert {block for _, block in recording.found} == {"double.0", "double.1", "double.2"}
    count = math.prod(kind.grid)
    for (_, block), record in recording.found.items():
        q, k = calls[kind.calls[block] + _before(kind, calls)]
        assert q.shape[2] == kind.begin + count
        whole = reference.attention_map(q[0], k[0])
        own = slice(kind.begin, kind.begin + count)
        expected = whole[:, own, own].mean(dim=0).sum(dim=0)
        torch.testing.assert_close(record.values[0].double(), expected, rtol=1e-5, atol=1e-6)
        assert record.grid == kind.grid and record.latent_size == kind.video[1:]


def _before(kind: Kind, calls: list) -> int:
    """Attention calls that are made before the network's blocks, for the prompt."""
    return len(calls) - (18 if kind is LTX else 3)


def test_looking_changes_nothing(kind: Kind, model: Any) -> None:
    plain, seen = sample(model, noise(kind)), sample(recorded(model)[0], noise(kind))
    assert all(torch.equal(a, b) for a, b in zip(plain, seen))


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_guidance_blurs_the_video_and_leaves_the_sound_alone(kind: Kind, model: Any, cfg: float) -> None:
    """Against the formula in one step, with a plain call of the model on the blurred video beside the same sound."""
    patched, before = guided(model, mask_mode="global", scale=2.0, blur_sigma=1.5), model.clone()
    seen: list[dict[str, Any]] = []
    for each in (before, patched):
        each.set_model_sampler_post_cfg_function(lambda args: seen.append(args) or args["denoised"])
    start = noise(kind)
    sample(before, start, steps=1, cfg=cfg)
    sample(patched, start, steps=1, cfg=cfg)
    args, branch = seen[0], "uncond" if cfg != 1 else "cond"
    shapes = [(1, *kind.video), (1, *kind.sound)]
    x, x0 = (packed.picture_of(args[name], shapes) for name in ("input", f"{branch}_denoised"))
    size = kind.video[-2:]
    radius = [min(math.ceil(3 * 1.5), n - 1) for n in size]
    blurred = torch.stack([reference.gaussian_blur(x0[0, :, t], 1.5, *radius) for t in range(kind.video[1])], dim=1)
    sigma = args["sigma"]
    noisy = x.double() + (1 - sigma.double()) * (blurred[None] - x0.double())
    given = packed.with_picture(args["input"], noisy.float(), shapes)
    with torch.inference_mode():
        predicted = packed.picture_of(_x0(model, dit.prompt(2 if cfg != 1 else 1), given, sigma, shapes), shapes)
    wanted = packed.picture_of(args["denoised"], shapes).double() + 2.0 * (blurred[None] - predicted.double())
    got = seen[1]["denoised"]
    assert relative(packed.picture_of(got, shapes).double(), wanted) < 1e-4
    rest = math.prod(kind.video)
    assert torch.equal(got[..., rest:], args["denoised"][..., rest:])
    assert relative(got, args["denoised"]) > 1e-3, "twin: it does something"


def _x0(model: Any, prompt: list, x: Tensor, sigma: Tensor, shapes: list) -> Tensor:
    text, extra = prompt[0]
    about = {"noise": x, "device": x.device, "latent_shapes": shapes, "seed": 0, **extra}
    conds = model.model.extra_conds(cross_attn=text, prompt_type="x", **about)
    conds = {key: cond.process_cond(batch_size=1, area=None).cond for key, cond in conds.items()}
    options = {"cond_or_uncond": [0], "uuids": [None], "sigmas": sigma}
    return model.model.apply_model(x, sigma, transformer_options=options, **conds)


def test_guidance_with_a_mask_of_what_is_salient(kind: Kind, model: Any) -> None:
    plain, ours = sample(model, noise(kind)), sample(guided(model), noise(kind))
    assert relative(ours[0], plain[0]) > 1e-3 and torch.isfinite(ours[0]).all()
    off = sample(guided(model, scale=0.0), noise(kind))
    assert all(torch.equal(a, b) for a, b in zip(off, plain))


def test_regions_act_now_and_not_later(kind: Kind, model: Any) -> None:
    plain = sample(model, noise(kind))
    now = sample(steered(model), noise(kind), positive=marked(dit.prompt(1), two_regions(), control=NOW))
    assert relative(now[0], plain[0]) > 1e-4 and torch.isfinite(now[0]).all()
    later = sample(steered(model), noise(kind), positive=marked(dit.prompt(1), two_regions(), control=LATER))
    assert all(torch.equal(a, b) for a, b in zip(later, plain))


def test_regions_push_the_videos_places_to_their_words(kind: Kind, model: Any) -> None:
    """In the first block: attention of places in a region to its words grows, that of the others' does not."""
    places = ((1, 2, 3), (5, 6))
    prompt = marked(dit.prompt(1), two_regions(), places, control=NOW)
    found: dict[str, Tensor] = {}

    class Look:
        blocks, kinds, reads = None, frozenset({"cross", "joint"}), True

        def wants(self, run: Any, rows: Any, degraded: Any) -> bool:
            return True

        def attend(self, call: Any, attention: Any) -> Tensor:
            if call.site.block.number == 0:
                v = torch.zeros_like(call.v)
                for region, words in enumerate(places):
                    v[..., list(words), region] = 1  # heads first or not: the first head's channels
                out = attention(call.q, call.k, v)
                found["now"] = out[0, call.site.image, :2]
            return attention(call.q, call.k, call.v)

        def begin(self, run: Any) -> Any:
            return (self,)

    shares = {}
    for name, patched in (("plain", model.clone()), ("steered", steered(model))):
        hooks.install(patched, Look())
        sample(patched, noise(kind), steps=1, cfg=1.0, positive=prompt)
        shares[name] = found["now"].unflatten(0, kind.grid)
    more = shares["steered"] - shares["plain"]
    _, height, width = kind.grid
    inside = more[:, : height // 2, : width // 2, 0]
    outside = more[:, height // 2 + 1 :, width // 2 + 1 :, 0]
    assert inside.min() > 0 and inside.mean() > 0.05 and outside.max() < 1e-6


def test_a_full_mask_is_the_loaders_lora(kind: Kind, model: Any) -> None:
    """But for layers that read the prompt once, before the run."""
    file = files.weights(model, 1, lambda name: not name.startswith(("condition_proj", "token_refiner")))
    loaded = comfy.sd.load_lora_for_models(model, None, file, 1.0, 0.0)[0]
    ours = model.clone()
    model_patch.install(ours, files.everywhere(file), apart=0.0)
    wanted, plain = sample(loaded, noise(kind)), sample(model, noise(kind))
    got = sample(ours, noise(kind))
    for part in range(2):
        assert relative(plain[part], wanted[part]) > 1e-3
        assert relative(got[part], wanted[part]) < 1e-4


def test_a_lora_in_one_half_acts_there_alone(kind: Kind, model: Any) -> None:
    """Of the last block's layers, behind which nothing mixes places."""
    last = ("transformer_blocks.2.ff.", "blocks.2.mlp.")
    half = torch.zeros(1, 8, 8)
    half[..., :4] = 1
    region = files.region(half, files.weights(model, 1, lambda name: name.startswith(last)))
    ours = model.clone()
    model_patch.install(ours, files.Regions((region,)), apart=0.0)
    plain, got = sample(model, noise(kind), steps=1, cfg=1.0), sample(ours, noise(kind), steps=1, cfg=1.0)
    change = (got[0] - plain[0]).abs().amax(dim=(0, 1, 2, 3))
    middle = len(change) // 2
    assert change[: middle - 1].min() > 1e-3 and change[middle + 1 :].max() < 1e-5


def test_a_video_that_is_left_out_is_not_read() -> None:
    patched, recording = recorded(build(LTX))
    patched.model_options["transformer_options"]["run_vx"] = False
    sample(patched, noise(LTX), steps=1, cfg=1.0)
    assert not recording.found
