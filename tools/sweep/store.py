"""Results on disk, a folder per job: there whole or not at all, whoever writes it and however often."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .jobs import Job

OLD = 3600.0  # seconds, after which a part that was not finished is nobody's any more


@dataclass(frozen=True)
class Result:
    """pictures: output's title -> PNG files' contents; scores: output's title -> scorer -> a number per picture,
    None where there is none (a picture of NaN). unscored: why there are no scores though they were asked for. unloaded:
    whether that is because a scorer could not be loaded."""

    pictures: dict[str, list[bytes]]
    scores: dict[str, dict[str, list[float | None]]]
    seconds: float
    unscored: str = ""
    unloaded: bool = False


class Store:
    """Below one folder: jobs/<key>/job.json and pictures."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "jobs"
        self.folder.mkdir(parents=True, exist_ok=True)
        for left in self.folder.glob(".part-*"):  # of a run that was killed, not of one that goes on beside this
            with contextlib.suppress(OSError):
                if time.time() - left.stat().st_mtime > OLD:
                    shutil.rmtree(left, ignore_errors=True)

    def drawn(self, job: Job) -> bool:
        """Whether there are pictures of it."""
        return (self.folder / job.key / "job.json").exists()

    def done(self, job: Job) -> bool:
        """Whether nothing is left to do: pictures whose scoring failed are tried again."""
        return self.drawn(job) and not self.read(job).get("unscored")

    def commit(self, job: Job, result: Result) -> None:
        """Write beside, then rename: a job that two workers did is kept once."""
        part = self.folder / f".part-{uuid.uuid4().hex}"
        part.mkdir()
        try:
            self._write(part, job, result)
        except OSError:  # a full disk, say
            shutil.rmtree(part, ignore_errors=True)
            raise
        target = self.folder / job.key
        if target.exists() and not self.done(job):  # half of a result, by whatever accident
            shutil.rmtree(target)
        try:
            part.rename(target)
        except OSError:
            if not self.done(job):
                raise
            shutil.rmtree(part, ignore_errors=True)  # somebody was first

    @staticmethod
    def _write(part: Path, job: Job, result: Result) -> None:
        names: dict[str, list[str]] = {}
        for number, (output, pictures) in enumerate(result.pictures.items()):
            names[output] = [f"{number}_{i}.png" for i in range(len(pictures))]
            for name, content in zip(names[output], pictures):
                (part / name).write_bytes(content)
        told = {**job.told(), "pictures": names, "scores": result.scores, "seconds": round(result.seconds, 3)}
        told |= {"unscored": result.unscored} if result.unscored else {}
        (part / "job.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")

    def read(self, job: Job) -> dict[str, Any]:
        return json.loads((self.folder / job.key / "job.json").read_text(encoding="utf-8"))

    def picture(self, key: str, name: str) -> Path:
        return self.folder / key / name
