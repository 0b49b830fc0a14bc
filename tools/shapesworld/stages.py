"""What the training stages share: budget, device, checkpoints, log, schedules."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from .shipped_weights import TRAINING_ONLY, training_state


@dataclass
class Run:
    """One stage of one run: where it writes, on what it runs, how long it may take."""

    name: str
    work: Path
    device: torch.device
    minutes: float
    seed: int = 0
    shipped: Path | None = None  # folder of shipped weights to continue from where no checkpoint is
    rate: float = 1.0  # share of the stage's learning rate
    fresh: bool = False  # begin from nothing all the same, on top of shipped weights of other stages
    compiled: bool = False  # torch.compile: a sixth faster on two cores, two minutes to start, needs a C++ compiler
    started: float = field(default_factory=time.monotonic)
    spent_before: float = 0.0

    @property
    def checkpoint(self) -> Path:
        return self.work / f"{self.name}.pt"

    def fraction(self) -> float:
        """Share of the time budget that is used, earlier interrupted attempts included."""
        return (self.spent_before + time.monotonic() - self.started) / (60 * self.minutes)

    def log(self, **values) -> None:
        row = {
            "stage": self.name,
            "device": str(self.device),
            "minutes": round(self.fraction() * self.minutes, 2),
            **values,
        }
        with open(self.work / "log.jsonl", "a") as f:
            f.write(json.dumps(row) + "\n")


def initialize(module: nn.Module, seed: int) -> nn.Module:
    """Give ComfyUI's layers weights, which they skip: Xavier for matrices, zeros for biases, ones for norms."""
    torch.manual_seed(seed)
    for m in module.modules():
        for name, p in m.named_parameters(recurse=False):
            if isinstance(m, (nn.GroupNorm, nn.LayerNorm)):
                nn.init.constant_(p, float(name == "weight"))
            elif isinstance(m, nn.Embedding):
                nn.init.normal_(p, std=0.02)
            elif p.ndim > 1:
                nn.init.xavier_uniform_(p)
            elif p.ndim == 1 and name == "bias":
                nn.init.zeros_(p)
            else:
                nn.init.normal_(p, std=0.02)
    return module.requires_grad_(True)


def averaged(run: Run, part: str) -> dict[str, torch.Tensor]:
    """The averaged weights of an earlier stage: of this work folder, else the shipped ones that the run continues."""
    path = run.work / f"{part}.pt"
    if path.exists():
        return torch.load(path, map_location="cpu", weights_only=True)["ema"]
    if run.shipped is None:
        raise SystemExit(f"stage {run.name} needs {part}: train it first, or pass --continue-shipped")
    return training_state(run.shipped, part)


def save_atomically(state: dict, path: Path) -> None:
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    temporary.replace(path)


class Trainer:
    """Optimizer, warm-up and cosine over the time budget, EMA, checkpoints that resume."""

    def __init__(
        self, run: Run, modules: nn.ModuleDict, lr: float, ema: float = 0.999, weight_decay: float = 0.01,
        optimizer: Any = None, warm_up: int = 200,
    ) -> None:  # fmt: skip
        """optimizer: of these modules, in place of AdamW. warm_up: steps."""
        self.run, self.modules, self.lr, self.decay, self.warm_up = run, modules, lr * run.rate, ema, warm_up
        self.parameters = [p for p in modules.parameters() if p.requires_grad]
        self.optimizer = optimizer or torch.optim.AdamW(
            self.parameters, lr, betas=(0.9, 0.99), weight_decay=weight_decay
        )
        self.step, self.saved = 0, time.monotonic()
        resuming = run.checkpoint.exists()
        if run.shipped is not None and not run.fresh and not resuming:
            self._continue_shipped(run.shipped)
        self.shadow = {k: v.detach().clone().float() for k, v in modules.state_dict().items()}
        if resuming:
            self._resume()

    def _resume(self) -> None:
        state = torch.load(self.run.checkpoint, map_location="cpu", weights_only=True)
        self.modules.load_state_dict(state["model"])
        self.shadow = state["ema"]
        self.step, self.run.spent_before = state["step"], state["seconds"]
        self.optimizer.load_state_dict(state["optimizer"])

    def _continue_shipped(self, folder: Path) -> None:
        """Start from the shipped averaged weights with a fresh optimizer; the warm-up of every run does the rest."""
        missing, unexpected = self.modules.load_state_dict(training_state(folder, self.run.name), strict=False)
        if unexpected or any(not k.startswith(TRAINING_ONLY) for k in missing):
            raise SystemExit(
                f"the shipped {self.run.name} has another architecture: missing {missing}, unexpected {unexpected}"
            )

    def save(self) -> None:
        seconds = self.run.fraction() * self.run.minutes * 60
        save_atomically(
            {
                "model": self.modules.state_dict(),
                "ema": self.shadow,
                "step": self.step,
                "seconds": seconds,
                "optimizer": self.optimizer.state_dict(),
            },
            self.run.checkpoint,
        )
        self.saved = time.monotonic()

    def steps(self) -> Iterator[int]:
        """Step numbers until the time budget is used; saves every five minutes and at the end."""
        bar = tqdm(total=round(self.run.minutes * 60), unit="s", desc=self.run.name, mininterval=5)
        while self.run.fraction() < 1:
            yield self.step
            bar.n = round(self.run.fraction() * self.run.minutes * 60)
            bar.update(0)
            if time.monotonic() - self.saved > 300:
                self.save()
        bar.close()
        self.save()

    def backward(self, loss: torch.Tensor, floor: float = 0.05) -> None:
        rate = min(1.0, (self.step + 1) / self.warm_up) * (
            floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, self.run.fraction())))
        )
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * rate
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        decay = min(self.decay, (1 + self.step) / (10 + self.step))
        live = self.modules.state_dict()
        floats = [k for k, v in live.items() if v.is_floating_point()]
        torch._foreach_lerp_([self.shadow[k] for k in floats], [live[k].float() for k in floats], 1 - decay)
