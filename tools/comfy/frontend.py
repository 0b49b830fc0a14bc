"""Another version of the graph editor than ComfyUI pins, for the browser tests: FRONTEND=newest make browser-test."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from ..errors import SetupError
from .host import HOST_FOLDER

PACKAGE, NEWEST = "comfyui-frontend-package", "newest"


def arguments() -> list[str]:
    """For ComfyUI's command line: the editor that the environment asks for, none where it does not."""
    version = os.environ.get("FRONTEND", "")
    return ["--front-end-root", str(obtain(version))] if version else []


def obtain(version: str) -> Path:
    """The folder of an editor's files, fetched once from the package registry. The newest is looked up every time."""
    folder = HOST_FOLDER / "frontends" / version
    static = folder / "comfyui_frontend_package" / "static"
    if static.is_dir() and version != NEWEST:
        return static
    for known in folder.glob("*.dist-info"):  # pip leaves that of an older version beside the new one's
        shutil.rmtree(known)
    wanted = PACKAGE if version == NEWEST else f"{PACKAGE}=={version}"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade", "--target", str(folder)]
    done = subprocess.run([*command, wanted], capture_output=True, text=True, check=False)
    if done.returncode or not static.is_dir():
        last = done.stderr.strip().splitlines()[-1:]
        raise SetupError(f"The editor's version {version} could not be fetched: {' '.join(last)}")
    found = next(folder.glob("comfyui_frontend_package-*.dist-info"), folder).name
    print(f"fovea: the editor is {found.removesuffix('.dist-info')}", flush=True)
    return static
