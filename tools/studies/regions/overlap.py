"""Who is in front where regions overlap: `python -m tools.studies.regions.overlap`, output/eval/regions/overlap.json.

90 layouts of two boxes that overlap by 20, 40 and 60 % of their size; the second region lies in front. Resumable.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...shapesworld.shipped_weights import DEMO
from .. import metrics, record
from ..demo_setup import DemoSetup
from ..processes import begin
from . import layouts
from .methods import START
from .quality import FOLDER, Layouts, weights

COUNT, FIRST_SEED = 90, 7_000_000
METHODS = (
    "none", "dense diffusion", "dense diffusion, arranged noise, layout loss", "painted start, dense diffusion",
)  # fmt: skip


def rows_of(drawn: Layouts, name: str, count: int) -> list[dict[str, float]]:
    """A row per layout, kept."""
    folder = drawn.folder / "overlap" / name
    return [record.kept(folder / f"{index:03d}.json", partial(row, drawn, name, index)) for index in range(count)]


def row(drawn: Layouts, name: str, index: int) -> dict[str, float]:
    """Sample and judge one."""
    wanted = layouts.overlapping(index)
    picture = drawn.picture(START[name], wanted, FIRST_SEED + index)
    return layouts.in_front(drawn.demo.reader, picture, wanted)


def summary(rows: list[dict[str, float]]) -> dict[str, Any]:
    """Means with intervals; of `front` for every level too."""
    found: dict[str, Any] = {key: metrics.mean(np.array([row[key] for row in rows])) for key in rows[0]}
    for level, share in enumerate(layouts.OVERLAPPED):
        found[f"front at {share:g}"] = metrics.mean(np.array([row["front"] for row in rows[level::3]]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layouts", type=int, default=COUNT)
    parser.add_argument("--demo", type=Path, default=DEMO)
    parser.add_argument("--out", type=Path, default=FOLDER)
    args = parser.parse_args()
    begin()
    demo = DemoSetup(args.demo)
    drawn = Layouts(args.out / weights(demo), demo)
    table = {name: summary(rows_of(drawn, name, args.layouts)) for name in METHODS}
    record.write(args.out / "overlap.json", {**record.source(demo=args.demo), "layouts": args.layouts, "table": table})
    for name, row in table.items():
        print(f"{name:<48} front {row['front']} there {row['there behind']} {row['there in front']}")


if __name__ == "__main__":
    main()
