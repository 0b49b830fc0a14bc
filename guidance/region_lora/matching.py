"""LoRA files as changes of a model's layers: which tensors belong to which layer, and which cannot act in a place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import comfy.lora
import comfy.lora_convert
import torch
from comfy.weight_adapter import LoHaAdapter, LoKrAdapter, LoRAAdapter, WeightAdapterBase
from torch import Tensor

from ..regions.masks import Lora
from .layer_change import Bias, LayerChange, LowRank, Whole, is_convolution

NETWORK = "diffusion_model."
TEXT_ENCODER = ("lora_te", "text_encoder", "lora_prior_te", "te1.", "te2.", "te1_", "te2_", "clip_", "t5xxl")
SHOWN = 3  # names of a kind in a report
OTHER_SIZE, NO_LAYER = "of another size", "of layers that the model has not"
Change = LowRank | Whole | Bias


class NoMatch(ValueError):
    """A LoRA that fits nothing; the text says what to do."""


class Target(NamedTuple):
    """Where a change goes: the layer's name and the shape of its weight; of that only `length` rows or columns from
    `start` on along `axis`, where part is (axis, start, length); reorder: what the loader does to the change first."""

    name: str
    shape: tuple[int, ...]
    part: tuple[int, int, int] | None
    reorder: Callable[[Tensor], Tensor]


class CannotAct(Exception):
    """Why a change cannot act in a place."""


def match(model: Any, loras: Iterable[tuple[int, Lora]]) -> tuple[dict[str, LayerChange], list[str]]:
    """Changes of a model's layers (comfy BaseModel) by the module's name in its network, and what there is to say.

    loras: with the region that each is of; those of strength 0 change nothing. Raises NoMatch for a file that changes
    no layer, but for one of the text encoder alone.
    """
    key_map = comfy.lora.model_lora_keys_unet(model, {})
    layers: dict[str, LayerChange] = {}
    notes: list[str] = []
    for region, lora in loras:
        if not lora.model:
            continue
        weights = comfy.lora_convert.convert_lora(dict(lora.weights))
        left_out: Counter[str] = Counter()
        loaded = comfy.lora.load_lora(weights, key_map, log_missing=False)
        for key, data in loaded.items():
            name, kind, part, reorder = _place(key)
            try:
                change = _change(_target(model, name, part, reorder), kind, data, region, lora.model)
            except CannotAct as why:
                left_out[str(why)] += 1
            else:
                layers[name] = _with(layers.get(name, LayerChange()), change)
        if sum(left_out.values()) == len(loaded) and not (lora.clip and _of_text_encoder(lora)):
            raise NoMatch(_no_match(lora, model, left_out))
        notes += _told(lora, left_out, _unknown(weights, key_map))
    return layers, list(dict.fromkeys(notes))


def _of_text_encoder(lora: Lora) -> bool:
    """Whether a file changes nothing else."""
    return bool(lora.weights) and all(key.startswith(TEXT_ENCODER) for key in lora.weights)


def _with(change: LayerChange, more: Change) -> LayerChange:
    return LayerChange(
        (*change.low_rank, *([more] if isinstance(more, LowRank) else ())),
        (*change.whole, *([more] if isinstance(more, Whole) else ())),
        (*change.biases, *([more] if isinstance(more, Bias) else ())),
    )


def _place(key: Any) -> tuple[str, str, tuple[int, int, int] | None, Callable[[Tensor], Tensor]]:
    """What ComfyUI's loader calls a place: the module's name, "weight" or "bias", the part of it, the order."""
    path, *rest = (key,) if isinstance(key, str) else key
    name, _, kind = path.removeprefix(NETWORK).rpartition(".")
    part = rest[0] if rest and rest[0] is not None else None
    return name, kind, part, rest[1] if len(rest) > 1 and rest[1] is not None else _as_it_is


def _as_it_is(change: Tensor) -> Tensor:
    return change


def _target(
    model: Any, name: str, part: tuple[int, int, int] | None, reorder: Callable[[Tensor], Tensor]
) -> Target:
    """Raises CannotAct for what is no linear layer or convolution."""
    try:
        layer = model.diffusion_model.get_submodule(name)
    except AttributeError:
        raise CannotAct(NO_LAYER) from None
    if is_convolution(layer):
        if layer.groups != 1:
            raise CannotAct("of grouped convolutions")
        return Target(name, (layer.out_channels, layer.in_channels, *layer.kernel_size), part, reorder)
    if not hasattr(layer, "in_features") or not hasattr(layer, "out_features"):
        raise CannotAct("of norms and the like")
    return Target(name, (layer.out_features, layer.in_features), part, reorder)


def _change(target: Target, kind: str, data: Any, region: int, strength: float) -> Change:
    """What the loader made of a file's tensors as a change in a region. Raises CannotAct."""
    if isinstance(data, tuple):
        if data[0] != "diff":
            raise CannotAct(f'of kind "{data[0]}"')
        if kind == "bias":
            return _bias(target, data[1][0], region, strength)
        _fits(target, data[1][0].numel())
        return Whole(region, partial(_whole_of_tensor, target, data[1][0], strength))
    if kind != "weight" or not isinstance(data, (LoRAAdapter, LoHaAdapter, LoKrAdapter)):
        raise CannotAct(f"of kind {type(data).__name__.removesuffix('Adapter')}")
    if _is_dora(data):
        raise CannotAct("of kind DoRA")
    if isinstance(data, LoRAAdapter):
        return _low_rank(target, data, region, strength)
    for count in _sizes(data):
        _fits(target, count)
    return Whole(region, partial(_whole_of_adapter, target, data, strength))


def _is_dora(adapter: WeightAdapterBase) -> bool:
    """Whether a change depends on the whole weight's norm. ComfyUI keeps what says so last, but for LoRA."""
    weights = adapter.weights
    return weights[4 if isinstance(adapter, LoRAAdapter) else -1] is not None


def _shape(target: Target) -> tuple[int, ...]:
    """Of the part that is changed."""
    shape = list(target.shape)
    if target.part is not None:
        shape[target.part[0]] = target.part[2]
    return tuple(shape)


def _fits(target: Target, count: int) -> None:
    if count != torch.Size(_shape(target)).numel():
        raise CannotAct(OTHER_SIZE)


def _sizes(adapter: LoHaAdapter | LoKrAdapter) -> tuple[int, ...]:
    """How many entries a change has that is made of factors: of both sides of LoHa's product, of LoKr's as a whole.
    ComfyUI only logs at every step that they do not fit."""
    factors = adapter.weights
    if isinstance(adapter, LoHaAdapter):
        a, b, _, c, d, *middles = factors[:7]
        return _entries(None, a, b, middles[0]), _entries(None, c, d, middles[1])
    first, second, _, a, b, c, d, middle = factors[:8]
    return (_entries(first, a, b, None) * _entries(second, c, d, middle),)


def _entries(whole: Tensor | None, a: Tensor, b: Tensor, middle: Tensor | None) -> int:
    """Of a matrix, of a product of two, or of a convolution in three parts."""
    if whole is not None:
        return whole.numel()
    if middle is None:
        return a.shape[0] * b.shape[1]
    return a.shape[1] * b.shape[1] * middle.shape[2:].numel()


def _low_rank(target: Target, adapter: LoRAAdapter, region: int, strength: float) -> LowRank:
    up, down, alpha, middle, _, reshape = adapter.weights
    out, into, *kernel = _shape(target)
    if reshape is not None:
        raise CannotAct("that make a layer larger")
    rank = down.shape[0]
    scale = strength * (alpha / rank if alpha is not None else 1.0)
    if middle is not None:  # of a convolution in three parts: down is 1x1, the middle has the kernel
        down = torch.einsum("ri,sr...->si...", down.flatten(1).float(), middle.float())
    if up.flatten(1).shape[0] != out or down.flatten(1).shape[1] != into * torch.Size(kernel).numel():
        raise CannotAct(OTHER_SIZE)
    down = down.float().reshape(-1, into, *kernel)
    up = target.reorder(up.float().flatten(1)) * scale
    if target.part is not None:
        axis, start, length = target.part
        ends = (start, target.shape[axis] - start - length)
        if axis == 0:
            up = torch.nn.functional.pad(up, (0, 0, *ends))
        else:
            down = torch.nn.functional.pad(down, (*[0] * 2 * len(kernel), *ends))
    return LowRank(region, down, up)


def _bias(target: Target, change: Tensor, region: int, strength: float) -> Bias:
    out = target.shape[0]
    axis, start, length = target.part or (0, 0, out)
    if axis != 0 or change.numel() != length:
        raise CannotAct(OTHER_SIZE)
    return Bias(region, torch.nn.functional.pad(
        target.reorder(change.float().flatten()) * strength, (start, out - start - length)
    ))  # fmt: skip


def _whole_of_tensor(target: Target, change: Tensor, strength: float, device: torch.device) -> Tensor:
    return _placed(target, target.reorder(change.to(device, torch.float32).reshape(_shape(target))) * strength)


def _whole_of_adapter(target: Target, adapter: WeightAdapterBase, strength: float, device: torch.device) -> Tensor:
    """What ComfyUI's loader would add to the weight, by its own formula."""
    nothing = torch.zeros(_shape(target), device=device)
    return _placed(target, adapter.calculate_weight(nothing, target.name, strength, 1.0, None, target.reorder))


def _placed(target: Target, change: Tensor) -> Tensor:
    """The change of a part of a weight as one of the whole weight."""
    if target.part is None:
        return change
    whole = change.new_zeros(target.shape)
    whole.narrow(*target.part).copy_(change)
    return whole


def _unknown(weights: Iterable[str], key_map: Iterable[str]) -> list[str]:
    """Names in a file that belong to no layer of the model and to no text encoder."""
    names, unknown = set(key_map), []
    for key in weights:
        parts = key.split(".")
        begins = {".".join(parts[:end]) for end in range(1, len(parts) + 1)}
        begins |= {begin.removesuffix("_lora") for begin in begins}
        if not names & begins and not key.startswith(TEXT_ENCODER):
            unknown.append(key)
    return unknown


def _told(lora: Lora, left_out: Counter[str], unknown: list[str]) -> list[str]:
    notes = [f"LoRA {lora.name}: {count} changes {why} cannot act in a place and are left out."
             for why, count in left_out.items()]  # fmt: skip
    if unknown:
        more = f" and {len(unknown) - SHOWN} more" if len(unknown) > SHOWN else ""
        notes.append(f"LoRA {lora.name}: no layer of this model is called {', '.join(unknown[:SHOWN])}{more}.")
    return notes


def _no_match(lora: Lora, model: Any, left_out: Counter[str]) -> str:
    kinds = ", ".join(f"{count} {why}" for why, count in left_out.items())
    if left_out.keys() - {OTHER_SIZE, NO_LAYER}:
        return (
            f"nothing in LoRA {lora.name} can act in a place (left out: {kinds}). Load it for the whole picture, or "
            "take one of kind LoRA, LoHa or LoKr."
        )
    begin = f"left out: {kinds}" if kinds else f"its first names are {', '.join(list(lora.weights)[:SHOWN])}"
    return f"LoRA {lora.name} fits no layer of this model ({type(model).__name__}; {begin}). Take one made for it."
