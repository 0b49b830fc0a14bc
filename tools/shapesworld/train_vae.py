"""Autoencoder: pictures to 4x32x32 latents and back. Crops first (more per second), whole pictures at the end."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .data import Dataset
from .stages import Run, Trainer, initialize

LATENT_NOISE = 0.02


def crops(data: Dataset, rng: np.random.Generator, batch: int, size: int) -> Tensor:
    """uint8 crops aligned to nothing, [batch, 3, size, size] in -1..1."""
    index = rng.integers(len(data), size=batch)
    at = rng.integers(0, 256 - size + 1, size=(batch, 2))
    parts = [data.pictures[i, y : y + size, x : x + size] for i, (y, x) in zip(index, at)]
    # contiguous: on CPUs group norm's backward pass takes six times as long on channels-last tensors
    return torch.from_numpy(np.stack(parts)).permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1


def loss_of(model: nn.Module, pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Reconstruction: squared and absolute error, and the same on image gradients, which keeps edges crisp.

    Three latent channels are tied to the mean color of their 8x8 patch. Left free, the coder spends them on edges and
    folds colors together for thousands of steps; tied, it is right from the start and easy to generate.
    A little noise on the latents makes the decoder forgive the generator's grain; ComfyUI decodes the mean.
    """
    with torch.autocast(pictures.device.type, torch.bfloat16):
        mean = model.quant_conv(model.encoder(pictures)).float()[:, :4]
        out = model.decode(mean + LATENT_NOISE * torch.randn_like(mean)).float()
    error = out - pictures
    gradient = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    color = (mean[:, :3] - F.avg_pool2d(pictures, 8)).square().mean()
    mse = error.square().mean()
    return mse + 0.2 * error.abs().mean() + 0.2 * gradient + color + 1e-4 * mean.square().mean(), mse


def build(seed: int) -> nn.Module:
    from fovea.models.shapesworld import generator

    model = initialize(generator.autoencoder(), seed)
    for coder in (model.encoder, model.decoder):
        # Convolutions do the work at this size; a silent attention block keeps crops and whole pictures consistent.
        for p in coder.mid.attn_1.parameters():
            p.requires_grad_(False)
        nn.init.zeros_(coder.mid.attn_1.proj_out.weight)
    return model


def train(run: Run, data: Dataset) -> None:
    model = build(run.seed).to(run.device)
    trainer = Trainer(run, nn.ModuleDict({"vae": model}), lr=2e-3, ema=0.995)
    rng = np.random.default_rng(run.seed + trainer.step)
    for step in trainer.steps():
        batch, size = (16, 96) if run.fraction() < 0.7 else (4, 256)
        loss, mse = loss_of(model, crops(data, rng, batch, size).to(run.device))
        trainer.backward(loss)
        if step % 100 == 0:
            psnr = -10 * np.log10(mse.item() / 4)
            run.log(step=step, loss=round(loss.item(), 5), psnr=round(psnr, 2))


@torch.no_grad()
def evaluate(model: nn.Module, held_out: Dataset, count: int = 128, device: str = "cpu") -> float:
    """Mean PSNR in dB of whole held-out pictures, through the mean of the posterior."""
    values = []
    for i in range(0, count, 8):
        pictures = (
            torch.from_numpy(np.array(held_out.pictures[i : i + 8])).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
        )
        out = model.decode(model.encode(pictures)).clamp(-1, 1)
        values += (-10 * torch.log10(((out - pictures) / 2).square().mean((1, 2, 3)))).tolist()
    return float(np.mean(values))
