"""Lays a UI-format workflow out in columns, from what a server tells of its nodes."""

from __future__ import annotations

from typing import Any

from ..comfy.workflow import Workflow, inputs_of, is_widget

COLUMN, GAP, TITLE = 60, 30, 30
WIDTHS = {"PreviewImage": 380, "SaveImage": 380, "MarkdownNote": 380, "FoveaRegionPainter": 460,
          "FoveaRegionPreview": 480}  # fmt: skip
TALL = {"PreviewImage": 320, "SaveImage": 340, "MarkdownNote": 520, "PreviewAny": 220, "FoveaRegionPainter": 560,
        "FoveaRegionPreview": 330}  # fmt: skip
COLOURS = {"ours": ("#223", "#335"), "prompt": ("#232", "#353"), "shared": ("#653", "#432")}


class Board:
    """Nodes are put into columns from left to right, each below the last."""

    def __init__(self, info: dict[str, Any]) -> None:
        self.info = info
        self.nodes: list[dict[str, Any]] = []
        self.links: list[list[Any]] = []
        self.columns: dict[int, int] = {}  # node's id -> its column

    def put(self, kind: str, column: int, title: str | None = None, color: str | None = None,
            models: list[dict[str, str]] | None = None, **inputs: Any) -> int:  # fmt: skip
        """Add a node; inputs: values, or (node, output) for links. -> its id."""
        spec, node_id = inputs_of(self.info[kind]), len(self.nodes) + 1
        unknown = set(inputs) - set(spec)
        assert not unknown, f"{kind} has no {unknown}"
        values: list[Any] = []
        sockets = []
        for name, (type_, options) in spec.items():
            given = inputs.get(name)
            linked = isinstance(given, tuple)
            if is_widget(type_, options):
                choices = type_ if isinstance(type_, list) else options.get("options")
                default = options.get("default", choices[0] if choices else "")
                if options.get("image_upload"):
                    default = "example.png"  # ComfyUI brings it along
                values.append(default if given is None or linked else given)
                if options.get("control_after_generate"):
                    values.append("fixed")
            if linked or not is_widget(type_, options):
                what = "COMBO" if isinstance(type_, list) else type_
                socket: dict[str, Any] = {"name": name, "type": what, "link": None}
                if is_widget(type_, options):
                    socket["widget"] = {"name": name}
                sockets.append(socket)
                if isinstance(given, tuple):
                    self._link(given, node_id, socket, len(sockets) - 1)
        outputs = [{"name": name, "type": type_, "links": []}
                   for name, type_ in zip(self.info[kind]["output_name"], self.info[kind]["output"])]  # fmt: skip
        long = sum(bool(options.get("multiline")) for _, options in spec.values())
        height = TALL.get(kind, 20 + 22 * max(len(sockets), len(outputs)) + 27 * len(values) + 90 * long)
        node: dict[str, Any] = {
            "id": node_id, "type": kind, "pos": [0, 0],
            "size": [WIDTHS.get(kind, 330), height], "flags": {}, "order": node_id - 1, "mode": 0, "inputs": sockets,
            "outputs": outputs, "properties": {"Node name for S&R": kind}, "widgets_values": values,
        }  # fmt: skip
        if models:
            node["properties"]["models"] = models
        if title:
            node["title"] = title
        if color:
            node["color"], node["bgcolor"] = COLOURS[color]
        self.nodes.append(node)
        self.columns[node_id] = column
        return node_id

    def note(self, text: str) -> None:
        """What people read first, left of everything."""
        lines = sum(1 + len(line) // 52 for line in text.splitlines())
        self.nodes.append({
            "id": len(self.nodes) + 1, "type": "MarkdownNote", "pos": [-430, 0], "size": [380, 60 + 21 * lines],
            "flags": {}, "order": len(self.nodes), "mode": 0, "inputs": [], "outputs": [], "properties": {},
            "widgets_values": [text], "title": "What this shows",
        })  # fmt: skip

    def _link(self, origin: tuple[int, int], target: int, socket: dict[str, Any], slot: int) -> None:
        source = self.nodes[origin[0] - 1]["outputs"][origin[1]]
        number = len(self.links) + 1
        self.links.append([number, *origin, target, slot, source["type"]])
        source["links"].append(number)
        socket["link"] = number

    def _place(self) -> None:
        """Each column right of the widest node of the one before."""
        left = 0.0
        for column in range(max(self.columns.values()) + 1):
            nodes = [node for node in self.nodes if self.columns.get(node["id"]) == column]
            top = 0.0
            for node in nodes:
                node["pos"] = [left, top]
                top += node["size"][1] + TITLE + GAP
            left += max((node["size"][0] for node in nodes), default=0) + COLUMN

    def workflow(self, identity: str) -> Workflow:
        self._place()
        return {
            "id": identity, "revision": 0, "last_node_id": len(self.nodes), "last_link_id": len(self.links),
            "nodes": self.nodes, "links": self.links, "groups": [], "config": {},
            "extra": {"ds": {"scale": 0.6, "offset": [480, 120]}}, "version": 0.4,
        }  # fmt: skip
