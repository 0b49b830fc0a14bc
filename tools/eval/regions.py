"""Which way of telling a model what shall be where works best: every method on the same layouts and seeds.

`python -m tools.eval.regions --set tune` tries candidates, `--set report` measures the methods that were chosen; writes
output/eval/regions/<set>.json and a sheet of unpicked pictures. Resumable: every method's rows are kept.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..host import ROOT
from ..pack import load_packages
from . import layouts, metrics

FOLDER = ROOT / "output" / "eval" / "regions"
STEPS, CFG, FIRST_SEED = 20, 4.0, {"tune": 5_000_000, "report": 6_000_000}
SHOWN = 8

Prepared = tuple[Any, list, list]  # model, positive, negative
Method = Callable[[Any, Any, Any, str], Prepared]  # (model, clip, regions, caption) -> Prepared


def plain(model: Any, clip: Any, regions: Any, caption: str) -> Prepared:
    from fovea.guidance import captions

    return model, captions.encode(clip, caption), captions.encode(clip, "")


def masked(model: Any, clip: Any, regions: Any, caption: str) -> Prepared:
    """The host's own masked prompts beside the caption."""
    from fovea.guidance import captions

    return model, captions.masked(clip, caption, regions, 0.5), captions.encode(clip, "")


def couple(model: Any, clip: Any, regions: Any, caption: str) -> Prepared:
    """As attention-couple nodes do: cross-attention to each region's own prompt, results added by mask."""
    from fovea.attention.regions import token_shares
    from fovea.guidance import captions

    canvas = regions.canvas()
    prompts = [captions.encode(clip, caption)[0][0], *(captions.encode(clip, r.phrase)[0][0] for r in regions.items)]
    patched = model.clone()

    def attend(q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any], attn: Any) -> Tensor:
        from comfy.ldm.modules.attention import optimized_attention

        out = optimized_attention(q, k, v, options["n_heads"])
        grid = options["activations_shape"][2:]
        shares = token_shares(canvas, grid, (32, 32), (32, 32))[0].to(q)
        size = len(q) // len(options["cond_or_uncond"])
        for chunk, index in enumerate(options["cond_or_uncond"]):
            if index == 0:
                rows = slice(chunk * size, (chunk + 1) * size)
                # Half of a region's attention stays with the caption.
                weights = [1 - 0.5 * shares.sum(-1), *(0.5 * shares).unbind(-1)]
                out[rows] = sum(
                    w[None, :, None]
                    * optimized_attention(q[rows], attn.to_k(p), attn.to_v(p), options["n_heads"]).expand(size, -1, -1)
                    for w, p in zip(weights, ([p.expand(size, -1, -1) for p in prompts]))
                )
        return out

    network = model.model.diffusion_model
    for section, blocks in (("input", network.input_blocks), ("middle", [network.middle_block]),
                            ("output", network.output_blocks)):  # fmt: skip
        for number, block in enumerate(blocks):
            for module in block:
                for inner in getattr(module, "transformer_blocks", ()):
                    replacement = lambda q, k, v, options, a=inner.attn2: attend(q, k, v, options, a)  # noqa: E731
                    patched.set_model_attn2_replace(replacement, section, number)
    return patched, captions.encode(clip, caption), captions.encode(clip, "")


def steered(
    text: float, image: float, law: str = "power", exponent: float = 5.0, end: float = 0.3, separate: bool = True,
    mode: str = "auto", **operator: Any,
) -> Method:  # fmt: skip
    """A member of the family that the region nodes offer."""

    def method(model: Any, clip: Any, regions: Any, caption: str) -> Prepared:
        from fovea.attention.operators import Operator
        from fovea.guidance import captions
        from fovea.guidance.host_regions import RegionControl

        patched = model.clone()
        RegionControl(Operator(**operator), text, image, 0.0, end, law, exponent).install(patched)
        prompt = captions.positive(clip, caption, regions, mode, separate)
        return patched, prompt.conditioning, captions.encode(clip, "")

    return method


UP: dict[str, Any] = {"temperature": 0.0, "background": False}
METHODS: dict[str, Method] = {
    "none": plain,
    "ConditioningSetMask": masked,
    "attention couple": couple,
    "paint with words 0.4": steered(0.4, 0, "log", end=1.0, measure="row max", area=0.0, **UP),
    "paint with words 1.0": steered(1.0, 0, "log", end=1.0, measure="row max", area=0.0, **UP),
    "paper": steered(1.0, 0.3),
    "paper, no cross": steered(0.0, 0.3),
    "paper, no self": steered(1.0, 0.0),
    "paper, no value range": steered(1.0, 0.3, measure="std"),
    "paper, no area": steered(1.0, 0.3, area=0.0),
}


def candidates() -> dict[str, Method]:
    """What is tried on the tuning set, beside METHODS; at most 40 in all."""
    found: dict[str, Method] = {}
    for end, exponent in ((0.3, 5.0), (0.5, 2.0), (1.0, 1.0), (1.0, 3.0)):
        for text, image in ((1.0, 0.3), (2.0, 0.6), (4.0, 1.0)):
            found[f"up {text:g}/{image:g} end {end:g} pow {exponent:g}"] = steered(
                text, image, exponent=exponent, end=end, area=0.0, **UP
            )
    for text in (2.0, 4.0):
        found[f"paint with words {text:g}"] = steered(text, 0, "log", end=1.0, measure="row max", area=0.0, **UP)
        found[f"paint with words {text:g}, self"] = steered(text, text / 4, "log", end=1.0, area=0.0, **UP)
    for end in (0.2, 0.5, 1.0):
        found[f"hard end {end:g}"] = steered(1, 0, "constant", end=end, measure="hard", area=0.0, **UP)
    found["paper x2 end 0.5"] = steered(2.0, 0.6, end=0.5)
    found["concat up 2/0.6"] = steered(2.0, 0.6, exponent=1.0, end=1.0, mode="concat", area=0.0, **UP)
    return found


class Studio:
    """The demo model and its judges."""

    def __init__(self, folder: Path, demo_folder: Path) -> None:
        from fovea.models import demo

        self.folder = folder
        self.model, self.clip, self.vae = (f(demo_folder) for f in (demo.load_model, demo.load_clip, demo.load_vae))
        self.reader = demo.load_reader(demo_folder)

    def run(self, name: str, method: Method, which: str, count: int) -> list[dict]:
        """One row per layout: form, number of regions, iou and there per region; kept in a file as they come."""
        path = self.folder / which / f"{hashlib.sha256(name.encode()).hexdigest()[:12]}.json"
        rows = json.loads(path.read_text())["rows"] if path.exists() else []
        path.parent.mkdir(parents=True, exist_ok=True)
        started, done = time.monotonic(), len(rows)
        for i in tqdm(range(done, count), desc=f"{which} {name}", mininterval=5):
            picture, wanted = self.picture(method, which, i), layouts.layout(which, i)
            (found,) = layouts.score(self.reader, picture[None], [wanted])
            rows.append({"form": wanted.form, "regions": len(wanted.masks), **found})
            if i < SHOWN:
                np.save(path.with_suffix(f".{i}.npy"), (picture * 255).round().byte().numpy())
            if i % 8 == 7 or i == count - 1:
                path.write_text(json.dumps({"name": name, "rows": rows}))
        if count > done:
            print(f"{name}: {(time.monotonic() - started) / (count - done):.2f} s per picture")
        return rows[:count]

    def picture(self, method: Method, which: str, index: int) -> Tensor:
        import comfy.sample

        from fovea.attention.regions import Region, Regions

        wanted = layouts.layout(which, index)
        regions = Regions(tuple(
            Region(torch.from_numpy(mask)[None].float(), thing.phrase)
            for thing, mask in zip(wanted.scene.things, wanted.masks)
        ))  # fmt: skip
        model, positive, negative = method(self.model, self.clip, regions, wanted.caption)
        latent, seed = torch.zeros(1, 4, 32, 32), FIRST_SEED[which] + index
        out = comfy.sample.sample(
            model, comfy.sample.prepare_noise(latent, seed), STEPS, CFG, "euler", "normal", positive, negative, latent,
            disable_pbar=True, seed=seed,
        )  # fmt: skip
        return self.vae.decode(out)[0]


def summary(rows: list[dict]) -> dict[str, Any]:
    """Means over layouts of the means over regions, with 95 % bootstrap intervals; and per form and number."""

    def mean(key: str, part: list[dict]) -> list[float]:
        values = np.array([np.mean(row[key]) for row in part])
        interval = metrics.bootstrap(lambda i: float(values[i].mean()), len(values))
        return metrics.rounded((values.mean(), *interval))

    found: dict[str, Any] = {"n": len(rows), "iou": mean("iou", rows), "there": mean("there", rows)}
    for key in ("form", "regions"):
        for value in sorted({row[key] for row in rows}):
            found[f"iou, {key} {value}"] = mean("iou", [row for row in rows if row[key] == value])[0]
    return found


def weights() -> str:
    """Results of other weights or settings must not be mixed in."""
    told = (ROOT / "demo" / "shapesworld.json").read_bytes() + repr((STEPS, CFG)).encode()
    return hashlib.sha256(told).hexdigest()[:12]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", choices=["tune", "report"], default="report")
    parser.add_argument("--layouts", type=int, help="60 for tune, 300 for report")
    parser.add_argument("--only", nargs="*", default=[], help="parts of names of methods")
    parser.add_argument("--demo", type=Path, default=ROOT / "demo")
    parser.add_argument("--out", type=Path, default=FOLDER)
    args = parser.parse_args()
    load_packages()
    torch.set_grad_enabled(False)
    studio = Studio(args.out / weights(), args.demo)
    count = args.layouts or {"tune": 60, "report": 300}[args.set]
    chosen = {**METHODS, **(candidates() if args.set == "tune" else {})}
    chosen = {k: v for k, v in chosen.items() if not args.only or any(part in k for part in args.only)}
    table = {name: summary(studio.run(name, method, args.set, count)) for name, method in chosen.items()}
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    report = {"commit": commit, "set": args.set, "layouts": count, "steps": STEPS, "cfg": CFG, "table": table}
    (args.out / f"{args.set}.json").write_text(json.dumps(report, indent=1) + "\n")
    for name, row in sorted(table.items(), key=lambda item: -item[1]["iou"][0]):
        print(f"{name:<40} iou {row['iou']}  there {row['there']}")


if __name__ == "__main__":
    main()
