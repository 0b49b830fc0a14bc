"""What users install: the files of the repository less those that .comfyignore names, as the registry packs them.

`python -m tools.archive FOLDER` copies them into FOLDER. Standard library only.
"""

from __future__ import annotations

import argparse
import fnmatch
import shutil
import subprocess
from pathlib import Path

from .errors import SetupError
from .host import ROOT


def left_out(name: str, patterns: list[str]) -> bool:
    """Whether a file, by its path with slashes, is one of the patterns or lies in a folder that is ("docs/")."""
    return any(name.startswith(one) if one.endswith("/") else fnmatch.fnmatch(name, one) for one in patterns)


def published() -> list[str]:
    """Paths of the files in the archive, below the repository's root. Raises SetupError without git."""
    lines = (ROOT / ".comfyignore").read_text(encoding="utf-8").splitlines()
    patterns = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    try:
        command = ["git", "ls-files", "-co", "--exclude-standard"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as why:
        raise SetupError(f"git cannot list the pack's files: {why}. Install git and use a clone.") from None
    names = sorted(done.stdout.splitlines())
    return [name for name in names if not left_out(name, patterns) and (ROOT / name).is_file()]


def copy_to(folder: Path) -> Path:
    """Put the files into `folder`, as an installation has them. -> folder"""
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
