"""Texts in other languages: complete, of the same nodes, and served to the editor."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tools.release import locales

LANGUAGES = sorted(path.name for path in locales.FOLDER.iterdir() if path.name != "en")
every_language = pytest.mark.parametrize("language", LANGUAGES)


def told(language: str) -> dict[str, Any]:
    return json.loads((locales.FOLDER / language / locales.FILE).read_text(encoding="utf-8"))


def leaves(texts: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], str]:
    """Path -> text."""
    if isinstance(texts, str):
        return {path: texts}
    return {key: value for name, inner in texts.items() for key, value in leaves(inner, (*path, name)).items()}


@pytest.mark.static
def test_english_is_what_the_schemas_say() -> None:
    assert told("en") == locales.english(), "run python -m tools.release.locales, then translate what changed"


@pytest.mark.static
@every_language
def test_every_text_has_a_translation(language: str) -> None:
    english, other = leaves(told("en")), leaves(told(language))
    assert english.keys() == other.keys()
    assert all(text.strip() for text in other.values())


@pytest.mark.static
def test_chinese_is_chinese() -> None:
    english, chinese = leaves(told("en")), leaves(told("zh"))
    long = [path for path, text in english.items() if len(text) > 20]
    assert not [path for path in long if not re.search("[\u4e00-\u9fff]", chinese[path])]


@pytest.mark.static
@every_language
def test_what_is_typed_or_chosen_stays_as_it_is(language: str) -> None:
    """Numbers of a tooltip, points of a curve and names in folders are the same in every language."""
    english, other = leaves(told("en")), leaves(told(language))
    for path, text in english.items():
        for literal in re.findall(r"\b\d\.\d+\b|models/\w+", text):
            assert literal in other[path], (path, literal)


@pytest.mark.static
def test_the_painter_has_its_words_in_every_language() -> None:
    folder = locales.FOLDER.parent / "web" / "js"
    texts = (folder / "painter" / "texts.js").read_text(encoding="utf-8")
    known = set(re.findall(r'^  "(.+?)":', texts, re.M))
    code = "".join(path.read_text(encoding="utf-8") for path in folder.rglob("*.js") if path.name != "texts.js")
    used = set(re.findall(r'\bt\(\s*"(.+?)"', code))
    assert used and used <= known, "without a translation"
    assert not [text for text in known if f'"{text}"' not in code], "no longer used"
    labels = re.findall(r'(?:title|placeholder|textContent|"aria-label"|label): "(\w.+?)"', code)
    errors = re.findall(r'new Error\("(\w.+?)"', code)
    assert not labels and not errors, "written without t()"
    for text in known:
        (line,) = re.findall(rf'^  "{re.escape(text)}":\s+".+"', texts, re.M)
        assert line.count("{}") == 2 * text.count("{}"), line


@pytest.mark.server
@every_language
def test_the_editor_is_given_them(client, language: str) -> None:
    served = client.json("/i18n")
    for node, texts in told(language).items():
        assert served[language]["nodeDefs"][node] == texts
    headings = json.loads((locales.FOLDER / language / "main.json").read_text(encoding="utf-8"))
    for kind, words in headings.items():
        assert served[language][kind].items() >= words.items()


@pytest.mark.static
@every_language
def test_the_editors_settings_have_their_words(language: str) -> None:
    """As ComfyUI looks for them: by the id, with underscores for dots."""
    code = (locales.FOLDER.parent / "web" / "js" / "preferences.js").read_text(encoding="utf-8")
    ids = {found.replace(".", "_") for found in re.findall(r'"(Fovea\.\w+\.\w+)"', code)}
    words = json.loads((locales.FOLDER / language / "settings.json").read_text(encoding="utf-8"))
    assert ids and words.keys() == ids and all(each["name"] and each["tooltip"] for each in words.values())
    english = json.loads((locales.FOLDER / "en" / "settings.json").read_text(encoding="utf-8"))
    assert all(f'"{each["name"]}"' in code and f'"{each["tooltip"]}"' in code for each in english.values())


COMFYUI_TRANSLATES = {"Fovea", "guidance", "latent"}  # or it is a name; a word of ours would take the place of its own


@pytest.mark.static
@every_language
def test_the_editors_headings_have_their_words(language: str) -> None:
    """Those over the settings, and those of the menu of nodes. In English they are what the code has."""
    root = locales.FOLDER.parent
    nodes = "".join(path.read_text(encoding="utf-8") for path in (root / "nodes").glob("*.py"))
    settings = (root / "web" / "js" / "preferences.js").read_text(encoding="utf-8")
    groups = {part for path in re.findall(r'category="(.+?)"', nodes) for part in path.split("/")}
    headings = {part for path in re.findall(r'category: \["(.+?)", "(.+?)"', settings) for part in path}
    words = json.loads((locales.FOLDER / language / "main.json").read_text(encoding="utf-8"))
    assert words.keys() == {"nodeCategories", "settingsCategories"}
    assert words["nodeCategories"].keys() == groups - COMFYUI_TRANSLATES
    assert words["settingsCategories"].keys() == headings - COMFYUI_TRANSLATES
    assert all(word.strip() for told in words.values() for word in told.values())


@pytest.mark.static
def test_the_about_page_tells_the_version() -> None:
    code = (locales.FOLDER.parent / "web" / "js" / "preferences.js").read_text(encoding="utf-8")
    project = (locales.FOLDER.parent / "pyproject.toml").read_text(encoding="utf-8")
    (version,) = re.findall(r'^version = "(.+)"', project, re.M)
    (repository,) = re.findall(r'^Repository = "(.+)"', project, re.M)
    assert f'VERSION_SHOWN = "{version}"' in code and f'PAGE = "{repository}"' in code
