"""Regions with a window of their own: outside of it a run goes on as if they had never been; order; CFG 1."""

from __future__ import annotations

import logging
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import lora_files as files
import pytest
import techniques
import tiny_models as tiny
import torch
from comfy_extras.nodes_custom_sampler import Guider_DualCFG
from region_steps import PLACES, assert_alike, boxes, marked, steered, two_regions
from tiny_encoders import sd15_encoder
from torch import Tensor

from fovea.attention import hooks
from fovea.attention.run import Run
from fovea.guidance.region_lora.model_patch import RegionLora
from fovea.guidance.regions import prompt_encoding
from fovea.guidance.regions.control import RegionControl
from fovea.guidance.regions.masks import Region, Regions
from fovea.guidance.regions.prompt_regions import MARK
from fovea.guidance.regions.score_bias import SCORE_UNITS, RegionBias
from fovea.guidance.starting_noise import STARTS
from fovea.models.shapesworld import loader as demo_model
from fovea.nodes.region_sources import FoveaRegion, lost_regions
from fovea.nodes.region_start import FoveaRegionStart
from fovea.nodes.regions import FoveaDenseDiffusion

NOISE = tiny.noise(32, 32)
REGIONS = two_regions(boxes(32, 32))
OVERLAPPING = two_regions((torch.ones(1, 32, 32), boxes(32, 32)[1]))
WORDS = RegionBias(temperature=0.0, area_weight=0.0, background=False, outside_weight=1.0, free_weight=1.0)
CONTROL = RegionControl(WORDS, 1.0, 0.5, law="constant")


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny.unet("sd15")


def run(model: Any, wanted: Regions, places: tuple, windows: tuple = (), **changes: Any) -> Tensor:
    positive = marked(tiny.prompt(1), wanted, places, CONTROL, windows=windows, free=(7, 8), **changes)
    return tiny.sample(steered(model), NOISE, positive=positive, steps=4)


def steps(model: Any, windows: tuple) -> list[Tensor]:
    """The x0 of every step of a run."""
    found: list[Tensor] = []
    positive = marked(tiny.prompt(1), REGIONS, PLACES, CONTROL, windows=windows, free=(7, 8))
    tiny.sample(steered(model), NOISE, positive=positive, steps=6, callback=lambda _step, x0, *_: found.append(x0))
    return found


def alike(a: list[Tensor], b: list[Tensor]) -> list[bool]:
    return [torch.equal(*each) for each in zip(a, b, strict=True)]


class TestAWindow:
    @pytest.mark.parametrize("which", [0, 1])
    def test_that_no_step_lies_in_is_no_region(self, model: Any, which: int) -> None:
        """The other region alone, whose words are free now, draws the same; behind it, it has all of its place."""
        windows = tuple((0.123, 0.1231) if i == which else (0.0, 1.0) for i in range(2))
        other = Regions((OVERLAPPING.items[1 - which],))
        positive = marked(tiny.prompt(1), other, (PLACES[1 - which],), CONTROL, free=(*PLACES[which], 7, 8))
        wanted = tiny.sample(steered(model), NOISE, positive=positive, steps=4)
        assert torch.equal(run(model, OVERLAPPING, PLACES, windows), wanted)

    def test_that_all_steps_lie_in_changes_nothing(self, model: Any) -> None:
        wanted = run(model, REGIONS, PLACES)
        assert torch.equal(run(model, REGIONS, PLACES, ((0.0, 1.0), (0.0, 1.0))), wanted)

    def test_acts_in_its_steps_only(self, model: Any) -> None:
        """Two windows that take turns: the first steps are those of one region, the last are not."""
        never = (0.123, 0.1231)
        turns, first, whole, plain = (
            steps(model, windows)
            for windows in (((0.0, 0.5), (0.5, 1.0)), ((0.0, 0.5), never), ((0.0, 1.0), never), (never, never))
        )
        assert alike(turns, first) == alike(first, whole) == [True] * 3 + [False] * 3
        assert not any(alike(first, plain))

    def test_two_regions_take_turns_in_one_place(self, model: Any) -> None:
        """Each is alone in its half of the run."""
        place = boxes(32, 32)[0]
        both, patched = two_regions((place, place)), steered(model)
        whole = run(model, both, PLACES, ((0.0, 0.5), (0.5, 1.0)))
        first, second = (
            marked(tiny.prompt(1), Regions((each,)), (own,), CONTROL, free=(*others, 7, 8))
            for each, own, others in zip(both.items, PLACES, PLACES[::-1])
        )
        half = tiny.sample(patched, NOISE, positive=first, steps=4, last_step=2, force_full_denoise=False)
        rest = {"latent": half, "steps": 4, "start_step": 2}
        got = tiny.sample(patched, torch.zeros_like(NOISE), positive=second, **rest)
        assert_alike(got, whole)
        other = tiny.sample(patched, torch.zeros_like(NOISE), positive=first, **rest)
        assert (other - whole).abs().max() > 1e-3 * whole.abs().max(), "twin: it matters whose turn it is"

    def test_no_region_at_all_is_the_plain_prompt(self, model: Any) -> None:
        never = ((0.123, 0.1231), (0.123, 0.1231))
        assert torch.equal(run(model, REGIONS, PLACES, never), tiny.sample(model, NOISE, steps=4))

    @pytest.mark.parametrize("unit", SCORE_UNITS)
    @pytest.mark.parametrize("last", [True, False])
    def test_hides_what_was_appended_for_it(self, model: Any, unit: str, last: bool) -> None:
        """Appended words of a region that does not act change nothing, whatever they are: neither what is seen nor how
        strong the others are, counted in whatever unit. Where they are not last, they cannot be cut off."""
        places, windows = ((60, 61, 62), tuple(range(63, 70))), ((0.0, 1.0), (0.123, 0.1231))
        regions, control = REGIONS, RegionControl(replace(WORDS, score_unit=unit), 1.0, 0.5, law="constant")
        if not last:
            regions = Regions((*REGIONS.items, Region(boxes(32, 32)[0].flip(1), "a third")))
            places, windows = (*places, tuple(range(70, 77))), (*windows, (0.0, 1.0))
        pictures = []
        for change in (0.0, 1.0):
            features = tiny.prompt(1)[0][0][:, : 70 if last else 77].clone()
            features[:, 63:70] += change
            given = [[features, tiny.prompt(1)[0][1]]]
            positive = marked(given, regions, places, control, windows=windows, appended=60)
            pictures.append(tiny.sample(steered(model), NOISE, positive=positive, steps=4))
            seen = marked(given, regions, places, control, appended=60)
            pictures.append(tiny.sample(steered(model), NOISE, positive=seen, steps=4))
        first, first_seen, second, second_seen = pictures
        assert torch.equal(first, second) and not torch.equal(first_seen, second_seen)

    def test_later_ones_do_not_act_on_the_start(self) -> None:
        with torch.inference_mode():
            model, clip = demo_model.load_model(), demo_model.load_clip()
            noise = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(3))
            late = Regions(tuple(replace(each, start=0.5) for each in techniques.halves().items))
            settings = {"model": model, "clip": clip, "prompt": techniques.PROMPT, "regions": late}
            alone = {"cross_strength": 0.0, "self_strength": 0.0, "arranged_noises": 1, "layout_iterations": 1}
            patched, positive, negative, _ = techniques.outputs(FoveaDenseDiffusion, **settings, **alone)
            got = tiny.sample(patched, noise, 4.0, 2, positive, negative)
            assert torch.equal(got, tiny.sample(model, noise, 4.0, 2, positive, negative))


class TestTheNode:
    def test_window_and_order_reach_the_region(self) -> None:
        mask = torch.ones(1, 8, 8)
        (first,) = FoveaRegion.execute(mask, "a", 1.0, "").result
        (front,) = FoveaRegion.execute(mask, "b", 1.0, "", first, start_percent=0.2, end_percent=0.7).result
        (behind,) = FoveaRegion.execute(mask, "c", 1.0, "", front, order="behind").result
        assert [r.prompt for r in behind.items] == ["c", "a", "b"]
        assert (front.items[1].start, front.items[1].end) == (0.2, 0.7)
        assert [r.prompt for r in behind.acting.items] == ["a", "b"], "the one in front has every pixel in its window"

    def test_a_window_that_ends_before_it_begins_is_told(self) -> None:
        (regions,) = FoveaRegion.execute(torch.ones(1, 8, 8), "a", 1.0, "", start_percent=0.7, end_percent=0.2).result
        assert not len(regions.acting) and "ends (0.2) before it begins (0.7)" in regions.idle()[0]

    @pytest.mark.parametrize(
        "behind, front, acting",
        [
            ((0.0, 0.5), (0.5, 1.0), "ab"),
            ((0.0, 1.0), (0.0, 0.5), "ab"),
            ((0.0, 0.5), (0.0, 1.0), "b"),
            ((0.2, 0.4), (0.2, 0.4), "b"),
        ],
    )
    def test_a_region_is_covered_by_those_that_act_whenever_it_does(
        self, behind: tuple, front: tuple, acting: str
    ) -> None:
        mask = torch.ones(1, 8, 8)
        regions = Regions(tuple(Region(mask, name, start=s, end=e) for name, (s, e) in zip("ab", (behind, front))))
        assert "".join(r.prompt for r in regions.acting.items) == acting
        assert len(regions.idle()) == 2 - len(acting)
        assert lost_regions(regions, 64, 64).count("covered") == 2 - len(acting), "so says Region Preview"

    def test_nodes_agree_on_the_place(self, model: Any) -> None:
        """At the first step a region in front that begins later has no place, and the one behind has all of its own:
        for Dense Diffusion, Region LoRA, Region Start and ComfyUI's masks alike."""
        file = files.weights(model, 1)
        late = Region(boxes(32, 32)[1], "a blue circle", start=0.5)
        regions = Regions((files.region(torch.ones(1, 32, 32), file, prompt="a red star"), late))
        clip, sampling = sd15_encoder(), model.get_model_object("model_sampling")
        highest = float(sampling.sigma_max)
        given = {"model": model, "clip": clip, "regions": regions, "prompt": "a red star and a blue circle"}
        patched, positive, *_ = techniques.outputs(FoveaDenseDiffusion, **given)
        mark = positive[0][1][MARK].now(sampling, highest)
        places = [(mark.regions.items[0].prompt, mark.canvas[0, 0])]
        (lora,) = (each for each in hooks.techniques_of(patched) if isinstance(each, RegionLora))
        sampled = SimpleNamespace(model_sampling=sampling)
        acting, *_ = lora.begin(Run((lora,), model=sampled, sigma=highest))
        assert not acting.regions.canvas()[:, 1].any()
        places.append((acting.regions.items[0].prompt, acting.regions.canvas()[0, 0]))
        started = techniques.outputs(FoveaRegionStart, model=model, regions=regions)[0]
        (start,) = started.model_options["transformer_options"][STARTS]
        places.append((start.painting.regions.items[0].prompt, start.painting.regions.canvas()[0, 0]))
        masked = prompt_encoding.masked(clip, "", regions, 0.5)
        places += [("a red star", c[1]["mask"][0]) for c in masked if c[1].get("start_percent") == 0.0]
        assert len(places) == 4 and {prompt for prompt, _ in places} == {"a red star"}
        assert all(torch.equal(place, torch.ones(32, 32)) for _, place in places)

    def test_comfyuis_own_masks_have_the_window_too(self) -> None:
        with torch.inference_mode():
            clip = demo_model.load_clip()
            late = Regions((replace(techniques.halves().items[0], start=0.25, end=0.5), techniques.halves().items[1]))
            first, second, _ = prompt_encoding.masked(clip, techniques.PROMPT, late, 0.5)
        assert (first[1]["start_percent"], first[1]["end_percent"]) == (0.25, 0.5) and "start_percent" not in second[1]

    def test_negative_prompts_keep_the_window(self) -> None:
        mask = torch.ones(1, 32, 32)
        with torch.inference_mode():
            regions = Regions((Region(mask, "a plain red star", negative_prompt="a circle", start=0.1, end=0.9),))
            encoded = prompt_encoding.negative(demo_model.load_clip(), "", regions, CONTROL)
        assert encoded.conditioning[0][1][MARK].windows == ((0.1, 0.9),)


@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_negative_prompts_at_cfg_1_are_told(model: Any, cfg: float, caplog: pytest.LogCaptureFixture) -> None:
    positive = marked(tiny.prompt(1), REGIONS, PLACES, CONTROL)
    negative = marked(tiny.prompt(2), REGIONS, PLACES, CONTROL, negative=True)
    with caplog.at_level(logging.WARNING):
        tiny.sample(steered(model), NOISE, cfg, positive=positive, negative=negative)
    assert ("at CFG 1 no negative prompt is evaluated" in caplog.text) == (cfg == 1.0)


def test_guiders_with_several_scales_are_not_told_that(model: Any, caplog: pytest.LogCaptureFixture) -> None:
    """ComfyUI's DualCFGGuider keeps its scales elsewhere and leaves `cfg` at 1."""
    guider = Guider_DualCFG(steered(model))
    negative = marked(tiny.prompt(2), REGIONS, PLACES, CONTROL, negative=True)
    guider.set_conds(marked(tiny.prompt(1), REGIONS, PLACES, CONTROL), tiny.prompt(3), negative)
    guider.set_cfg(4.0, 2.0)
    with caplog.at_level(logging.WARNING):
        tiny.sample_with(guider, NOISE)
    assert "at CFG 1" not in caplog.text


def test_a_window_of_the_node_that_ends_at_once_may_still_start(model: Any, caplog: pytest.LogCaptureFixture) -> None:
    only_start = RegionControl(WORDS, 1.0, 0.5, 0.0, 0.0, arranged_noises=1)
    with caplog.at_level(logging.WARNING):
        tiny.sample(steered(model), NOISE, positive=marked(tiny.prompt(1), REGIONS, PLACES, only_start))
    assert "Regions do nothing" not in caplog.text
