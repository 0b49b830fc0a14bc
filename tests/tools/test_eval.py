"""The evaluation's metrics against their definitions, slowly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace

import numpy as np
import pytest
import scipy.linalg
import torch

from fovea.guidance.regions.score_bias import RegionBias
from fovea.models.shapesworld import loader as demo_model
from fovea.nodes.regions import METHODS as NODE_METHODS
from fovea.nodes.regions import FoveaDenseDiffusion
from tools.comfy.node_values import arguments
from tools.shapesworld import sets as scene_sets
from tools.shapesworld.world import COLOUR_NAMES, render
from tools.studies import metrics, tables
from tools.studies.noise_optimization import budgets
from tools.studies.noise_optimization import methods as latent_methods
from tools.studies.noise_optimization import plots as latent_plots
from tools.studies.noise_optimization import quality as latents
from tools.studies.noise_optimization import section as report_latents
from tools.studies.regions import layouts
from tools.studies.regions import plots as region_plots
from tools.studies.regions.methods import METHODS, Steered
from tools.studies.sag import quality as sag


@pytest.fixture
def sets() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(6, 6))
    return rng.normal(size=(80, 6)) @ mix, rng.normal(size=(50, 6)) @ mix * 1.3 + 0.4


def test_frechet(sets: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = sets
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    cross = scipy.linalg.sqrtm(cov_a @ cov_b).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a + cov_b - 2 * cross)
    assert metrics.frechet(a, b) == pytest.approx(expected, rel=1e-9)
    assert metrics.frechet(a, a) == pytest.approx(0, abs=1e-9)


def test_kid(sets: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = sets

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return float((x @ y / 6 + 1) ** 3)

    inside = [np.mean([kernel(x, y) for i, x in enumerate(s) for j, y in enumerate(s) if i != j]) for s in (a, b)]
    across = np.mean([kernel(x, y) for x in a for y in b])
    assert metrics.kid(a, b) == pytest.approx(sum(inside) - 2 * across, rel=1e-9)


def test_kid_is_unbiased() -> None:
    rng = np.random.default_rng(1)
    values = [metrics.kid(rng.normal(size=(20, 4)), rng.normal(size=(20, 4))) for _ in range(400)]
    assert abs(np.mean(values)) < 3 * np.std(values) / 20


def test_precision_and_recall() -> None:
    rng = np.random.default_rng(2)
    real = rng.normal(size=(60, 3))
    narrow, far = real[:20] * 0.2, real + 100
    precision, recall = metrics.precision_recall(narrow, real)
    assert precision == 1 and recall < 0.5
    assert metrics.precision_recall(far, real) == (0, 0)
    assert metrics.precision_recall(real, real) == (1, 1)


def test_bootstrap_covers_the_mean() -> None:
    rng = np.random.default_rng(3)
    hits = 0
    for i in range(100):
        values = rng.normal(size=60)
        low, high = metrics.bootstrap(lambda index, v=values: float(v[index].mean()), 60, 100, seed=i)
        hits += low <= 0 <= high
    assert 85 <= hits <= 100


def test_a_share_without_failures_may_fail() -> None:
    """The score interval's ends are the shares from which what was seen lies 1.96 standard errors away."""
    for wins, count in ((125, 125), (0, 48), (30, 64)):
        share, low, high = metrics.mean([1.0] * wins + [0.0] * (count - wins), 9)
        assert share == pytest.approx(wins / count) and 0 <= low <= share <= high <= 1 and high - low > 0.02
        for end in {low, high} - {0.0, 1.0}:
            assert abs(share - end) / (end * (1 - end) / count) ** 0.5 == pytest.approx(1.96, abs=1e-3)
    assert metrics.difference([0.0] * 9) == [0.0, 0.0, 0.0], "differences are no shares"


def test_references_are_of_other_scenes() -> None:
    """Twins of what is judged would lie too near."""
    made = {scene_sets.scene(name, i, 2) for name in ("tune", "report") for i in range(200)}
    assert not made & {scene_sets.scene("reference", i, 2) for i in range(200)}
    row = {"name": "x", "n": 1, "right": [0.5] * 3, "right_against_none": [0.0] * 3,
           **dict.fromkeys(("frechet", "kid", "kid_against_none"), [0.0] * 3)}  # fmt: skip
    assert tables.TWINS in tables.pictures_table([row], "x")
    assert tables.TWINS not in tables.pictures_table([{**row, "reference": scene_sets.REFERENCE}], "x")


@pytest.mark.parametrize("statistic", [metrics.frechet, metrics.kid])
def test_intervals_of_distances_hold_their_value(statistic: Callable[[np.ndarray, np.ndarray], float]) -> None:
    """In many dimensions repeated members shift a distance by more than its spread."""
    rng = np.random.default_rng(4)
    made, real = rng.normal(size=(120, 32)), rng.normal(size=(300, 32)) * 1.1
    low, high = metrics.bootstrap(lambda i: statistic(made[i], real), 120, 60)
    assert low < statistic(made, real) < high
    fresh = [statistic(rng.normal(size=(120, 32)), real) for _ in range(60)]
    assert 0.3 < (high - low) / (np.quantile(fresh, 0.975) - np.quantile(fresh, 0.025)) < 3


def test_tuning_and_report_share_no_seed() -> None:
    seeds = {which: set(range(first, first + 1024)) for which, first in sag.FIRST_SEED.items()}
    assert not seeds["tune"] & seeds["report"]


class TestLayouts:
    """What measures layouts, on painted pictures, which are right."""

    @pytest.fixture(scope="class")
    def painted(self) -> tuple[list[layouts.Layout], torch.Tensor]:
        found = [layouts.layout("tune", i) for i in range(9)]
        return found, torch.stack([torch.from_numpy(render(one.scene)[0]) for one in found]).float() / 255

    def test_right_pictures_have_their_objects(self, painted: tuple[list[layouts.Layout], torch.Tensor]) -> None:
        right = layouts.score(demo_model.load_segmenter(), painted[1], painted[0])
        exchanged = [replace(one, masks=np.roll(one.masks, 1, axis=0)) for one in painted[0]]
        wrong = layouts.score(demo_model.load_segmenter(), painted[1], exchanged)
        iou = [np.mean([np.mean(row["iou"]) for row in rows]) for rows in (right, wrong)]
        there = [np.mean([np.mean(row["there"]) for row in rows]) for rows in (right, wrong)]
        assert there[0] > 0.95 and there[1] < 0.05 and iou[0] > 0.4 > 0.05 > iou[1]

    def test_clip_b_prefers_what_is_there(self, painted: tuple[list[layouts.Layout], torch.Tensor]) -> None:
        exchanged = [replace(one, masks=np.roll(one.masks, 1, axis=0)) for one in painted[0]]
        right, wrong = (
            layouts.clip_rows(demo_model.load_clip_heldout(), painted[1], given) for given in (painted[0], exchanged)
        )
        local = [np.mean([np.mean(row["local"]) for row in rows]) for rows in (right, wrong)]
        assert local[0] > local[1] + 0.2 and np.mean([row["global"] for row in right]) > 0.8

    def test_forms_and_numbers_are_balanced(self) -> None:
        found = [layouts.layout("report", i) for i in range(18)]
        assert {(one.form, len(one.masks)) for one in found} == {(f, n) for f in layouts.FORMS for n in (2, 3, 4)}
        assert all(one.masks.any(axis=(1, 2)).all() for one in found)

    def test_what_is_reported_as_fovea_is_what_the_node_does_by_default(self) -> None:
        widgets = arguments(FoveaDenseDiffusion)
        preset = NODE_METHODS[widgets["method"]["method"]]
        measured = METHODS["fovea"]
        assert isinstance(measured, Steered) and widgets["method"]["method"] == "fovea"
        assert measured.text == pytest.approx(preset.text * widgets["cross_strength"])
        assert measured.image == pytest.approx(preset.image * widgets["self_strength"])
        assert (measured.law, measured.exponent, measured.end) == (
            preset.law, widgets["time_exponent"], widgets["end_percent"]
        )  # fmt: skip
        assert RegionBias(**measured.bias) == preset.bias and widgets["start_percent"] == 0

    def test_described_scores(self) -> None:
        scores = torch.randn(1, 2, 3, 5, generator=torch.Generator().manual_seed(0))
        matched = torch.tensor([[1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [1, 0, 0, 0, 1]]).bool()
        found = {c: [] for c in region_plots.CURVES}
        for head in range(2):
            for place in range(3):
                row = scores[0, head, place].tolist()
                own = [s for s, m in zip(row, matched[place]) if m]
                others = [s for s, m in zip(row, matched[place]) if not m]
                for curve, value in zip(found, (max(own), np.mean(own), max(others), np.mean(others))):
                    found[curve].append(value)
        expected = [np.mean(values) for values in found.values()]
        assert region_plots.describe(scores, matched) == pytest.approx(expected, abs=1e-5)


def test_latent_reports_name_methods_that_exist() -> None:
    """Plots and page for made-up rows of every method."""
    methods = latents.settled({name: 3 for name, method in latent_methods.METHODS.items() if method.timed})
    assert {*latent_plots.PICTURED, *latent_plots.CURVED, *latents.BASELINES} <= set(methods)
    assert not any(methods[name].weight for name in latent_plots.CURVED), "only the whole picture's loss is comparable"
    rng = np.random.default_rng(0)
    rows = {
        name: [{**{key: float(rng.random()) for key in latents.MEASURED}, "seconds": 1.0, "norm": 64.0} for _ in "1234"]
        for name in methods
    }
    baselines = {name: rows[name] for name in latents.BASELINES}
    table = {name: {"settings": asdict(methods[name]), **latents.summary(rows[name], baselines)} for name in methods}
    assert table["DOODL"]["against"]["DOODL"]["clip_b"] == [0, 0, 0]
    page = report_latents.quality_section(
        {"prompts": 4, "steps": 8, "cfg": 4.0, "iterations": 12, "device": "cpu", "table": table}
    )
    assert all(f"| {name} |" in page for name in methods) and "3" in page
    costs = latent_plots.costs_of(methods["past the model, whole"], 16, 2.0, 1.0)
    assert costs == [1.0] * 12 + [2.0] * 3 + [1.0] and len(costs) == 16


COSTS = {"one": 1.0, "search": dict.fromkeys(budgets.SEARCHES, (0.5, 0.9)),
         "move": dict.fromkeys(budgets.TIMED, (1.0, 2.5))}  # fmt: skip


def test_searches_fit_into_their_time_and_their_page_names_them() -> None:
    planned = budgets.plan(COSTS)
    for name, method in planned.items():
        budget, move = float(name.partition(" @ ")[2]), method.iterations > 0
        spent = 0.5 + 0.9 * method.candidates + (1.0 + 2.5 * method.iterations) * move
        assert name == "none @ 1" or budget - 2.5 < spent <= budget + 1.25, name
    whole, moved = planned["halving @ 32"], planned["halving, then DOODL @ 32"]
    assert whole.candidates == 35 and moved.candidates == 17 and moved.iterations > 3
    assert planned["halving, then SGOOL, everywhere @ 32"].candidates == moved.candidates, "from the same best one"

    rng = np.random.default_rng(0)
    rows = {name: [{**{key: float(rng.random()) for key in latents.MEASURED}, "seconds": 1.0,
                    "curve": [(0.5, 1.0), (0.75, 0.25)]} for _ in "1234"] for name in planned}  # fmt: skip
    found = budgets.summary(rows, planned)
    halves = list(zip(budgets.HALVES, budgets.DOUBLES))
    better = np.mean([a["clip_b"] - b["clip_b"] for a, b in zip(rows["halving @ 4"], rows["best of n @ 8"])])
    assert found["halving @ 4"]["against"][budgets.TWICE]["clip_b"][0] == pytest.approx(better, abs=1e-4)
    page = report_latents.budgets_section({
        "prompts": 4, "steps": 8, "cfg": 4.0, "batch": 8, "device": "cpu", "budgets": budgets.BUDGETS, "halves": halves,
        "costs": COSTS, "ceiling": [0.9, 0.8, 1.0], "table": found,
    })  # fmt: skip
    assert all(page.count(f"| {name} |") == 2 for name in budgets.SEARCHED) and f"{100 * better:.1f}" in page
    searches = budgets.plan({**COSTS, "move": {}})
    assert {name.partition(" @ ")[0] for name in searches} == {"none", *budgets.SEARCHES}, "of the flow transformer"
    page = report_latents.transformer_budgets_section({
        "prompts": 4, "budgets": budgets.BUDGETS, "halves": halves, "costs": COSTS,
        "table": budgets.summary({name: rows[name] for name in searches}, searches),
    })  # fmt: skip
    assert all(page.count(f"| {name} |") == 2 for name in budgets.SEARCHES)
    curve = budgets.steps_of(rows["none @ 1"][0], np.array([0.0, 20.0, 24.0, 32.0]))
    assert np.isnan(curve[0]) and curve[1:].tolist() == [1.0, 0.25, 0.25]


def test_counts_fill_the_time() -> None:
    method = latent_methods.Method(candidates=-1)
    assert (
        method.timed
        and method.filled(7).candidates == 7
        and replace(method, candidates=1, iterations=-1).filled(5).iterations == 5
    )
    for name in ("uniform", "center", "spectral"):
        found = latent_methods.saliency_source(name)(torch.rand(2, 3, 32, 32))
        assert found.shape == (2, 32, 32) and found.min() >= 0


def test_twins_colors_and_overlapping_places_come_from_draws_of_their_own() -> None:
    """Drawn with the scene's own stream, its first numbers came again: neighboring hues in 64 % of the pairs where 29 %
    are right, and larger boxes for later classes (correlation 0.5)."""
    colors = COLOUR_NAMES  # around the circle of hues
    pairs = [[colors.index(thing.color) for thing in layouts.twins(i).scene.things] for i in range(300)]
    neighbors = np.mean([abs(a - b) in (1, len(colors) - 1) for a, b in pairs])
    assert neighbors == pytest.approx(2 / 7, abs=0.07)
    things = [layouts.overlapping(i).scene.things for i in range(300)]
    for which in (0, 1):
        each = [(found[which].label, found[which].radius) for found in things]
        assert abs(np.corrcoef(np.array(each).T)[0, 1]) < 0.15
