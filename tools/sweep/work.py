"""Does the jobs of a sweep: one server after the other job, or a Ray actor per server.

Every job is done at least once: one whose worker died is given to another; the store keeps it once.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..api import Client, Refused
from ..errors import SetupError
from ..host import HOST_FOLDER, ROOT
from ..server import running
from .jobs import SCORE, Job
from .store import Result, Store

TRIES = 3


class JobFailed(RuntimeError):
    """The server could not run a job; the text says which node and why. Another worker could not either."""


class Worker:
    """Runs jobs on a server of its own, or on one that is there (address)."""

    def __init__(self, address: str | None = None) -> None:
        self.stack = contextlib.ExitStack()
        if address is None:
            base = Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="sweep-", dir=HOST_FOLDER)))
            address = self.stack.enter_context(running(base, base / "server.log")).address
        self.client = Client(address)

    def do(self, job: Job) -> Result:
        """Raises JobFailed."""
        try:
            run = self.client.run(job.graph)
        except Refused as why:
            raise JobFailed(str(why)) from None
        if run.status != "success":
            raise JobFailed(run.explain())
        pictures = {
            name: [self.client.image(image) for image in run.images(node)] for node, name in job.outputs.items()
        }
        return Result(pictures, scores(job, run.outputs), run.seconds)

    def close(self) -> None:
        self.stack.close()


def scores(job: Job, told: dict[str, Any]) -> dict[str, dict[str, list[float]]]:
    """What the added nodes say: output's title -> scorer's file -> a number per picture, in their order."""
    found: dict[str, dict[str, list[float]]] = {name: {} for name in job.outputs.values()}
    for node in job.graph:
        if re.fullmatch(rf"{SCORE}_\d+", node):
            for output, name in job.outputs.items():
                text = "\n".join(told.get(f"{node}_{output}_told", {}).get("text", []))
                ranked = re.findall(r"^(-?[\d.]+)  picture (\d+)$", text, re.MULTILINE)
                found[name][job.graph[node]["inputs"]["file"]] = [
                    float(score) for score, _ in sorted(ranked, key=lambda each: int(each[1]))
                ]
    return found


def alone(jobs: Sequence[Job], store: Store, address: str | None = None) -> dict[str, str]:
    """One after the other on one server. -> key -> why it failed."""
    failed: dict[str, str] = {}
    if not jobs:
        return failed
    worker = Worker(address)
    try:
        for job in tqdm(jobs, desc="sweep", mininterval=2):
            try:
                store.commit(job, worker.do(job))
            except JobFailed as why:
                failed[job.key] = str(why)
    finally:
        worker.close()
    return failed


def on_ray(
    jobs: Sequence[Job], store: Store, workers: int, address: str | None = None, gpus: float = 0.0,
    committed: Callable[[Job, list[Any]], None] = lambda job, actors: None,
) -> dict[str, str]:  # fmt: skip
    """As many Ray actors as workers, each with its own server; address: of a cluster, else one is started here.

    On a cluster every machine needs this folder at the same path, with `make host` done in it. gpus: per worker.
    committed: told after each job, with the actors (tests kill one).
    """
    try:
        import ray
    except ImportError:
        raise SetupError("Ray is not installed: pip install -r requirements-cluster.txt") from None
    ray.init(address=address, include_dashboard=False, log_to_driver=False, configure_logging=False,
             num_cpus=None if address else max(workers, 1), ignore_reinit_error=True,
             runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}})  # fmt: skip
    actor_type = ray.remote(num_cpus=1, num_gpus=gpus)(Worker)
    waiting, failed, tries = list(reversed(jobs)), {}, dict.fromkeys((job.key for job in jobs), 0)
    actors = [actor_type.remote() for _ in range(min(workers, len(jobs)))]
    running_jobs: dict[Any, tuple[Any, Job]] = {}

    def give(actor: Any) -> None:
        if waiting:
            job = waiting.pop()
            tries[job.key] += 1
            running_jobs[actor.do.remote(job)] = (actor, job)

    def again(job: Job, why: str) -> None:
        if tries[job.key] < TRIES:
            waiting.append(job)
        else:
            failed[job.key] = why

    try:
        for actor in actors:
            give(actor)
        bar = tqdm(total=len(jobs), desc=f"sweep on {len(actors)} workers", mininterval=2)
        while running_jobs:
            ready, _ = ray.wait(list(running_jobs), num_returns=1)
            actor, job = running_jobs.pop(ready[0])
            try:
                result = ray.get(ready[0])
            except ray.exceptions.RayActorError as why:  # the worker is gone, with its server
                actors.remove(actor)
                actor = actor_type.remote()
                actors.append(actor)
                again(job, f"its worker died: {str(why).splitlines()[0]}")
            except ray.exceptions.RayTaskError as why:
                if isinstance(why.cause, JobFailed):
                    failed[job.key] = str(why.cause)
                else:
                    again(job, str(why.cause))
            else:
                store.commit(job, result)
                bar.update()
                committed(job, actors)
            give(actor)
        bar.close()
    finally:
        for actor in actors:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.get(actor.close.remote(), timeout=30)
            ray.kill(actor)
        ray.shutdown()
    return failed


