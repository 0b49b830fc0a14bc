"""Time and memory of each technique against plain sampling, over the size of the picture.

`python -m tools.studies.scaling.speed` writes output/bench/scaling.json and docs/images/scaling.png: the demo model
from 256 to 1024 pixels, two steps at CFG 4. Techniques take turns, so a busy machine hits all alike.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ...comfy.host import ROOT
from ...comfy.node_values import arguments
from .. import meter, record
from ..demo_setup import DemoSetup
from ..plotting import IMAGES, label, pyplot, save
from ..processes import begin
from ..sampling import encoded, sample_latent

SIZES, STEPS, CFG, TEXT = (256, 384, 512, 768, 1024), 2, 4.0, "a plain red star and a plain blue circle"
FINEST = 2  # the finest attention of the demo model is at half the latent's size


def techniques() -> dict[str, Callable[[int], Callable[[], Any]]]:
    """Name -> for a size in pixels, a run. Steered and guided in every step."""
    from fovea.guidance.experts.model_patch import Expert, ExpertSwitch
    from fovea.guidance.style.model_patch import StyleGuidance
    from fovea.nodes.region_sources import FoveaRegion
    from fovea.nodes.regions import FoveaDenseDiffusion
    from fovea.nodes.sag import FoveaSelfAttentionGuidance

    demo = DemoSetup()
    positive, negative = encoded(demo.clip, [TEXT]), encoded(demo.clip, [""])

    def run(patcher: Any, positive: list, size: int) -> Callable[[], Any]:
        latent = torch.zeros(1, 4, size // 8, size // 8)
        return partial(sample_latent, patcher, positive, negative, latent, 0, STEPS, CFG)

    def sag(size: int) -> Callable[[], Any]:
        guided = FoveaSelfAttentionGuidance.execute(
            demo.model, scale=0.5, blur_sigma=2.0, threshold=1.0, mask_mode="threshold", guided_prompt="auto",
            blocks="auto", start_percent=0.0, end_percent=1.0, every_n_steps=1, rescale=0.0, blur_kernel="auto",
        ).result[0]  # fmt: skip
        return run(guided, positive, size)

    def regions(size: int) -> Callable[[], Any]:
        left = torch.zeros(1, size // 8, size // 8)
        left[..., : size // 16] = 1
        found = FoveaRegion.execute(left, "a plain red star", 1.0, "").result[0]
        found = FoveaRegion.execute(1 - left, "a plain blue circle", 1.0, "", regions=found).result[0]
        given = {"model": demo.model, "clip": demo.clip, "regions": found, "prompt": TEXT, "time_exponent": 5.0,
                 "end_percent": 1.0}  # fmt: skip
        steered, conds, *_ = FoveaDenseDiffusion.execute(**arguments(FoveaDenseDiffusion, **given)).result
        return run(steered, conds, size)

    def style(size: int) -> Callable[[], Any]:
        return run(StyleGuidance(encoded(demo.clip, ["a star"]), 2.0).patched(demo.model), positive, size)

    def experts(size: int) -> Callable[[], Any]:
        second = DemoSetup().model
        return run(ExpertSwitch.of(demo.model, [Expert(second, 0.0)]).patched(demo.model), positive, size)

    return {
        "plain": partial(run, demo.model, positive), "Self-Attention Guidance": sag, "regions": regions, "style": style,
        "two experts": experts,
    }  # fmt: skip


def bench(device: torch.device, repeats: int, sizes: Sequence[int]) -> list[dict[str, Any]]:
    """A row per size and technique."""
    makers, found = techniques(), []
    for size in sizes:
        runs = {name: make(size) for name, make in makers.items()}
        for work in runs.values():
            work()
        times = meter.taking_turns(runs, device, repeats, f"{size} pixels")
        peaks = {name: meter.peak_bytes(work, device) for name, work in runs.items()}
        plain = statistics.median(times["plain"])
        for name, values in times.items():
            middle = statistics.median(values)
            found.append({
                "size": size, "tokens": (size // 8 // FINEST) ** 2, "technique": name, "repeats": repeats,
                "seconds": round(middle, 4), "spread": meter.spread(values),
                "to_plain": round(middle / plain, 3), "peak_mib": meter.mib(peaks[name]),
                "peak_to_plain": round(peaks[name] / peaks["plain"], 3),
            })  # fmt: skip
    return found


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    figure, axes = pyplot().subplots(1, 2, figsize=(9.5, 3.4), dpi=90)
    for name in dict.fromkeys(row["technique"] for row in rows):
        own = [row for row in rows if row["technique"] == name]
        for axis, key in zip(axes, ("seconds", "peak_mib")):
            axis.plot([row["tokens"] for row in own], [row[key] for row in own], marker="o", ms=3, label=name)
    for axis, title in zip(axes, (f"seconds for {STEPS} steps", "peak MiB above what was there")):
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.set_title(title, fontsize=9)
        label(axis, "tokens of the finest attention", legend=axis is axes[0])
    save(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "output" / "bench")
    parser.add_argument("--images", type=Path, default=IMAGES)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    args = parser.parse_args()
    device = begin()
    report = {**record.machine(device), "cases": bench(device, args.repeats, args.sizes)}
    record.write(args.out / "scaling.json", report)
    plot(report["cases"], args.images / "scaling.png")
    print(json.dumps(report["cases"], indent=1))


if __name__ == "__main__":
    main()
