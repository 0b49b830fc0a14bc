"""Every node tells what it does: ids, texts, tooltips, help pages. Read from the pack as ComfyUI loads it."""

from __future__ import annotations

import asyncio
import importlib
import re
from pathlib import Path

import pytest

import fovea

pytestmark = pytest.mark.static

ROOT = Path(__file__).resolve().parents[2]
CATEGORIES = {"Fovea/guidance", "Fovea/regions", "Fovea/latent", "Fovea/scoring", "Fovea/experts", "Fovea/demo"}


NODES = asyncio.run(asyncio.run(fovea.comfy_entrypoint()).get_node_list())
every_node = pytest.mark.parametrize("node", NODES, ids=lambda node: node.define_schema().node_id)


def sockets(node: type) -> list:
    """All inputs, those of a combo's options too."""
    return [each for socket in node.define_schema().inputs for each in socket.get_all()]


def is_plain(text: str | None, least: int) -> bool:
    """A text worth reading: long enough, plain ASCII, no leftover mark."""
    return bool(text) and len(text or "") >= least and (text or "").isascii()


def test_every_module_is_registered() -> None:
    modules = [path.stem for path in (ROOT / "nodes").glob("*.py") if path.stem != "__init__"]
    listed = [node for name in modules for node in importlib.import_module(f"fovea.nodes.{name}").NODES]
    assert NODES and set(listed) == set(NODES)
    ids = [node.define_schema().node_id for node in NODES]
    assert len(set(ids)) == len(ids)


@every_node
def test_names(node: type) -> None:
    schema = node.define_schema()
    assert re.fullmatch(r"Fovea[A-Z][A-Za-z0-9]+", schema.node_id)
    assert schema.category in CATEGORIES
    assert is_plain(schema.display_name, 5) and is_plain(schema.description, 40)
    assert schema.search_aliases, "people search by the technique's name and its short forms"


@every_node
def test_every_socket_explains_itself(node: type) -> None:
    schema = node.define_schema()
    silent = [socket.id for socket in sockets(node) if not is_plain(socket.tooltip, 15)]
    silent += [socket.display_name or socket.id for socket in schema.outputs if not is_plain(socket.tooltip, 10)]
    assert not silent, f"{schema.node_id}: no tooltip on {silent}"


@every_node
def test_inputs_are_well_formed(node: type) -> None:
    for socket in sockets(node):
        assert re.fullmatch(r"[a-z][a-z0-9_]*", socket.id), socket.id
        low, high, default = (getattr(socket, name, None) for name in ("min", "max", "default"))
        if low is not None and high is not None and default is not None:
            assert low <= default <= high, socket.id


@every_node
def test_help_page(node: type) -> None:
    schema = node.define_schema()
    page = ROOT / "web" / "docs" / f"{schema.node_id}.md"
    assert page.is_file(), f"{page.relative_to(ROOT)} is missing"
    text = page.read_text(encoding="utf-8")
    untold = {socket.id for socket in sockets(node) if f"`{socket.id}`" not in text}
    assert text.startswith("# ") and not untold, f"{page.name} does not explain {untold}"


def test_no_help_page_without_a_node() -> None:
    known = {node.define_schema().node_id for node in NODES}
    assert {page.stem for page in (ROOT / "web" / "docs").glob("*.md")} <= known
