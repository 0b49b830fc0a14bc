"""ShapesWorld: masks are true, tokens are ComfyUI's, the shipped files are whole and do what they claim."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fovea.models import lora_files
from fovea.models.shapesworld import evaluators
from fovea.models.shapesworld import loader as demo_model
from fovea.nodes.region_sources import read_loras
from tools.shapesworld import judge, sets, words, world
from tools.shapesworld.shipped_weights import CHANGES, GENERATORS, LORAS, PARTS, training_state

shipped = pytest.mark.usefixtures("demo_model")


def test_scenes_are_reproducible_and_sets_do_not_overlap():
    assert sets.scene("report", 3) == sets.scene("report", 3)
    assert sets.scene("report", 3) != sets.scene("tune", 3)
    ranges = sorted(sets.SEEDS.values())
    assert all(b - a >= 10**9 for a, b in zip(ranges, ranges[1:]))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_painted_objects_stand_where_their_masks_say(index):
    scene = sets.scene("tune", index)
    picture, labels = world.render(scene)
    assert picture.shape == (256, 256, 3) and labels.shape == (256, 256)
    assert set(np.unique(labels)) == {scene.background_label, *(t.label for t in scene.things)}
    for thing in scene.things:
        ys, xs = np.nonzero(labels == thing.label)
        assert np.hypot(xs.mean() - thing.x, ys.mean() - thing.y) < 0.35 * thing.radius
        assert np.hypot(xs - thing.x, ys - thing.y).max() <= thing.radius * 1.2 + 2


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_near_misses_are_other_captions_of_the_same_size(index):
    scene = sets.scene("tune", index)
    other = world.confused(scene, np.random.default_rng(index))
    assert len(other.things) == len(scene.things)
    assert sorted(t.phrase for t in other.things) != sorted(t.phrase for t in scene.things)


def test_captions_are_tokenized_as_the_host_does():
    from comfy.sd1_clip import SD1Tokenizer

    tokenizer = SD1Tokenizer()
    texts = [""] + [world.caption(sets.scene("tune", i), np.random.default_rng(i)) for i in range(50)]
    for text in texts:
        host = [t for t, _ in tokenizer.tokenize_with_weights(text)["l"][0]]
        assert host == words.encode(text).tolist(), text
        assert (words.rows(words.encode(text)) > 0).all(), f"a word of the grammar has no row: {text}"


def test_nouns_are_found_in_caption_order():
    scene = sets.scene("tune", 5, count=3)
    text, things = world.worded(scene, np.random.default_rng(1))
    ids = words.encode(text)
    assert [int(ids[p]) for p in words.shape_positions(ids)] == [words.word_ids(t.shape)[-1] for t in things]


def test_judge_counts_what_is_missing_and_what_is_too_much():
    scene = sets.scene("tune", 11, count=2)
    truth = world.render(scene)[1][::2, ::2]
    reading = judge.interpret(truth)
    assert judge.score(scene, reading) == {"all_right": 1.0, "exact": 1.0, "share_right": 1.0, "background_right": 1.0}
    one_less = np.where(truth == scene.things[0].label, scene.background_label, truth)
    assert judge.score(scene, judge.interpret(one_less))["share_right"] == 0.5
    more = truth.copy()
    more[:16, :16] = (scene.things[0].label + 1) % world.N_OBJECT_CLASSES
    result = judge.score(scene, judge.interpret(more))
    assert result["all_right"] == 1.0 and result["exact"] == 0.0


@shipped
def test_shipped_files_stay_small():
    sizes = [p.stat().st_size for p in demo_model.FOLDER.glob("*.safetensors")]
    assert max(sizes) <= 15_000_000 and sum(sizes) <= 52_000_000


@shipped
def test_missing_and_truncated_files_are_named_with_hash_and_cure(tmp_path):
    shutil.copytree(demo_model.FOLDER, tmp_path / "demo")
    name, expected = next(iter(demo_model.manifest()["parts"]["vae"].items()))
    damaged = tmp_path / "demo" / name
    damaged.write_bytes(damaged.read_bytes()[:-100])
    with pytest.raises(demo_model.DemoFileError, match=f"^ShapesWorld: demo/{name} is damaged.*{expected}.*Restore"):
        demo_model.load_vae(tmp_path / "demo")
    damaged.unlink()
    with pytest.raises(demo_model.DemoFileError, match=f"^ShapesWorld: demo/{name} is missing.*{expected}.*Restore"):
        demo_model.load_vae(tmp_path / "demo")
    (tmp_path / "demo" / demo_model.MANIFEST).unlink()
    with pytest.raises(demo_model.DemoFileError, match=demo_model.MANIFEST):
        demo_model.load_model(tmp_path / "demo")


def test_a_style_that_does_not_ship_is_an_error_of_the_nodes_input():
    with pytest.raises(ValueError, match=r"^lora_name: ShapesWorld: demo/.*'lora_nothing'"):
        read_loras(lora_files.SHIPPED + "nothing", 1.0, 1.0)


@shipped
def test_host_text_encoder_gives_what_the_generator_was_trained_on():
    clip = demo_model.load_clip()
    text = "a striped red circle and a blue star on a white background"
    ids = words.encode(text)
    host, pooled = clip.encode_from_tokens(clip.tokenize(text), return_pooled=True)
    tower = clip.cond_stage_model.clip_l.transformer
    embeds = tower.get_input_embeddings()(torch.from_numpy(ids)[None].long(), out_dtype=torch.float32)
    hidden, projected = evaluators.clip_a_text_forward(tower.float(), embeds, torch.tensor([int(words.ends(ids))]))
    torch.testing.assert_close(host, hidden, atol=2e-4, rtol=1e-3)
    assert torch.isfinite(pooled).all() and projected.shape == (1, 256)


@shipped
def test_unknown_words_share_one_row():
    """Of as many tokens: what a caption means is the same, whichever of them is in it."""
    clip = demo_model.load_clip()
    names = ("zeppelin", "marmalade", "circle")
    ids = [words.word_ids(name) for name in names]
    assert {len(each) for each in ids} == {1} and [each[0] in words.known_ids() for each in ids] == [False, False, True]
    a, b, c = (clip.encode_from_tokens(clip.tokenize(f"a red {name}")) for name in names)
    assert a.shape == (1, 77, 256) and torch.equal(a, b) and not torch.equal(a, c)


def _held_out(count: int) -> tuple[torch.Tensor, list[world.Scene], np.ndarray]:
    scenes = [sets.scene("held_out", i) for i in range(count)]
    painted = [world.render(s) for s in scenes]
    return torch.from_numpy(np.stack([p for p, _ in painted])).float() / 255, scenes, np.stack([m for _, m in painted])


@shipped
def test_autoencoder_keeps_pictures():
    pictures, _, _ = _held_out(16)
    vae = demo_model.load_vae()
    out = vae.decode(vae.encode(pictures))
    psnr = -10 * torch.log10((out - pictures).square().mean((1, 2, 3)))
    assert psnr.mean() >= 28


@shipped
def test_reader_reads_painted_pictures():
    pictures, scenes, _ = _held_out(64)
    readings = judge.read(demo_model.load_segmenter(), pictures)
    scores = [judge.score(s, r) for s, r in zip(scenes, readings)]
    assert np.mean([s["share_right"] for s in scores]) >= 0.95
    assert np.mean([s["background_right"] for s in scores]) == 1.0


@shipped
def test_manifest_tells_where_it_came_from():
    facts = json.loads((demo_model.FOLDER / demo_model.MANIFEST).read_text())
    assert set(facts["parts"]) == {
        *PARTS,
        *LORAS,
        *(part for parts in (*CHANGES.values(), *GENERATORS.values()) for part in parts),
    }
    assert facts["token_ids"] == list(words.known_ids())


def test_factorised_loss_equals_the_joint_one():
    from tools.shapesworld.train_reader import class_loss

    torch.manual_seed(0)
    color, shape, background = (torch.randn(2, n, 5, 7, dtype=torch.float32) for n in (8, 6, 4))
    labels = torch.randint(0, world.N_CLASSES, (2, 5, 7))
    joint = torch.cat([(color[:, :, None] + shape[:, None]).flatten(1, 2), background], dim=1)
    weight = torch.where(torch.arange(world.N_CLASSES) < world.N_OBJECT_CLASSES, 2.0, 1.0)
    expected = torch.nn.functional.cross_entropy(joint, labels, weight)
    torch.testing.assert_close(class_loss((color, shape, background), labels), expected)


def test_tiles_of_a_sheet_come_row_by_row(tmp_path):
    from PIL import Image

    from tools.studies.generator import labeled

    sheet = np.zeros((1280, 1280, 3), np.uint8)
    sheet[:128, 128:256] = 255
    Image.fromarray(sheet).save(tmp_path / "sheet.png")
    assert labeled.tiles(tmp_path / "sheet.png").mean((1, 2, 3)).nonzero().flatten().tolist() == [1]


def test_agreement_counts_what_only_one_of_them_saw():
    from tools.studies.generator import labeled

    eye = [labeled.parse("red circle, blue star on white"), labeled.parse(" on black")]
    reader = [labeled.parse("red circle on white"), labeled.parse("pink heart on black")]
    assert labeled.agreement(eye, reader) == {"pictures": 2, "objects": 3, "agreeing": 1, "agreement": 1 / 3}


@shipped
def test_training_can_continue_from_the_shipped_weights():
    from comfy.ops import disable_weight_init as operations

    from tools.shapesworld import train_clip, train_unet, train_vae

    build = {
        "unet": lambda: torch.nn.ModuleDict({"unet": train_unet.build(0)}),
        "vae": lambda: torch.nn.ModuleDict({"vae": train_vae.build(0)}),
        "clip_a": lambda: train_clip.build_a(0),
        "reader": lambda: torch.nn.ModuleDict({"reader": evaluators.Segmenter(operations=operations)}),
    }
    for part, make in build.items():
        missing, unexpected = make().load_state_dict(training_state(demo_model.FOLDER, part), strict=False)
        assert not unexpected and all(k.startswith("point_") for k in missing), part


@shipped
def test_reader_agrees_with_labels_by_eye():
    """100 generated pictures, labeled before the reader was asked."""
    from tools.studies.generator import labeled

    labels = [labeled.parse(text) for text in json.loads((labeled.FOLDER / "labels.json").read_text())]
    readings = judge.read(demo_model.load_segmenter(), labeled.tiles(labeled.FOLDER / "sheet.png"))
    result = labeled.agreement(labels, readings)
    assert result["pictures"] == 100 and result["objects"] > 200 and result["agreement"] >= 0.95
    swapped = labeled.agreement(labels, readings[1:] + readings[:1])
    assert swapped["agreement"] < 0.2, "the measure can fail"
