"""The browser that the browser tests drive: Debian's Chromium, installed where that is possible. Standard library only.

`python -m tools.browser` says where it is, or why there is none.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import Any

from .errors import SetupError

NAMES = ("chromium", "chromium-browser", "google-chrome")
PACKAGES = ("chromium", "fonts-liberation")


def run_on_change(page: Any, empty: tuple[int, int]) -> None:
    """Choose Run (On Change) beside Run. empty: a point where nothing is; the menu stays open until it is clicked."""
    page.locator("[data-testid=queue-mode-menu-trigger]").click()
    choice = page.locator("[role^=menuitem]").filter(has_text="Run (On Change)")  # a menuitemradio in later editors
    choice.click()
    page.mouse.click(*empty)
    choice.wait_for(state="hidden")


def find() -> str | None:
    return next(filter(None, map(shutil.which, NAMES)), None)


def ensure() -> str:
    """The browser's path; installs it if there is none. Raises SetupError."""
    found = find()
    if found:
        return found
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        raise SetupError("The browser tests need Chromium or Google Chrome: install one with your system's packages "
                         "(as root on Debian: apt-get install chromium; Ubuntu has no such package).")  # fmt: skip
    print("fovea: installing Chromium for the browser tests", flush=True)
    for command in (["update"], ["install", "--yes", "--no-install-recommends", *PACKAGES]):
        done = subprocess.run(["apt-get", *command], env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
                              capture_output=True, text=True, check=False)  # fmt: skip
        if done.returncode:
            last = (done.stderr or done.stdout).strip().splitlines()[-1:]
            raise SetupError(f"Chromium could not be installed, so the browser tests cannot run: {' '.join(last)}")
    found = find()
    if found is None:
        raise SetupError("Chromium was installed, but is not on the PATH.")
    return found


if __name__ == "__main__":
    print(ensure())
