"""Any node of ComfyUI that makes a number of a picture, as a scorer without gradient.

The node is called as ComfyUI calls it, once per picture, outside of the graph: what it needs of the graph (hidden
inputs, lazy inputs, other nodes) it does not get.
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import comfy.model_management as mm
import torch
from comfy_api.internal import _ComfyNodeInternal
from torch import Tensor

import nodes as comfy_nodes  # ComfyUI's module of that name

from .scorer import Scorer

TEXTS = ("prompt", "text", "caption", "query", "positive")  # names of inputs that take the prompt, in this order
PROMPT = "{prompt}"  # stands for it in given values
EMPTY = {"INT": 0, "FLOAT": 0.0, "STRING": "", "BOOLEAN": False}  # where a node names no default, as in the editor


class NoRatingNode(ValueError):
    """A node that cannot be used as a scorer; the text says why and what is expected."""


@dataclass(frozen=True, eq=False)
class RatingNodeScorer(Scorer):
    """call: the node. picture: which input gets the picture. texts: which get the prompt, with what is around it.
    fixed: the other inputs. output: the number's place. sign: -1 where lower is better. lists: whether the node takes
    lists. Has no patcher: the node loads what it needs."""

    name: str
    unit: str
    call: Callable[..., Any] = field(repr=False)
    picture: str
    texts: Mapping[str, str]
    fixed: Mapping[str, Any] = field(repr=False)
    output: int
    sign: int = 1
    lists: bool = False
    size: int = 512
    differentiable: ClassVar[bool] = False
    whole: ClassVar[bool] = True

    @property
    def reads_prompt(self) -> bool:  # type: ignore[override]
        return bool(self.texts)

    def target(self, prompt: str) -> str:
        return prompt

    def losses(self, squares: Tensor, target: str) -> Tensor:
        """Pictures [n, 3, height, width], one by one. NaN for those that are not finite: many nodes go through 8 bit,
        which would make black pictures of them."""
        rated = [-self.sign * self.rate(picture, target) if bool(torch.isfinite(picture).all()) else math.nan
                 for picture in squares.detach()]  # fmt: skip
        return squares.new_tensor(rated, dtype=torch.float32)

    def scores(self, losses: Tensor) -> Tensor:
        return -losses

    def rate(self, picture: Tensor, prompt: str) -> float:
        """What the node says of a picture [3, height, width]. Models that it pushes out of the memory come back."""
        image = picture.movedim(0, -1)[None].float().to(mm.intermediate_device())
        texts = {key: text.replace(PROMPT, prompt) for key, text in self.texts.items()}
        given = {**self.fixed, **texts, self.picture: image}
        loaded = [each.model for each in mm.current_loaded_models if each.model is not None]
        made = self.call(**({key: [value] for key, value in given.items()} if self.lists else given))
        still = {id(each.model) for each in mm.current_loaded_models}
        if any(id(patcher) not in still for patcher in loaded):
            mm.load_models_gpu(loaded)  # those that stayed, too: else they would make room for the others
        made = made.get("result") if isinstance(made, dict) else getattr(made, "result", made)
        value = made[self.output] if isinstance(made, (tuple, list)) and len(made) > self.output else None
        value = value[0] if isinstance(value, (tuple, list)) and value else value
        try:
            return float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            raise NoRatingNode(f"Node {self.name} gave {value!r:.60} in place of a number.") from None


def load(name: str, values: str = "{}", lower_is_better: bool = False, sockets: Sequence[Any] = ()) -> RatingNodeScorer:
    """A scorer of a node. name: its class, as API workflows have it. values: JSON of inputs by name. sockets: for the
    inputs that have neither a default nor a value, in their order. Raises NoRatingNode."""
    node = comfy_nodes.NODE_CLASS_MAPPINGS.get(name)
    if node is None:
        raise NoRatingNode(f'There is no node of class {name!r}. Take what its properties call "Node name for S&R".')
    told, given = node.INPUT_TYPES(), _values(values)
    required, every = told.get("required", {}), {**told.get("required", {}), **told.get("optional", {})}
    if not set(given) <= set(every):
        raise NoRatingNode(f"Node {name} has no input {min(set(given) - set(every))!r}. It has {sorted(every)}.")
    pictures = [key for group in (required, every) for key in group if group[key][0] == "IMAGE"]
    numbers = [at for kind in ("FLOAT", "INT") for at, each in enumerate(node.RETURN_TYPES) if each == kind]
    if not pictures or not numbers:
        raise NoRatingNode(f"Node {name} does not make a number (FLOAT or INT) of a picture (IMAGE).")
    texts = {key: value for key, value in given.items() if isinstance(value, str) and PROMPT in value}
    named = [key for key in TEXTS if key in every and every[key][0] == "STRING" and key not in given]
    texts = texts or dict.fromkeys(named[:1], PROMPT)
    fixed = {key: _default(kind) for key, kind in required.items() if key not in (*texts, pictures[0])} | given
    empty = [key for key, value in fixed.items() if value is None and key not in given]
    if len(empty) != len(sockets):
        raise NoRatingNode(f"Node {name} wants {len(empty)} sockets {empty} connected here, and has {len(sockets)}.")
    new = issubclass(node, _ComfyNodeInternal)
    call = getattr(node.PREPARE_CLASS_CLONE(None) if new else node(), node.FUNCTION)
    if inspect.iscoroutinefunction(call):
        raise NoRatingNode(f"Node {name} waits for something else (it is async), which a search cannot do.")
    unit = "minus " * lower_is_better + str((getattr(node, "RETURN_NAMES", None) or node.RETURN_TYPES)[numbers[0]])
    hidden = {} if new else dict.fromkeys(told.get("hidden", {}))
    fixed, lists = {**hidden, **fixed, **dict(zip(empty, sockets))}, bool(getattr(node, "INPUT_IS_LIST", False))
    sign = -1 if lower_is_better else 1
    return RatingNodeScorer(name, unit, call, pictures[0], texts, fixed, numbers[0], sign, lists)


def _values(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text.strip() or "{}")
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise NoRatingNode('values is no JSON object. Write it like {"threshold": 0.5}.')
    return found


def _default(kind: Sequence[Any]) -> Any:
    """What an input of a node has if nobody touches it; None for a socket, and for what has to be connected."""
    options = kind[1] if len(kind) > 1 and isinstance(kind[1], Mapping) else {}
    if options.get("forceInput") and "default" not in options:
        return None
    choices = kind[0] if isinstance(kind[0], (list, tuple)) else options.get("options") or [EMPTY.get(kind[0])]
    return options.get("default", choices[0] if choices else None)
