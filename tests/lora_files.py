"""Random LoRA files for any model, in every form that acts in a place, and what they add to a weight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fovea.guidance.regions.masks import Lora, Region, Regions

SIZE = 0.4  # of a change, beside weights of size 1


def layers(network: nn.Module) -> dict[str, nn.Module]:
    """What a LoRA may change, by name."""
    return {name: part for name, part in network.named_modules() if isinstance(part, (nn.Linear, nn.Conv2d, nn.Conv3d))}


def weights(model: Any, seed: int, only: Callable[[str], bool] = lambda name: True, rank: int = 3) -> dict[str, Tensor]:
    """A LoRA for every layer that `only` takes."""
    generator = torch.Generator().manual_seed(seed)
    file = {}
    for name, part in layers(model.model.diffusion_model).items():
        if not only(name):
            continue
        out, into, *kernel = part.weight.shape
        fan = into * torch.Size(kernel).numel()
        down = torch.randn(rank, into, *kernel, generator=generator) / fan**0.5
        up = torch.randn(out, rank, *[1] * len(kernel), generator=generator) * SIZE / rank**0.5
        file |= {f"diffusion_model.{name}.lora_down.weight": down, f"diffusion_model.{name}.lora_up.weight": up}
        file[f"diffusion_model.{name}.alpha"] = torch.tensor(float(rank))
    return file


def region(mask: Tensor, file: dict[str, Tensor], strength: float = 1.0, **more: Any) -> Region:
    return Region(mask, more.pop("prompt", ""), loras=(Lora("test.safetensors", file, strength, 0.0),), **more)


def halves(*files: dict[str, Tensor], height: int = 8, width: int = 8) -> Regions:
    """The first LoRA left, the second right."""
    left = torch.zeros(1, height, width)
    left[..., : width // 2] = 1
    return Regions(tuple(region(mask, file) for mask, file in zip((left, 1 - left), files)))


def everywhere(file: dict[str, Tensor]) -> Regions:
    return Regions((region(torch.ones(1, 8, 8), file),))
