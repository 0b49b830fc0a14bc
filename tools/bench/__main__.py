"""`make bench`: every ratio of time and memory, each against its peer in the same run, and one report of all.

`python -m tools.bench` writes output/bench/report.json, docs/images/scaling.png and docs/results.*. --quick measures
the demo model alone, at small sizes, in output/quick/ and leaves docs/ as they are.
"""

from __future__ import annotations

import argparse
import sys

from .. import suite
from ..suite import Step

STEPS = [
    Step("tools.bench.sag", "--out {out}/bench", "--models shapesworld"),
    Step("tools.bench.regions", "--out {out}/bench", "--models shapesworld --runs-only"),
    Step("tools.bench.latents", "--out {out}/bench", "--models shapesworld --most-steps 5"),
    Step("tools.bench.scaling", "--out {out}/bench --images {images}", "--sizes 256 384 --repeats 1"),
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the demo model alone; docs/ stays as it is")
    args = parser.parse_args()
    return suite.measure(STEPS, args.quick)


if __name__ == "__main__":
    sys.exit(main())
