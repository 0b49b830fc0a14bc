"""Help pages: readable in the editor's narrow panel, with an example, and the same in every language."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tools.release import help_defaults, help_images, interface, locales

pytestmark = pytest.mark.static

FOLDER = Path(__file__).resolve().parents[2] / "web" / "docs"
PAGES = sorted(FOLDER.glob("*.md"))
LANGUAGES = sorted(path.name for path in locales.FOLDER.iterdir() if path.name != "en")
EXAMPLE = {"en": "## Example", "zh": "## \u793a\u4f8b"}
MOST_COLUMNS, LONGEST_CELL = 2, 60  # what a panel of 256 pixels shows
LARGEST_PICTURE, ALL_PICTURES, WIDEST = 40_000, 600_000, 512

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
every_language = pytest.mark.parametrize("language", LANGUAGES)
every_text = pytest.mark.parametrize("language", ["en", *LANGUAGES])


def told(language: str) -> dict[str, Any]:
    return json.loads((locales.FOLDER / language / locales.FILE).read_text(encoding="utf-8"))


def read(page: Path, language: str) -> str:
    """A page as the editor asks for it: NODE/zh.md, and NODE.md for English and where a language is missing."""
    path = page if language == "en" else page.with_suffix("") / f"{language}.md"
    return path.read_text(encoding="utf-8")


def blocks(text: str) -> list[str]:
    """Fenced blocks, without what they are indented by."""
    found = re.findall(r"^ *```\w*\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
    return [re.sub(r"^ +", "", block, flags=re.MULTILINE) for block in found]


def prose(text: str) -> str:
    return re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)


def code(text: str) -> set[str]:
    return set(re.findall(r"`([^`\n]+)`", prose(text)))


def pictures(text: str) -> list[str]:
    return re.findall(r"!\[[^\]]+\]\(([^)\s]+)\)", text)


def headings(text: str) -> list[int]:
    """Levels of the headings, in order."""
    return [len(marks) for marks in re.findall(r"^(#+) ", prose(text), re.MULTILINE)]


def unfit_rows(text: str) -> list[str]:
    """Rows of tables that a narrow panel would cut: too many columns, or too long a cell."""
    rows = re.findall(r"^ *\|(.+)\| *$", prose(text), re.MULTILINE)
    cells = {row: [cell.strip() for cell in re.split(r"(?<!\\)\|", row)] for row in rows}
    return [r for r, parts in cells.items() if len(parts) > MOST_COLUMNS or max(map(len, parts)) > LONGEST_CELL]


def section(text: str, heading: str) -> str:
    """What stands under a heading, up to the next one."""
    return text.partition(f"\n{heading}\n")[2].partition("\n## ")[0].strip()


def plain(name: str) -> str:
    return name.removesuffix(" (Fovea)")


@every_text
@every_page
def test_begins_with_the_nodes_name_and_one_line(page: Path, language: str) -> None:
    title, summary, *_ = read(page, language).split("\n\n")
    assert plain(title.removeprefix("# ")) == plain(told(language)[page.stem]["display_name"])
    assert 10 <= len(summary) <= 120 and "\n" not in summary and not summary.startswith(("!", "#", "-", "|"))


@every_text
@every_page
def test_has_an_example(page: Path, language: str) -> None:
    text = section(read(page, language), EXAMPLE[language])
    assert len(text) >= 30 and ("->" in text or "`" in text)


@every_text
@every_page
def test_tables_fit_the_panel(page: Path, language: str) -> None:
    assert not unfit_rows(read(page, language))


@every_language
@every_page
def test_translation_has_the_same_parts(page: Path, language: str) -> None:
    english, other = read(page, "en"), read(page, language)
    assert code(other) == code(english)
    assert blocks(other) == blocks(english)
    assert pictures(other) == pictures(english)
    assert headings(other) == headings(english)


@every_language
@every_page
def test_translation_names_inputs_as_the_node_shows_them(page: Path, language: str) -> None:
    text, inputs = read(page, language), told(language)[page.stem]["inputs"]
    english = told("en")[page.stem]["inputs"]
    shown = {key: f"`{english[key]['name']}`\uff08{texts['name']}\uff09" for key, texts in inputs.items()}
    assert not [name for name in shown.values() if name not in text]


def test_defaults_are_those_of_the_nodes() -> None:
    """Pages as the tool leaves them; what it does to a bullet."""
    infos = interface.infos()
    for name, (language, node) in help_defaults.pages().items():
        page = (FOLDER / name).read_text(encoding="utf-8")
        defaults = help_defaults.defaults_of(infos[node], language)
        told = help_defaults.with_defaults(page, defaults, language)
        assert told == page, f"{name}: run python -m tools.release.help_defaults"
    page = "# A\n\n## Inputs\n\n- `a`, `b`: so.\n- `a` (default 3): *x* and\n  more.\n- `c`: no.\n\n## B\n\n- `a`: b\n"
    told = page.replace("- `a`, `b`: so", "- `a`, `b` (default 1, off): so").replace("default 3", "default 1")
    assert help_defaults.with_defaults(page, {"a": "1", "b": "off"}, "en") == told
    long = f"## Inputs\n\n- `a`: {'word ' * 20}`b c`.\n  - sub\n"
    assert help_defaults.with_defaults(long, {"a": "1"}, "en").splitlines()[3:] == ["  `b c`.", "  - sub"]


@every_language
def test_every_page_is_translated_and_no_other(language: str) -> None:
    assert {path.parent.name for path in FOLDER.glob(f"*/{language}.md")} == {page.stem for page in PAGES}


def test_pictures_are_small_there_and_shown() -> None:
    """The editor looks for pictures beside the English page, whatever the language."""
    shown = {name for page in PAGES for name in pictures(read(page, "en"))}
    kept = {path.relative_to(FOLDER).as_posix(): path for path in (FOLDER / "images").iterdir()}
    assert shown == kept.keys()
    sizes = [path.stat().st_size for path in kept.values()]
    assert max(sizes) <= LARGEST_PICTURE and sum(sizes) <= ALL_PICTURES
    for path in kept.values():
        with Image.open(path) as picture:
            assert picture.width <= WIDEST, path.name


def test_pictures_are_cut_from_those_of_the_repository() -> None:
    made = {f"images/{name}.jpg" for name in help_images.PARTS}
    assert made == {path.relative_to(FOLDER).as_posix() for path in (FOLDER / "images").iterdir()}
    for name, (source, parts) in help_images.PARTS.items():
        with Image.open(FOLDER.parents[1] / source) as picture:
            inside = [b for b in parts if 0 <= b[0] < b[2] <= picture.width and 0 <= b[1] < b[3] <= picture.height]
            size = help_images.cut(picture, parts).size
        assert len(inside) == len(parts), name
        with Image.open(FOLDER / "images" / f"{name}.jpg") as kept:
            assert kept.size == size, f"{name}: run python -m tools.release.help_images"


@pytest.mark.parametrize(
    ("text", "rows"),
    [("| a | b |\n|---|---|\n| `x \\| y` | z |", 0), ("| a | b | c |", 1), (f"| a | {'long ' * 20} |", 1),
     ("```\n| a | b | c |\n```", 0), ("  | a | b | c |", 1)],
)  # fmt: skip
def test_the_check_of_tables_bites(text: str, rows: int) -> None:
    assert len(unfit_rows(text)) == rows


def test_the_other_checks_bite() -> None:
    page = "# A\n\nB.\n\n## Example\n\n```\n# c\n```\n\n## Inputs\n\n- `d`: e ![f](g.jpg)\n"
    assert section(page, "## Example") == "```\n# c\n```" and section(page, "## Outputs") == ""
    assert (code(page), blocks(page), pictures(page), headings(page)) == ({"d"}, ["# c\n"], ["g.jpg"], [1, 2, 2])
