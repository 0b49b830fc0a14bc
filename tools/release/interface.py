"""What saved workflows and API graphs depend on: ids, widgets in their order, what they are where a graph leaves them
out, sockets, what is required, options, outputs.

`python -m tools.release.interface` writes tools/release/interface.json before a release. Nodes see no model files
here, whatever is on the machine. From the first release on, only what is added at an end may be written there: a test
holds every change against it. Before it, what changed is written anew.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Mapping
from typing import Any
from unittest import mock

from ..comfy.host import ROOT
from ..comfy.pack import load_packages
from ..comfy.workflow import DYNAMIC, choices_of, inputs_of, is_widget

FILE = ROOT / "tools" / "release" / "interface.json"
OF_COMFYUI = {"sampler_name", "scheduler"}  # whose options are its own, more with every version
Interface = dict[str, dict[str, Any]]  # by node id


def of_node(info: Mapping[str, Any]) -> dict[str, Any]:
    """A node's part. info: as `/object_info` tells it. widgets: by what is chosen where a choice has inputs of its own;
    workflows keep their values by position."""
    widgets: dict[str, dict[str, str]] = {}
    sockets: dict[str, str] = {}
    options: dict[str, list[str]] = {}
    defaults: dict[str, dict[str, Any]] = {}
    required = [*info["input"].get("required", {})]
    for choice in choices(info):
        told = inputs_of(dict(info), choice)
        shown = {name: each for name, each in told.items() if is_widget(*each)}
        key = ", ".join(f"{name}: {value}" for name, value in choice.items())
        widgets[key] = {name: _kind(kind) for name, (kind, _) in shown.items()}
        defaults[key] = {name: each["default"] for name, (_, each) in shown.items()
                         if name not in required and "default" in each}  # fmt: skip
        sockets |= {name: _kind(kind) for name, (kind, _) in told.items() if name not in shown}
        options |= {name: list(map(str, found)) for name, each in shown.items()
                    if name not in OF_COMFYUI and (found := choices_of(*each))}  # fmt: skip
    outputs = [f"{name}: {kind}" for name, kind in zip(info["output_name"], info["output"])]
    return {"widgets": widgets, "defaults": defaults, "sockets": sockets, "required": required, "options": options,
            "outputs": outputs}  # fmt: skip


def _kind(kind: Any) -> str:
    return "COMBO" if isinstance(kind, list) else str(kind)


def choices(info: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """What may be chosen of the combo whose options have inputs of their own."""
    own = {name: choices_of(*each) or [] for name, each in inputs_of(dict(info)).items() if each[0] == DYNAMIC}
    yield from ({name: each} for name, found in own.items() for each in found)
    if not own:
        yield {}


def infos() -> dict[str, dict[str, Any]]:
    """All nodes of the pack, as `/object_info` tells them."""
    names = sorted(path.stem for path in (ROOT / "nodes").glob("*.py") if path.stem != "__init__")
    nodes = [node for name in names for node in importlib.import_module(f"fovea.nodes.{name}").NODES]
    return {node.GET_SCHEMA().node_id: node.GET_NODE_INFO_V1() for node in nodes}


def of_pack() -> Interface:
    """All nodes of the pack, as where there are no model files."""
    import folder_paths  # ComfyUI's, there once the packages are loaded

    with mock.patch.object(folder_paths, "get_filename_list", return_value=[]):
        return {node: of_node(info) for node, info in infos().items()}


def broken(before: Interface, now: Interface) -> list[str]:
    """What a workflow of before would miss or misread now."""
    found = [f"{node} is gone" for node in before if node not in now]
    for node in before.keys() & now.keys():
        old, new = before[node], now[node]
        for choice, widgets in old["widgets"].items():
            if [*new["widgets"].get(choice, {}).items()][: len(widgets)] != [*widgets.items()]:
                found.append(f"{node}: widgets{f' of {choice}' if choice else ''} were {', '.join(widgets)}")
            found += [f"{node}: {name} was {value!r} where it is left out"
                      for name, value in old["defaults"][choice].items()
                      if new["defaults"].get(choice, {}).get(name, value) != value]  # fmt: skip
        found += [f"{node}: socket {name} was {kind}" for name, kind in old["sockets"].items()
                  if new["sockets"].get(name) != kind]  # fmt: skip
        found += [f"{node}: {name} was not required" for name in new["required"] if name not in old["required"]]
        found += [f"{node}: {name} could be {value!r}" for name, values in old["options"].items() for value in values
                  if value not in new["options"].get(name, [])]  # fmt: skip
        if new["outputs"][: len(old["outputs"])] != old["outputs"]:
            found.append(f"{node}: outputs were {old['outputs']}")
    return sorted(found)


def main() -> None:
    load_packages()
    FILE.write_text(json.dumps(of_pack(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
