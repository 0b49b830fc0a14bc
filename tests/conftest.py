"""Loads the pack the way ComfyUI does, as package `fovea`, with the real ComfyUI importable beside it.

The pack's folder itself must not be on sys.path: its `nodes` package would hide ComfyUI's module of that name.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers and the servers they start share the cores; torch reads this once, while it is being imported.
    os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
# What hypothesis keeps, it would write into the folder that the tests are started in.
os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", f"{tempfile.gettempdir()}/fovea-hypothesis-{os.getuid()}")

import pytest
import torch
from hypothesis import settings

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
# Tests on the live server, by how their names begin: they stay on one worker, so that it exists once.
LIVE_SERVER = (
    "browser/",
    "server/",
    "docs/test_locales.py::test_the_editor_is_given_them",
    "docs/test_readme.py::test_api_example_runs",
    "experts/test_nodes.py::test_over_the_api",
    "regions/test_painter_format.py::test_the_example_script_queues",
    "tools/test_demo.py",
    "tools/test_sweep.py::test_on_a_live_server",
    "tools/test_sweep.py::test_a_scorer_that_is_not_there",
    "tools/test_sweep.py::test_pictures_are_kept",
)
# Tests that start servers of their own: one after the other, for the sake of memory.
OWN_SERVERS = ("docs/test_readme.py::test_make_", "tools/test_sweep.py::test_a_killed_worker_loses_nothing")
# What takes longest starts first: else one worker would have to do it when the other has nothing left.
GROUPS = (
    LIVE_SERVER,
    OWN_SERVERS,
    ("attention/test_technique_matrix.py",),
    ("experts/test_model_patch.py",),
    ("gradients/test_weights_unharmed.py",),
    ("gradients/test_autograd.py::test_memory_does_not_grow_with_steps",),
)


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


# Of torch's global generator. Tests seed generators of their own with small numbers: what draws from this one should
# get others.
SEED = 60_271
# Examples are drawn the same way every time, and no test depends on how busy the machine is.
settings.register_profile("fovea", deadline=None, derandomize=True, database=None)
settings.load_profile("fovea")

load_package("tools", ROOT / "tools")
import tools.comfy.host as tools_host  # noqa: E402

put_host_first()

import comfy.cli_args  # noqa: E402

# Before any other import of ComfyUI, which looks for a GPU while it is being imported.
comfy.cli_args.args.cpu = not torch.cuda.is_available()
logging.getLogger().setLevel(logging.WARNING)
load_package("fovea", ROOT)


def group_of(nodeid: str) -> int | str:
    """What stays on one worker: the place of one of the GROUPS, else the file, whose tests share fixtures."""
    places = (place for place, names in enumerate(GROUPS) if nodeid.startswith(names))
    return next(places, nodeid.split("::")[0])


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def start(item: pytest.Item) -> int:
        group = group_of(item.nodeid)
        return group if isinstance(group, int) else len(GROUPS)

    items.sort(key=start)
    for item in items:
        if start(item) < len(GROUPS):
            item.add_marker("slow")


@pytest.hookimpl(tryfirst=True)  # before its fixtures are made
def pytest_runtest_setup(item: pytest.Item) -> None:
    if "live" in getattr(item, "fixturenames", ()) and not item.nodeid.startswith(LIVE_SERVER):
        pytest.fail("it uses the live server: name it in LIVE_SERVER of tests/conftest.py")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Workers take one group after the other. `--dist loadgroup` will not do: under pytest 9.2 it loses the groups."""
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> int | str:
            return group_of(nodeid)

    config.option.loadscopereorder = False  # keep the order in which tests were collected
    return Groups(config, log)


@pytest.fixture(autouse=True)
def the_same_numbers_every_time() -> None:
    """What a test draws from torch's global generator does not depend on the tests before it."""
    torch.default_generator.manual_seed(SEED)  # torch.manual_seed would import the compiler, in some versions


@pytest.fixture(scope="session", autouse=True)
def previews_in_a_folder_of_their_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nodes that show a picture write it into ComfyUI's temporary folder: not into that of the copy under test."""
    import folder_paths

    folder_paths.set_temp_directory(str(tmp_path_factory.mktemp("temp")))


@pytest.fixture
def model_folder(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Path], None]:
    """For one test, files of a kind are those of a folder. ComfyUI would keep their names for the tests that follow."""
    import folder_paths

    def use(kind: str, folder: Path) -> None:
        monkeypatch.setitem(folder_paths.folder_names_and_paths, kind, ([str(folder)], set()))
        monkeypatch.setattr(folder_paths, "filename_list_cache", {})

    return use


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    """The real server with the pack as users install it, one for the whole session."""
    from tools.comfy import frontend
    from tools.comfy.server import running
    from tools.release import archive

    base, pack = tmp_path_factory.mktemp("comfyui"), archive.copy_to(tmp_path_factory.mktemp("pack") / "fovea")
    with running(base, base / "server.log", extra=frontend.arguments(), pack=pack) as server:
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
