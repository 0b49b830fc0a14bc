"""What users install: the files of the repository less those that .comfyignore names, as the registry packs them.

`python -m tools.release.archive FOLDER` copies them into FOLDER, a new one. Standard library only.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
from pathlib import Path

from ..comfy.host import ROOT
from ..errors import SetupError


def listed(*more: str) -> set[str]:
    """Files that git knows: the registry's program packs no others. Raises SetupError without git."""
    try:
        done = subprocess.run(["git", "ls-files", "-c", *more], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as why:
        raise SetupError(f"git cannot list the pack's files: {why}. Install git and use a clone.") from None
    return set(done.stdout.splitlines())


def published() -> list[str]:
    """Paths of the files in the archive, below the repository's root. .comfyignore has the rules of .gitignore."""
    names = listed() - listed("--ignored", "--exclude-from=.comfyignore")
    return sorted(name for name in names if (ROOT / name).is_file())


def copy_to(folder: Path) -> Path:
    """Put the files into `folder`, as an installation has them. -> folder. Raises SetupError where it holds others."""
    if folder.exists() and any(folder.iterdir()):
        raise SetupError(f"{folder} is not empty: its files would be taken for the pack's. Remove it, or name another.")
    for name in published():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = copy_to(parser.parse_args().folder)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{folder}: {size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
