"""`make eval`: every quality table on ShapesWorld, its plots, one report of all, and the results page.

`python -m tools.eval` writes output/eval/report.json, docs/images/ and docs/results.*; resumable: what was sampled is
kept, by settings and weights. --quick runs through everything with a handful of pictures in output/quick/ and leaves
docs/ alone.
"""

from __future__ import annotations

import argparse
import sys

from .. import suite
from ..suite import Step

STEPS = [
    Step("tools.shapesworld.evaluate", "--out {out}/eval", "--prompts 16"),
    Step("tools.eval.sag", "--out {out}/eval/sag", "--pictures 8"),
    Step("tools.eval.regions", "--set tune --out {out}/eval/regions", "--layouts 3 --only paper"),
    Step("tools.eval.regions", "--set report --out {out}/eval/regions", "--layouts 3"),
    Step("tools.eval.region_plots", "--out {out}/eval/regions --images {images}"),
    Step("tools.eval.latents", "--out {out}/eval/latents", "--prompts 2 --only DOODL"),
    Step("tools.eval.latent_lines", "--out {out}/eval/latents", "--prompts 2"),
    Step("tools.eval.latent_plots", "--out {out}/eval/latents --images {images}"),
    Step("tools.eval.ediffi", "--out {out}/eval/ediffi", "--pictures 32 --only encoders prompt_swap"),
    Step("tools.eval.ediffi_plots", "--out {out}/eval/ediffi --images {images}"),
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a handful of pictures each; docs/ stays as it is")
    parser.add_argument("--only", nargs="+", default=[], help="parts of modules' names, for instance region latent")
    args = parser.parse_args()
    steps = [step for step in STEPS if not args.only or any(part in step.module for part in args.only)]
    if not steps:
        parser.error(f"no step has {' or '.join(args.only)} in its name: {', '.join(step.module for step in STEPS)}")
    return suite.measure(steps, args.quick)


if __name__ == "__main__":
    sys.exit(main())
