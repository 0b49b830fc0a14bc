"""Models in their real shapes, to measure speed: ShapesWorld as it ships, SD1.5 and SDXL with random weights."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from . import record

SHAPES: dict[str, dict[str, Any]] = {
    "sd15": {
        "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "num_res_blocks": [2, 2, 2, 2],
        "channel_mult": [1, 2, 4, 4], "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0], "transformer_depth_middle": 1,
        "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0], "context_dim": 768, "num_heads": 8,
        "num_head_channels": -1, "use_spatial_transformer": True, "legacy": False, "use_linear_in_transformer": False,
    },
    "sdxl": {
        "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "num_res_blocks": [2, 2, 2],
        "channel_mult": [1, 2, 4], "transformer_depth": [0, 0, 2, 2, 10, 10], "transformer_depth_middle": 10,
        "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10], "context_dim": 2048, "num_heads": -1,
        "num_head_channels": 64, "use_spatial_transformer": True, "legacy": False, "use_linear_in_transformer": True,
        "num_classes": "sequential", "adm_in_channels": 2816,
    },
}  # fmt: skip
MODELS = ("shapesworld", *SHAPES)


@dataclass(frozen=True)
class Case:
    """A model at a size (pixels) and batch. repeats: turns of every method; steps: of a run."""

    model: str
    size: int
    batch: int
    steps: int
    repeats: int
    dtype: torch.dtype = torch.float32

    @property
    def latent(self) -> torch.Tensor:
        return torch.zeros(self.batch, 4, self.size // 8, self.size // 8)

    def prompt(self, seed: int) -> list:
        """A random CONDITIONING of the model's width."""
        width = SHAPES[self.model]["context_dim"] if self.model in SHAPES else 256
        generator = torch.Generator().manual_seed(seed)
        pooled = torch.randn(1, 1280, generator=generator)
        return [[torch.randn(1, 77, width, generator=generator), {"pooled_output": pooled}]]


def of_device(device: torch.device, cpu: Sequence[Case], gpu: Sequence[Case], models: Sequence[str]) -> list[Case]:
    return [case for case in (gpu if device.type == "cuda" else cpu) if case.model in models]


def measured(path: Path, cases: Sequence[Case], bench: Callable[..., list[dict]], device: torch.device) -> None:
    """Write and show what bench(case, device) finds, case by case."""
    found: list[dict] = []
    for case in cases:
        found += bench(case, device)
        gc.collect()
        record.write(path, {**record.machine(device), "cases": found})
    print(json.dumps(found, indent=1))


def build(case: Case) -> Any:
    """The case's model in a ModelPatcher."""
    import comfy.model_base
    import comfy.model_management
    import comfy.model_patcher
    import comfy.supported_models

    from fovea.models.shapesworld import loader as demo_model

    if case.model == "shapesworld":
        return demo_model.load_model()
    device = comfy.model_management.get_torch_device()
    family = comfy.supported_models.SDXL if case.model == "sdxl" else comfy.supported_models.SD15
    settings = family({**SHAPES[case.model], "dtype": case.dtype})
    settings.unet_config.update({k: SHAPES[case.model][k] for k in ("num_heads", "num_head_channels")})
    make = comfy.model_base.SDXL if case.model == "sdxl" else comfy.model_base.BaseModel
    model = make(settings, device=torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    for parameter in model.diffusion_model.parameters():
        if parameter.ndim < 2:
            parameter.data.fill_(0.5)
        else:
            parameter.data.uniform_(-1, 1, generator=generator).mul_(parameter[0].numel() ** -0.5)
    return comfy.model_patcher.ModelPatcher(model, device, comfy.model_management.unet_offload_device())
