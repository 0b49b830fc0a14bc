"""The start beside what else people connect: the rows of the table in docs/techniques/regions.md, one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import techniques
import tiny_models as tiny
import tiny_transformers as dit
import torch
from comfy.patcher_extension import WrappersMP
from region_steps import boxes, marked, steered, two_regions
from torch import Tensor

from fovea.guidance import starting_noise
from fovea.guidance.gradients.errors import NoGradient
from fovea.guidance.region_start.arranged import ARRANGED
from fovea.guidance.region_start.layout_loss import LAYOUT
from fovea.guidance.regions.control import RegionControl
from fovea.guidance.regions.masks import Region, Regions
from fovea.guidance.regions.score_bias import RegionBias
from fovea.nodes.experts import FoveaExpert, FoveaExpertSwitch
from fovea.nodes.region_start import FoveaRegionStart
from fovea.nodes.sag import FoveaSelfAttentionGuidance

NOISE = tiny.noise(32, 32)
REGIONS = two_regions(boxes(32, 32))
WAYS: dict[str, dict[str, int]] = {
    "painted": {},
    "arranged": {"arranged_noises": 2},
    "layout": {"layout_iterations": 1},
}
SHAPE = {"transformer_depth": [1, 1, 1, 1], "transformer_depth_output": [1] * 8}


def begins(model: Any, way: str, regions: Regions = REGIONS) -> Any:
    """The model with a start of this kind; prompts bring the settings of two of them."""
    if way == "painted":
        return techniques.outputs(FoveaRegionStart, model=steered(model), regions=regions)[0]
    patched = steered(model)
    starting_noise.install(patched, {"arranged": ARRANGED, "layout": LAYOUT}[way])
    return patched


def prompt(way: str, regions: Regions = REGIONS, base: list | None = None, steering: float = 0.0) -> list:
    control = RegionControl(RegionBias(), steering, steering, **WAYS[way])
    return marked(base or tiny.prompt(1), regions, control=control)


def watched(model: Any) -> tuple[Any, dict[str, Tensor]]:
    """The model, and where the noise goes that its sampler gets."""
    patched, seen = model.clone(), {}

    def wrapper(executor: Any, *given: Any) -> Any:
        seen["noise"] = given[4]
        return executor(*given)

    patched.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, "test", wrapper)
    return patched, seen


def changed(model: Any, way: str, noise: Tensor = NOISE, regions: Regions = REGIONS, **given: Any) -> Tensor:
    """By how much the noise was changed that the sampler got."""
    patched, seen = watched(begins(model, way, regions))
    tiny.sample(patched, noise, **{"positive": prompt(way, regions), **given})
    return (seen["noise"] - noise).abs()


def guided(model: Any) -> Any:
    return techniques.outputs(FoveaSelfAttentionGuidance, model=model)[0]


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny.unet("sd15", **SHAPE)


@pytest.mark.parametrize("way", WAYS)
class TestTheTable:
    @pytest.mark.parametrize("company", [guided, tiny.with_lora], ids=["sag", "lora"])
    def test_sag_and_lora(self, model: Any, company: Callable[[Any], Any], way: str) -> None:
        """Installed before or after, the same run, which is another one than without the start."""
        before, after = begins(company(model), way), company(begins(model, way))
        pictures = [tiny.sample(each, NOISE, positive=prompt(way)) for each in (before, after)]
        assert torch.equal(*pictures)
        assert not torch.equal(pictures[0], tiny.sample(company(model), NOISE))

    def test_leftover_noise_of_a_first_part(self, model: Any, way: str) -> None:
        """KSampler (Advanced): the first part begins so, the second goes on with what it was given."""
        assert changed(model, way, last_step=2, steps=4, force_full_denoise=False).max() > 0.05
        noise = torch.zeros_like(NOISE)
        latent = tiny.sample(model, NOISE, last_step=2, steps=4)
        later = {"start_step": 2, "steps": 4, "latent": latent}
        got = tiny.sample(begins(model, way), noise, positive=prompt(way), **later)
        assert torch.equal(got, tiny.sample(model, noise, **later))

    def test_controlnet(self, model: Any, way: str) -> None:
        """It acts in what the start sees of the model: another hint, another noise."""
        _, control = tiny.controlnet()
        noises = []
        for value in (0.0, 1.0):
            hinted = control.copy().set_cond_hint(torch.full((1, 3, 256, 256), value), 1.0)
            base = tiny.prompt(1, control=hinted, control_apply_to_uncond=False)
            patched, seen = watched(begins(tiny.unet("sd15"), way))
            tiny.sample(patched, NOISE64, positive=prompt(way, REGIONS64, base))
            noises.append(seen["noise"])
        assert torch.equal(*noises) == (way == "painted")

    def test_a_mask_per_frame(self, way: str) -> None:
        """A region that moves from left to right in a video."""
        left, right = torch.zeros(32, 32), torch.zeros(32, 32)
        left[:, :12], right[:, 20:] = 1, 1
        moving = Regions((Region(torch.ones(1, 32, 32), "x"), Region(torch.stack([left, right]), "a red star")))
        wan, noise = dit.build("wan"), dit.noise("wan", 32, 32, frames=2)
        difference = changed(
            wan, way, noise, moving, positive=prompt(way, moving, dit.prompt(1)), negative=dit.prompt(2)
        )
        assert difference.shape == noise.shape and difference.max() > 0
        if way == "painted":
            assert difference[:, :, 0, :, 20:].max() == 0 and difference[:, :, 1, :, :12].max() == 0

    def test_experts(self, model: Any, way: str) -> None:
        (chain,) = techniques.outputs(FoveaExpert, model=tiny.unet("sd15", seed=1, **SHAPE), boundary_unit="percent",
                                      boundary=0.5)  # fmt: skip
        both = techniques.outputs(FoveaExpertSwitch, model=begins(model, way), experts=chain)[0]
        patched, seen = watched(both)
        if way == "layout":
            with pytest.raises(NoGradient, match=r"Expert Switch.*layout_iterations"):
                tiny.sample(patched, NOISE, positive=prompt(way))
            return
        tiny.sample(patched, NOISE, positive=prompt(way))
        assert (seen["noise"] - NOISE).abs().max() > 0.05

    def test_context_windows(self, model: Any, way: str, caplog: pytest.LogCaptureFixture) -> None:
        noise = tiny.noise(32, 32, batch=6)
        if way == "layout":
            with pytest.raises(NoGradient, match=r"context windows.*layout_iterations"):
                tiny.sample(tiny.windowed(begins(model, way)), noise, positive=prompt(way))
            return
        patched, seen = watched(tiny.windowed(begins(model, way)))
        tiny.sample(patched, noise, positive=prompt(way))
        if way == "arranged":
            assert torch.equal(seen["noise"], noise) and "is not arranged" in caplog.text
            return
        assert (seen["noise"] - noise).abs().flatten(1).amax(dim=1).min() > 0.05, "every picture"

    def test_steering_goes_on_from_there(self, model: Any, way: str) -> None:
        """The run is the one that steering alone makes of the changed noise."""
        patched, seen = watched(begins(model, way))
        got = tiny.sample(patched, NOISE, positive=prompt(way, steering=0.5))
        alone = marked(tiny.prompt(1), REGIONS, control=RegionControl(RegionBias(), 0.5, 0.5))
        wanted = tiny.sample(steered(model), seen["noise"], positive=alone)
        assert (got - wanted).abs().max() < 1e-4 * wanted.abs().max()


NOISE64, REGIONS64 = tiny.noise(64, 64), two_regions()
