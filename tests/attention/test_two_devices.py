"""The positive and the negative prompt on two devices at once, as ComfyUI does with two GPUs: the same picture.

No second device is here: two copies of a model stand for it, each with a thread of its own in ComfyUI's own pool.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import comfy.multigpu
import lora_files as files
import pytest
import tiny_models as tiny
import torch
from region_steps import marked, steered, two_regions
from sag_steps import guided

from fovea.guidance.experts.model_patch import Expert, ExpertSwitch
from fovea.guidance.region_lora import model_patch
from fovea.nodes.style import FoveaStyleGuidance

TEXT = tiny.prompt(12)


@contextlib.contextmanager
def two_devices(patched: Any) -> Iterator[list]:
    """Whatever is sampled with the model inside is shared by two workers; yields what the second one evaluated."""
    twin = tiny.unet("sd15")
    twin.model.current_patcher = twin
    devices = {torch.device("cpu"): patched, torch.device("cpu", 0): twin}
    pool = comfy.multigpu.MultiGPUThreadPool(list(devices))
    patched.model_options.update(multigpu_clones=devices, multigpu_thread_pool=pool)
    with tiny.watching(twin) as calls:
        yield calls


def switched(model: Any) -> Any:
    """The model, and from half of the schedule on another one with the same weights and SAG."""
    second = guided(tiny.unet("sd15"))
    return ExpertSwitch.of(model, [Expert(second, -1.0)]).patched(model)


def with_loras(model: Any) -> Any:
    patched = model.clone()
    model_patch.install(patched, files.halves(files.weights(model, 1), files.weights(model, 2)))
    return patched


WAYS = {
    "SAG": (guided, tiny.prompt(1)),
    "blur": (lambda model: guided(model, mask_mode="global"), tiny.prompt(1)),
    "regions": (steered, marked(tiny.prompt(1), two_regions())),
    "regions and SAG": (lambda model: guided(steered(model)), marked(tiny.prompt(1), two_regions())),
    "style": (lambda model: FoveaStyleGuidance.execute(model, TEXT, 2.0, 0.0, 1.0).result[0], tiny.prompt(1)),
    "experts": (switched, tiny.prompt(1)),
    "region LoRA": (with_loras, tiny.prompt(1)),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_picture_is_that_of_one_device(way: str) -> None:
    patch, prompt = WAYS[way]
    start = tiny.noise(16, 24, batch=2)
    expected = tiny.sample(patch(tiny.unet("sd15")), start, 5.0, 3, prompt)
    plain = tiny.sample(tiny.unet("sd15"), start, 5.0, 3, tiny.prompt(1))
    patched = patch(tiny.unet("sd15"))
    with two_devices(patched) as calls:
        got = tiny.sample(patched, start, 5.0, 3, prompt)
    assert calls, "the second device has nothing to do"
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-3)
    assert (expected - plain).abs().max() > 0.5, "twin: the patch does more than the tolerance allows"
