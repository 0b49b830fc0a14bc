"""ShapesWorld-DiT: its captions are true, it is trained with what ComfyUI gives it, its files are loaded whole."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import comfy.model_base
import numpy as np
import pytest
import torch
from comfy.model_sampling import CONST, ModelSamplingDiscreteFlow
from comfy.sd1_clip import SD1Tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from fovea.attention.families.registry import TRANSFORMERS
from fovea.guidance.regions.masks import Region, Regions
from fovea.guidance.token_spans import phrase_tokens
from fovea.models.shapesworld import loader as demo_model
from fovea.models.shapesworld import transformer
from tools.shapesworld import export, judge, sets, stages, train_dit, train_unet, words, world
from tools.shapesworld.shipped_weights import DEMO, training_state
from tools.studies import sampling
from tools.studies.attention_map import quality as maps
from tools.studies.demo_setup import DemoSetup
from tools.studies.regions.methods import Nodes

TEXT = "a striped red circle at the top left and a plain blue star in the middle on a white background, flat style"


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_captions_tell_the_truth_about_places(index: int) -> None:
    scene, rng = sets.scene("tune", index), np.random.default_rng(index)
    text = world.placed_caption(scene, rng)
    told = 0
    for thing in scene.things:
        kind = f"{thing.color} {thing.shape}"
        assert text.count(kind) == 1
        after = text.split(kind)[1]
        said = re.match(r" ((at the|in the) [a-z ]+?)(?= and |, | on a |$)", after)
        if said:
            assert said[1] == world.place(thing.x, thing.y), (text, thing)
            told += 1
        joined = re.match(rf" ({'|'.join(world.RELATIONS)}) a ", after)
        if joined:
            other = min((t for t in scene.things if f"{t.color} {t.shape}" in after),
                        key=lambda t: after.index(f"{t.color} {t.shape}"))  # fmt: skip
            assert joined[1] == world.relation(thing, other), text
            told += 1
    assert told


def test_fields_and_relations_have_their_names() -> None:
    corners = [world.place(x, y) for y in (50, 128, 200) for x in (50, 128, 200)]
    assert corners == [name for row in world.PLACES for name in row]
    scene = sets.scene("tune", 1, 2)
    first, second = scene.things
    opposite = dict(zip(world.RELATIONS, ("right of", "left of", "below", "above"), strict=True))
    assert world.relation(second, first) == opposite[world.relation(first, second)]
    assert f"{first.phrase} {world.relation(first, second)} {second.phrase}" in world.related_caption(scene)


def test_words_for_places_have_rows_behind_those_of_clip_a() -> None:
    assert not set(words.place_ids()) & set(words.known_ids())
    for index in range(200):
        ids = words.encode(world.placed_caption(sets.scene("tune", index), np.random.default_rng(index)))
        assert ids[transformer.TOKENS - 1] == words.END, "the whole caption is read"
        rows, old = words.placed_rows(ids), words.rows(ids)
        assert (rows > 0).all() and rows.max() <= len(words.known_ids()) + len(words.place_ids())
        assert (rows[old > 0] == old[old > 0]).all() and (rows[old == 0] > len(words.known_ids())).all()


def test_captions_are_tokenized_as_the_host_does() -> None:
    tokenizer = SD1Tokenizer()
    for text in ("", TEXT, *(world.placed_caption(sets.scene("tune", i)) for i in range(20))):
        host = [token for token, _ in tokenizer.tokenize_with_weights(text)["l"][0]]
        assert host == words.encode(text).tolist(), text


def test_places_are_judged_where_objects_are() -> None:
    scene = sets.scene("tune", 11, count=2)
    truth = judge.interpret(world.render(scene)[1][::2, ::2])
    assert judge.places(scene, truth) == [1.0, 1.0]
    assert judge.related(*scene.things, truth) == 1.0
    mirrored = judge.Reading(truth.objects, truth.background, tuple((256 - x, 256 - y) for x, y in truth.centers))
    assert judge.related(*scene.things, mirrored) == 0.0
    assert judge.places(scene, judge.Reading((), "white")) == [0.0, 0.0]


def test_layout_is_told_by_shares_of_tokens() -> None:
    labels = np.stack([world.render(sets.scene("tune", i))[1][::2, ::2] for i in range(2)])
    cells = labels.reshape(2, 16, 8, 16, 8)
    slowly = np.stack([(cells == c).mean((2, 4)).reshape(2, 256) for c in range(world.N_CLASSES)], -1)
    wanted = train_dit.shares(labels)
    torch.testing.assert_close(wanted, torch.from_numpy(slowly).float())

    torch.manual_seed(0)
    logits = torch.randn(2, 256, 18)
    color, shape, background = logits.split((8, 6, 4), -1)
    joint = torch.cat([(color[..., None] + shape[..., None, :]).flatten(-2), background], -1).log_softmax(-1)
    weight = 1 + wanted[..., : world.N_OBJECT_CLASSES].sum(-1)
    expected = (-(joint * wanted).sum(-1) * weight).sum() / weight.sum()
    torch.testing.assert_close(train_dit.layout_loss(logits, wanted), expected)


def test_noise_levels_follow_the_shifted_schedule() -> None:
    torch.manual_seed(0)
    levels = train_dit.noise_levels(4096, transformer.SHIFT)
    assert levels.min() > 0 and levels.max() < 1
    assert levels.median() == pytest.approx(ModelSamplingDiscreteFlow().sigma(500) * 4 / 3, abs=0.02)
    assert (levels > 0.98).float().mean() > 0.003, "the beginning of sampling is trained"


def test_a_stage_begins_anew_on_top_of_what_ships(tmp_path: Path) -> None:
    """As the study of local faults makes an early UNet; twin: else it goes on from the weights that ship."""
    for fresh in (True, False):
        run = stages.Run("unet", tmp_path, torch.device("cpu"), 1, shipped=DEMO, fresh=fresh)
        modules = torch.nn.ModuleDict({"unet": train_unet.build(4)})
        before = {name: value.clone() for name, value in modules.state_dict().items()}
        stages.Trainer(run, modules, 1e-3)
        same = all(torch.equal(value, before[name]) for name, value in modules.state_dict().items())
        assert same == fresh


def test_the_teacher_is_the_unet_that_ships_as_a_flow_model(tmp_path: Path) -> None:
    run = stages.Run("dit", tmp_path, torch.device("cpu"), 1)
    teacher = train_dit.Teacher(run, train_unet.text_tower(run, training_state(DEMO, "clip_a")))
    demo = DemoSetup()
    model, text = demo.model.model, "a striped red circle and a plain blue star on a white background, flat style"
    torch.manual_seed(0)
    x0, noise, t = torch.randn(2, 4, 32, 32), torch.randn(2, 4, 32, 32), torch.tensor([0.4, 0.9])
    level = t.view(-1, 1, 1, 1)
    noisy = x0 + level * (noise - x0)
    found = teacher.velocity(noisy, t, [TEXT.replace(" in the middle", ""), text])
    with torch.no_grad():
        context = sampling.encoded(demo.clip, [text] * 2)[0][0]
        denoised = model.apply_model(noisy / (1 - level), t / (1 - t), c_crossattn=context)
    torch.testing.assert_close(noisy - level * found, denoised.float(), atol=5e-3, rtol=5e-3)


def test_a_teacher_that_reads_no_places_is_asked_where_it_sees_them() -> None:
    plain, placed = "a red circle and a blue star on a white background", "a red circle at the top left"
    assert train_dit.unplaced(TEXT) == "a striped red circle and a plain blue star on a white background, flat style"
    assert train_dit.unplaced("a red circle left of a blue star at the top") == "a red circle and a blue star"
    assert train_dit.unplaced("a red circle above a blue star and a tan heart") == (
        "a red circle, a blue star and a tan heart"
    )
    assert train_dit.unplaced(plain) == plain
    for index in range(100):
        scene, rng = sets.scene("tune", index), np.random.default_rng(index)
        words_left = words.split(train_dit.unplaced(world.placed_caption(scene, rng)))
        assert not set(words_left) & set(words.PLACE_WORDS)
    levels = torch.tensor([0.5, 0.7, 0.95])
    assert train_dit.taught(levels, [plain] * 3).tolist() == [True, True, False]
    assert train_dit.taught(levels, [placed] * 3).tolist() == [True, False, False]
    assert train_dit.taught(levels, [""] * 3).tolist() == [True, True, False]


def test_only_block_matrices_are_orthogonalized_and_all_is_trained(tmp_path: Path) -> None:
    model = train_dit.build(0)
    both = train_dit.optimizers(model)
    held = [id(p) for group in both.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters())
    assert all(p.ndim == 2 for p in both.parts[0].param_groups[0]["params"])
    sum(p.square().sum() for p in model.parameters()).backward()
    both.step()
    again = train_dit.optimizers(model)
    again.load_state_dict(both.state_dict())
    run = stages.Run("dit", tmp_path, torch.device("cpu"), 1)
    trainer = stages.Trainer(run, torch.nn.ModuleDict({"network": model}), 1e-3, optimizer=again)
    trainer.backward(sum(p.square().sum() for p in model.parameters()))
    rates = {group["lr"] for part in again.parts for group in part.param_groups}
    assert len(rates) == 1 and rates.pop() < 1e-4, "the trainer's warm-up reaches both"


@pytest.fixture(scope="module")
def network() -> train_dit.Network:
    """As training begins, but with open gates: random weights everywhere."""
    model = train_dit.build(0)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "adaLN_modulation" in name or "final_layer.linear" in name:
                p.normal_(std=0.05)
            p.copy_(p.half())
    return model.requires_grad_(False)


@pytest.fixture(scope="module")
def folder(network: train_dit.Network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped files with that network in place of the trained one, written as training writes it."""
    work = tmp_path_factory.mktemp("work")
    torch.save({"ema": {f"network.{k}": v for k, v in network.state_dict().items()}}, work / "dit.pt")
    folder = shutil.copytree(DEMO, work / "demo")
    shutil.copy(DEMO / "shapesworld.json", work / "latents.json")
    (work / "latents.json").write_text(export.json.dumps(demo_model.manifest()["latents"]))
    export.export(work, folder, ("dit",))
    return folder


def test_shipped_files_stay_small(folder: Path) -> None:
    files = demo_model.manifest(folder)["parts"]["dit"]
    assert sum((folder / name).stat().st_size for name in files) <= 12_000_000
    assert sum(v.numel() for v in demo_model.load_part("dit", folder).values()) <= 6_000_000
    assert "unet" not in demo_model.manifest(folder)["trained_on"]["dit"], "it is a generator of its own"


@pytest.mark.parametrize("part", ["vae", "clip_a"])
def test_it_is_not_loaded_beside_another_coder_or_text_tower(folder: Path, tmp_path: Path, part: str) -> None:
    """It would draw garbage without a word."""
    changed = shutil.copytree(folder, tmp_path / "demo")
    told = demo_model.manifest(changed)
    told["parts"][part] = {"another.safetensors": "0"}
    (changed / demo_model.MANIFEST).write_text(export.json.dumps(told))
    with pytest.raises(demo_model.DemoFileError, match="no 'dit' for this generator"):
        demo_model.load_part("dit", changed)


def test_training_continues_from_the_shipped_weights(folder: Path, network: train_dit.Network) -> None:
    missing, unexpected = torch.nn.ModuleDict({"network": train_dit.build(3)}).load_state_dict(
        training_state(folder, "dit"), strict=False
    )
    assert not unexpected and missing and all(name.startswith("network.layout.") for name in missing)


def test_host_samples_it_as_a_flow_model(folder: Path, network: train_dit.Network) -> None:
    model = demo_model.load_dit(folder)
    base, own = model.model, model.get_model_object("model_sampling")
    assert type(base) is comfy.model_base.Lumina2 and base.diffusion_model.__class__ in TRANSFORMERS
    assert isinstance(own, ModelSamplingDiscreteFlow) and isinstance(own, CONST) and own.shift == transformer.SHIFT
    assert float(own.sigma_max) == 1.0 and own.timestep(torch.tensor(0.5)) == 0.5
    x, context, level = torch.randn(2, 4, 32, 32), torch.randn(2, transformer.TOKENS, 256), torch.tensor([0.3, 0.9])
    velocity, _ = network(x, level, context)
    with torch.no_grad():
        denoised = base.apply_model(x, level, c_crossattn=context, num_tokens=transformer.TOKENS)
    torch.testing.assert_close(denoised, x - level.view(-1, 1, 1, 1) * velocity, atol=2e-3, rtol=1e-3)
    assert velocity.std() > 0.05


def test_prompts_reach_it_as_in_training(folder: Path, network: train_dit.Network) -> None:
    clip = demo_model.load_dit_clip(folder)
    run = stages.Run("dit", folder, torch.device("cpu"), 1)
    tower = train_unet.text_tower(run, training_state(DEMO, "clip_a"))
    host = clip.encode_from_tokens(clip.tokenize(TEXT))
    torch.testing.assert_close(
        host, train_dit.contexts(tower, network.places, [TEXT], run.device), atol=2e-3, rtol=1e-2
    )
    moved = clip.encode_from_tokens(clip.tokenize(TEXT.replace("top left", "bottom right")))
    assert (host - moved).abs().max() > 0.1, "words for places are told apart"
    plain = "a striped red circle and a plain blue star on a white background"
    before = demo_model.load_clip().encode_from_tokens(demo_model.load_clip().tokenize(plain))
    after = clip.encode_from_tokens(clip.tokenize(plain))
    torch.testing.assert_close(after, before[:, : transformer.TOKENS], atol=1e-4, rtol=1e-4)


def test_padding_is_left_out_and_nothing_else(folder: Path) -> None:
    clip = demo_model.load_dit_clip(folder)
    lengths = {text: clip.encode_from_tokens(clip.tokenize(text)).shape[1]
               for text in ("", TEXT, "a red circle, " * 14, "a red circle, " * 30, "(a red circle:1.3)")}  # fmt: skip
    assert list(lengths.values()) == [48, 48, 14 * 4 + 2, 77 + 30 * 4 - 75 + 2, 48]


def test_pictures_come_out_of_the_hosts_sampler(folder: Path) -> None:
    with torch.no_grad():
        demo = DemoSetup(folder, "dit")
        pictures = sampling.sample(demo, [TEXT, "a red circle"], 0, 2, 4.0)
    assert pictures.shape == (2, 256, 256, 3) and torch.isfinite(pictures).all()


@pytest.mark.parametrize("given", [{}, {"arranged_noises": 1}, {"layout_iterations": 1}, {"mode": "concat"}])
def test_regions_act_on_the_one_that_ships(given: dict) -> None:
    """Its prompts have no padding behind the 48th token."""
    demo, text = DemoSetup(kind="dit"), "a plain red star and a plain blue circle on a white background"
    masks = torch.zeros(2, 64, 64)
    masks[0, :, :32], masks[1, :, 32:] = 1, 1
    regions = Regions((Region(masks[:1], "a plain red star"), Region(masks[1:], "a plain blue circle")))
    model, positive, negative = Nodes(**given)(demo.model, demo.clip, regions, text)
    latent, plain = torch.zeros(1, 4, 32, 32), sampling.encoded(demo.clip, [text])
    with torch.no_grad():
        steered = sampling.sample_latent(model, positive, negative, latent, 3, 2, 4.0)
        left = sampling.sample_latent(demo.model, plain, negative, latent, 3, 2, 4.0)
    assert torch.isfinite(steered).all() and (steered - left).abs().max() > 0.05


def test_a_phrase_is_found_in_a_prompt_without_its_padding() -> None:
    demo = DemoSetup(kind="dit")
    length = demo.clip.encode_from_tokens(demo.clip.tokenize(TEXT)).shape[1]
    assert length == transformer.TOKENS
    whole = demo_model.load_clip()
    assert phrase_tokens(demo.clip, TEXT, "blue star", length) == phrase_tokens(whole, TEXT, "blue star", 77)
    for wrong in (76 + 77, 12, 78):  # of a longer text, of a shorter one, of another encoder
        with pytest.raises(ValueError, match="Give the text"):
            phrase_tokens(demo.clip, TEXT, "blue star", wrong)


def test_attention_shows_where_things_are_in_the_one_that_ships() -> None:
    with torch.no_grad():
        rows = [row for i in range(3) for row in maps.rows(DemoSetup(kind="dit"), i, sets.scene("tune", i, 2))]
    own, other = (np.mean([row[key][-1] for row in rows]) for key in ("area", "other"))
    assert own > 0.6 and own > other + 0.1


def test_the_one_that_ships_draws_what_it_is_told() -> None:
    demo = DemoSetup(kind="dit")
    scenes = [sets.scene("tune", i, 1) for i in range(8)]
    with torch.no_grad():
        pictures = sampling.sample(demo, [world.placed_caption(scene) for scene in scenes], 0, 12, 4.0)
    found = [judge.score(scene, reading) for scene, reading in zip(scenes, judge.read(demo.reader, pictures))]
    assert sum(each["all_right"] for each in found) >= 6
    assert sum(each["background_right"] for each in found) >= 7
