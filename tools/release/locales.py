"""Writes locales/en/nodeDefs.json from the nodes' own schemas: `python -m tools.release.locales`.

An English file that says something else than the schemas would win over them in the editor, so it is never edited by
hand. Translations (locales/zh, ...) are, and have the same keys.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from ..comfy.host import ROOT
from ..comfy.pack import load_packages
from ..comfy.workflow import DYNAMIC
from . import interface

FOLDER = ROOT / "locales"
FILE = "nodeDefs.json"


def texts(info: dict[str, Any]) -> dict[str, Any]:
    """What people read of a node, in the frontend's shape. info: the node as `/object_info` tells it."""
    inputs = {}
    for name, options in _every_input(info["input"]):
        said = {"name": options.get("display_name") or name.rpartition(".")[2], "tooltip": options.get("tooltip")}
        inputs[name.replace(".", "_")] = {key: value for key, value in said.items() if value}
    outputs = {
        str(i): {key: value for key, value in (("name", name), ("tooltip", tip)) if value}
        for i, (name, tip) in enumerate(zip(info["output_name"], info.get("output_tooltips") or []))
    }
    found = {"display_name": info["display_name"], "description": info["description"], "inputs": inputs}
    return {**found, "outputs": outputs} if outputs else found


def _every_input(sections: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and options of each input, those of a combo's options too."""
    for section in ("required", "optional"):
        for name, spec in sections.get(section, {}).items():
            options = spec[1] if len(spec) > 1 else {}
            yield name, options
            if spec[0] == DYNAMIC:
                own = (pair for each in options["options"] for pair in _every_input(each["inputs"]))
                yield from ((f"{name}.{inner}", said) for inner, said in own)


def english() -> dict[str, Any]:
    """All nodes of the pack."""
    return {node: texts(info) for node, info in interface.infos().items()}


def main() -> None:
    load_packages()
    path = FOLDER / "en" / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(english(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
