"""The page of results says what the data says, and the training log's runs are kept apart."""

from __future__ import annotations

import json
from pathlib import Path

from tools import report


def test_page_is_written_from_the_data() -> None:
    assert report.PAGE.read_text() == report.page(json.loads(report.DATA.read_text()))


def test_runs_of_a_stage_are_told_apart(tmp_path: Path) -> None:
    rows = [
        {"stage": "vae", "device": "cpu", "minutes": 0.1, "step": 0, "loss": 9},
        {"stage": "vae", "device": "cpu", "minutes": 2.0, "step": 50, "loss": 5},
        {"stage": "unet", "device": "cpu", "minutes": 0.1, "step": 0, "loss": 1},
        {"stage": "vae", "device": "cpu", "minutes": 3.0, "step": 25, "loss": 4},  # killed, resumed from a checkpoint
        {"stage": "unet", "device": "cpu", "minutes": 0.2, "step": 0, "loss": 0.5},  # weights kept, steps anew
    ]
    log = tmp_path / "log.jsonl"
    log.write_text("\n".join(json.dumps(row) for row in rows))
    runs = [(r["stage"], r["minutes"], r["first"]["loss"], r["last"]["loss"]) for r in report.training_summary(log)]
    assert runs == [("vae", 3.0, 9, 4), ("unet", 0.1, 1, 1), ("unet", 0.2, 0.5, 0.5)]
