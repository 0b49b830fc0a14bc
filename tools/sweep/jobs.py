"""What a sweep consists of: a graph with a prompt, a seed and a setting in it, once for each combination."""

from __future__ import annotations

import copy
import csv
import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

from ..comfy.graph import Graph, title
from ..errors import SetupError

Place = tuple[str, str]  # node id, input
PROMPT_COLUMNS = ("prompts", "prompt", "caption", "text")
CATEGORY_COLUMNS = ("category", "challenge")
SEEDS = ("seed", "noise_seed")
POSITIVE = ("positive", "cond1")  # inputs that take the prompt
TEXTS = ("text", "prompt", "text_g", "text_l", "clip_l", "clip_g", "t5xxl", "clip_prompt", "t5_prompt")
OVERRIDES = ("clip_prompt", "t5_prompt")  # empty: text is taken
SHOWING = ("SaveImage", "PreviewImage")
SCORE = "fovea_sweep_score"  # prefix of the nodes that are added
LOADERS = re.compile(rf"{SCORE}_(clip_)?\d+")  # those of them that load a scorer


class Tabbed(csv.excel_tab):
    """Quotes are part of the text, as in PartiPrompts."""

    quoting = csv.QUOTE_NONE


TABLES: dict[str, type[csv.Dialect]] = {".csv": csv.excel, ".tsv": Tabbed}


@dataclass(frozen=True)
class Prompt:
    """boxes: a layout as JSON, for inputs called boxes; "": none."""

    text: str
    category: str = ""
    boxes: str = ""


@dataclass(frozen=True)
class Setting:
    """A name and what it changes in the graph."""

    name: str
    changes: tuple[tuple[Place, Any], ...] = ()


@dataclass(frozen=True)
class Plan:
    """What all jobs share. boxes_at: where a prompt's layout goes. outputs: node that shows pictures -> its name."""

    graph: Graph
    prompt_at: tuple[Place, ...]
    seed_at: tuple[Place, ...]
    scorers: tuple[str, ...]
    outputs: dict[str, str]
    boxes_at: tuple[Place, ...] = ()


@dataclass(frozen=True)
class Job:
    """One run."""

    plan: Plan
    setting: Setting
    prompt: Prompt
    seed: int

    @property
    def graph(self) -> Graph:
        """Made anew each time: thousands of them would not fit into memory."""
        return scored(self.unscored_graph, self.prompt.text, self.plan.scorers)

    @property
    def unscored_graph(self) -> Graph:
        """The same without what says how good its pictures are."""
        made = copy.deepcopy(self.plan.graph)
        texts = [(at, self.prompt.text) for at in self.plan.prompt_at]
        seeds = [(at, self.seed) for at in self.plan.seed_at]
        boxes = [(at, self.prompt.boxes) for at in self.plan.boxes_at if self.prompt.boxes]
        for (where, name), value in (*texts, *boxes, *seeds, *self.setting.changes):
            made[where]["inputs"][name] = value
        return made

    @cached_property
    def key(self) -> str:
        """The same for the same work, whoever does it and when."""
        return hashlib.sha256(json.dumps(self.graph, sort_keys=True).encode()).hexdigest()[:20]

    def told(self) -> dict[str, Any]:
        return {"key": self.key, "setting": self.setting.name, "prompt": self.prompt.text, "seed": self.seed,
                "category": self.prompt.category, "boxes": self.prompt.boxes}  # fmt: skip


def read_prompts(path: Path) -> list[Prompt]:
    """A CSV or TSV with a column of prompts (and one of categories, as DrawBench and PartiPrompts have), a text file
    with one per line, or JSON: [{"prompt": ..., "boxes": [{"bbox": [...], "desc": ...}], "category": ...}]."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as why:
        raise SetupError(f"{path} cannot be read: {why}") from None
    form = path.suffix.lower()
    if form == ".json":
        found = _layouts(path, text)
    elif form not in TABLES:
        found = [Prompt(line.strip()) for line in text.splitlines() if line.strip()]
    else:
        rows = [
            {key.strip().lower(): (value or "").strip() for key, value in row.items() if isinstance(key, str)}
            for row in csv.DictReader(io.StringIO(text, newline=""), dialect=TABLES[form])
        ]
        named = [column for column in PROMPT_COLUMNS if rows and column in rows[0]]
        if not named:
            raise SetupError(f"{path} has no column of prompts: call one {' or '.join(PROMPT_COLUMNS)}.")
        kinds = [column for column in CATEGORY_COLUMNS if column in rows[0]]
        found = [Prompt(row[named[0]], row[kinds[0]] if kinds else "") for row in rows if row[named[0]]]
    if not found:
        raise SetupError(f"{path} holds no prompt.")
    return list({(each.text, each.boxes): each for each in reversed(found)}.values())[::-1]  # each once


def _layouts(path: Path, text: str) -> list[Prompt]:
    """Prompts with their layouts."""
    try:
        listed = json.loads(text)
        return [Prompt(each["prompt"].strip(), each.get("category", ""), json.dumps(each["boxes"])) for each in listed]
    except (ValueError, TypeError, KeyError, AttributeError):
        raise SetupError(f'{path} should be a list of {{"prompt": ..., "boxes": [...]}}.') from None


def place(graph: Graph, name: str) -> Place:
    """ "node.input" -> where that is; node by its id or its title. Raises SetupError."""
    node, _, field = name.strip().rpartition(".")
    ids = named(graph, node)
    while not ids and "." in node:  # titles may have dots, and so may inputs of a combo's option
        node, _, rest = node.rpartition(".")
        ids, field = named(graph, node), f"{rest}.{field}"
    if len(ids) != 1:
        raise SetupError(f"{name!r}: the graph has {'no' if not ids else 'several'} nodes {node!r}. It has: "
                         f"{', '.join(f'{each} ({title(graph, each)})' for each in graph)}")  # fmt: skip
    inputs = graph[ids[0]]["inputs"]
    if field not in inputs:
        raise SetupError(f"{name!r}: that node has no input {field!r}. It has: {', '.join(inputs) or 'none'}")
    return source(graph, (ids[0], field))


def named(graph: Graph, node: str) -> list[str]:
    """The nodes with this id or title."""
    return [node] if node in graph else [each for each in graph if title(graph, each) == node]


def source(graph: Graph, at: Place) -> Place:
    """Where a value is written: here, or in the one input of a node that only passes it on (primitive, reroute)."""
    value = graph[at[0]]["inputs"][at[1]]
    if not isinstance(value, list):
        return at
    inputs = graph[value[0]]["inputs"]
    if len(inputs) != 1 and not graph[value[0]]["class_type"].startswith("Primitive"):
        raise SetupError(f"{'.'.join(at)} comes from {title(graph, value[0])} ({value[0]}), which makes it of several "
                         "values: name the one to write with --prompt-at, --seed-at or in the setting.")  # fmt: skip
    return source(graph, (value[0], next(iter(inputs))))


def prompt_places(graph: Graph) -> list[Place]:
    """The texts behind every positive prompt, and every other text that is the same (a caption, what a scorer is told).

    Links are followed through what carries prompts only, not into regions (nor into ComfyUI's own) or pictures.
    """
    links = [node["inputs"].get(name) for node in graph.values() for name in POSITIVE]
    links += [node["inputs"].get("conditioning") for node in graph.values() if node["class_type"].endswith("Guider")]
    waiting, seen = [link[0] for link in links if isinstance(link, list)], set()
    found: set[Place] = set()
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        inputs = graph[node]["inputs"]
        placed = "mask" in inputs or {"width", "height"} <= inputs.keys()
        if placed and "conditioning" in inputs:  # words for a part of the picture
            continue
        own = () if placed and "conditioning_to" in inputs else TEXTS  # so is GLIGEN's text, beside the whole prompt
        texts = [name for name in own if name in inputs and not (name in OVERRIDES and inputs[name] == "")]
        texts = [name for name in texts if not is_prompt(inputs, name)]
        found |= {source(graph, (node, name)) for name in texts}
        if not texts:
            waiting += [value[0] for name, value in inputs.items() if isinstance(value, list)
                        and (name in POSITIVE or name.startswith("conditioning"))]  # fmt: skip
    if not found:
        raise SetupError("no positive prompt was found in the graph: name it with --prompt-at node.input")
    said = {graph[node]["inputs"][name] for node, name in found} - {""}
    same = {(node, name) for node, what in graph.items() for name, value in what["inputs"].items()
            if isinstance(value, str) and value in said}  # fmt: skip
    return sorted(found | same)


def is_prompt(inputs: Mapping[str, Any], name: str) -> bool:
    """Whether an input called text takes a CONDITIONING (Style Guidance and Style Guider), not words."""
    return isinstance(inputs[name], list) and "style_scale" in inputs


def boxes_places(graph: Graph) -> list[Place]:
    """Every input called boxes, or what it gets its text from."""
    return sorted({source(graph, (node, "boxes")) for node in graph if "boxes" in graph[node]["inputs"]})


def seed_places(graph: Graph) -> list[Place]:
    found = {source(graph, (node, name)) for node in graph for name in SEEDS if name in graph[node]["inputs"]}
    if not found:
        raise SetupError("no seed was found in the graph: name it with --seed-at node.input")
    return sorted(found)


def read_setting(graph: Graph, text: str) -> Setting:
    """'name: node.input=value, node.input=value'; values as JSON, else as text up to the next comma."""
    name, colon, rest = text.partition(":")
    if not name.strip() or ("=" in name and not colon):
        raise SetupError(f"setting {text!r}: begin with its name, such as 'mine: {text.strip()}'")
    found, rest = [], rest.strip()
    while rest:
        where, equals, rest = rest.partition("=")
        if not equals:
            raise SetupError(f"setting {text!r}: {where!r} is no node.input=value")
        value, rest = _value(rest.lstrip())
        node, field = place(graph, where.strip(" ,"))
        if isinstance(graph[node]["inputs"][field], bool) and not isinstance(value, bool):
            raise SetupError(f"setting {text!r}: {where.strip(' ,')} is true or false, in small letters")
        found.append(((node, field), value))
    return Setting(name.strip(), tuple(found))


def _value(text: str) -> tuple[Any, str]:
    """A value at the beginning of a text, and what follows its comma."""
    refused: list[str] = []  # NaN and Infinity, with which names of files may begin
    try:
        value, end = json.JSONDecoder(parse_constant=refused.append).raw_decode(text)
        if not text[end:].strip() or text[end:].lstrip().startswith(","):
            if refused:
                raise SetupError(f"{refused[0]} is no value for a graph.")
            return value, text[end:].lstrip().removeprefix(",").strip()
    except ValueError:
        pass  # no JSON: plain text
    value, _, rest = text.partition(",")
    return value.strip(), rest.strip()


def scorer_files(name: str) -> list[str]:
    """What --scorer names: one file, or the head of an aesthetic predictor and its CLIP, head.pth@CLIP.pt."""
    both = re.fullmatch(r"(.+\.\w+)@(.+)", name)
    return list(both.groups()) if both else [name]


def scored(graph: Graph, prompt: str, scorers: Sequence[str]) -> Graph:
    """The graph with a node behind each picture that says how well it fits the prompt, by each scorer."""
    made = dict(graph)
    for number, name in enumerate(scorers):
        loader = f"{SCORE}_{number}"
        file, *clip = scorer_files(name)
        made[loader] = loading(file)
        if clip:
            made[f"{SCORE}_clip_{number}"] = loading(*clip)
            made[loader]["inputs"]["clip_scorer"] = [f"{SCORE}_clip_{number}", 0]
        for output in outputs(graph):
            images, rating = graph[output]["inputs"]["images"], f"{loader}_{output}"
            made[rating] = node("FoveaScoreImages", image=images, scorer=[loader, 0], prompt=prompt)
            made[f"{rating}_told"] = node("PreviewAny", source=[rating, 2])
    return made


def loading(file: str) -> dict[str, Any]:
    return node("FoveaLoadScorer", file=file, activation="auto", allow_download=False)


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def outputs(graph: Graph) -> dict[str, str]:
    """Nodes that show pictures, by titles; the id is added where a title is not the only one of its kind."""
    found = {each: title(graph, each) for each, what in graph.items() if what["class_type"] in SHOWING}
    titles = list(found.values())
    return {each: name if titles.count(name) == 1 else f"{name} ({each})" for each, name in found.items()}


def expand(plan: Plan, prompts: Sequence[Prompt], seeds: Sequence[int], settings: Sequence[Setting]) -> list[Job]:
    """All combinations; neighbors differ in their setting, so that an unfinished sweep can be compared."""
    if not plan.outputs:
        raise SetupError(f"the graph shows no pictures: it needs a node {' or '.join(SHOWING)}.")
    if any(prompt.boxes for prompt in prompts) and not plan.boxes_at:
        raise SetupError("the prompts have boxes, and no node of the graph takes any (Regions from Boxes).")
    taken = {*plan.prompt_at, *plan.seed_at, *plan.boxes_at}
    for setting in settings:
        clash = [".".join(at) for at, _ in setting.changes if at in taken]
        if clash:
            raise SetupError(f"setting {setting.name!r} writes where prompts or seeds are written: {', '.join(clash)}")
    return [Job(plan, setting, prompt, seed) for prompt, seed, setting in product(prompts, seeds, settings)]
