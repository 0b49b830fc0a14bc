"""Runs the real ComfyUI server as a child process and stops it again, whatever happens."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import SetupError
from .host import HOST_FOLDER, ROOT, locate
from .scratch import alone_in, scratch_folder

FOLDERS = ("custom_nodes", "input", "models", "output", "temp", "user")
START_SECONDS = 600
STOP_SECONDS = 15
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None  # loaded here: not between fork and exec


@dataclass(frozen=True)
class Server:
    """A running server: where it listens, the folder it works in, what it wrote, its process."""

    address: str
    base: Path
    log: Path
    process: subprocess.Popen

    def log_text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def check_port(port: int) -> int:
    """Return `port` if this machine's loopback still has it free, else raise a SetupError."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError):
            raise SetupError(f"port {port} is taken or not allowed. Choose another: make serve PORT=8288") from None
    return port


def make_base(base: Path, pack: Path = ROOT) -> Path:
    """A private ComfyUI base directory with the pack linked in, so that no other pack, model or output is touched."""
    for name in FOLDERS:
        (base / name).mkdir(parents=True, exist_ok=True)
    link = base / "custom_nodes" / "fovea"
    if not link.is_symlink() or link.resolve() != pack.resolve():
        link.unlink(missing_ok=True)
        link.symlink_to(pack, target_is_directory=True)
    return base


def has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def command(base: Path, port: int, extra: Sequence[str] = ()) -> list[str]:
    device = [] if has_cuda() else ["--cpu"]
    # A database beside the base directory: the default one inside ComfyUI would be locked by a second server.
    return [
        sys.executable, "main.py", *device, "--listen", "127.0.0.1", "--port", str(port), "--base-directory", str(base),
        "--database-url", f"sqlite:///{base / 'user' / 'comfyui.db'}", "--disable-api-nodes", "--disable-auto-launch",
        *extra,
    ]  # fmt: skip


def answers(address: str) -> bool:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy reaches this machine's own ports
    try:
        with direct.open(f"{address}/system_stats", timeout=10) as reply:
            return reply.status == 200
    except (urllib.error.URLError, OSError):
        return False


def wait_until_up(server: Server, seconds: float = START_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not answers(server.address):
        if server.process.poll() is not None:
            last = (server.log_text().strip().splitlines() or ["it wrote nothing"])[-1]
            raise SetupError(
                f"ComfyUI stopped while starting (exit code {server.process.returncode}): {last} "
                f"(whole log: {server.log})"
            )
        if time.monotonic() > deadline:
            raise SetupError(f"ComfyUI did not answer within {seconds:.0f} s. Its log: {server.log}")
        time.sleep(0.3)


def stop(process: subprocess.Popen, seconds: float = STOP_SECONDS) -> None:
    """End the server's whole process group: politely, then by force."""
    for number, patience in ((signal.SIGINT, seconds), (signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
            break
    # Whatever the server itself had started dies with it.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def die_with_parent() -> None:
    """Have Linux end this child when whoever started it is killed: nobody could stop the server then."""
    assert LIBC is not None
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


@contextlib.contextmanager
def termination_as_exit() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into SystemExit, so that `finally` blocks run; only the main thread may set handlers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number, frame):
        raise SystemExit(128 + number)

    heeded = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is not signal.SIG_IGN]
    previous = {number: signal.signal(number, leave) for number in heeded}  # nohup has SIGHUP ignored
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def running(
    base: Path, log: Path, port: int | None = None, extra: Sequence[str] = (), pack: Path = ROOT
) -> Iterator[Server]:
    """Start the server in `base`, wait until it answers, and stop it at the end, also on error, Ctrl-C and SIGTERM.

    `base`, which it has to itself, and `log` are made where missing; `port` None takes a free one; `extra` goes to
    ComfyUI's command line.
    """
    host = locate()
    port = free_port() if port is None else check_port(port)
    log.parent.mkdir(parents=True, exist_ok=True)
    with termination_as_exit(), alone_in(base), log.open("wb") as sink:
        make_base(base.resolve(), pack)
        # Its own process group: a Ctrl-C meant for us reaches it only through stop().
        process = subprocess.Popen(
            command(base.resolve(), port, extra),
            cwd=host,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=die_with_parent if LIBC else None,
        )
        try:
            server = Server(f"http://127.0.0.1:{port}", base.resolve(), log, process)
            wait_until_up(server)
            yield server
        finally:
            stop(process)


@contextlib.contextmanager
def temporary(name: str, log: Path | None = None) -> Iterator[Server]:
    """A server as `running` has it, in a base directory that goes with it. log: HOST_FOLDER/<name>.log if None."""
    with scratch_folder(name, HOST_FOLDER) as base, running(base, log or HOST_FOLDER / f"{name}.log") as server:
        yield server
