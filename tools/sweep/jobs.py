"""What a sweep consists of: a graph with a prompt, a seed and a setting in it, once for each combination."""

from __future__ import annotations

import copy
import csv
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from ..errors import SetupError
from ..graph import Graph, title

Place = tuple[str, str]  # node id, input
PROMPT_COLUMNS = ("prompts", "prompt", "caption", "text")
CATEGORY_COLUMNS = ("category", "challenge")
SEEDS = ("seed", "noise_seed")
SHOWING = ("SaveImage", "PreviewImage")
SCORE = "fovea_sweep_score"  # prefix of the nodes that are added


@dataclass(frozen=True)
class Prompt:
    text: str
    category: str = ""


@dataclass(frozen=True)
class Setting:
    """A name and what it changes in the graph."""

    name: str
    changes: tuple[tuple[Place, Any], ...] = ()


@dataclass(frozen=True)
class Job:
    """One run. outputs: node that shows pictures -> its title."""

    setting: str
    prompt: Prompt
    seed: int
    graph: Graph
    outputs: dict[str, str]

    @property
    def key(self) -> str:
        """The same for the same work, whoever does it and when."""
        return hashlib.sha256(json.dumps(self.graph, sort_keys=True).encode()).hexdigest()[:20]

    def told(self) -> dict[str, Any]:
        return {"key": self.key, "setting": self.setting, "prompt": self.prompt.text, "seed": self.seed,
                "category": self.prompt.category}  # fmt: skip


def read_prompts(path: Path) -> list[Prompt]:
    """A CSV with a column of prompts (and one of categories, as DrawBench has), or a text file with one per line."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as why:
        raise SetupError(f"{path} cannot be read: {why}") from None
    if path.suffix.lower() != ".csv":
        found = [Prompt(line.strip()) for line in text.splitlines() if line.strip()]
    else:
        rows = [
            {key.strip().lower(): (value or "").strip() for key, value in row.items() if isinstance(key, str)}
            for row in csv.DictReader(text.splitlines())
        ]
        named = [column for column in PROMPT_COLUMNS if rows and column in rows[0]]
        if not named:
            raise SetupError(f"{path} has no column of prompts: call one {' or '.join(PROMPT_COLUMNS)}.")
        kinds = [column for column in CATEGORY_COLUMNS if column in rows[0]]
        found = [Prompt(row[named[0]], row[kinds[0]] if kinds else "") for row in rows if row[named[0]]]
    if not found:
        raise SetupError(f"{path} holds no prompt.")
    return found


def place(graph: Graph, name: str) -> Place:
    """"node.input" -> where that is; node by its id or its title. Raises SetupError."""
    node, _, field = name.strip().rpartition(".")
    ids = [node] if node in graph else [each for each in graph if title(graph, each) == node]
    if len(ids) != 1:
        raise SetupError(f"{name!r}: the graph has {'no' if not ids else 'several'} nodes {node!r}. It has: "
                         f"{', '.join(f'{each} ({title(graph, each)})' for each in graph)}")  # fmt: skip
    inputs = graph[ids[0]]["inputs"]
    if field not in inputs:
        raise SetupError(f"{name!r}: that node has no input {field!r}. It has: {', '.join(inputs) or 'none'}")
    return source(graph, (ids[0], field))


def source(graph: Graph, at: Place) -> Place:
    """Where a value is written: here, or in the one value of the node that is connected (a primitive)."""
    value = graph[at[0]]["inputs"][at[1]]
    if not isinstance(value, list):
        return at
    plain = [name for name, inner in graph[value[0]]["inputs"].items() if not isinstance(inner, list)]
    if len(plain) != 1:
        raise SetupError(f"{'.'.join(at)} is connected to a node with {len(plain)} values: name one of these instead.")
    return value[0], plain[0]


def prompt_places(graph: Graph) -> list[Place]:
    """The texts behind every sampler's positive prompt."""
    found: list[Place] = []
    starts = [node["inputs"].get("positive") for node in graph.values()]
    waiting = [link for link in starts if isinstance(link, list)]
    seen: set[str] = set()
    while waiting:
        node = waiting.pop()[0]
        if node in seen:
            continue
        seen.add(node)
        inputs = graph[node]["inputs"]
        if "text" in inputs:
            found.append(source(graph, (node, "text")))
        else:  # what combines or changes prompts
            waiting += [value for name, value in inputs.items() if isinstance(value, list) and name != "negative"]
    if not found:
        raise SetupError("no positive prompt was found in the graph: name it with --prompt-at node.input")
    return sorted(set(found))


def seed_places(graph: Graph) -> list[Place]:
    found = {source(graph, (node, name)) for node in graph for name in SEEDS if name in graph[node]["inputs"]}
    if not found:
        raise SetupError("no seed was found in the graph: name it with --seed-at node.input")
    return sorted(found)


def read_setting(graph: Graph, text: str) -> Setting:
    """'name: node.input=value, node.input=value'; values as JSON, else as text."""
    name, _, changes = text.partition(":")
    found = []
    for part in filter(None, (part.strip() for part in changes.split(","))):
        where, equals, value = part.partition("=")
        if not equals:
            raise SetupError(f"setting {text!r}: {part!r} is no node.input=value")
        try:
            found.append((place(graph, where), json.loads(value)))
        except ValueError:
            found.append((place(graph, where), value.strip()))
    return Setting(name.strip(), tuple(found))


def scored(graph: Graph, prompt: str, scorers: Sequence[str]) -> Graph:
    """The graph with a node behind each picture that says how well it fits the prompt, by each scorer."""
    made = copy.deepcopy(graph)
    for number, file in enumerate(scorers):
        loader = f"{SCORE}_{number}"
        made[loader] = node("FoveaLoadScorer", file=file, activation="auto", allow_download=False)
        for output in outputs(graph):
            images, rating = graph[output]["inputs"]["images"], f"{loader}_{output}"
            made[rating] = node("FoveaScoreImages", image=images, scorer=[loader, 0], text=prompt)
            made[f"{rating}_told"] = node("PreviewAny", source=[rating, 2])
    return made


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def outputs(graph: Graph) -> dict[str, str]:
    return {node: title(graph, node) for node, what in graph.items() if what["class_type"] in SHOWING}


def expand(
    graph: Graph, prompts: Sequence[Prompt], seeds: Sequence[int], settings: Sequence[Setting],
    prompt_at: Sequence[Place], seed_at: Sequence[Place], scorers: Sequence[str] = (),
) -> Iterator[Job]:  # fmt: skip
    """All combinations; neighbours differ in their setting, so that an unfinished sweep can be compared."""
    shown = outputs(graph)
    if not shown:
        raise SetupError(f"the graph shows no pictures: it needs a node {' or '.join(SHOWING)}.")
    for prompt, seed, setting in product(prompts, seeds, settings):
        made = copy.deepcopy(graph)
        values = [*((at, prompt.text) for at in prompt_at), *((at, seed) for at in seed_at), *setting.changes]
        for (where, name), value in values:
            made[where]["inputs"][name] = value
        yield Job(setting.name, prompt, seed, scored(made, prompt.text, scorers), shown)
