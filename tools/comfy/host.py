"""Sets up what everything runs in: `python3 -m tools.comfy.host [-m MODULE ... | SCRIPT ...]`.

Without arguments it only sets up. With arguments it then becomes the interpreter that holds ComfyUI's packages, run
with those arguments. Three variables of the environment steer it:
  COMFYUI_PATH  an existing ComfyUI to use in place of the pinned one;
  COMFYUI_TAG   a tag of the official repository to use in place of the pinned one, with packages of its own;
  PYTHON        with COMFYUI_PATH: the interpreter that copy runs with (nothing is installed into it);
                without: the interpreter that `.venv` is made with.
Standard library only, since nothing is installed yet when it starts.
"""

import sys

if sys.version_info < (3, 10):  # noqa: UP036 - before anything that an older Python could not even read
    sys.exit(
        "fovea: Fovea needs Python 3.10 or newer; this one is "
        + sys.version.split()[0]
        + ". Name another: make demo PYTHON=python3.12"
    )

import contextlib
import fcntl
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from ..errors import SetupError
from . import comfyui, environment

ROOT = Path(__file__).resolve().parents[2]
HOST_FOLDER = ROOT / ".host"
VENV = ROOT / ".venv"
# A sample of what a foreign interpreter must bring for ComfyUI, the pack, the tests and the tools.
NEEDED = (
    "torch", "aiohttp", "einops", "kornia", "open_clip", "PIL", "matplotlib", "pytest", "hypothesis", "requests",
    "websocket", "tqdm", "xdist",
)  # fmt: skip


@dataclass(frozen=True)
class Host:
    """A ComfyUI folder and the interpreter to run it with."""

    path: Path
    python: Path


def say(message: str) -> None:
    print(message, flush=True)


def locate() -> Path:
    """The ComfyUI in use: COMFYUI_PATH, else that of COMFYUI_TAG, else the pinned copy. Fetches nothing."""
    named = os.environ.get("COMFYUI_PATH")
    if named:
        return comfyui.validate(Path(named).expanduser().resolve())
    tag = os.environ.get("COMFYUI_TAG")
    pinned = HOST_FOLDER / (f"ComfyUI-{tag}" if tag else "ComfyUI")
    if comfyui.version_of(pinned) is None:
        raise SetupError("ComfyUI is not set up yet. Run `make host`, or set COMFYUI_PATH to a ComfyUI folder.")
    return pinned


@contextlib.contextmanager
def exclusive(folder: Path):
    """Only one set-up at a time: two commands started together must not write the same files."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("fovea: waiting for another set-up to finish")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def prepare() -> Host:
    """Set up whatever is missing and return the host. Does nothing where nothing changed."""
    named, python, tag = (os.environ.get(name) for name in ("COMFYUI_PATH", "PYTHON", "COMFYUI_TAG"))
    venv = HOST_FOLDER / f"venv-{tag}" if tag and not named else VENV
    try:
        HOST_FOLDER.mkdir(exist_ok=True)  # servers work there, wherever ComfyUI itself is
        if named and python:
            return Host(locate(), foreign_python(python))
        if named:
            locate()
        with exclusive(HOST_FOLDER):
            if tag and not named:
                comfyui.obtain_tag(HOST_FOLDER, tag)
            own = environment.create(venv, python or sys.executable, say)
            if not tag and not named:
                comfyui.obtain(HOST_FOLDER, own, say)
            host = Host(locate(), own)
            environment.install(venv, host.path, ROOT, say)
    except OSError as error:
        raise SetupError(comfyui.explain_os(error, Path(error.filename or ROOT))) from None
    return host


def foreign_python(name: str) -> Path:
    """The interpreter a person named for their own ComfyUI: checked, never installed into."""
    found = shutil.which(name)
    if found is None or environment.probe(Path(found), "import sys; assert sys.version_info >= (3, 10)") is None:
        raise SetupError(f"PYTHON={name} is no Python 3.10 or newer. Point it at the interpreter of your ComfyUI.")
    # No resolve(): following the link out of a virtual environment would lose its packages.
    python = Path(found).absolute()
    find = "import importlib.util as u, sys; print(*(m for m in sys.argv[1:] if u.find_spec(m) is None))"
    missing = environment.probe(python, find, *NEEDED)
    if missing:
        files = " ".join(f"-r {file}" for file in environment.OWN_REQUIREMENTS)
        raise SetupError(f"PYTHON={name} lacks {missing.replace(' ', ', ')}. Run: {name} -m pip install {files}")
    return python


def main(arguments: list[str]) -> None:
    host = prepare()
    if not arguments:
        say(f"fovea: ComfyUI {comfyui.version_of(host.path)} in {host.path}, run with {host.python}")
        return
    sys.stdout.flush()
    os.execv(host.python, [str(host.python), *arguments])


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit("fovea: stopped. Run the command again to go on from here.")
