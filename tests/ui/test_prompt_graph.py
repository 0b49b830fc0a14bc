"""What becomes of a node's outputs in a queued graph: whether a model was through a region node on its way."""

from __future__ import annotations

from typing import Any

import pytest
from comfy_extras.nodes_logic import SwitchNode

import nodes as comfy_nodes
from fovea.nodes.regions import FoveaDenseDiffusion
from fovea.nodes.ui.prompt_graph import unsteered_samplers

REGION_NODES = frozenset({"FoveaDenseDiffusion"})


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


@pytest.fixture(autouse=True)
def known_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that a server would load beside ComfyUI's first ones."""
    for name, made in (("ComfySwitchNode", SwitchNode), ("FoveaDenseDiffusion", FoveaDenseDiffusion)):
        monkeypatch.setitem(comfy_nodes.NODE_CLASS_MAPPINGS, name, made)


@pytest.mark.parametrize(("other", "said"), [("dense", []), ("load", ["KSampler (sample)"])])
def test_a_model_past_a_switch(other: str, said: list[str]) -> None:
    """What comes out of If/Else Switch has no type of its own: the model is followed through it."""
    graph = {
        "load": node("CheckpointLoaderSimple"), "dense": node("FoveaDenseDiffusion", model=["load", 0]),
        "switch": node("ComfySwitchNode", switch=True, on_false=["load", 0], on_true=[other, 0]),
        "lora": node("LoraLoaderModelOnly", model=["switch", 0]),
        "sample": node("KSampler", model=["lora", 0], positive=["dense", 1], negative=["dense", 2]),
    }  # fmt: skip
    assert unsteered_samplers(graph, "dense", (1, 2), REGION_NODES) == said
