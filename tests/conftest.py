"""Loads the pack the way ComfyUI does, as package `fovea`, with the real host importable beside it.

The pack's folder itself must not be on sys.path: its `nodes` package would hide the host's module of that name.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers and the servers they start share the cores; torch reads this once, while it is being imported.
    os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")

import pytest
import torch
from hypothesis import settings

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
LIVE_SERVER = "live_server"  # the group of tests that share the session's server
OWN_SERVER = "own_server"  # the group of tests that start servers of their own
# Groups that take longest, in the order in which they start: a long one that starts last would keep one worker busy
# while the other has nothing left to do. `make test-fast` leaves them out.
LONG = (LIVE_SERVER, OWN_SERVER, "attention/test_technique_matrix")


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
import tools.host as tools_host  # noqa: E402

put_host_first()

import comfy.cli_args  # noqa: E402

# Before any other import of the host, which looks for a GPU while it is being imported.
comfy.cli_args.args.cpu = not torch.cuda.is_available()
logging.getLogger().setLevel(logging.WARNING)
load_package("fovea", ROOT)


def group_of(item: pytest.Item) -> str:
    """What stays on one worker: tests on the live server share that, those of one file share its fixtures."""
    if "live" in getattr(item, "fixturenames", ()):
        return LIVE_SERVER
    if item.get_closest_marker("server"):
        return OWN_SERVER
    return item.path.relative_to(TESTS).with_suffix("").as_posix()


@pytest.hookimpl(tryfirst=True)  # before markers are selected, and before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    start = {group: place for place, group in enumerate(LONG)}
    items.sort(key=lambda item: start.get(group_of(item), len(LONG)))
    for item in items:
        item.add_marker(pytest.mark.xdist_group(group_of(item)))
        if group_of(item) in LONG:
            item.add_marker("slow")


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    """The real server with the pack as users install it, one for the whole session."""
    from tools import archive
    from tools.server import running

    base = tmp_path_factory.mktemp("comfyui")
    with running(base, base / "server.log", pack=archive.copy_to(tmp_path_factory.mktemp("pack") / "fovea")) as server:
        yield server


@pytest.fixture
def client(live):
    """A fresh API client for the live server."""
    from tools.api import Client

    return Client(live.address)


@pytest.fixture(scope="session")
def object_info(live) -> dict:
    """What the live server tells about every node."""
    from tools.api import Client

    return Client(live.address).json("/object_info")


@pytest.fixture(scope="session")
def demo_model() -> Path:
    """The folder of the shipped model. It is part of the repository: its absence is a failure, not a reason to skip."""
    folder = ROOT / "demo"
    assert list(folder.glob("*.safetensors")), "the demo model (demo/*.safetensors) is missing"
    return folder
