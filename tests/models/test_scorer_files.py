"""Scorers from what is loaded already, CLIP_VISION with its text tower, and from the package imscore."""

from __future__ import annotations

import contextlib
import copy
import socket
from collections.abc import Callable
from inspect import getfile
from pathlib import Path
from typing import Any

import comfy.clip_vision
import comfy.model_management as mm
import comfy.sd
import comfy.sd1_clip
import comfy.text_encoders.sd2_clip
import comfy.utils
import open_clip
import pytest
import torch
from comfy.supported_models_base import ClipTarget
from huggingface_hub import constants, hf_hub_download
from torch import Tensor
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

from fovea.guidance.noise_optimization.losses import SalientLoss, in_one, square_losses
from fovea.models.scorers import aesthetic, comfy_clip, imscore
from fovea.models.shapesworld.loader import load_clip

WIDE, LAYERS, HEADS, SIDE = 64, 3, 2, 64
TEXT = "a plain red star"
TOKENIZER = Path(getfile(comfy.sd1_clip)).parent / "sd1_tokenizer"
pictures = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def network() -> Any:
    """A small CLIP of open_clip's, whose weights ComfyUI's towers get."""
    torch.manual_seed(0)
    vision = {"image_size": SIDE, "layers": LAYERS, "width": WIDE, "patch_size": 16, "head_width": WIDE // HEADS}
    text = {"context_length": 77, "vocab_size": 49408, "width": WIDE, "heads": HEADS, "layers": LAYERS}
    return open_clip.CLIP(WIDE, vision, text).eval()


def clip_vision(network: Any, wide: int = WIDE) -> comfy.clip_vision.ClipVisionModel:
    made = comfy.clip_vision.ClipVisionModel({
        "model_type": "clip_vision_model", "image_size": SIDE, "hidden_size": WIDE, "intermediate_size": 4 * WIDE,
        "num_attention_heads": HEADS, "num_hidden_layers": LAYERS, "patch_size": 16, "num_channels": 3,
        "projection_dim": wide, "hidden_act": "gelu",
    })  # fmt: skip
    if wide == WIDE:
        state = {f"visual.{k}": v.clone() for k, v in network.visual.state_dict().items()}
        missing, _ = made.load_sd(comfy.clip_vision.convert_to_transformers(state, "visual."))
        assert not missing
    return made


def clip_h(network: Any) -> comfy.sd.CLIP:
    """SD2's text encoder, small."""
    sizes = {"hidden_size": WIDE, "intermediate_size": 4 * WIDE, "num_attention_heads": HEADS,
             "num_hidden_layers": LAYERS}  # fmt: skip
    sd2 = comfy.text_encoders.sd2_clip
    clip = comfy.sd.CLIP(ClipTarget(sd2.SD2Tokenizer, sd2.SD2ClipModel), model_options={"clip_h_model_config": sizes})
    state = {f"x.{k}": v.clone() for k, v in network.state_dict().items() if not k.startswith("visual.")}
    state["x.text_projection.weight"] = state.pop("x.text_projection").T.contiguous()
    found = comfy.utils.clip_text_transformers_convert(state, "x.", "")
    clip.cond_stage_model.clip_h.transformer.load_state_dict(found, strict=False)
    return clip


@pytest.fixture(scope="module")
def pair(network: Any) -> comfy_clip.ClipPairScorer:
    with torch.inference_mode():  # as a server's loaders
        vision, clip = clip_vision(network), clip_h(network)
    return comfy_clip.clip_pair(vision, clip)


def test_a_pair_is_open_clips_network(network: Any, pair: comfy_clip.ClipPairScorer) -> None:
    mean, std = (torch.tensor(v)[:, None, None] for v in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD))
    with torch.no_grad():
        images = network.encode_image((pictures - mean) / std)
        words = network.encode_text(open_clip.tokenize([TEXT]))
    for got, wanted in ((pair.image(pictures), images), (pair.text([TEXT]), words)):
        assert (got - wanted).norm() < 0.01 * wanted.norm()  # ComfyUI keeps these towers in half precision
    assert pair.truncated_tokens(TEXT) == 0 and pair.truncated_tokens("star " * 100) > 20
    leaf = pictures.clone().requires_grad_()
    square_losses(pair, leaf, pair.target(TEXT)).sum().backward()
    assert leaf.grad is not None and leaf.grad.abs().amax() > 0
    cosine = torch.nn.functional.cosine_similarity(images, words)
    values = pair.scores(square_losses(pair, pictures, pair.target(TEXT)))
    torch.testing.assert_close(values, 100 * cosine, rtol=0.01, atol=0.2)


def test_a_head_on_a_pair_has_its_gradient(pair: comfy_clip.ClipPairScorer) -> None:
    """ComfyUI's towers overwrite what autograd keeps, with a head too: against finite differences."""
    head = {"weight": torch.randn(1, WIDE, generator=torch.Generator().manual_seed(2)), "bias": torch.zeros(1)}
    rating = aesthetic.with_clip(head, "head.pth", pair)

    def loss(squares: Tensor) -> Tensor:
        return square_losses(rating, squares, None).sum()

    leaf = pictures.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(leaf), leaf)
    step = 0.05 * gradient / gradient.norm()
    with torch.no_grad():
        rise = float(loss(pictures + step) - loss(pictures - step))
    assert rise == pytest.approx(0.1 * float(gradient.norm()), rel=0.1)


def test_words_are_projected_in_single_precision(pair: comfy_clip.ClipPairScorer) -> None:
    """Whatever their weights are kept in: --fp8_e4m3fn-text-enc keeps this one in 8 bits."""
    clip = load_clip()
    scorer = comfy_clip.ComfyClipScorer("small", SIDE, pair.patcher, clip)
    project = clip.cond_stage_model.clip_l.transformer.text_projection
    project.weight = torch.nn.Parameter(project.weight.detach().to(torch.float8_e4m3fn), requires_grad=False)
    pooled = clip.encode_from_tokens(clip.tokenize(TEXT), return_pooled="unprojected")[1]
    torch.testing.assert_close(scorer.text([TEXT]), pooled.float() @ project.weight.float().T, rtol=1e-4, atol=1e-4)


def test_what_was_not_trained_together_is_refused(network: Any) -> None:
    with pytest.raises(comfy_clip.NoPair, match="not trained together"):
        comfy_clip.clip_pair(clip_vision(network, 32), clip_h(network))
    with pytest.raises(comfy_clip.NoPair, match="Load Scorer"):
        comfy_clip.clip_pair(clip_vision(network), load_clip())


@pytest.mark.parametrize("memory", [0.0, float("nan"), 1e30])
def test_a_vision_file_without_its_projection_is_refused(network: Any, memory: float) -> None:
    """ComfyUI loads such a file with a warning and leaves the projection as the memory was."""
    vision = clip_vision(network)
    state = vision.get_sd()
    whole = state.pop("visual_projection.weight").clone()
    with torch.no_grad():
        vision.model.visual_projection.weight[1:] = memory
    missing, _ = vision.load_sd(state)
    assert missing == ["visual_projection.weight"]
    with pytest.raises(comfy_clip.NoPair, match=r"no projection.*whole CLIP vision file"):
        comfy_clip.clip_pair(vision, clip_h(network))
    vision.load_sd({**state, "visual_projection.weight": whole})
    comfy_clip.clip_pair(vision, clip_h(network))


UNTRAINED: dict[str, Callable[[Tensor], Tensor | None]] = {
    "zeros": torch.zeros_like,
    "ones, as kohya's scripts have it": torch.ones_like,
    "equal rows": lambda weight: weight[:1].expand_as(weight).clone(),
    "what was in the memory": lambda weight: torch.full_like(weight, torch.nan),
    "no memory yet": lambda weight: torch.empty_like(weight, device="meta"),
    "no weight": lambda weight: None,
}


@pytest.mark.parametrize("kind", UNTRAINED)
def test_a_clip_without_a_trained_text_projection_is_refused(network: Any, kind: str) -> None:
    vision, clip = clip_vision(network), clip_h(network)
    comfy_clip.clip_pair(vision, clip)
    projection = clip.cond_stage_model.clip_h.transformer.text_projection
    found = UNTRAINED[kind](projection.weight.detach())
    projection.weight = None if found is None else torch.nn.Parameter(found, requires_grad=False)
    with pytest.raises(comfy_clip.NoPair, match=r"text projection.*original SD2 or SDXL checkpoint.*Load Scorer"):
        comfy_clip.clip_pair(vision, clip)


def test_a_network_of_another_package_is_loaded_as_a_whole(network: Any, pair: comfy_clip.ClipPairScorer) -> None:
    """Where memory is scarce, too: its layers cannot fetch what is left on the CPU, as ComfyUI's own can."""
    elsewhere = comfy_clip.patched(copy.deepcopy(network)).clone()
    elsewhere.partially_load(torch.device("meta"), 1)
    assert {each.device.type for each in (*elsewhere.model.parameters(), *elsewhere.model.buffers())} == {"meta"}
    assert elsewhere.partially_unload(torch.device("cpu"), 1) == 0
    patcher = comfy_clip.patched(copy.deepcopy(network))
    loaded = mm.LoadedModel(patcher)
    loaded.model_load(1)
    assert patcher.loaded_size() == patcher.model_size()
    assert loaded.model_unload(1) and patcher.loaded_size() == 0, "asked for a byte, ComfyUI gets all of it"
    assert not isinstance(pair.patcher, comfy_clip.WholePatcher)


@pytest.fixture(scope="module")
def preference(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """imscore's own class around a small CLIP, as its constructor finds one on disk."""
    from imscore.preference.model import CLIPScore

    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    sizes = {"hidden_size": WIDE, "intermediate_size": WIDE, "num_attention_heads": HEADS, "num_hidden_layers": 2}
    config = CLIPConfig(
        text_config={**sizes, "eos_token_id": 49407}, vision_config={**sizes, "image_size": 224, "patch_size": 32},
        projection_dim=WIDE,
    )  # fmt: skip
    CLIPModel(config).save_pretrained(folder)
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER, model_max_length=77)
    CLIPProcessor(CLIPImageProcessor(), tokenizer).save_pretrained(folder)
    model = CLIPScore(str(folder))
    return model, imscore.wrap("CLIP score L/14", model)


def test_imscore_rates(preference: tuple[Any, Any]) -> None:
    model, scorer = preference
    large = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted = model.score(large, [TEXT] * 2)
    found = SalientLoss(weight=0.0)(scorer, scorer.target(TEXT), large, None, [torch.Generator()] * 2)
    torch.testing.assert_close(scorer.scores(found).detach(), wanted, rtol=1e-3, atol=1e-3)
    assert scorer.unit == "CLIP score L/14"
    assert scorer.truncated_tokens(TEXT) == 0 and scorer.truncated_tokens("star " * 100) == 25
    leaf = large.clone().requires_grad_()
    square_losses(scorer, leaf, scorer.target(TEXT)).sum().backward()
    assert leaf.grad is not None and leaf.grad.abs().amax() > 0


def test_imscore_downloads_nothing_unasked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With an empty cache, and with one that has a scorer's own weights but not what its constructor needs."""
    assert "imscore: CLIP score L/14" in imscore.names()
    kind = imscore.KINDS["CLIP score L/14"]
    assert imscore.not_here(kind, tmp_path / "none") == [kind.repo, *kind.needs]
    folder = tmp_path / f"models--{kind.repo.replace('/', '--')}" / "snapshots" / ("0" * 40)
    (folder / "x").mkdir(parents=True)
    assert imscore.not_here(kind, tmp_path) == list(kind.needs)
    asked: list[str] = []
    for name, kind in imscore.KINDS.items():
        monkeypatch.setattr(imscore.class_of(kind), "from_pretrained", lambda repo, **_: asked.append(repo))
        with pytest.raises(imscore.ImscoreMissing, match=f"hf download {kind.repo}"):
            imscore.load(imscore.PREFIX + name, allow_download=False)
    assert asked == []


@pytest.mark.parametrize("allowed", [False, True])
def test_a_part_of_a_repository_is_not_completed_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed: bool
) -> None:
    """imscore's constructors ask the hub for more and do not pass on that nothing may be downloaded."""
    kind, asked = imscore.KINDS["CLIP score L/14"], []

    def refused(*_: Any, **__: Any) -> Any:
        asked.append(True)
        raise OSError("no net")

    def half(*_: Any, **__: Any) -> None:
        with contextlib.suppress(Exception):
            hf_hub_download(kind.repo, "model.safetensors", cache_dir=tmp_path)
        raise FileNotFoundError("model.safetensors is not there")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    monkeypatch.setattr(imscore, "not_here", lambda _: [])
    monkeypatch.setattr(imscore.class_of(kind), "from_pretrained", half)
    with pytest.raises(imscore.ImscoreMissing, match=r"model\.safetensors is not there") as error:
        imscore.load(imscore.PREFIX + "CLIP score L/14", allow_download=allowed)
    assert bool(asked) == allowed and constants.HF_HUB_OFFLINE is False
    commands = [f"hf download {repo}" in str(error.value) for repo in (kind.repo, *kind.needs)]
    assert commands == [not allowed] * 2


def test_hps_of_imscore_sees_whole_pictures(preference: tuple[Any, Any]) -> None:
    picture = torch.rand(3, 32, 64)
    hps = imscore.wrap("HPS v2.1", torch.nn.Linear(1, 1))
    assert hps.letterbox and in_one(hps, picture).shape == (1, 3, 224, 224)
    assert in_one(preference[1], picture) is None


def test_without_the_package_nothing_is_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert imscore.names() == []
