"""Scorers: image and text towers that embed pictures and texts in one space, differentiable in the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import comfy.model_management as mm
import comfy.model_patcher
import torch
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class HostClipScorer:
    """An image tower of ours and the host's CLIP-L with the text tower that was trained with it.

    network: pictures [n, 3, size, size] in 0..1 -> (vectors, anything). The host leaves out the projection into the
    common space for this kind of text encoder; here it is done.
    """

    name: str
    size: int
    patcher: Any = field(repr=False)
    clip: Any = field(repr=False)

    def image(self, squares: Tensor) -> Tensor:
        return self.patcher.model(squares.to(self.patcher.load_device))[0]

    def text(self, texts: Sequence[str]) -> Tensor:
        project = self.clip.cond_stage_model.clip_l.transformer.text_projection
        with torch.no_grad():
            encode = self.clip.encode_from_tokens
            pooled = torch.cat([encode(self.clip.tokenize(text), return_pooled="unprojected")[1] for text in texts])
            return project(pooled.to(project.weight)).float()


def patched(network: nn.Module) -> Any:
    """A network of ours as the host's memory management wants it: on its devices, in float32."""
    network = network.eval().requires_grad_(False)
    return comfy.model_patcher.ModelPatcher(network, mm.get_torch_device(), mm.unet_offload_device())
