"""Sections of the results page from made-up rows, as the studies write them."""

from __future__ import annotations

import numpy as np

from tools.studies.encoder_schedule import section as encoder_schedule
from tools.studies.experts import section as experts
from tools.studies.experts import unlike
from tools.studies.regions import section as regions
from tools.studies.regions import trained
from tools.studies.regions.methods import START
from tools.studies.regions.quality import summary
from tools.studies.sag import faults
from tools.studies.sag import section as sag


def layouts(rng: np.random.Generator, count: int = 6) -> list[dict]:
    """Rows as `regions.quality.Layouts.run` keeps them."""
    return [
        {"form": "box", "regions": 2, "seconds": 1.0, "background": 1.0, "all right": 0.5, "extra": 0.25,
         "features": rng.normal(size=4).tolist(), "global": 0.8,
         **{key: rng.random(2).tolist() for key in ("iou", "local")},
         "there": rng.integers(0, 2, 2).astype(float).tolist()}
        for _ in range(count)
    ]  # fmt: skip


def test_a_trained_model_is_told_beside_its_sham() -> None:
    rng = np.random.default_rng(0)
    rows = {model: {name: layouts(rng) for name in trained.COMPARED} for model in trained.MODELS}
    table = trained.table_of(rows, rng.normal(size=(8, 4)))
    own, sham = (np.mean([np.mean(row["there"]) for row in rows[model]["paper"]]) for model in ("trained", "sham"))
    assert abs(table["trained"]["paper"]["there_over_sham"][0] - (own - sham)) < 1e-4
    page = regions.trained_section({"layouts": 6, "minutes": {"trained": 12.1, "sham": 11.9}, "table": table})
    assert all(page.count(f"| {name} |") == 1 for name in trained.COMPARED) and f"{100 * (own - sham):.1f} [" in page


def test_the_transformers_starts_are_told_beside_the_unets() -> None:
    rng = np.random.default_rng(1)
    made = {name: layouts(rng) for name in START}
    table = {name: {**summary(rows, rng.normal(size=(8, 4)), made["none"]), "time": 1.0} for name, rows in made.items()}
    report = {"layouts": 6, "table": table}
    page = regions.transformer_section(report, {**report, "layouts": 9})
    assert page.count("| none |") == 2 and all(page.count(f"| {name} |") == 1 for name in START if name != "none")


def test_local_faults_are_told_with_their_verdict() -> None:
    rng = np.random.default_rng(2)

    def made() -> dict[str, np.ndarray]:
        return {"borders": rng.random(16), "specks": rng.random(16), "right": rng.random(16),
                "features": rng.normal(size=(16, 6))}  # fmt: skip

    none, real = made(), made()
    rows = []
    for name in ("none", "SAG", "six steps"):
        measured = faults.measure(none if name == "none" else made(), none, real, True)
        way = {"prompted": True, "cfg": 4.0, "scale": 0.75, "blocks": "auto", "blur_sigma": 2.0,
               "mask_mode": "threshold", "window": [0.0, 1.0]}  # fmt: skip
        rows.append({"name": name, **way, **measured, "verdict": faults.verdict(measured)})
    report = {"name": "dit", "tuning": 256, "painted": {"borders": 0.01, "specks": 0.1}, "table": rows}
    page = sag.faults_section(report)
    assert "Local faults, the flow transformer" in page and page.count("| yes, CFG 4 |") == 3
    assert "256 other pictures" in sag.rule_section(report)
    for low, wanted in ((0.01, rows[1]["verdict"]), (-0.01, sag.BLIND)):
        rows[2]["borders_less_none"] = [0.02, low, 0.05]
        lines = [line for line in sag.faults_section(report).splitlines() if "CFG 4" in line]
        told = [line.split(" | ")[-1].strip(" |") for line in lines]
        assert told == ["-", wanted, rows[2]["verdict"]], "a measure that does not see worse pictures tells nothing"


def test_experts_and_swaps_are_told() -> None:
    row = {key: [0.5, 0.25, 0.75] for key in unlike.MEASURED}
    page = experts.unlike({"n": 8, "rows": [{"name": "the UNet alone", **row}]})
    assert "| the UNet alone | 50.0 % [25.0, 75.0] |" in page
    found = {"steps": 20, "n": 8, "swaps": [0, 10], "first": [0.0, 0.5], "second": [1.0, 0.25], "far": [0.2, 0.1]}
    assert "| 50 % | 50 % | 25 % | 0.100 |" in encoder_schedule.transformer_swap(found)
