"""Sets of pictures by ways to sample: made once and kept, judged, and compared with painted pictures."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from tqdm import tqdm

from ..shapesworld import judge, sets
from ..shapesworld.world import Scene, caption, render
from . import clip_scores, metrics, record
from .demo_setup import DemoSetup
from .sampling import as_bytes, encoded, painted, sample_encoded

BATCH, STEPS, CFG = 8, 20, 4.0
FIRST_SEED = {"report": 0, "tune": 10**6}
SHOWN = 16
DRAWS, FEW_DRAWS = 500, 200  # of the bootstrap; of what takes longer


class Patched(Protocol):
    """A patch and the CFG to sample it with."""

    @property
    def cfg(self) -> float: ...
    def patch(self, model: Any) -> Any: ...


class Sampled(Patched, Protocol):
    """A way to sample. prompted: the set's prompts, else none; cfg 1 evaluates no negative prompt."""

    @property
    def name(self) -> str: ...
    @property
    def prompted(self) -> bool: ...
    def encode(self, clip: Any, captions: list[str]) -> list: ...


class PictureSets:
    """What was sampled so far with the demo, in a folder."""

    def __init__(self, folder: Path, demo: DemoSetup) -> None:
        self.folder, self.demo = folder, demo.ready("model", "clip", "vae", "reader", "clip_b")

    def features(self, pictures: torch.Tensor) -> np.ndarray:
        """CLIP B's image vectors of pictures [n, height, width, 3]."""
        return clip_scores.image_vectors(self.demo.clip_b, pictures).double().numpy()

    def judged(self, scenes: list[Scene], pictures: torch.Tensor) -> dict[str, np.ndarray]:
        """Per picture [n, height, width, 3] of these scenes: features [n, d], right [n], certain [n]."""
        readings = judge.read(self.demo.reader, pictures)
        certain = self.demo.reader(judge.small(pictures))[0].softmax(1).amax(1).mean((1, 2)).numpy()
        right = [judge.score(scene, reading)["all_right"] for scene, reading in zip(scenes, readings)]
        return {"features": self.features(pictures), "right": np.array(right), "certain": certain}

    def run(self, way: Sampled, which: str, count: int, steps: int = STEPS) -> dict[str, np.ndarray]:
        """Sample a set ("tune", "report") or read what is there: what is judged of its pictures."""
        model = self.demo.model if way.prompted else self.demo.model_without_prompt
        make = partial(self._batch, way, way.patch(model), which, steps)
        name = way.name if steps == STEPS else f"{way.name}_{steps}steps"
        parts = record.kept_batches(self.folder / which / name, count, BATCH, make, f"{which} {name}")
        own = [key for key in parts[0] if key not in ("shown", "seconds")]
        return {key: np.concatenate([part[key] for part in parts]) for key in own}

    def _batch(self, way: Sampled, patched: Any, which: str, steps: int, start: int) -> dict[str, Any]:
        scenes = sets.scenes(which, start, BATCH)
        captions = [caption(scene) if way.prompted else "" for scene in scenes]
        started = time.monotonic()
        seed = FIRST_SEED[which] + start
        positive, negative = way.encode(self.demo.clip, captions), encoded(self.demo.clip, [""] * BATCH)
        pictures = sample_encoded(patched, self.demo.vae, positive, negative, BATCH, seed, steps, way.cfg)
        kept = as_bytes(pictures[: max(0, SHOWN - start)])
        return {**self.judged(scenes, pictures), "shown": kept, "seconds": time.monotonic() - started}

    def shown(self, way: Sampled) -> np.ndarray:
        """The first pictures of the report set in a row, half as large."""
        files = sorted((self.folder / "report" / way.name).glob("*.npz"))[: SHOWN // BATCH]
        pictures = np.concatenate([np.load(file)["shown"] for file in files])
        return np.concatenate([picture[::2, ::2] for picture in pictures], axis=1)

    def seconds(self) -> float:
        """What all pictures took, those of earlier runs included."""
        return sum(float(np.load(path)["seconds"]) for path in self.folder.glob("*/*/*.npz"))

    def real(self, count: int) -> np.ndarray:
        """Features of painted pictures of scenes that nothing draws: twins of what is judged would lie too near."""

        def made() -> np.ndarray:
            batches = []
            for start in tqdm(range(0, count, 64), desc="painting references"):
                scenes = sets.scenes("reference", start, min(64, count - start))
                batches.append(self.features(painted([render(scene)[0] for scene in scenes])))
            return np.concatenate(batches)

        return record.kept_array(self.folder / f"reference_{count}.npy", made)

    def compared(self, made: dict[str, dict[str, np.ndarray]], against: str) -> list[dict]:
        """A row per prompted set of pictures, by its name. against: the name of the one that all are compared with."""
        real = self.real(1024)
        return [{"name": name, "n": len(each["features"]), "reference": sets.REFERENCE,
                 **measure(each, made[against], real, True)}
                for name, each in made.items()]  # fmt: skip


def measure(made: dict[str, np.ndarray], plain: dict[str, np.ndarray], real: np.ndarray, prompted: bool) -> dict:
    """Every metric as [value, low, high] (95 % bootstrap over pictures); kid and right also against `plain`, paired."""
    features, count = made["features"], len(made["features"])
    reference = real[:count]  # precision and recall need sets of one size

    def with_interval(statistic: Callable[[np.ndarray], float], draws: int) -> list[float]:
        return metrics.with_interval(statistic, count, draws, digits=5)

    def distance(i: np.ndarray) -> float:
        return metrics.kid(features[i], real) - metrics.kid(plain["features"][i], real)

    found = {
        "frechet": with_interval(lambda i: metrics.frechet(features[i], real), FEW_DRAWS),
        "kid": with_interval(lambda i: metrics.kid(features[i], real), DRAWS),
        "kid_against_none": with_interval(distance, DRAWS),
        "precision": with_interval(lambda i: metrics.precision_recall(features[i], reference)[0], FEW_DRAWS),
        "recall": with_interval(lambda i: metrics.precision_recall(features[i], reference)[1], FEW_DRAWS),
        "certain": metrics.mean(made["certain"], 5),
    }
    if prompted:
        found["right"] = metrics.mean(made["right"], 5)
        found["right_against_none"] = metrics.difference(made["right"] - plain["right"], 5)
    return found
