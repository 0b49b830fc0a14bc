"""The nodes of the experts: levels and presets, reports, schedules, the guider, and errors that name the cure."""

from __future__ import annotations

import io
import json
import logging
from typing import Any

import comfy.context_windows
import comfy.sampler_helpers
import comfy.samplers
import pytest
import tiny_models as tiny
import torch
from comfy.model_base import ModelType
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_custom_sampler import SplitSigmas
from comfy_extras.nodes_model_advanced import ModelSamplingSD3
from PIL import Image

from fovea.guidance import noise_levels
from fovea.guidance.experts.model_patch import ExpertSwitch
from fovea.guidance.gradients.autograd import NoGradient
from fovea.guidance.gradients.refusals import refuse_what_loses_gradient
from fovea.nodes.experts import FoveaExpert, FoveaExpertGuider, FoveaExpertSigmas, FoveaExpertSwitch


@pytest.fixture(scope="module")
def flows() -> list[Any]:
    return [tiny.unet("shallow", ModelType.FLOW, seed=seed) for seed in range(3)]


@pytest.fixture(scope="module")
def plain() -> list[Any]:
    return [tiny.unet("shallow", seed=seed) for seed in range(2)]


def chained(*given: tuple[Any, str, float, float]) -> tuple:
    experts = None
    for model, kind, below, cfg in given:
        experts = FoveaExpert.execute(model, kind, below, cfg, experts=experts).result[0]
    return experts


def switch(model: Any, experts: tuple, **more: Any) -> Any:
    return FoveaExpertSwitch.execute(model, experts, 0.0, "auto", "sigma", **more).result


@pytest.mark.parametrize(
    ("kind", "below", "cfg", "sigma", "scale"),
    [("sigma", 0.875, -1, 0.875, None), ("timestep", 0.9, 2.0, 0.9, 2.0), ("percent", 0.25, -1, 0.75, None),
     ("SNR dB", 0.0, -1, 0.5, None), ("Wan 2.2 T2V, low noise", 0.1, -1, 0.875, 3.0),
     ("Wan 2.2 I2V, low noise", 0.1, -1, 0.9, 3.5), ("speed LoRA, third stage", 0.1, -1, 0.875, 1.0),
     ("speed LoRA, third stage", 0.1, 2.0, 0.875, 2.0)],
)  # fmt: skip
def test_levels_and_presets(
    flows: list, kind: str, below: float, cfg: float, sigma: float, scale: float | None
) -> None:
    (expert,) = chained((flows[1], kind, below, cfg))
    assert noise_levels.sigma_of(expert.below, True) == pytest.approx(sigma, abs=1e-3) and expert.cfg == scale


def test_levels_of_an_eps_model(plain: list) -> None:
    (refiner,) = chained((plain[1], "SDXL refiner", 0.0, -1))
    assert noise_levels.sigma_of(refiner.below, False) == pytest.approx(0.572, abs=2e-3) and refiner.cfg is None


def test_errors_name_the_cure(flows: list) -> None:
    with pytest.raises(ValueError, match="Expert: sigma 3 is not between 0 and 1"):
        chained((flows[1], "sigma", 3.0, -1))
    with pytest.raises(ValueError, match=r"Expert Switch: .*main model would never act"):
        switch(flows[0], chained((flows[1], "sigma", 1.0, -1)))
    with pytest.raises(ValueError, match="Expert Sigmas: steps_per_model is 'ten'"):
        FoveaExpertSigmas.execute(flows[0], chained((flows[1], "sigma", 0.5, -1)), "ten")
    with pytest.raises(ValueError, match="Expert Sigmas: 2 experts take part"):
        FoveaExpertSigmas.execute(flows[0], chained((flows[1], "sigma", 0.5, -1)), "10")
    with pytest.raises(ValueError, match="16 experts at most"):
        chained(*[(flows[1], "sigma", 0.9 - 0.01 * i, -1.0) for i in range(17)])
    switched = switch(flows[0], chained((flows[1], "sigma", 0.5, -1)))[0]
    with pytest.raises(NoGradient, match="Expert Switch"):
        refuse_what_loses_gradient(switched)


def test_the_report_is_what_happens(flows: list, caplog: pytest.LogCaptureFixture) -> None:
    """The plan, made before, and the log, written while sampling, agree line by line."""
    experts = chained((flows[2], "sigma", 0.3, 1.0), (flows[1], "sigma", 0.875, 2.0))
    sampling = flows[0].get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, "normal", 7)
    model, report = switch(flows[0], experts, sigmas=sigmas)
    with caplog.at_level(logging.INFO, logger="fovea.guidance.experts.model_patch"):
        tiny.sample(model, tiny.noise(8, 8), steps=7)
    plan_steps = [line for line in report.splitlines() if line.startswith("step") or "swap" in line]
    logged = [line.replace("main model", "model") for line in caplog.text.splitlines()
              if line.startswith("step") or "swap" in line]  # fmt: skip
    assert plan_steps == logged and len(plan_steps) == 8 and plan_steps[-1] == "2 swaps of models"
    assert "CFG 1 (no negative prompt)" in report and "0.875 (-16.9 dB)" in report
    late = SplitSigmas.execute(sigmas, 5).result[1]
    assert "no step in this schedule" in switch(flows[0], experts, sigmas=late)[1]


def test_the_schedule_meets_the_border(flows: list) -> None:
    experts = chained((flows[1], "sigma", 0.875, -1))
    sigmas = FoveaExpertSigmas.execute(flows[0], experts, "2, 3").result[0]
    assert len(sigmas) == 6 and float(sigmas[2]) == pytest.approx(0.875, abs=1e-4) and float(sigmas[-1]) == 0
    report = switch(flows[0], experts, sigmas=sigmas)[1]
    assert report.count(": sigma") - 2 == 5


@pytest.mark.parametrize("steps", [(1, 1), (2, 2), (4, 1), (10, 10)])
def test_as_many_steps_for_each_as_asked(flows: list, steps: tuple[int, int]) -> None:
    """Counted while sampling, with a sampler that evaluates once per step."""
    counts = [0, 0]

    def counted(model: Any, at: int) -> Any:
        def count(executor: Any, *given: Any, **more: Any) -> Any:
            counts[at] += 1
            return executor(*given, **more)

        clone = model.clone()
        clone.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "count", count)
        return clone

    high, low = (counted(model, at) for at, model in enumerate(flows[:2]))
    experts = chained((low, "sigma", 0.875, 1.0))
    sigmas = FoveaExpertSigmas.execute(high, experts, ", ".join(map(str, steps))).result[0]
    tiny.sample(switch(high, experts)[0], tiny.noise(8, 8), cfg=1.0, sigmas=sigmas)
    assert tuple(counts) == steps


def test_the_second_of_four_steps_is_the_second_stages(flows: list) -> None:
    """On the schedule that the speed LoRAs' numbers come from: simple at shift 5."""
    models = [ModelSamplingSD3().patch(model, 5.0)[0] for model in flows]
    experts = chained((models[1], "speed LoRA, second stage", 0, -1), (models[2], "speed LoRA, third stage", 0, -1))
    sigmas = comfy.samplers.calculate_sigmas(models[0].get_model_object("model_sampling"), "simple", 4)
    report = switch(models[0], experts, sigmas=sigmas)[1]
    who = [line.split(", ")[1].split(" (")[0] for line in report.splitlines() if line.startswith("step")]
    assert who == ["model", "expert 1", "expert 2", "expert 2"]


@pytest.mark.parametrize("cfg, given, rows", [(1.0, -1, 1), (4.0, -1, 2), (1.0, 3.0, 2)])
def test_a_presets_cfg_leaves_a_samplers_one_alone(flows: list, cfg: float, given: float, rows: int) -> None:
    experts = chained((flows[1], "Wan 2.2 T2V, low noise", 0, given))
    with tiny.watching(flows[1]) as calls:
        tiny.sample(switch(flows[0], experts)[0], tiny.noise(8, 8), cfg=cfg, steps=4)
    assert calls and all(len(call["chunks"]) == rows for call in calls)


def test_an_expert_at_cfg_one_needs_no_negative_prompt(flows: list) -> None:
    wide = [[torch.zeros(1, 7, 3), {}]]  # of another text encoder
    experts = FoveaExpert.execute(flows[1], "sigma", 0.5, 1.0, negative=wide).result[0]
    got = tiny.sample(switch(flows[0], experts)[0], tiny.noise(8, 8), cfg=4.0, steps=3)
    assert torch.isfinite(got).all()


def test_what_an_experts_own_prompt_lacks_is_said(flows: list, caplog: pytest.LogCaptureFixture) -> None:
    image = {"concat_latent_image": torch.zeros(1, 4, 8, 8), "reference_latents": [torch.zeros(1, 4, 8, 8)]}
    for own, lacking in ((tiny.prompt(3), True), (tiny.prompt(3, **image), False)):
        experts = FoveaExpert.execute(flows[1], "sigma", 0.5, 2.0, positive=own).result[0]
        caplog.clear()
        tiny.sample(switch(flows[0], experts)[0], tiny.noise(8, 8), 2.0, 3, tiny.prompt(1, **image), tiny.prompt(2))
        said = [record.message for record in caplog.records]
        assert bool(said) == lacking and all("start image, reference latents" in line for line in said)


def test_the_guider_is_the_switch(plain: list) -> None:
    high, low = plain
    experts = chained((low, "sigma", 2.0, 1.0))
    prompts = tiny.prompt(1), tiny.prompt(2)
    guider = FoveaExpertGuider.execute(high, experts, *prompts, 4.0, 0.0, "auto", "sigma").result[0]
    x = tiny.noise(16, 16)
    wanted = tiny.sample(switch(high, experts)[0], x, cfg=4.0, steps=5)
    assert torch.equal(tiny.sample_with(guider, x, steps=5), wanted)
    models = guider.get_models()
    assert models[0].is_clone(high) and models[1] is low


def test_windows_of_a_long_latent(plain: list) -> None:
    """Context windows are options of each model: put on both, identical experts are one model."""
    high, _ = plain
    handler = comfy.context_windows.IndexListContextHandler(
        comfy.context_windows.get_matching_context_schedule("standard_static"),
        comfy.context_windows.get_matching_fuse_method("pyramid"), context_length=8, context_overlap=4, dim=3,
    )  # fmt: skip

    def windowed(model: Any) -> Any:
        clone = model.clone()
        clone.model_options["context_handler"] = handler
        comfy.context_windows.create_prepare_sampling_wrapper(clone)
        return clone

    twin, x = windowed(tiny.unet("shallow")), tiny.noise(8, 16)
    both = switch(windowed(high), chained((twin, "sigma", 2.0, -1)))[0]
    assert torch.equal(tiny.sample(both, x, steps=5), tiny.sample(windowed(high), x, steps=5))
    assert (tiny.sample(both, x, steps=5) - tiny.sample(high, x, steps=5)).abs().max() > 1e-4


def test_an_expert_that_never_acts_costs_nothing(plain: list, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many evaluations, loads and encoded prompts as without a switch. Twin: one that acts is loaded."""
    high, low = plain
    counts: dict[str, int] = {}

    def counted(target: Any, name: str) -> None:
        real = getattr(target, name)

        def call(*given: Any, **named: Any) -> Any:
            counts[name] = counts.get(name, 0) + 1
            return real(*given, **named)

        monkeypatch.setattr(target, name, call)

    counted(comfy.sampler_helpers, "prepare_sampling")
    counted(comfy.samplers, "process_conds")
    counted(comfy.samplers, "calc_cond_batch")
    found = []
    for model in (high, *(switch(high, chained((low, "sigma", below, -1)))[0] for below in (1e-3, 2.0))):
        counts.clear()
        tiny.sample(model, tiny.noise(8, 8), steps=10)
        found.append(dict(counts))
    assert found[0] == {"prepare_sampling": 1, "process_conds": 1, "calc_cond_batch": 10} == found[1]
    assert found[2] == {"prepare_sampling": 2, "process_conds": 2, "calc_cond_batch": 10}


def test_experts_stay_as_they_are_in_json() -> None:
    """Presets are part of saved workflows: their names never change."""
    from fovea.guidance.experts.plan import PRESETS

    assert json.dumps(list(PRESETS)) == json.dumps([
        "Wan 2.2 T2V, low noise", "Wan 2.2 I2V, low noise", "SDXL refiner", "eDiff-I, middle", "eDiff-I, lowest noise",
        "speed LoRA, second stage", "speed LoRA, third stage"])  # fmt: skip


def test_order_on_the_wire_does_not_matter(flows: list) -> None:
    one = chained((flows[2], "sigma", 0.3, -1), (flows[1], "sigma", 0.875, -1))
    two = chained((flows[1], "sigma", 0.875, -1), (flows[2], "sigma", 0.3, -1))
    first, second = (ExpertSwitch.of(flows[0], experts).experts for experts in (one, two))
    assert [expert.model for expert in first] == [expert.model for expert in second]


@pytest.mark.server
def test_over_the_api(client, demo_model) -> None:
    """On the demo model, queued headless: the same weights in two models give one model's picture exactly; CFG 1
    in the second half, a schedule of its own, and the style nodes run too; a bad graph is explained."""

    def node(kind: str, **inputs: Any) -> dict:
        return {"class_type": kind, "inputs": inputs}

    def picture(model: list, **extra: dict) -> list:
        graph = {
            "a": node("FoveaLoadDemo"), "b": node("FoveaLoadDemo"), **extra,
            "positive": node("CLIPTextEncode", clip=["a", 1], text="a plain red star on a white background"),
            "negative": node("CLIPTextEncode", clip=["a", 1], text=""),
            "empty": node("EmptyLatentImage", width=128, height=128, batch_size=1),
            "sample": node("KSampler", model=model, positive=["positive", 0], negative=["negative", 0],
                           latent_image=["empty", 0], seed=3, steps=4, cfg=4.0, sampler_name="dpmpp_2m",
                           scheduler="normal", denoise=1.0),
            "decode": node("VAEDecode", samples=["sample", 0], vae=["a", 2]),
            "show": node("PreviewImage", images=["decode", 0]),
        }  # fmt: skip
        run = client.run(graph)
        assert run.status == "success", run.explain()
        return list(Image.open(io.BytesIO(client.image(run.images("show")[0]))).getdata())

    def expert(**inputs: Any) -> dict:
        return node(
            "FoveaExpert", **{"model": ["b", 0], "boundary_unit": "percent", "boundary": 0.5, "cfg": -1.0, **inputs}
        )

    settings = {"blend": 0.0, "memory": "auto", "decide_by": "sigma"}
    switch = node("FoveaExpertSwitch", model=["a", 0], experts=["expert", 0], **settings)
    plain = picture(["a", 0])
    assert picture(["switch", 0], expert=expert(), switch=switch) == plain
    assert picture(["switch", 0], expert=expert(cfg=1.0), switch=switch) != plain
    style = node("FoveaStyleGuidance", model=["a", 0], without_style=["negative", 0], style_scale=2.0,
                 start_percent=0.3, end_percent=1.0)  # fmt: skip
    assert picture(["style", 0], style=style) != plain
    bad = client.run({
        "a": node("FoveaLoadDemo"), "expert": expert(model=["a", 0], boundary=0.0), "switch": switch,
        "text": node("PreviewAny", source=["switch", 1]),
    })  # fmt: skip
    assert "main model would never act" in bad.explain()
