"""What must not hang, and what must not end, when a server or a terminal does."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tools.comfy.server import termination_as_exit
from tools.errors import SetupError
from tools.sweep import work

ROOT = Path(__file__).resolve().parents[2]


def test_an_ignored_hangup_stays_ignored() -> None:
    """nohup has it ignored, so that the command outlives its terminal."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with termination_as_exit():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            assert callable(signal.getsignal(signal.SIGTERM))
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("address", [None, "http://127.0.0.1:1"])
def test_a_server_that_hangs_ends_a_sweep_on_it(address: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of our own is replaced; on a given one the next job would wait behind the last for ever."""
    began: list[Any] = []

    class Hanging:
        def __init__(self, *_: Any) -> None:
            began.append(self)

        def do(self, job: Any) -> Any:
            raise TimeoutError("did not stop")

        def close(self) -> None:
            pass

    class Job:
        plan = type("Plan", (), {"scorers": ()})

        def __init__(self, key: str) -> None:
            self.key = key

    monkeypatch.setattr(work, "Worker", Hanging)
    failed: dict[str, str] = {}
    jobs = [Job("a"), Job("b")]
    if address is None:
        work.alone(jobs, None, failed)
        assert len(began) == 2 and [*failed] == ["a", "b"]
    else:
        with pytest.raises(SetupError, match=r"hangs in a job.*did not stop.*restart"):
            work.alone(jobs, None, failed, address)
        assert len(began) == 1 and [*failed] == ["a"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell a process of its parent's death")
def test_processes_of_a_study_end_when_it_is_killed(tmp_path: Path) -> None:
    told = tmp_path / "process"
    task = f"import os, pathlib, time; pathlib.Path({str(told)!r}).write_text(str(os.getpid())); time.sleep(600)"
    code = f"from tools.studies.processes import in_processes; in_processes(exec, [({task!r},)])"
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) as study:
        try:
            while study.poll() is None and not (told.exists() and told.read_text()):
                time.sleep(0.1)
            process = psutil.Process(int(told.read_text()))
            assert process.ppid() == study.pid
        finally:
            study.kill()
    process.wait(timeout=30)
