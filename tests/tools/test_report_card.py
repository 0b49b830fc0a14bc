"""The report card of a generator: rows of every prompt, whatever was asked for before, and the page's own are kept."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from tools.studies import record
from tools.studies.generator import quality


@pytest.fixture
def drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Gray pictures in place of a model's. -> how many were drawn at once, call by call."""
    calls: list[int] = []
    demo = SimpleNamespace(more=(), reader=None, model=SimpleNamespace(load_device="cpu"))
    demo.ready = lambda *_: demo

    def sample(_demo: object, captions: list[str], *_: object) -> torch.Tensor:
        calls.append(len(captions))
        return torch.full((len(captions), 16, 16, 3), 0.5)

    monkeypatch.setattr(quality, "begin", lambda: None)
    monkeypatch.setattr(quality, "DemoSetup", lambda *_: demo)
    monkeypatch.setattr(quality, "sample", sample)
    monkeypatch.setattr(quality.judge, "read", lambda _, pictures: [quality.judge.Reading((), "white")] * len(pictures))
    return calls


def rows(out: Path, prompts: int, monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    monkeypatch.setattr(sys, "argv", ["quality", "--prompts", str(prompts), "--out", str(out)])
    quality.main()
    return json.loads((out / "shapesworld.json").read_text())["rows"]


def test_a_short_batch_does_not_stand_for_a_whole_one(
    tmp_path: Path, drawn: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(rows(tmp_path, 5, monkeypatch)) == 5
    assert Image.open(tmp_path / "shapesworld.png").size == (5 * 8, 8), "fewer than a batch are shown too"
    assert [row["index"] for row in rows(tmp_path, 12, monkeypatch)] == list(range(12))
    assert [row["index"] for row in rows(tmp_path, 18, monkeypatch)] == list(range(18))
    assert Image.open(tmp_path / "shapesworld.png").size == (8 * 8, 2 * 8)
    assert drawn == [5, 8, 4, 8, 2], "whole batches are kept"


@pytest.mark.parametrize(("arguments", "name"), [
    ("", "shapesworld"),
    ("--model dit --wording placed", "dit_placed"),
    ("--prompts 16 --out other", "shapesworld"),
    ("--prompts 16", "shapesworld_prompts16"),
    ("--set tune --cfg 2", "shapesworld_settune_cfg2.0"),
    ("--model dit --wording related --steps 6", "dit_related_steps6"),
    ("--demo some/early", "shapesworld_demoearly"),
])  # fmt: skip
def test_only_the_usual_settings_write_what_the_page_reads(arguments: str, name: str) -> None:
    parser = quality.arguments()
    assert quality.report_name(parser.parse_args(arguments.split()), parser.get_default) == name


def test_the_commit_says_whether_its_files_were_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "ROOT", tmp_path)
    assert record.commit() == "", "an archive has none"
    for name in ("code.py", "docs/page.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("1")
    for command in ("init -q", "add .", "-c user.name=x -c user.email=x commit -qm x"):
        subprocess.run(["git", *command.split()], cwd=tmp_path, check=True)
    clean = record.commit()
    (tmp_path / "docs" / "page.md").write_text("2")
    assert len(clean) == 40 and record.commit() == clean
    (tmp_path / "code.py").write_text("2")
    assert record.commit() == f"{clean}+"
