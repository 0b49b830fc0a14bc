"""The painter's drawing: read right, anything else refused with the field's name, nothing decoded too large."""

from __future__ import annotations

import base64
import dataclasses
import importlib.util
import io
import json
import struct
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
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
from fovea.models import lora_files
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


def mask_of(value: int) -> str:
    """The pixels of that value, white."""
    return url(((value == INDEX) * 255).astype(np.uint8))


GOOD: dict[str, Any] = {
    "version": 2, "width": 64, "height": 48, "prompt": "", "regions": [
        {"id": 1, "color": "#ff0000", "prompt": " a red star ", "mask": mask_of(1)},
        {"id": 7, "prompt": "a heart", "strength": 2, "mask": mask_of(7)},
        {"id": 3, "prompt": "never painted"},
        {"id": 200, "prompt": "left out", "hidden": True, "mask": mask_of(200)},
    ],
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


def test_the_prompt_of_painters_in_a_row() -> None:
    """It has the regions of all of them, so that each is found in it; one of the whole picture is as it is."""
    before = run(painting=row(prompt="a dog"))[0]
    cat = row(prompt="a cat")
    assert run(regions=before, painting=cat)[3] == "a dog and a cat"
    assert run(regions=before)[3] == "a dog" and run(painting=cat)[3] == "a cat"
    assert run(regions=before, painting=json.dumps({**json.loads(cat), "prompt": "pets"}))[3] == "pets"


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(width: int, height: int, text: int = 0, said: tuple[int, int] | None = None) -> str:
    """A PNG whose pixels are a few bytes of compressed zeros, with so much text beside them. said: by a first header.
    """
    sizes = [(width, height)] if said is None else [said, (width, height)]
    header = b"".join(chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 0, 0, 0, 0)) for size in sizes)
    extra = chunk(b"zTXt", b"x\0\0" + zlib.compress(b"0" * text, 9)) if text else b""
    pixels = chunk(b"IDAT", zlib.compress(bytes(min((width + 1) * height, 10**8)), 9))
    data = b"\x89PNG\r\n\x1a\n" + header + extra + pixels + chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(data).decode()


def changed(**changes: Any) -> str:
    return json.dumps({**GOOD, **changes})


RAMP = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (48, 1))
STAR: dict[str, Any] = {
    "id": 4, "color": "#FF0000", "prompt": " a red star ", "strength": 0.5, "negative_prompt": "a face ",
    "start_percent": 0.1, "end_percent": 0.6, "is_color_of_object": True, "mask": mask_of(1),
}  # fmt: skip
NEW: dict[str, Any] = {
    "version": 2, "width": 64, "height": 48, "prompt": "",
    "regions": [STAR, {"color": "#0000ff", "prompt": "a box", "shapes": [
        {"kind": "rectangle", "x": 0.25, "y": 0.25, "width": 0.5, "height": 0.5},
        {"kind": "ellipse", "x": 0.5, "y": 0.5, "width": 0.5, "height": 0.5}]}],
}  # fmt: skip


def row(**changes: Any) -> str:
    return json.dumps({**NEW, "regions": [{**STAR, **changes}]})


def shape(**changes: Any) -> str:
    return row(shapes=[{"kind": "rectangle", "x": 0, "y": 0, "width": 1, "height": 1, **changes}])


BAD = {
    "no JSON": "{", "an array": "[]", "deep": "[" * 200_000, "version": changed(version=3),
    "version of old": changed(version=1), "version true": changed(version=True),
    "width": changed(width=10**9), "width text": changed(width="64"), "height": changed(height=-1),
    "height missing": json.dumps({k: v for k, v in GOOD.items() if k != "height"}), "size": changed(width=65),
    "prompt": changed(prompt=["x"]), "prompt length": changed(prompt="x" * 30_000),
    "regions": changed(regions="x"), "many": changed(regions=[{"id": 1}] * 1000), "row": changed(regions=["x"]),
    "id": changed(regions=[{"id": 0}]), "id true": changed(regions=[{"id": True}]), "twice": changed(
        regions=[{"id": 2}, {"id": 2}]),
    "color": changed(regions=[{"color": "red"}]), "region prompt": changed(regions=[{"prompt": 3}]),
    "region prompt length": changed(regions=[{"prompt": "x" * 5000}]), "strength": changed(regions=[{"strength": 1e9}]),
    "strength NaN": changed(regions=[{"strength": float("nan")}]), "hidden": changed(regions=[{"hidden": 1}]),
    "mask prefix": row(mask="http://x/y.png"), "mask base64": row(mask="data:image/png;base64,###"),
    "mask no PNG": row(mask="data:image/png;base64," + base64.b64encode(b"GIF89a" + bytes(40)).decode()),
    "strength huge": json.dumps({**GOOD, "regions": [{"strength": 10**400}]}),
    "huge": json.dumps({**NEW, "width": 30_000, "height": 30_000, "regions": [{"mask": bomb(30_000, 30_000)}]}),
    "mask": row(mask=5),
    "mask cut": row(mask=STAR["mask"][: len(STAR["mask"]) // 2 // 4 * 4]), "mask size": row(mask=url(INDEX[:40])),
    "mask deep": row(mask=url(INDEX.astype(np.uint16))), "mask header": row(mask=bomb(30_000, 30_000)),
    "mask headers": row(mask=bomb(9_000, 9_000, said=(64, 48))), "masks in all": json.dumps({
        **NEW, "width": 4096, "height": 4096, "regions": [{"mask": bomb(4096, 4096)}] * 17}),
    "negative_prompt": row(negative_prompt=1), "start_percent": row(start_percent=2), "end_percent": row(
        end_percent=float("nan")),
    "is_color_of_object": row(is_color_of_object=0), "loras": row(loras={"name": "x"}), "loras many": row(
        loras=[{"name": "x"}] * 9), "loras entry": row(loras=["x"]), "name": row(loras=[{}]), "name long": row(
        loras=[{"name": "x" * 400}]), "strength of a LoRA": row(loras=[{"name": "x", "strength": 21}]),
    "shapes": row(shapes="x"), "shapes many": row(shapes=[{}] * 65), "shapes entry": row(shapes=[1]),
    "kind": shape(kind="star"), "kind list": shape(kind=["rectangle"]), "width missing": row(
        shapes=[{"kind": "ellipse", "x": 0, "y": 0, "height": 1}]), "height text": shape(height="1"),
    "x list": shape(x=[0]), "width negative": shape(width=-1), "y far": shape(y=1e9), "x NaN": shape(x=float("nan")),
}  # fmt: skip


@contextmanager
def at_most(megabytes: int) -> Iterator[None]:
    """What is done inside never holds more at a time: objects of Python's and arrays of NumPy's."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < megabytes * 2**20


@pytest.mark.parametrize("name", BAD)
def test_bad_drawings_are_refused_by_field(name: str) -> None:
    """In a short sentence, and without unpacking what is too large."""
    field = {"no JSON": "JSON", "an array": "object", "deep": "JSON", "size": "mask", "many": "regions",
             "row": "regions", "id": "id", "twice": "id", "huge": "width",
             "masks in all": "regions"}.get(name, name.split()[0])  # fmt: skip
    with at_most(64), pytest.raises(BadDrawing, match=field) as why:
        painter_format.parse(BAD[name])
    assert len(str(why.value)) < 300
    told = FoveaRegionPainter.validate_inputs(BAD[name])
    assert isinstance(told, str) and told.startswith("Region Painter: painting: ")
    with pytest.raises(ValueError, match="Region Painter: painting"):
        run(painting=BAD[name])


def test_a_text_bomb_beside_the_pixels() -> None:
    """A chunk that unpacks to 200 MB: refused, or left packed."""
    text = row(mask=bomb(64, 48, 200_000_000))
    with at_most(50):
        try:
            assert painter_format.parse(text).rows[0].mask.shape == (48, 64)
        except BadDrawing as why:
            assert "mask" in str(why)


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["version", "width", "height", "prompt", "regions", "mask", "id", "color", "strength"]), inner,
        max_size=5), max_leaves=20,
))  # fmt: skip
def test_any_json_is_read_or_refused(data: Any) -> None:
    reads_or_refuses(data)


def reads_or_refuses(data: Any) -> None:
    try:
        drawn = painter_format.parse(json.dumps(data))
        assert painter_format.masks(drawn, 16, 16).shape == (len(drawn.shown), 16, 16)
    except BadDrawing as why:
        assert str(why)


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
FIELDS = VALUES | st.lists(VALUES | st.fixed_dictionaries({}, optional={
    "kind": VALUES | st.just("ellipse"), "x": VALUES, "y": VALUES, "width": VALUES | st.just(1), "height": VALUES,
    "name": VALUES, "strength": VALUES}), max_size=3)  # fmt: skip


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["id", "hidden", "start_percent", "end_percent", "loras", "shapes", "mask"]), FIELDS,
            max_size=4,
        ),
        max_size=4,
    ),
    VALUES | st.just(2),
    VALUES | st.just(64),
)  # fmt: skip
def test_any_row_is_read_or_refused(rows: Any, version: Any, width: Any) -> None:
    reads_or_refuses({"version": version, "width": width, "height": 48, "regions": rows})


class TestRegionsWithTheirOwnMasks:
    def test_what_a_row_says_of_its_region(self) -> None:
        star, box = run(painting=json.dumps(NEW))[0].items
        assert (star.prompt, star.negative_prompt, star.strength) == ("a red star", "a face", 0.5)
        assert (star.start, star.end, star.color) == (0.1, 0.6, (1, 0, 0)) == (0.1, 0.6, star.painted_in)
        assert (box.prompt, box.color, box.painted_in, box.start, box.end) == ("a box", None, (0, 0, 1), 0, 1)
        assert torch.equal(star.mask[0], torch.from_numpy(INDEX == 1).float())

    def test_the_later_row_is_in_front_and_takes_nothing(self) -> None:
        """Hiding or deleting it leaves no bite."""
        regions, masks, preview, *_ = run(painting=json.dumps(NEW))
        star, box = masks.bool()
        assert (star & box).any() and torch.equal(star, torch.from_numpy(INDEX == 1))
        both = preview[0][star & box]
        assert torch.equal(both, torch.tensor([[0.0, 0, 1]]).expand_as(both))
        owned = regions.canvas()[0]
        assert torch.equal(owned[1].bool(), box) and torch.equal(owned[0].bool(), star & ~box)
        behind = run(painting=json.dumps({**NEW, "regions": NEW["regions"][::-1]}))[0].canvas()[0]
        assert torch.equal(behind[1].bool(), star) and torch.equal(behind[0].bool(), box & ~star)
        for rows in ([STAR], [STAR, {**NEW["regions"][1], "hidden": True}]):
            (left,) = run(painting=json.dumps({**NEW, "regions": rows}))[0].items
            assert torch.equal(left.mask[0].bool(), star)

    def test_gray_is_in_part_and_clear_is_not(self) -> None:
        (region,) = run(painting=row(mask=url(RAMP)))[0].items
        assert torch.equal(region.mask[0], torch.from_numpy(RAMP).float() / 255)
        clear = np.dstack([np.full_like(RAMP, 255)] * 3 + [RAMP])
        (region,) = run(painting=row(mask=url(clear, "RGBA")))[0].items
        assert torch.equal(region.mask[0], torch.from_numpy(RAMP).float() / 255)

    @pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
    def test_kinds_of_masks(self, mode: str) -> None:
        values = ((INDEX == 7) * 255).astype(np.uint8)
        found = painter_format.parse(row(mask=url(values, mode))).rows[0].mask
        assert np.array_equal(found.numpy(), values)

    def test_one_without_a_version_is_of_the_first(self) -> None:
        """Whatever version comes later."""
        unsaid = {key: value for key, value in NEW.items() if key != "version"}
        given, same = run(painting=json.dumps(NEW)), run(painting=json.dumps(unsaid))
        assert painter_format.FIRST_VERSION == 2 and torch.equal(given[1], same[1])

    def test_shapes_are_as_sharp_as_the_picture(self) -> None:
        """At any size, while what is painted is stretched; both together are the place."""
        for side in (48, 480):
            _, (star, box), *_ = run(painting=json.dumps(NEW), width=side, height=side)
            assert box[side // 4 : side * 3 // 4, side // 4 : side * 3 // 4].all() and box[-1, -1] == 0
            assert box.mean() == pytest.approx(1 / 4 + 3.1416 / 16 * 3 / 4, abs=0.01)
            assert star[: side // 2, : side // 2].all() and star.sum() == side * side / 4
        both = painter_format.parse(shape(x=0.5, width=0.5))
        (place,) = painter_format.masks(both, 64, 48)
        assert place[:24].all() and place[24:, :32].sum() == 0

    def test_loras(self, monkeypatch: pytest.MonkeyPatch) -> None:
        name = "a style.safetensors"
        weights = {"up": torch.ones(1)}
        monkeypatch.setattr(lora_files, "names", lambda: [name])
        monkeypatch.setattr(lora_files, "read", {name: weights}.__getitem__)
        with_one = row(loras=[{"name": name, "strength": 0.5}, {"name": name, "strength": 0}])
        assert FoveaRegionPainter.validate_inputs(with_one) is True
        (region,) = run(painting=with_one)[0].items
        assert [(lora.name, lora.model, lora.clip) for lora in region.loras] == [(name, 0.5, 0.5)]
        told = FoveaRegionPainter.validate_inputs(row(loras=[{"name": "gone.safetensors"}]))
        assert "gone.safetensors" in told and "a red star" in told
        assert FoveaRegionPainter.validate_inputs(row(loras=[{"name": "gone"}], hidden=True)) is True
        monkeypatch.undo()
        with pytest.raises(ValueError, match=r"gone.safetensors"):
            run(painting=row(loras=[{"name": "gone.safetensors"}]))


def test_markup_in_a_prompt_stays_text() -> None:
    prompt = "<img src=x onerror=alert(1)>"
    regions = run(painting=row(prompt=prompt))[0]
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
    clear = Image.new("LA", INDEX.shape[::-1], (255, 0))  # white where nothing is seen
    clear.putpixel((3, 2), (255, 255))
    clear.save(tmp_path / "clear.png")
    (region,) = run(**script.painting([(str(tmp_path / "clear.png"), "a dot")], ""))[0].items
    assert region.mask.sum() == 1 and region.mask[0, 2, 3] == 1


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
    assert set(properties) == set(NEW)
    assert set(row) == {field.name for field in dataclasses.fields(painter_format.Row)}
    assert row["shapes"]["maxItems"] == painter_format.MAX_SHAPES
    assert row["loras"]["maxItems"] == painter_format.MAX_LORAS
    edges = row["shapes"]["items"]["properties"]
    assert {edges[side]["maximum"] for side in ("x", "y", "width", "height")} == {painter_format.MAX_EDGE}
    lora = row["loras"]["items"]["properties"]
    assert lora["name"]["maxLength"] == painter_format.MAX_LORA_LENGTH
    assert lora["strength"]["maximum"] == painter_format.MAX_LORA_STRENGTH
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
