"""LoRAs for the generator, each of one of the world's ways to draw, which captions do not tell here: low-rank changes
of all its layers but those of the noise level (arXiv 2106.09685), trained on pictures of that style alone.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from .data import Dataset
from .shipped_weights import LORAS, base_hash
from .stages import Run, finished
from .train_experts import base
from .train_unet import fit, noise_levels, read_by, shipped_tower
from .world import Scene

RANK = 4
BATCH = 8
RATE = 2.5  # of the generator's learning rate
CHANGE = ".parametrizations.weight.0."


class LowRank(nn.Module):
    """weight + up @ down; up begins with zeros, so that training begins with the generator as it is."""

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.randn(rank, weight[0].numel()) / weight[0].numel() ** 0.5)
        self.up = nn.Parameter(torch.zeros(weight.shape[0], rank))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.up @ self.down).view(weight.shape)


def generator_with_change() -> nn.Module:
    """The shipped generator, frozen, with a change to train in every layer but those that embed the noise level."""
    from fovea.models.shapesworld import generator

    model = generator.unet()
    model.load_state_dict(base())
    model.requires_grad_(False)
    for name, layer in list(model.named_modules()):
        if isinstance(layer, (nn.Linear, nn.Conv2d)) and not name.startswith("time_embed"):
            register_parametrization(layer, "weight", LowRank(layer.weight, RANK), unsafe=True)
    return model


def _told(style: str, scene: Scene) -> Scene | None:
    """A scene of this style without its name; None for those of other styles."""
    return replace(scene, style="") if scene.style == style else None


def train(run: Run, data: Dataset) -> None:
    """All of them, one after the other."""
    condition = read_by(shipped_tower(run), run.device)
    for part, style in LORAS.items():
        torch.manual_seed(run.seed + 9)
        own = run.part(part, 1 / len(LORAS), rate=RATE)
        modules = nn.ModuleDict({"unet": generator_with_change()})
        fit(own, data, modules, noise_levels, 0.99, condition, partial(_told, style), BATCH, warm_up=30)


def file_of(work: Path, part: str) -> dict[str, Tensor]:
    """A trained LoRA under the names that ComfyUI's loader reads, fp16."""
    state, out = finished(work, part, base_hash()), {}
    for key in [key for key in state if key.endswith(f"{CHANGE}up")]:
        layer = key.removeprefix("unet.").removesuffix(f"{CHANGE}up")
        original = state[f"unet.{layer}.parametrizations.weight.original"]
        down = state[key.removesuffix("up") + "down"]
        name = f"diffusion_model.{layer}"
        out[f"{name}.lora_up.weight"] = state[key].half().contiguous()
        out[f"{name}.lora_down.weight"] = down.view(RANK, *original.shape[1:]).half().contiguous()
    return out
