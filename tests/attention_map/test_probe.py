"""The attention viewer: its maps equal full attention maps, it evaluates once per level, its sheets are readable."""

from __future__ import annotations

import math
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.sdxl_clip
import comfy.text_encoders.flux
import comfy.text_encoders.sd3_clip
import pytest
import tiny_models as tiny
import tiny_transformers as dit
import torch
from attention.test_packed_latents import KINDS, build
from comfy.nested_tensor import NestedTensor
from comfy_extras.nodes_easycache import EasyCacheNode
from reference import sag as reference

from fovea.attention.sites import BlockId
from fovea.guidance import noise_levels
from fovea.guidance.attention_map.probe import Look, look
from fovea.guidance.experts.model_patch import Expert, ExpertSwitch
from fovea.guidance.picture_mean import with_picture_means
from fovea.guidance.token_spans import phrase_tokens
from fovea.models.shapesworld import loader as demo
from fovea.nodes.attention_map import FoveaAttentionMap
from fovea.nodes.ui import heat_maps

MIDDLE = BlockId("middle", 0, 0)
DEFAULTS = {
    "levels": "0.3, 0.7",
    "seed": 0,
    "blocks": "auto",
    "threshold": 1.0,
    "point": "",
    "phrase": "",
    "prompt": "",
}


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny.unet("sd15")


@contextmanager
def projections(model: Any) -> Any:
    """Log q and k of every attention layer of a small UNet, [batch, heads, tokens, dim], by name; per evaluation."""
    seen: list[dict[str, dict[str, torch.Tensor]]] = []
    handles = [model.model.diffusion_model.register_forward_pre_hook(lambda *_: seen.append({}))]
    for name, module in model.model.diffusion_model.named_modules():
        for part in ("to_q", "to_k"):
            if name.endswith((f"attn1.{part}", f"attn2.{part}")):

                def keep(_module: Any, _inputs: Any, output: torch.Tensor, name: str = name, part: str = part) -> None:
                    layer = seen[-1].setdefault(name.removesuffix(f".{part}"), {})
                    layer[part] = output.unflatten(-1, (4, -1)).transpose(1, 2)

                handles.append(module.register_forward_hook(keep))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def test_other_nodes_perturbed_passes_do_not_count(model: Any) -> None:
    """PAG evaluates the prompt once more with degraded attention, before ours reads."""
    from comfy_extras.nodes_pag import PerturbedAttentionGuidance

    (perturbed,) = PerturbedAttentionGuidance.execute(model, 3.0).result
    wanted = Look(frozenset({MIDDLE}), tokens=(1, 2), point=(0.5, 0.5))
    latent = {"samples": torch.zeros(1, 4, 64, 64)}
    seen = [look(patched, tiny.prompt(1), latent, [0.3], 0, wanted)[0].maps for patched in (model, perturbed)]
    assert all(torch.equal(seen[0][name], seen[1][name]) for name in seen[0])


def test_a_prompt_for_a_part_of_the_picture_is_refused(model: Any) -> None:
    latent = {"samples": torch.zeros(1, 4, 64, 64)}
    with pytest.raises(ValueError, match="part of the picture"):
        look(model, tiny.prompt(1, area=(32, 32, 0, 0)), latent, [0.3], 0, Look(frozenset({MIDDLE})))


def test_prompts_of_two_time_ranges(model: Any) -> None:
    """Each level shows the prompt that acts there, as if it were alone; another one's part of the picture is no matter.
    """
    early, late = tiny.prompt(1, end_percent=0.5), tiny.prompt(2, start_percent=0.5)
    latent, wanted = {"samples": torch.zeros(1, 4, 64, 64)}, Look(frozenset({MIDDLE}), 1.0, (1, 2), (0.5, 0.5))
    levels = look(model, [*early, *late], latent, [0.2, 0.8], 0, wanted)
    for level, seed in zip(levels, (1, 2)):
        (alone,) = look(model, tiny.prompt(seed), latent, [level.percent], 0, wanted)
        assert level.maps.keys() == alone.maps.keys() == {"saliency", "mask", "phrase", "point"}
        assert all(torch.equal(level.maps[name], alone.maps[name]) for name in alone.maps)
    with pytest.raises(ValueError, match="not active at all levels"):
        look(model, early, latent, [0.2, 0.8], 0, wanted)
    part = [*early, *tiny.prompt(2, start_percent=0.5, area=(32, 32, 0, 0))]
    assert torch.equal(look(model, part, latent, [0.2], 0, wanted)[0].maps["phrase"], levels[0].maps["phrase"])
    with pytest.raises(ValueError, match="part of the picture"):
        look(model, part, latent, [0.8], 0, wanted)


def test_the_noise_is_the_same_whichever_level_is_first(model: Any) -> None:
    """Nodes that change the starting noise of a run do not change it: no level begins one."""
    started = with_picture_means(model, ((5.0, -5.0, 5.0, -5.0),))
    latent, wanted = {"samples": torch.zeros(1, 4, 64, 64)}, Look(frozenset({MIDDLE}))
    first, last = (look(started, tiny.prompt(1), latent, at, 3, wanted) for at in ([0.05, 0.6], [0.6, 0.05]))
    assert torch.equal(first[1].maps["saliency"], last[0].maps["saliency"])
    assert torch.equal(first[0].maps["saliency"], last[1].maps["saliency"])


def test_a_level_at_which_another_model_acts_is_refused(model: Any) -> None:
    low = tiny.unet("sd15", seed=1)
    switch = ExpertSwitch.of(model, [Expert(low, noise_levels.half_log_snr(2.0, False))])
    latent = {"samples": torch.zeros(1, 4, 64, 64)}
    with pytest.raises(ValueError, match="another model is evaluated"):
        look(switch.patched(model), tiny.prompt(1), latent, [0.9, 0.1], 0, Look(frozenset({MIDDLE})))


def squares(values: torch.Tensor, grid: tuple[int, int], size: tuple[int, int]) -> torch.Tensor:
    """A value per token, pixel by pixel."""
    out = torch.empty(size, dtype=values.dtype)
    for y in range(size[0]):
        for x in range(size[1]):
            out[y, x] = values[(y * grid[0] // size[0]) * grid[1] + x * grid[1] // size[1]]
    return out


class TestMaps:
    def test_equal_the_full_maps(self, model: Any) -> None:
        size, tokens, point = (32, 40), (3, 4, 9), (0.9, 0.3)
        latent = {"samples": tiny.noise(*size, batch=2, seed=4)}
        wanted = Look(frozenset({MIDDLE}), tokens=tokens, point=point)
        with torch.inference_mode(), projections(model) as seen:
            levels = look(model, tiny.prompt(1), latent, [0.2, 0.8], 7, wanted)
        assert len(levels) == len(seen) == 2 and levels[0].sigma > levels[1].sigma
        grids = {
            "input_blocks.5": (8, 10),
            "middle_block": (4, 5),
            "output_blocks.2": (8, 10),
            "output_blocks.3": (8, 10),
        }
        for level, layers in zip(levels, seen):
            for sample in range(2):
                phrase = []
                for name, parts in layers.items():
                    if name.endswith("attn2"):
                        grid = next(g for prefix, g in grids.items() if name.startswith(prefix))
                        whole = reference.attention_map(parts["to_q"][sample], parts["to_k"][sample])
                        shares = whole[:, :, list(tokens)].mean(dim=0).sum(dim=-1)
                        phrase.append(squares(shares, grid, size))
                expected = sum(phrase) / len(phrase)
                torch.testing.assert_close(level.maps["phrase"][sample, 0].double(), expected, rtol=1e-5, atol=1e-7)
                middle = next(parts for name, parts in layers.items() if name.startswith("middle") and "attn1" in name)
                whole = reference.attention_map(middle["to_q"][sample], middle["to_k"][sample]).mean(dim=0)
                row = squares(whole[1 * 5 + 4], (4, 5), size)  # y 0.3 of 4 rows, x 0.9 of 5 columns
                torch.testing.assert_close(level.maps["point"][sample, 0].double(), row, rtol=1e-5, atol=1e-7)
                attended = whole.sum(dim=0)
                saliency = squares(attended / attended.mean(), (4, 5), size)
                torch.testing.assert_close(level.maps["saliency"][sample, 0].double(), saliency, rtol=1e-5, atol=1e-6)
                mask = reference.pixel_mask(attended, (4, 5), size, 1.0)
                assert torch.equal(level.maps["mask"][sample, 0].double(), mask)
        assert not torch.equal(levels[0].maps["saliency"], levels[1].maps["saliency"])

    @pytest.mark.parametrize("name", list(dit.KINDS))
    def test_on_transformers(self, name: str) -> None:
        patcher = dit.build(name)
        kind = dit.KINDS[name]
        latent = {"samples": dit.noise(name, 15 if kind.odd else 16, 22, seed=3)}
        block = BlockId(kind.second.split(".")[0], 1, 0)
        wanted = Look(frozenset({block}), tokens=(2, 3), point=(0.99, 0.99))
        with torch.inference_mode(), dit.watching(patcher, name) as calls:
            (level,) = look(patcher, dit.prompt(1), latent, [0.5], 0, wanted)
        assert len(calls) == 1
        grid = dit.tokens(name, tuple(latent["samples"].shape[2:]))
        q, k = calls[0]["qk"][kind.calls[kind.second]]
        count, padded = math.prod(grid), -(-math.prod(grid) // dit.KINDS[name].pad) * dit.KINDS[name].pad
        begin = q.shape[2] - padded - kind.behind
        whole = reference.attention_map(q[0], k[0].repeat_interleave(q.shape[1] // k.shape[1], dim=0)).mean(dim=0)
        row = whole[begin + count - 1, begin : begin + count].reshape(grid[-2:])
        size = latent["samples"].shape[-2:]
        picture = row.repeat_interleave(kind.patch, 0).repeat_interleave(kind.patch, 1)[: size[0], : size[1]]
        torch.testing.assert_close(level.maps["point"][0, 0].double().reshape(size), picture, rtol=1e-4, atol=1e-7)
        assert level.maps["phrase"].shape == level.maps["saliency"].shape
        assert 0 < float(level.maps["phrase"].mean()) < 0.9
        if kind.begin or kind.behind:  # joint attention: text is first, or last
            first, words = begin + padded if kind.behind else 0, torch.zeros(count)
            joint = [call for block, call in kind.calls.items() if block.count(".") == 1]
            for q, k in (calls[0]["qk"][call] for call in joint):
                each = reference.attention_map(q[0], k[0].repeat_interleave(q.shape[1] // k.shape[1], dim=0))
                words = words + each[:, begin : begin + count, first + 2 : first + 4].mean(dim=0).sum(dim=1)
            words = words / len(joint)
            picture = words.reshape(grid[-2:]).repeat_interleave(kind.patch, 0).repeat_interleave(kind.patch, 1)
            got = level.maps["phrase"][0, 0].double().reshape(size)
            torch.testing.assert_close(got, picture[: size[0], : size[1]], rtol=1e-4, atol=1e-7)

    def test_leaves_the_model_alone_and_is_repeatable(self, model: Any) -> None:
        before = repr(model.model_options)
        latent = {"samples": tiny.noise(16, 16)}
        first, second = (look(model, tiny.prompt(1), latent, [0.5], 3, Look(frozenset({MIDDLE}))) for _ in range(2))
        assert repr(model.model_options) == before and not model.wrappers
        assert torch.equal(first[0].maps["saliency"], second[0].maps["saliency"])
        other = look(model, tiny.prompt(1), latent, [0.5], 4, Look(frozenset({MIDDLE})))
        assert not torch.equal(first[0].maps["saliency"], other[0].maps["saliency"])


class Clip:
    """The tokenizing side of ComfyUI's CLIP. encoders: by name, None for those that are not loaded."""

    def __init__(self, tokenizer: Any, **encoders: Any) -> None:
        self.tokenizer, self.cond_stage_model = tokenizer, SimpleNamespace(**encoders)

    def tokenize(self, text: str, return_word_ids: bool = False) -> Any:
        return self.tokenizer.tokenize_with_weights(text, return_word_ids)


class TestPhrases:
    TEXT = "a red fox and a blue bird, oil painting, a blue bird"

    def test_clip(self) -> None:
        clip = Clip(comfy.sdxl_clip.SDXLTokenizer())
        assert phrase_tokens(clip, self.TEXT, "red fox", 77) == (2, 3)
        assert phrase_tokens(clip, self.TEXT, "Blue bird", 77) == (6, 7, 13, 14)
        assert phrase_tokens(clip, "a (red fox:1.3)", "red fox", 77) == (2, 3)
        assert phrase_tokens(clip, "a red red red fox", "red red", 77) == (2, 3), "no token counts twice"

    def test_second_chunk_of_a_long_prompt(self) -> None:
        clip = Clip(comfy.sdxl_clip.SDXLTokenizer())
        text = "word " * 80 + "red fox"
        (first, second) = phrase_tokens(clip, text, "red fox", 154)
        assert 77 < first == second - 1 < 154

    def test_t5_alone_and_after_clip(self) -> None:
        flux = Clip(comfy.text_encoders.flux.FluxTokenizer())
        alone = phrase_tokens(flux, self.TEXT, "red fox", 256)
        ids = [flux.tokenize(self.TEXT)["t5xxl"][0][i][0] for i in alone]
        pieces = "".join(flux.tokenizer.t5xxl.inv_vocab[i] for i in ids)
        assert pieces.replace("\u2581", " ").split() == ["red", "fox"]
        sd3 = Clip(comfy.text_encoders.sd3_clip.SD3Tokenizer())
        length = len(sd3.tokenize(self.TEXT)["t5xxl"][0])
        without = Clip(sd3.tokenizer, t5xxl=None)
        assert phrase_tokens(without, self.TEXT, "red fox", 77) == (2, 3)
        both = phrase_tokens(sd3, self.TEXT, "red fox", 77 + length)
        assert both == (2, 3, *(77 + i for i in alone))

    def test_says_what_is_wrong(self) -> None:
        clip = Clip(comfy.sdxl_clip.SDXLTokenizer())
        with pytest.raises(ValueError, match="'green cat' does not occur"):
            phrase_tokens(clip, self.TEXT, "green cat", 77)
        with pytest.raises(ValueError, match="has 154 tokens, the text 77"):
            phrase_tokens(clip, self.TEXT, "red fox", 154)

        class Other:
            def tokenize(self, text: str, return_word_ids: bool = False) -> Any:
                return {"qwen": [[(1, 1.0, 1)]]}

        with pytest.raises(ValueError, match="qwen"):
            phrase_tokens(Other(), self.TEXT, "red fox", 77)


class TestSheet:
    def test_colors_run_from_dark_to_light(self) -> None:
        light = heat_maps.colors(torch.linspace(0, 1, 50).reshape(1, 50)).mean(dim=-1)[0]
        assert (light.diff() > 0).all()

    def test_a_flat_map_has_no_hot_spot(self) -> None:
        assert torch.equal(heat_maps.spread(torch.full((1, 4, 4), 0.3)), torch.zeros(1, 4, 4))

    def test_rows_and_columns_are_where_they_belong(self) -> None:
        tiles = [torch.full((40, 60, 3), value) for value in (0.2, 0.4, 0.6, 0.8)]
        sheet = heat_maps.sheet([("first", tiles[:2]), ("second", tiles[2:])], ["a", "b"])
        wide = sheet.shape[1] - 2 * (60 + heat_maps.GAP)
        for i in range(2):
            for j in range(2):
                middle = sheet[heat_maps.LABEL + i * (40 + heat_maps.GAP) + 20, wide + j * (60 + heat_maps.GAP) + 30]
                torch.testing.assert_close(middle, torch.full((3,), 0.2 + 0.2 * (2 * i + j)), atol=0.01, rtol=0)


class TestNode:
    def test_on_the_demo_model(self, demo_model: Path) -> None:
        model, clip, vae = demo.load_model(), demo.load_clip(), demo.load_vae()
        text = "a plain red star and a plain blue circle on a white background"
        positive = clip.encode_from_tokens_scheduled(clip.tokenize(text))
        inputs = {"model": model, "positive": positive, "latent": {"samples": torch.zeros(2, 4, 32, 32)}, "clip": clip,
                  **DEFAULTS, "prompt": text, "phrase": "blue circle", "point": "0.5, 0.5"}  # fmt: skip
        (bare,) = FoveaAttentionMap.execute(**inputs).result
        assert (
            bare.shape[0] == 2 and bare.shape[1] == heat_maps.LABEL + 4 * (256 + heat_maps.GAP) and bare.shape[3] == 3
        )
        (over,) = FoveaAttentionMap.execute(**inputs, vae=vae).result
        assert over.shape[1] == heat_maps.LABEL + 5 * (256 + heat_maps.GAP)
        assert float(bare.min()) >= 0 and float(bare.max()) <= 1

    @pytest.mark.parametrize("name", KINDS)
    def test_video_with_sound(self, name: str) -> None:
        """The latents of both come as one: what is shown, and decoded, is the video."""
        kind, decoded = KINDS[name], []
        frames, height, width = kind.video[1:]

        class Vae:
            def decode(self, latent: torch.Tensor) -> torch.Tensor:
                decoded.append(latent)
                return latent.movedim(1, -1)[..., :3].repeat_interleave(8, 2).repeat_interleave(8, 3).sigmoid()

        latent = {"samples": NestedTensor([torch.zeros(1, *size) for size in (kind.video, kind.sound)])}
        inputs = {"model": build(kind), "positive": dit.prompt(1), "latent": latent, **DEFAULTS}
        with torch.inference_mode():
            (bare,) = FoveaAttentionMap.execute(**inputs).result
            (over,) = FoveaAttentionMap.execute(**inputs, vae=Vae()).result
        assert [tuple(each.shape) for each in decoded] == [(1, *kind.video)] * 2
        for sheets, rows in ((bare, 2), (over, 3)):
            assert len(sheets) == frames and sheets.isfinite().all()
            assert sheets.shape[1] == heat_maps.LABEL + rows * (8 * height + heat_maps.GAP)
            assert 2 * 8 * width < sheets.shape[2] < 2 * 8 * width + 400

    @pytest.mark.parametrize(
        "changes, message",
        [
            ({"levels": "often"}, "levels must be numbers"),
            ({"levels": ""}, "levels must be numbers"),
            ({"levels": "1.5"}, "levels must be numbers"),
            ({"point": "0.5"}, "point must be empty or two numbers"),
            ({"point": "2, 0"}, "point must be empty or two numbers"),
            ({"phrase": "red fox"}, "connect clip"),
            ({"blocks": "nowhere"}, "Unknown block 'nowhere'"),
        ],
    )
    def test_bad_input(self, model: Any, changes: dict, message: str) -> None:
        inputs = {"model": model, "positive": tiny.prompt(1), "latent": {"samples": tiny.noise(16, 16)}}
        with pytest.raises(ValueError, match=message):
            FoveaAttentionMap.execute(**inputs, **{**DEFAULTS, **changes})

    def test_unsupported_model(self) -> None:
        inputs = {"model": tiny.pixart(), "positive": tiny.prompt(1), "latent": {"samples": tiny.noise(16, 16)}}
        with pytest.raises(ValueError, match="PixArt"):
            FoveaAttentionMap.execute(**inputs, **DEFAULTS)

    def test_merged_tokens(self, model: Any) -> None:
        merging = model.clone()
        merging.set_model_attn1_patch(lambda n, context, value, extra: (n, context[:, ::2], value[:, ::2]))
        inputs = {"model": merging, "positive": tiny.prompt(1), "latent": {"samples": tiny.noise(16, 16)}}
        with pytest.raises(ValueError, match="No self-attention was seen"):
            FoveaAttentionMap.execute(**inputs, **DEFAULTS)

    def test_a_step_cache(self, model: Any) -> None:
        """It would show a level the map of the one before."""
        inputs = {"positive": tiny.prompt(1), "latent": {"samples": tiny.noise(16, 16)}}
        cached = EasyCacheNode.execute(model, 0.2, 0.15, 0.95, False).result[0]
        with pytest.raises(RuntimeError, match="The model has easycache, which skips steps"):
            FoveaAttentionMap.execute(model=cached, **inputs, **DEFAULTS)
