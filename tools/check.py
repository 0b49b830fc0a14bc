"""`make check`: linter, type checker, import rules and workflow files. Starts no server."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from .comfy.host import ROOT


def run(name: str, *command: str, **environment: str) -> bool:
    print(f"-- {name}", flush=True)
    environment = {**os.environ, **environment}
    return not subprocess.run([sys.executable, "-m", *command], cwd=ROOT, check=False, env=environment).returncode


def types() -> bool:
    # The pack's folder may have any name; the type checker needs it to be a package called fovea, as ComfyUI's link is.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "fovea").symlink_to(ROOT, target_is_directory=True)
        # No cache: one written before a module moved hides what still asks for its old place.
        command = ("mypy", "--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", os.devnull, "-p", "fovea")
        return run("types (mypy)", *command, MYPYPATH=folder)


def check() -> int:
    tests = ("pytest", "-c", "tests/pytest.ini", "--rootdir", "tests", "-m", "static", "tests")
    passed = [
        run("lint (ruff)", "ruff", "check", "--quiet", "."),
        types(),
        run("import rules, workflow files", *tests),
    ]
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(check())
