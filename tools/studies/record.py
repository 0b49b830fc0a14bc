"""What every report says of where its numbers come from, and what keeps them while they are found."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from ..comfy.host import ROOT
from ..shapesworld.shipped_weights import CHANGES, DEMO, GENERATORS, LORAS, PARTS


def commit() -> str:
    """The commit of the code in use; with a "+" where it is not that of the commit, results and docs aside."""
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    changed = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", ".", ":!docs"], cwd=ROOT).returncode
    return head + "+" * bool(head and changed)


def source(*more: str, demo: Path = DEMO) -> dict[str, str]:
    """Of every measurement: the commit, and a hash of the demo's weights that it used (as in weights_and)."""
    return {"commit": commit(), "weights": weights_and((), more, demo)}


def shipped() -> list[str]:
    """The hashes of now: a measurement with another one is of weights that do not ship any more."""
    kinds = ((), *CHANGES.values(), *GENERATORS.values(), tuple(LORAS))
    there = json.loads((DEMO / "shapesworld.json").read_text())["parts"].keys()
    return [weights_and((), more) for more in kinds if there >= {*more}]


def machine(device: torch.device, *more: str) -> dict[str, Any]:
    """Of a benchmark: its source, device, threads, torch."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {**source(*more), "device": name, "threads": torch.get_num_threads(), "torch": torch.__version__}


def weights_and(settings: tuple, more: tuple[str, ...] = (), demo: Path = DEMO) -> str:
    """A folder's name for results of these weights and settings: others must not be mixed in. more: parts that act
    beside the generator, its coder and the judges; demo: the folder of the weights."""
    manifest = json.loads((demo / "shapesworld.json").read_text())
    parts = {part: manifest["parts"][part] for part in (*PARTS, *more)}
    told = {"parts": parts, "token_ids": manifest["token_ids"], "latents": manifest["latents"]}
    return hashlib.sha256((json.dumps(told, indent=1) + "\n" + repr(settings)).encode()).hexdigest()[:12]


def keep(path: Path, data: Any) -> None:
    """Write JSON that is there whole or not at all, however this process ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(data))
    temporary.replace(path)


def kept(path: Path, make: Callable[[], Any]) -> Any:
    """JSON that is made once."""
    if not path.exists():
        keep(path, make())
    return json.loads(path.read_text())


def kept_array(path: Path, make: Callable[[], np.ndarray]) -> np.ndarray:
    """An array that is made once: that of the .npy file, which is there whole or not at all."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        made, temporary = make(), path.with_suffix(".tmp.npy")
        np.save(temporary, made)
        temporary.replace(path)
    return np.load(path)


def kept_arrays(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, np.ndarray]:
    """Arrays that are made once: those of the .npz file, which is there whole or not at all."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        made, temporary = make(), path.with_suffix(".tmp.npz")
        np.savez(temporary, **made)
        temporary.replace(path)
    return dict(np.load(path))


def kept_batches(
    folder: Path, count: int, batch: int, make: Callable[[int], dict[str, Any]], label: str
) -> list[dict[str, np.ndarray]]:
    """Batches make(0), make(batch), ... of `count` pictures, each kept in a file of the folder."""
    starts = tqdm(range(0, count, batch), desc=label, mininterval=5)
    return [kept_arrays(folder / f"{start:04d}.npz", partial(make, start)) for start in starts]


def write(path: Path, report: Any) -> None:
    """A report for people: indented JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")
