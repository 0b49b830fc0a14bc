"""The start with the mean of a picture: backgrounds that noise alone never gives, and nothing of a batch mixes."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from fovea.guidance import starting_noise
from fovea.guidance.picture_mean import PictureMean
from fovea.models.shapesworld import loader as demo_model
from fovea.nodes.demo_model import FLOW, NOISE, PICTURE_MEAN, PLAIN, FoveaLoadDemo
from tools.shapesworld import judge
from tools.shapesworld.world import BACKGROUND_NAMES
from tools.studies.demo_setup import DemoSetup
from tools.studies.sampling import sample


def test_every_background_has_as_many_means() -> None:
    means = torch.tensor(demo_model.picture_means())
    assert means.shape == (4 * len(BACKGROUND_NAMES), 4)
    own = means.view(-1, len(BACKGROUND_NAMES), 4)
    between, within = own.mean(0).std(0), own.std(0).mean(0)
    assert (between > 2 * within).all(), "they differ by background above all"


def test_a_picture_does_not_depend_on_its_neighbors() -> None:
    start = PictureMean(((1.0, 2.0, 3.0, 4.0), (-1.0, -2.0, -3.0, -4.0), (0.0, 0.0, 5.0, 0.0)))
    run = starting_noise.StartOfRun(None, torch.tensor([10.0, 0.0]), {}, None, None)
    torch.manual_seed(0)
    noise = torch.randn(6, 4, 8, 8)
    whole = start.changed(noise, run)
    parts = torch.cat([start.changed(each[None], run) for each in noise])
    assert torch.equal(whole, parts)
    added = (whole - noise).mean((2, 3)) * 10
    wanted = {tuple(mean) for mean in start.means}
    assert {tuple(row) for row in added.round(decimals=3).tolist()} <= wanted
    assert len({tuple(row) for row in added.round(decimals=3).tolist()}) > 1
    moved = start.changed(noise + 1e-3 * torch.randn_like(noise), run)
    torch.testing.assert_close(moved, whole, atol=0.01, rtol=0)  # as searches change it: the same pictures' means


def test_what_an_inpainting_keeps_keeps_its_noise() -> None:
    start, noise, mask = PictureMean(((1.0, 2.0, 3.0, 4.0),)), torch.randn(2, 4, 8, 8), torch.zeros(2, 1, 8, 8)
    mask[..., 4:] = 1
    runs = (starting_noise.StartOfRun(None, torch.tensor([10.0, 0.0]), {}, None, each) for each in (mask, None))
    masked, whole = (start.changed(noise, run) for run in runs)
    assert torch.equal(masked[..., :4], noise[..., :4]) and torch.equal(masked[..., 4:], whole[..., 4:])
    assert not torch.equal(whole[..., :4], noise[..., :4])


@pytest.mark.parametrize(("variant", "starts"), [(PLAIN, 1), (FLOW, 0)])
def test_the_node_offers_it_where_it_helps(variant: str, starts: int) -> None:
    plain = FoveaLoadDemo.execute(variant=variant, start=NOISE).result[0]
    changed = FoveaLoadDemo.execute(variant=variant, start=PICTURE_MEAN).result[0]
    assert len(starting_noise.starts_of(plain.model_options)) == 0
    assert len(starting_noise.starts_of(changed.model_options)) == starts


def test_without_a_prompt_backgrounds_become_white_too() -> None:
    demo = DemoSetup()
    found = {}
    for name, model in (("noise", demo.model), ("mean", demo.model_without_prompt)):
        with torch.no_grad():
            pictures = sample(demo, [""] * 12, 3, 10, 1.0, model=model)
        found[name] = Counter(reading.background for reading in judge.read(demo.reader, pictures))
    assert found["noise"]["white"] == 0
    assert found["mean"]["white"] >= 1 and len(found["mean"]) >= 3
