"""A classifier of the four ways in which pictures are drawn (flat, outlined, shaded, glowing): the judge of style.

It only judges, is trained apart from everything else in two minutes, and does not ship.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import judge
from .data import Dataset
from .stages import Run, Trainer, finished
from .train_reader import roughen
from .world import STYLES

BATCH = 64


def build() -> nn.Module:
    """Pictures [B, 3, 128, 128] in 0..1 -> logits [B, 4]."""
    widths = (3, 24, 48, 64, 96)
    pairs = zip(widths, widths[1:])
    blocks = [nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.GroupNorm(8, b), nn.SiLU()) for a, b in pairs]
    return nn.Sequential(*blocks, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(widths[-1], len(STYLES)))


def pictures_of(data: Dataset, index: np.ndarray) -> tuple[Tensor, Tensor]:
    """Pictures [B, 3, 128, 128] in 0..1 and the numbers of their styles [B]."""
    pictures = data.drawn(index)
    return pictures, torch.tensor([STYLES.index(data.scenes[i].style) for i in index])


def train(run: Run, data: Dataset) -> None:
    run = replace(run, shipped=None, base="")  # of pictures alone, and it does not ship
    torch.manual_seed(run.seed + 6)
    model = build().to(run.device)
    trainer = Trainer(run, nn.ModuleDict({"style": model}), lr=2e-3, ema=0.99)
    rng = np.random.default_rng(run.seed + 61 + trainer.step)
    for step in trainer.steps():
        pictures, styles = pictures_of(data, rng.integers(len(data), size=BATCH))
        loss = F.cross_entropy(model(roughen(pictures, rng).to(run.device)), styles.to(run.device))
        trainer.backward(loss)
        if step % 50 == 0:
            run.log(step=step, loss=round(loss.item(), 4))


def load(work: Path) -> nn.Module:
    """The trained judge; train it with `python -m tools.shapesworld.train --stage style --minutes 2`."""
    path = work / "style.pt"
    if not path.exists():
        raise SystemExit(f"{path} is missing: {load.__doc__}")
    model = build()
    model.load_state_dict({key.removeprefix("style."): value for key, value in finished(work, "style").items()})
    return model.eval().requires_grad_(False)


@torch.no_grad()
def styles_of(model: nn.Module, pictures: Tensor) -> list[str]:
    """The styles of pictures [B, height, width, 3] in 0..1, ComfyUI's layout."""
    return [STYLES[i] for i in model(judge.small(pictures)).argmax(1)]
