"""Encoder Schedule: curves, segments of a schedule, and weights on ComfyUI's own pairs of encoders."""

from __future__ import annotations

import functools
from typing import Any

import comfy.samplers
import comfy.sd
import comfy.sdxl_clip
import pytest
import tiny_models as tiny
import tiny_transformers as transformers
import torch
from comfy.supported_models_base import ClipTarget
from comfy.text_encoders.hunyuan_video import HunyuanVideoTokenizer
from comfy_extras.nodes_flux import CLIPTextEncodeFlux
from hypothesis import given
from hypothesis import strategies as st
from tiny_encoders import encoder

from fovea.guidance.encoder_schedule import curves as schedule
from fovea.nodes.encoder_schedule import CUSTOM, FoveaEncoderSchedule


def encode(clip: Any, text: str = "a red star", clip_prompt: str = "", t5_prompt: str = "", curves: str = CUSTOM,
           clip_curve: str = "1", t5_curve: str = "1", segments: int = 8) -> list:  # fmt: skip
    lines = curves, clip_curve, t5_curve
    return FoveaEncoderSchedule.execute(clip, text, clip_prompt, t5_prompt, *lines, segments, 3.5).result[0]


@pytest.fixture(scope="module")
def flux() -> Any:
    return encoder("flux")


def test_curves() -> None:
    curve = schedule.parse_curve("0:1, 0.3:1, 1:0", "clip_curve")
    assert [schedule.weight_at(curve, percent) for percent in (0, 0.3, 0.65, 1)] == pytest.approx([1, 1, 0.5, 0])
    assert schedule.weight_at(schedule.parse_curve("0.7", "x"), 0.2) == 0.7
    assert schedule.weight_at(schedule.parse_curve("0.4:0, 0.6:1", "x"), 0.1) == 0
    wrongs = ("", "a:b", "0:1, 0.5", "1, 0:1", "0.5:1, 0.2:0", "0:1, 2:1", "0:99, 1:0", "0:nan, 1:0", "1, 2", "0:1, 2")
    for wrong in wrongs:
        with pytest.raises(ValueError, match="clip_curve"):
            schedule.parse_curve(wrong, "clip_curve")
    for preset in schedule.PRESETS.values():
        assert all(schedule.parse_curve(line, "preset") for line in preset)


@given(st.integers(1, 64))
def test_parts_tile_the_schedule(count: int) -> None:
    curves = [schedule.parse_curve("0:1, 0.3:1, 1:0", "x"), schedule.parse_curve("1", "x")]
    segments = schedule.pieces(curves, count)
    assert segments[0][0] == 0 and segments[-1][1] == 1 and all(a[1] == b[0] for a, b in zip(segments, segments[1:]))
    for start, end, weights in segments:
        if end < 0.3:
            assert weights[0] == 1
        assert weights[1] == 1 and start < end
    assert schedule.pieces([((0.0, 0.5),), ((0.0, 1.0),)], count) == [(0.0, 1.0, (0.5, 1.0))]
    assert len(schedule.pieces([((0.0, 1.0), (1.0, 0.0))], count)) == count


def test_weights_where_tokens_follow_each_other() -> None:
    """SD3's way: the first block is CLIP's, the second T5's, and each has its own share of the pooled vector."""
    clip, t5, clip_none, t5_none = (torch.randn(1, 5, 8, dtype=torch.float64) for _ in range(4))
    pooled, pooled_none = torch.randn(2, 1, 6, dtype=torch.float64)
    whole = torch.cat([clip, t5], 1), {"pooled_output": pooled, "flag": True, "ids": torch.tensor([1])}
    without = [(torch.cat([clip_none, t5], 1), {**whole[1], "pooled_output": pooled_none}),
               (torch.cat([clip, t5_none], 1), dict(whole[1]))]  # fmt: skip
    features, more = schedule.weighed_entry(whole, without, (0.25, 0.5))
    torch.testing.assert_close(features[:, :5], 0.25 * clip + 0.75 * clip_none)
    torch.testing.assert_close(features[:, 5:], 0.5 * t5 + 0.5 * t5_none)
    torch.testing.assert_close(more["pooled_output"], 0.25 * pooled + 0.75 * pooled_none)
    assert more["flag"] is True and more["ids"] is whole[1]["ids"]
    longer = schedule.stretched(clip_none, 7)
    assert longer.shape[1] == 7 and torch.equal(longer[:, 6], clip_none[:, -1])


def test_full_weights_are_the_hosts_prompt(flux: Any) -> None:
    """Bit for bit what ComfyUI's own node for two prompts gives, as one entry without a window."""
    (ours,) = encode(flux, "x", "a red star", "a blue circle")
    ((features, more),) = CLIPTextEncodeFlux.execute(flux, "a red star", "a blue circle", 3.5).result[0]
    assert torch.equal(ours[0], features) and torch.equal(ours[1]["pooled_output"], more["pooled_output"])
    assert ours[1]["guidance"] == 3.5 and "start_percent" not in ours[1]


def test_no_weight_is_an_empty_prompt(flux: Any) -> None:
    (ours,) = encode(flux, clip_curve="0")
    ((features, more),) = CLIPTextEncodeFlux.execute(flux, "", "a red star", 3.5).result[0]
    torch.testing.assert_close(ours[1]["pooled_output"], more["pooled_output"])
    assert torch.equal(ours[0], features)
    (ours,) = encode(flux, t5_curve="0")
    ((features, more),) = CLIPTextEncodeFlux.execute(flux, "a red star", "", 3.5).result[0]
    torch.testing.assert_close(ours[0], features)
    assert torch.equal(ours[1]["pooled_output"], more["pooled_output"])
    long = " ".join(["a red star on a white ground"] * 60)
    (features, _), (short, _) = encode(flux, long, t5_curve="0.5")[0], encode(flux, long)[0]
    assert features.shape == short.shape and features.shape[1] > 256


def test_sdxls_two_clips() -> None:
    """Side by side: the left part of the features is CLIP-L's, the right part and the pooled vector CLIP-G's."""
    small = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 3, "intermediate_size": 64}
    target = ClipTarget(comfy.sdxl_clip.SDXLTokenizer, comfy.sdxl_clip.SDXLClipModel)
    clip = comfy.sd.CLIP(target, model_options={"clip_l_model_config": small, "clip_g_model_config": small})
    tiny.initialize(clip.cond_stage_model, 3, 1.0)
    (whole,), (no_l,), (no_g,) = encode(clip), encode(clip, clip_curve="0"), encode(clip, t5_curve="0")
    width = whole[0].shape[-1] // 2
    assert torch.equal(no_l[0][..., width:], whole[0][..., width:]) and not torch.equal(no_l[0], whole[0])
    torch.testing.assert_close(no_g[0][..., :width], whole[0][..., :width])
    assert (no_g[1]["pooled_output"] - whole[1]["pooled_output"]).abs().max() > 1e-4
    assert encode(clip, "a star " * 90, "short", curves="eDiff-I")[0][0].shape[1] == 77 * 3


def test_sd3s_tokens_in_a_row() -> None:
    """CLIP's tokens first, then T5's: a long prompt without CLIP is T5's alone behind as many empty CLIP tokens."""
    import comfy.text_encoders.sd3_clip as sd3

    t5 = {"d_model": 4096, "d_kv": 8, "d_ff": 16, "num_heads": 1, "num_layers": 1}  # as wide as CLIP is padded to
    small = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 3, "intermediate_size": 64}
    target = ClipTarget(sd3.SD3Tokenizer, functools.partial(sd3.SD3ClipModel, clip_g=False, dtype_t5=torch.float16))
    clip = comfy.sd.CLIP(target, model_options={"t5xxl_model_config": t5, "clip_l_model_config": small})
    tiny.initialize(clip.cond_stage_model, 3, 1.0)
    long = "a red star " * 60
    (whole,), (alone,) = encode(clip, long), encode(clip, long, clip_curve="0")
    count = 77 * len(clip.tokenize(long)["l"])
    assert count > 77 and whole[0].shape == alone[0].shape and whole[0].shape[1] > count + 77
    assert torch.equal(alone[0][:, count:], whole[0][:, count:]), "T5's tokens stay where they are"
    assert not torch.equal(alone[0][:, :count], whole[0][:, :count])
    torch.testing.assert_close(alone[0][:, :77], encode(clip, "", t5_prompt=long)[0][0][:, :77])


def test_an_encoder_that_is_not_there() -> None:
    with pytest.raises(ValueError, match=r"the encoder . and . is not there"):
        encode(encoder("sd3"), clip_curve="0")


def test_one_encoder_is_refused() -> None:
    with pytest.raises(ValueError, match="one kind of text encoder only"):
        encode(single())


def single() -> Any:
    import comfy.sd1_clip

    small = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 64}
    target = ClipTarget(comfy.sd1_clip.SD1Tokenizer, functools.partial(comfy.sd1_clip.SD1ClipModel))
    return comfy.sd.CLIP(target, model_options={"clip_l_model_config": small})


def test_sampling_takes_one_prompt_a_step(flux: Any) -> None:
    """At every step one part acts, its weights those of the curve; the same in every part is the plain prompt."""
    model, x = tiny.unet("shallow"), tiny.noise(16, 16)
    scheduled = encode(flux, curves="eDiff-I", segments=8)
    assert len(scheduled) == 7, "two of the eight segments lie where CLIP is full"
    assert "start_percent" not in scheduled[0][1] and "end_percent" not in scheduled[-1][1]
    for entry in scheduled:  # this UNet reads features, not the pooled vector
        entry[0] = entry[0] + entry[1]["pooled_output"][:, None, : entry[0].shape[-1]]
    with tiny.watching(model, "") as calls:
        got = tiny.sample(model, x, steps=10, positive=scheduled)
    assert sum(call["chunks"].count(0) for call in calls) == sum(call["chunks"].count(1) for call in calls) == 10
    sampling = model.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, "normal", 10)[:-1]
    plain = encode(flux)[0]
    wanted = plain[0] + plain[1]["pooled_output"][:, None, : plain[0].shape[-1]]
    assert float(calls[0]["sigma"]) == pytest.approx(float(sigmas[0]))
    assert (got - tiny.sample(model, x, steps=10, positive=[[wanted, dict(plain[1])]])).abs().max() > 1e-4
    keys = "start_percent", "end_percent"
    windows = [{key: entry[1][key] for key in keys if key in entry[1]} for entry in scheduled]
    same = tiny.sample(model, x, steps=10, positive=[[wanted, {**plain[1], **window}] for window in windows])
    torch.testing.assert_close(same, tiny.sample(model, x, steps=10, positive=[[wanted, dict(plain[1])]]))


def test_the_chart_shows_both(flux: Any) -> None:
    chart = FoveaEncoderSchedule.execute(flux, "a star", "", "", "eDiff-I", "", "", 8, 3.5).result[1]
    flat = FoveaEncoderSchedule.execute(flux, "a star", "", "", "both", "", "", 8, 3.5).result[1]
    assert chart.shape == flat.shape and chart.ndim == 4 and (chart - flat).abs().max() > 0.1


def test_the_encoder_that_is_left_has_to_be_there() -> None:
    """T5 only, without T5: nothing would be left of the prompt."""
    small = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 3, "intermediate_size": 64}
    sd3 = comfy.text_encoders.sd3_clip
    target = ClipTarget(sd3.SD3Tokenizer, functools.partial(sd3.SD3ClipModel, clip_l=True, clip_g=True, t5=False))
    clip = comfy.sd.CLIP(target, model_options={"clip_l_model_config": small, "clip_g_model_config": small})
    tiny.initialize(clip.cond_stage_model, 3, 1.0)
    for curves in ("T5 only", "eDiff-I"):  # whose curve of T5 is 1 already
        with pytest.raises(ValueError, match=r"t5xxl is not there.* Load it with this CLIP, or choose curves both"):
            encode(clip, curves=curves)
    assert encode(clip, curves="both")


class HunyuanVideo:
    """The tokens of its encoders; what a Llama of 8B makes of them is made up."""

    def __init__(self) -> None:
        self.tokenizer = HunyuanVideoTokenizer()

    def tokenize(self, text: str) -> Any:
        return self.tokenizer.tokenize_with_weights(text)

    def encode_from_tokens_scheduled(self, tokens: Any, add_dict: dict) -> list:
        return [[torch.ones(1, 4, 8), {"pooled_output": torch.ones(1, 8), **add_dict}]]


def test_only_flux_gets_its_guidance() -> None:
    """HunyuanVideo's has another scale, and its own value where a prompt has none."""
    (made,) = encode(HunyuanVideo())
    assert "guidance" not in made[1]
    model = transformers.build("hunyuan").model
    given = {"cross_attn": transformers.prompt(1)[0][0], "noise": transformers.noise("hunyuan"), "device": "cpu"}
    assert float(model.extra_conds(**given, **made[1])["guidance"].cond) == 6.0


def test_a_part_of_the_schedule(flux: Any) -> None:
    """Own start and end: one segment acts in every step between them, none beyond."""
    made = FoveaEncoderSchedule.execute(flux, "a star", "", "", "eDiff-I", "1", "1", 8, 3.5, 0.2, 0.7).result[0]
    starts = [entry[1].get("start_percent", 0.0) for entry in made]
    ends = [entry[1].get("end_percent", 1.0) for entry in made]
    assert starts[0] == 0.2 and ends[-1] == 0.7 and starts[1:] == ends[:-1] and len(made) > 2
    whole = FoveaEncoderSchedule.execute(flux, "a star", "", "", "both", "1", "1", 8, 3.5, 0.2, 0.7).result[0]
    assert [(entry[1]["start_percent"], entry[1]["end_percent"]) for entry in whole] == [(0.2, 0.7)]
    with pytest.raises(ValueError, match="above start_percent"):
        FoveaEncoderSchedule.execute(flux, "a star", "", "", "both", "1", "1", 8, 3.5, 0.7, 0.7)
