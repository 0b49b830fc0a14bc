"""Rewrites graphs that were saved before inputs were renamed: `python -m tools.release.rename_inputs FILE...`.

Reads workflows (the editor's format) and API graphs, changes the files in place, and leaves what is new as it is.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

_REGIONS = {"caption": "prompt", "negative": "negative_prompt", "encode_phrases": "encode_regions_separately"}
NAMES: dict[str, dict[str, str]] = {
    "FoveaSelfAttentionGuidance": {"every": "every_n_steps", "branch": "guided_prompt", "kernel": "blur_kernel"},
    "FoveaDenseDiffusion": {**_REGIONS, "operator": "method", "sampled": "key_stride"},
    "FoveaPaintWithWords": {**_REGIONS, "measure": "score_unit"},
    "FoveaRegionsToConditioning": {"caption": "prompt", "caption_strength": "prompt_strength"},
    "FoveaRegion": {"phrase": "prompt", "negative": "negative_prompt"},
    "FoveaRegionsFromBoxes": {"phrases": "prompts"},
    "FoveaOptimizeLatent": {
        "text": "prompt", "sampler_steps": "steps", "updates": "iterations", "rate": "learning_rate",
        "rule": "update_rule", "parts": "salient_views", "refresh": "saliency_interval", "draws": "candidates",
    },
    "FoveaBestOfN": {"text": "prompt", "sampler_steps": "steps", "count": "candidates"},
    "FoveaCLIPGuidance": {"text": "prompt"},
    "FoveaScoreImages": {"text": "prompt"},
    "FoveaSaliencyMap": {"spread": "normalize"},
    "FoveaExpert": {"level": "boundary_unit", "below": "boundary"},
    "FoveaEncoderSchedule": {
        "text": "prompt", "clip_text": "clip_prompt", "t5_text": "t5_prompt", "parts": "segments",
    },
    "FoveaAttentionMap": {"text": "prompt"},
    "FoveaLoadScorer": {"clip": "clip_scorer"},
    "FoveaRegionLora": {"apart": "self_strength", "common": "rest_strength", "negative": "apply_to_negative"},
    "FoveaStyleGuidance": {"text": "without_style"},
    "FoveaStyleGuider": {"text": "without_style", "styled": "positive", "text_scale": "cfg"},
    "FoveaExpertSigmas": {"steps": "steps_per_model"},
}  # fmt: skip
OUTPUTS = {"FoveaRegionPainter": {"caption": "prompt"}}
# Inputs that only an option of a combo has today: the combo, what it was where it was none yet, by option its inputs
# with what they were where they were not there yet.
OPTIONS: dict[str, tuple[str, str, dict[str, dict[str, Any]]]] = {
    "FoveaOptimizeLatent": ("preset", "custom", {"custom": {
        "iterations": 20, "candidates": 1, "learning_rate": 1.0, "update_rule": "doodl", "gradient_path": "all_steps",
        "backprop_steps": 1, "salient_weight": 0.0, "salient_views": "cutouts", "saliency_interval": 1, "cutouts": 0,
        "view_resize": "antialiased", "mode": "checkpoint",
    }}),
    "FoveaDenseDiffusion": ("method", "fovea", {
        "fovea": {"rest_strength": 1.0}, "densediffusion": {"area_strength": 1.0, "key_stride": 1},
    }),
}  # fmt: skip
# Widgets of today in front of that combo, of nodes where it moved.
BEFORE = {
    "FoveaOptimizeLatent": ["prompt", "seed", "control_after_generate", "steps", "scheduler", "cfg"],
    "FoveaDenseDiffusion": [
        "prompt", "negative_prompt", "cross_strength", "self_strength", "time_exponent", "end_percent",
    ],
}  # fmt: skip
# Old widgets in the order of widgets_values, of nodes where a value is written otherwise or one became two.
_AFTER = ["start_percent", "mode", "blocks", "encode_phrases"]
WIDGETS: dict[str, list[str]] = {
    "FoveaSelfAttentionGuidance": [
        "scale", "blur_sigma", "threshold", "mask_mode", "branch", "blocks", "start_percent", "end_percent", "every",
        "rescale", "kernel",
    ],
    "FoveaDenseDiffusion": [
        "caption", "negative", "cross_strength", "self_strength", "area_strength", "time_exponent", "end_percent",
        "operator", *_AFTER, "sampled",
    ],
    "FoveaPaintWithWords": ["caption", "negative", "strength", "measure", "end_percent", *_AFTER],
    "FoveaOptimizeLatent": [
        "text", "seed", "control_after_generate", "sampler_steps", "scheduler", "cfg", "updates", "rate", "rule",
        "salient_weight", "parts", "refresh", "cutouts", "mode", "patience", "seconds", "draws", "through",
    ],
    "FoveaExpertSwitch": ["blend", "memory", "decide_by"],
    "FoveaExpertGuider": ["cfg", "blend", "memory", "decide_by"],
    "FoveaRegionPainter": ["width", "height", "painting"],
}  # fmt: skip


def _gradient_path(through: int) -> dict[str, Any]:
    if through < 0:
        return {"gradient_path": "all_steps", "backprop_steps": 1}
    return {"gradient_path": "last_steps" if through else "past_model", "backprop_steps": max(through, 1)}


def _painting(text: str) -> dict[str, Any]:
    """A drawing with the keys of today."""
    if not text.strip():
        return {"painting": text}
    data = json.loads(text)
    rows = [{{"phrase": "prompt"}.get(key, key): value for key, value in row.items()} for row in data["regions"]]
    renamed = {{"caption": "prompt"}.get(key, key): value for key, value in data.items()}
    return {"painting": json.dumps({**renamed, "regions": rows}, separators=(",", ":"), ensure_ascii=False)}


def _chosen(value: str, name: str, **renamed: str) -> dict[str, Any]:
    return {name: renamed.get(value.replace(" ", "_"), value)}


# What an old input's value becomes: new inputs with their values, in order.
VALUES: dict[tuple[str, str], Callable[[Any], dict[str, Any]]] = {
    ("FoveaSelfAttentionGuidance", "branch"): partial(
        _chosen, name="guided_prompt", uncond="negative", cond="positive"
    ),
    ("FoveaSelfAttentionGuidance", "kernel"): partial(_chosen, name="blur_kernel", taps="core: 9 px"),
    ("FoveaDenseDiffusion", "operator"): partial(_chosen, name="method", paper="densediffusion"),
    ("FoveaDenseDiffusion", "mode"): partial(_chosen, name="mode", caption="prompt"),
    ("FoveaPaintWithWords", "mode"): partial(_chosen, name="mode", caption="prompt"),
    ("FoveaOptimizeLatent", "rule"): partial(_chosen, name="update_rule", turn="spherical"),
    ("FoveaOptimizeLatent", "through"): _gradient_path,
    ("FoveaExpertSwitch", "decide_by"): partial(_chosen, name="decide_by", never_back="monotonic"),
    ("FoveaExpertGuider", "decide_by"): partial(_chosen, name="decide_by", never_back="monotonic"),
    ("FoveaEncoderSchedule", "curves"): partial(_chosen, name="curves", curves_below="custom"),
    ("FoveaRegionPainter", "painting"): _painting,
}


def rename_values(node: str, values: dict[str, Any]) -> dict[str, Any]:
    """Inputs of one node with their names and values of today, in their order."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        change = VALUES.get((node, name))
        if change is not None and not isinstance(value, list):  # a list is a link to another node
            found |= change(value)
        else:
            found[NAMES.get(node, {}).get(name, name)] = value
    return _into_options(node, found)


def _into_options(node: str, values: dict[str, Any]) -> dict[str, Any]:
    """With the inputs that only an option of a combo has today behind that combo. What another option has is left."""
    if node not in OPTIONS:
        return values
    combo, option, own = OPTIONS[node]
    moved = {combo, *set().union(*own.values())}
    if any(name.startswith(f"{combo}.") for name in values) or not moved & values.keys():
        return values
    option = values.get(combo, option)
    inner = {f"{combo}.{name}": values.get(name, usual) for name, usual in own.get(option, {}).items()}
    before = {name: values[name] for name in BEFORE[node] if name in values}
    after = {name: value for name, value in values.items() if name not in moved | before.keys()}
    return {**before, combo: option, **inner, **after}


def rename_graph(graph: dict[str, Any]) -> dict[str, Any]:
    """An API graph."""
    return {
        node_id: {**node, "inputs": rename_values(node["class_type"], node["inputs"])} if "class_type" in node else node
        for node_id, node in graph.items()
    }


def rename_workflow(workflow: dict[str, Any]) -> dict[str, Any]:
    """A workflow of the editor, subgraphs included."""
    nodes = [_renamed_node(node) for node in workflow["nodes"]]
    renamed = {**workflow, "nodes": nodes}
    if "subgraphs" in workflow.get("definitions", {}):
        inner = [rename_workflow(each) for each in workflow["definitions"]["subgraphs"]]
        renamed["definitions"] = {**workflow["definitions"], "subgraphs": inner}
    return renamed


def _renamed_node(node: dict[str, Any]) -> dict[str, Any]:
    kind, changed = node["type"], dict(node)
    names = NAMES.get(kind, {})
    sockets = []
    for socket in node.get("inputs", []):
        new = names.get(socket["name"], socket["name"])
        widget = {"widget": {**socket["widget"], "name": new}} if "widget" in socket else {}
        sockets.append({**socket, "name": new, **widget})
    changed["inputs"] = sockets
    outputs = OUTPUTS.get(kind, {})
    changed["outputs"] = [{**out, "name": outputs.get(out["name"], out["name"])} for out in node.get("outputs", [])]
    values = node.get("widgets_values")
    if kind in WIDGETS and isinstance(values, list) and not _is_new(kind, values):
        changed["widgets_values"] = list(rename_values(kind, dict(zip(WIDGETS[kind], values))).values())
    return changed


def _is_new(kind: str, values: list[Any]) -> bool:
    """Whether widgets are in today's order, told by the name of an option that no old one had in this place."""
    place = len(BEFORE.get(kind, ()))
    return kind in BEFORE and len(values) > place and isinstance(values[place], str)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", type=Path, nargs="+")
    for path in parser.parse_args().files:
        data = json.loads(path.read_text(encoding="utf-8"))
        changed = rename_workflow(data) if "nodes" in data else rename_graph(data)
        path.write_text(json.dumps(changed, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
