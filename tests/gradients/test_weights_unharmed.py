"""Whatever a node does, the user's weights stay as they are, in every format, also after a cancel or an error."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import comfy.model_management
import pytest
import techniques
import torch
from comfy.patcher_extension import WrappersMP
from techniques import TECHNIQUES, WITH_GRADIENTS, WITH_PICTURES, World
from torch import Tensor
from weight_formats import FORMATS, fingerprint

from fovea.guidance.gradients.autograd import NoGradient, fully_loaded, outside_inference_mode
from fovea.models.shapesworld import loader as demo_model

PACKED = "packed (GGUF)"


class Broken(RuntimeError):
    """What a network, or a node of somebody else, may raise at any moment."""


@pytest.fixture(scope="module")
def world() -> World:
    return techniques.shapesworld(16)


class Loaded(NamedTuple):
    """A model, the weights of all models that nodes get, and what is drawn from it before any node has touched it."""

    name: str
    model: Any
    patchers: tuple
    weights: dict[str, str]
    picture: Tensor


@pytest.fixture(scope="module", params=list(FORMATS))
def loaded(request: pytest.FixtureRequest, world: World) -> Loaded:
    with torch.inference_mode():  # as loaders run
        model = FORMATS[request.param]()
    patchers = (model, world.clip.patcher, world.vae.patcher, world.scorer.patcher)
    return Loaded(request.param, model, patchers, fingerprint(*patchers), techniques.run("plain", model, world))


def at_call(model: Any, number: int, act: Callable[[], None]) -> Any:
    """The model with something that happens in an evaluation of its network."""
    calls, patched = [], model.clone()

    def wrapper(executor: Any, *given: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == number:
            act()
        return executor(*given, **named)

    patched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test", wrapper)
    return patched


def fail() -> None:
    raise Broken


@pytest.mark.parametrize("technique", list(TECHNIQUES))
def test_a_plain_run_afterwards_is_the_same(loaded: Loaded, technique: str, world: World) -> None:
    model, cancel = loaded.model, comfy.model_management.interrupt_current_processing
    if loaded.name == PACKED and technique in WITH_GRADIENTS:
        with pytest.raises(NoGradient, match=r"PackedTensor.*safetensors"):
            techniques.run(technique, model, world)
    else:
        assert torch.isfinite(techniques.run(technique, model, world)).all()
        assert fingerprint(*loaded.patchers) == loaded.weights
        for act, error in ((fail, Broken), (cancel, comfy.model_management.InterruptProcessingException)):
            with pytest.raises(error):
                techniques.run(technique, at_call(model, 1 if technique == "attention_map" else 2, act), world)
    assert fingerprint(*loaded.patchers) == loaded.weights
    assert torch.equal(techniques.run("plain", model, world), loaded.picture)


@pytest.mark.parametrize("part", ["vae", "scorer"])
def test_packed_weights_beside_the_model_are_refused_too(part: str, world: World) -> None:
    with torch.inference_mode():
        model, packed = FORMATS["fp32"](), FORMATS[PACKED]()
    owner = copy.copy(getattr(world, part))
    object.__setattr__(owner, "patcher", packed)
    weights = fingerprint(model, packed)
    for technique in WITH_PICTURES:
        with pytest.raises(NoGradient, match="safetensors"):
            techniques.run(technique, model, world._replace(**{part: owner}))
    assert fingerprint(model, packed) == weights


def test_the_fingerprint_sees_harm() -> None:
    """One changed byte, in each format; and what used to be done to packed weights."""
    for name, load in FORMATS.items():
        with torch.inference_mode():
            model = load()
            weights = fingerprint(model)
            parameter = next(p for n, p in model.model.named_parameters() if n.endswith("attn1.to_q.weight"))
            stored = getattr(parameter, "_qdata", parameter).data.as_subclass(torch.Tensor)
            stored.view(torch.uint8).flatten()[0] ^= 1
        changed = [key for key, value in fingerprint(model).items() if value != weights[key]]
        assert len(changed) == 1, name


def test_weights_that_give_gradients_are_normal_tensors(loaded: Loaded) -> None:
    if loaded.name == PACKED:
        pytest.skip("refused, see above")
    with outside_inference_mode():
        clone = fully_loaded(loaded.model)
    assert not any(parameter.is_inference() for parameter in clone.model.parameters())


@pytest.mark.parametrize("technique", list(WITH_GRADIENTS))
def test_streamed_weights_are_not_even_replaced(technique: str, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dynamic VRAM, which only GPUs have: gradients are taken of a copy that is loaded anew."""
    with torch.inference_mode():
        model = demo_model.load_model()
    objects, weights = [id(p) for p in model.model.parameters()], fingerprint(model)
    monkeypatch.setattr(type(model), "is_dynamic", lambda self: self is model)
    assert torch.isfinite(techniques.run(technique, model, world)).all()
    assert [id(p) for p in model.model.parameters()] == objects and fingerprint(model) == weights
