"""What becomes of a node's outputs in the graph that was queued."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import nodes as comfy_nodes  # ComfyUI's module: the pack's own package is fovea.nodes

from . import notices

logger = logging.getLogger(__name__)
Graph = Mapping[str, Mapping[str, Any]]  # node id -> {"class_type": ..., "inputs": {...}}, as queued over the API
STEERS = ("MODEL", "GUIDER")
ANY = ("COMFY_MATCHTYPE_V3", "*")  # of outputs that pass on what they are given, as If/Else Switch does


def install(server: Any, region_nodes: frozenset[str]) -> None:
    """Let a server say of every graph that is queued which samplers do not obey its regions.

    When it is queued, not when the node runs: the node itself does not run again when a link behind it changes.
    """
    server.add_on_prompt_handler(partial(tell_unsteered, server, region_nodes))


def tell_unsteered(server: Any, region_nodes: frozenset[str], queued: dict[str, Any]) -> dict[str, Any]:
    """Say it in the log and, if a browser has queued the graph, on its nodes, also that there is nothing to say.

    queued: what was posted, which may be anything; returned as it is.
    """
    posted = queued.get("prompt")
    graph = {key: node for key, node in posted.items() if _is_node(node)} if isinstance(posted, dict) else {}
    for key, node in graph.items():
        if node["class_type"] in region_nodes:
            title = comfy_nodes.NODE_DISPLAY_NAME_MAPPINGS.get(node["class_type"], node["class_type"])
            lines = [
                f"{title}: {sampler} uses these prompts with a model that does not obey them: connect the model output "
                "of this node." for sampler in unsteered_samplers(graph, key, (1, 2), region_nodes)
            ]  # fmt: skip
            for line in lines:
                logger.warning("%s", line)
            if queued.get("client_id"):
                workflow = notices.workflow_id(queued.get("extra_data") or {})
                notices.send(server, queued["client_id"], workflow, key, lines)
    return queued


def _is_node(node: Any) -> bool:
    return (
        isinstance(node, dict) and isinstance(node.get("class_type"), str) and isinstance(node.get("inputs", {}), dict)
    )


def unsteered_samplers(
    graph: Graph, node_id: str, conditioning: tuple[int, ...], region_nodes: frozenset[str]
) -> list[str]:
    """Nodes that use these conditioning outputs of a node with a model that has been through no region node.

    region_nodes: class types whose output 0 is a model that obeys regions. Returns "KSampler (5)" for each.
    """
    samplers = []
    for user in _users(graph, [(node_id, slot) for slot in conditioning]):
        models = [link for link in _links(graph[user]) if _type_of(graph, link) in STEERS]
        if models and not any(_comes_from(graph, link, region_nodes) for link in models):
            samplers.append(f"{graph[user]['class_type']} ({user})")
    return samplers


def _links(node: Mapping[str, Any]) -> list[tuple[str, int]]:
    return [(str(value[0]), int(value[1])) for value in node.get("inputs", {}).values()
            if isinstance(value, list) and len(value) == 2 and isinstance(value[1], int)]  # fmt: skip


def _output_types(graph: Graph, key: str) -> Sequence[Any]:
    """Types of a node's outputs; none where the node is not there or not known."""
    node = comfy_nodes.NODE_CLASS_MAPPINGS.get(graph.get(key, {}).get("class_type"))
    return getattr(node, "RETURN_TYPES", ())


def _type_of(graph: Graph, link: tuple[str, int]) -> str:
    types = _output_types(graph, link[0])
    return str(types[link[1]]) if link[1] < len(types) else ""


def _users(graph: Graph, outputs: list[tuple[str, int]]) -> Iterator[str]:
    """Nodes with a model that get any of these outputs, directly or changed by nodes without a model."""
    wanted, seen = set(outputs), set()
    while True:
        fresh = [key for key, node in graph.items() if key not in seen and wanted.intersection(_links(node))]
        if not fresh:
            return
        for key in fresh:
            seen.add(key)
            if any(_type_of(graph, link) in STEERS for link in _links(graph[key])):
                yield key
            else:
                types = _output_types(graph, key)
                wanted.update((key, slot) for slot, kind in enumerate(types) if kind == "CONDITIONING")


def _comes_from(graph: Graph, link: tuple[str, int], region_nodes: frozenset[str]) -> bool:
    """Whether a model has been through a region node on its way."""
    seen, open_links = set(), [link]
    while open_links:
        key, slot = open_links.pop()
        node = graph.get(key)
        if node is None or (key, slot) in seen:
            continue
        seen.add((key, slot))
        if node["class_type"] in region_nodes and slot == 0:
            return True
        open_links += [one for one in _links(node) if _type_of(graph, one) in (*STEERS, "FOVEA_EXPERTS", *ANY)]
    return False
