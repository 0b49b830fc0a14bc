"""Does the jobs of a sweep: one server after the other job, or a Ray actor per server.

Every job is done at least once: one whose worker died is given to another; the store keeps it once.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..comfy.api import LIMIT, LOST, Client, Refused, Run, TooSlow
from ..comfy.graph import Graph
from ..comfy.host import HOST_FOLDER, ROOT
from ..comfy.scratch import scratch_folder
from ..comfy.server import running
from ..errors import SetupError
from .jobs import LOADERS, SCORE, Job, scorer_files
from .store import Result, Store

TRIES, STARTS = 3, 2  # of a job; of a worker that never came up, in a row


class JobFailed(RuntimeError):
    """The server could not run a job; the text says which node and why. Another worker could not either."""


class Worker:
    """Runs jobs on a server of its own, or on one that is there (address). models: a folder of ComfyUI's models. limit:
    seconds that a job may run. Raises RuntimeError where no server answers, or it has not all of the scorers."""

    def __init__(
        self, address: str | None = None, models: str | None = None, scorers: Sequence[str] = (), limit: float = LIMIT
    ) -> None:
        self.stack, self.limit = contextlib.ExitStack(), limit
        try:
            if address is None:
                if models is not None and not Path(models).is_dir():
                    raise SetupError(f"--models {models} is no folder.")
                base = self.stack.enter_context(scratch_folder("sweep", HOST_FOLDER))
                if models is not None:
                    (base / "models").symlink_to(Path(models).resolve(), target_is_directory=True)
                address = self.stack.enter_context(running(base, base / "server.log")).address
            self.client = Client(address)
            self.client.json("/system_stats")
            refuse_unknown(self.client, scorers)
        except SetupError as why:  # would end an actor without a word
            self.stack.close()
            raise RuntimeError(why.message) from None
        except (*LOST, ValueError) as why:
            self.stack.close()
            there = f" at {address}" if address else ""
            raise RuntimeError(f"no ComfyUI answers{there}: {why}") from None

    def ready(self) -> bool:
        return True

    def do(self, job: Job) -> Result:
        """Raises JobFailed, or one of LOST if the server is gone."""
        run, unscored, unloaded = self.run(job.graph), "", False
        seconds = run.seconds
        if run.status != "success" and only_scoring_failed(run):
            unscored, unloaded = run.explain(), loading_failed(run)
            run = self.run(job.unscored_graph)  # sampled pictures are in the server's cache
        if run.status != "success":
            raise JobFailed(run.explain())
        pictures = {
            name: [self.client.image(image) for image in run.images(node)] for node, name in job.plan.outputs.items()
        }
        if empty := [name for name, found in pictures.items() if not found]:
            raise JobFailed(f"the server told of no picture of {empty[0]!r}")
        return Result(pictures, {} if unscored else scores(job, run.outputs), seconds, unscored, unloaded)

    def run(self, graph: Graph) -> Run:
        try:
            return self.client.run(graph, limit=self.limit)
        except Refused as why:
            raise JobFailed(str(why)) from None
        except TooSlow as why:
            raise JobFailed(f"{why}: --limit allows more") from None

    def close(self) -> None:
        self.stack.close()


def refuse_unknown(client: Client, scorers: Sequence[str]) -> None:
    """Raise SetupError for scorers that a server has not, before anything is sampled."""
    if not scorers:
        return
    told = client.json("/object_info/FoveaLoadScorer").get("FoveaLoadScorer")
    if told is None:
        raise SetupError("the server has no node Load Scorer: install Fovea there, or leave --scorer out.")
    kind, options = told["input"]["required"]["file"]
    there = options["options"] if kind == "COMBO" else kind
    if missing := [file for scorer in scorers for file in scorer_files(scorer) if file not in there]:
        raise SetupError(
            f"--scorer {missing[0]}: the server has no such file in models/scorers. It has: {', '.join(there)}"
        )


def failed_nodes(run: Run) -> list[str]:
    """Ids of the node that raised, or of those whose inputs were refused."""
    return [str(run.error.get("node_id"))] if run.error else list(run.node_errors)


def only_scoring_failed(run: Run) -> bool:
    """Whether the graph's own nodes did what they should."""
    failed = failed_nodes(run)
    return bool(failed) and all(node.startswith(SCORE) for node in failed)


def loading_failed(run: Run) -> bool:
    """Whether a scorer could not even be loaded."""
    return any(LOADERS.fullmatch(node) for node in failed_nodes(run))


def keep(store: Store, failed: dict[str, str], job: Job, result: Result) -> None:
    """A result, and that its scores are missing where they are. Raises SetupError where all others' would be, too."""
    store.commit(job, result)
    if result.unscored:
        failed[job.key] = f"its pictures are kept, without scores: {result.unscored}"
    if result.unloaded:
        raise SetupError(
            f"the sweep stops, since a scorer cannot be loaded: {result.unscored.strip()} Mend its --scorer, or leave "
            "it out. The head of an aesthetic predictor is named with its CLIP: --scorer head.pth@ViT-L-14.pt"
        )


def rated(text: str) -> list[float]:
    """What Score Images says of one batch, in its order; NaN for a picture that is broken."""
    lines = re.findall(r"^(\S+)  picture (\d+)(.*)$", text, re.M)  # more behind it: why the picture is broken
    ranked = {int(place): math.nan if broken else float(score) for score, place, broken in lines}
    return [ranked.get(i + 1, math.nan) for i in range(max(ranked, default=0))]


def scores(job: Job, told: dict[str, Any]) -> dict[str, dict[str, list[float | None]]]:
    """What the added nodes say: output's title -> scorer's file -> a number per picture, in their order."""
    found: dict[str, dict[str, list[float | None]]] = {name: {} for name in job.plan.outputs.values()}
    for number, file in enumerate(job.plan.scorers):
        for output, name in job.plan.outputs.items():
            texts = told.get(f"{SCORE}_{number}_{output}_told", {}).get("text", [])  # several: of a list of batches
            values = [value for text in texts for value in rated(text)]
            found[name][file] = [value if math.isfinite(value) else None for value in values]
    return found


def alone(
    jobs: Sequence[Job], store: Store, failed: dict[str, str], address: str | None = None, models: str | None = None,
    limit: float = LIMIT,
) -> None:  # fmt: skip
    """One after the other on one server; failed: key -> why, filled as it goes."""
    worker = None
    try:
        for job in tqdm(jobs, desc="sweep", mininterval=2):
            if worker is None:
                try:
                    worker = Worker(address, models, job.plan.scorers, limit)
                except RuntimeError as why:
                    raise SetupError(str(why)) from None
            try:
                result = worker.do(job)
            except JobFailed as why:
                failed[job.key] = str(why)
            except LOST as why:  # the next job gets a new server, this one has had its chance
                failed[job.key] = f"the server was lost: {why}"
                if address is not None and isinstance(why, TimeoutError):  # the next would wait behind it for ever
                    raise SetupError(f"{address} hangs in a job ({why}): restart it, then this command.") from None
                worker.close()
                worker = None
            else:
                keep(store, failed, job, result)
    finally:
        if worker is not None:
            worker.close()


def on_ray(
    jobs: Sequence[Job], store: Store, failed: dict[str, str], workers: int, address: str | None = None,
    gpus: float | None = None, models: str | None = None, limit: float = LIMIT,
    committed: Callable[[Job, list[Any]], None] = lambda job, actors: None,
) -> None:  # fmt: skip
    """As many Ray actors as workers, each with its own server; address: of a cluster, else one is started here.

    On a cluster every machine needs this folder at the same path, with `make host` done in it, and `models` too. gpus:
    per worker; None: one each where there are any. committed: told after each job, with the actors (tests kill one).
    """
    try:
        import ray
    except ImportError:
        raise SetupError("Ray is not installed: pip install -r requirements-cluster.txt") from None
    if not jobs:
        return
    ray.init(address=address or "local", include_dashboard=False, log_to_driver=False, configure_logging=False,
             num_cpus=None if address else max(workers, 1), ignore_reinit_error=True,
             runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}})  # fmt: skip
    if gpus is None:
        there = ray.cluster_resources().get("GPU", 0)
        gpus = 1 / math.ceil(workers / there) if there else 0  # a share must fit on one
    crew = _Crew(ray, ray.remote(num_cpus=1, num_gpus=gpus)(Worker), models, list(jobs), failed, limit)
    bar = tqdm(total=len(jobs), desc=f"sweep on {workers} workers", mininterval=2)
    try:
        crew.hire(min(workers, len(jobs)))
        while crew.at_work():
            done = crew.next()
            if done is not None:
                job, result = done
                keep(store, failed, job, result)
                bar.update()
                committed(job, crew.actors)
    finally:
        bar.close()
        crew.dismiss()
        ray.shutdown()


class _Crew:
    """Actors and what they do. A new actor gets a job when it is up: one that waits for a free device holds none."""

    def __init__(
        self, ray: Any, kind: Any, models: str | None, waiting: list[Job], failed: dict[str, str], limit: float
    ) -> None:
        self.ray, self.kind, self.failed = ray, kind, failed
        self.waiting, self.hired_with = waiting[::-1], (None, models, waiting[0].plan.scorers, limit)
        self.tries: dict[str, int] = {}
        self.actors: list[Any] = []
        self.busy: dict[Any, tuple[Any, Job | None]] = {}  # what is awaited -> its actor and job; None: it starts
        self.false_starts = 0

    def hire(self, count: int = 1) -> None:
        for _ in range(count):
            actor = self.kind.remote(*self.hired_with)
            self.actors.append(actor)
            self.busy[actor.ready.remote()] = (actor, None)

    def at_work(self) -> bool:
        """Whether a job is left. Actors that never find a place are no reason to wait."""
        return bool(self.waiting) or any(job is not None for _, job in self.busy.values())

    def give(self, actor: Any) -> None:
        if self.waiting:
            job = self.waiting.pop()
            self.tries[job.key] = self.tries.get(job.key, 0) + 1
            self.busy[actor.do.remote(job)] = (actor, job)

    def next(self) -> tuple[Job, Result] | None:
        """Wait for whatever comes first. -> a job and its result, if that is what came."""
        (ready, *_), _ = self.ray.wait(list(self.busy), num_returns=1)
        actor, job = self.busy.pop(ready)
        try:
            result = self.ray.get(ready)
        except self.ray.exceptions.RayTaskError as why:
            if isinstance(why.cause, JobFailed) and job is not None:
                self.failed[job.key] = str(why.cause)
                self.give(actor)
                return None
            self.replace(actor, job, str(why.cause))  # its server is gone
        except self.ray.exceptions.RayActorError as why:
            self.replace(actor, job, str(why).strip().splitlines()[-1])
        else:
            self.false_starts = 0
            self.give(actor)
            if job is not None:
                return job, result
        return None

    def replace(self, actor: Any, job: Job | None, why: str) -> None:
        """Somebody else does it, after all the others."""
        self.actors.remove(actor)
        self.ray.kill(actor)
        if job is None:
            self.false_starts += 1
            if self.false_starts >= STARTS:
                raise SetupError(f"the workers do not start: {why}")
        elif self.tries[job.key] < TRIES:
            self.waiting.insert(0, job)
        else:
            self.failed[job.key] = f"its worker died {TRIES} times: {why}"
        if self.waiting:
            self.hire()

    def dismiss(self) -> None:
        starting = {actor for actor, job in self.busy.values() if job is None}
        for actor in self.actors:
            if actor in starting:
                self.ray.kill(actor)
                continue
            with contextlib.suppress(self.ray.exceptions.RayError):
                self.ray.get(actor.close.remote(), timeout=30)
            self.ray.kill(actor)
