"""Who may import whom: nodes -> guidance, attention, models; guidance -> attention; nobody tools; no circles."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

pytestmark = pytest.mark.static

ROOT = Path(__file__).resolve().parent.parent
MAY_IMPORT = {
    "nodes": {"nodes", "guidance", "attention", "models"},
    "guidance": {"guidance", "attention"},
    "attention": {"attention"},
    "models": {"models"},
}
HOST_MODULES = {"comfy", "comfy_api", "comfy_extras", "comfy_execution", "folder_paths", "node_helpers",
                "latent_preview", "execution", "server"}
MAY_IMPORT_HOST = ("nodes/", "models/", "attention/hooks.py", "attention/families", "guidance/host_")


def pack_files() -> list[Path]:
    return sorted(path for layer in MAY_IMPORT for path in (ROOT / layer).rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def imported(path: Path, source: str | None = None) -> tuple[set[str], set[str]]:
    """(modules of the pack, modules from elsewhere) that a file imports, function bodies included."""
    tree = ast.parse(source if source is not None else path.read_text(encoding="utf-8"))
    inside: set[str] = set()
    outside: set[str] = set()
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            outside |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            outside.add(node.module or "")
        elif isinstance(node, ast.ImportFrom):
            anchor = package[: len(package) - node.level + 1]
            base = ".".join([*anchor, *([node.module] if node.module else [])])
            for alias in node.names:
                name = f"{base}.{alias.name}".strip(".")
                inside.add(name if is_module(name) else base)
    return inside, outside


@pytest.mark.parametrize("path", pack_files(), ids=module_name)
def test_layers(path: Path) -> None:
    layer = path.relative_to(ROOT).parts[0]
    inside, outside = imported(path)
    foreign = {name for name in inside if name.split(".")[0] not in MAY_IMPORT[layer]}
    assert not foreign, f"{layer} must not import {sorted(foreign)}"
    absolute = {name for name in outside if name.split(".")[0] in {"fovea", "tools", "tests", *MAY_IMPORT}}
    assert not absolute, f"use relative imports inside the pack, and never import tools: {sorted(absolute)}"


@pytest.mark.parametrize("path", pack_files(), ids=module_name)
def test_only_the_border_imports_the_host(path: Path) -> None:
    host = {name for name in imported(path)[1] if name.split(".")[0] in HOST_MODULES}
    relative = path.relative_to(ROOT).as_posix()
    assert not host or relative.startswith(MAY_IMPORT_HOST), f"{relative}: plain tensors only, not {sorted(host)}"


def test_no_circles() -> None:
    graph = {module_name(path): imported(path)[0] - {module_name(path)} for path in pack_files()}
    order = list(TopologicalSorter(graph).static_order())  # raises CycleError on a circle
    assert set(graph) <= set(order)


def test_the_rules_bite() -> None:
    """The reader of imports sees what it must: otherwise the tests above could not fail."""
    source = "from ..nodes import demo\nimport comfy.utils\nfrom . import y\n"
    inside, outside = imported(ROOT / "guidance" / "x.py", source)
    assert {name.split(".")[0] for name in inside} == {"nodes", "guidance"}
    assert outside == {"comfy.utils"}


def test_entry_point_is_thin() -> None:
    text = (ROOT / "__init__.py").read_text(encoding="utf-8")
    assert len(text.splitlines()) < 40
    assert "NODE_CLASS_MAPPINGS" not in text, "the loader would return before it calls comfy_entrypoint"


@pytest.mark.parametrize("path", pack_files(), ids=module_name)
def test_safe_and_plain(path: Path) -> None:
    """What the registry and careful readers look for: no pickles, no processes, no global state switches."""
    text = path.read_text(encoding="utf-8")
    assert text.isascii()
    for word in ("torch.load(", "torch.jit.load", "import pickle", "import subprocess", "urllib.request",
                 "import requests", "eval(", "sys.path", ".cuda("):
        found = [line for line in text.splitlines() if word in line and not (word == "eval(" and ".eval(" in line)]
        assert not found, f"{word}: {found}"
