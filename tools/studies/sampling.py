"""Pictures through ComfyUI's own sampling path, from captions or from CONDITIONING."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .demo_setup import DemoSetup


def sample(demo: DemoSetup, captions: list[str], seed: int, *how: Any, model: Any = None) -> Tensor:
    """A picture for each caption, [n, 256, 256, 3]. how: as in `sample_encoded`. model: in place of the demo's."""
    positive, negative = encoded(demo.clip, captions), encoded(demo.clip, [""] * len(captions))
    return sample_encoded(model or demo.model, demo.vae, positive, negative, len(captions), seed, *how)


def sample_encoded(
    model: Any, vae: Any, positive: list, negative: list, count: int, seed: int, steps: int, cfg: float,
    sampler: str = "euler", scheduler: str = "normal", start: Tensor | None = None, denoise: float = 1.0,
) -> Tensor:  # fmt: skip
    """The same from CONDITIONING. start: latents [n, 4, 32, 32] to begin with, of which `denoise` is made anew."""
    latent = torch.zeros(count, 4, 32, 32) if start is None else start
    return vae.decode(sample_latent(model, positive, negative, latent, seed, steps, cfg, sampler, scheduler, denoise))


def sample_latent(
    model: Any, positive: list, negative: list, latent: Tensor, seed: int, steps: int, cfg: float,
    sampler: str = "euler", scheduler: str = "normal", denoise: float = 1.0,
) -> Tensor:  # fmt: skip
    """The same, not decoded."""
    import comfy.sample

    noise = comfy.sample.prepare_noise(latent, seed)
    return comfy.sample.sample(
        model, noise, steps, cfg, sampler, scheduler, positive, negative, latent, denoise=denoise, disable_pbar=True,
        seed=seed,
    )  # fmt: skip


def encoded(clip: Any, captions: Sequence[str]) -> list:
    """CONDITIONING of a batch: a caption for each picture."""
    return joined([clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in captions])


def joined(conditionings: list[list]) -> list:
    """CONDITIONINGs of one picture each as that of a batch; they have the same parts, in the same windows."""
    found = []
    for parts in zip(*conditionings, strict=True):
        features, pooled = zip(*((part[0], part[1]["pooled_output"]) for part in parts))
        found.append([torch.cat(features), {**parts[0][1], "pooled_output": torch.cat(pooled)}])
    return found


def painted(pictures: Sequence[np.ndarray]) -> Tensor:
    """uint8 pictures as ComfyUI's IMAGE."""
    return torch.from_numpy(np.stack(pictures)).float() / 255


def as_bytes(pictures: Tensor) -> np.ndarray:
    """IMAGE as uint8 pictures."""
    return (pictures * 255).round().byte().cpu().numpy()
