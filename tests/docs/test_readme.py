"""What README.md and docs/ tell is true: commands, links, nodes, messages and words exist; their programs run."""

from __future__ import annotations

import ast
import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock, Timeout

import fovea
from tools.comfy import environment, graph, host, server
from tools.shapesworld import world
from tools.sweep import evaluate

static = pytest.mark.static
live_server = pytest.mark.server

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [
    ROOT / name
    for name in ("README.md", "CONTRIBUTING.md", "docs/architecture.md", "docs/gallery.md", "docs/upgrading.md")
]
PAGES += sorted((ROOT / "docs" / "techniques").glob("*.md"))
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
HOLE = "\0"  # stands for a placeholder of a message


def section(title: str) -> str:
    """The text below a heading of the README, up to the next one of its level."""
    found = re.search(rf"^## {re.escape(title)}[^\n]*\n(.*?)(?=^## |\Z)", README, re.MULTILINE | re.DOTALL)
    assert found, f"the README has no section {title!r}"
    return found.group(1)


def code_blocks(text: str, language: str = "") -> list[str]:
    """Fenced blocks of a page whose fence names this language."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [body for named, body in blocks if named == language]


def code_of(text: str) -> str:
    """Everything written as code: blocks, and what stands between backticks outside of them."""
    blocks = re.findall(r"^```.*?^```", text, re.MULTILINE | re.DOTALL)
    rest = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return "\n".join([*blocks, *re.findall(r"`([^`\n]+)`", rest)])


def broken_links(page: Path, text: str) -> list[str]:
    """Links of a page to files of the repository that are not there."""
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    local = [target.split("#")[0] for target in targets if not re.match(r"[a-z]+:|#", target)]
    return [target for target in local if not (page.parent / target).exists()]


def make_targets(text: str) -> set[str]:
    return set(re.findall(r"\bmake ([a-z][a-z-]*)", code_of(text)))


def messages(source: str) -> list[str]:
    """Every string of a program; what is filled in at run time is a HOLE."""
    tree = ast.parse(source)
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            found.append("".join(str(p.value) if isinstance(p, ast.Constant) else HOLE for p in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            found.append(re.sub(r"%[sd]", HOLE, node.value))
    return found


def is_told(message: str, told: list[str]) -> bool:
    """Whether the source holds this message; each "..." in it stands for exactly what is filled in there."""
    parts = [re.escape(part) for part in message.split("...")]
    pattern = rf"[^{HOLE}]*{HOLE}[^{HOLE}]*".join(parts)
    return any(re.search(pattern, text) for text in told)


def schemas() -> dict[str, Any]:
    """Node id -> schema of every node that the pack registers."""
    nodes = asyncio.run(asyncio.run(fovea.comfy_entrypoint()).get_node_list())
    return {node.define_schema().node_id: node.define_schema() for node in nodes}


def source_messages() -> list[str]:
    folders = ("nodes", "attention", "guidance", "models", "tools")
    files = [path for name in folders for path in (ROOT / name).rglob("*.py")]
    return [text for path in files for text in messages(path.read_text(encoding="utf-8"))]


@static
@every_page
def test_commands_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert make_targets(text) <= targets
    assert page != ROOT / "README.md" or {"demo", "serve", "test"} <= make_targets(text)


@static
@every_page
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert not broken_links(page, text)


@static
def test_a_picture_comes_first() -> None:
    first = next(line for line in README.splitlines()[1:] if line.strip())
    assert re.fullmatch(r"!\[[^]]{20,}\]\(docs/images/\w+\.jpg\)", first)


@static
def test_nodes_are_those_of_the_pack() -> None:
    """Every node is in the table with its id, its name and its help page, and no other id is mentioned."""
    known = schemas()
    assert set(re.findall(r"\bFovea[A-Z]\w+", README)) == set(known)
    for node_id, schema in known.items():
        (row,) = (line for line in section("Nodes").splitlines() if f"`{node_id}`" in line)
        assert schema.display_name in row and f"](web/docs/{node_id}.md)" in row


@static
def test_settings_are_those_of_the_node() -> None:
    """A widget's name followed by a value ("`scale` 0.75", "`mask_mode` global") is one that the node accepts."""
    inputs = {socket.id: socket for socket in schemas()["FoveaSelfAttentionGuidance"].inputs}
    told = re.findall(r"`([a-z_]+)`(?: to)? (-?[\d.]*\d|[a-z]+)", README)
    settings = [(inputs[name], value) for name, value in told if name in inputs]
    assert len(settings) >= 10
    for socket, value in settings:
        if hasattr(socket, "options"):
            assert value in socket.options, f"{socket.id} {value}"
        elif re.match(r"-?\d", value):
            assert socket.min <= float(value) <= socket.max, f"{socket.id} {value}"
    cells = re.findall(r"^\|([^|]+)\|([^|]+)\|", section("Self-Attention Guidance with your model"), re.MULTILINE)
    named = {name for row in cells for cell in row for name in re.findall(r"`([a-z_]+)`", cell)}
    assert {"scale", "blur_sigma", "mask_mode"} <= named <= set(inputs)


@static
def test_messages_are_in_the_source() -> None:
    rows = re.findall(r"^\| `([^`]+)` \|", section("Troubleshooting"), re.MULTILINE)
    told = source_messages()
    assert len(rows) >= 10 and not [message for message in rows if not is_told(message, told)]


@static
def test_flags_are_known_to_the_host_or_to_our_tool() -> None:
    options = (host.locate() / "comfy" / "cli_args.py").read_text(encoding="utf-8")
    ours = {option for action in evaluate.parser()._actions for option in action.option_strings}
    tool = section("Compare settings on your own model")
    elsewhere = set(re.findall(r"`(--[a-z0-9-]+)`", README.replace(tool, "")))
    assert elsewhere and not [flag for flag in elsewhere if f'"{flag}"' not in options]
    assert {"--scorer", "--blind"} <= set(re.findall(r"--[a-z0-9-]+", tool)) <= ours


@static
def test_figures_agree_with_the_source() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    repository = re.search(r'^Repository = "([^"]+)"', project, re.MULTILINE).group(1)
    assert set(re.findall(r"git clone (\S+)", README)) == {repository}
    assert f"about {environment.NEEDED_GB} GB" in README
    assert re.search(r"requires-comfyui = \">=([\d.]+)\"", project).group(1) in section("Install into your ComfyUI")


@static
def test_the_grammar_is_the_worlds() -> None:
    (grammar,) = (block for block in code_blocks(README) if block.startswith("caption"))
    rules = dict(re.findall(r"^(\w+) += (.+)$", grammar, re.MULTILINE))
    words = {name: tuple(rules[name].split(" | ")) for name in ("texture", "color", "shape", "background", "style")}
    assert words == {
        "texture": world.TEXTURES,
        "color": world.COLOUR_NAMES,
        "shape": world.SHAPES,
        "background": world.BACKGROUND_NAMES,
        "style": world.STYLES,
    }
    known = {name: "(" + "|".join(options) + ")" for name, options in words.items()}
    thing = f"a ({known['texture']} )?{known['color']} {known['shape']}"
    caption = (
        f"(a picture of )?({thing}(, {thing})* and )?{thing}( on a {known['background']} background)?"
        f"(, {known['style']} style)?"
    )
    examples = re.findall(r"^- `(a [^`]+)`", section("The model in the box"), re.MULTILINE)
    assert len(examples) >= 2 and all(re.fullmatch(caption, example) for example in examples)
    for index in range(50):  # and the grammar covers what the world says
        scene = world.sample_scene(np.random.default_rng(index))
        assert re.fullmatch(caption, world.caption(scene, np.random.default_rng(index)))
    for path in graph.demo_graphs(ROOT / "demo").values():
        nodes = graph.load(path)
        texts = [
            value
            for node in nodes.values()
            for name, value in node["inputs"].items()
            if name in ("text", "value") and isinstance(value, str) and value.startswith("a ")
        ]
        if "painter" in nodes:
            texts.append(json.loads(nodes["painter"]["inputs"]["painting"])["caption"])
        assert all(re.fullmatch(caption, text) for text in texts), path.name
        assert texts or "unconditional" in path.name


@static
@every_page
def test_text_is_plain(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text.isascii()
    long = [line for line in text.splitlines() if len(line) > 120 and not line.startswith("|")]
    assert not long


@static
def test_the_checks_bite() -> None:
    """Each check finds the mistake that it is for: otherwise the tests above could not fail."""
    assert make_targets("run `make nothing` now") == {"nothing"} and make_targets("make sure of it") == set()
    assert broken_links(ROOT / "README.md", "[a](LICENSE) [b](no/such.md#x) [c](https://x.y) [d](#e)") == ["no/such.md"]
    told = source_messages()
    assert is_told("port ... is taken or not allowed.", told)
    assert not is_told("port ... is occupied.", told)
    assert not is_told("port 8188 is taken or not allowed.", told)  # filled in at run time
    assert messages('x = f"a {b} c" "d"\ny = "e %s"') == [f"a {HOLE} cd", f"e {HOLE}"]


# The README's own program and commands, run for real.


@live_server
def test_api_example_runs(live: Any, demo_model: Path, tmp_path: Path) -> None:
    (program,) = code_blocks(README, "python")
    assert program.count("http://127.0.0.1:8188") == 1
    script = tmp_path / "example.py"
    script.write_text(program.replace("http://127.0.0.1:8188", live.address), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "no_proxy": "127.0.0.1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    status, *lines = done.stdout.splitlines()
    assert status == "success"
    assert {line.split()[0] for line in lines} == {"save_without", "save_with"} and len(lines) == 8
    for line in lines:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(line.split()[1], timeout=60) as reply:
            assert reply.headers["Content-Type"] == "image/png" and len(reply.read()) > 1000


def command_line(line: str) -> list[str]:
    """A command of the README, which must be there word for word."""
    assert line in code_of(README)
    return line.split()


def clean_environment(**changes: str) -> dict[str, str]:
    """Without what an outer make leaves behind for an inner one."""
    return {k: v for k, v in os.environ.items() if k not in {"MAKEFLAGS", "MFLAGS", "MAKELEVEL"}} | changes


@live_server
def test_make_serve(tmp_path: Path) -> None:
    """`make serve` tells its address, serves the nodes, and Ctrl-C ends it and its server."""
    base = host.HOST_FOLDER / "base" / "user"
    base.mkdir(parents=True, exist_ok=True)
    try:
        FileLock(base / "comfyui.db.lock").acquire(timeout=0).lock.release()
    except Timeout:
        pytest.skip("`make serve` is running already")
    port = str(server.free_port())
    output = tmp_path / "output.txt"
    with output.open("wb") as sink:
        process = subprocess.Popen(
            command_line("make serve"),
            cwd=ROOT,
            env=clean_environment(PORT=port),
            stdout=sink,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(1200):
            if process.poll() is not None or "Fovea is ready" in output.read_text(encoding="utf-8"):
                break
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.5)
        said = output.read_text(encoding="utf-8")
        assert f"Fovea is ready: {address}" in said, said
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        assert "FoveaLoadDemo" in json.load(opener.open(f"{address}/object_info/FoveaLoadDemo", timeout=60))
    finally:
        os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(60)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert "Traceback" not in output.read_text(encoding="utf-8")
    assert not server.answers(address)


@live_server
@pytest.mark.timeout(3600)
def test_make_demo(demo_model: Path) -> None:
    """`make demo` leaves what the README says; its own server runs beside the tests' one."""
    folder = ROOT / "output" / "demo"
    (folder / "report.json").unlink(missing_ok=True)
    done = subprocess.run(
        command_line("make demo"),
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=3000,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((folder / "report.json").read_text(encoding="utf-8"))["graphs"]
    assert {row["graph"] for row in rows} == set(graph.demo_graphs(ROOT / "demo"))
    assert all(row["status"] == "success" and row["images"] for row in rows)
    assert (folder / "contact_sheet.png").stat().st_size > 10_000
