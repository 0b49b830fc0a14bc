"""Compare settings of any graph over prompts and seeds: pictures, scores, box plots, a page, a blind vote.

    python -m tools.sweep.evaluate graph_api.json prompts.csv --seeds 0-3 \\
        --setting "plain: sag.scale=0" --setting "SAG: sag.scale=0.75" \\
        --scorer "ViT-B-32.safetensors" --server http://127.0.0.1:8188

Regions on your own checkpoint (write its name into the graph, or with a setting "...: load.ckpt_name=..."):

    python -m tools.sweep.evaluate tools/sweep/regions.json tools/sweep/layouts.json --seeds 0-3 --server ...

The graph is in API format (File, Export (API)) and saves or previews pictures. Without --server, one is started (with
--workers several, on a cluster with --ray-address); it has the demo model and what --models has. Every job is kept as
it is done: the same command goes on where it was stopped. Results lie in --out: report.html, report.json, jobs/. A job
is known by its graph: once the pack or a model's file has changed, take another --out.
"""

from __future__ import annotations

import argparse
import sys
import webbrowser
from pathlib import Path

from ..comfy import graph as graphs
from ..comfy.api import LIMIT
from ..comfy.host import ROOT
from ..comfy.server import termination_as_exit
from ..errors import SetupError
from . import blind, jobs, report, work
from .store import Store


def seeds(text: str) -> list[int]:
    """ "3" -> 3; "0-3" -> 0, 1, 2, 3; "1,5" -> 1, 5."""
    found: list[int] = []
    try:
        for part in text.split(","):
            low, dash, high = part.strip().partition("-")
            found += range(int(low), (int(high) if dash else int(low)) + 1)
    except ValueError:
        found = []
    if not found:
        raise SetupError(f"--seeds {text!r}: write 7, 0-3 or 1,5,9.")
    return list(dict.fromkeys(found))


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("graph", type=Path, help="API-format JSON")
    made.add_argument(
        "prompts", type=Path, help="CSV or TSV with a column Prompts (as DrawBench), one per line, or JSON with boxes"
    )
    made.add_argument("--seeds", default="0", help="7, 0-3 or 1,5,9")
    made.add_argument("--setting", action="append", default=[], help="'name: node.input=value, ...'; may be repeated")
    made.add_argument("--prompt-at", action="append", default=[], help="node.input; else behind every positive")
    made.add_argument("--seed-at", action="append", default=[], help="node.input; else every seed")
    scorer = "a file of models/scorers, an aesthetic predictor as head.pth@CLIP.pt; may be repeated"
    made.add_argument("--scorer", action="append", default=[], help=scorer)
    limit = "after which a job is stopped, %(default)g if not given; waiting in the server's queue is not counted"
    made.add_argument("--limit", type=float, default=LIMIT / 60, metavar="MINUTES", help=limit)
    made.add_argument("--server", help="address of a server that runs; else one is started")
    made.add_argument("--workers", type=int, default=0, help="servers side by side, by Ray (requirements-cluster.txt)")
    made.add_argument("--ray-address", help="of a Ray cluster, or auto")
    made.add_argument("--gpus", type=float, help="per worker, for Ray; else shared evenly")
    made.add_argument("--models", help="ComfyUI's models folder, for servers that are started")
    made.add_argument("--out", type=Path, default=ROOT / "output" / "evaluate")
    made.add_argument("--title", help="of the page")
    made.add_argument("--blind", nargs=2, metavar="ARM", help="vote between two arms in the browser, run nothing")
    return made


def planned(args: argparse.Namespace) -> list[jobs.Job]:
    """All jobs of the command line. Raises SetupError."""
    graph = graphs.load(args.graph)
    settings = [jobs.read_setting(graph, text) for text in args.setting] or [jobs.Setting("as it is")]
    if len({setting.name for setting in settings}) < len(settings):
        raise SetupError("two settings have the same name.")
    prompt_at = [jobs.place(graph, name) for name in args.prompt_at] or jobs.prompt_places(graph)
    seed_at = [jobs.place(graph, name) for name in args.seed_at] or jobs.seed_places(graph)
    plan = jobs.Plan(graph, tuple(prompt_at), tuple(seed_at), tuple(args.scorer), jobs.outputs(graph),
                     tuple(jobs.boxes_places(graph)))  # fmt: skip
    print("prompts are written to", ", ".join(".".join(at) for at in prompt_at), "- seeds to",
          ", ".join(".".join(at) for at in seed_at))  # fmt: skip
    return jobs.expand(plan, jobs.read_prompts(args.prompts), seeds(args.seeds), settings)


def vote(args: argparse.Namespace, every: list[jobs.Job], store: Store) -> int:
    ballot = blind.Ballot(args.out, report.arms(every, store), *args.blind)
    page = blind.server(ballot)
    address = f"http://127.0.0.1:{page.server_port}/"
    print(f"{len(ballot.waiting())} pairs: {address} (Ctrl-C ends it)")
    webbrowser.open(address)
    try:
        page.serve_forever()
    except KeyboardInterrupt:
        page.server_close()
    print(ballot.result())
    return 0


@termination_as_exit()  # on somebody's server, too: the job that runs is taken off it
def main(arguments: list[str] | None = None) -> int:
    args = parser().parse_args(arguments)
    try:
        every = planned(args)
        args.out.mkdir(parents=True, exist_ok=True)
        store = Store(args.out)
        if args.blind:
            return vote(args, every, store)
        if args.server and (args.workers or args.ray_address or args.models):
            raise SetupError("--server runs by itself: leave out --workers, --ray-address and --models.")
        if not args.limit > 0:
            raise SetupError("--limit should be a number of minutes.")
        waiting = list({job.key: job for job in every if not store.done(job)}.values())
        print(f"{len(every)} jobs, {len(every) - len(waiting)} done before")
        failed: dict[str, str] = {}
        title = args.title or f"{args.graph.stem}: {args.prompts.stem}"
        try:
            if args.workers or args.ray_address:
                workers = max(1, args.workers)
                work.on_ray(waiting, store, failed, workers, args.ray_address, args.gpus, args.models, args.limit * 60)
            else:
                work.alone(waiting, store, failed, args.server, args.models, args.limit * 60)
        finally:  # whatever there is, also when it was stopped
            found = report.write(args.out, title, every, store, failed)
    except SetupError as why:
        print(f"evaluate: {why.message}", file=sys.stderr)
        return 2
    for row in found["table"]:
        print(row["arm"], "|", row["scorer"], "|", report.written(row["mean"]), report.written(row.get("less_first")))
    print(f"{found['done']} of {found['jobs']} jobs done; {args.out / 'report.html'}")
    for key, reason in found["failed"].items():
        print(f"failed: {key}: {reason}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
