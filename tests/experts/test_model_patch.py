"""Experts in ComfyUI's own sampling: the notes' acceptance tests, on eps, v and flow models."""

from __future__ import annotations

import gc
import logging
import math
from typing import Any

import comfy.patcher_extension
import comfy.samplers
import pytest
import tiny_models as tiny
import torch
from comfy.model_base import ModelType
from comfy.model_management import InterruptProcessingException
from comfy.samplers import SAMPLER_NAMES
from comfy_extras.nodes_custom_sampler import CFGOverride, Guider_DualCFG
from comfy_extras.nodes_easycache import EasyCacheNode
from torch import Tensor

from fovea.guidance import noise_levels
from fovea.guidance.experts.model_patch import Expert, ExpertSwitch
from fovea.guidance.experts.plan import BadExperts

KINDS = {"eps": ModelType.EPS, "v": ModelType.V_PREDICTION, "flow": ModelType.FLOW}
MIDDLE = {"eps": 2.0, "v": 2.0, "flow": 0.6}  # a border inside of short schedules


@pytest.fixture(scope="module")
def models() -> dict[str, list[Any]]:
    """Three different networks of each kind."""
    return {name: [tiny.unet("shallow", kind, seed=seed) for seed in range(3)] for name, kind in KINDS.items()}


def level(sigma: float, kind: str) -> float:
    return noise_levels.half_log_snr(sigma, kind == "flow")


def expert(model: Any, sigma: float, kind: str, **more: Any) -> Expert:
    return Expert(model, level(sigma, kind), **more)


def switched(main: Any, *experts: Expert, **more: Any) -> Any:
    return ExpertSwitch.of(main, experts, **more).patched(main)


def same_checkpoint_again(kind: str, seed: int = 0) -> Any:
    return tiny.unet("shallow", KINDS[kind], seed=seed)


@pytest.mark.parametrize("sampler", SAMPLER_NAMES)
@pytest.mark.parametrize("kind", ["eps", "flow"])
def test_identical_experts_are_one_model(models: dict, kind: str, sampler: str) -> None:
    """Bit for bit, with three experts of the same weights, for every sampler of ComfyUI."""
    main = models[kind][0]
    low, lower = same_checkpoint_again(kind), same_checkpoint_again(kind)
    both = switched(main, expert(low, MIDDLE[kind], kind), expert(lower, MIDDLE[kind] / 4, kind))
    x = tiny.noise(16, 16, batch=2)
    with tiny.watching(low, "") as calls:
        got = tiny.sample(both, x, steps=6, sampler=sampler)
    assert calls, "the expert was asked"
    assert torch.equal(got, tiny.sample(main, x, steps=6, sampler=sampler))


def x0_of(model: Any, x: Tensor, sigma: float, cfg: float) -> Tensor:
    """A single prediction by a plain model, through ComfyUI."""
    found: list[Tensor] = []

    def once(predict: Any, _: Tensor, sigmas: Tensor, extra_args: dict, **more: Any) -> Tensor:
        found.append(predict(x, sigmas[:1].repeat(len(x)), **extra_args))
        return x

    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(tiny.prompt(1), tiny.prompt(2))
    guider.set_cfg(cfg)
    with torch.inference_mode():
        levels = torch.tensor([sigma, 0.0])
        guider.sample(x, torch.zeros_like(x), comfy.samplers.KSAMPLER(once), levels, disable_pbar=True)
    return found[0]


@pytest.mark.parametrize("kind", KINDS)
def test_two_experts_equal_a_loop_by_hand(models: dict, kind: str) -> None:
    """Euler's steps written out, with the model chosen by the level the step starts at."""
    high, low, _ = models[kind]
    x = tiny.noise(16, 16, batch=2)
    sampling = high.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, "normal", 5)
    border = float(sigmas[2])  # exactly the border: still the noisier one's
    wanted = sampling.noise_scaling(sigmas[0], x, torch.zeros_like(x), True)
    for now, then in zip(sigmas.tolist(), sigmas[1:].tolist()):
        x0 = x0_of(high, wanted, now, 4.0) if now >= border else x0_of(low, wanted, now, 2.0)
        wanted = wanted + (wanted - x0) / now * (then - now)
    got = tiny.sample(switched(high, expert(low, border, kind, cfg=2.0)), x, cfg=4.0, steps=5)
    torch.testing.assert_close(got, high.model.process_latent_out(wanted), rtol=1e-4, atol=1e-4)
    assert (got - tiny.sample(high, x, cfg=4.0, steps=5)).abs().max() > 1e-2


@pytest.mark.parametrize("kind", KINDS)
def test_who_is_asked_where(models: dict, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each model only on its side, each evaluation once, one load each."""
    high, low, _ = models[kind]
    loads = count_loads(monkeypatch)
    with tiny.watching(high, "") as above, tiny.watching(low, "") as below:
        tiny.sample(switched(high, expert(low, MIDDLE[kind], kind)), tiny.noise(16, 16), steps=8)
    assert above and below and len(above) + len(below) == 8
    assert all(call["sigma"] >= MIDDLE[kind] for call in above)
    assert all(call["sigma"] < MIDDLE[kind] for call in below)
    assert [model.model for model in loads] == [high.model, low.model]


@pytest.mark.parametrize(("main", "other"), [("flow", "eps"), ("eps", "flow"), ("flow", "v")])
@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "res_multistep", "uni_pc", "heun"])
def test_kinds_of_models_mix(models: dict, main: str, other: str, sampler: str) -> None:
    """A model of another kind that predicts the same picture gives the same samples.

    Both predict x0 = tanh of the latent as an exploding model sees it, so only the conversion can differ.
    """

    class Same:
        """The network's output for a wished x0."""

        def __init__(self, patcher: Any, flow: bool) -> None:
            self.model, self.flow = patcher.model, flow

        def __call__(self, apply: Any, args: dict) -> Tensor:
            x, sigma = args["input"], args["timestep"].reshape(-1, 1, 1, 1)
            exploding = x / (1 - sigma).clamp(min=1e-9) if self.flow else x
            return torch.tanh(exploding / (1 + (sigma / (1 - sigma).clamp(min=1e-9) if self.flow else sigma)))

    a, b = models[main][0].clone(), models[other][1].clone()
    a.set_model_unet_function_wrapper(Same(a, main == "flow"))
    b.set_model_unet_function_wrapper(Same(b, other == "flow"))
    x = tiny.noise(16, 16, batch=2)
    # Start within what both know: a flow's level 1 is any level to the others.
    sigmas = torch.tensor([0.9, 0.7, 0.5, 0.3, 0.1, 0.0])
    sigmas = sigmas if main == "flow" else sigmas / (1 - sigmas)
    border = 0.6 if main == "flow" else 1.5

    def sample(model: Any) -> Tensor:
        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(tiny.prompt(1), tiny.prompt(2))
        with torch.inference_mode():
            kind = comfy.samplers.sampler_object(sampler)
            return guider.sample(x, torch.zeros_like(x), kind, sigmas, disable_pbar=True, seed=0)

    torch.testing.assert_close(sample(switched(a, expert(b, border, main))), sample(a), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["eps", "flow"])
def test_what_is_masked_stays(models: dict, kind: str) -> None:
    high, low, _ = models[kind]
    latent = tiny.noise(16, 16, seed=9)
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 8:] = 1
    got = tiny.sample(switched(high, expert(low, MIDDLE[kind], kind)), tiny.noise(16, 16), steps=6, latent=latent,
                      noise_mask=mask)  # fmt: skip
    torch.testing.assert_close(got[..., :8], latent[..., :8], rtol=1e-6, atol=1e-6)
    assert (got[..., 8:] - latent[..., 8:]).abs().mean() > 0.1


def test_cfg_of_its_own(models: dict) -> None:
    """CFG 1 leaves out the negative prompt on that expert alone."""
    high, low, _ = models["eps"]
    with tiny.watching(high, "") as above, tiny.watching(low, "") as below:
        tiny.sample(switched(high, expert(low, 2.0, "eps", cfg=1.0)), tiny.noise(16, 16), cfg=4.0, steps=6)
    assert {len(call["chunks"]) for call in above} == {2} and {tuple(call["chunks"]) for call in below} == {(0,)}


def test_prompts_of_its_own(models: dict) -> None:
    """An expert's prompts count on its side only, and are as good as the sampler's."""
    high, low, _ = models["eps"]
    x = tiny.noise(16, 16)
    own = switched(high, expert(low, 2.0, "eps", positive=tiny.prompt(7), negative=tiny.prompt(8)))
    as_main = switched(high, Expert(low, level(2.0, "eps"), positive=tiny.prompt(1), negative=tiny.prompt(2)))
    shared = switched(high, expert(low, 2.0, "eps"))
    assert torch.equal(tiny.sample(as_main, x, steps=6), tiny.sample(shared, x, steps=6))
    assert (tiny.sample(own, x, steps=6) - tiny.sample(shared, x, steps=6)).abs().max() > 1e-3
    only = switched(high, Expert(low, level(1e4, "eps"), positive=tiny.prompt(7), negative=tiny.prompt(8)))
    plain = tiny.sample(low, x, steps=6, positive=tiny.prompt(7), negative=tiny.prompt(8))
    assert torch.equal(tiny.sample(only, x, steps=6), plain)


def test_two_loras_of_one_checkpoint() -> None:
    """Clones that share their weights take turns in them; the given patchers stay as they were."""
    base = tiny.unet("shallow")
    high, low = base.clone(), tiny.with_lora(base)
    apart_high, apart_low = tiny.unet("shallow"), tiny.with_lora(tiny.unet("shallow"))
    x, patches = tiny.noise(16, 16), (dict(high.patches), dict(low.patches), high.patches_uuid, low.patches_uuid)
    got = tiny.sample(switched(high, expert(low, 2.0, "eps")), x, steps=6)
    wanted = tiny.sample(switched(apart_high, expert(apart_low, 2.0, "eps")), x, steps=6)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
    other = tiny.sample(switched(low, expert(high, 2.0, "eps")), x, steps=6)
    wanted = tiny.sample(switched(apart_low, expert(apart_high, 2.0, "eps")), x, steps=6)
    torch.testing.assert_close(other, wanted, rtol=1e-5, atol=1e-5)
    assert (got - other).abs().max() > 1e-3
    assert patches == (dict(high.patches), dict(low.patches), high.patches_uuid, low.patches_uuid)
    assert torch.equal(tiny.sample(base, x), tiny.sample(tiny.unet("shallow"), x)), "the checkpoint is itself again"
    with pytest.raises(BadExperts, match="same checkpoint"):
        switched(high, expert(low, 2.0, "eps"), blend=0.5)


@pytest.mark.parametrize("sampler", SAMPLER_NAMES)
def test_swaps(models: dict, sampler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most one per border; a sampler that looks back and forth may be held by `monotonic`."""
    high, low, lower = models["eps"]
    for decide, steps in (("sigma", 8), ("monotonic", 8)):
        loads = count_loads(monkeypatch)
        model = switched(high, expert(low, 3.0, "eps"), expert(lower, 0.5, "eps"), decide_by=decide)
        tiny.sample(model, tiny.noise(8, 8), steps=steps, sampler=sampler)
        most = 8 if sampler in ("heunpp2", "dpm_adaptive") and decide == "sigma" else 2
        assert 2 <= len(loads) - 1 <= most, (decide, loads)


class Twice(comfy.samplers.Sampler):
    """A sampler, two times in one run from the same noise and seed, as a search goes on; keeps both results."""

    def __init__(self, sampler: str) -> None:
        self.inner, self.found = comfy.samplers.sampler_object(sampler), list[Tensor]()

    def sample(self, *given: Any, **named: Any) -> Tensor:
        self.found = [self.inner.sample(*given, **named) for _ in range(2)]
        return self.found[-1]


@pytest.mark.parametrize("sampler", SAMPLER_NAMES)
@pytest.mark.parametrize("kind", ["eps", "flow"])
def test_every_trial_of_a_run_begins_with_the_first_model(models: dict, kind: str, sampler: str) -> None:
    """Some samplers leave a flow's level 1 out and evaluate a hair below it. Twin: the expert does act."""
    high, low, _ = models[kind]
    model = switched(high, expert(low, MIDDLE[kind], kind), decide_by="monotonic")
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(tiny.prompt(1), tiny.prompt(2))
    guider.set_cfg(4.0)
    sigmas, twice = comfy.samplers.KSampler(model, 4, tiny.CPU, sampler, "normal").sigmas, Twice(sampler)
    x = tiny.noise(8, 8)
    with torch.inference_mode(), tiny.watching(high, "") as above, tiny.watching(low, "") as below:
        guider.sample(x, torch.zeros_like(x), twice, sigmas, disable_pbar=True, seed=0)
    assert above and below and torch.equal(*twice.found)
    assert len(above) % 2 == 0 and len(below) % 2 == 0


def count_loads(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    import comfy.sampler_helpers

    loads: list[Any] = []
    plain = comfy.sampler_helpers.prepare_sampling

    def counted(model: Any, *rest: Any, **named: Any) -> Any:
        loads.append(model)
        return plain(model, *rest, **named)

    monkeypatch.setattr(comfy.sampler_helpers, "prepare_sampling", counted)
    return loads


@pytest.mark.parametrize("error", [RuntimeError, InterruptProcessingException])
@pytest.mark.parametrize("where", ["network", "encoding"])
def test_errors_and_cancel_leave_nothing_behind(
    models: dict, where: str, error: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure in the expert's network or in the encoding of its prompt, or a cancel there."""
    high, low, _ = models["eps"]
    model, x = switched(high, expert(low, 2.0, "eps")), tiny.noise(16, 16)
    before, alone = tiny.sample(model, x, steps=6), tiny.sample(low, x)
    with monkeypatch.context() as broken:

        def fails(*given: Any, **named: Any) -> Any:
            raise error

        target = (low.model.diffusion_model, "forward") if where == "network" else (low.model, "extra_conds")
        broken.setattr(*target, fails)
        with pytest.raises(error):
            tiny.sample(model, x, steps=6)
    assert high.model.current_patcher is None and low.model.current_patcher is None
    gc.collect()
    assert not [one for one in gc.get_objects() if type(one).__name__ == "ExpertGuider"], "no run is kept"
    assert torch.equal(tiny.sample(model, x, steps=6), before) and torch.equal(tiny.sample(low, x), alone)


def test_a_run_is_not_kept(models: dict) -> None:
    """Latents and options go when the run is over, not when the collector comes by."""
    high, low, _ = models["eps"]
    gc.collect()
    gc.disable()
    try:
        tiny.sample(switched(high, expert(low, 2.0, "eps")), tiny.noise(16, 16), steps=4)
        kept = [one for one in gc.get_objects() if type(one).__name__ in ("ExpertGuider", "Started")]
    finally:
        gc.enable()
    assert not kept


def test_parts_of_a_schedule(models: dict) -> None:
    """denoise below 1, a start and an end step, and split schedules act by level, not by step number."""
    high, low, _ = models["eps"]
    model, x = switched(high, expert(low, 2.0, "eps")), tiny.noise(16, 16)
    latent = tiny.noise(16, 16, seed=5)
    below = tiny.sample(model, x, steps=6, denoise=0.2, latent=latent)
    assert torch.equal(below, tiny.sample(low, x, steps=6, denoise=0.2, latent=latent)), "only the expert is needed"
    first = tiny.sample(model, x, steps=8, last_step=4, force_full_denoise=False)
    second = tiny.sample(model, torch.zeros_like(x), steps=8, start_step=4, disable_noise=True, latent=first)
    whole = tiny.sample(model, x, steps=8)
    torch.testing.assert_close(second, whole, rtol=1e-3, atol=1e-3)


def test_a_prompt_of_another_encoder(models: dict) -> None:
    high, _, _ = models["eps"]
    wide = tiny.unet("shallow", seed=4, context_dim=48)
    x = tiny.noise(16, 16)
    with pytest.raises(BadExperts, match=r"width 32.*reads 48.*own CLIP"):
        tiny.sample(switched(high, expert(wide, 2.0, "eps")), x, steps=6)
    own = [[torch.randn(1, 77, 48), {"pooled_output": torch.zeros(1, 1280)}]]
    good = switched(high, expert(wide, 2.0, "eps", positive=own, negative=own))
    assert torch.isfinite(tiny.sample(good, x, steps=6)).all()


def test_models_that_do_not_fit(models: dict) -> None:
    high, low, lower = models["eps"]
    xl = tiny.unet("sdxl")
    with pytest.raises(BadExperts, match=r"latent space SDXL.*same VAE"):
        switched(high, expert(xl, 2.0, "eps"))
    with pytest.raises(BadExperts, match="one switch"):
        switched(switched(high, expert(low, 2.0, "eps")), expert(low, 1.0, "eps"))
    with pytest.raises(BadExperts, match="one switch"):
        switched(high, expert(switched(low, expert(high, 1.0, "eps")), 2.0, "eps"))
    with pytest.raises(BadExperts, match="less than the blending window"):
        switched(high, expert(low, 2.0, "eps"), expert(lower, 1.0, "eps"), blend=1.0)
    guider = comfy.samplers.CFGGuider(switched(high, expert(low, 2.0, "eps", cfg=3.0)))
    guider.inner_set_conds({"positive": tiny.prompt(1)})
    with pytest.raises(BadExperts, match="no negative prompt"):
        tiny.sample_with(guider, tiny.noise(8, 8))
    with pytest.raises(BadExperts, match=r"positive prompt .* is empty"):
        tiny.sample(switched(high, expert(low, 2.0, "eps", positive=[])), tiny.noise(8, 8))
    with pytest.raises(BadExperts, match="No expert"):
        switched(high)
    with pytest.raises(BadExperts, match="same noise level"):
        switched(high, expert(low, 2.0, "eps"), expert(low, 2.0, "eps"))
    with pytest.raises(BadExperts, match="a way of its own"):
        switched(high, expert(tiny.unet("shallow", ModelType.IMG_TO_IMG), 2.0, "eps"))


def test_blending(models: dict) -> None:
    """Within the window both are asked; identical experts stay one."""
    high, low, _ = models["eps"]
    x = tiny.noise(16, 16)
    with tiny.watching(high, "") as above, tiny.watching(low, "") as below:
        blended = tiny.sample(switched(high, expert(low, 2.0, "eps"), blend=2.0), x, steps=8)
    assert len(above) + len(below) > 8
    assert (blended - tiny.sample(switched(high, expert(low, 2.0, "eps")), x, steps=8)).abs().max() > 1e-3
    twin = same_checkpoint_again("eps")
    one = tiny.sample(switched(high, expert(twin, 2.0, "eps"), blend=2.0), x, steps=8)
    torch.testing.assert_close(one, tiny.sample(high, x, steps=8), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("memory", ["auto", "keep", "unload"])
def test_what_is_in_memory(models: dict, memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked of ComfyUI as each model's part begins: auto to have that one; keep: beside it the others as well; unload:
    to drop the one before at once."""
    named = dict(zip(map(id, (each.model for each in models["eps"])), ("high", "low", "lower")))
    high, low, lower = models["eps"]
    model = switched(high, expert(low, 3.0, "eps"), expert(lower, 0.5, "eps"), memory=memory)
    asked: list[tuple[str, set[str]]] = []
    load, unload = comfy.model_management.load_models_gpu, comfy.model_management.unload_model_and_clones

    def loading(wanted: Any, *rest: Any, **more: Any) -> None:
        asked.append(("load", {named[id(each.model)] for each in wanted}))
        load(wanted, *rest, **more)

    def unloading(gone: Any, *rest: Any, **more: Any) -> None:
        asked.append(("unload", {named[id(gone.model)]}))
        unload(gone, *rest, **more)

    monkeypatch.setattr(comfy.model_management, "load_models_gpu", loading)
    monkeypatch.setattr(comfy.model_management, "unload_model_and_clones", unloading)
    tiny.sample(model, tiny.noise(8, 8), steps=8)
    every = {"high", "low", "lower"}
    assert asked == {
        "auto": [("load", {"high"}), ("load", {"low"}), ("load", {"lower"})],
        "keep": [("load", {"high"}), ("load", every), ("load", every)],
        "unload": [("load", {"high"}), ("unload", {"high"}), ("load", {"low"}), ("unload", {"low"}),
                   ("load", {"lower"})],
    }[memory]  # fmt: skip


@pytest.mark.parametrize("memory", ["keep", "unload"])
def test_memory_changes_nothing_else(models: dict, memory: str) -> None:
    high, low, lower = models["eps"]
    given = expert(low, 3.0, "eps"), expert(lower, 0.5, "eps")
    x = tiny.noise(16, 16)
    assert torch.equal(
        tiny.sample(switched(high, *given, memory=memory), x, steps=6), tiny.sample(switched(high, *given), x, steps=6)
    )


def test_override_and_cache_on_one_expert(models: dict, caplog: pytest.LogCaptureFixture) -> None:
    """ComfyUI's CFG Override and EasyCache, put on an expert, act there and only there."""
    high, low, _ = models["eps"]
    x = tiny.noise(16, 16)
    overridden = CFGOverride.execute(low, 1.5, 0.0, 1.0).result[0]
    got = tiny.sample(switched(high, expert(overridden, 2.0, "eps")), x, cfg=4.0, steps=6)
    wanted = tiny.sample(switched(high, expert(low, 2.0, "eps", cfg=1.5)), x, cfg=4.0, steps=6)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
    cached = EasyCacheNode.execute(low, 1e6, 0.0, 1.0, False).result[0]
    with caplog.at_level(logging.INFO):
        result = tiny.sample(switched(high, expert(cached, 2.0, "eps")), x, steps=12)
    assert "skipped 5/12 steps" in caplog.text, "of the expert's seven all but the first two"
    plain = tiny.sample(switched(high, expert(low, 2.0, "eps")), x, steps=12)
    assert torch.isfinite(result).all() and (result - plain).abs().max() > 1e-4


def test_control_of_both(models: dict) -> None:
    """A ControlNet on the prompts acts on both models, and is prepared for each."""
    high, _, _ = models["eps"]
    _, control = tiny.controlnet()
    hint = torch.rand(1, 3, 128, 128)

    def controlled(seed: int) -> list:
        (features, more), = tiny.prompt(seed)  # fmt: skip
        more["control"] = control.copy().set_cond_hint(hint, 1.0)
        return [[features, {**more, "control_apply_to_uncond": False}]]

    x, prompts = tiny.noise(16, 16), {"positive": controlled(1), "negative": controlled(2)}
    twin = same_checkpoint_again("eps")
    got = tiny.sample(switched(high, expert(twin, 2.0, "eps")), x, steps=6, **prompts)
    assert torch.equal(got, tiny.sample(high, x, steps=6, **prompts))
    assert (got - tiny.sample(high, x, steps=6)).abs().max() > 1e-3


def test_control_is_not_shared(models: dict) -> None:
    """A ControlNet remembers the model it was prepared for: wired to the sampler and to an expert of another kind, each
    gets its own, also where both are asked in turn."""
    high, low = models["flow"][0], models["eps"][1]
    _, control = tiny.controlnet()
    hint = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(1))

    def controlled() -> list:
        (features, more), = tiny.prompt(1)  # fmt: skip
        more["control"] = control.copy().set_cond_hint(hint, 1.0)
        return [[features, {**more, "control_apply_to_uncond": False}]]

    def sample(mine: list, its: list) -> Tensor:
        model = switched(high, Expert(low, level(0.6, "flow"), positive=its), blend=1.0)
        return tiny.sample(model, tiny.noise(16, 16), steps=6, positive=mine)

    one = controlled()
    assert torch.equal(sample(one, one), sample(controlled(), controlled()))


def test_a_guider_of_another_kind(models: dict) -> None:
    """Two scales, one prompt in the middle: the expert is asked the same way."""
    high, low, _ = models["eps"]
    twin = same_checkpoint_again("eps")

    def dual(model: Any) -> Tensor:
        guider = Guider_DualCFG(model)
        guider.set_conds(tiny.prompt(1), tiny.prompt(3), tiny.prompt(2))
        guider.set_cfg(3.0, 1.5)
        return tiny.sample_with(guider, tiny.noise(16, 16), steps=6)

    assert torch.equal(dual(switched(high, expert(twin, 2.0, "eps"))), dual(high))
    assert (dual(switched(high, expert(low, 2.0, "eps"))) - dual(high)).abs().max() > 1e-3


def test_the_log_tells_the_steps(models: dict, caplog: pytest.LogCaptureFixture) -> None:
    high, low, _ = models["flow"]
    with caplog.at_level(logging.INFO, logger="fovea.guidance.experts.model_patch"):
        tiny.sample(switched(high, expert(low, 0.6, "flow", cfg=1.0)), tiny.noise(8, 8), steps=4)
    text = caplog.text
    assert "step 1: sigma 1, main model" in text and "expert 1" in text and "1 swap of models" in text


def test_level_of_infinity_is_refused(models: dict) -> None:
    high, low, _ = models["eps"]
    with pytest.raises(BadExperts, match="never act"):
        switched(high, Expert(low, math.inf))


def test_an_expert_knows_the_latents_shapes() -> None:
    """Newer ComfyUI tells a model the shapes of the run's latents; afterwards the user's model is as it was."""
    main, low, seen = same_checkpoint_again("flow"), same_checkpoint_again("flow", 1), []
    low.model.latent_shapes = "before"

    def look(executor: Any, *given: Any, **named: Any) -> Any:
        seen.append(low.model.latent_shapes)
        return executor(*given, **named)

    low.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, "test", look)
    tiny.sample(switched(main, expert(low, MIDDLE["flow"], "flow")), tiny.noise(16, 24), steps=4)
    assert seen and all(list(map(tuple, shapes)) == [(1, 4, 16, 24)] for shapes in seen)
    assert low.model.latent_shapes == "before"
