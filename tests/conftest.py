"""Loads the pack the way ComfyUI does, as package `fovea`, with the real host importable beside it.

The pack's folder itself must not be on sys.path: its `nodes` package would hide the host's module of that name.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent


def load_package(name: str, folder: Path) -> ModuleType:
    """Import `folder` as package `name`, whatever the folder is called."""
    entry, inside = folder / "__init__.py", [str(folder)]
    spec = importlib.util.spec_from_file_location(name, entry, submodule_search_locations=inside)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def put_host_first() -> None:
    own = {str(ROOT), ""}
    sys.path[:] = [str(tools_host.locate()), *(entry for entry in sys.path if entry not in own)]


# Examples are drawn the same way every time, and no test depends on how busy the machine is.
settings.register_profile("fovea", deadline=None, derandomize=True, database=None)
settings.load_profile("fovea")

load_package("tools", ROOT / "tools")
import tools.comfy.host as tools_host  # noqa: E402

put_host_first()

import comfy.cli_args  # noqa: E402

# Before any other import of the host, which looks for a GPU while it is being imported.
comfy.cli_args.args.cpu = not torch.cuda.is_available()
logging.getLogger().setLevel(logging.WARNING)
load_package("fovea", ROOT)


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    """The real server with the pack as users install it, one for the whole session."""
    from tools.comfy.server import running
    from tools.release import archive

    base = tmp_path_factory.mktemp("comfyui")
    with running(base, base / "server.log", pack=archive.copy_to(tmp_path_factory.mktemp("pack") / "fovea")) as server:
        yield server


@pytest.fixture
def client(live):
    """A fresh API client for the live server."""
    from tools.comfy.api import Client

    return Client(live.address)


@pytest.fixture(scope="session")
def object_info(live) -> dict:
    """What the live server tells about every node."""
    from tools.comfy.api import Client

    return Client(live.address).json("/object_info")


@pytest.fixture(scope="session")
def demo_model() -> Path:
    """The folder of the shipped model. It is part of the repository: its absence is a failure, not a reason to skip."""
    folder = ROOT / "demo"
    assert list(folder.glob("*.safetensors")), "the demo model (demo/*.safetensors) is missing"
    return folder
