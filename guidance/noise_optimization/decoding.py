"""Latents to pictures, as ComfyUI decodes them, but differentiable."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..gradients.checkpointing import checkpoint_blocks
from .memory import out_of_memory


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
        """Latents with an axis for frames have one frame each: picture models with a decoder of videos."""
        latents = self._for_vae(latents)
        if latents.ndim == 5 and not self._has_frames:
            latents = latents[:, :, 0]
        if torch.is_grad_enabled():
            with checkpoint_blocks(self.network), all_at_once(self.network):
                decoded = self.network.decode(latents)
            pictures = self.vae.process_output(decoded.float()).to(latents.device)
        else:  # nothing is taken back through it: one picture's memory is enough
            pictures = torch.cat([self._decoded(latent) for latent in latents.split(1)])
        return pictures[:, :, 0] if pictures.ndim == 5 else pictures

    def frames(self, latents: Tensor) -> Tensor:
        """What is scored of latents [n, channels, (frames,) height, width], without gradient: pictures [n, frames, 3,
        height, width], of a video the first, the middle and the last."""
        if latents.ndim == 4:
            return self(latents)[:, None]
        if not self._has_frames:  # a decoder of pictures: each frame of the latent by itself
            return torch.stack([self(latents[:, :, at : at + 1]) for at in ends_and_middle(latents.shape[2])], dim=1)
        return torch.cat([video[:, ends_and_middle(video.shape[1])] for video in map(self.video, latents.split(1))])

    def video(self, latent: Tensor) -> Tensor:
        """All frames [1, frames, 3, height, width] of one latent [1, channels, frames, height, width]."""
        return self._decoded(self._for_vae(latent)).movedim(2, 1)

    def whole(self, latents: Tensor) -> Tensor:
        """All pictures of latents, [n * frames, 3, height, width], without gradient."""
        if latents.ndim == 4:
            return self(latents)
        if not self._has_frames:
            return self(latents.movedim(2, 1).flatten(0, 1)[:, :, None])
        return torch.cat([self.video(latent).flatten(0, 1) for latent in latents.split(1)])

    @property
    def _has_frames(self) -> bool:
        """Whether the decoder is one of videos."""
        return getattr(self.vae, "latent_dim", 2) == 3

    def _for_vae(self, latents: Tensor) -> Tensor:
        return self.process_out(latents).to(self.vae.device, self.vae.vae_dtype)

    def _decoded(self, latent: Tensor) -> Tensor:
        """One latent without gradient; in tiles where memory does not suffice, as ComfyUI's VAE Decode does."""
        decoded = self._at_once(latent)
        if decoded is None:
            vae = copy.copy(self.vae)
            vae.first_stage_model = self.network  # which is the one that is loaded
            decoded = (vae.decode_tiled_3d if latent.ndim == 5 else vae.decode_tiled_)(latent)
        return decoded.to(latent.device)

    def _at_once(self, latent: Tensor) -> Tensor | None:
        """None where memory does not suffice: an error that is still being handled would hold what was computed."""
        try:
            return self.vae.process_output(self.network.decode(latent).float())
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            return None


@contextlib.contextmanager
def all_at_once(network: Any) -> Iterator[None]:
    """While active, ComfyUI's tiny autoencoders of videos decode all frames at once: one after the other, as they do
    otherwise, they cut the gradient off between frames, of which a single latent makes several."""
    apart = getattr(network, "parallel", None) is False
    if apart:
        network.parallel = True
    try:
        yield
    finally:
        if apart:
            network.parallel = False


def is_video(latents: Tensor) -> bool:
    """Whether latents [n, channels, frames, height, width] have more than one frame; pictures may have that axis."""
    return latents.ndim == 5 and latents.shape[2] > 1


def ends_and_middle(count: int) -> list[int]:
    """The first, the middle and the last of so many, each once."""
    return sorted({0, count // 2, count - 1})
