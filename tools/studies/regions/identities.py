"""Two of one kind, told apart by color: `python -m tools.studies.regions.identities`.

Two objects of one shape side by side, each with a region and a color of its own. Resumable; writes
output/eval/regions/identities.json.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import numpy as np

from ...shapesworld.shipped_weights import DEMO
from .. import metrics, record
from ..demo_setup import DemoSetup
from ..processes import begin
from . import layouts
from .methods import METHODS, START
from .quality import FOLDER, Layouts, weights

COUNT, FIRST_SEED = 48, 8_000_000
WAYS = {
    "none": START["none"], "ComfyUI's masked prompts": METHODS["ConditioningSetMask"],
    **{name: START[name] for name in ("dense diffusion", "painted start, dense diffusion")},
}  # fmt: skip


def row(drawn: Layouts, name: str, index: int) -> dict[str, float]:
    """Sample and judge one."""
    wanted = layouts.twins(index)
    return layouts.apart(drawn.demo.reader, drawn.picture(WAYS[name], wanted, FIRST_SEED + index), wanted)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layouts", type=int, default=COUNT)
    parser.add_argument("--demo", type=Path, default=DEMO)
    parser.add_argument("--out", type=Path, default=FOLDER)
    args = parser.parse_args()
    begin()
    demo = DemoSetup(args.demo)
    drawn, table = Layouts(args.out / weights(demo), demo), {}
    for name in WAYS:
        folder = drawn.folder / "identities" / name
        rows = [record.kept(folder / f"{i:03d}.json", partial(row, drawn, name, i)) for i in range(args.layouts)]
        table[name] = {key: metrics.mean(np.array([each[key] for each in rows])) for key in rows[0]}
        print(name, table[name], flush=True)
    report = {**record.source(demo=args.demo), "layouts": args.layouts, "table": table}
    record.write(args.out / "identities.json", report)


if __name__ == "__main__":
    main()
