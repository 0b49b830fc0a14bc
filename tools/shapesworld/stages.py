"""What the training stages share: budget, device, checkpoints, log, schedules."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
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
    base: str = ""  # hash of the shipped weights that it is trained on top of (`base_hash`), where it is
    stage: str = ""  # whose part it is, where a stage trains several

    @property
    def checkpoint(self) -> Path:
        return self.work / f"{self.name}.pt"

    def fraction(self) -> float:
        """Share of the time budget that is used, earlier interrupted attempts included."""
        return (self.spent_before + time.monotonic() - self.started) / (60 * self.minutes)

    def part(self, name: str, share: float, rate: float = 1.0, **changed: Any) -> Run:
        """One of several that a stage trains, each from weights of the stage's choice. share: of its minutes; rate: of
        its learning rate."""
        return replace(self, name=name, stage=self.name, minutes=self.minutes * share, rate=self.rate * rate,
                       shipped=None, started=time.monotonic(), **changed)  # fmt: skip

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


def checkpoint(path: Path, base: str) -> dict[str, Any]:
    """What training left, on top of shipped weights of this hash. What does not tell it is older, and is believed."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    if state.get("base", base) != base:
        raise SystemExit(f"{path} was trained on top of other weights than those that ship now: take another --work")
    return state


def finished(work: Path, part: str, base: str = "") -> dict[str, torch.Tensor]:
    """The averaged weights of a part that was trained to its end. base: as in `checkpoint`."""
    path = work / f"{part}.pt"
    state = checkpoint(path, base)
    if not state.get("finished", True):
        raise SystemExit(f"{path} was interrupted: go on with --stage {state['stage']} first, with the same --minutes")
    return state["ema"]


def averaged(run: Run, part: str) -> dict[str, torch.Tensor]:
    """The averaged weights of an earlier stage: of this work folder, else the shipped ones that the run continues."""
    if (run.work / f"{part}.pt").exists():
        return finished(run.work, part, run.base)
    if run.shipped is None:
        raise SystemExit(f"stage {run.name} needs {part}: train it first, or pass --continue-shipped")
    return training_state(run.shipped, part)


def save_atomically(state: dict, path: Path) -> None:
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    temporary.replace(path)


class Trainer:
    """Optimizer, warm-up and cosine over the time budget, EMA, checkpoints that resume; seeds what torch draws."""

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
        if resuming and run.fresh:
            raise SystemExit(f"{run.checkpoint} is there: leave out --fresh to go on with it, or take another --work")
        if run.shipped is not None and not run.fresh and not resuming:
            self._continue_shipped(run.shipped)
        self.shadow = {k: v.detach().clone().float() for k, v in modules.state_dict().items()}
        if resuming:
            self._resume()
        torch.manual_seed(run.seed + 1000 + self.step)  # or each attempt would draw the same noise again

    def _resume(self) -> None:
        state = checkpoint(self.run.checkpoint, self.run.base)
        self.modules.load_state_dict(state["model"])
        for key, value in state["ema"].items():
            self.shadow[key].copy_(value)  # where the modules are; the file was read to the CPU
        self.step, self.run.spent_before = state["step"], state["seconds"]
        self.optimizer.load_state_dict(state["optimizer"])

    def _continue_shipped(self, folder: Path) -> None:
        """Start from the shipped averaged weights with a fresh optimizer; the warm-up of every run does the rest."""
        missing, unexpected = self.modules.load_state_dict(training_state(folder, self.run.name), strict=False)
        if unexpected or any(not k.startswith(TRAINING_ONLY) for k in missing):
            raise SystemExit(
                f"the shipped {self.run.name} has another architecture: missing {missing}, unexpected {unexpected}"
            )

    def save(self, finished: bool = False) -> None:
        seconds = self.run.fraction() * self.run.minutes * 60
        save_atomically(
            {
                "model": self.modules.state_dict(),
                "ema": self.shadow,
                "step": self.step,
                "seconds": seconds,
                "optimizer": self.optimizer.state_dict(),
                "finished": finished,
                "base": self.run.base,
                "stage": self.run.stage or self.run.name,
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
        self.save(finished=True)

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
