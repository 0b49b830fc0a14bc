"""The virtual environment: torch, ComfyUI's requirements, ours. Standard library only.

A stamp inside it holds the hash of everything it was made from, so a second run does nothing.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from ..errors import SetupError
from .comfyui import explain_os, explain_pip

# One set that works on CPU and GPU alike, with every wheel on the package index.
TORCH = ("torch==2.11.0", "torchvision==0.26.0", "torchaudio==2.11.0")
OWN_REQUIREMENTS = ("requirements.txt", "requirements-test.txt", "requirements-tools.txt")
NEEDED_GB = 9
STAMP = "fovea-stamp"


def python_of(venv: Path) -> Path:
    return venv / "bin" / "python"


def probe(python: Path, code: str, *arguments: str) -> str | None:
    """What `python` prints for `code`, None where it cannot run it."""
    try:
        result = subprocess.run([str(python), "-c", code, *arguments], capture_output=True, text=True, check=False)
    except OSError:
        return None
    return result.stdout.strip() if result.returncode == 0 else None


def create(venv: Path, base_python: str = sys.executable, say=print) -> Path:
    """The interpreter of `venv`, made with `base_python` where it is missing, broken or too old."""
    python = python_of(venv)
    # What was interrupted while it was made may have half of pip.
    sound = "import sys; from pip._internal.cli.main import main; assert sys.version_info >= (3, 10)"
    if probe(python, sound) is not None:
        return python
    base = shutil.which(base_python)
    version = probe(Path(base), "import platform; print(platform.python_version())") if base else None
    if base is None or version is None:
        raise SetupError(f"PYTHON={base_python} does not run. Set PYTHON to a Python 3.10 or newer.")
    if tuple(map(int, version.split(".")[:2])) < (3, 10):
        raise SetupError(f"{base_python} is Python {version}; Fovea needs 3.10 or newer. Set PYTHON to such a one.")
    say(f"fovea: making {venv.name} with Python {version}")
    check_space(venv.parent)
    result = subprocess.run([base, "-m", "venv", "--clear", str(venv)], capture_output=True, text=True, check=False)
    if probe(python, sound) is None:
        lines = (result.stdout + result.stderr).strip().splitlines() or ["no reason given"]
        cure = "Install your system's python3-venv package." if "ensurepip" in " ".join(lines) else lines[-1]
        raise SetupError(f"cannot make a virtual environment in {venv}. {cure}")
    return python


def fingerprint(python: Path, requirements: list[Path]) -> str:
    """Hash of what an environment is made from: interpreter version, torch pins, requirement files."""
    digest = hashlib.sha256((probe(python, "import sys; print(sys.version)") or "").encode())
    digest.update(" ".join(TORCH).encode())
    for path in requirements:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def install(venv: Path, host: Path, root: Path, say=print) -> bool:
    """Install torch, ComfyUI's requirements and ours into `venv`. Returns False where nothing had changed."""
    python = python_of(venv)
    requirements = [host / "requirements.txt", *(root / name for name in OWN_REQUIREMENTS)]
    stamp, wanted = venv / STAMP, fingerprint(python, requirements)
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return False
    stamp.unlink(missing_ok=True)
    if probe(python, "import torch") is None:
        check_space(venv.parent)
    say("fovea: installing " + ", ".join(TORCH))
    pip_install(python, list(TORCH))
    say("fovea: installing the requirements of ComfyUI and of Fovea")
    # As constraints the torch pins hold: nothing that comes later can replace the set just installed.
    constraints = venv / "constraints.txt"
    try:
        constraints.write_text("\n".join(TORCH) + "\n", encoding="utf-8")
        arguments = [argument for path in requirements for argument in ("--requirement", str(path))]
        pip_install(python, ["--constraint", str(constraints), *arguments])
        stamp.write_text(wanted, encoding="utf-8")
    except OSError as error:
        raise SetupError(explain_os(error, stamp)) from None
    return True


def pip_install(python: Path, arguments: list[str]) -> None:
    """Run pip with its own progress bars on a terminal, and quietly in a log."""
    quiet = [] if sys.stdout.isatty() else ["--quiet", "--progress-bar", "off"]
    command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", *quiet, *arguments]
    result = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    if result.returncode != 0:
        raise SetupError(explain_pip(result.stderr, "could not install the requirements"))


def check_space(folder: Path, needed_gb: float = NEEDED_GB) -> None:
    free = shutil.disk_usage(folder).free / 1e9
    if free < needed_gb:
        raise SetupError(
            f"the environment needs about {needed_gb} GB and the disk of {folder} has {free:.1f} GB free. "
            "Free some space and run the command again."
        )
