"""ShapesWorld's changes: experts as LoRAs, and the variant with two text encoders and a style vector."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import comfy.model_management as mm
import comfy.samplers
import numpy as np
import pytest
import torch

from fovea.models.shapesworld import dual_encoder
from fovea.models.shapesworld import loader as demo_model
from fovea.nodes.demo_model import CHANGED, DUAL, FoveaLoadDemo
from tools.shapesworld import sets, shipped_weights, t5_words, train_dual, train_experts, words, world
from tools.studies import ediffi
from tools.studies.demo_setup import DemoSetup
from tools.studies.encoder_schedule import prompt_swap
from tools.studies.sampling import encoded, joined

shipped = pytest.mark.usefixtures("demo_model")
TEXT = "a striped red circle and a plain blue star on a white background, glowing style"


def test_captions_are_tokenized_for_t5_as_the_host_does() -> None:
    tokenizer = dual_encoder.T5Tokenizer()
    texts = [""] + [world.caption(sets.scene("tune", i), np.random.default_rng(i)) for i in range(50)]
    for text in texts:
        host = [token for token, _ in tokenizer.tokenize_with_weights(text)[0]]
        assert host == t5_words.encode(text).tolist(), text
        assert (t5_words.rows(t5_words.encode(text)) > 0).all(), f"a word of the grammar has no row: {text}"
    assert t5_words.rows(np.array([t5_words.known_ids()[0]])) == t5_words.PAD_ROW


def test_both_tokenizers_words_are_matched() -> None:
    text = "a red circle, a striped pink heart and a star"
    clip, t5 = words.encode(text), t5_words.encode(text)
    places, tokenizer = train_dual.same_words(text), t5_words._tokenizer().tokenizer
    said = [tokenizer.convert_ids_to_tokens(int(token)).strip("\u2581,") for token in t5]
    for word in ("red", "circle", "heart", "star"):
        pieces = t5_words.chunk_ids(word)
        at = next(i for i in range(len(t5)) if tuple(t5[i : i + len(pieces)]) == pieces)
        assert {int(clip[places[at + k]]) for k in range(len(pieces))} == {words.word_ids(word)[-1]}, (word, said)
    end = int((t5 == dual_encoder.T5_END).argmax())
    assert places[end] == words.ends(clip[None])[0]


@shipped
def test_training_starts_as_the_shipped_generator() -> None:
    from fovea.models.shapesworld import generator

    network, before = train_dual.build(0), generator.unet()
    before.load_state_dict(train_experts.base())
    x, t, context = torch.randn(2, 4, 32, 32), torch.tensor([3, 900]), torch.randn(2, 77, 256)
    with torch.no_grad():
        both = network(x, t, context=torch.cat([context, context], dim=1), y=torch.randn(2, 256))
        torch.testing.assert_close(both, before(x, t, context=context), atol=1e-4, rtol=1e-4)
    trained = [name for name, p in network.named_parameters() if p.requires_grad]
    assert trained and all("parametrizations" in name or name.startswith("label_emb") for name in trained)


def test_the_style_embedding_begins_by_telling_styles() -> None:
    """Of made-up vectors that hold the style and noise, only the style is left."""
    network = SimpleNamespace(label_emb=[dual_encoder.unet().label_emb[0]])
    own = np.arange(2000) % 4
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(2000, 256)) + 2 * np.eye(4, 256)[own]
    scenes = SimpleNamespace(scenes=[SimpleNamespace(style=world.STYLES[k]) for k in own])
    assert train_dual.tell_styles(network, scenes, vectors, 0, steps=300) > 0.6, "chance is a quarter"
    with torch.no_grad():
        out = network.label_emb[0](torch.from_numpy(vectors[:500]).float())
    spread = torch.linalg.svdvals(out - out.mean(0))
    assert spread[4] < 1e-4 * spread[0], "four directions"


@shipped
def test_a_change_of_low_rank_is_told_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {key: value for key, value in train_experts.base().items() if key.startswith("middle_block.0.")}
    monkeypatch.setattr(train_experts, "base", lambda: before)
    torch.manual_seed(0)
    after = {}
    for key, value in before.items():
        flat = value.flatten(1) if value.ndim > 1 else value
        change = torch.randn(len(flat), 2) @ torch.randn(2, flat.shape[1]) if value.ndim > 1 else torch.randn(len(flat))
        after[key] = value + 0.01 * change.view_as(value)
    torch.save({"ema": {f"unet.{key}": value for key, value in after.items()}}, tmp_path / "expert_x.pt")
    told = train_experts.lora(tmp_path, "expert_x", rank=2)
    for key, value in before.items():
        layer, kind = f"diffusion_model.{key}".rsplit(".", 1)
        if value.ndim > 1:
            found = told[f"{layer}.lora_up.weight"].float() @ told[f"{layer}.lora_down.weight"].float()
        else:
            found = told[f"{layer}.{'diff' if kind == 'weight' else 'diff_b'}"].float()
        torch.testing.assert_close(found.view_as(value), after[key] - value, atol=2e-4, rtol=5e-3)


@shipped
def test_changes_belong_to_the_generator_that_ships() -> None:
    facts = demo_model.manifest()
    changes = {part for parts in shipped_weights.CHANGES.values() for part in parts}
    assert set(facts["trained_on"]) == {*changes, *shipped_weights.LORAS, *shipped_weights.GENERATORS}
    for part, needed in facts["trained_on"].items():
        assert needed == shipped_weights.needed_by(part, facts["parts"])
    assert facts["t5_ids"] == list(t5_words.known_ids())
    for part in {*changes, *shipped_weights.LORAS}:
        assert sum((demo_model.FOLDER / name).stat().st_size for name in facts["parts"][part]) <= 3_000_000


@shipped
@pytest.mark.parametrize("part", CHANGED.values())
def test_changes_reach_every_layer(part: str) -> None:
    expert, change = demo_model.load_changed(part), demo_model.load_part(part)
    names = {key.replace(".lora_up.weight", "").replace(".diff_b", "") for key in change if ".lora_down" not in key}
    assert len(expert.patches) == len([key for key in change if ".lora_down" not in key]) > len(names) / 2
    assert not expert.is_clone(demo_model.load_changed(part)), "two loads are two models"


@shipped
def test_each_part_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    load = demo_model.load_part
    read: list[str] = []

    def watched(part: str, *more: Path) -> dict[str, torch.Tensor]:
        read.append(part)
        return load(part, *more)

    monkeypatch.setattr(demo_model, "load_part", watched)
    demo_model.load_dual()
    assert sorted(read) == ["dual", "unet"]


@shipped
def test_host_merges_the_low_rank_change() -> None:
    model, part = demo_model.load_dual(), demo_model.load_part("dual")
    base = demo_model.load_part("unet")
    layer = "middle_block.1.transformer_blocks.0.attn2.to_k"
    up, down = (part[f"diffusion_model.{layer}.lora_{name}.weight"].float() for name in ("up", "down"))
    mm.load_models_gpu([model], force_full_load=True)
    weight = model.model.diffusion_model.get_submodule(layer).weight
    torch.testing.assert_close(weight.float().cpu(), base[f"{layer}.weight"].float() + up @ down, atol=2e-3, rtol=2e-3)


@shipped
def test_host_gives_the_generator_what_it_was_trained_on() -> None:
    clip, state = demo_model.load_dual_clip(), demo_model.load_part("dual")
    trained = train_dual.T5()
    trained.load_state_dict({k: v.float() for k, v in state.items() if k.startswith(("t5.", "projection."))})
    with torch.no_grad():
        expected = trained(train_dual.t5_rows([TEXT], torch.device("cpu")))
    host, pooled = clip.encode_from_tokens(clip.tokenize(TEXT), return_pooled=True)
    one, _ = demo_model.load_clip().encode_from_tokens(demo_model.load_clip().tokenize(TEXT), return_pooled=True)
    assert host.shape == (1, 154, 256) and pooled.shape == (1, 256)
    torch.testing.assert_close(host[:, :77], one)
    torch.testing.assert_close(host[:, 77:], expected, atol=2e-3, rtol=2e-3)


@shipped
def test_style_vector_is_the_sum_of_styles() -> None:
    vision, styled = demo_model.load_clip_vision(), demo_model.load_dual().model
    pictures = torch.rand(2, 256, 256, 3)
    seen = [vision.encode_image(picture[None]) for picture in pictures]
    single = [dual_encoder.style_vector(one.image_embeds) for one in seen]
    parts = [{"clip_vision_output": one, "strength": s, "noise_augmentation": 0.0} for one, s in zip(seen, (1.0, -0.5))]
    given = {"device": torch.device("cpu"), "unclip_conditioning": parts}
    torch.testing.assert_close(styled.encode_adm(**given), single[0] - 0.5 * single[1])
    assert styled.encode_adm(device=torch.device("cpu")).eq(0).all()
    with pytest.raises(ValueError, match="set noise_augmentation"):
        styled.encode_adm(**{**given, "unclip_conditioning": [{**parts[0], "noise_augmentation": 0.1}]})
    other = SimpleNamespace(image_embeds=torch.zeros(1, 768))
    with pytest.raises(ValueError, match="its own CLIP_VISION"):
        styled.encode_adm(**{**given, "unclip_conditioning": [{**parts[0], "clip_vision_output": other}]})


@shipped
def test_vision_sees_what_the_judge_of_pictures_sees() -> None:
    picture = torch.rand(1, 128, 128, 3)
    seen = demo_model.load_clip_vision().encode_image(picture).image_embeds
    expected, _ = demo_model.load_clip_train_image()(picture.movedim(-1, 1))
    torch.testing.assert_close(seen.float(), expected, atol=2e-2, rtol=2e-2)


@shipped
@pytest.mark.parametrize("variant", [*CHANGED, DUAL])
def test_loader_offers_them(variant: str) -> None:
    model, clip, vae, vision = FoveaLoadDemo.execute(variant).result
    assert model.patches and vae.encode(torch.rand(1, 256, 256, 3)).shape == (1, 4, 32, 32)
    assert ("t5" in clip.tokenize(TEXT)) == (variant == DUAL) and vision.image_size == 128


@shipped
def test_conditionings_of_one_picture_become_that_of_a_batch() -> None:
    clip = demo_model.load_clip()
    texts = [TEXT, "a green heart"]
    batch = encoded(clip, texts)
    for i, text in enumerate(texts):
        features, more = clip.encode_from_tokens_scheduled(clip.tokenize(text))[0]
        torch.testing.assert_close(batch[0][0][i : i + 1], features)
        torch.testing.assert_close(batch[0][1]["pooled_output"][i : i + 1], more["pooled_output"])
    with pytest.raises(ValueError):
        joined([batch, [*batch, *batch]])


@pytest.mark.parametrize("kind", ["unet", "dit"])
def test_prompts_are_swapped_between_steps(kind: str) -> None:
    sampling = DemoSetup(kind=kind).model.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, "normal", prompt_swap.STEPS)
    for swap in range(1, prompt_swap.STEPS):
        assert sigmas[swap - 1] > sampling.percent_to_sigma(prompt_swap.border(swap)) > sigmas[swap]


def test_what_cannot_be_measured_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ediffi.experts, "WORK", tmp_path)
    assert set(ediffi.missing()) == {"losses", "experts", "styles"}
    for name in (*train_experts.EXPERTS, "style"):
        (tmp_path / f"{name}.pt").touch()
    assert not ediffi.missing()
