"""The page of results says what the data says, and the training log's runs are kept apart."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tools.studies import report, suite
from tools.studies.__main__ import QUALITY, SPEED


def test_page_is_written_from_the_data() -> None:
    facts = json.loads((suite.DOCS / "results.json").read_text())
    assert (suite.DOCS / "results.md").read_text() == report.page(facts)
    known = {name for files in report.reports(suite.RESULTS).values() for name in files}
    assert known - set(facts) == report.NOT_YET, "what is not measured is named on the page"
    for name in facts:  # a clean clone has measured nothing but what it just ran
        assert report.page({name: facts[name]}).startswith(report.HEAD)


@pytest.mark.parametrize("step", [*QUALITY, *SPEED], ids=lambda step: f"{step.module} {step.arguments}"[6:40])
def test_steps_name_arguments_that_exist(step: suite.Step) -> None:
    source = (suite.ROOT / step.module.replace(".", "/")).with_suffix(".py").read_text()
    command = step.command(Path("my results"), Path("docs"), quick=True)
    for word in command[3:]:
        known = re.search(rf'add_argument\(\s*"{word}"', source)
        assert "{" not in word and (known or not word.startswith("--")), word


def test_reports_are_joined_and_what_cannot_be_measured_here_stays(tmp_path: Path) -> None:
    known = {"ediffi": {"losses": 1, "encoders": 2}, "notes": ["kept"]}
    for folder, content in (("eval/ediffi", {"encoders": 3}), ("bench", {"cases": []})):
        (tmp_path / folder).mkdir(parents=True)
        name = "report.json" if folder != "bench" else "scaling.json"
        (tmp_path / folder / name).write_text(json.dumps(content))
    (tmp_path / "eval" / "shapesworld.json").write_text(json.dumps({"table": {}, "rows": [1]}))
    facts = report.gathered(known, tmp_path)
    assert facts["ediffi"] == {"losses": 1, "encoders": 3} and facts["notes"] == ["kept"]
    assert facts["generator"] == {"table": {}} and facts["scaling"] == {"cases": []}
    joined = json.loads((tmp_path / "eval" / "report.json").read_text())
    assert set(joined) == {"generator", "ediffi"} and joined["generator"]["rows"] == [1]
    assert set(json.loads((tmp_path / "bench" / "report.json").read_text())) == {"scaling"}


def test_all_steps_run_though_one_fails(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    steps = [suite.Step("tools.no_such_module"), suite.Step("json.tool", "--help")]
    assert suite.run(steps, tmp_path, tmp_path, quick=False) == 1
    assert "failed: tools.no_such_module" in capfd.readouterr().out


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
