"""Writes defaults into the help pages, from the nodes' own schemas: `python -m tools.release.help_defaults`.

Behind the name of each widget whose default is a value: "- `scale` (default 0.75): ...". Pages in all languages.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from typing import Any

from ..comfy.host import ROOT
from ..comfy.pack import load_packages
from ..comfy.workflow import DYNAMIC, first_value, inputs_of
from . import interface

PAGES = ROOT / "web" / "docs"
# How each language says it, what is between several, and its colon; switches.
WORDS = {
    "en": (" (default {})", ", ", ":", ("off", "on")),
    "zh": ("\uff08\u9ed8\u8ba4 {}\uff09", "\u3001", "\uff1a", ("\u5173", "\u5f00")),
}
PLAIN = {*interface.OF_COMFYUI, "seed", "file", "lora_name"}  # which need no word, or depend on what files there are
WIDTH = 120


def defaults_of(info: Mapping[str, Any], language: str) -> dict[str, str]:
    """Name -> its default as a page says it; of inputs that differ from choice to choice none. info: the node as
    `/object_info` tells it."""
    found: dict[str, set[str]] = {}
    for choice in interface.choices(info):
        for name, (kind, options) in inputs_of(dict(info), choice).items():
            told = _told(kind, options, WORDS[language][3])
            if told and name not in PLAIN:
                found.setdefault(name.rpartition(".")[2], set()).add(told)
    return {name: told.pop() for name, told in found.items() if len(told) == 1}


def _told(kind: Any, options: dict[str, Any], switch: tuple[str, str]) -> str | None:
    value = first_value(kind, options)
    if kind == "BOOLEAN":
        return switch[bool(value)]
    if kind in ("INT", "FLOAT"):
        return f"{value:g}"
    text = kind == "STRING" and not options.get("multiline")
    if value and (text or kind in ("COMBO", DYNAMIC) or isinstance(kind, list)):
        return f"*{value}*"
    return None


def with_defaults(page: str, defaults: Mapping[str, str], language: str) -> str:
    """A page whose list of inputs names them: behind the names at the beginning of a bullet, where all have one."""
    form, between, colon, _ = WORDS[language]
    opening, closing = (re.escape(part) for part in form.split("{}"))
    name = r"`\w+`(?:\uff08[^\uff09]+\uff09)?" if language == "zh" else r"`\w+`"
    bullet = re.compile(rf"- ({name}(?:{re.escape(between)}{name})*?)(?:{opening}.+?{closing})?{colon}(.*)", re.DOTALL)
    parts = re.split(r"(?m)^(?=- |\n|#)", page)
    inside, out = False, []
    for part in parts:
        if part.startswith("#"):
            inside = part.startswith(("## Inputs", "## \u8f93\u5165"))
        found = bullet.fullmatch(part) if inside else None
        names = re.findall(r"`(\w+)`", found.group(1)) if found else []
        if found and names:
            known = all(each in defaults for each in names)
            told = form.format(between.join(defaults[each] for each in names)) if known else ""
            part = _wrapped(f"- {found.group(1)}{told}{colon}{found.group(2)}")
        out.append(part)
    return "".join(out)


def _wrapped(bullet: str) -> str:
    """Filled again if a line of its first paragraph became too long."""
    paragraph, rest = re.fullmatch(r"(.*?)((?:\n *- .*)?\n*)", bullet, re.DOTALL).groups()  # type: ignore[union-attr]
    if not bullet.isascii() or all(len(line) <= WIDTH for line in paragraph.splitlines()):
        return bullet
    whole = re.sub(r"`[^`]+`", lambda code: code.group().replace(" ", "\0"), " ".join(paragraph.split()))
    filled = textwrap.fill(whole, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return filled.replace("\0", " ") + rest


def pages() -> dict[str, tuple[str, str]]:
    """Every page's path below PAGES -> (language, node)."""
    found = {path.name: ("en", path.stem) for path in sorted(PAGES.glob("*.md"))}
    others = {f"{path.parent.name}/{path.name}": (path.stem, path.parent.name) for path in sorted(PAGES.glob("*/*.md"))}
    return {**found, **others}


def main() -> None:
    load_packages()
    infos = interface.infos()
    for name, (language, node) in pages().items():
        path = PAGES / name
        text = path.read_text(encoding="utf-8")
        path.write_text(with_defaults(text, defaults_of(infos[node], language), language), encoding="utf-8")


if __name__ == "__main__":
    main()
