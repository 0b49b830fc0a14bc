"""The files around the code: commands that exist, metadata that agrees, nothing that must not be committed."""

from __future__ import annotations

import ast
import json
import re
import subprocess
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tools.release import archive

try:
    import tomllib
except ImportError:  # Python 3.10; tomli comes with pytest there
    import tomli as tomllib  # type: ignore[no-redef]

pytestmark = pytest.mark.static

ROOT = Path(__file__).resolve().parents[2]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def tracked() -> list[Path]:
    result = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in result.stdout.split("\0") if name]


def test_every_target_calls_something_that_exists() -> None:
    modules = re.findall(r"-m (tools[\w.]*)", MAKEFILE)
    assert "tools.demo" in modules and "tools.comfy.host" in modules
    for module in modules:
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
    assert set(re.search(r"^\.PHONY: (.+)$", MAKEFILE, re.MULTILINE).group(1).split()) == targets
    assert {"demo", "test", "serve", "check", "browser-test"} <= targets


def test_metadata() -> None:
    project, comfy = PROJECT["project"], PROJECT["tool"]["comfy"]
    assert project["name"] == "fovea" and re.fullmatch(r"\d+\.\d+\.\d+", project["version"])
    assert comfy["PublisherId"] and comfy["DisplayName"] == "Fovea"
    assert re.fullmatch(r">=\d+\.\d+\.\d+", comfy["requires-comfyui"]), "the registry reads three-part versions only"
    assert "web" not in comfy, "with WEB_DIRECTORY as well, every script would be loaded twice"
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == project["dependencies"]
    assert not [line for line in project["dependencies"] if re.search(r"==|<|~=", line)], "no pins that fight ComfyUI"
    assert f"## {project['version']}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "Apache License" in (ROOT / PROJECT["project"]["license"]["file"]).read_text(encoding="utf-8")


def test_nothing_foreign_is_tracked() -> None:
    files = tracked()
    names = {path.relative_to(ROOT).parts[0] for path in files}
    assert not names & {".venv", ".host", "output", "__pycache__"}
    assert "models" in names, "models/ is code and must not be ignored"
    pickles = [path for path in files if path.suffix in {".pt", ".pth", ".ckpt", ".bin", ".pkl"}]
    assert not pickles
    weights = [path for path in files if path.suffix == ".safetensors"]
    assert sum(path.stat().st_size for path in weights) <= 52e6
    assert all(path.stat().st_size <= 15e6 for path in weights)


def test_source_is_plain() -> None:
    for path in tracked():
        if path.suffix == ".py":
            text = path.read_text(encoding="utf-8")
            assert text.isascii(), f"{path.relative_to(ROOT)} holds characters outside of ASCII"
            assert not re.search(r"[\"' ]/(work|root|home)/", text), path


def test_the_archive_holds_what_users_need_and_no_more() -> None:
    names = archive.published()
    top = {name.split("/")[0] for name in names}
    needed = "__init__.py README.md LICENSE requirements.txt pyproject.toml nodes guidance attention models web demo"
    assert top >= {*needed.split(), "locales", "workflows", "subgraphs"}
    assert not top & {"tests", "tools", "docs", "Makefile", ".ci", ".github", "output"}
    pages = {path.relative_to(ROOT).as_posix() for path in (ROOT / "web" / "docs").rglob("*.*")}
    assert pages and pages <= set(names), "help pages and their pictures come along, docs/ does not"
    parts = json.loads((ROOT / "demo" / "shapesworld.json").read_text(encoding="utf-8"))["parts"]
    judges = {"clip_b", "reader"}  # of the evaluations alone
    files = {f"demo/{name}" for part, found in parts.items() if part not in judges for name in found}
    assert {name for name in names if name.endswith(".safetensors")} == files, "the demo model comes along"
    # The files of the demo model may have 52 MB (tests/models/test_shapesworld.py), everything else 3.
    assert sum((ROOT / name).stat().st_size for name in names) < 55_000_000


def test_tools_import_each_other_without_circles() -> None:
    """Imports inside functions count too: a circle that only those hide is one all the same."""
    paths = [path for path in tracked() if path.relative_to(ROOT).parts[0] == "tools" and path.suffix == ".py"]
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}
    graph: dict[str, set[str]] = {}
    for module, path in modules.items():
        package = module.split(".") if path.stem == "__init__" else module.split(".")[:-1]
        found = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
        bases = [(".".join([*package[: len(package) - node.level + 1], node.module or ""]).strip("."), node)
                 for node in found if node.level]  # fmt: skip
        named = {name for base, node in bases for name in (base, *(f"{base}.{alias.name}" for alias in node.names))}
        graph[module] = named & {*modules} - {module}
    assert "tools.studies.tables" in graph["tools.studies.report"]
    assert set(TopologicalSorter(graph).static_order()) == set(graph)  # raises CycleError on a circle
