"""A subgraph blueprint: one node with a graph inside, as ComfyUI reads it from subgraphs/*.json of a pack."""

from __future__ import annotations

import uuid
from typing import Any

from ..comfy.workflow import TITLE_HEIGHT, Workflow, extent
from .board import COLUMN, Board

INPUT, OUTPUT = -10, -20  # the editor's ids for where links come in and go out
ROW, WIDTH = 20, 160
NAMESPACE = uuid.UUID("6d0f5d0e-6f0a-4c9e-9d55-5a6a5e5f3000")


class Blueprint(Board):
    """A board whose nodes also take links from outside, give some back, and show some widgets outside."""

    def __init__(self, info: dict[str, Any], name: str, category: str, description: str) -> None:
        super().__init__(info)
        self.name, self.category, self.description = name, category, description
        self.inlets: list[dict[str, Any]] = []
        self.outlets: list[dict[str, Any]] = []
        self.widgets: list[list[str]] = []

    def inlet(self, name: str, kind: str, label: str | None = None) -> tuple[int, int]:
        """An input of the node -> what inner nodes link to."""
        self.inlets.append({"id": self._id(f"in {name}"), "name": name, "type": kind, "linkIds": []})
        if label:
            self.inlets[-1]["label"] = label
        return INPUT, len(self.inlets) - 1

    def outlet(self, name: str, given: tuple[int, int]) -> None:
        """An output of the node."""
        source, number = self.nodes[given[0] - 1]["outputs"][given[1]], len(self.links) + 1
        self.links.append([number, *given, OUTPUT, len(self.outlets), source["type"]])
        source["links"].append(number)
        self.outlets.append({"id": self._id(f"out {name}"), "name": name, "type": source["type"], "linkIds": [number]})

    def show(self, node: int, *widgets: str) -> None:
        """Widgets of an inner node that the outer node has too. The editor refuses control_after_generate."""
        self.widgets += [[str(node), name] for name in widgets]

    def _link(self, origin: tuple[int, int], target: int, socket: dict[str, Any], slot: int) -> None:
        if origin[0] != INPUT:
            return super()._link(origin, target, socket, slot)
        number, inlet = len(self.links) + 1, self.inlets[origin[1]]
        self.links.append([number, *origin, target, slot, inlet["type"]])
        inlet["linkIds"].append(number)
        socket["link"] = number
        return None

    def _id(self, what: str) -> str:
        return str(uuid.uuid5(NAMESPACE, f"{self.name} {what}"))

    def blueprint(self) -> Workflow:
        right = self._place()
        height = extent({"nodes": self.nodes})[1]
        keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
        inside = {
            "id": self._id("graph"), "version": 1, "revision": 0, "config": {}, "name": self.name,
            "category": self.category, "description": self.description,
            "state": {"lastGroupId": 0, "lastNodeId": len(self.nodes), "lastLinkId": len(self.links),
                      "lastRerouteId": 0},
            "inputNode": {"id": INPUT, "bounding": _beside(-WIDTH - 2 * COLUMN, len(self.inlets))},
            "outputNode": {"id": OUTPUT, "bounding": _beside(right + 2 * COLUMN, len(self.outlets))},
            "inputs": [{**each, "pos": [-2 * COLUMN, ROW * (i + 1)]} for i, each in enumerate(self.inlets)],
            "outputs": [{**each, "pos": [right + 2 * COLUMN + ROW, ROW * (i + 1)]}
                        for i, each in enumerate(self.outlets)],
            "widgets": [], "nodes": self.nodes, "groups": [], "extra": {},
            "links": [dict(zip(keys, link)) for link in self.links],
        }  # fmt: skip
        outer = {
            "id": len(self.nodes) + 1, "type": inside["id"], "title": self.name, "pos": [0, 0],
            "size": [self.wide, min(height, TITLE_HEIGHT + ROW * len(self.inlets) + 24 * len(self.widgets))],
            "flags": {}, "order": 0, "mode": 0,
            "inputs": [{key: each[key] for key in ("name", "type", "label") if key in each} | {"link": None}
                       for each in self.inlets],
            "outputs": [{"name": each["name"], "type": each["type"], "links": []} for each in self.outlets],
            "properties": {"proxyWidgets": self.widgets}, "widgets_values": [],
        }  # fmt: skip
        return {
            "id": self._id("file"), "revision": 0, "last_node_id": outer["id"], "last_link_id": 0, "nodes": [outer],
            "links": [], "groups": [], "definitions": {"subgraphs": [inside]}, "config": {}, "extra": {},
            "version": 0.4,
        }  # fmt: skip


def _beside(x: float, count: int) -> list[float]:
    return [x, 0, WIDTH, ROW * (count + 2)]
