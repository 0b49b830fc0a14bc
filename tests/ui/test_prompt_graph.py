"""What becomes of a node's outputs in a queued graph: whether a model was through a region node on its way."""

from __future__ import annotations

from typing import Any

import pytest
from comfy_extras.nodes_logic import SwitchNode

import nodes as comfy_nodes
from fovea.nodes.regions import FoveaDenseDiffusion
from fovea.nodes.ui import prompt_graph
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


class Server:
    """Stands for ComfyUI's: keeps the handler and what is sent."""

    def __init__(self) -> None:
        self.handlers: list[Any] = []
        self.sent: list[tuple[dict[str, Any], str]] = []

    def add_on_prompt_handler(self, handler: Any) -> None:
        self.handlers.append(handler)

    def send_sync(self, event: str, data: dict[str, Any], sid: str) -> None:
        self.sent.append((data, sid))


def queued(model: str, **more: Any) -> dict[str, Any]:
    return {
        "prompt": {
            "load": node("CheckpointLoaderSimple"), "dense": node("FoveaDenseDiffusion", model=["load", 0]),
            "sample": node("KSampler", model=[model, 0], positive=["dense", 1], negative=["dense", 2]),
        }, **more,
    }  # fmt: skip


def test_told_at_every_queueing_and_taken_back(caplog: pytest.LogCaptureFixture) -> None:
    """Dense Diffusion is cached where only the sampler's link has changed: it could neither say it nor take it back."""
    server = Server()
    prompt_graph.install(server, REGION_NODES)
    (handler,) = server.handlers
    editor = {"client_id": "browser", "extra_data": {"extra_pnginfo": {"workflow": {"id": "mine"}}}}
    for model in ("load", "dense"):
        posted = queued(model, **editor)
        assert handler(posted) is posted
    (said, sid), (taken_back, _) = server.sent
    assert said["node"] == "dense" and said["workflow"] == "mine" and said["job"] is None and sid == "browser"
    assert "KSampler (sample) uses these prompts" in said["lines"][0] and said["lines"][0] in caplog.text
    assert taken_back == {**said, "lines": []}
    handler(queued("load"))
    assert len(server.sent) == 2, "no browser asked"
    assert caplog.text.count("uses these prompts") == 2, "in the log it is said to anybody"


@pytest.mark.parametrize("posted", [
    {}, {"prompt": None}, {"prompt": []}, {"prompt": {"1": None, "2": {"class_type": []}, "3": {"class_type": "X"}}},
    {"prompt": {"1": {"class_type": "FoveaDenseDiffusion", "inputs": None}}},
    {"prompt": {"1": {"class_type": "FoveaDenseDiffusion"}}, "client_id": "c", "extra_data": None},
    {"prompt": {"1": node("KSampler", positive=[{}, 1], model=["gone", 0])}},
])  # fmt: skip
def test_whatever_is_posted(posted: dict[str, Any]) -> None:
    assert prompt_graph.tell_unsteered(Server(), REGION_NODES, posted) is posted
