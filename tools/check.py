"""`make check`: linter, type checker, import rules and workflow files. Starts no server."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from .comfy.host import ROOT


def run(name: str, command: list[str], environment: dict[str, str] | None = None) -> bool:
    print(f"-- {name}", flush=True)
    return (
        subprocess.run(
            [sys.executable, "-m", *command], cwd=ROOT, check=False, env={**os.environ, **(environment or {})}
        ).returncode
        == 0
    )


def types() -> bool:
    # The pack's folder may have any name; the type checker needs it to be a package called fovea, as ComfyUI's link is.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "fovea").symlink_to(ROOT, target_is_directory=True)
        return run(
            "types (mypy)", ["mypy", "--config-file", str(ROOT / "pyproject.toml"), "-p", "fovea"], {"MYPYPATH": folder}
        )


def check() -> int:
    passed = [
        run("lint (ruff)", ["ruff", "check", "--quiet", "."]),
        types(),
        run(
            "import rules, workflow files",
            ["pytest", "-c", "tests/pytest.ini", "--rootdir", "tests", "-m", "static", "tests"],
        ),
    ]
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(check())
