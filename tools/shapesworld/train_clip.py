"""CLIP A and CLIP B: contrastive training, each picture with a near-miss caption as hard negative.

CLIP A also learns to point, every noun's hidden state must light up the patches of its object, and to name: it must
tell shape, color and texture along fixed directions. So the noun, which the generator's cross-attention reads, carries
its adjectives, and its shape weighs as much as its color (without naming a sixth, and the generator drew any shape).
CLIP B has no such losses and shares nothing with A.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import words
from .data import Dataset
from .stages import Run, Trainer, initialize
from .world import COLOUR_NAMES, SHAPES, TEXTURES, caption, confused, worded

BATCH, MAX_THINGS, POINT_WIDTH = 128, 4, 64
KINDS = {"shape": SHAPES, "color": COLOUR_NAMES, "texture": TEXTURES}


@dataclass
class Batch:
    pictures: Tensor  # [B, 3, 128, 128] in 0..1
    rows: Tensor  # [2B, N] rows of the compact token table; the second half are the near misses
    ends: Tensor  # [2B]
    nouns: Tensor  # [B, 4] token positions, 0 where there is none
    kinds: Tensor  # [B, 4, 3] indices of the noun's shape, color and texture
    cover: Tensor  # [B, 4, 64] share of every 8x8 patch that the noun's object covers


def batch_of(data: Dataset, rng: np.random.Generator, size: int = BATCH, device: torch.device | str = "cpu") -> Batch:
    """Draw pictures with fresh wordings."""
    index = rng.integers(len(data), size=size)
    pictures = data.drawn(index)
    right, wrong = [], []
    nouns, cover = np.zeros((size, MAX_THINGS), np.int64), np.zeros((size, MAX_THINGS, 64), np.float32)
    kinds = np.zeros((size, MAX_THINGS, len(KINDS)), np.int64)
    for b, i in enumerate(index):
        text, things = worded(data.scenes[i], rng)
        ids = words.encode(text)
        right.append(ids)
        wrong.append(words.encode(caption(confused(data.scenes[i], rng), rng)))
        for k, (position, thing) in enumerate(zip(words.shape_positions(ids), things, strict=True)):
            nouns[b, k] = position
            kinds[b, k] = [values.index(getattr(thing, name)) for name, values in KINDS.items()]
            cover[b, k] = (data.labels[i] == thing.label).reshape(8, 16, 8, 16).mean((1, 3)).reshape(-1)
    ids = np.stack(right + wrong)
    ends = words.ends(ids)
    rows = words.rows(ids[:, : ends.max() + 1])
    rows = np.where(rng.random(rows.shape) < 0.005, 0, rows)  # now and then an unknown word
    to = lambda x: torch.from_numpy(x).to(device)  # noqa: E731
    return Batch(pictures.to(device), to(rows), to(ends), to(nouns), to(kinds), to(cover))


def contrastive(image: Tensor, text: Tensor, scale: Tensor) -> tuple[Tensor, float]:
    """Symmetric cross-entropy; `text`: B captions, B near misses. -> loss, share of pictures that pick their own."""
    logits = scale.exp().clamp(max=100) * F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T
    target = torch.arange(len(image), device=image.device)
    loss = F.cross_entropy(logits, target) + F.cross_entropy(logits[:, : len(image)].T, target)
    return loss / 2, (logits.argmax(1) == target).float().mean().item()


def build_a(seed: int) -> nn.ModuleDict:
    from comfy.ops import disable_weight_init as operations

    from fovea.models.shapesworld import evaluators

    text = evaluators.clip_a_text(device="meta")
    text.set_input_embeddings(nn.Identity())  # the full 49,408-row table is never trained: only the rows in use are
    text = text.to_empty(device="cpu")
    modules = nn.ModuleDict(
        {
            "text": text,
            "table": nn.Embedding(len(words.known_ids()) + 1, 256),
            "image": evaluators.ClipTrainImage(operations=operations),
            "point_text": nn.Linear(256, POINT_WIDTH),
            "point_image": nn.Linear(192, POINT_WIDTH),
        }
    )
    modules["scale"] = nn.ParameterList([nn.Parameter(torch.tensor([2.66])), nn.Parameter(torch.tensor([1.0, -2.0]))])
    scales = [p.detach().clone() for p in modules["scale"]]
    initialize(modules, seed)
    for p, value in zip(modules["scale"], scales):
        p.data.copy_(value)
    return modules


def naming_directions(width: int) -> Tensor:
    """Orthonormal rows, one per shape, color and texture, the same in every run: [17, width]."""
    rows = sum(len(values) for values in KINDS.values())
    return torch.linalg.qr(torch.randn(width, rows, generator=torch.Generator().manual_seed(0)))[0].T


def naming_loss(noun: Tensor, directions: Tensor, batch: Batch) -> Tensor:
    """Cross-entropy of each attribute; halved, so that the states must lie twice as far apart. noun [B, 4, C]."""
    logits = (noun.float() @ directions.T / 2).split([len(values) for values in KINDS.values()], -1)
    there = batch.nouns > 0
    return torch.stack([F.cross_entropy(x[there], batch.kinds[there, i]) for i, x in enumerate(logits)]).sum()


def pointing_loss(modules: nn.ModuleDict, noun: Tensor, patches: Tensor, batch: Batch) -> Tensor:
    text = F.normalize(modules["point_text"](noun.float()), dim=-1)
    image = F.normalize(modules["point_image"](patches.float()), dim=-1)
    gain, bias = modules["scale"][1]
    logits = 10 * gain * text @ image.mT + bias
    loss = F.binary_cross_entropy_with_logits(logits, batch.cover, reduction="none").mean(-1)
    there = (batch.nouns > 0).float()
    return (loss * there).sum() / there.sum()


def train_a(run: Run, data: Dataset) -> None:
    from fovea.models.shapesworld import evaluators

    modules = build_a(run.seed + 1).to(run.device)
    trainer = Trainer(run, modules, lr=1e-3, ema=0.995, weight_decay=0.05)
    directions = naming_directions(modules["point_text"].in_features).to(run.device)
    rng = np.random.default_rng(run.seed + 11 + trainer.step)
    for step in trainer.steps():
        batch = batch_of(data, rng, device=run.device)
        with torch.autocast(run.device.type, torch.bfloat16):
            image, patches = modules["image"](batch.pictures)
            hidden, text = evaluators.clip_a_text_forward(modules["text"], modules["table"](batch.rows), batch.ends)
        loss, right = contrastive(image.float(), text.float(), modules["scale"][0])
        noun = torch.gather(hidden[: len(image)], 1, batch.nouns[..., None].expand(-1, -1, hidden.shape[-1]))
        pointing = pointing_loss(modules, noun, patches, batch)
        naming = naming_loss(noun, directions, batch)
        trainer.backward(loss + 4 * pointing + 0.2 * naming)
        if step % 25 == 0:
            losses = {"loss": loss, "pointing": pointing, "naming": naming}
            run.log(step=step, **{k: round(v.item(), 4) for k, v in losses.items()}, picks_own=round(right, 3))


def train_b(run: Run, data: Dataset) -> None:
    from comfy.ops import disable_weight_init as operations

    from fovea.models.shapesworld import evaluators

    model = initialize(evaluators.ClipHeldout(len(words.known_ids()) + 1, operations=operations), run.seed + 2).to(
        run.device
    )
    modules = nn.ModuleDict({"clip_b": model})
    modules["scale"] = nn.ParameterList([nn.Parameter(torch.tensor([2.66], device=run.device))])
    trainer = Trainer(run, modules, lr=1.5e-3, ema=0.995, weight_decay=0.05)
    rng = np.random.default_rng(run.seed + 23 + trainer.step)
    for step in trainer.steps():
        batch = batch_of(data, rng, device=run.device)
        keep = (torch.arange(batch.rows.shape[1], device=run.device) <= batch.ends[:, None]).float()
        with torch.autocast(run.device.type, torch.bfloat16):
            image = model.image(F.avg_pool2d(batch.pictures, 2))
            text = model.text(batch.rows, keep)
        loss, right = contrastive(image.float(), text.float(), modules["scale"][0])
        trainer.backward(loss)
        if step % 25 == 0:
            run.log(step=step, loss=round(loss.item(), 4), picks_own=round(right, 3))
