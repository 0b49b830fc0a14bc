"""eDiff-I in miniature on ShapesWorld: experts by noise level, two text encoders, style from a picture.

`python -m tools.studies.ediffi` writes output/eval/ediffi/report.json; resumable. What needs weights that do not ship
is left out where they are missing: `python -m tools.shapesworld.train --stage experts --minutes 81` leaves the experts'
own and the control's, `--stage style --minutes 2` the judge of style.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

from ..comfy.host import ROOT
from ..shapesworld.shipped_weights import CHANGES, GENERATORS
from ..shapesworld.train_experts import EXPERTS
from . import record
from .demo_setup import DemoSetup
from .encoder_schedule import prompt_swap
from .encoder_schedule import quality as encoders
from .experts import quality as experts
from .experts import unlike
from .picture_sets import BATCH, CFG, STEPS
from .processes import begin
from .style import quality as styles

FOLDER = ROOT / "output" / "eval" / "ediffi"
PARTS = ("losses", "experts", "unlike", "encoders", "attended", "styles", "prompt_swap", "prompt_swap_dit")
OTHERS = {**CHANGES, **GENERATORS}
USES = {  # beside what all use
    "losses": "experts", "experts": "experts", "unlike": "dit", "encoders": "dual", "attended": "dual",
    "styles": "dual", "prompt_swap_dit": "dit",
}  # fmt: skip


@cache
def trained(*names: str) -> tuple[str, ...]:
    """What tells parts that do not ship from others of the same name."""
    return tuple(hashlib.sha256((experts.WORK / f"{name}.pt").read_bytes()).hexdigest()[:12] for name in names)


def folder(part: str, out: Path = FOLDER) -> Path:
    """Where results of a part are kept, below `out`: by all that they depend on."""
    sampled = (STEPS, CFG, BATCH)
    tested = (experts.BINS, experts.SAMPLES)
    swap = ("swap", prompt_swap.SWAPS, prompt_swap.STEPS, prompt_swap.CFG, prompt_swap.BATCH, prompt_swap.SECOND,
            prompt_swap.border(1))  # fmt: skip
    key = {
        "tree": lambda: record.weights_and(("tree", experts.WAYS, EXPERTS, *sampled, *tested, trained(*EXPERTS))),
        "dual": lambda: record.weights_and(("dual", encoders.readings(), *sampled), ("dual",)),
        "styles": lambda: record.weights_and(
            ("styles", styles.TRANSFERS, styles.BATCH, styles.STEPS, styles.CFG, styles.FIRST_REFERENCE,
             trained("style")), ("dual",),
        ),
        "swap": lambda: record.weights_and(swap),
        "swap_dit": lambda: record.weights_and(swap, ("dit",)),
        "unlike": lambda: record.weights_and(
            ("unlike", unlike.BORDERS, unlike.MEASURED, unlike.BATCH, unlike.STEPS, unlike.CFG), ("dit",)
        ),
    }[part]()  # fmt: skip
    path = out / key
    path.mkdir(parents=True, exist_ok=True)
    return path


def missing() -> dict[str, str]:
    """Parts that cannot be measured here, and the file that they lack."""
    needs = {"losses": [f"{name}.pt" for name in EXPERTS], "experts": [f"{name}.pt" for name in EXPERTS],
             "styles": ["style.pt"]}  # fmt: skip
    absent = {part: [name for name in names if not (experts.WORK / name).exists()] for part, names in needs.items()}
    return {part: str(experts.WORK / names[0]) for part, names in absent.items() if names}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, nargs="+", default=PARTS)
    parser.add_argument("--pictures", type=int, default=256, help="per row; styles: half, prompt swap: a quarter")
    parser.add_argument("--out", type=Path, default=FOLDER)
    args = parser.parse_args()
    device, one, two, flow = begin(), DemoSetup(), DemoSetup(kind="dual"), DemoSetup(kind="dit")
    path, count = args.out / "report.json", args.pictures - args.pictures % 32  # whole batches of every part
    find: dict[str, Any] = {
        "losses": lambda: experts.losses(folder("tree", args.out), one),
        "experts": lambda: experts.pictures(folder("tree", args.out), one, count),
        "unlike": lambda: unlike.table(folder("unlike", args.out), flow, one, count),
        "encoders": lambda: encoders.pictures(folder("dual", args.out), one, two, count),
        "attended": lambda: encoders.attended(two),
        "styles": lambda: styles.table(folder("styles", args.out), two, experts.WORK, count // 2),
        "prompt_swap": lambda: prompt_swap.table(folder("swap", args.out), one, count // 4),
        "prompt_swap_dit": lambda: prompt_swap.table(folder("swap_dit", args.out), flow, count // 4),
    }
    report = json.loads(path.read_text()) if path.exists() else {}
    lacking = missing()
    for part in args.only:
        if part in lacking:
            print(f"{part} is left out: {lacking[part]} is missing, see --help")
            continue
        found = find[part]()
        report[part] = {**record.machine(device, *OTHERS.get(USES.get(part, ""), ())), "found": found}
        record.write(path, report)
        print(json.dumps({part: found}, indent=1))


if __name__ == "__main__":
    main()
