"""Paints the training pictures once into flat arrays that every stage reads (memory-mapped)."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from . import sets
from .world import SIZE, Scene, Thing, render

SMALL = 128
CHUNK = 256


def scene_to_json(scene: Scene) -> str:
    return json.dumps(asdict(scene), separators=(",", ":"))


def scene_from_json(text: str) -> Scene:
    raw = json.loads(text)
    return Scene(tuple(Thing(**t) for t in raw["things"]), raw["background"], raw["style"])


class Dataset:
    """Pictures uint8 [N, 256, 256, 3], half-size pictures [N, 128, 128, 3], class maps [N, 128, 128], scenes."""

    def __init__(self, root: Path):
        self.pictures = np.load(root / "pictures.npy", mmap_mode="r")
        self.small = np.load(root / "small.npy", mmap_mode="r")
        self.labels = np.load(root / "labels.npy", mmap_mode="r")
        self.scenes = [scene_from_json(line) for line in (root / "scenes.jsonl").read_text().splitlines()]

    def __len__(self) -> int:
        return len(self.scenes)

    def drawn(self, index: np.ndarray) -> Tensor:
        """Half-size pictures of these numbers as networks take them, [n, 3, 128, 128] in 0..1."""
        return torch.from_numpy(np.stack([self.small[i] for i in index])).permute(0, 3, 1, 2).contiguous().float() / 255


def _paint_chunk(job: tuple[str, int, int, str]) -> tuple[int, list[str]]:
    name, start, stop, root = job
    arrays = [np.load(Path(root) / f"{part}.npy", mmap_mode="r+") for part in ("pictures", "small", "labels")]
    lines = []
    for i in range(start, stop):
        scene = sets.scene(name, i)
        picture, labels = render(scene)
        arrays[0][i] = picture
        arrays[1][i] = picture.reshape(SMALL, 2, SMALL, 2, 3).mean((1, 3)).round()
        arrays[2][i] = labels[::2, ::2]
        lines.append(scene_to_json(scene))
    return start, lines


def build(root: Path, name: str, count: int) -> Dataset:
    """Paint scenes 0..count-1 of a set below `root`, unless that is already done."""
    if not (root / "scenes.jsonl").exists():
        root.mkdir(parents=True, exist_ok=True)
        for part, shape in (("pictures", (SIZE, SIZE, 3)), ("small", (SMALL, SMALL, 3)), ("labels", (SMALL, SMALL))):
            np.lib.format.open_memmap(root / f"{part}.npy", "w+", np.uint8, (count, *shape))
        jobs = [(name, i, min(i + CHUNK, count), str(root)) for i in range(0, count, CHUNK)]
        with get_context("spawn").Pool(os.cpu_count()) as pool:
            done = dict(tqdm(pool.imap_unordered(_paint_chunk, jobs), total=len(jobs), desc=f"painting {name}"))
        text = "\n".join(line for start in sorted(done) for line in done[start])
        (root / "scenes.jsonl").write_text(text + "\n")
    return Dataset(root)
