"""UI-format workflows: what is wrong with one, and the API graph that the frontend would queue for it."""

from __future__ import annotations

import json
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

Workflow = dict[str, Any]
NOTES = {"Note", "MarkdownNote"}
PLAIN_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
DYNAMIC = "COMFY_DYNAMICCOMBO_V3"  # a combo whose options have inputs of their own
TITLE_HEIGHT = 30  # the bar above a node's own rectangle
HEIGHTS = Path(__file__).with_name("node_heights.json")
GROWTH = {"FoveaOptimizeLatent": 220, "FoveaBestOfN": 220, "PreviewImage": 236}  # by pictures, once these run
ACTIVE = 0  # mode of a node that is neither muted nor bypassed


def inputs_of(info: dict[str, Any], values: dict[str, Any] | None = None) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Input name -> (type, options), in the order in which the frontend shows them.

    A combo whose options have inputs of their own is followed by those of the option that values have, else of the
    first; their names are "combo.input".
    """
    found: dict[str, tuple[Any, dict[str, Any]]] = {}
    for group in ("required", "optional"):
        section = info["input"].get(group) or {}
        for name in info.get("input_order", {}).get(group, section):
            spec = section[name]
            kind, options = found[name] = (spec[0], spec[1] if len(spec) > 1 else {})
            if kind == DYNAMIC:
                chosen = (values or {}).get(name, options["options"][0]["key"])
                own: dict[str, Any] = next((each["inputs"] for each in options["options"] if each["key"] == chosen), {})
                found |= {f"{name}.{key}": each for key, each in inputs_of({"input": own}).items()}
    return found


def is_widget(kind: Any, options: dict[str, Any]) -> bool:
    plain = isinstance(kind, list) or kind in {*PLAIN_TYPES, DYNAMIC} or "widgetType" in options
    return plain and not options.get("forceInput", False)


def choices_of(kind: Any, options: dict[str, Any]) -> list[Any] | None:
    """What may be chosen; None where anything may be said."""
    if kind == DYNAMIC:
        return [each["key"] for each in options["options"]]
    return kind if isinstance(kind, list) else options.get("options") if kind == "COMBO" else None


def first_value(kind: Any, options: dict[str, Any]) -> Any:
    """What a widget shows in a new node."""
    choices = choices_of(kind, options)
    return options.get("default", choices[0] if choices else "")


def widget_slots(info: dict[str, Any], values: list[Any]) -> list[str | None]:
    """Names in the order of widgets_values; None for the frontend's own 'control after generate' box."""
    slots: list[str | None] = []
    said: dict[str, Any] = {}
    for name, (kind, options) in inputs_of(info).items():
        if "." in name or not is_widget(kind, options):
            continue
        if len(slots) < len(values):
            said[name] = values[len(slots)]
        slots.append(name)
        if options.get("control_after_generate"):
            slots.append(None)
        if kind == DYNAMIC:
            every = inputs_of(info, said)
            slots += [own for own in every if own.startswith(f"{name}.") and is_widget(*every[own])]
    return slots


def to_api(workflow: Workflow, object_info: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The API-format graph of a workflow whose nodes are all active and not inside subgraphs."""
    origins = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    graph = {}
    for node in workflow["nodes"]:
        if node["type"] in NOTES:
            continue
        info = object_info[node["type"]]
        inputs: dict[str, Any] = {}
        values = node.get("widgets_values") or []
        for name, value in zip(widget_slots(info, values), values):
            if name is not None:
                inputs[name] = value
        for socket in node.get("inputs", []):
            if socket.get("link") is not None:
                inputs[socket["name"]] = origins[socket["link"]]
        graph[str(node["id"])] = {
            "class_type": node["type"],
            "inputs": inputs,
            "_meta": {"title": node.get("title") or info.get("display_name") or node["type"]},
        }
    return graph


def structure_problems(workflow: Workflow) -> list[str]:
    """What is wrong with a workflow by itself: ids, links, modes, overlapping nodes."""
    nodes = {node["id"]: node for node in workflow["nodes"]}
    found = [] if len(nodes) == len(workflow["nodes"]) else ["two nodes share an id"]
    inactive = [node["id"] for node in nodes.values() if node.get("mode", ACTIVE) != ACTIVE]
    found += [f"node {node_id} is muted or bypassed" for node_id in inactive]
    links = {link[0]: link for link in workflow["links"]}
    for link_id, source, slot, target, target_slot, kind in links.values():
        try:
            output, socket = nodes[source]["outputs"][slot], nodes[target]["inputs"][target_slot]
        except (KeyError, IndexError):
            found.append(f"link {link_id} points to a node or slot that does not exist")
            continue
        if link_id not in (output.get("links") or []) or socket.get("link") != link_id:
            found.append(f"link {link_id} is not listed on both of its ends")
        if output["type"] != kind or not {kind, "*"} & set(socket["type"].split(",")):  # some inputs take several types
            found.append(f"link {link_id} joins {output['type']} to {socket['type']}")
    used = {socket.get("link") for node in nodes.values() for socket in node.get("inputs", [])} - {None}
    found += [f"link {link_id} is used but not listed" for link_id in used - set(links)]
    found += [f"nodes {a['id']} and {b['id']} overlap" for a, b in combinations(nodes.values(), 2) if overlap(a, b)]
    return found


def taken_height(node: dict[str, Any]) -> float:
    """How far a node reaches down from its position in the renderer that draws it larger, its previews included."""
    if node.get("flags", {}).get("collapsed"):
        return 0.0
    return max(node["size"][1], node_heights().get(node["type"], 0.0) + GROWTH.get(node["type"], 0.0))


@cache
def node_heights() -> dict[str, float]:
    """Type -> the least height of a node, as `python -m tools.release.node_heights` measured it in the editor."""
    return json.loads(HEIGHTS.read_text(encoding="utf-8"))


def sides(node: dict[str, Any]) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of what a node covers."""
    x, y = node["pos"]
    return x, y - TITLE_HEIGHT, x + node["size"][0], y + taken_height(node)


def overlap(one: dict[str, Any], other: dict[str, Any]) -> bool:
    (left, top, right, bottom), (left2, top2, right2, bottom2) = sides(one), sides(other)
    return left < right2 and left2 < right and top < bottom2 and top2 < bottom


def extent(workflow: Workflow) -> tuple[float, float]:
    """Width and height of the whole graph."""
    left, top, right, bottom = zip(*map(sides, workflow["nodes"]))
    return max(right) - min(left), max(bottom) - min(top)


def models_of(node: dict[str, Any]) -> list[dict[str, str]]:
    """Files that a node needs, as the editor offers to download them: name, url, directory."""
    return node.get("properties", {}).get("models") or []


def needs_files(workflow: Workflow) -> bool:
    """Whether a workflow runs only where models were downloaded."""
    return any(models_of(node) for node in workflow["nodes"])


def node_problems(workflow: Workflow, object_info: dict[str, Any]) -> list[str]:
    """What is wrong with a workflow against a live server: unknown or foreign nodes, widgets, choices, bounds."""
    found = []
    for node in workflow["nodes"]:
        name = f"{node['type']} (node {node['id']})"
        if node["type"] in NOTES:
            continue
        info = object_info.get(node["type"])
        if info is None:
            found.append(f"{name} is unknown to the server")
            continue
        if not info["python_module"].startswith(("nodes", "comfy_extras.", "custom_nodes.fovea")):
            found.append(f"{name} belongs to another pack")
        values = node.get("widgets_values") or []
        slots = widget_slots(info, values)
        specs = inputs_of(info, dict(zip((slot or "" for slot in slots), values)))
        if len(slots) != len(values):
            found.append(f"{name} has {len(values)} widget values for {len(slots)} widgets")
        files = {model["name"] for model in models_of(node)}
        for slot, value in zip(slots, values):
            upload = slot is not None and specs[slot][1].get("image_upload")
            if slot is not None and value not in files and not upload:  # a server has what was brought there
                found += [f"{name}: {problem}" for problem in value_problems(slot, value, specs[slot])]
        known = set(specs)
        found += [
            f"{name} has no input {socket['name']}" for socket in node.get("inputs", []) if socket["name"] not in known
        ]
        kinds = [output["type"] for output in node.get("outputs", [])]
        if kinds != list(info["output"]):
            found.append(f"{name} has outputs {kinds}, the server says {info['output']}")
    return found


def value_problems(name: str, value: Any, spec: tuple[Any, dict[str, Any]]) -> list[str]:
    kind, options = spec
    choices = choices_of(kind, options)
    if choices is not None and value not in choices:
        return [f"{name} {value!r} is none of its choices"]
    low, high = options.get("min"), options.get("max")
    if kind in ("INT", "FLOAT"):
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            return [f"{name} {value!r} is no number"]
        if (low is not None and value < low) or (high is not None and value > high):
            return [f"{name} {value} is outside of {low} to {high}"]
    return []
