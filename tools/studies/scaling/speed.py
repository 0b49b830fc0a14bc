"""Time and memory of each technique against plain sampling, over the size of the picture.

`python -m tools.studies.scaling.speed` writes output/bench/scaling.json and docs/images/scaling.png: the demo model
from 256 to 1024 pixels, two steps at CFG 4. Techniques take turns, so a busy machine hits all alike.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ...comfy.host import ROOT
from ...comfy.pack import load_packages
from .. import meter, record

SIZES, STEPS, CFG, TEXT = (256, 384, 512, 768, 1024), 2, 4.0, "a plain red star and a plain blue circle"
FINEST = 2  # the finest attention of the demo model is at half the latent's size


def techniques() -> dict[str, Callable[[int], Callable[[], Any]]]:
    """Name -> for a size in pixels, a run. Steered and guided in every step."""
    import comfy.sample

    from fovea.guidance.experts.model_patch import Expert, ExpertSwitch
    from fovea.guidance.style.model_patch import StyleGuidance
    from fovea.models.shapesworld import loader as demo_model
    from fovea.nodes.region_sources import FoveaRegion
    from fovea.nodes.regions import FoveaDenseDiffusion
    from fovea.nodes.sag import FoveaSelfAttentionGuidance

    from ..generator.quality import encoded

    model, clip = demo_model.load_model(), demo_model.load_clip()
    positive, negative = encoded(clip, [TEXT]), encoded(clip, [""])

    def run(patcher: Any, positive: list, size: int) -> Callable[[], Any]:
        latent = torch.zeros(1, 4, size // 8, size // 8)
        noise = comfy.sample.prepare_noise(latent, 0)
        return partial(comfy.sample.sample, patcher, noise, STEPS, CFG, "euler", "normal", positive, negative, latent,
                       disable_pbar=True, seed=0)  # fmt: skip

    def sag(size: int) -> Callable[[], Any]:
        guided = FoveaSelfAttentionGuidance.execute(
            model, scale=0.5, blur_sigma=2.0, threshold=1.0, mask_mode="threshold", branch="auto", blocks="auto",
            start_percent=0.0, end_percent=1.0, every=1, rescale=0.0, kernel="auto",
        ).result[0]  # fmt: skip
        return run(guided, positive, size)

    def regions(size: int) -> Callable[[], Any]:
        left = torch.zeros(1, size // 8, size // 8)
        left[..., : size // 16] = 1
        found = FoveaRegion.execute(left, "a plain red star", 1.0, "").result[0]
        found = FoveaRegion.execute(1 - left, "a plain blue circle", 1.0, "", regions=found).result[0]
        steered, conds, *_ = FoveaDenseDiffusion.execute(
            model, clip, found, caption=TEXT, negative="", cross_strength=1.0, self_strength=0.3, area_strength=1.0,
            time_exponent=5.0, end_percent=1.0, operator="fovea", start_percent=0.0, mode="auto", blocks="all",
            encode_phrases=True, sampled=1,
        ).result  # fmt: skip
        return run(steered, conds, size)

    def style(size: int) -> Callable[[], Any]:
        return run(StyleGuidance(encoded(clip, ["a star"]), 2.0).patched(model), positive, size)

    def experts(size: int) -> Callable[[], Any]:
        second = demo_model.load_model()
        return run(ExpertSwitch.of(model, [Expert(second, 0.0)]).patched(model), positive, size)

    return {
        "plain": partial(run, model, positive), "Self-Attention Guidance": sag, "regions": regions, "style": style,
        "two experts": experts,
    }  # fmt: skip


def bench(repeats: int, sizes: tuple[int, ...]) -> list[dict[str, Any]]:
    """A row per size and technique."""
    from comfy import model_management

    device, found = model_management.get_torch_device(), []
    makers = techniques()
    for size in sizes:
        runs = {name: make(size) for name, make in makers.items()}
        for work in runs.values():
            work()
        times: dict[str, list[float]] = {name: [] for name in runs}
        for _ in tqdm(range(repeats), desc=f"{size} pixels"):
            for name, work in runs.items():
                times[name].append(meter.seconds(work, device))
        peaks = {name: meter.peak_bytes(work, device) for name, work in runs.items()}
        plain = statistics.median(times["plain"])
        for name, values in times.items():
            middle = statistics.median(values)
            found.append({
                "size": size, "tokens": (size // 8 // FINEST) ** 2, "technique": name, "repeats": repeats,
                "seconds": round(middle, 4), "spread": round((max(values) - min(values)) / middle, 3),
                "to_plain": round(middle / plain, 3), "peak_mib": round(peaks[name] / 2**20, 1),
                "peak_to_plain": round(peaks[name] / peaks["plain"], 3),
            })  # fmt: skip
    return found


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    from ..regions.plots import pyplot, save

    figure, axes = pyplot().subplots(1, 2, figsize=(9.5, 3.4), dpi=90)
    for name in dict.fromkeys(row["technique"] for row in rows):
        own = [row for row in rows if row["technique"] == name]
        for axis, key in zip(axes, ("seconds", "peak_mib")):
            axis.plot([row["tokens"] for row in own], [row[key] for row in own], marker="o", ms=3, label=name)
    for axis, title in zip(axes, (f"seconds for {STEPS} steps", "peak MiB above what was there")):
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.set_xlabel("tokens of the finest attention", fontsize=8)
        axis.set_title(title, fontsize=9)
        axis.tick_params(labelsize=8)
    axes[0].legend(fontsize=8)
    save(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "output" / "bench")
    parser.add_argument("--images", type=Path, default=ROOT / "docs" / "images")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    args = parser.parse_args()
    load_packages()
    from comfy import model_management

    torch.set_grad_enabled(False)
    report = {**record.machine(model_management.get_torch_device()), "cases": bench(args.repeats, tuple(args.sizes))}
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "scaling.json").write_text(json.dumps(report, indent=1) + "\n")
    args.images.mkdir(parents=True, exist_ok=True)
    plot(report["cases"], args.images / "scaling.png")
    print(json.dumps(report["cases"], indent=1))


if __name__ == "__main__":
    main()
