"""Two LoRAs in two halves of a picture: is each half in its own style, and does the picture still show what it shall?

`python -m tools.studies.region_lora.quality` writes output/eval/region_lora.json and a picture. Two of ShapesWorld's
styles, each trained into a LoRA of its own, left and right in turn; prompts of four objects name no style. A classifier
that is trained apart (`--stage style`) judges each half, mirrored to a square, if an object is in it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...comfy.host import ROOT
from ...comfy.node_values import arguments
from ...shapesworld import judge, sets, train_style
from ...shapesworld.shipped_weights import LORAS
from ...shapesworld.world import N_OBJECT_CLASSES, caption, render
from .. import metrics, record
from ..demo_setup import DemoSetup
from ..plotting import picture, pyplot, save
from ..processes import begin
from ..sampling import as_bytes, encoded, painted, sample_encoded

BATCH, STEPS, CFG, FIRST = 4, 20, 4.0, 9000  # of the report set: none that other studies use
OBJECTS = 0.01  # of a half: that much has to be objects


@dataclass(frozen=True)
class Way:
    """How both LoRAs get to their halves. node: settings of Region LoRA. hooks: ComfyUI's own masked LoRA hooks.
    merged: both everywhere, at this strength. paint: not drawn but painted, the ceiling."""

    name: str
    node: tuple[tuple[str, Any], ...] | None = None
    hooks: bool = False
    merged: float = 0.0
    paint: bool = False


WAYS = (
    Way("neither"),
    Way("both merged, strength 1", merged=1.0),
    Way("ComfyUI's masked hooks", hooks=True),
    Way("Region LoRA", node=()),
    Way("Region LoRA, apart 0", node=(("self_strength", 0.0),)),
    Way("painted pictures", paint=True),
)


def regions_of(parts: tuple[str, str]) -> Any:
    """The first LoRA in the left half, the second in the right one."""
    from fovea.guidance.regions.masks import Lora, Region, Regions
    from fovea.models.shapesworld import loader

    left = torch.zeros(1, 32, 32)
    left[..., :16] = 1
    masks, files = (left, 1 - left), [loader.load_part(part) for part in parts]
    return Regions(tuple(Region(m, loras=(Lora(p, f, 1.0, 0.0),)) for m, p, f in zip(masks, parts, files)))


def prepared(demo: DemoSetup, way: Way, parts: tuple[str, str], captions: list[str]) -> tuple[Any, list, list]:
    """Model, positive and negative."""
    import comfy.hooks
    import comfy.sd

    from fovea.guidance.region_lora import model_patch
    from fovea.nodes.region_lora import FoveaRegionLora

    regions, positive, negative = regions_of(parts), encoded(demo.clip, captions), encoded(demo.clip, [""] * BATCH)
    model = demo.model
    if way.merged:
        for region in regions.items:
            file = dict(region.loras[0].weights)
            model = comfy.sd.load_lora_for_models(model, None, file, way.merged, 0.0)[0]
    if way.node is not None:
        given = arguments(FoveaRegionLora, **{**dict(way.node), "model": model, "regions": regions})
        model = FoveaRegionLora.execute(**given).result[0]
    if way.hooks:
        masks, hooks = regions.canvas()[0], [model_patch.hooks_of(region) for region in regions.items]
        positive, negative = (
            [[features, {**options, "mask": mask[None], "mask_strength": 1.0, "hooks": hook}]
             for mask, hook in zip(masks, hooks) for features, options in prompt]
            for prompt in (positive, negative)
        )  # fmt: skip
    return model, positive, negative


def drawn(demo: DemoSetup, way: Way, start: int) -> tuple[Tensor, list, list[tuple[str, str]], float]:
    """A batch of pictures, their scenes, the styles of their halves, and seconds."""
    scenes = [sets.scene("report", FIRST + start + i, 4) for i in range(BATCH)]
    first, second = list(LORAS) if start // BATCH % 2 == 0 else reversed(LORAS)
    parts, styles = (first, second), [(LORAS[first], LORAS[second])] * BATCH
    if way.paint:
        both = [[render(replace(scene, style=style))[0] for style in pair] for scene, pair in zip(scenes, styles)]
        half = both[0][0].shape[1] // 2
        pictures = [np.concatenate([left[:, :half], right[:, half:]], axis=1) for left, right in both]
        return painted(pictures), scenes, styles, 0.0
    captions = [caption(replace(scene, style="")) for scene in scenes]
    model, positive, negative = prepared(demo, way, parts, captions)
    begun = time.perf_counter()
    made = sample_encoded(model, demo.vae, positive, negative, BATCH, FIRST + start, STEPS, CFG)
    return made, scenes, styles, time.perf_counter() - begun


def halves(pictures: Tensor) -> list[Tensor]:
    """Left and right halves [n, h, w / 2, 3], each with its mirror image beside it, so that it is a square again."""
    half = pictures.shape[2] // 2
    parts = (pictures[:, :, :half], pictures[:, :, half:])
    return [torch.cat([part, part.flip(2)], dim=2) for part in parts]


def batch(demo: DemoSetup, style_judge: nn.Module, way: Way, start: int) -> dict[str, np.ndarray]:
    """right [n, 2]: a half is in its style; there [n, 2]: an object is in it; all_right, share [n]: of the prompt."""
    made, scenes, styles, seconds = drawn(demo, way, start)
    found = [train_style.styles_of(style_judge, half) for half in halves(made)]
    classes = demo.reader(judge.small(made))[0].argmax(1).cpu()
    scores = [judge.score(scene, judge.interpret(each.numpy())) for scene, each in zip(scenes, classes)]
    objects, half = classes < N_OBJECT_CLASSES, classes.shape[2] // 2
    there = [part.float().mean(dim=(1, 2)).numpy() > OBJECTS for part in (objects[..., :half], objects[..., half:])]
    return {
        "right": np.array([[found[k][i] == styles[i][k] for k in range(2)] for i in range(BATCH)]),
        "there": np.stack(there, axis=1), "seconds": np.array(seconds),
        "all_right": np.array([score["all_right"] for score in scores]),
        "share": np.array([score["share_right"] for score in scores]), "shown": as_bytes(made[:2]),
    }  # fmt: skip


def row(way: Way, made: list[dict[str, np.ndarray]]) -> dict[str, Any]:
    joined = {key: np.concatenate([part[key] for part in made]) for key in ("right", "there", "all_right", "share")}
    both = np.asarray(joined["there"].all(axis=1))
    right = np.asarray(joined["right"].all(axis=1), float)
    return {
        "name": way.name, "n": len(both), "judged": int(both.sum()),
        "both": metrics.mean(right[both]),
        "halves": round(float(joined["right"][joined["there"]].mean()), 4),
        "all_right": metrics.mean(joined["all_right"]), "share": metrics.mean(joined["share"]),
        "seconds": round(float(np.median([part["seconds"] for part in made])), 3),
    }  # fmt: skip


def plot(folder: Path, path: Path) -> None:
    """The first pictures of every way, unpicked."""
    shown = WAYS
    figure, axes = pyplot().subplots(len(shown), 8, figsize=(9.6, 1.2 * len(shown)), dpi=90)
    for line, way in zip(axes, shown):
        kept = [np.load(folder / way.name / f"{start:04d}.npz")["shown"] for start in range(0, 4 * BATCH, BATCH)]
        for axis, image in zip(line, np.concatenate(kept)):
            picture(axis, image)
        line[0].set_ylabel(way.name.replace(", ", ",\n").replace("masked ", "masked\n"), fontsize=6)
    save(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=128)
    parser.add_argument("--work", type=Path, default=ROOT / "output" / "shapesworld")
    parser.add_argument("--out", type=Path, default=ROOT / "output" / "eval")
    parser.add_argument("--images", type=Path, default=ROOT / "docs" / "images")
    args = parser.parse_args()
    if not (args.work / "style.pt").exists():
        print(f"The LoRAs of regions are left out: {args.work / 'style.pt'} is missing. {train_style.load.__doc__}")
        return
    begin()
    with torch.inference_mode():
        demo, style_judge = DemoSetup(), train_style.load(args.work)
        folder = args.out / "region_lora" / record.weights_and((STEPS, CFG, FIRST), tuple(LORAS))
        make: Callable[[Way], list] = lambda way: record.kept_batches(  # noqa: E731
            folder / way.name, args.pictures, BATCH, partial(batch, demo, style_judge, way), way.name
        )
        rows = [row(way, make(way)) for way in WAYS]
    record.write(args.out / "region_lora.json", {**record.source(*LORAS), "steps": STEPS, "cfg": CFG, "rows": rows})
    plot(folder, args.images / "region_lora.png")
    for each in rows:
        print(each)


if __name__ == "__main__":
    main()
