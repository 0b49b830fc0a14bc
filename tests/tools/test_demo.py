"""`make demo` on the live server: reads graphs, keeps images, tells failures, draws the sheet."""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path

import pytest
from PIL import Image

from tools import demo
from tools.comfy import graph
from tools.errors import SetupError
from tools.release import sheet

ROOT = Path(__file__).resolve().parents[2]
# A graph that needs no model: two colors, saved as a pair.
PLAIN = {
    "red": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 2, "color": 0xFF0000}},
    "blue": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0x0000FF}},
    "save": {
        "class_type": "SaveImage",
        "inputs": {"images": ["red", 0], "filename_prefix": "x"},
        "_meta": {"title": "Red ones"},
    },
    "save2": {
        "class_type": "SaveImage",
        "inputs": {"images": ["blue", 0], "filename_prefix": "x"},
        "_meta": {"title": "Blue one"},
    },
}


@pytest.fixture
def stage(tmp_path: Path, live, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`tools.demo` reading graphs from and writing results below a temporary folder, on the session's server."""
    monkeypatch.setattr(demo, "GRAPHS", tmp_path)
    monkeypatch.setattr(demo, "OUTPUT", tmp_path / "out")
    monkeypatch.setattr(demo, "temporary", lambda name, log: contextlib.nullcontext(live))
    return tmp_path


def write(folder: Path, name: str, content: graph.Graph) -> None:
    (folder / f"{name}.json").write_text(json.dumps(content))


@pytest.mark.server
def test_one_failure_does_not_stop_the_others(stage: Path, capsys: pytest.CaptureFixture) -> None:
    write(stage, "b_good", PLAIN)
    write(stage, "a_refused", {"1": {"class_type": "NoSuchNode", "inputs": {}}})
    broken = json.loads(json.dumps(PLAIN))
    broken["blue"]["inputs"]["width"] = -5
    write(stage, "c_half", broken)
    assert demo.demo() == 1
    report = json.loads((stage / "out" / "report.json").read_text())
    rows = {row["graph"]: row for row in report["graphs"]}
    assert {name: row["status"] for name, row in rows.items()} == {
        "a_refused": "refused",
        "b_good": "success",
        "c_half": "partial",
    }
    assert "width" in rows["c_half"]["error"] and rows["c_half"]["node_errors"]
    assert "c_half" in capsys.readouterr().err
    assert rows["b_good"]["images"] == 3 and rows["b_good"]["seconds"] > 0
    for result in rows["b_good"]["results"]:
        for image in result["images"]:
            data = (stage / "out" / image["file"]).read_bytes()
            assert hashlib.sha256(data).hexdigest() == image["sha256"]
    assert report["comfyui"] and report["torch"] and report["devices"]
    with Image.open(stage / "out" / "contact_sheet.png") as picture:
        colors = {color for _, color in picture.convert("RGB").getcolors(1 << 20)}
    assert {(255, 0, 0), (0, 0, 255)} <= colors


@pytest.mark.server
def test_all_good_is_exit_code_zero(stage: Path) -> None:
    write(stage, "good", PLAIN)
    write(stage, "shapesworld", {"parts": {}})  # the demo model's manifest is no graph
    assert demo.demo() == 0


@pytest.mark.server
def test_unreadable_graph_is_named(stage: Path) -> None:
    (stage / "torn.json").write_text("{")
    with pytest.raises(SetupError, match=r"torn\.json"):
        demo.demo()
    (stage / "torn.json").unlink()
    with pytest.raises(SetupError, match="holds no graph"):
        demo.demo()


@pytest.mark.static
def test_settings_of_a_pair() -> None:
    nodes = graph.load(ROOT / "demo" / "sag_off_on.json")
    before, after = (graph.settings(nodes, node_id) for node_id in graph.save_nodes(nodes))
    assert before["seed"] == after["seed"] and before["steps"] == 20 and "striped red circle" in after["prompt"]
    assert before["patches"] == [] and after["patches"][0]["node"] == "FoveaSelfAttentionGuidance"
    assert "scale" in demo.settings_line(after) and "seed" in demo.settings_line(before)


@pytest.mark.static
def test_sheet_without_pictures(tmp_path: Path) -> None:
    sheet.draw_sheet("x", [sheet.Band("failed", "why", [])], tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as picture:
        assert min(picture.size) > 100


def test_what_is_plain_to_see_comes_first_and_says_what_to_look_for() -> None:
    names = list(graph.demo_graphs(ROOT / "demo"))
    assert set(demo.LOOK_FOR) == set(names), "every graph has its sentence"
    assert demo.in_order([*names, "another"]) == [*demo.LOOK_FOR, "another"]


def test_where_the_time_went() -> None:
    rows = [{"graph": "a", "seconds": 1.0}, {"graph": "b", "seconds": 12.34}]
    assert demo.times(20.0, rows) == "   20.0 s  starting ComfyUI\n   12.3 s  b\n    1.0 s  a"
