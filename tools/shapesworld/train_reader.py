"""The reader: per-pixel class (color x shape, or background) and texture, from pictures with exact masks."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .data import Dataset
from .stages import Run, Trainer, initialize
from .world import N_CLASSES, N_OBJECT_CLASSES, SHAPES, TEXTURES

BATCH = 32


def batch_of(data: Dataset, rng: np.random.Generator, size: int = BATCH) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures [B, 3, 128, 128] in 0..1, classes [B, 128, 128], textures [B, 128, 128] (-1 off objects)."""
    index = rng.integers(len(data), size=size)
    pictures = data.drawn(index)
    labels = np.stack([data.labels[i] for i in index]).astype(np.int64)
    table = np.full((size, N_CLASSES), -1, np.int64)
    for b, i in enumerate(index):
        for thing in data.scenes[i].things:
            table[b, thing.label] = TEXTURES.index(thing.texture)
    textures = np.take_along_axis(table, labels.reshape(size, -1), axis=1).reshape(labels.shape)
    return pictures, torch.from_numpy(labels), torch.from_numpy(textures)


def roughen(pictures: Tensor, rng: np.random.Generator) -> Tensor:
    """What generated pictures have and painted ones lack: grain, softness, drifting exposure."""
    b = len(pictures)
    soft = F.interpolate(F.avg_pool2d(pictures, 2), scale_factor=2.0, mode="bilinear")
    mix = torch.from_numpy(rng.uniform(0, 1, (b, 1, 1, 1)) * (rng.random((b, 1, 1, 1)) < 0.5)).float()
    gain = torch.from_numpy(rng.normal(1, 0.04, (b, 3, 1, 1))).float()
    noise = torch.randn_like(pictures) * torch.from_numpy(rng.uniform(0, 0.06, (b, 1, 1, 1))).float()
    return ((pictures + mix * (soft - pictures)) * gain + noise).clamp(0, 1)


def class_loss(factors: tuple[Tensor, ...], labels: Tensor) -> Tensor:
    """Cross-entropy over the 52 joint classes without building them: the sum over color-shape pairs factorises.

    Objects cover a tenth of the picture: they weigh double, or thin parts are given to the background.
    """
    color, shape, background = (f.float() for f in factors[:3])
    total = torch.logaddexp(color.logsumexp(1) + shape.logsumexp(1), background.logsumexp(1))
    is_object = labels < N_OBJECT_CLASSES
    pick = lambda logits, index: logits.gather(1, index.clamp(0, logits.shape[1] - 1)[:, None])[:, 0]  # noqa: E731
    own = torch.where(
        is_object,
        pick(color, labels // len(SHAPES)) + pick(shape, labels % len(SHAPES)),
        pick(background, labels - N_OBJECT_CLASSES),
    )
    weight = 1 + is_object.float()
    return ((total - own) * weight).sum() / weight.sum()


def train(run: Run, data: Dataset) -> None:
    from comfy.ops import disable_weight_init as operations

    from fovea.models.shapesworld import evaluators

    model = initialize(evaluators.Segmenter(operations=operations), run.seed + 3).to(run.device)
    trainer = Trainer(run, nn.ModuleDict({"reader": model}), lr=2e-3, ema=0.99)
    rng = np.random.default_rng(run.seed + 31 + trainer.step)
    for step in trainer.steps():
        pictures, labels, textures = batch_of(data, rng)
        pictures, labels, textures = (x.to(run.device) for x in (roughen(pictures, rng), labels, textures))
        with torch.autocast(run.device.type, torch.bfloat16):
            factors = model.factors(pictures)
        loss = class_loss(factors, labels)
        trainer.backward(loss + 0.3 * F.cross_entropy(factors[3].float(), textures, ignore_index=-1))
        if step % 50 == 0:
            run.log(step=step, loss=round(loss.item(), 4))


@torch.no_grad()
def evaluate(model: nn.Module, held_out: Dataset, count: int = 512, device: str = "cpu") -> float:
    """Mean over classes of the intersection over union on held-out painted pictures."""
    inter, union = torch.zeros(N_CLASSES), torch.zeros(N_CLASSES)
    for i in range(0, count, 32):
        pictures = torch.from_numpy(np.array(held_out.small[i : i + 32])).to(device).permute(0, 3, 1, 2).float() / 255
        truth = torch.from_numpy(np.array(held_out.labels[i : i + 32])).long().to(device)
        guess = model(pictures)[0].argmax(1)
        for c in range(N_CLASSES):
            a, b = truth == c, guess == c
            inter[c] += (a & b).sum().cpu()
            union[c] += (a | b).sum().cpu()
    return float((inter / union.clamp(min=1)).mean())
