"""Further models that a sampler's prompts bring: a scorer that judges in a run, for instance."""

from __future__ import annotations

from typing import Any

import comfy.model_management as mm
import comfy.model_patcher
import pytest
import tiny_models as tiny
import torch

from fovea.guidance import noise_levels
from fovea.guidance.experts.model_patch import Expert, ExpertSwitch


@pytest.mark.parametrize("own", [False, True])
def test_they_stay_beside_every_expert(own: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of an expert with prompts of its own; else they would have to leave when it comes into memory."""
    further = comfy.model_patcher.ModelPatcher(torch.nn.Linear(1, 1), tiny.CPU, tiny.CPU)
    high, low = (tiny.unet("shallow", seed=seed) for seed in range(2))
    prompts = {"positive": tiny.prompt(3), "negative": tiny.prompt(4)} if own else {}
    switch = ExpertSwitch.of(high, [Expert(low, noise_levels.half_log_snr(2.0, False), **prompts)])
    brought: list[list[Any]] = []
    load = mm.load_models_gpu
    spy = lambda models, *rest, **named: brought.append([*models]) or load(models, *rest, **named)  # noqa: E731
    monkeypatch.setattr(mm, "load_models_gpu", spy)
    positive = tiny.prompt(1, additional_models=[further])
    tiny.sample(switch.patched(high), tiny.noise(8, 8), steps=4, positive=positive)
    assert len(brought) > 1 and all(further in models for models in brought)
