"""Every study, one after the other: `python -m tools.studies quality` (`make eval`), or `speed` (`make bench`).

Writes output/eval/report.json or output/bench/report.json, docs/images/ and docs/results.*. quality: the tables on
ShapesWorld and their plots; resumable, what was sampled is kept by settings and weights. speed: every ratio of time and
memory, each against its peer in the same run. --quick runs through everything with a handful of pictures, or the demo
model alone at small sizes, in output/quick/ and leaves docs/ alone.
"""

from __future__ import annotations

import argparse
import sys

from . import suite
from .suite import Step

QUALITY = [
    Step("tools.studies.generator.quality", "--out {out}/eval", "--prompts 16"),
    *(
        Step("tools.studies.generator.quality", f"--model dit --wording {wording} --out {{out}}/eval", "--prompts 16")
        for wording in ("plain", "placed", "related")
    ),
    *(
        Step("tools.studies.attention_map.quality", f"--model {model} --out {{out}}/eval", "--scenes 4")
        for model in ("unet", "dit")
    ),
    *(
        Step("tools.studies.sag.quality", f"--prompts {prompts} --out {{out}}/eval/sag", "--pictures 8")
        for prompts in ("with", "without")
    ),
    Step("tools.studies.regions.quality", "--set tune --out {out}/eval/regions", "--layouts 3 --only paper"),
    Step("tools.studies.regions.quality", "--set report --out {out}/eval/regions", "--layouts 3"),
    Step("tools.studies.regions.quality", "--set start --out {out}/eval/regions", "--layouts 3"),
    Step("tools.studies.regions.overlap", "--out {out}/eval/regions", "--layouts 3"),
    Step("tools.studies.regions.identities", "--out {out}/eval/regions", "--layouts 3"),
    Step("tools.studies.regions.plots", "--out {out}/eval/regions --images {images}"),
    Step("tools.studies.region_lora.quality", "--out {out}/eval --images {images}", "--pictures 8"),
    Step("tools.studies.noise_optimization.quality", "--out {out}/eval/latents", "--prompts 2 --only DOODL"),
    Step("tools.studies.noise_optimization.lines", "--out {out}/eval/latents", "--prompts 2"),
    Step("tools.studies.noise_optimization.plots", "--out {out}/eval/latents --images {images}"),
    Step("tools.studies.ediffi", "--out {out}/eval/ediffi", "--pictures 32 --only encoders prompt_swap"),
    Step("tools.studies.ediffi_plots", "--out {out}/eval/ediffi --images {images}"),
]
SPEED = [
    Step("tools.studies.sag.speed", "--out {out}/bench", "--models shapesworld"),
    Step("tools.studies.regions.speed", "--out {out}/bench", "--models shapesworld --runs-only"),
    Step("tools.studies.region_lora.speed", "--out {out}/bench", "--models shapesworld"),
    Step("tools.studies.noise_optimization.speed", "--out {out}/bench", "--models shapesworld --most-steps 5"),
    Step("tools.studies.scaling.speed", "--out {out}/bench --images {images}", "--sizes 256 384 --repeats 1"),
]
STEPS = {"quality": QUALITY, "speed": SPEED}


def main() -> int:
    parser = argparse.ArgumentParser("python -m tools.studies", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("kind", choices=list(STEPS))
    parser.add_argument("--quick", action="store_true", help="a run through in minutes; docs/ stays as it is")
    parser.add_argument("--only", nargs="+", default=[], help="parts of modules' names, for instance regions noise")
    args = parser.parse_args()
    every = STEPS[args.kind]
    steps = [step for step in every if not args.only or any(part in step.module for part in args.only)]
    if not steps:
        parser.error(f"no step has {' or '.join(args.only)} in its name: {', '.join(step.module for step in every)}")
    return suite.measure(steps, args.quick)


if __name__ == "__main__":
    sys.exit(main())
