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

    def frames(self, latents: Tensor) -> Tensor:
        """What is scored of latents [n, channels, (frames,) height, width], without gradient: pictures [n, frames, 3,
        height, width], of a video the first, the middle and the last."""
        if latents.ndim == 4:
            return self(latents)[:, None]
        if getattr(self.vae, "latent_dim", 2) == 2:  # a decoder of pictures: each frame of the latent by itself
            return torch.stack([self(latents[:, :, at]) for at in ends_and_middle(latents.shape[2])], dim=1)
        return torch.cat([video[:, ends_and_middle(video.shape[1])] for video in map(self.video, latents.split(1))])

    def video(self, latent: Tensor) -> Tensor:
        """All frames [1, frames, 3, height, width] of one latent [1, channels, frames, height, width]."""
        latent = self.process_out(latent).to(self.vae.device, self.vae.vae_dtype)
        try:
            decoded = self.vae.process_output(self.network.decode(latent).float())
        except torch.OutOfMemoryError:
            decoded = self.vae.decode_tiled_3d(latent).to(latent.device)
        return decoded.movedim(2, 1)

    def whole(self, latents: Tensor) -> Tensor:
        """All pictures of latents, [n * frames, 3, height, width], without gradient."""
        if latents.ndim == 4:
            return self(latents)
        if getattr(self.vae, "latent_dim", 2) == 2:
            return self(latents.movedim(2, 1).flatten(0, 1))
        return torch.cat([self.video(latent).flatten(0, 1) for latent in latents.split(1)])

    def _picture(self, latent: Tensor) -> Tensor:
        """One picture without gradient; in tiles where memory does not suffice, as ComfyUI's VAE Decode does."""
        try:
            return self.vae.process_output(self.network.decode(latent).float())
        except torch.OutOfMemoryError:
            return self.vae.decode_tiled_(latent).to(latent.device)


def ends_and_middle(count: int) -> list[int]:
    """The first, the middle and the last of so many, each once."""
    return sorted({0, count // 2, count - 1})
