"""The painter's drawing: read right, anything else refused with the field's name, nothing decoded too large."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fovea.guidance.regions import painter_format
from fovea.guidance.regions.painter_format import BadDrawing
from fovea.nodes.region_painter import FoveaRegionPainter

ROOT = Path(__file__).resolve().parents[2]


def url(values: np.ndarray, mode: str = "L") -> str:
    picture = Image.fromarray(values)
    if mode != "L":
        picture = picture.convert(mode)
    data = io.BytesIO()
    picture.save(data, format="PNG")
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()


INDEX = np.zeros((48, 64), np.uint8)
INDEX[:24, :32], INDEX[24:, 32:], INDEX[:8, 60:] = 1, 7, 200
GOOD: dict[str, Any] = {
    "version": 1, "width": 64, "height": 48, "prompt": "", "map": url(INDEX),
    "regions": [{"id": 1, "color": "#ff0000", "prompt": " a red star "}, {"id": 7, "prompt": "a heart", "strength": 2},
                {"id": 3, "prompt": "never painted"}, {"id": 200, "prompt": "left out", "hidden": True}],
}  # fmt: skip


def run(**given: Any) -> Any:
    return FoveaRegionPainter.execute(**{"width": 64, "height": 48, **given}).result


def test_regions_are_where_they_are_painted() -> None:
    regions, masks, preview, prompt, width, height = run(painting=json.dumps(GOOD))
    assert [(r.prompt, r.strength) for r in regions.items] == [("a red star", 1.0), ("a heart", 2.0)]
    for region, value in zip(regions.items, (1, 7)):
        assert torch.equal(region.mask[0], torch.from_numpy(value == INDEX).float())
    assert masks.shape == (3, 48, 64) and not masks[2].any()
    assert prompt == "a red star, a heart and never painted" and (width, height) == (64, 48)
    assert preview[0, 0, 0].tolist() == [1, 0, 0] and preview[0, 47, 0].tolist() == pytest.approx([0.85] * 3)
    assert run(painting=json.dumps({**GOOD, "prompt": "mine"}))[3] == "mine"


def test_a_clear_pixel_is_nobodys() -> None:
    """Whatever color lies under it, as programs for pictures leave it."""
    values = np.dstack([INDEX, INDEX, INDEX, np.full_like(INDEX, 255)])
    values[:24, :16, 3], values[:24, 16:24, 3] = 0, 127
    drawn = painter_format.parse(json.dumps({**GOOD, "map": url(values, "RGBA")}))
    assert drawn.index is not None
    wanted = torch.from_numpy(INDEX.astype(int))
    wanted[:24, :24] = 0
    assert torch.equal(drawn.index.long(), wanted)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA"])
def test_kinds_of_png(mode: str) -> None:
    found = painter_format.parse(json.dumps({**GOOD, "map": url(INDEX, mode)}))
    assert np.array_equal(found.index.numpy(), INDEX)


def test_other_sizes_are_stretched() -> None:
    _, masks, *_ = run(painting=json.dumps(GOOD), width=128, height=24)
    assert masks.shape == (3, 24, 128) and masks[0, :12, :64].all() and masks[0].sum() == 12 * 64


def test_nothing_and_masks() -> None:
    regions, masks, preview, prompt, *_ = run()
    assert len(regions) == 0 and masks.shape == (1, 48, 64) and preview.shape == (1, 48, 64, 3) and prompt == ""
    text = json.dumps({"regions": [{"prompt": "a"}, {"prompt": "b"}]})
    given = torch.zeros(2, 10, 10)
    given[0, :5], given[1, 5:] = 1, 1
    (first, *_), (again, *_) = run(painting=text, masks=given), run(painting=text, masks=given)
    assert [r.prompt for r in first.items] == ["a", "b"] and torch.equal(first.items[0].mask[0], given[0])
    more = run(painting=text, masks=given, regions=again)[0]
    assert len(more) == 4
    text = json.dumps({"regions": [{"prompt": "a", "hidden": True}, {"prompt": "b"}]})
    (region,) = run(painting=text, masks=given)[0].items
    assert region.prompt == "b" and torch.equal(region.mask[0], given[1])
    many = json.dumps({"regions": [{"prompt": "x"}] * 64})
    with pytest.raises(ValueError, match="smaller size"):
        run(painting=many, width=4096, height=4096)
    with pytest.raises(ValueError, match="3 masks are given for 2 rows"):
        run(painting=text, masks=torch.ones(3, 4, 4))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(width: int, height: int, text: int = 0) -> str:
    """A PNG whose pixels are a few bytes of compressed zeros, with so much text beside them."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    extra = chunk(b"zTXt", b"x\0\0" + zlib.compress(b"0" * text, 9)) if text else b""
    pixels = chunk(b"IDAT", zlib.compress(bytes(min((width + 1) * height, 10**8)), 9))
    data = b"\x89PNG\r\n\x1a\n" + header + extra + pixels + chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(data).decode()


def changed(**changes: Any) -> str:
    return json.dumps({**GOOD, **changes})


BAD = {
    "no JSON": "{", "an array": "[]", "deep": "[" * 200_000, "version": changed(version=2),
    "width": changed(width=10**9), "width text": changed(width="64"), "height": changed(height=-1),
    "height missing": json.dumps({k: v for k, v in GOOD.items() if k != "height"}), "size": changed(width=65),
    "prompt": changed(prompt=["x"]), "prompt length": changed(prompt="x" * 30_000),
    "regions": changed(regions="x"), "many": changed(regions=[{"id": 1}] * 1000), "row": changed(regions=["x"]),
    "id": changed(regions=[{"id": 0}]), "id true": changed(regions=[{"id": True}]), "twice": changed(
        regions=[{"id": 2}, {"id": 2}]),
    "color": changed(regions=[{"color": "red"}]), "region prompt": changed(regions=[{"prompt": 3}]),
    "region prompt length": changed(regions=[{"prompt": "x" * 5000}]), "strength": changed(regions=[{"strength": 1e9}]),
    "strength NaN": changed(regions=[{"strength": float("nan")}]), "hidden": changed(regions=[{"hidden": 1}]),
    "map": changed(map=5), "map prefix": changed(map="http://x/y.png"), "map base64": changed(
        map="data:image/png;base64,###"),
    "map no PNG": changed(map="data:image/png;base64," + base64.b64encode(b"GIF89a" + bytes(40)).decode()),
    "map palette": changed(map=url(INDEX, "P")), "map bit": changed(map=url(INDEX, "1")),
    "strength huge": json.dumps({**GOOD, "regions": [{"strength": 10**400}]}),
    "map cut": changed(map=GOOD["map"][: len(GOOD["map"]) // 2 // 4 * 4]),
    "map header": changed(map=bomb(30_000, 30_000), width=64, height=48), "huge": changed(
        map=bomb(30_000, 30_000), width=30_000, height=30_000),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_drawings_are_refused_by_field(name: str) -> None:
    began = time.monotonic()
    field = {"no JSON": "JSON", "an array": "object", "deep": "JSON", "size": "map", "many": "regions",
             "row": "regions", "id": "id", "twice": "id", "huge": "width"}.get(name, name.split()[0])  # fmt: skip
    with pytest.raises(BadDrawing, match=field) as why:
        painter_format.parse(BAD[name])
    assert len(str(why.value)) < 300 and time.monotonic() - began < 2
    told = FoveaRegionPainter.validate_inputs(BAD[name])
    assert isinstance(told, str) and told.startswith("Region Painter: painting: ")
    with pytest.raises(ValueError, match="Region Painter: painting"):
        run(painting=BAD[name])


def test_a_text_bomb_beside_the_pixels() -> None:
    """A chunk that unpacks to 200 MB: refused, or left packed."""
    text = changed(map=bomb(64, 48, 200_000_000))
    try:
        assert painter_format.parse(text).index.shape == (48, 64)
    except BadDrawing as why:
        assert "map" in str(why)


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["version", "width", "height", "prompt", "regions", "map", "id", "color", "strength"]), inner,
        max_size=5), max_leaves=20,
))  # fmt: skip
def test_any_json_is_read_or_refused(data: Any) -> None:
    try:
        assert isinstance(painter_format.parse(json.dumps(data)), painter_format.Drawing)
    except BadDrawing as why:
        assert str(why)


def test_markup_in_a_prompt_stays_text() -> None:
    prompt = "<img src=x onerror=alert(1)>"
    regions = run(painting=changed(regions=[{"id": 1, "prompt": prompt}]))[0]
    assert regions.items[0].prompt == prompt


def test_the_example_script_makes_a_painting(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("queue_painting", ROOT / "docs" / "examples" / "queue_painting.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    places = []
    for value, name in ((1, "star"), (7, "heart")):
        Image.fromarray(((value == INDEX) * 255).astype(np.uint8)).save(tmp_path / f"{name}.png")
        places.append((str(tmp_path / f"{name}.png"), f"a {name}"))
    regions = run(**script.painting(places, "two things"))[0]
    assert [r.prompt for r in regions.items] == ["a star", "a heart"]
    assert torch.equal(regions.items[1].mask[0], torch.from_numpy(INDEX == 7).float())


@pytest.mark.server
def test_the_example_script_queues(tmp_path: Path, client, demo_model: Path) -> None:
    """As a person calls it, on the demo's graph; a refused graph is explained."""
    Image.fromarray(((INDEX == 1) * 255).astype(np.uint8)).resize((256, 192)).save(tmp_path / "star.png")
    script, graph = ROOT / "docs" / "examples" / "queue_painting.py", ROOT / "demo" / "painter.json"
    command = [sys.executable, str(script), str(graph), "--server", client.address]
    good = subprocess.run([*command, f"{tmp_path}/star.png=a plain red star"], capture_output=True, text=True)
    assert good.returncode == 0, good.stderr
    done = client.history(good.stdout.split()[-1], patience=120)
    assert done["status"]["status_str"] == "success"
    images = [image for output in done["outputs"].values() for image in output.get("images", [])]
    pictures = [Image.open(io.BytesIO(client.image(image))) for image in images]
    assert {picture.size for picture in pictures} == {(256, 192)}, "as large as the mask"
    bad = subprocess.run([*command, f"{tmp_path}/star.png={'long ' * 300}"], capture_output=True, text=True)
    assert bad.returncode and "prompt" in bad.stderr and "Traceback" not in bad.stderr


def test_the_schema_agrees_with_the_reader() -> None:
    """Its bounds are the reader's."""
    schema = json.loads((ROOT / "docs" / "painting.schema.json").read_text())
    properties, row = schema["properties"], schema["properties"]["regions"]["items"]["properties"]
    assert set(properties) == set(GOOD) and set(row) == {"id", "color", "prompt", "strength", "hidden"}
    assert properties["width"]["maximum"] == properties["height"]["maximum"] == painter_format.MAX_SIDE
    assert (
        properties["width"]["minimum"] == painter_format.MIN_SIDE
        and row["prompt"]["maxLength"] == painter_format.MAX_PROMPT_LENGTH
    )
    assert properties["prompt"]["maxLength"] == painter_format.MAX_WHOLE_LENGTH
    assert (
        properties["regions"]["maxItems"] == painter_format.MAX_REGIONS
        and properties["version"]["const"] == painter_format.VERSION
    )
