"""Folders that nobody else works in, and scratch folders that go even where whoever made them was killed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ..errors import SetupError

MACHINE = re.sub(r"\W", "_", platform.node())  # several may share a folder


@contextlib.contextmanager
def scratch_folder(name: str, parent: Path) -> Iterator[Path]:
    """An empty folder inside `parent` for as long as it is needed, so that what becomes complete in it takes its final
    name there by one rename; those of earlier processes that were killed go first."""
    parent.mkdir(parents=True, exist_ok=True)
    for left in parent.glob(f"{name}-*-{MACHINE}-*"):
        process = re.fullmatch(rf"{re.escape(name)}-(\d+)-{MACHINE}-.*", left.name)
        if process and not _runs(int(process[1])):
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"{name}-{os.getpid()}-{MACHINE}-", dir=parent) as folder:
        yield Path(folder)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Nobody else works in a folder meanwhile. Raises SetupError."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SetupError(f"another command works in {folder}. Stop it first.") from None
        except OSError:  # a network folder that knows no locks: it is used without
            pass
        yield
