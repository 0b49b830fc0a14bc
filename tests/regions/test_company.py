"""Regions with every sampler of ComfyUI, in second passes and inpainting, beside LoRA and ControlNet."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import comfy.samplers
import lora_files as files
import pytest
import techniques
import tiny_models as tiny
import tiny_transformers as dit
import torch
import torch.nn.functional as F
from comfy.samplers import SAMPLER_NAMES
from region_steps import LATER, PAPER, PLACES, assert_alike, boxes, marked, published, steered, two_regions
from sag_steps import relative
from tiny_encoders import encoder

from fovea.guidance.region_lora import model_patch as region_lora
from fovea.guidance.regions import prompt_encoding
from fovea.guidance.regions.masks import Regions
from fovea.guidance.regions.prompt_regions import MARK
from fovea.guidance.token_spans import word_tokens
from fovea.nodes.regions import FoveaDenseDiffusion
from fovea.nodes.sag import FoveaSelfAttentionGuidance
from tools.comfy.node_values import arguments

CAPTION = "a plain red star and a plain blue circle on a white background"


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny.unet("sd15")


@pytest.mark.parametrize("sampler", SAMPLER_NAMES)
def test_every_sampler(model: Any, sampler: str) -> None:
    """No more evaluations than without; outside of the window not a bit changes; pictures of a batch are apart."""
    x, prompt, runs = tiny.noise(16, 16, batch=2), marked(tiny.prompt(1), two_regions()), {}
    later = marked(tiny.prompt(1), two_regions(), control=LATER)
    for name, patched, given in (
        ("plain", model, prompt), ("later", steered(model), later), ("steered", steered(model), prompt),
    ):  # fmt: skip
        with tiny.watching(model) as calls:
            runs[name] = tiny.sample(patched, x, 3.0, 4, given, sampler=sampler), len(calls)
    assert torch.equal(runs["later"][0], runs["plain"][0])
    got, evaluations = runs["steered"]
    assert torch.isfinite(got).all() and relative(got, runs["plain"][0]) > 1e-4
    if sampler != "dpm_adaptive":  # it chooses its steps by what it sees
        assert evaluations == runs["plain"][1] >= 4
        if not tiny.adds_noise(sampler):
            alone = tiny.sample(steered(model), x[1:], 3.0, 4, prompt, sampler=sampler)
            assert relative(got[1:], alone) < 1e-3


def test_a_second_pass_at_another_size(model: Any) -> None:
    """One patched model serves both passes, each as if it had been patched for it alone."""
    prompt = marked(tiny.prompt(1), two_regions())
    patched = steered(model)
    first = tiny.sample(patched, tiny.noise(), 5.0, 3, prompt)
    larger = F.interpolate(first, size=(96, 80), mode="nearest")
    second = {"latent": larger, "denoise": 0.9}
    got = tiny.sample(patched, tiny.noise(96, 80), 5.0, 3, prompt, **second)
    assert torch.equal(got, tiny.sample(steered(model), tiny.noise(96, 80), 5.0, 3, prompt, **second))
    assert relative(got, tiny.sample(model, tiny.noise(96, 80), 5.0, 3, prompt, **second)) > 1e-3


def test_a_second_pass_equals_the_published_operator_there(model: Any) -> None:
    regions = two_regions()
    latent = tiny.noise(128, 64, seed=4)
    with published(model, regions, PLACES, PAPER):
        wanted = tiny.sample(model, tiny.noise(128, 64), 5.0, 3, tiny.prompt(1), latent=latent, denoise=0.95)
    prompt = marked(tiny.prompt(1), regions)
    got = tiny.sample(steered(model), tiny.noise(128, 64), 5.0, 3, prompt, latent=latent, denoise=0.95)
    assert_alike(got, wanted, 1e-3)


def test_inpainting(model: Any) -> None:
    x, latent, prompt = tiny.noise(), tiny.noise(seed=4), marked(tiny.prompt(1), two_regions())
    inside = torch.zeros(1, 1, 512, 512)
    inside[..., :256] = 1
    settings = {"latent": latent, "noise_mask": inside}
    plain = tiny.sample(model, x, 5.0, 3, prompt, **settings)
    got = tiny.sample(steered(model), x, 5.0, 3, prompt, **settings)
    torch.testing.assert_close(got[..., 32:], latent[..., 32:], rtol=1e-4, atol=1e-4)
    assert relative(got[..., :32], plain[..., :32]) > 1e-2 and torch.isfinite(got).all()


def test_lora() -> None:
    """Before and after ours: the published operator on the changed weights."""
    model, regions = tiny.unet("sd15"), two_regions()
    with published(model, regions, PLACES, PAPER):
        wanted = tiny.sample(tiny.with_lora(model), tiny.noise(), 5.0, 2, tiny.prompt(1))
        plain = tiny.sample(model, tiny.noise(), 5.0, 2, tiny.prompt(1))
    for both in (steered(tiny.with_lora(model)), tiny.with_lora(steered(model))):
        assert_alike(tiny.sample(both, tiny.noise(), 5.0, 2, marked(tiny.prompt(1), regions)), wanted, 1e-4)
    assert relative(plain, wanted) > 1e-3


def test_controlnet(model: Any) -> None:
    """Its own attention is left alone, the network's is steered as without it."""
    _, control = tiny.controlnet()
    hint = torch.rand(1, 3, 512, 512, generator=torch.Generator().manual_seed(2))
    extra = {"control": control.copy().set_cond_hint(hint, 1.0), "control_apply_to_uncond": False}
    positive, negative, regions = tiny.prompt(1, **extra), tiny.prompt(2, **extra), two_regions()
    with published(model, regions, PLACES, PAPER):
        wanted = tiny.sample(model, tiny.noise(), 5.0, 2, positive, negative)
    got = tiny.sample(steered(model), tiny.noise(), 5.0, 2, marked(positive, regions), negative)
    assert_alike(got, wanted, 1e-4)
    without = tiny.sample(steered(model), tiny.noise(), 5.0, 2, marked(tiny.prompt(1), regions))
    assert relative(got, without) > 1e-3


def test_rising_noise(model: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Unsampling is steered in its noisy part, and nobody says that it is not."""
    levels = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", 6).flip(0)
    control, found = replace(PAPER, end=0.5), []
    for positive in (tiny.prompt(1), marked(tiny.prompt(1), two_regions(), control=control)):
        guider = comfy.samplers.CFGGuider(steered(model))
        guider.set_conds(positive, tiny.prompt(2))
        with torch.inference_mode():
            found.append(guider.sample(torch.zeros(1, 4, 16, 16), tiny.noise(16, 16), comfy.samplers.sampler_object(
                "euler"), levels.clamp_min(1e-3), disable_pbar=True, seed=0))  # fmt: skip
        said, seen = "Regions do nothing in this run: it begins" in caplog.text, relative(found[-1], found[0])
    assert not said and seen > 1e-4


def test_controlnets_see_the_prompt_without_what_was_put_behind_it(model: Any) -> None:
    """Outside of the window the result is the prompt's own, with as many evaluations."""
    _, control = tiny.controlnet()
    hint = torch.rand(1, 3, 512, 512, generator=torch.Generator().manual_seed(2))
    extra = {"control": control.copy().set_cond_hint(hint, 1.0), "control_apply_to_uncond": False}
    plain, negative, words = tiny.prompt(1, **extra), tiny.prompt(2, **extra), tiny.prompt(5)[0][0]
    whole = [[torch.cat([plain[0][0], words, words], dim=1), plain[0][1]]]
    places = (tuple(range(77, 154)), tuple(range(154, 231)))
    prompts = {
        when: marked(whole, two_regions(), places, how, appended=77) for when, how in (("now", PAPER), ("later", LATER))
    }
    with tiny.watching(model) as calls:
        wanted = tiny.sample(model, tiny.noise(), 5.0, 2, plain, negative)
        once = len(calls)
        got = tiny.sample(steered(model), tiny.noise(), 5.0, 2, prompts["later"], negative)
    assert relative(got, wanted) < 1e-5 and len(calls) == 2 * once
    assert relative(tiny.sample(steered(model), tiny.noise(), 5.0, 2, prompts["now"], negative), wanted) > 1e-3
    more = [[torch.cat([tensor, words[:, :77]], dim=1), options] for tensor, options in prompts["later"]]
    wide = [[torch.cat([plain[0][0], words[:, :77]], dim=1), plain[0][1]]]  # what another node puts behind stays
    got = tiny.sample(steered(model), tiny.noise(), 5.0, 2, more, negative)
    assert relative(got, tiny.sample(model, tiny.noise(), 5.0, 2, wide, negative)) < 1e-5
    assert relative(tiny.sample(model, tiny.noise(), 5.0, 2, prompts["later"], negative), wanted) > 1e-3


def test_a_text_is_hidden_wherever_it_is_carried(model: Any) -> None:
    """ComfyUI's copy of a prompt with an area has the negative's text: words that were put behind that are not seen
    there; nor in a prompt that is in the wrong socket. A ControlNet sees such a copy whole, but for these words."""
    negative, words = tiny.prompt(2), tiny.prompt(5)[0][0]
    whole = [[torch.cat([negative[0][0], words], dim=1), negative[0][1]]]
    one = Regions(two_regions().items[:1])
    behind = marked(whole, one, (tuple(range(77, 154)),), LATER, appended=77, negative=True)
    area = [*tiny.prompt(1), *tiny.prompt(3, area=(32, 32, 0, 0))]
    patched = steered(model)
    wanted = tiny.sample(model, tiny.noise(), 5.0, 2, area, negative)
    assert relative(tiny.sample(patched, tiny.noise(), 5.0, 2, area, behind), wanted) < 1e-5
    assert relative(tiny.sample(model, tiny.noise(), 5.0, 2, area, behind), wanted) > 1e-3
    wrong = marked(whole, one, (tuple(range(77, 154)),), LATER, appended=77)
    plain = tiny.sample(model, tiny.noise(), 5.0, 2, tiny.prompt(1), negative)
    assert relative(tiny.sample(patched, tiny.noise(), 5.0, 2, tiny.prompt(1), wrong), plain) < 1e-5
    _, control = tiny.controlnet()
    hint = torch.rand(1, 3, 512, 512, generator=torch.Generator().manual_seed(2))
    extra = {"control": control.copy().set_cond_hint(hint, 1.0), "control_apply_to_uncond": False}
    long = [[torch.cat([negative[0][0], words], dim=1), {**negative[0][1], **extra}]]
    own = tiny.prompt(1, area=(32, 32, 0, 0), **extra)
    both = [[torch.cat([own[0][0], words], dim=1), own[0][1]]]
    ours = marked(both, one, (tuple(range(77, 154)),), LATER, appended=77)
    everywhere = tiny.prompt(3, **extra)
    wanted = tiny.sample(model, tiny.noise(), 5.0, 2, [*everywhere, *own], long)
    assert relative(tiny.sample(patched, tiny.noise(), 5.0, 2, [*everywhere, *ours], long), wanted) < 1e-5


def test_another_packs_copy_of_the_options_is_of_the_same_run(model: Any) -> None:
    """Some copy them deeply before every step, with all that is in them."""
    patched = steered(model)
    file = files.weights(model, 1)
    region_lora.install(patched, files.halves(file, file))
    patched = techniques.outputs(FoveaSelfAttentionGuidance, model=patched)[0]
    prompt = marked(tiny.prompt(1), two_regions())
    wanted = tiny.sample(patched, tiny.noise(), 5.0, 2, prompt)

    def copying(args: dict[str, Any]) -> Any:
        options = copy.deepcopy(args["model_options"])
        return comfy.samplers.calc_cond_batch(args["model"], args["conds"], args["input"], args["sigma"], options)

    patched = patched.clone()
    patched.set_model_sampler_calc_cond_batch_function(copying)
    assert relative(tiny.sample(patched, tiny.noise(), 5.0, 2, prompt), wanted) < 1e-5


@pytest.mark.parametrize("name, changes", [("flux", {"vec_in_dim": tiny.CONTEXT}), ("sd3", {"adm_in_channels": 2048})])
def test_transformers_with_their_own_text_encoders(name: str, changes: dict) -> None:
    """T5 cannot tell words apart afterwards: regions' prompts are appended without their padding, the report says so,
    they act where they are painted."""
    model, clip = dit.build(name, **changes), encoder(name)
    _, positive, negative, report = (result := dense(model, clip)).result
    caption = prompt_encoding.encode(clip, CAPTION)[0][0]
    tokens = caption.shape[1]
    star, circle = (
        len(word_tokens(clip, clip.tokenize(f"a plain {words}", return_word_ids=True), tokens))
        for words in ("red star", "blue circle")
    )
    end = tokens + star + circle
    assert report and torch.equal(positive[0][0][:, :tokens], caption) and positive[0][0].shape[1] == end < tokens + 20
    assert positive[0][1][MARK].tokens == (tuple(range(tokens, tokens + star)), tuple(range(tokens + star, end)))

    start = dit.noise(name, 16, 16)
    got = tiny.sample(result.result[0], start, 3.0, 3, positive, negative)
    turned = dense(model, clip, turned=True)
    other = tiny.sample(turned.result[0], start, 3.0, 3, turned.result[1], negative)
    plain = tiny.sample(model, start, 3.0, 3, prompt_encoding.encode(clip, CAPTION), negative)
    assert all(torch.isfinite(x).all() for x in (got, other))
    assert relative(got, plain) > 1e-3 and relative(got, other) > 1e-3


def dense(model: Any, clip: Any, turned: bool = False) -> Any:
    left, right = boxes()
    regions = two_regions((right, left) if turned else (left, right))
    given = {"model": model, "clip": clip, "regions": regions, "prompt": CAPTION, "end_percent": 0.6}
    return FoveaDenseDiffusion.execute(**arguments(FoveaDenseDiffusion, **given))
