"""The shipped templates and the graphs in docs/graphs: sound by themselves, right for the live server, and they run."""

from __future__ import annotations

import copy
import json
import os
import re
from pathlib import Path

import folder_paths
import pytest
from pictures import is_blank
from PIL import Image

import fovea
from tools.comfy import workflow as ui
from tools.comfy.api import Refused

ROOT = Path(__file__).resolve().parents[2]
TEMPLATES = sorted((ROOT / "workflows").glob("*.json"))
WORKFLOWS = [*TEMPLATES, *sorted((ROOT / "docs" / "graphs").glob("*.json"))]
WIDEST, TALLEST = 1900, 1300  # a graph that is opened in 1600 x 1000 pixels: above 57 %, where the editor draws no text
LONGEST = 36  # letters of a name; the editor cuts what is longer
every_template = pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
every_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
NEEDY = [path for path in WORKFLOWS if ui.needs_files(json.loads(path.read_text(encoding="utf-8")))]
# Where there is a browser, its tests queue the templates, and see that the editor queues the very graph.
QUEUED_IN_THE_EDITOR = TEMPLATES if os.environ.get("FOVEA_NEEDS_BROWSER") else []
READY = [path for path in WORKFLOWS if path not in [*NEEDY, *QUEUED_IN_THE_EDITOR]]
every_ready_workflow = pytest.mark.parametrize("path", READY, ids=lambda path: path.stem)
every_needy_workflow = pytest.mark.parametrize("path", NEEDY, ids=lambda path: path.stem)


def load(path: Path) -> ui.Workflow:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.static
def test_there_are_few_templates_and_they_have_names() -> None:
    """The editor shows the name of the file as the title, and that is all that it says about a template."""
    assert 0 < len(TEMPLATES) <= 14
    assert not [path.name for path in TEMPLATES if len(path.stem) > LONGEST or "_" in path.stem]
    assert not [path.name for path in TEMPLATES if re.search(r'[#%?:"*<>|\\]', path.name)], "not on every system"
    firsts = [path.stem for path in TEMPLATES if re.match(r"\d ", path.stem)]
    assert [name[0] for name in firsts] == ["1", "1", "2", "2", "3", "3"] and firsts == [p.stem for p in TEMPLATES[:6]]
    assert not (ROOT / "example_workflows").exists(), "with two template folders one of them answers 404"


@pytest.mark.static
@every_workflow
def test_structure(path: Path) -> None:
    workflow = load(path)
    assert not ui.structure_problems(workflow)
    notes = [node for node in workflow["nodes"] if node["type"] in ui.NOTES]
    assert notes and all(node["widgets_values"][0].strip() for node in notes), "a template explains itself in a note"


@pytest.mark.static
@every_workflow
def test_it_opens_readable(path: Path) -> None:
    """Whole on the screen, at a size at which the classic renderer draws text; notes above the graph."""
    workflow = load(path)
    width, height = ui.extent(workflow)
    assert width <= WIDEST and height <= TALLEST
    notes = [node for node in workflow["nodes"] if node["type"] in ui.NOTES]
    graph = [node for node in workflow["nodes"] if node["type"] not in ui.NOTES]
    assert max(ui.sides(node)[3] for node in notes) <= min(ui.sides(node)[1] for node in graph)
    assert {node["type"] for node in graph} <= set(ui.node_heights()), "run python -m tools.release.node_heights"


@pytest.mark.static
def test_every_node_is_in_a_template() -> None:
    used = {node["type"] for path in TEMPLATES for node in load(path)["nodes"]}
    every = {node.define_schema().node_id for module in fovea.MODULES for node in module.NODES}
    assert every - used == {"FoveaScorerFromNode"}, "which needs a node of another pack that rates pictures"


@pytest.mark.static
@every_template
def test_thumbnail(path: Path) -> None:
    with Image.open(path.with_suffix(".jpg")) as picture:
        assert picture.format == "JPEG" and min(picture.size) >= 256
    assert path.with_suffix(".jpg").stat().st_size < 300_000


@pytest.mark.server
@every_workflow
def test_against_the_live_server(path: Path, object_info: dict) -> None:
    assert not ui.node_problems(load(path), object_info)


@pytest.mark.static
@every_needy_workflow
def test_files_are_told(path: Path) -> None:
    """Every weight file that a node names comes with an address and a folder of ComfyUI's."""
    for node in load(path)["nodes"]:
        named = {value for value in node.get("widgets_values") or [] if str(value).endswith(".safetensors")}
        told = {model["name"]: model for model in ui.models_of(node)}
        assert named == set(told), node["type"]
        for name, model in told.items():
            assert model["url"].startswith("https://huggingface.co/") and model["url"].endswith(f"/{name}")
            assert model["directory"] in folder_paths.folder_names_and_paths


@pytest.mark.server
@every_needy_workflow
def test_nothing_but_the_files_is_missing(path: Path, client, object_info: dict) -> None:
    """The server refuses it for its files alone: every link and every other value is right."""
    workflow = load(path)
    files = {model["name"] for node in workflow["nodes"] for model in ui.models_of(node)}
    try:
        told = client.queue(ui.to_api(workflow, object_info)).node_errors  # what needs no file is run
    except Refused as why:
        told = why.node_errors
    errors = [error for node in told.values() for error in node["errors"]]
    assert errors and {error["type"] for error in errors} <= {"value_not_in_list", "custom_validation_failed"}
    for error in errors:
        assert error["extra_info"].get("received_value") in files or "example.png" in error["details"]


@pytest.mark.server
@every_ready_workflow
def test_runs(path: Path, client, object_info: dict, demo_model: Path) -> None:
    graph = ui.to_api(load(path), object_info)
    run = client.run(graph)
    assert run.status == "success", run.explain()
    images = [image for node_id in run.outputs for image in run.images(node_id)]
    assert images and not any(is_blank(client.image(reference)) for reference in images)


@pytest.mark.static
def test_the_checks_bite() -> None:
    """A workflow broken in each way must be found out: otherwise the tests above could not fail."""
    sound = load(WORKFLOWS[0])

    def problems(change) -> list[str]:
        broken = copy.deepcopy(sound)
        change(broken)
        return ui.structure_problems(broken)

    assert problems(lambda w: w["nodes"].append(w["nodes"][0]))
    assert problems(lambda w: w["nodes"][0].update(mode=4))
    assert problems(lambda w: w["links"].pop())
    assert problems(lambda w: w["links"][0].__setitem__(5, "NOISE"))
    assert problems(lambda w: w["nodes"][0].update(pos=w["nodes"][1]["pos"]))
    painter = next(node for node in sound["nodes"] if node["type"] == "FoveaRegionPainter")
    assert ui.taken_height({**painter, "size": [460, 10]}) > 500, "what the editor makes higher is higher"
    assert ui.taken_height({**painter, "flags": {"collapsed": True}}) == 0
    assert ui.extent({**sound, "nodes": [{**painter, "pos": [0, 0]}, {**painter, "pos": [2000, 0]}]})[0] == 2460
    assert ui.value_problems("cfg", 900.0, ("FLOAT", {"min": 0.0, "max": 100.0}))
    assert ui.value_problems("sampler", "x", (["euler"], {}))
    assert ui.value_problems("steps", "20", ("INT", {}))
    assert not ui.value_problems("steps", 20, ("INT", {"min": 1, "max": 100}))
