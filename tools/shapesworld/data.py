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

from ..comfy.scratch import alone_in, scratch_folder
from . import sets
from .world import SIZE, Scene, Thing, render

SMALL = 128
CHUNK = 256
PICTURES = 40_000  # unless another number is asked for
ARRAYS = {"pictures": (SIZE, SIZE, 3), "small": (SMALL, SMALL, 3), "labels": (SMALL, SMALL)}


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
    arrays = [np.load(Path(root) / f"{part}.npy", mmap_mode="r+") for part in ARRAYS]
    lines = []
    for i in range(start, stop):
        scene = sets.scene(name, i)
        picture, labels = render(scene)
        arrays[0][i] = picture
        arrays[1][i] = picture.reshape(SMALL, 2, SMALL, 2, 3).mean((1, 3)).round()
        arrays[2][i] = labels[::2, ::2]
        lines.append(scene_to_json(scene))
    return start, lines


def painted(root: Path) -> int:
    """How many pictures are there with their scenes; 0 where they are not whole."""
    told, pictures = root / "scenes.jsonl", root / "pictures.npy"
    if not (told.exists() and pictures.exists()):
        return 0
    count = told.read_bytes().count(b"\n")
    return count if count == len(np.load(pictures, mmap_mode="r")) else 0


def build(root: Path, name: str, count: int | None) -> Dataset:
    """At least `count` pictures of a set, painted below `root` unless they are there. None: those that are there, else
    PICTURES."""
    if painted(root) < (count or 1):
        with alone_in(root):
            _paint(root, name, count or PICTURES)
    return Dataset(root)


def _paint(root: Path, name: str, count: int) -> None:
    """Scenes 0..count-1, in place of what is there."""
    with scratch_folder("painting", root) as scratch:
        for part, shape in ARRAYS.items():
            np.lib.format.open_memmap(scratch / f"{part}.npy", "w+", np.uint8, (count, *shape))
        jobs = [(name, i, min(i + CHUNK, count), str(scratch)) for i in range(0, count, CHUNK)]
        with get_context("spawn").Pool(os.cpu_count()) as pool:
            done = dict(tqdm(pool.imap_unordered(_paint_chunk, jobs), total=len(jobs), desc=f"painting {name}"))
        text = "\n".join(line for start in sorted(done) for line in done[start])
        (scratch / "scenes.jsonl").write_text(text + "\n")
        for file in (*(f"{part}.npy" for part in ARRAYS), "scenes.jsonl"):  # these last: by them the rest is whole
            (scratch / file).replace(root / file)
