"""What measures local faults and attention maps, on painted pictures, which have none, and on spoiled ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from kornia.filters import gaussian_blur2d

from fovea.nodes.sag import FoveaSelfAttentionGuidance
from tools.shapesworld import sets
from tools.shapesworld.world import render
from tools.studies.attention_map import quality as maps
from tools.studies.demo_setup import DemoSetup
from tools.studies.sag import faults


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    return torch.stack([torch.from_numpy(render(each)[0]) for each in sets.scenes("tune", 0, 12)]).float() / 255


@pytest.fixture(scope="module")
def demo() -> DemoSetup:
    return DemoSetup()


def test_blurred_borders_are_seen(demo: DemoSetup, pictures: torch.Tensor) -> None:
    right = faults.faults(demo, pictures)
    blurred = faults.faults(demo, gaussian_blur2d(pictures.movedim(-1, 1), (21, 21), (5.0, 5.0)).movedim(1, -1))
    assert right["features"].shape == (12, 128)
    assert (blurred["borders"] > right["borders"]).mean() > 0.9
    assert np.linalg.norm(blurred["features"].mean(0) - right["features"].mean(0)) > 0.1


def test_specks_are_counted(demo: DemoSetup, pictures: torch.Tensor) -> None:
    right = faults.faults(demo, pictures)["specks"]
    spotted = pictures.clone()
    for x, y in ((20, 20), (230, 20), (20, 230), (230, 230)):  # corners, where no object is
        spotted[:, y - 5 : y + 5, x - 5 : x + 5] = torch.tensor([0.9, 0.1, 0.1])
    assert (faults.faults(demo, spotted)["specks"] - right).mean() >= 2
    assert right.mean() < 1


def test_a_verdict_follows_its_rule() -> None:
    zero = np.zeros(64)
    rng = np.random.default_rng(0)
    real = {"features": rng.normal(size=(64, 4))}
    none = {"borders": zero + 0.2, "specks": zero, "right": zero + 1, "features": rng.normal(size=(64, 4))}
    better = {**none, "borders": none["borders"] - rng.uniform(0.01, 0.03, 64)}
    worse = {**none, "borders": none["borders"] + rng.uniform(0.01, 0.03, 64)}
    spoiled = {**better, "features": none["features"] + 3}
    said = [faults.verdict(faults.measure(each, none, real, True)) for each in (none, better, worse, spoiled)]
    assert said == ["no difference beyond chance", "helps", "harms", "surer borders, farther from reference pictures"]
    assert "right" not in faults.measure(better, none, real, False), "without a prompt nothing was asked for"


def test_a_picture_without_a_border_is_not_a_sure_one(demo: DemoSetup) -> None:
    empty = faults.faults(demo, torch.full((2, 256, 256, 3), 0.5))
    assert np.isnan(empty["borders"]).all()
    zero = np.zeros(8)
    features = np.random.default_rng(0).normal(size=(8, 4))
    none = {"borders": zero + 0.2, "specks": zero, "right": zero, "features": features}
    wiped = {**none, "borders": np.array([np.nan] * 3 + [0.2] * 5)}
    row = faults.measure(wiped, none, none, False)
    assert row["without a border"] == 3 and row["borders"][0] == pytest.approx(0.2) and row["borders_less_none"][0] == 0


def test_ways_have_names_of_their_own_and_begin_as_the_node_does() -> None:
    ways = {faults.Way(True, 4.0, scale, window=window) for scale in (0.5, 1.0) for window in ((0.0, 1.0), (0.0, 0.5))}
    assert len({way.name for way in ways}) == 4
    inputs = FoveaSelfAttentionGuidance.define_schema().inputs
    usual = {each.id: each.default for each in inputs if hasattr(each, "default")}
    usual["window"] = (usual["start_percent"], usual["end_percent"])
    first = faults.Way(False, 1.0)
    for key, values in faults.TRIED.items():
        if key != "scale":
            assert getattr(first, key) == values[0] == usual[key]


def test_area_under_the_curve() -> None:
    inside = np.array([True, True, False, False])
    assert maps.area(np.array([3.0, 4.0, 1.0, 2.0]), inside) == 1
    assert maps.area(np.array([1.0, 2.0, 3.0, 4.0]), inside) == 0
    assert maps.area(np.array([1.0, 1.0, 1.0, 1.0]), inside) == 0.5
    assert maps.area(np.array([3.0, 1.0, 2.0, 0.0]), inside) == 0.75
    assert maps.area(np.zeros(4), np.zeros(4, bool)) == 0.5


def test_attention_of_a_phrase_is_looked_at_where_its_object_is(demo: DemoSetup) -> None:
    with torch.no_grad():
        rows = [row for index in range(4) for row in maps.rows(demo, index, sets.scene("tune", index, 2))]
    own, other = (np.mean([row[key][-1] for row in rows]) for key in ("area", "other"))
    assert own > 0.7 and other < own - 0.2
    assert all(0 < row["covered"][0] < 0.3 and set(row["hit"]) <= {0.0, 1.0} for row in rows)
