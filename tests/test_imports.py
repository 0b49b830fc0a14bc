"""Who may import whom: nodes -> guidance, attention, models; guidance -> attention; nobody tools; no circles."""

from __future__ import annotations

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

pytestmark = pytest.mark.static

ROOT = Path(__file__).resolve().parent.parent
MAY_IMPORT = {
    "nodes": {"nodes", "guidance", "attention", "models"},
    "guidance": {"guidance", "attention"},
    "attention": {"attention"},
    "models": {"models"},
}
COMFYUI = {"comfy", "comfy_api", "comfy_extras", "comfy_execution", "folder_paths", "node_helpers", "latent_preview",
           "execution", "server"}  # fmt: skip
# The border: everything else works on plain tensors.
MAY_IMPORT_COMFYUI = re.compile(
    r"nodes/|models/|attention/hooks\.py|attention/families/|guidance/gradients/|guidance/starting_noise\.py"
    r"|guidance/\w+/(model_patch|\w+_guider|\w+_sampler|clip_guidance|guided_model|probe|matching)\.py"
)
# A technique imports no other one, with these exceptions.
MAY_IMPORT_TECHNIQUE = {
    "guidance.region_start": {"guidance.regions": "it begins with the regions that prompts carry"},
    "guidance.region_lora": {"guidance.regions": "it acts in regions, and on the words that prompts carry with them"},
    "guidance.attention_map": {"guidance.sag": "it shows the mask that SAG would make"},
}


def pack_files() -> list[Path]:
    return sorted(path for layer in MAY_IMPORT for path in (ROOT / layer).rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def imported(path: Path, source: str | None = None) -> tuple[set[str], set[str]]:
    """(modules of the pack, modules from elsewhere) that a file imports, function bodies included."""
    tree = ast.parse(source if source is not None else path.read_text(encoding="utf-8"))
    inside: set[str] = set()
    outside: set[str] = set()
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            outside |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            outside.add(node.module or "")
        elif isinstance(node, ast.ImportFrom):
            anchor = package[: len(package) - node.level + 1]
            base = ".".join([*anchor, *([node.module] if node.module else [])])
            for alias in node.names:
                name = f"{base}.{alias.name}".strip(".")
                inside.add(name if is_module(name) else base)
    return inside, outside


@pytest.mark.parametrize("path", pack_files(), ids=module_name)
def test_layers(path: Path) -> None:
    layer = path.relative_to(ROOT).parts[0]
    inside, outside = imported(path)
    foreign = {name for name in inside if name.split(".")[0] not in MAY_IMPORT[layer]}
    assert not foreign, f"{layer} must not import {sorted(foreign)}"
    ours = {"fovea", "tools", "tests", *MAY_IMPORT} - {"nodes"}  # which is ComfyUI's module of that name
    absolute = {name for name in outside if name.split(".")[0] in ours}
    assert not absolute, f"use relative imports inside the pack, and never import tools: {sorted(absolute)}"


@pytest.mark.parametrize("path", pack_files(), ids=module_name)
def test_only_the_border_imports_comfyui(path: Path) -> None:
    found = {name for name in imported(path)[1] if name.split(".")[0] in COMFYUI}
    relative = path.relative_to(ROOT).as_posix()
    assert not found or MAY_IMPORT_COMFYUI.match(relative), f"{relative}: plain tensors only, not {sorted(found)}"


def technique_of(module: str) -> str | None:
    """The folder of a technique that a module is in; what several techniques share is in none."""
    parts = module.split(".")
    shared = parts[0] != "guidance" or len(parts) < 3 or parts[1] == "gradients"
    return None if shared else ".".join(parts[:2])


@pytest.mark.parametrize("path", pack_files(), ids=module_name)
def test_techniques_do_not_know_each_other(path: Path) -> None:
    module = module_name(path)
    if module.split(".")[0] != "guidance":
        return
    own = technique_of(module)
    others = {technique_of(name) for name in imported(path)[0]} - {None, own}
    foreign = others - set(MAY_IMPORT_TECHNIQUE.get(own or "", {}))
    assert not foreign, f"{module} must not import {sorted(map(str, foreign))}: put what both need into guidance/"


def test_no_circles() -> None:
    graph = {module_name(path): imported(path)[0] - {module_name(path)} for path in pack_files()}
    order = list(TopologicalSorter(graph).static_order())  # raises CycleError on a circle
    assert set(graph) <= set(order)


def test_the_rules_bite() -> None:
    """The reader of imports sees what it must: otherwise the tests above could not fail."""
    source = "from ..nodes import demo\nimport comfy.utils\nfrom . import y\n"
    inside, outside = imported(ROOT / "guidance" / "x.py", source)
    assert {name.split(".")[0] for name in inside} == {"nodes", "guidance"}
    assert outside == {"comfy.utils"}
    assert technique_of("guidance.sag.formulas") == "guidance.sag" and technique_of("guidance.blur") is None
    assert technique_of("guidance.gradients.autograd") is None
    assert not MAY_IMPORT_COMFYUI.match("guidance/sag/formulas.py")


WEIGHTED = re.compile(r"((torch\.)?nn\.)?(Linear|Conv[123]d|LayerNorm|GroupNorm|Embedding)")


def weighted_layers(source: str) -> set[str]:
    """torch's own layers with weights that a file builds."""
    built = {ast.unparse(node.func) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)}
    return {name for name in built if WEIGHTED.fullmatch(name)}


@pytest.mark.parametrize("path", pack_files(), ids=module_name)
def test_layers_are_comfyuis(path: Path) -> None:
    """Made through `operations` or comfy.ops: torch's own draw weights that a file then replaces, and take numbers from
    torch's global generator for it."""
    found = weighted_layers(path.read_text(encoding="utf-8"))
    assert not found, f"take operations' or comfy.ops.disable_weight_init's in place of {sorted(found)}"


def test_weighted_layers_are_found() -> None:
    source = "a = nn.Linear(1, 2)\nb = [torch.nn.Conv2d(1, 2, 3), LayerNorm(3)]\n"
    assert weighted_layers(source) == {"nn.Linear", "torch.nn.Conv2d", "LayerNorm"}
    other = "operations.Linear(1, 2)\nisinstance(x, nn.Linear)\ncomfy.ops.disable_weight_init.Linear(1, 2)\nnn.ReLU()\n"
    assert weighted_layers(other) == set()


def test_entry_point_is_thin() -> None:
    text = (ROOT / "__init__.py").read_text(encoding="utf-8")
    assert len(text.splitlines()) < 40
    assert "NODE_CLASS_MAPPINGS" not in text, "the loader would return before it calls comfy_entrypoint"


UNWANTED = ("torch.load(", "torch.jit.load", "import pickle", "import subprocess", "urllib.request", "import requests",
            "eval(", "sys.path", ".cuda(", "manual_seed(", "set_default_dtype", "torch.backends", "use_deterministic",
            "os.environ[")  # fmt: skip
# A network's mode, and the seed of a generator of one's own.
HARMLESS = re.compile(r"\.eval\(|Generator\([^()]*\)\.manual_seed\(")


def unwanted(text: str) -> list[str]:
    """Lines with what the registry and careful readers look for."""
    return [line for line in text.splitlines() if any(word in HARMLESS.sub("", line) for word in UNWANTED)]


@pytest.mark.parametrize("path", pack_files(), ids=module_name)
def test_safe_and_plain(path: Path) -> None:
    """No pickles, no processes, no global state switches."""
    text = path.read_text(encoding="utf-8")
    assert text.isascii()
    assert not unwanted(text)


def test_the_unwanted_is_found() -> None:
    harmless = ["model.eval()", "a = torch.Generator().manual_seed(1)", "b = Generator(device).manual_seed(n)",
                'os.environ.get("A")', "with torch.set_grad_enabled(True):"]  # fmt: skip
    switches = ["torch.manual_seed(0)", "torch.Generator().manual_seed(torch.manual_seed(0).seed())", "x = eval(text)",
                "torch.backends.cudnn.benchmark = True", 'os.environ["A"] = "1"', "torch.set_default_dtype(half)",
                "torch.use_deterministic_algorithms(True)"]  # fmt: skip
    assert unwanted("\n".join([*harmless, *switches])) == switches
