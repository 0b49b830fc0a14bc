"""Writes the templates, the further graphs and the blueprints: `python -m tools.release.templates`.

Nodes, slots and widgets are asked from a server, so they fit the schemas. Pictures: `make thumbnails`.
"""

from __future__ import annotations

import json
from pathlib import Path

from ...comfy.api import Client
from ...comfy.host import ROOT
from ...comfy.server import temporary
from ...comfy.workflow import Workflow
from .blueprints import blueprints
from .catalog import GRAPHS, TEMPLATES, drawn

FOLDER, MORE, INSIDE = ROOT / "workflows", ROOT / "docs" / "graphs", ROOT / "subgraphs"


def write(folder: Path, made: dict[str, Workflow]) -> None:
    """The folder's graphs are these, and no others."""
    folder.mkdir(exist_ok=True)
    for path in folder.glob("*.json"):
        path.unlink()
    for name, workflow in made.items():
        (folder / f"{name}.json").write_text(json.dumps(workflow, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    with temporary("templates") as server:
        info = Client(server.address).json("/object_info")
    write(FOLDER, drawn(TEMPLATES, info, 1))
    write(MORE, drawn(GRAPHS, info, 2))
    write(INSIDE, blueprints(info))


if __name__ == "__main__":
    main()
