"""Graphs that were saved before inputs were renamed open with today's nodes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

import fovea
from tools.comfy.workflow import choices_of, inputs_of, widget_slots
from tools.release import rename_inputs

NODES = {node.define_schema().node_id: node for module in fovea.MODULES for node in module.NODES}
PAINTING = {"version": 1, "width": 64, "height": 64, "caption": "a star", "map": "",
            "regions": [{"id": 1, "color": "#ff0000", "phrase": "a star", "strength": 1, "hidden": False}]}  # fmt: skip
REGIONS = {"caption": "a star", "negative": "", "mode": "caption", "encode_phrases": False, "blocks": "all",
           "start_percent": 0.0, "end_percent": 0.5}  # fmt: skip
SEARCH = {"text": "a star", "seed": 5, "sampler_steps": 8, "scheduler": "normal", "cfg": 4.0}
OLD: dict[str, dict[str, Any]] = {
    "FoveaSelfAttentionGuidance": {"every": 2, "branch": "uncond", "kernel": "taps", "scale": 0.5},
    "FoveaDenseDiffusion": {**REGIONS, "operator": "paper", "sampled": 8},
    "FoveaPaintWithWords": {**REGIONS, "measure": "row max", "strength": 0.4},
    "FoveaRegionsToConditioning": {"caption": "a star", "caption_strength": 0.5},
    "FoveaRegion": {"phrase": "a star", "negative": "", "strength": 1.0, "mask": ["1", 0]},
    "FoveaRegionsFromBoxes": {"phrases": "a star"},
    "FoveaRegionPainter": {"width": 64, "height": 64, "painting": json.dumps(PAINTING)},
    "FoveaOptimizeLatent": {**SEARCH, "updates": 3, "rate": 1.0, "rule": "turn", "parts": "crops", "refresh": 1,
                            "draws": 4, "through": 3},
    "FoveaBestOfN": {**SEARCH, "count": 4},
    "FoveaCLIPGuidance": {"text": "a star"}, "FoveaScoreImages": {"text": "a star"},
    "FoveaSaliencyMap": {"spread": True},
    "FoveaExpert": {"level": "sigma", "below": 0.875, "cfg": 1.0},
    "FoveaExpertSwitch": {"decide_by": "never back", "blend": 0.0, "memory": "auto"},
    "FoveaEncoderSchedule": {"text": "a star", "clip_text": "", "t5_text": "", "parts": 8, "curves": "curves below"},
    "FoveaAttentionMap": {"text": "a star", "phrase": "star"},
}  # fmt: skip


@pytest.mark.parametrize("kind", list(OLD))
def test_every_input_is_one_of_today(kind: str) -> None:
    renamed = rename_inputs.rename_values(kind, OLD[kind])
    specs = inputs_of(NODES[kind].GET_NODE_INFO_V1(), renamed)
    assert set(renamed) <= set(specs) and len(renamed) >= len(OLD[kind])
    for name, value in renamed.items():
        choices = choices_of(*specs[name])
        assert not choices or value in choices, f"{name}: {value}"
    assert rename_inputs.rename_values(kind, renamed) == renamed, "what is new stays"


@pytest.mark.parametrize("through, path, steps", [(-1, "all_steps", 1), (0, "past_model", 1), (5, "last_steps", 5)])
def test_one_input_became_two(through: int, path: str, steps: int) -> None:
    found = rename_inputs.rename_values("FoveaOptimizeLatent", {"through": through})
    assert (found["preset.gradient_path"], found["preset.backprop_steps"]) == (path, steps)


def test_drawings_have_todays_keys() -> None:
    found = json.loads(rename_inputs.rename_values("FoveaRegionPainter", OLD["FoveaRegionPainter"])["painting"])
    assert found["prompt"] == "a star" and found["regions"][0]["prompt"] == "a star"
    assert "caption" not in found and "phrase" not in found["regions"][0]


def test_files_are_rewritten_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A workflow's widgets go by position, a graph's by name."""
    order = rename_inputs.WIDGETS["FoveaOptimizeLatent"]
    old = {**OLD["FoveaOptimizeLatent"], "control_after_generate": "fixed", "salient_weight": 0.0, "cutouts": 0,
           "mode": "checkpoint", "patience": 0, "seconds": 0.0}  # fmt: skip
    node = {"id": 1, "type": "FoveaOptimizeLatent", "widgets_values": [old[name] for name in order],
            "inputs": [{"name": "text", "link": 3, "widget": {"name": "text"}}], "outputs": []}  # fmt: skip
    inner = {"nodes": [node], "id": "inner"}
    workflow, graph = tmp_path / "workflow.json", tmp_path / "graph.json"
    workflow.write_text(json.dumps({"nodes": [node], "definitions": {"subgraphs": [inner]}}))
    graph.write_text(json.dumps({"1": {"class_type": "FoveaBestOfN", "inputs": OLD["FoveaBestOfN"]}}))
    monkeypatch.setattr(sys, "argv", ["rename_inputs", str(workflow), str(graph)])
    rename_inputs.main()
    found = json.loads(workflow.read_text())
    for renamed in (found["nodes"][0], found["definitions"]["subgraphs"][0]["nodes"][0]):
        slots = widget_slots(NODES["FoveaOptimizeLatent"].GET_NODE_INFO_V1(), renamed["widgets_values"])
        values = dict(zip(slots, renamed["widgets_values"]))
        own = {name.removeprefix("preset."): value for name, value in values.items() if name and "." in name}
        assert values["prompt"] == "a star" and values["seed"] == 5 and values["preset"] == "custom"
        assert own["candidates"] == 4 and own["update_rule"] == "spherical" and own["salient_views"] == "crops"
        assert own["gradient_path"] == "last_steps" and own["backprop_steps"] == 3 and values["patience"] == 0
        assert renamed["inputs"][0]["name"] == renamed["inputs"][0]["widget"]["name"] == "prompt"
    assert json.loads(graph.read_text())["1"]["inputs"]["steps"] == 8
    rename_inputs.main()
    assert json.loads(workflow.read_text()) == found, "what is new stays"
