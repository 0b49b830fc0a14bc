"""Reads API-format graphs: which nodes save images, and with which settings those were sampled."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from ..errors import SetupError

Graph = dict[str, dict[str, Any]]
# Enough that everything happens once; a switch of models needs two steps.
FEW = {"steps": 3, "iterations": 1, "candidates": 2, "n": 2}


# The demo model's own manifest lies in the same folder.
NOT_GRAPHS = {"shapesworld.json"}


def demo_graphs(folder: Path) -> dict[str, Path]:
    """Name -> file of every graph that `make demo` queues."""
    return {path.stem: path for path in sorted(folder.glob("*.json")) if path.name not in NOT_GRAPHS}


def load(path: Path) -> Graph:
    try:
        graph = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SetupError(f"{path} is no readable JSON graph: {error}") from None
    if not isinstance(graph, dict) or not all(
        isinstance(node, dict) and "class_type" in node and isinstance(node.get("inputs"), dict)
        for node in graph.values()
    ):
        raise SetupError(f"{path} is no API-format graph (node id -> class_type, inputs).")
    return graph


def quick(graph: Graph) -> Graph:
    """The same with few steps, which says that it runs, not what it draws."""
    made = copy.deepcopy(graph)
    for node in made.values():
        for name, most in FEW.items():
            if isinstance(value := node["inputs"].get(name), int):
                node["inputs"][name] = min(value, most)
    return made


def title(graph: Graph, node_id: str) -> str:
    node = graph[node_id]
    return node.get("_meta", {}).get("title") or node["class_type"]


def save_nodes(graph: Graph) -> list[str]:
    return [node_id for node_id, node in graph.items() if node["class_type"] == "SaveImage"]


def links(graph: Graph, node_id: str) -> dict[str, str]:
    """Input name -> id of the node that feeds it."""
    return {
        name: value[0]
        for name, value in graph[node_id]["inputs"].items()
        if isinstance(value, list) and len(value) == 2 and value[0] in graph
    }


def widgets(graph: Graph, node_id: str) -> dict[str, Any]:
    return {name: value for name, value in graph[node_id]["inputs"].items() if not isinstance(value, list)}


def upstream(graph: Graph, node_id: str) -> list[str]:
    """`node_id` and everything that feeds it, nearest first."""
    found = [node_id]
    for node in found:
        found += [source for source in links(graph, node).values() if source not in found]
    return found


def samplers(graph: Graph) -> list[str]:
    return [node_id for node_id in graph if {"steps", "cfg"} <= widgets(graph, node_id).keys()]


def settings(graph: Graph, node_id: str) -> dict[str, Any]:
    """How the images of a SaveImage node were sampled: the sampler's widgets, the prompt, the patches on its model."""
    sampler = next((found for found in upstream(graph, node_id) if found in samplers(graph)), None)
    if sampler is None:
        return {}
    sources = links(graph, sampler)
    told: dict[str, Any] = dict(widgets(graph, sampler))
    if "positive" in sources:
        texts = [
            widgets(graph, found)["text"]
            for found in upstream(graph, sources["positive"])
            if "text" in widgets(graph, found)
        ]
        told["prompt"] = " | ".join(texts)
    chain = [sources["model"]] if "model" in sources else []
    while chain and "model" in links(graph, chain[-1]):
        chain.append(links(graph, chain[-1])["model"])
    told["patches"] = [{"node": graph[found]["class_type"], **widgets(graph, found)} for found in chain[:-1]]
    return told
