"""CLIP files in the format of transformers are the same networks: names, vectors, activation, clear refusals."""

from __future__ import annotations

import json
from inspect import getfile
from pathlib import Path
from typing import Any

import comfy.sd1_clip
import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer
from transformers.activations import ACT2FN

from fovea.guidance import crops
from fovea.models.scorers import open_clip as open_clip_files
from fovea.models.scorers import transformers_clip
from fovea.models.scorers.open_clip import ARCHITECTURES, UnknownScorer
from tools.shapesworld import sets
from tools.shapesworld.world import render

WORDS = ["a plain red star", "two dogs on a bench"]
TOKENIZER = Path(getfile(comfy.sd1_clip)).parent / "sd1_tokenizer"
ACTIVATIONS = {"quick gelu": "quick_gelu", "gelu": "gelu"}
pictures = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))


def config(name: str, activation: str = "quick_gelu") -> CLIPConfig:
    """An architecture of open_clip's as transformers has it."""
    told = open_clip.get_model_config(name)
    vision, text = told["vision_cfg"], told["text_cfg"]
    return CLIPConfig(
        text_config={"hidden_size": text["width"], "intermediate_size": 4 * text["width"], "hidden_act": activation,
                     "num_attention_heads": text["heads"], "num_hidden_layers": text["layers"]},
        vision_config={"hidden_size": vision["width"], "num_hidden_layers": vision["layers"], "hidden_act": activation,
                       "intermediate_size": int(vision["width"] * vision.get("mlp_ratio", 4)),
                       "num_attention_heads": vision["width"] // vision.get("head_width", 64),
                       "patch_size": vision["patch_size"], "image_size": vision["image_size"]},
        projection_dim=told["embed_dim"],
    )  # fmt: skip


@pytest.fixture(scope="module")
def network() -> CLIPModel:
    torch.manual_seed(0)
    return CLIPModel(config("ViT-B-32")).eval()


@pytest.fixture(scope="module")
def file(network: CLIPModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In a folder without a config.json, under a name that says nothing."""
    path = tmp_path_factory.mktemp("files") / "model.safetensors"
    save_file({key: value.contiguous() for key, value in network.state_dict().items()}, path)
    return path


def beside(file: Path, folder: Path, told: dict[str, Any]) -> Path:
    """The same file with a config.json beside it."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(told))
    (folder / file.name).symlink_to(file)
    return folder / file.name


def vectors(network: CLIPModel, activation: str) -> tuple[Tensor, Tensor]:
    """transformers' own of the pictures and words, with its tokenizer."""
    for module in network.modules():
        if hasattr(module, "activation_fn"):
            module.activation_fn = ACT2FN[activation]
    mean, std = (torch.tensor(v)[:, None, None] for v in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD))
    tokens = CLIPTokenizer.from_pretrained(TOKENIZER)(WORDS, padding=True, return_tensors="pt")
    with torch.no_grad():
        found = network.get_image_features((pictures - mean) / std), network.get_text_features(**tokens)
    image, text = (getattr(each, "pooler_output", each) for each in found)
    return image, text


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_vectors_are_those_of_transformers(network: CLIPModel, file: Path, tmp_path: Path, activation: str) -> None:
    """With the activation of the config.json beside the file; the other one gives other vectors."""
    told = config("ViT-B-32", ACTIVATIONS[activation]).to_dict()
    scorer = open_clip_files.load(beside(file, tmp_path / "clip", told))
    assert scorer.name == f"model (ViT-B-32, {activation})"
    other = next(act for name, act in ACTIVATIONS.items() if name != activation)
    for act, same in ((ACTIVATIONS[activation], True), (other, False)):
        for got, wanted in zip((scorer.image(pictures), scorer.text(WORDS)), vectors(network, act)):
            assert bool((got - wanted).norm() < 1e-5 * wanted.norm()) == same


@pytest.mark.parametrize("name", ARCHITECTURES.values())
def test_every_architecture_has_all_its_weights(name: str) -> None:
    with torch.device("meta"):
        state, wanted = CLIPModel(config(name)).state_dict(), open_clip.create_model(name, None, device="meta")
    found = transformers_clip.to_open_clip(state)
    shapes = {key: value.shape for key, value in wanted.state_dict().items() if key != "attn_mask"}
    assert {key: value.shape for key, value in found.items()} == shapes
    assert open_clip_files.architecture(found, "x.safetensors") == name


@pytest.mark.parametrize(
    "name, architecture, quick",
    [
        ("model.safetensors", "ViT-L-14", True), ("model.safetensors", "ViT-B-32", True),
        ("model.safetensors", "ViT-H-14", False), ("PickScore_v1/model.safetensors", "ViT-H-14", False),
        ("clip-vit-large-patch14/pytorch_model.bin", "ViT-L-14", True),
        ("CLIP-ViT-L-14-laion2B-s32B-b82K/model.safetensors", "ViT-L-14", False),
        ("CLIP-ViT-B-32-laion2B-s34B-b79K/pytorch_model.bin", "ViT-B-32", False),
        ("metaclip-h14-fullcc2.5b/model.safetensors", "ViT-H-14", True),
        ("CLIP-ViT-B-16-DataComp.XL-s13B-b90K/model.safetensors", "ViT-B-16", False),
    ],
)  # fmt: skip
def test_activation_without_a_config(name: str, architecture: str, quick: bool, tmp_path: Path) -> None:
    assert open_clip_files._auto_quick_gelu({}, tmp_path / name, architecture, True) == quick


def test_a_config_of_something_else_does_not_decide(file: Path, tmp_path: Path) -> None:
    """Of a larger CLIP, of another kind of model, or damaged: as if it was not there."""
    path = beside(file, tmp_path / "clip", config("ViT-B-32", "gelu").to_dict())
    assert transformers_clip.quick_gelu_of_config(path, 768, 12) is False
    for told in (config("ViT-L-14", "gelu").to_dict(), {"model_type": "bert", "hidden_act": "gelu"}, [], {}):
        (path.parent / "config.json").write_text(json.dumps(told))
        assert transformers_clip.quick_gelu_of_config(path, 768, 12) is None
    (path.parent / "config.json").write_text("{")
    assert transformers_clip.quick_gelu_of_config(path, 768, 12) is None
    assert "quick gelu" in open_clip_files.load(path).name, "as of any B/32 in this format"
    assert "quick gelu" not in open_clip_files.load(path, "gelu").name, "the user's word counts"


def test_what_the_config_leaves_out_is_transformers_own_default(file: Path, tmp_path: Path) -> None:
    told = {"model_type": "clip", "vision_config": {"hidden_size": 768, "num_hidden_layers": 12}}
    assert transformers_clip.quick_gelu_of_config(beside(file, tmp_path / "clip", told), 768, 12) is True


def test_bad_files(network: CLIPModel, tmp_path: Path) -> None:
    state = {key: value.contiguous() for key, value in network.state_dict().items()}
    cases = {
        "vision": ({k: v for k, v in state.items() if k.startswith("vi")}, r"one tower.*text_model.*Scorer from CLIP"),
        "text": ({k: v for k, v in state.items() if k.startswith("te")}, r"one tower.*vision_model"),
        "part": ({k: v for k, v in state.items() if "layers.3.self_attn.k_proj" not in k}, r"lacks .*layers\.3"),
        "bare": ({k: v for k, v in state.items() if "projection" not in k}, "looks like ViT-B-32, but lacks 2"),
        "long": ({**state, "text_model.embeddings.position_embedding.weight": torch.zeros(248, 512)}, "another model"),
        "odd": ({**state, "text_model.embeddings.token_embedding.weight": torch.zeros(9, 8)}, "unknown shape"),
    }
    for name, (weights, said) in cases.items():
        path = tmp_path / f"{name}.safetensors"
        save_file(weights, path)
        with pytest.raises(UnknownScorer, match=said):
            open_clip_files.load(path)
        path.unlink()


def test_square_pictures_are_seen_nearly_as_clips_processor_sees_them() -> None:
    """PickScore's and CLIP's own preprocessing is bicubic with a center crop, ours bilinear, both antialiased; of wide
    pictures ours sees all, in several squares."""
    picture = torch.from_numpy(render(sets.scene("tune", 50, 3))[0])
    processor = CLIPImageProcessor(do_normalize=False)
    large = picture.movedim(-1, 0)
    wanted = processor(large, return_tensors="pt")["pixel_values"][0]
    seen = crops.look(large / 255, crops.whole(*large.shape[-2:]), 224)[0]
    assert (seen - wanted).abs().mean() < 0.005 and (seen - wanted).abs().max() > 0
    wide = torch.cat([large, large.flip(-1)], dim=-1)
    squares = crops.look(wide / 255, crops.whole(*wide.shape[-2:]), 224)
    middle = processor(wide, return_tensors="pt")["pixel_values"][0]
    assert len(squares) == 2 and (squares - middle).abs().mean() > 0.01
