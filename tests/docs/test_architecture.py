"""The example technique and node of docs/architecture.md, taken out of the page and run in a real model."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import tiny_models as tiny
import torch

PAGE = Path(__file__).resolve().parents[2] / "docs" / "architecture.md"
MODULES = ("fovea.guidance.sharper.model_patch", "fovea.nodes.sharper")


def load(name: str, source: str) -> ModuleType:
    """A Python block of the page as a module of the pack."""
    spec = importlib.util.spec_from_loader(name, loader=None)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    exec(compile(source, name, "exec"), module.__dict__)  # noqa: S102
    return module


@pytest.fixture(scope="module")
def sharper() -> Iterator[Any]:
    """The example's node class; the modules are taken out again afterwards."""
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    try:
        yield [load(name, block) for name, block in zip(MODULES, blocks, strict=True)][-1].NODES[0]
    finally:
        for name in MODULES:
            sys.modules.pop(name, None)


def apply(node: Any, model: Any, sharpness: float, end: float = 1.0, blocks: str = "auto") -> Any:
    return node.execute(model, sharpness, end, blocks).result[0]


def test_example_explains_itself(sharper: Any) -> None:
    schema = sharper.define_schema()
    assert schema.node_id.startswith("Fovea") and all(socket.tooltip for socket in [*schema.inputs, *schema.outputs])


@pytest.mark.parametrize("off", [{"sharpness": 1.0}, {"sharpness": 2.0, "end": 0.0}])
def test_example_is_free_where_neutral(sharper: Any, off: dict) -> None:
    model, x = tiny.unet("sd15"), tiny.noise(16, 16)
    patched = apply(sharper, model, **off)
    assert not any(patched.wrappers.values())
    assert torch.equal(tiny.sample(patched, x), tiny.sample(model, x))


def test_example_sharpens_only_the_positive_prompt(sharper: Any) -> None:
    model, x, results = tiny.unet("sd15"), tiny.noise(16, 24, batch=2), {}
    for sharpness in (1.0, 2.0):
        with tiny.watching(model) as calls:
            tiny.sample(apply(sharper, model, sharpness), x, steps=1)
        (call,) = calls
        results[sharpness] = dict(zip(call["chunks"], call["output"].chunk(2)))
    assert torch.equal(results[1.0][1], results[2.0][1])
    assert (results[1.0][0] - results[2.0][0]).abs().max() > 1e-3


def test_example_equals_sharper_weights(sharper: Any) -> None:
    """q comes out of one linear layer without bias: scaling its weight is the same, for both prompts."""
    model, x = tiny.unet("sd15"), tiny.noise(16, 16)
    expected = tiny.unet("sd15")
    expected.model.diffusion_model.get_submodule("middle_block.1.transformer_blocks.0.attn1.to_q").weight.data.mul_(1.5)
    result = tiny.sample(apply(sharper, model, 1.5), x, cfg=1.0)
    torch.testing.assert_close(result, tiny.sample(expected, x, cfg=1.0), rtol=1e-4, atol=1e-4)
    assert (result - tiny.sample(model, x, cfg=1.0)).abs().max() > 1e-3


def test_example_ends_where_it_should(sharper: Any) -> None:
    """Inside the window the attention is tapped, beyond it the network is left alone."""
    model, x = tiny.unet("sd15"), tiny.noise(16, 16)
    patched = apply(sharper, model, 2.0, end=0.5)
    with tiny.watching(model) as calls:
        tiny.sample(patched, x, steps=4)
    touched = ["optimized_attention_override" in call["options"] for call in calls]
    assert touched[0] and not touched[-1]


def test_example_refuses_what_it_does_not_know(sharper: Any) -> None:
    with pytest.raises(ValueError, match="PixArt"):
        apply(sharper, tiny.pixart(), 2.0)
