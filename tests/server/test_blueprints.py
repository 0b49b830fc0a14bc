"""Subgraph blueprints: sound by themselves, and the server offers them as this pack's."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from tools.comfy import workflow as ui
from tools.release.blueprint import INPUT, OUTPUT

ROOT = Path(__file__).resolve().parents[2]
BLUEPRINTS = sorted((ROOT / "subgraphs").glob("*.json"))
every_blueprint = pytest.mark.parametrize("path", BLUEPRINTS, ids=lambda path: path.stem)


def load(path: Path) -> ui.Workflow:
    return json.loads(path.read_text(encoding="utf-8"))


def inside(blueprint: ui.Workflow) -> dict[str, Any]:
    (graph,) = blueprint["definitions"]["subgraphs"]
    return graph


def problems(blueprint: ui.Workflow) -> list[str]:
    """Links and ids inside, and what goes in and out."""
    (node,), graph = blueprint["nodes"], inside(blueprint)
    ends = [{"id": INPUT, "outputs": [{"type": each["type"], "links": each["linkIds"]} for each in graph["inputs"]]},
            {"id": OUTPUT, "inputs": [{"type": each["type"], "link": each["linkIds"][0]} for each in graph["outputs"]]}]
    for end in ends:
        end |= {"type": "end", "pos": [-9000 * end["id"], 0], "size": [1, 1]}
    keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    links = [[link[key] for key in keys] for link in graph["links"]]
    found = ui.structure_problems({"nodes": [*graph["nodes"], *ends], "links": links})
    for side in ("inputs", "outputs"):
        outer, inner = ([(each["name"], each["type"]) for each in part[side]] for part in (node, graph))
        found += [] if outer == inner else [f"the node's {side} are not its graph's"]
    return found + ([] if node["type"] == graph["id"] else ["the node is of another graph"])


@pytest.mark.static
def test_the_three_jobs_are_there() -> None:
    assert [path.stem for path in BLUEPRINTS] == [
        "Paint with words (Fovea)", "The best starting noise (Fovea)", "Two models in one run (Fovea)",
    ]  # fmt: skip


@pytest.mark.static
@every_blueprint
def test_structure(path: Path) -> None:
    blueprint = load(path)
    assert not problems(blueprint)
    assert inside(blueprint)["name"] == blueprint["nodes"][0]["title"] == path.stem and inside(blueprint)["description"]
    for change in (
        lambda b: b["nodes"][0]["inputs"].pop(), lambda b: inside(b)["links"].pop(),
        lambda b: inside(b)["outputs"][0].update(type="NOISE"), lambda b: b["nodes"][0].update(type="other"),
    ):  # fmt: skip
        broken = copy.deepcopy(blueprint)
        change(broken)
        assert problems(broken), "otherwise this test could not fail"


@pytest.mark.server
@every_blueprint
def test_against_the_live_server(path: Path, client, object_info: dict) -> None:
    blueprint = load(path)
    assert not ui.node_problems(inside(blueprint), object_info)
    nodes = {str(node["id"]): node for node in inside(blueprint)["nodes"]}
    shown = blueprint["nodes"][0]["properties"]["proxyWidgets"]
    assert shown
    for node, widget in shown:
        assert widget in ui.widget_slots(object_info[nodes[node]["type"]], nodes[node]["widgets_values"])


@pytest.mark.server
def test_the_server_lists_them(client) -> None:
    listed = {key: entry for key, entry in client.json("/global_subgraphs").items()
              if entry["info"]["node_pack"] == "custom_nodes.fovea"}  # fmt: skip
    assert sorted(entry["name"] for entry in listed.values()) == [path.stem for path in BLUEPRINTS]
    for key, entry in listed.items():
        path = ROOT / "subgraphs" / f"{entry['name']}.json"
        assert client.json(f"/global_subgraphs/{key}")["data"] == path.read_text(encoding="utf-8")
