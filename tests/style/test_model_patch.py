"""Style Guidance: scales apart, a window, what it costs, and models with a picture in their attention."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.hooks
import lora_files as files
import pytest
import tiny_models as tiny
import torch
from comfy_extras.nodes_custom_sampler import CFGOverride, Guider_DualCFG
from comfy_extras.nodes_hypernetwork import load_hypernetwork_patch
from region_steps import steered
from torch import Tensor

from fovea.guidance import noise_levels
from fovea.guidance.experts.model_patch import Expert, ExpertSwitch
from fovea.nodes.style import FoveaStyleGuidance, FoveaStyleGuider

STYLED, TEXT, NEGATIVE = tiny.prompt(11), tiny.prompt(12), tiny.prompt(13)


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny.unet("shallow")


def guided(model: Any, scale: float, start: float = 0.0, end: float = 1.0) -> Any:
    return FoveaStyleGuidance.execute(model, TEXT, scale, start, end).result[0]


def sample(model: Any, cfg: float = 4.0, positive: list = STYLED, steps: int = 4, **more: Any) -> Tensor:
    start = tiny.noise(16, 16, batch=2)
    return tiny.sample(model, start, cfg=cfg, positive=positive, negative=NEGATIVE, steps=steps, **more)


def close(got: Tensor, wanted: Tensor) -> None:
    """Latents of random models are large: what rounding does to a small value is measured by the largest."""
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))


@pytest.mark.parametrize(("cfg", "scale"), [(4.0, 2.0), (4.0, 6.0), (1.0, 3.0), (3.0, -1.0)])
def test_the_formula_of_two_scales(model: Any, cfg: float, scale: float) -> None:
    """As ComfyUI's guider for two prompts, which always evaluates all three."""
    guider = Guider_DualCFG(model)
    guider.set_conds(STYLED, TEXT, NEGATIVE)
    guider.set_cfg(scale, cfg)
    start = tiny.noise(16, 16, batch=2)
    wanted = tiny.sample_with(guider, start, steps=4)
    ours = FoveaStyleGuider.execute(model, STYLED, NEGATIVE, cfg, TEXT, scale, 0.0, 1.0).result[0]
    close(tiny.sample_with(ours, start, steps=4), wanted)


def test_without_style_it_is_the_text(model: Any) -> None:
    """Scale 0: bit for bit the plain prompt, two evaluations a step."""
    with tiny.watching(model, "") as calls:
        got = sample(guided(model, 0.0))
    assert torch.equal(got, sample(model, positive=TEXT)) and {len(call["chunks"]) for call in calls} == {2}


def test_equal_scales_are_plain_guidance(model: Any) -> None:
    with tiny.watching(model, "") as calls:
        got = sample(guided(model, 4.0), cfg=4.0)
    assert torch.equal(got, sample(model)) and {len(call["chunks"]) for call in calls} == {2}


def test_equal_scales_where_another_node_changes_the_cfg(model: Any) -> None:
    """The text has the CFG that CFG Override says, the style its own scale, whichever node comes first."""
    override = CFGOverride.execute(model, 2.0, 0.0, 1.0).result[0]
    wanted = sample(guided(override, 4.0))
    close(sample(CFGOverride.execute(guided(model, 4.0), 2.0, 0.0, 1.0).result[0]), wanted)
    assert (wanted - sample(override)).abs().max() > 1e-3, "twin: that is not the styled prompt at that CFG"
    with tiny.watching(model, "") as calls:
        sample(steered(guided(model, 4.0)))
    assert {len(call["chunks"]) for call in calls} == {2}, "what this pack puts behind does not change it"


def test_the_window(model: Any) -> None:
    """Three evaluations inside, two outside; before its start nothing of the style is seen."""
    with tiny.watching(model, "") as calls:
        got = sample(guided(model, 2.0, 0.5, 1.0), steps=8)
    counts = [len(call["chunks"]) for call in calls]
    border = model.get_model_object("model_sampling").percent_to_sigma(0.5)
    assert counts == [3 if call["sigma"] <= border else 2 for call in calls] and {2, 3} == set(counts)
    other = tiny.sample(guided(model, 2.0, 0.5, 1.0), tiny.noise(16, 16, batch=2), cfg=4.0, positive=tiny.prompt(20),
                        negative=NEGATIVE, steps=8)  # fmt: skip
    assert (got - other).abs().max() > 1e-4
    assert torch.equal(sample(guided(model, 2.0, 1.0, 1.0)), sample(model, positive=TEXT)), "an empty window"


@pytest.mark.parametrize("window", [(float("nan"), 1.0), (0.0, float("nan"))])
def test_a_window_of_nan_is_refused(model: Any, window: tuple[float, float]) -> None:
    """The API lets it through, and a table of noise levels would be asked for a place far outside."""
    with pytest.raises(ValueError, match="between 0 and 1"):
        sample(guided(model, 2.0, *window))


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "heun", "euler_cfg_pp", "uni_pc", "dpmpp_2m_sde"])
def test_samplers(model: Any, sampler: str) -> None:
    """Also those that ask for the negative prediction."""
    with_style, without = (sample(guided(model, scale), sampler=sampler) for scale in (3.0, 0.0))
    assert torch.isfinite(with_style).all() and (with_style - without).abs().max() > 1e-4
    assert torch.equal(without, sample(model, positive=TEXT, sampler=sampler))


def with_picture(model: Any, seen: list) -> Any:
    """A patch like IPAdapter's: a picture for list 0, nothing for list 1, and no idea of a list 2."""
    clone, picture = model.clone(), torch.linspace(-1, 1, 32)

    def attend(q: Tensor, k: Tensor, v: Tensor, options: dict) -> Tensor:
        from comfy.ldm.modules.attention import optimized_attention

        out = optimized_attention(q, k, v, options["n_heads"])
        seen.append(list(options["cond_or_uncond"]))
        gains = [(1.0, 0.0)[which] for which in options["cond_or_uncond"]]
        return out + torch.tensor(gains).repeat_interleave(len(out) // len(gains)).reshape(-1, 1, 1) * picture.repeat(
            out.shape[-1] // len(picture)
        )

    for block in (("input", 4), ("middle", 0), ("output", 3)):
        clone.set_model_attn2_replace(attend, *block)
    return clone


def test_a_picture_in_the_attention(model: Any) -> None:
    """The picture is the style: given to the styled branch alone, whatever else is evaluated."""
    seen: list = []
    patched = with_picture(model, seen)
    close(sample(guided(patched, 0.0), positive=TEXT), sample(model, positive=TEXT))
    assert (sample(patched, positive=TEXT) - sample(model, positive=TEXT)).abs().max() > 1e-3
    seen.clear()
    styled = sample(guided(patched, 2.0), positive=TEXT)
    assert {which for chunks in seen for which in chunks} == {0, 1}
    assert (styled - sample(model, positive=TEXT)).abs().max() > 1e-3
    close(sample(guided(patched, 4.0 - 1e-6), positive=TEXT), sample(patched, positive=TEXT))


def other_packs_patch(q: Tensor, k: Tensor, v: Tensor, _: Any) -> tuple[Tensor, Tensor, Tensor]:
    return q, k, v + 1.0


@pytest.mark.parametrize("module", ["x", "/opt/comfy/ComfyUI/custom_nodes/x.nodes", "C:\\comfy\\custom_nodes\\x"])
def test_another_packs_patch_is_a_picture(model: Any, monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    monkeypatch.setattr(other_packs_patch, "__module__", module)
    patched = model.clone()
    patched.set_model_attn2_patch(other_packs_patch)
    plain = sample(model, positive=TEXT, cfg=1.0)
    assert (sample(patched, positive=TEXT, cfg=1.0) - plain).abs().max() > 1e-3
    close(sample(guided(patched, 0.0), cfg=1.0), plain)


@pytest.mark.parametrize("folder", ["", "/opt/comfy/ComfyUI/comfy_extras/", "C:\\my.models\\ComfyUI\\comfy_extras\\"])
def test_a_hypernetwork_is_no_picture(model: Any, tmp_path: Path, folder: str) -> None:
    """ComfyUI's own patches of cross-attention belong to the model: they act on the text, too. folder: the server loads
    its extra nodes by their paths, which are then their modules' names."""
    layers = [{"linear.weight": torch.eye(32) / 2, "linear.bias": torch.full((32,), 0.5)} for _ in range(2)]
    torch.save({32: layers}, tmp_path / "hypernetwork.pt")
    patch = load_hypernetwork_patch(str(tmp_path / "hypernetwork.pt"), 1.0)
    type(patch).__module__ = f"{folder}nodes_hypernetwork" if folder else type(patch).__module__
    patched = model.clone()
    patched.set_model_attn2_patch(patch)
    wanted = sample(patched, positive=TEXT)
    assert torch.equal(sample(guided(patched, 0.0)), wanted)
    assert (wanted - sample(model, positive=TEXT)).abs().max() > 1e-3, "twin: it acts"
    with_picture_too = guided(with_picture(patched, []), 0.0)
    close(sample(with_picture_too, cfg=1.0), sample(patched, positive=TEXT, cfg=1.0))


def test_where_it_cannot_be(model: Any) -> None:
    """Past a switch, twice, without a text, or under a guider of another kind: said, with the cure."""
    both = ExpertSwitch.of(model, [Expert(tiny.unet("shallow", seed=1), noise_levels.half_log_snr(2.0, False))])
    for wrong, cure in ((both.patched(model), "before the switch"), (guided(model, 2.0), "Use one")):
        with pytest.raises(ValueError, match=f"Style Guidance: .*{cure}"):
            guided(wrong, 2.0)
    with pytest.raises(ValueError, match="connect the prompt"):
        FoveaStyleGuidance.execute(model, [], 2.0, 0.0, 1.0)
    guider = Guider_DualCFG(guided(model, 2.0))
    guider.set_conds(STYLED, TEXT, NEGATIVE)
    guider.set_cfg(3.0, 2.0)
    with pytest.raises(ValueError, match="Use KSampler"):
        tiny.sample_with(guider, tiny.noise(16, 16))


def test_other_guidance_goes_on(model: Any) -> None:
    """SAG and ComfyUI's CFG Override act on the text's part as without style, in either order."""
    from sag_steps import guided as with_sag

    for change in (with_sag, lambda m: CFGOverride.execute(m, 2.0, 0.0, 1.0).result[0]):
        before, after = guided(change(model), 0.0), change(guided(model, 0.0))
        wanted = sample(change(model), positive=TEXT)
        assert torch.equal(sample(before), wanted) and torch.equal(sample(after), wanted)
        styled = sample(guided(change(model), 2.0))
        assert (styled - sample(guided(model, 2.0))).abs().max() > 1e-4
        torch.testing.assert_close(sample(change(guided(model, 2.0))), styled, rtol=5e-3, atol=1e-3)


@pytest.mark.parametrize("prompt", ["negative", "positive"])
def test_each_guidance_adds_its_own_part(model: Any, prompt: str) -> None:
    """One step: with SAG and style both, what SAG adds to the text alone and what style adds without SAG."""
    from sag_steps import guided as with_sag

    def one(patched: Any, positive: list = STYLED) -> Tensor:
        return sample(patched, positive=positive, steps=1)

    def sag(patched: Any) -> Any:
        return with_sag(patched, guided_prompt=prompt)

    plain, by_sag, by_style = one(model, TEXT), one(sag(model), TEXT), one(guided(model, 2.0))
    wanted = plain + (by_sag - plain) + (by_style - plain)
    assert (by_sag - plain).abs().max() > 1e-3 * plain.abs().max()
    for both in (guided(sag(model), 2.0), sag(guided(model, 2.0))):
        assert (one(both) - wanted).abs().max() < 1e-4 * wanted.abs().max()


def test_on_the_model_that_starts(model: Any) -> None:
    """Style on the first model ends where the expert takes over."""
    low = tiny.unet("shallow", seed=1)
    switch = ExpertSwitch.of(guided(model, 2.0), [Expert(low, noise_levels.half_log_snr(2.0, False))])
    with tiny.watching(model, "") as above, tiny.watching(low, "") as below:
        sample(switch.patched(guided(model, 2.0)), steps=6)
    assert {len(call["chunks"]) for call in above} == {3} and {len(call["chunks"]) for call in below} == {2}


def test_on_an_expert(model: Any) -> None:
    """Style on an expert acts where the expert does."""
    twin = tiny.unet("shallow")
    below = noise_levels.half_log_snr(2.0, False)
    both = ExpertSwitch.of(model, [Expert(guided(twin, 2.0), below)]).patched(model)
    plain = ExpertSwitch.of(model, [Expert(twin, below)]).patched(model)
    styled, without = sample(both, steps=6), sample(plain, steps=6)
    assert torch.isfinite(styled).all() and (styled - without).abs().max() > 1e-4
    all_text = ExpertSwitch.of(model, [Expert(twin, below, positive=TEXT)]).patched(model)
    only_text = ExpertSwitch.of(model, [Expert(guided(twin, 0.0), below)]).patched(model)
    close(sample(only_text, steps=6), sample(all_text, steps=6))


def test_the_text_takes_over_what_it_lacks() -> None:
    """A ControlNet or a start image between the styled prompt and the sampler acts on the text, too."""
    model, (_, control) = tiny.unet("sd15"), tiny.controlnet()
    hint = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(4))
    extra = {"control": control.copy().set_cond_hint(hint, 1.0), "control_apply_to_uncond": False}
    styled, negative = tiny.prompt(3, **extra), tiny.prompt(2, **extra)

    def run(patched: Any, positive: list) -> Tensor:
        return tiny.sample(patched, tiny.noise(16, 16), 4.0, 3, positive, negative)

    got = run(guided(model, 0.0), styled)
    close(got, run(model, tiny.prompt(12, **extra)))
    assert (got - run(model, TEXT)).abs().max() > 1e-3, "twin: it acts"


def test_pictures_for_both_sides(model: Any) -> None:
    """IPAdapter's precise kinds give list 1 a picture, too: the text has none."""
    patched, generator = model.clone(), torch.Generator().manual_seed(0)
    pictures = torch.randn(2, 1, 4, 32, generator=generator)

    def attend(q: Tensor, k: Tensor, v: Tensor, options: dict) -> Tensor:
        from comfy.ldm.modules.attention import optimized_attention

        lists = options["cond_or_uncond"]
        seen = torch.cat([pictures[i].repeat(len(q) // len(lists), 1, q.shape[-1] // 32) for i in lists])
        return optimized_attention(q, k, v, options["n_heads"]) + optimized_attention(q, seen, seen, options["n_heads"])

    patched.set_model_attn2_replace(attend, "middle", 0)
    assert (sample(patched, positive=TEXT) - sample(model, positive=TEXT)).abs().max() > 1e-3
    at_one = {"cfg": 1.0}
    close(sample(guided(patched, 0.0), positive=TEXT, **at_one), sample(model, positive=TEXT, **at_one))


def test_a_style_that_is_none_costs_nothing_and_is_said(model: Any, caplog: pytest.LogCaptureFixture) -> None:
    with tiny.watching(model) as calls:
        got = sample(guided(model, 3.0), positive=TEXT)
    assert [sorted(call["chunks"]) for call in calls] == [[0, 1]] * len(calls) and len(caplog.records) == 1
    close(got, sample(model, positive=TEXT))
    caplog.clear()
    sample(guided(model, 3.0))
    assert not caplog.records


@pytest.mark.parametrize("key", ["guidance", "conditioning_llama3", "conditioning_byt5small"])
def test_a_style_beside_the_same_features(model: Any, key: str) -> None:
    """It is one where the prompts differ in what else is of their text, and none where they are alike in that, too."""
    one, other = (2.0, 3.0) if key == "guidance" else (torch.zeros(1, 4), torch.ones(1, 4))
    patched = FoveaStyleGuidance.execute(model, tiny.prompt(12, **{key: one}), 2.0, 0.0, 1.0).result[0]
    counts = []
    for value in (other, one if key == "guidance" else one.clone()):
        with tiny.watching(model, "") as calls:
            sample(patched, positive=tiny.prompt(12, **{key: value}), steps=1)
        counts.append({len(call["chunks"]) for call in calls})
    assert counts == [{3}, {2}]


def test_a_style_by_hooks(model: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A LoRA on the styled prompt alone, whose text is the same: as ComfyUI's guider for two prompts."""
    styled = tiny.prompt(12, hooks=comfy.hooks.create_hook_lora(files.weights(model, 1), 1.0, 0.0))
    guider = Guider_DualCFG(model)
    guider.set_conds(styled, TEXT, NEGATIVE)
    guider.set_cfg(2.0, 4.0)
    start = tiny.noise(16, 16)
    ours = FoveaStyleGuider.execute(model, styled, NEGATIVE, 4.0, TEXT, 2.0, 0.0, 1.0).result[0]
    found = tiny.sample_with(ours, start, steps=2)
    close(found, tiny.sample_with(guider, start, steps=2))
    plain = tiny.sample(model, start, cfg=4.0, positive=TEXT, negative=NEGATIVE, steps=2)
    assert (found - plain).abs().max() > 1e-3 and "there is no style" not in caplog.text


def test_an_empty_window_is_said(model: Any, caplog: pytest.LogCaptureFixture) -> None:
    guided(model, 2.0, 0.8, 0.3)
    assert [record.getMessage() for record in caplog.records] == [
        "Style Guidance: start_percent (0.8) is not below end_percent (0.3): style does not act, and the prompt with "
        "style is not used."
    ]
