"""Errors name the node that they are of."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_models as tiny
from comfy_api.latest import io

from fovea import nodes
from fovea.guidance.gradients.errors import NoGradient
from fovea.nodes import attention_map, encoder_schedule, masked_prompts, regions, scorers
from fovea.nodes.ui import errors
from tools.comfy.node_values import arguments


@pytest.mark.parametrize("raised, said", [
    (ValueError("no such block"), "A Node: no such block"),
    (NoGradient("no gradient: go past it"), "A Node: no gradient: go past it"),
    (ValueError("A Node: levels must rise"), "A Node: levels must rise"),
])  # fmt: skip
def test_the_class_stays(raised: Exception, said: str) -> None:
    with pytest.raises(type(raised)) as error, errors.of_node("A Node"):
        raise raised
    assert error.value is raised and str(error.value) == said


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(KeyError) as error, errors.of_node("A Node"):
        raise KeyError("x")
    assert error.value.args == ("x",)


def wrong(class_: Any, **given: Any) -> str:
    with pytest.raises((ValueError, RuntimeError)) as error:
        class_.execute(**arguments(class_, **given))
    return str(error.value)


class Broken:
    """Whatever is done with it fails."""

    def fail(self, *_: Any, **__: Any) -> Any:
        raise ValueError("broken")

    __getattr__ = __getitem__ = __len__ = __iter__ = __bool__ = __eq__ = __lt__ = __le__ = __gt__ = __ge__ = fail
    __float__ = __int__ = __add__ = __radd__ = __mul__ = __rmul__ = __truediv__ = __fspath__ = fail
    __hash__ = __contains__ = __sub__ = __round__ = __format__ = fail


@pytest.mark.parametrize("class_", [node for module in nodes.MODULES for node in module.NODES])
def test_every_node_does_so(class_: Any) -> None:
    """Whichever of its inputs is wrong."""
    schema = class_.define_schema()
    with pytest.raises(ValueError) as error:
        class_.execute(**{one.id: "" if isinstance(one, io.String.Input) else Broken() for one in schema.inputs})
    assert str(error.value).startswith(f"{schema.display_name}: "), str(error.value)


def test_nodes_do_so() -> None:
    model = tiny.unet("shallow")
    said = wrong(attention_map.FoveaAttentionMap, model=model, positive=tiny.prompt(1),
                 latent={"samples": tiny.noise(8, 8)}, blocks="nowhere.7")  # fmt: skip
    assert said.startswith("Attention Map: ") and "nowhere.7" in said
    with pytest.raises(ValueError, match=r"^Scorer from Node: .*NoSuchNode"):
        scorers.FoveaScorerFromNode.execute("NoSuchNode", "", False)


@pytest.mark.parametrize("class_", [
    encoder_schedule.FoveaEncoderSchedule, masked_prompts.FoveaRegionsToConditioning, scorers.FoveaScorerFromCLIP,
    regions.FoveaDenseDiffusion, regions.FoveaPaintWithWords,
])  # fmt: skip
def test_a_checkpoint_without_a_text_encoder_is_told(class_: Any) -> None:
    """Load Checkpoint gives None for its CLIP."""
    given = {socket.id: None for socket in class_.define_schema().inputs if getattr(socket, "default", None) is None}
    given.pop("method", None)  # has options
    assert "clip is empty. Connect the CLIP of a checkpoint" in wrong(class_, **given)
