"""docs/comparison.md names the tests that its claims rest on: they exist, and its links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.static

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "comparison.md").read_text(encoding="utf-8")


def test_every_test_that_it_names_exists() -> None:
    cited = re.findall(r"\[test_\w+\.py\]\(\.\./(tests/[\w/]+\.py)\):\s+((?:test_\w+(?:,\s+)?)+)", PAGE)
    assert len(cited) > 50
    for file, names in cited:
        code = (ROOT / file).read_text(encoding="utf-8")
        missing = [name for name in re.findall(r"test_\w+", names) if f"def {name}(" not in code]
        assert not missing, (file, missing)


def test_every_row_has_a_source() -> None:
    tables = re.findall(r"^\|.*\| source \|\n\|[-| ]+\|\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    assert len(tables) == 6
    for table in tables:
        for row in table.splitlines():
            source = row.rstrip("|").rsplit("|", 1)[1].strip()
            assert source.startswith(("[", "the same test")), row


def test_links_lead_somewhere() -> None:
    targets = {target.split("#")[0] for target in re.findall(r"\]\(([^)]+)\)", PAGE)} - {""}
    near = [target for target in targets if not target.startswith("https://")]
    assert not [target for target in near if not (ROOT / "docs" / target).resolve().exists()]
