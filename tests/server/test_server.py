"""The live server over HTTP: it starts with the pack, runs the demo graphs, survives cancels and bad input."""

from __future__ import annotations

import asyncio
import copy
import io
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from fovea import comfy_entrypoint
from tools.comfy import graph as graphs
from tools.comfy.api import Client, Graph, Refused
from tools.soak import short

pytestmark = pytest.mark.server

ROOT = Path(__file__).resolve().parents[2]
DEMO = graphs.demo_graphs(ROOT / "demo")
_seeds = itertools.count(1_000)


def fresh(graph: Graph, **sampler: object) -> Graph:
    """A copy whose samplers share a seed that was never used before, so that nothing comes from the server's cache."""
    graph, seed = copy.deepcopy(graph), next(_seeds)
    for node_id in graphs.samplers(graph):
        graph[node_id]["inputs"].update(seed=seed, **sampler)
    return graph


def base() -> Graph:
    return graphs.load(DEMO["base"])


def picture(client: Client, reference: dict[str, str]) -> Image.Image:
    return Image.open(io.BytesIO(client.image(reference))).convert("RGB")


def complaints(log: str) -> list[str]:
    """Lines of a server log that tell of a warning, an error or a traceback."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", log)
    return [line for line in plain.splitlines() if re.search(r"\[(WARNING|ERROR|CRITICAL)\]|Traceback|Warning:", line)]


@pytest.fixture
def quiet(live) -> Iterator[None]:
    """Fails a test during which the server's log complained."""
    before = len(live.log_text())
    yield
    assert not complaints(live.log_text()[before:])


def test_server_lists_our_nodes(object_info: dict) -> None:
    nodes = asyncio.run(asyncio.run(comfy_entrypoint()).get_node_list())
    assert nodes
    for node in nodes:
        info = object_info[node.define_schema().node_id]
        assert info["python_module"] == "custom_nodes.fovea"
        assert info["category"].startswith("Fovea/") and info["description"]


def test_the_packs_name_stands_where_a_name_is_taken(client: Client, object_info: dict) -> None:
    """Taken: by a node of ComfyUI's, or by one in the editor's list of often used nodes of all packs."""

    def letters(name: str) -> str:
        return re.sub(r"[^a-z0-9]", "", name.lower())

    often = client.json("/assets/sorted-custom-node-map.json")
    foreign = {name: info for name, info in object_info.items() if not name.startswith("Fovea")}
    taken = {letters(name) for name in (*often, *foreign, *(info["display_name"] or "" for info in foreign.values()))}
    assert len(often) > 1000 and letters("KSampler") in taken, "otherwise this test reads the wrong lists"
    for info in (info for name, info in object_info.items() if name.startswith("Fovea")):
        plain, suffix, rest = info["display_name"].partition(" (Fovea)")
        assert bool(suffix) == (letters(plain) in taken) and not rest, info["display_name"]


def test_start_is_quiet(live) -> None:
    """Up to where the server answers: other tests queue bad graphs on purpose, which the log tells too."""
    start, ready, _ = live.log_text().partition("To see the GUI go to")
    assert ready and "Import times for custom nodes" in start, "otherwise this test reads the wrong log"
    assert not [line for line in complaints(start) if "fovea" in line.lower()]
    assert "IMPORT FAILED" not in start


def test_help_pages_are_served(client: Client) -> None:
    """In every language, and their pictures: the editor asks for docs/NODE/zh.md, then docs/NODE.md."""
    folder = ROOT / "web" / "docs"
    for path in [*folder.rglob("*.md"), *folder.rglob("*.jpg")]:
        assert client.get(f"/extensions/fovea/docs/{path.relative_to(folder).as_posix()}").content == path.read_bytes()


def test_templates_are_offered(client: Client) -> None:
    offered = client.json("/workflow_templates")["fovea"]
    assert sorted(offered) == sorted(path.stem for path in (ROOT / "workflows").glob("*.json"))
    for name in offered:
        for suffix in ("json", "jpg"):
            assert client.get(f"/api/workflow_templates/fovea/{name}.{suffix}").content


def test_complaints_are_found() -> None:
    assert complaints("\x1b[33m[WARNING]\x1b[0m fovea: x\nTraceback (most recent call last):\n[INFO] y\n") != []
    assert complaints("[INFO] fine\n") == []


@pytest.mark.parametrize("name", list(DEMO))
def test_demo_graph_runs(name: str, client: Client, demo_model: Path, quiet: None) -> None:
    """With few steps: `make demo` runs them in full (tests/docs/test_readme.py)."""
    graph = short(graphs.load(DEMO[name]), 5_000 + sorted(DEMO).index(name))  # its own, whatever ran before
    steps: list[tuple[str, int, int]] = []
    run = client.run(graph, lambda *step: steps.append(step))
    assert run.status == "success", run.explain()
    samplers = set(graphs.samplers(graph))
    assert samplers and not samplers & set(run.cached)
    assert {node_id for node_id, value, total in steps if value == total} >= samplers, "progress reaches the client"
    saves = graphs.save_nodes(graph)
    pictures = {node_id: [picture(client, image) for image in run.images(node_id)] for node_id in saves}
    for node_id in saves:
        upstream = graphs.upstream(graph, node_id)
        sizes = {graph[found]["inputs"]["batch_size"] for found in upstream if "batch_size" in graph[found]["inputs"]}
        assert len(pictures[node_id]) in (sizes or {1}), "a chart is one picture"
        assert not sizes or all(image.size == (256, 256) for image in pictures[node_id])
        assert len({image.tobytes() for image in pictures[node_id]}) == len(pictures[node_id])
    if len(saves) == 2:  # a pair shows what a node does: same seed, yet another picture
        before, after = (pictures[node_id] for node_id in saves)
        other = [a.tobytes() != b.tobytes() for a, b in zip(before, after)]
        # A search may find nothing better than the noise that both begin with, for one of its pictures.
        assert any(other) if name == "optimize" else all(other)


def test_same_seed_same_pictures(client: Client, demo_model: Path) -> None:
    graph = fresh(base(), steps=4)
    results = []
    for _ in range(2):
        run = client.run(graph)
        assert "sample_base" not in run.cached
        results.append([picture(client, image).tobytes() for image in run.images("save_base")])
        client.forget()
        settle(client)
    assert results[0] == results[1] and results[0]


def settle(client: Client) -> None:
    """Run something trivial: the server acts on /free when it next takes up work."""
    assert (
        client.run(
            {
                "1": {
                    "class_type": "EmptyImage",
                    "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": next(_seeds)},
                },
                "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
            }
        ).status
        == "success"
    )


def test_interrupted_prompt_leaves_the_server_usable(client: Client, demo_model: Path, quiet: None) -> None:
    for graph in (base(), graphs.load(DEMO["sag_off_on"])):
        seen: list[int] = []

        def stop_at_second_step(node_id: str, value: int, total: int, seen: list[int] = seen) -> None:
            seen.append(value)
            if len(seen) == 2:
                client.interrupt()

        run = client.run(fresh(graph, steps=1000), stop_at_second_step)
        assert run.status == "interrupted" and len(seen) < 900
        after = client.run(fresh(graph, steps=2))
        assert after.status == "success", after.explain()


def refusal(client: Client, graph: Graph) -> str:
    """What the server says about an invalid graph of one output."""
    with pytest.raises(Refused) as refused:
        client.run(graph)
    assert refused.value.status == 400
    return str(refused.value)


def guided() -> Graph:
    """The guided half of the demo pair."""
    graph = fresh(graphs.load(DEMO["sag_off_on"]))
    return {node_id: graph[node_id] for node_id in graphs.upstream(graph, "save_with")}


def still_alive(client: Client) -> bool:
    return client.run(fresh(base(), steps=1)).status == "success"


def test_wrong_type_wired(client: Client, demo_model: Path) -> None:
    graph = guided()
    graph["sag"]["inputs"]["model"] = ["load", 1]
    message = refusal(client, graph)
    assert "FoveaSelfAttentionGuidance" in message and "model" in message and "CLIP" in message
    assert still_alive(client)


def test_one_invalid_branch_is_told(client: Client, demo_model: Path) -> None:
    """The server runs the valid half of a graph; the client must not call that a success."""
    graph = fresh(graphs.load(DEMO["sag_off_on"]), steps=1)
    graph["sag"]["inputs"]["model"] = ["load", 1]
    run = client.run(graph)
    assert run.status == "partial" and "FoveaSelfAttentionGuidance" in run.explain()
    assert run.images("save_without") and not run.images("save_with")


def test_batch_of_none(client: Client, demo_model: Path) -> None:
    graph = fresh(base())
    graph["latent"]["inputs"]["batch_size"] = 0
    message = refusal(client, graph)
    assert "EmptyLatentImage" in message and "batch_size" in message
    assert still_alive(client)


def test_widgets_out_of_bounds(client: Client, object_info: dict, demo_model: Path) -> None:
    """Every bounded number of our nodes, given one beyond its bound, is refused by name."""
    graph = guided()
    bounded = {
        name: spec[1]["max"]
        for group in ("required", "optional")
        for name, spec in object_info["FoveaSelfAttentionGuidance"]["input"].get(group, {}).items()
        if spec[0] in ("INT", "FLOAT")
    }
    assert bounded
    for name, limit in bounded.items():
        wrong = copy.deepcopy(graph)
        wrong["sag"]["inputs"][name] = limit + 1
        message = refusal(client, wrong)
        assert "FoveaSelfAttentionGuidance" in message and name in message
    assert still_alive(client)


@pytest.mark.parametrize(("width", "height"), [(250, 256), (200, 312), (72, 64)])
def test_odd_sizes(width: int, height: int, client: Client, demo_model: Path, quiet: None) -> None:
    """Sizes that are no multiple of 8, or whose token grid is odd, run at the next smaller multiple of 8."""
    graph = fresh(graphs.load(DEMO["sag_off_on"]), steps=2)
    graph["latent"]["inputs"].update(width=width, height=height, batch_size=1)
    run = client.run(graph)
    assert run.status == "success", run.explain()
    for node_id in graphs.save_nodes(graph):
        assert picture(client, run.images(node_id)[0]).size == (width // 8 * 8, height // 8 * 8)
