"""Latents to pictures, as ComfyUI decodes them, but differentiable."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..gradients.checkpointing import checkpoint_blocks


@dataclass(frozen=True, eq=False)
class Decoder:
    """The model's latents to pictures [n, 3, height, width] in 0..1.

    vae: ComfyUI's VAE. network: its network, fully loaded. process_out: from the model's scaling of latents to the
    VAE's.
    """

    vae: Any
    network: Any
    process_out: Callable[[Tensor], Tensor]

    def __call__(self, latents: Tensor) -> Tensor:
        latents = self.process_out(latents).to(self.vae.device, self.vae.vae_dtype)
        with checkpoint_blocks(self.network):
            decoded = self.network.decode(latents)
        return self.vae.process_output(decoded.float())
