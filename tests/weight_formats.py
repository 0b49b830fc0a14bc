"""The ShapesWorld generator with its weights in every format that ComfyUI loads, and fingerprints of weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import comfy.model_patcher
import comfy.ops
import comfy.quant_ops
import tiny_models as tiny
import torch
from torch import Tensor, nn

from fovea.models.shapesworld import generator
from fovea.models.shapesworld import loader as demo_model


class PackedTensor(Tensor):
    """Weights in the manner of ComfyUI-GGUF: int8 rows with a byte more than the matrix that `shape` tells of, which
    clone() and detach() do not copy and whose attributes only to() keeps."""

    def __new__(cls, packed: Tensor, whole: torch.Size | None = None, scale: float = 1.0) -> PackedTensor:
        self = torch.Tensor._make_subclass(cls, packed)
        self.whole, self.scale = whole, scale
        return self

    def to(self, *given: Any, **named: Any) -> Tensor:
        new = super().to(*given, **named)
        new.whole, new.scale = getattr(self, "whole", None), getattr(self, "scale", 1.0)
        return new

    def clone(self, *given: Any, **named: Any) -> Tensor:
        return self

    def detach(self) -> Tensor:
        return self

    @property
    def shape(self) -> torch.Size:
        whole = getattr(self, "whole", None)
        return self.size() if whole is None else whole


class PackedOperations(comfy.ops.manual_cast):
    """Layers that unpack their weights where they are used, and load what they are given as it is."""

    class Linear(comfy.ops.manual_cast.Linear):
        comfy_cast_weights = True

        def _load_from_state_dict(self, state: dict, prefix: str, *_: Any) -> None:
            for name in ("weight", "bias"):
                if prefix + name in state:
                    setattr(self, name, nn.Parameter(state[prefix + name], requires_grad=False))

        def forward(self, x: Tensor) -> Tensor:
            weight = self.weight
            if getattr(weight, "whole", None) is not None:
                weight = torch.Tensor(weight)[:, :-1].to(x) * weight.scale
            bias = None if self.bias is None else torch.Tensor(self.bias).to(x)
            return nn.functional.linear(x, torch.Tensor(weight).to(x), bias)


def packed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    def pack(weight: Tensor) -> Tensor:
        scale = float(weight.float().abs().max() / 127)
        rows = (weight.float() / scale).round()
        return PackedTensor(torch.cat([rows, torch.zeros(len(rows), 1)], dim=1).to(torch.int8), weight.shape, scale)

    return {name: pack(weight) if is_linear(name, weight) else weight for name, weight in state.items()}


def quantized(state: dict[str, Tensor], form: str, storage: torch.dtype) -> dict[str, Tensor]:
    """As ComfyUI saves them: per layer the weight, its scale and which format it is."""
    largest = 127 if storage == torch.int8 else torch.finfo(storage).max
    found = {}
    for name, weight in state.items():
        if not is_linear(name, weight):
            found[name] = weight.float()
            continue
        scale = weight.float().abs().max() / largest
        scaled = weight.float() / scale
        found[name] = (scaled.round() if storage == torch.int8 else scaled).to(storage)
        found[name.replace(".weight", ".weight_scale")] = scale
        told = json.dumps({"format": form}).encode()
        found[name.replace(".weight", ".comfy_quant")] = torch.tensor(list(told), dtype=torch.uint8)
    return found


def is_linear(name: str, weight: Tensor) -> bool:
    return weight.ndim == 2 and name.endswith(".weight")


def _build(operations: Any, change: Callable[[dict], dict], dtype: torch.dtype = torch.float32) -> Any:
    facts = demo_model.manifest()["latents"]
    config = generator.ShapesWorldConfig(generator.ShapesWorldLatent(facts["scale_factor"]))
    config.custom_operations = operations
    # Half precision is cast where it is used, as ComfyUI does on CPUs, which are slow in it.
    config.set_inference_dtype(dtype, None if dtype == torch.float32 else torch.float32)
    state = demo_model.load_part("unet")
    model = config.get_model(state, "")
    model.diffusion_model.load_state_dict(change(state), strict=False)
    return comfy.model_patcher.ModelPatcher(model, tiny.CPU, tiny.CPU)


def _quantized(form: str, storage: torch.dtype) -> Callable[[], Any]:
    operations = comfy.ops.mixed_precision_ops({}, torch.float32)
    return lambda: _build(operations, lambda state: quantized(state, form, storage))


def _plain(dtype: torch.dtype) -> Callable[[], Any]:
    return lambda: _build(None, lambda state: state, dtype)


# Dynamic VRAM, which only GPUs have, is in test_autograd.py; here are the formats as they lie in memory.
FORMATS: dict[str, Callable[[], Any]] = {
    "fp32": _plain(torch.float32), "fp16": _plain(torch.float16), "bf16": _plain(torch.bfloat16),
    "scaled fp8 e4m3": _quantized("float8_e4m3fn", torch.float8_e4m3fn),
    "scaled fp8 e5m2": _quantized("float8_e5m2", torch.float8_e5m2),
    "int8 tensorwise": _quantized("int8_tensorwise", torch.int8),
    "packed (GGUF)": lambda: _build(PackedOperations, packed),
}  # fmt: skip


def fingerprint(*patchers: Any) -> dict[str, str]:
    """Hash of every weight and buffer by its name: of the stored bytes, and of what a subclass keeps beside them."""
    found = {}
    for number, patcher in enumerate(patchers):
        model = patcher.model
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            found[f"{number} {name}"] = _hash(tensor)
    return found


def _hash(tensor: Tensor) -> str:
    digest = hashlib.sha256(type(tensor).__name__.encode())
    if isinstance(tensor, comfy.quant_ops.QuantizedTensor):
        stored, extra = tensor._qdata, repr(tensor._params)
    else:
        stored, extra = tensor.data, repr((getattr(tensor, "whole", None), getattr(tensor, "scale", None)))
    plain = stored.as_subclass(Tensor).contiguous().flatten()
    digest.update(plain.view(torch.uint8).numpy().tobytes() if plain.numel() else b"")
    digest.update(repr((tuple(stored.size()), stored.dtype, extra)).encode())
    return digest.hexdigest()
