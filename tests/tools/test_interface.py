"""Workflows that were saved with the recorded interface are read the same by the nodes of now."""

from __future__ import annotations

import json
from copy import deepcopy

from tools.release import interface

NODE = {
    "input": {
        "required": {
            "model": ("MODEL", {}),
            "method": ("COMFY_DYNAMICCOMBO_V3", {"options": [
                {"key": "a", "inputs": {"required": {"few": ("INT", {})}}}, {"key": "b", "inputs": {"required": {}}},
            ]}),
            "kind": ("COMBO", {"options": ["x", "y"]}),
        },
        "optional": {"scale": ("FLOAT", {"default": 0.5})},
    },
    "output_name": ["IMAGE"], "output": ["IMAGE"],
}  # fmt: skip


def test_saved_workflows_keep_their_meaning() -> None:
    recorded = json.loads(interface.FILE.read_text(encoding="utf-8"))
    assert interface.broken(recorded, interface.of_pack()) == []
    assert recorded == interface.of_pack(), "what is new is not recorded: run python -m tools.release.interface"


def test_a_choice_with_inputs_of_its_own_is_the_last_widget() -> None:
    """Values are kept by position: behind it, each option can get further inputs."""
    for node, info in interface.infos().items():
        told = interface.inputs_of(info)
        shown = [kind for name, (kind, each) in told.items() if interface.is_widget(kind, each) and "." not in name]
        assert interface.DYNAMIC not in shown[:-1], node


def test_what_is_recorded() -> None:
    assert interface.of_node(NODE) == {
        "widgets": {
            "method: a": {"method": "COMFY_DYNAMICCOMBO_V3", "method.few": "INT", "kind": "COMBO", "scale": "FLOAT"},
            "method: b": {"method": "COMFY_DYNAMICCOMBO_V3", "kind": "COMBO", "scale": "FLOAT"},
        },
        "defaults": {"method: a": {"scale": 0.5}, "method: b": {"scale": 0.5}},
        "sockets": {"model": "MODEL"},
        "required": ["model", "method", "kind"],
        "options": {"method": ["a", "b"], "kind": ["x", "y"]},
        "outputs": ["IMAGE: IMAGE"],
    }  # fmt: skip


def test_only_additions_at_the_end_are_no_break() -> None:
    before = {"Node": interface.of_node(NODE)}
    more = deepcopy(NODE)
    more["input"]["optional"] |= {"late": ("INT", {}), "mask": ("MASK", {})}
    more["input"]["required"]["kind"][1]["options"].append("z")
    more["output_name"].append("MASK")
    more["output"].append("MASK")
    now = {"Node": interface.of_node(more), "Other": interface.of_node(NODE)}
    assert interface.broken(before, now) == []
    assert interface.broken(now, before)

    def changed(change) -> list[str]:
        other = deepcopy(NODE)
        change(other)
        return interface.broken(before, {"Node": interface.of_node(other)})

    assert interface.broken(before, {}) == ["Node is gone"]
    assert "widgets of method: a" in changed(lambda n: n["input"].update(optional={}))[0]
    early = lambda n: n["input"].update(required={"early": ("INT", {}), **n["input"]["required"]})  # noqa: E731
    assert len(changed(early)) == 3, "values move in every choice, and it is required"
    inner = lambda n: n["input"]["required"]["method"][1]["options"][1]["inputs"]["required"].update(n=("INT", {}))  # noqa: E731
    assert "of method: b" in changed(inner)[0], "an option's own widgets stand before those that follow"
    assert changed(lambda n: n["input"]["required"]["kind"][1]["options"].remove("x")) == ["Node: kind could be 'x'"]
    more_by_default = lambda n: n["input"]["optional"].update(scale=("FLOAT", {"default": 0.7}))  # noqa: E731
    assert set(changed(more_by_default)) == {"Node: scale was 0.5 where it is left out"}
    assert not changed(lambda n: n["input"]["required"].update(kind=("COMBO", {"options": ["x", "y"], "default": "y"})))
    assert changed(lambda n: n["input"]["required"].pop("model")) == ["Node: socket model was MODEL"]
    assert changed(lambda n: n["input"]["required"].update(scale=n["input"]["optional"].pop("scale"))) == [
        "Node: scale was not required"
    ], "ComfyUI refuses graphs over the API without it"
    assert "outputs" in changed(lambda n: n.update(output=["LATENT"]))[0]
