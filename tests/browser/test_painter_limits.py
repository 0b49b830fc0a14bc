"""Drawings at their limits, by the page's own modules: what is written can be read, and what is refused leaves all as
it was."""

from __future__ import annotations

import pytest
from painter_page import MODULES, opened

pytestmark = [pytest.mark.browser, pytest.mark.server]
# Stores without a panel. A square of this side: all of it painted, or a drawing with so many rows of one place.
BEGUN = f"""const folder = {MODULES};
    const drawing = await import(folder + 'drawing.js'), places = await import(folder + 'places.js');
    const shapes = await import(folder + 'shapes.js'), actions = await import(folder + 'actions.js');
    const {{ Store }} = await import(folder + 'store.js');
    const painted = side => places.placed({{ width: side, height: side }}, new Uint8Array(side * side).fill(255), []);
    const begun = (side, count, place) => {{
        const rows = [];
        for (let at = 0; at < count; at++) rows.push({{ ...drawing.freshRow(rows), ...place }});
        const store = new Store({{ width: side, height: side, onChange() {{}}, backgrounds: () => [],
            loraNames: async () => [], brush: {{ radius: 8, hardness: 100 }}, opacity: 75 }});
        return Object.assign(store, {{ drawing: {{ ...drawing.blank(side, side), rows }} }});
    }};"""

# 17 painted rows, in a picture that has room for 16.
ENLARGED = f"""async () => {{ {BEGUN}
    const store = begun(64, 17, painted(64));
    store.resize(4096, 4096);
    await store.ready;
    await drawing.pack(store.drawing);
    const read = await drawing.fromText(drawing.toText(store.drawing), 64, 64);
    return [read.rows.filter(row => row.mask).length, store.drawing.width, store.note.wrong];
}}"""

# The 17th row of a picture that has room for 16; then an undo to 17 rows of a smaller one.
PAINTED = f"""async () => {{ {BEGUN}
    const store = begun(4096, 16, painted(4096));
    store.begin({{ row: drawing.freshRow(store.drawing.rows) }});
    store.paint(grid => shapes.stroke(grid, {{ x: 9, y: 9 }}, {{ x: 20, y: 20 }}, 8, 255));
    store.settle();
    const seen = [store.drawing.rows.length, store.history.past.length, store.note.wrong];
    const before = begun(64, 17, painted(64)).drawing;
    store.history.keep(before);
    store.undo();
    return [...seen, store.drawing === before];
}}"""

# Ids and prompts of regions as the page reads them.
READ = f"""async regions => {{ {BEGUN}
    const {{ rows }} = await drawing.fromText(JSON.stringify({{ version: 2, regions }}), 64, 64);
    return rows.map(({{ id, prompt }}) => [id, prompt]);
}}"""

# Nine more than 60 regions: what is there before and after.
ARRANGED = f"""async () => {{ {BEGUN}
    const store = begun(64, 60, painted(64));
    Object.assign(store, {{ chosen: 7, shape: 0 }});
    const {{ row }} = store;
    actions.arrange(store, Array(9).fill([0, 0, 0.5, 0.5]));
    return [store.row === row, store.drawing.rows.length, store.note.wrong];
}}"""


def test_a_size_that_would_be_too_large(page, client, settings) -> None:
    opened(page, client, settings, "classic")
    assert page.evaluate(ENLARGED) == [17, 64, True]


def test_a_region_that_would_be_too_much(page, client, settings) -> None:
    """A note says so, and nothing is written that could not be read. An undo keeps its size where it must."""
    opened(page, client, settings, "classic")
    assert page.evaluate(PAINTED) == [16, 0, True, True]


def test_every_row_is_read(page, client, settings) -> None:
    """One without an id of its own, too; the first that has an id keeps it."""
    opened(page, client, settings, "classic")
    for ids in ([2, None], [None, 1], [3, 3, None], [1, 900, "x", 1]):
        regions = [{"prompt": f"thing {at}"} | ({} if given is None else {"id": given}) for at, given in enumerate(ids)]
        read = page.evaluate(READ, regions)
        assert [prompt for _, prompt in read] == [region["prompt"] for region in regions]
        found = [each for each, _ in read]
        assert len(set(found)) == len(ids) and all(0 < each < 256 for each in found)
        for given in (1, 2, 3):
            assert given not in ids or found[ids.index(given)] == given, ids


def test_an_arrangement_that_does_not_fit(page, client, settings) -> None:
    opened(page, client, settings, "classic")
    assert page.evaluate(ARRANGED) == [True, 60, True]
