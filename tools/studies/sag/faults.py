"""Whether SAG mends local faults: smeared borders, specks, wrong textures; with and without a prompt.

`python -m tools.studies.sag.faults [--model dit] [--demo folder]` writes output/eval/sag/faults_<name>.json. Resumable.
The page's early UNet: `python -m tools.shapesworld.train --stage latents --continue-shipped --work W --pictures 20000`,
the same with `--stage unet --fresh --minutes 36 --export F`, with one thread, then `--demo F --name early` here.

Fixed before anything was drawn: settings are chosen on the tuning set, one after the other, each by the mean
uncertainty of the reader along borders; the report set is drawn once, with the chosen settings; SAG helps if the paired
difference of that measure to no guidance lies below 0 with its whole 95 % interval while KID on early features is not
worse beyond chance, and harms if it lies above. Pictures without any border are counted, not averaged. Plain CFG as
strong as SAG and CFG together is the control; six steps in place of twenty are the negative control: a measure that
does not see them sees nothing.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from ...comfy.node_values import arguments
from ...shapesworld import judge, sets
from ...shapesworld.shipped_weights import DEMO
from ...shapesworld.world import Scene, render
from .. import metrics, record
from ..demo_setup import DemoSetup
from ..picture_sets import BATCH, CFG, DRAWS, STEPS, PictureSets
from ..processes import begin, in_processes
from ..sampling import encoded, painted
from .quality import FOLDER, effective_cfg
from .section import MODELS

TUNING = 64  # pictures of the tuning set, per setting
REPORT = {False: 512, True: 256}  # pictures without and with a prompt
FEW_STEPS = 6
BAND = 2  # pixels of 128 on both sides of a border
SPECK = (3, 60)  # pixels of 128 x 128: smaller is noise of the reader, larger is an object
# What is tried, in this order; what is not named stays as chosen so far, and begins as in the node.
TRIED: dict[str, tuple] = {
    "scale": (0.05, 0.25, 0.75, 1.5, 3.0),
    "blocks": ("auto", "output.3, output.4"),  # of the UNet: 8x8 tokens, 16x16 tokens
    "blur_sigma": (2.0, 1.0, 4.0),
    "mask_mode": ("threshold", "soft"),
    "window": ((0.0, 1.0), (0.0, 0.5), (0.5, 1.0)),
}


@dataclass(frozen=True)
class Way:
    """One way to sample. scale 0: no guidance."""

    prompted: bool
    cfg: float
    scale: float = 0.0
    blocks: str = "auto"
    blur_sigma: float = 2.0
    mask_mode: str = "threshold"
    window: tuple[float, float] = (0.0, 1.0)

    @property
    def name(self) -> str:
        return "_".join(f"{key}{value}" for key, value in asdict(self).items()).replace(" ", "")

    def patch(self, model: Any) -> Any:
        from fovea.nodes.sag import FoveaSelfAttentionGuidance

        if not self.scale:
            return model
        start, end = self.window
        return FoveaSelfAttentionGuidance.execute(**arguments(
            FoveaSelfAttentionGuidance, model=model, scale=self.scale, blur_sigma=self.blur_sigma, blocks=self.blocks,
            mask_mode=self.mask_mode, start_percent=start, end_percent=end,
        )).result[0]  # fmt: skip

    def encode(self, clip: Any, captions: list[str]) -> list:
        return encoded(clip, captions)


def plain(prompted: bool) -> Way:
    return Way(prompted, CFG if prompted else 1.0)


@torch.no_grad()
def faults(demo: DemoSetup, pictures: Tensor) -> dict[str, np.ndarray]:
    """pictures [n, height, width, 3] -> per picture: borders, the reader's mean uncertainty along them, nan where there
    is none; specks, how many patches there are that are too small for an object; features, CLIP B's early ones,
    [n, 128]."""
    small = judge.small(pictures)
    certain, classes = demo.reader(small)[0].softmax(1).max(1)
    rows: dict[str, list] = {"borders": [], "specks": []}
    for sure, found in zip(certain.numpy(), classes.numpy()):
        edge = np.zeros(found.shape, bool)
        edge[:, 1:] |= found[:, 1:] != found[:, :-1]
        edge[1:] |= found[1:] != found[:-1]
        band = ndimage.binary_dilation(edge, iterations=BAND)
        rows["borders"].append(float((1 - sure)[band].mean()) if band.any() else np.nan)
        sizes = [np.bincount(ndimage.label(found == c)[0].ravel())[1:] for c in np.unique(found)]
        rows["specks"].append(float(sum(((SPECK[0] < s) & (s < SPECK[1])).sum() for s in sizes)))
    x = demo.clip_b.blocks[0](demo.clip_b.stem(F.avg_pool2d(small, 2) * 2 - 1))
    features = torch.cat([x.mean((2, 3)), x.std((2, 3))], 1)
    return {**{key: np.array(each) for key, each in rows.items()}, "features": features.double().numpy()}


class FaultSets(PictureSets):
    """Sets of pictures of which faults are kept."""

    def judged(self, scenes: list[Scene], pictures: Tensor) -> dict[str, np.ndarray]:
        right = [judge.score(scene, reading)["all_right"]
                 for scene, reading in zip(scenes, judge.read(self.demo.reader, pictures))]  # fmt: skip
        return {**faults(self.demo, pictures), "right": np.array(right)}

    def painted(self, count: int) -> dict[str, np.ndarray]:
        """The same of painted pictures, of scenes that nothing draws."""

        def batch(start: int) -> dict[str, Any]:
            return faults(self.demo, painted([render(scene)[0] for scene in sets.scenes("reference", start, BATCH)]))

        parts = record.kept_batches(self.folder / "reference", count, BATCH, batch, "painting references")
        return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def tune(made: FaultSets, prompted: bool, count: int) -> tuple[Way, list[dict]]:
    """The settings whose borders are the surest on the tuning set, chosen one after the other; and all trials."""
    rows: list[dict] = []
    chosen = replace(plain(prompted), scale=0.75)
    for key, values in TRIED.items():
        if key == "blocks" and made.demo.kind == "dit":
            continue
        ways = [replace(chosen, **{key: value}) for value in values]
        means = {way: float(np.nanmean(made.run(way, "tune", count)["borders"])) for way in ways}
        rows += [{"prompted": prompted, "setting": key, "value": str(getattr(way, key)), "borders": round(mean, 5)}
                 for way, mean in means.items()]  # fmt: skip
        chosen = min(means, key=lambda way: means[way])
    return chosen, rows


def measure(
    found: dict[str, np.ndarray], none: dict[str, np.ndarray], real: dict[str, np.ndarray], prompted: bool
) -> dict[str, Any]:
    """Every measure, and its paired difference to no guidance, as [value, low, high]."""
    count, features = len(found["borders"]), real["features"]
    row: dict[str, Any] = {"n": count, "without a border": int(np.isnan(found["borders"]).sum())}
    for key in ("borders", "specks", *(["right"] if prompted else [])):
        less = found[key] - none[key]
        row[key] = metrics.mean(found[key][~np.isnan(found[key])], 5)
        row[f"{key}_less_none"] = metrics.difference(less[~np.isnan(less)], 5)

    def kid(i: np.ndarray) -> float:
        return metrics.kid(found["features"][i], features)

    def less_kid(i: np.ndarray) -> float:
        return kid(i) - metrics.kid(none["features"][i], features)

    row["kid"] = metrics.with_interval(kid, count, DRAWS, digits=5)
    row["kid_less_none"] = metrics.with_interval(less_kid, count, DRAWS, digits=5)
    return row


def verdict(row: dict[str, Any]) -> str:
    """By the rule above."""
    (_, low, high), (_, kid_low, _) = row["borders_less_none"], row["kid_less_none"]
    if low > 0:
        return "harms"
    if high < 0:
        return "helps" if kid_low <= 0 else "surer borders, farther from reference pictures"
    return "no difference beyond chance"


def sets_of(out: Path, demo: DemoSetup) -> FaultSets:
    """What was drawn so far with the demo."""
    how = (BATCH, STEPS, CFG, BAND, SPECK, demo.means)
    return FaultSets(out / "faults" / record.weights_and(how, demo.more, demo.folder), demo)


Drawn = dict[str, tuple[Way, dict[str, np.ndarray]]]  # by the row's name


def draw(made: FaultSets, prompted: bool, most: int) -> tuple[Drawn, list[dict]]:
    """Chooses on the tuning set and draws the report's rows, with or without a prompt; and all trials."""
    chosen, tried = tune(made, prompted, min(TUNING, most))
    none, count = plain(prompted), min(REPORT[prompted], most)
    ways = {"none": none, "SAG": chosen}
    if prompted:
        ways["CFG as strong"] = replace(none, cfg=effective_cfg(made.demo, chosen))
    found = {name: (way, made.run(way, "report", count)) for name, way in ways.items()}
    return {**found, "six steps": (none, made.run(none, "report", count, FEW_STEPS))}, tried


def work(out: Path, demo: tuple[Path, str], prompted: bool, most: int) -> None:
    """What a process does. demo: folder and kind."""
    draw(sets_of(out, DemoSetup(*demo)), prompted, most)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("unet", "dit"), default="unet")
    parser.add_argument("--demo", type=Path, default=DEMO, help="folder of the files, of an early model for instance")
    parser.add_argument("--name", choices=list(MODELS), help="of the report; the model's by itself")
    parser.add_argument("--pictures", type=int, help="at most so many per row, for a try")
    parser.add_argument("--processes", type=int, choices=(1, 2), default=2, help="with and without a prompt at once")
    parser.add_argument("--out", type=Path, default=FOLDER)
    args = parser.parse_args()
    if (args.demo != DEMO) != (args.name == "early") or (args.name or args.model) not in (args.model, "early"):
        parser.error("weights of another folder are reported as early, and nothing else is")
    begin()
    demo, most = DemoSetup(args.demo, args.model), args.pictures or max(REPORT.values())
    if args.processes > 1:
        in_processes(work, [(args.out, (demo.folder, demo.kind), prompted, most) for prompted in REPORT])
    made = sets_of(args.out, demo)
    real, tried, table = made.painted(min(512, most)), [], []
    for prompted in REPORT:
        drawn, rows = draw(made, prompted, most)
        tried += rows
        for name, (way, found) in drawn.items():
            row = measure(found, drawn["none"][1], real, prompted)
            table.append({"name": name, **asdict(way), **row, "verdict": verdict(row)})
    name = args.name or args.model
    record.write(args.out / f"faults_{name}.json", {
        **record.source(*demo.more, demo=args.demo), "name": name, "tuning": min(TUNING, most),
        "device": str(demo.model.load_device),
        "painted": {key: round(float(np.nanmean(real[key])), 5) for key in ("borders", "specks")}, "tried": tried,
        "table": table,
    })  # fmt: skip
    for row in table:
        print(f"{row['name']:<14} prompt {row['prompted']!s:<5} borders {row['borders']} less none "
              f"{row['borders_less_none']} kid less none {row['kid_less_none']}: {row['verdict']}")  # fmt: skip


if __name__ == "__main__":
    main()
