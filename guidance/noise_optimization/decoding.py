"""Latents to pictures, as ComfyUI decodes them, but differentiable."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
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
        if not torch.is_grad_enabled():  # nothing is taken back through it: one picture's memory is enough
            return torch.cat([self._picture(latent[None]) for latent in latents])
        with checkpoint_blocks(self.network):
            decoded = self.network.decode(latents)
        return self.vae.process_output(decoded.float())

    def _picture(self, latent: Tensor) -> Tensor:
        """One picture without gradient; in tiles where memory does not suffice, as ComfyUI's VAE Decode does."""
        try:
            return self.vae.process_output(self.network.decode(latent).float())
        except torch.OutOfMemoryError:
            return self.vae.decode_tiled_(latent).to(latent.device)
