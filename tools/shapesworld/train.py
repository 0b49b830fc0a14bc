"""Train ShapesWorld from nothing: `python -m tools.shapesworld.train --stage all --minutes 180`.

Stages run in order and each resumes where it was interrupted. A stage's share of the minutes is fixed below.
"""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import nullcontext
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..comfy.host import ROOT
from ..comfy.pack import load_packages
from . import (
    data,
    export,
    stages,
    train_clip,
    train_dit,
    train_dual,
    train_experts,
    train_lora,
    train_reader,
    train_steered,
    train_style,
    train_unet,
    train_vae,
)
from .shipped_weights import CHANGES, DEMO, GENERATORS, LORAS, PARTS, base_hash

SHARES = {"vae": 0.08, "clip_a": 0.09, "reader": 0.05, "clip_b": 0.05, "unet": 0.70}
STAGES = {  # in order; before them "data" paints the pictures
    "vae": train_vae.train, "clip_a": train_clip.train_a, "reader": train_reader.train, "clip_b": train_clip.train_b,
    "latents": train_unet.encode, "unet": train_unet.train,
}  # fmt: skip
# On top of the shipped model, never part of "all".
LATER = {
    "experts": train_experts.train, "dual": train_dual.train, "style": train_style.train, "dit": train_dit.train,
    "loras": train_lora.train, "steered": train_steered.train,
}  # fmt: skip


# Without these glibc gives every large tensor back to the kernel and takes it again: a third of a CPU training step.
_ALLOCATOR = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000", "MALLOC_TOP_PAD_": "67108864"}


def keep_memory() -> None:
    """Start again with an allocator that keeps its memory (it reads its settings only at start)."""
    if sys.platform == "linux" and any(k not in os.environ for k in _ALLOCATOR):
        os.execve(
            sys.executable,
            [sys.executable, "-m", "tools.shapesworld.train", *sys.argv[1:]],
            {**os.environ, **_ALLOCATOR},
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=("all", "data", *STAGES, *LATER), default="all")
    parser.add_argument("--minutes", type=float, default=180, help="budget of the whole run; one stage: of that stage")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--pictures", type=int, help="training pictures to paint where fewer are there; unless told: "
                        f"those that are there, else {data.PICTURES}")  # fmt: skip
    parser.add_argument("--work", type=Path, default=ROOT / "output" / "shapesworld")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--continue-shipped", action="store_true", help="start from the weights in demo/ instead of from "
        "nothing; what is trained on top of them (experts, loras, steered, dual) begins anew all the same",
    )
    parser.add_argument("--fresh", action="store_true", help="with it: what a stage stands on, not the stage")
    parser.add_argument("--rate", type=float, default=1.0, help="share of the learning rate, for a short continuation")
    parser.add_argument("--compile", action="store_true", help="compile the UNet: a sixth faster after two minutes")
    parser.add_argument("--export", type=Path, nargs="?", const=DEMO, help="write what is trained to demo/ at the end, "
                        "or to a copy of it in this folder")  # fmt: skip
    args = parser.parse_args()
    if args.fresh and (args.stage == "all" or not args.continue_shipped):
        parser.error("--fresh is for one stage with --continue-shipped; without the two, all begins from nothing")
    keep_memory()

    load_packages()
    found = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(found if args.device == "auto" else args.device)
    args.work.mkdir(parents=True, exist_ok=True)
    held_out = data.build(args.work / "data" / "held_out", "held_out", 1024)
    pictures = data.build(args.work / "data" / "train", "train", args.pictures)
    print(f"training on {len(pictures)} pictures; --pictures asks for more")  # they may be those of a trial
    for name in STAGES if args.stage == "all" else {args.stage} - {"data"}:
        minutes = args.minutes * (SHARES.get(name, 1.0) if args.stage == "all" else 1.0)
        shipped = DEMO if args.continue_shipped else None
        base = base_hash() if name in LATER else ""
        run = stages.Run(name, args.work, device, minutes, args.seed, shipped, args.rate, args.fresh, args.compile,
                         base=base)  # fmt: skip
        # On CPUs the fused attention kernel's backward pass is slower than plain matrix products at these sizes.
        with sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext():
            {**STAGES, **LATER}[name](run, pictures)
    if args.export:
        of_stage = {**CHANGES, **GENERATORS, "loras": tuple(LORAS)}
        parts = of_stage.get(args.stage, () if args.stage in LATER else PARTS)
        export.export(args.work, export.prepared(args.export), parts)
    print(f"held-out pictures: {len(held_out)}; log: {args.work / 'log.jsonl'}")


if __name__ == "__main__":
    main()
