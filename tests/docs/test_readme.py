"""What README.md and docs/ tell is true: commands, links, nodes and messages exist; their programs run."""

from __future__ import annotations

import ast
import asyncio
import json
import math
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from filelock import FileLock, Timeout

import fovea
from fovea.nodes.demo_model import FLOW
from tools.comfy import graph, host, server
from tools.comfy import workflow as ui
from tools.shapesworld import world
from tools.studies.tables import interval
from tools.sweep import evaluate

static = pytest.mark.static
live_server = pytest.mark.server

ROOT = Path(__file__).resolve().parents[2]
README, NODES, MODELS, TROUBLESHOOTING, DEVELOPERS, SHAPESWORLD, TECHNIQUES, COMPARISON, CHOICE = (
    (ROOT / name).read_text(encoding="utf-8")
    for name in ("README.md", "docs/nodes.md", "docs/models.md", "docs/troubleshooting.md", "docs/developers.md",
                 "docs/shapesworld.md", "docs/techniques/README.md", "docs/comparison_details.md", "docs/comparison.md")
)  # fmt: skip
MOST_LINES, MOST_WORDS = 130, 1050  # of the README: one page
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES += [*sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "web" / "docs").glob("*.md"))]
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
HOLE = "\0"  # stands for a placeholder of a message


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
    """Links of a page to files of the repository, and to headings in them, that are not there."""
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    broken = []
    for target in targets:
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / unquote(name) if name else page
        if not file.exists() or (anchor and anchor not in anchors(text if not name else file.read_text("utf-8"))):
            broken.append(target)
    return broken


def anchors(text: str) -> set[str]:
    """What a link to a heading of this page is called, as GitHub has it."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def section(text: str, heading: str) -> str:
    """What stands under a heading of the second level."""
    return text.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]


def measured() -> dict[str, Any]:
    """The record of all measurements."""
    return json.loads((ROOT / "docs" / "results.json").read_text(encoding="utf-8"))


def rows(table: str) -> list[list[str]]:
    """Cells of the rows of a page's only table, without its head."""
    lines = [line.strip().strip("|").split("|") for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in cells] for cells in lines[2:]]


def make_targets(text: str) -> set[str]:
    return set(re.findall(r"\bmake ([a-z][a-z-]*)", code_of(text)))


def is_command(module: str) -> bool:
    """Whether `python -m` can run a module of the repository."""
    path = ROOT / module.replace(".", "/")
    return path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()


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
    assert not [module for module in re.findall(r"-m (tools[\w.]*)", code_of(text)) if not is_command(module)]


@static
@every_page
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert not broken_links(page, text)


@static
def test_nodes_exist() -> None:
    known = schemas()
    for page in (README, TROUBLESHOOTING, DEVELOPERS, TECHNIQUES):
        assert set(re.findall(r"\bFovea[A-Z]\w+", page)) <= set(known)


@static
def test_every_node_is_listed_as_the_menu_has_it() -> None:
    listed = re.findall(r"^\| \[(.+?)\]\(\.\./web/docs/(\w+)\.md\) \| .+ \| `(\w+)` \|$", NODES, re.MULTILINE)
    assert [page for _, page, _ in listed] == [node_id for *_, node_id in listed]
    assert {node_id: name for name, _, node_id in listed} == {
        node_id: schema.display_name for node_id, schema in schemas().items()
    }
    assert len(listed) == len(schemas()), "none twice"


@static
def test_every_template_is_listed_and_those_named_exist() -> None:
    there = {path.stem for folder in ("workflows", "docs/graphs") for path in (ROOT / folder).glob("*.json")}
    cells = [cell for row in rows(section(TECHNIQUES, "Which template")) for cell in row]
    named = [name for cell in cells for name in re.findall(r"`(.+?)`", cell) if name != "models/scorers"]
    assert sorted(named) == sorted(there)
    assert {"1", "2", "3"} == set(re.findall(r"^Templates: number (\d)\.$", README, re.MULTILINE))
    assert {name[0] for name in there if name[:2] in ("1 ", "2 ", "3 ")} == {"1", "2", "3"}, "the README's numbers"
    opened = re.findall(r"group \*\*fovea\*\*, `([^`]+)`", README)
    assert opened and set(opened) <= there


@static
def test_families_are_those_of_the_page_of_models() -> None:
    """The README's short table says of every family what the long one says, in the same order."""
    known = rows(MODELS.split("## Not yet")[0])
    *told, others = rows(section(README, "Models"))
    short = [[family, *cells[:3]] for names, *cells in told for family in names.split("; ")]
    long = [[family, *(re.split("[:;]", cell)[0] for cell in cells[:3])] for family, *cells in known]
    assert short == long and others[0] == "any other picture model"


@static
def test_it_is_one_page() -> None:
    words = re.sub(r"\]\([^)]*\)|[|]", " ", README).split()
    assert len(README.splitlines()) <= MOST_LINES and len(words) <= MOST_WORDS


@static
def test_the_badges_say_what_the_metadata_say() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (version,) = re.findall(r'^version = "(.+)"', project, re.MULTILINE)
    (needs,) = re.findall(r'^requires-comfyui = ">=(.+)"', project, re.MULTILINE)
    (license_,) = re.findall(r"Apache License\s+Version (\S+), January", (ROOT / "LICENSE").read_text(encoding="utf-8"))
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    state = ", unreleased" if f"## {version} (unreleased)" in changes else ""
    badges = dict(re.findall(r"^!\[(.+?)\]\(https://img\.shields\.io/badge/(.+)-\w+\)$", README, re.MULTILINE))
    assert list(badges) == [f"Version {version}{state}", f"License Apache-{license_}", f"ComfyUI {needs} or newer"]
    others = (ROOT / "docs" / "comparison_details.md").read_text(encoding="utf-8")
    assert f"| Fovea | {version}{state} |" in others, "the comparison's table of versions says the same"
    for text, shown in zip(badges.values(), (version, f"Apache--{license_}", needs)):
        assert shown in text


@static
def test_what_is_measured_is_what_was_measured() -> None:
    """The README's numbers, in their order, are those of docs/results.json."""
    told = section(README, "What is measured")
    facts = measured()
    start, twins, noise = (facts[name]["table"] for name in ("regions_start", "regions_identities", "latents"))
    both = {row["name"]: row["both"][0] for row in facts["region_lora"]["rows"]}
    painted = "painted start, dense diffusion"
    shares = [start[name]["there"][0] for name in ("none", "dense diffusion", painted)]
    leaks = [twins[name]["leak"][0] for name in ("none", "ComfyUI's masked prompts", "dense diffusion", painted)]
    styles = [both["Region LoRA"], both["ComfyUI's masked hooks"]]
    scores = [noise[name]["clip_b"][0] for name in ("best of n", "none", "past the model, whole")]
    assert re.findall(r"\d+\.\d+", told) == [
        *(f"{100 * share:.1f}" for share in shares), f"{start[painted]['time']:.2f}",
        *(f"{100 * share:.1f}" for share in (*leaks, *styles, *scores)),
    ]  # fmt: skip
    assert re.findall(r"\((\d+) (?:layouts|pictures|prompts)", told) == [
        str(n) for n in (facts["regions_start"]["layouts"], facts["regions_identities"]["layouts"],
                         facts["region_lora"]["rows"][0]["n"], facts["latents"]["prompts"])
    ]  # fmt: skip
    assert re.findall(r"best of (\d+)", told) == [str(facts["latents"]["trials"]["best of n"])] * 2


@static
def test_times_told_are_those_that_were_measured() -> None:
    """On the pages of techniques, of nodes and of the comparison."""
    facts = measured()
    sag = [case["methods"] for case in facts["sag_bench"]["cases"]]
    steps = {name: [each[name]["ratio_to_none"] for each in sag] for name in sag[0]}
    regions = facts["regions_bench"]
    calls = [{name: way["to_plain"] for name, way in case["variants"].items()} for case in regions["calls"]]
    small, large = regions["runs"]
    ways = {name: f"{way['ratio']:.2f}" for name, way in regions["pictures"]["ways"].items()}
    steered, masks = ways["Dense Diffusion"], ways["ComfyUI's own masks"]
    lora = next(case for case in facts["region_lora_bench"]["cases"] if case["model"] == "shapesworld")
    loras = [f"{lora[name]:.2f} times" for name in ("ratio", "ratio_masked_hooks")]
    moved = {(case["mode"], case["steps"]): case for case in facts["latents_bench"]["cases"]
             if case["model"] == "shapesworld"}  # fmt: skip
    grown = {name: [case["to_plain"] for case in facts["scaling"]["cases"] if case["technique"] == name]
             for name in ("style", "two experts", "regions")}  # fmt: skip
    told = {
        "docs/techniques/self-attention-guidance.md": [
            f"| {ours:.3f} | {second:.3f} | {off:.3f} |"
            for ours, second, off in zip(steps["ours"], steps["ours, every 2nd step"], steps["ours, scale 0"])
        ],
        "docs/comparison_details.md": [
            *(f"| {first:.3f} / {second:.3f} |" for first, second in
              (steps["ours"], steps["core SAG"], steps["core PAG"])),
            f"take {small['ratio']:.2f} times the plain time on ShapesWorld and {large['ratio']:.2f} times on SD1.5",
            f"{moved['checkpoint', 5]['seconds']:.2f} s per iteration at 5 steps, "
            f"{moved['checkpoint', 50]['seconds']:.1f} s at 50",
        ],
        "docs/comparison.md": [f"{masks} times the time with two regions"],
        "docs/techniques/regions.md": [
            f"takes {steered} times as long", f"{ways['Dense Diffusion, rest_strength 0']} with `rest_strength` 0",
            f"{masks} with ComfyUI's own masks",
            *(f"| {call['fovea']:.3f} | {call['ours']:.3f} | {call['ours, every 8th key']:.3f} |" for call in calls),
            f"{small['ratio']:.3f} on ShapesWorld and {large['ratio']:.3f} on SD1.5",
            f"in every step {small['ratio_every_step']:.3f} and {large['ratio_every_step']:.3f}",
            "{:.2f} times as long at 256 pixels, {:.2f} at 384".format(*grown["regions"]),
            f"{min(grown['regions'][2:]):.2f} to {max(grown['regions'][2:]):.2f} from 512 on", *loras,
        ],
        "docs/techniques/starting-latents.md": [
            "| " + " | ".join(f"{moved[mode, count][key]:g}" for count in (5, 50) for key in ("seconds", "to_sampling"))
            for mode in ("past the model", "checkpoint", "invertible")
        ],
        "docs/techniques/encoders-and-style.md": [f"{min(grown['style']):.1f} to {max(grown['style']):.1f} times"],
        "docs/techniques/experts.md": [f"{min(grown['two experts']):.2f} to {max(grown['two experts']):.2f} of its"],
        "web/docs/FoveaDenseDiffusion.md": [f"{steered} times as long", f"own masks {masks} times"],
        "web/docs/FoveaDenseDiffusion/zh.md": [f"{ratio} \u500d" for ratio in (steered, masks)],  # "times"
        "web/docs/FoveaRegionLora.md": loras,
    }  # fmt: skip
    text = {page: " ".join((ROOT / page).read_text(encoding="utf-8").split()) for page in told}
    assert not [(page, words) for page, every in told.items() for words in every if words not in text[page]]


@static
def test_searches_told_are_those_that_were_measured() -> None:
    """What each way of finding a starting latent reaches: on its page, its node's help and the comparison."""
    found = measured()["latents"]["table"]
    names = {
        "Optimize Latent, *past_model*": "past the model, whole", "Best of N (`rounds` 0)": "best of n",
        "DOODL, `learning_rate` 3": "DOODL", "SGOOL, cutouts, `learning_rate` 3": "SGOOL, cutouts",
        "SGOOL, crops, `learning_rate` 3": "SGOOL, crops", "one seed *": "none", "CLIP Guidance *": "CLIP guidance",
    }  # fmt: skip
    score = {name: f"{100 * found[name]['clip_b'][0]:.1f}" for name in names.values()}
    tried = {name: (row["settings"]["candidates"], row["settings"]["iterations"]) for name, row in found.items()}
    table_rows = [
        f"| {told} | {tried[name][0]} + {tried[name][1]} | {score[name]} | "
        f"{'-' if name == 'none' else interval(found[name]['against']['none']['clip_b'], 100)} | "
        f"{100 * found[name]['all_right'][0]:.1f} |"
        for told, name in names.items()
    ]
    page = (ROOT / "docs" / "techniques" / "starting-latents.md").read_text(encoding="utf-8")
    table = page.split("| method | candidates + iterations |")[1].split("\n\n")[0].splitlines()[2:]
    assert sorted(table) == sorted(table_rows)
    low, high = sorted((score["SGOOL, cutouts"], score["SGOOL, crops"]))
    doodl, drawn, default = (score[name] for name in ("DOODL", "best of n", "past the model, whole"))
    numbers = [score["none"], low, high, doodl, drawn, default]
    help_ = section((ROOT / "web" / "docs" / "FoveaOptimizeLatent.md").read_text(encoding="utf-8"), "What to expect")
    assert re.findall(r"\d+\.\d", help_) == numbers
    assert f"best of {tried['best of n'][0]} candidates" in help_
    assert "({} candidates, {} iterations)".format(*tried["past the model, whole"]) in help_
    chinese = (ROOT / "web" / "docs" / "FoveaOptimizeLatent" / "zh.md").read_text(encoding="utf-8")
    assert re.findall(r"\d\d\.\d", chinese) == numbers
    assert f"{doodl} and {low} to {high} against {drawn}" in " ".join(COMPARISON.split())


@static
def test_the_note_of_two_models_says_what_was_measured() -> None:
    """Numbers in a template: of both models at its border, and of each alone."""
    path = ROOT / "workflows" / "2 Two models in one run (demo).json"
    nodes = json.loads(path.read_text(encoding="utf-8"))["nodes"]
    told = "\n".join(node["widgets_values"][0] for node in nodes if node["type"] in ui.NOTES)
    facts = measured()["ediffi"]["unlike"]["found"]
    rows_of = {row["name"]: row for row in facts["rows"]}
    level = 0.7  # of the flow's noise, below which the UNet acts
    both, unet, flow = (rows_of[name] for name in (f"the UNet below {level}", "the UNet alone",
                                                   "the flow transformer alone"))  # fmt: skip
    shares = [both["places_right"], unet["places_right"], *(row["all_right"] for row in (both, flow, unet))]
    assert re.findall(r"(\d+) %", told) == [f"{100 * share[0]:.0f}" for share in shares]
    assert re.findall(r"In (\d+) tests", told) == [str(facts["n"])]
    assert re.findall(r"(-?\d+) dB", told) == [f"{20 * math.log10((1 - level) / level):.0f}"]


@static
def test_tests_that_the_comparison_names_exist() -> None:
    named = re.findall(r"\]\(\.\./(tests/[\w/]+\.py)\):\s+((?:test_\w+(?:,\s+)?)+)", COMPARISON)
    assert len(named) > 40
    for file, names in named:
        there = set(re.findall(r"def (test_\w+)", (ROOT / file).read_text(encoding="utf-8")))
        assert set(re.findall(r"test_\w+", names)) <= there, file


@static
def test_what_decides_between_packs_is_what_was_measured() -> None:
    facts = measured()
    ours, twins = (facts[key]["table"] for key in ("regions", "regions_identities"))
    styles = {row["name"]: row["both"][0] for row in facts["region_lora"]["rows"]}
    masks, painted = "ConditioningSetMask", "painted start, dense diffusion"
    there = [ours[name]["there"][0] for name in ("fovea", masks, "none")]
    told = {
        "%d %% of the objects in place by attention, core's masks %d %%, no regions %d %%": there,
        "a color leaks in %d %%; %d %% with core's masks": [
            twins[name]["leak"][0] for name in (painted, "ComfyUI's masked prompts")
        ],
        "in %d %%; core's masked hooks %d %%": [styles[name] for name in ("Region LoRA", "ComfyUI's masked hooks")],
    }
    for text, shares in told.items():
        assert text % tuple(round(100 * share) for share in shares) in CHOICE, text
    assert ", ".join(f"{ours[name]['global'][0]:.3f}" for name in ("fovea", masks, "none")) in CHOICE


@static
def test_messages_are_in_the_source() -> None:
    """Whoever looks up the message that they got finds it: the tables quote what the programs say."""
    listed, common = (re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE) for page in (TROUBLESHOOTING, README))
    told = source_messages()
    assert len(listed) > 30 and not [message for message in listed if not is_told(message, told)]
    assert len(common) == 4 and set(common) <= set(listed)


@static
def test_flags_are_known_to_the_host_or_to_our_tool() -> None:
    options = (host.locate() / "comfy" / "cli_args.py").read_text(encoding="utf-8")
    ours = {option for action in evaluate.parser()._actions for option in action.option_strings}
    told = re.findall(r"`(--[a-z][a-z0-9-]+)", README + TROUBLESHOOTING + DEVELOPERS)
    regions = (ROOT / "docs" / "techniques" / "regions.md").read_text(encoding="utf-8")
    calls = [block for block in code_blocks(DEVELOPERS) + code_blocks(regions) if "tools.sweep.evaluate" in block]
    used = [flag for block in calls for flag in re.findall(r"--[a-z][a-z0-9-]+", block)]
    assert told and not [flag for flag in told if flag not in ours and f'"{flag}"' not in options]
    assert len(calls) == 2 and used and not set(used) - ours


@static
@every_page
def test_it_is_cloned_from_the_repository_of_the_metadata(page: Path) -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    repository = re.search(r'^Repository = "([^"]+)"', project, re.MULTILINE).group(1)
    assert set(re.findall(r"git clone (\S+)", page.read_text(encoding="utf-8"))) <= {repository}


@static
def test_the_grammar_is_the_worlds() -> None:
    """The page's words are those that the model in the box knows, and its captions and the demo's are of them."""
    (grammar,) = (block for block in code_blocks(SHAPESWORLD) if block.startswith("caption"))
    listed = {tuple(rule.split(" | ")) for rule in re.findall(r"^\w+ += (.+)$", grammar, re.MULTILINE)}
    words = (world.TEXTURES, world.COLOUR_NAMES, world.SHAPES, world.BACKGROUND_NAMES, world.STYLES)
    assert set(words) <= listed
    texture, color, shape, background, style = ("(" + "|".join(names) + ")" for names in words)
    thing = f"a ({texture} )?{color} {shape}"
    caption = f"(a picture of )?({thing}(, {thing})* and )?{thing}( on a {background} background)?(, {style} style)?"
    plain, transformer = SHAPESWORLD.split("## The flow transformer")
    examples = re.findall(r"^- `(a [^`]+)`", plain, re.MULTILINE)
    assert len(examples) == 2 and all(re.fullmatch(caption, example) for example in examples)
    (block,) = code_blocks(transformer)
    for rule, names in (("place", [name for row in world.PLACES for name in row]), ("relation", list(world.RELATIONS))):
        told = re.search(rf"^{rule} += ((?:.|\n +\|)+)", block, re.MULTILINE)
        assert told and re.split(r"\s+\| ", told[1]) == names
    placed_thing = f"{thing}( ({'|'.join(name for row in world.PLACES for name in row)}))?"
    joint = f"(, | and | {' | '.join(world.RELATIONS)} )"
    placed = f"(a picture of )?{placed_thing}({joint}{placed_thing})*( on a {background} background)?(, {style} style)?"
    examples = re.findall(r"^- `(a [^`]+)`", transformer, re.MULTILINE)
    assert len(examples) == 2 and all(re.fullmatch(placed, each) for each in examples)
    assert not any(re.fullmatch(caption, each) for each in examples)
    for index in range(50):  # and the grammar covers what the world says
        scene = world.sample_scene(np.random.default_rng(index))
        assert re.fullmatch(caption, world.caption(scene, np.random.default_rng(index)))
        assert re.fullmatch(placed, world.placed_caption(scene, np.random.default_rng(index)))
    for path in graph.demo_graphs(ROOT / "demo").values():
        nodes = graph.load(path)
        texts = [
            value
            for node in nodes.values()
            for name, value in node["inputs"].items()
            if name in ("text", "value", "prompt") and isinstance(value, str) and value.startswith("a ")
        ]
        if "painter" in nodes:
            texts.append(json.loads(nodes["painter"]["inputs"]["painting"])["prompt"])
        flow = any(node["inputs"].get("variant") == FLOW for node in nodes.values())
        assert all(re.fullmatch(placed if flow else caption, text) for text in texts), path.name
        assert texts or "unconditional" in path.name


@static
@every_page
def test_text_is_plain(page: Path) -> None:
    """Plain ASCII; short lines, but where a tool writes them or the editor shows them."""
    text = page.read_text(encoding="utf-8")
    assert text.isascii()
    if page.parent.parent.name != "web" and page.name != "results.md":
        assert not [line for line in text.splitlines() if len(line) > 120 and not line.startswith("|")]


@static
def test_the_checks_bite() -> None:
    """Each check finds the mistake that it is for: otherwise the tests above could not fail."""
    assert make_targets("run `make nothing` now") == {"nothing"} and make_targets("make sure of it") == set()
    assert is_command("tools.studies") and is_command("tools.demo") and not is_command("tools.nothing")
    page = "# E, f - g\n[a](LICENSE) [b](no/such.md#x) [c](https://x.y) [d](#e-f---g) [h](#i) [j](docs/nodes.md#k)"
    assert broken_links(ROOT / "README.md", page) == ["no/such.md#x", "#i", "docs/nodes.md#k"]
    assert anchors("## A LoRA per region\n```\n# no heading\n```") == {"a-lora-per-region"}
    assert rows("| a | b |\n|---|---|\n| c | d, `e` |") == [["c", "d, `e`"]]
    told = source_messages()
    assert is_told("port ... is taken or not allowed.", told)
    assert not is_told("port ... is occupied.", told)
    assert not is_told("port 8188 is taken or not allowed.", told)  # filled in at run time
    assert messages('x = f"a {b} c" "d"\ny = "e %s"') == [f"a {HOLE} cd", f"e {HOLE}"]


# The documentation's own program and commands, run for real.


@live_server
def test_api_example_runs(live: Any, demo_model: Path, tmp_path: Path) -> None:
    (program,) = code_blocks(DEVELOPERS, "python")
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
    """`make demo` leaves what the README says, here with few steps; its own server runs beside the tests' one."""
    folder = ROOT / "output" / "demo"
    report = folder / "report.json"
    before = report.read_bytes() if report.exists() else None
    report.unlink(missing_ok=True)
    try:
        done = subprocess.run(
            [*command_line("make demo"), "ARGS=--quick"],
            cwd=ROOT,
            env=clean_environment(),
            capture_output=True,
            text=True,
            timeout=3000,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        rows = json.loads(report.read_text(encoding="utf-8"))["graphs"]
    finally:
        if before is not None:
            report.write_bytes(before)
    assert {row["graph"] for row in rows} == set(graph.demo_graphs(ROOT / "demo"))
    assert all(row["status"] == "success" and row["images"] for row in rows)
    assert (folder / "contact_sheet.png").stat().st_size > 10_000
