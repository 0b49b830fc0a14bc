"""Lays a UI-format workflow out in columns, from what a server tells of its nodes."""

from __future__ import annotations

import re
from typing import Any

from ..comfy.workflow import Workflow, first_value, inputs_of, is_widget, node_heights, taken_height

COLUMN, GAP, TITLE = 30, 30, 30
WIDE, WIDTHS = 340, {"FoveaRegionPainter": 460}
# Of those that show pictures and texts.
TALL = {"PreviewImage": 330, "SaveImage": 340, "PreviewAny": 200, "FoveaRegionPainter": 860}
PICTURE = 240  # what a node of ours needs more for the pictures that it shows by itself
COLOURS = {"ours": ("#223", "#335"), "prompt": ("#232", "#353"), "shared": ("#653", "#432")}
NOTE_TITLES = ("What this shows", "Try")
LETTER, LINE = 5.3, 23  # of a note, in the renderer that draws it larger


def note_height(text: str, width: float) -> int:
    """Of a note whose headings, paragraphs and list items (in lines of their own) are wrapped to this width."""
    blocks = [block for block in re.split(r"\n(?=\n|- |#)", text.strip()) if block]
    lines = sum(1 + int(len(block) * LETTER / (width - 60)) for block in blocks)
    return 50 + LINE * lines


class Board:
    """Nodes are put into columns from left to right, each below the last."""

    def __init__(self, info: dict[str, Any]) -> None:
        self.info = info
        self.nodes: list[dict[str, Any]] = []
        self.links: list[list[Any]] = []
        self.columns: dict[int, int] = {}  # node's id -> its column
        self.notes: tuple[str, ...] = ()
        self.wide: float = WIDE  # of a node

    def put(self, kind: str, column: int, title: str | None = None, tint: str | None = None,
            models: list[dict[str, str]] | None = None, tall: float | None = None, wide: float | None = None,
            folded: bool = False, **inputs: Any) -> int:  # fmt: skip
        """Add a node; inputs: values, or (node, output) for links. tall, wide: its size. folded: only its title shows.

        -> its id. Inputs of a combo's option are given by their own names.
        """
        spec, node_id = inputs_of(self.info[kind], inputs), len(self.nodes) + 1
        unknown = set(inputs) - {name.rpartition(".")[2] for name in spec}
        assert not unknown, f"{kind} has no {unknown}"
        values: list[Any] = []
        sockets = []
        for name, (type_, options) in spec.items():
            given = inputs.get(name.rpartition(".")[2])
            linked = isinstance(given, tuple)
            if is_widget(type_, options):
                default = first_value(type_, options)
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
        height = max(tall or TALL.get(kind, 0), node_heights().get(kind, 0) + PICTURE * self.shows_pictures(kind))
        node: dict[str, Any] = {
            "id": node_id, "type": kind, "pos": [0, 0], "size": [wide or WIDTHS.get(kind, self.wide), height],
            "flags": {"collapsed": True} if folded else {}, "order": node_id - 1, "mode": 0, "inputs": sockets,
            "outputs": outputs, "properties": {"Node name for S&R": kind}, "widgets_values": values,
        }  # fmt: skip
        if models:
            node["properties"]["models"] = models
        if title:
            node["title"] = title
        if tint:
            node["color"], node["bgcolor"] = COLOURS[tint]
        self.nodes.append(node)
        self.columns[node_id] = column
        return node_id

    def shows_pictures(self, kind: str) -> bool:
        """Whether a node of ours needs no preview beside it."""
        return kind.startswith("Fovea") and bool(self.info[kind]["output_node"])

    def note(self, *texts: str) -> None:
        """What people read first, side by side above everything: what this shows, then what to try."""
        self.notes = tuple(text.strip() + "\n" for text in texts)

    def _link(self, origin: tuple[int, int], target: int, socket: dict[str, Any], slot: int) -> None:
        source = self.nodes[origin[0] - 1]["outputs"][origin[1]]
        number = len(self.links) + 1
        self.links.append([number, *origin, target, slot, source["type"]])
        source["links"].append(number)
        socket["link"] = number

    def _place(self) -> float:
        """Each column right of the widest node of the one before. -> the width of all."""
        left = 0.0
        for column in range(max(self.columns.values()) + 1):
            nodes = [node for node in self.nodes if self.columns.get(node["id"]) == column]
            top = 0.0
            for node in nodes:
                node["pos"] = [left, top]
                top += taken_height(node) + TITLE + GAP
            left += max((node["size"][0] for node in nodes), default=0) + COLUMN
        return left - COLUMN

    def _put_notes(self, width: float) -> list[dict[str, Any]]:
        """Above the graph, as wide as it together."""
        each = (width + COLUMN) / len(self.notes) - COLUMN
        height = max(note_height(text, each) for text in self.notes)
        return [{
            "id": len(self.nodes) + 1 + number, "type": "MarkdownNote", "title": title,
            "pos": [round(number * (each + COLUMN)), -(height + TITLE + GAP)], "size": [round(each), height],
            "flags": {}, "order": len(self.nodes) + number, "mode": 0, "inputs": [], "outputs": [], "properties": {},
            "widgets_values": [text],
        } for number, (text, title) in enumerate(zip(self.notes, NOTE_TITLES))]  # fmt: skip

    def workflow(self, identity: str) -> Workflow:
        nodes = [*self.nodes, *self._put_notes(self._place())]
        return {
            "id": identity, "revision": 0, "last_node_id": len(nodes), "last_link_id": len(self.links),
            "nodes": nodes, "links": self.links, "groups": [], "config": {},
            "extra": {"ds": {"scale": 0.6, "offset": [480, 400]}}, "version": 0.4,
        }  # fmt: skip
