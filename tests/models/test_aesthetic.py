"""Heads of aesthetic predictors on a CLIP: the published layouts, ratings by hand, gradients, clear refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from fovea.models.scorers import aesthetic, files
from fovea.models.scorers.comfy_clip import patched
from fovea.models.scorers.open_clip import OpenClipScorer, UnknownScorer
from fovea.nodes.scorers import SHAPESWORLD, FoveaLoadScorer, FoveaScoreImages, score_text

WIDTHS = (768, 1024, 128, 64, 16, 1)
LINEAR, RELU = (0, 2, 4, 6, 7), (0, 3, 6, 9, 11)
pictures = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def state(places: tuple[int, ...] = LINEAR) -> dict[str, Tensor]:
    """Random weights under the published names."""
    torch.manual_seed(0)
    layers = [nn.Linear(inner, outer) for inner, outer in zip(WIDTHS, WIDTHS[1:])]
    return {f"layers.{place}.{name}": value.detach() for place, layer in zip(places, layers)
            for name, value in layer.state_dict().items()}  # fmt: skip


FLAT = {"weight": torch.randn(1, 768, generator=torch.Generator().manual_seed(2)), "bias": torch.tensor([5.0])}


def clip(quick: bool = True, width: int = 768) -> OpenClipScorer:
    """A small CLIP with vectors as long as ViT-L/14's."""
    torch.manual_seed(0)
    vision = {"image_size": 64, "layers": 2, "width": 64, "patch_size": 16, "head_width": 32}
    text = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1}
    network = open_clip.CLIP(width, vision, text, quick_gelu=quick)
    return OpenClipScorer("small", 64, 77, patched(network), open_clip.get_tokenizer("ViT-L-14"), quick=quick)


def by_hand(weights: dict[str, Tensor], places: tuple[int, ...], vectors: Tensor, relu: bool) -> Tensor:
    x = vectors / vectors.norm(dim=-1, keepdim=True)
    for place in places:
        x = x @ weights[f"layers.{place}.weight"].T + weights[f"layers.{place}.bias"]
        x = x.clamp_min(0) if relu and place != places[-1] else x
    return x[:, 0]


@pytest.mark.parametrize("places, relu", [(LINEAR, False), (RELU, True)])
def test_the_improved_predictor(places: tuple[int, ...], relu: bool) -> None:
    """linearMSE has no activations between its layers, reluMSE has: the places of the layers tell them apart."""
    given = clip()
    scorer = aesthetic.with_clip(state(places), "head.pth", given)
    vectors = given.image(pictures).detach()
    found = scorer.scores(scorer.losses(pictures, scorer.target("anything")))
    torch.testing.assert_close(found, by_hand(state(places), places, vectors, relu))
    assert (found - by_hand(state(places), places, vectors, not relu)).abs().min() > 1e-5


def test_the_first_predictor() -> None:
    given = clip()
    scorer = aesthetic.with_clip(FLAT, "sa_0_4_vit_l_14_linear.pth", given)
    vectors = nn.functional.normalize(given.image(pictures).detach(), dim=-1)
    found = scorer.scores(scorer.losses(pictures, None))
    torch.testing.assert_close(found, vectors @ FLAT["weight"][0] + 5)
    assert scorer.size == 64 and scorer.patcher is given.patcher and not scorer.reads_prompt


def test_its_gradient_leads_upward() -> None:
    scorer = aesthetic.with_clip(FLAT, "head.pth", clip())
    with torch.inference_mode():  # as Score Images on a server, after which gradients are still wanted
        scorer.losses(pictures, None)
    leaf = pictures.clone().requires_grad_()
    before = scorer.losses(leaf, None)
    (gradient,) = torch.autograd.grad(before.sum(), leaf)
    after = scorer.losses(pictures - 0.01 * gradient / gradient.abs().amax(), None)
    assert (after < before).all()


@pytest.fixture
def folder(tmp_path: Path, model_folder) -> Path:
    """models/scorers of this test alone."""
    model_folder(files.FOLDER, tmp_path)
    return tmp_path


def loaded(file: str, **more: Any) -> Any:
    with torch.inference_mode():
        return FoveaLoadScorer.execute(file, "auto", **more).result[0]


def test_through_the_nodes(folder: Path) -> None:
    """A head and its CLIP, one Load Scorer after the other; the order of pictures is that of the ratings."""
    torch.save(state(), folder / "sac+logos+ava1-l14-linearMSE.pth")
    save_file(FLAT, folder / "flat.safetensors")
    given = clip()
    for file in ("sac+logos+ava1-l14-linearMSE.pth", "flat.safetensors"):
        assert file in files.names()
        scorer = loaded(file, clip_scorer=given)
        with torch.inference_mode():
            image = pictures.movedim(1, -1)
            first, _, report = FoveaScoreImages.execute(image, scorer, "a dog").result
        ratings = scorer.scores(scorer.losses(pictures, None))
        assert torch.equal(first, image[ratings.argsort(descending=True)]) and "not at the prompt" in report
        assert f"{score_text(float(ratings.max()))}  picture {int(ratings.argmax()) + 1}" in report
        with pytest.raises(UnknownScorer, match=r"OpenAI's ViT-L/14.*input clip_scorer"):
            loaded(file)
        with pytest.raises(UnknownScorer, match="input clip_scorer"):
            loaded(file, clip_scorer=scorer)
    with pytest.raises(ValueError, match="disconnect"):
        loaded(SHAPESWORLD, clip_scorer=given)


def test_the_wrong_clip_is_refused() -> None:
    with pytest.raises(UnknownScorer, match=r"vectors of 768, small gives 512"):
        aesthetic.with_clip(FLAT, "head.pth", clip(width=512))
    with pytest.raises(UnknownScorer, match="another training"):
        aesthetic.with_clip(FLAT, "head.pth", clip(quick=False))
    with pytest.raises(UnknownScorer, match="input clip_scorer"):
        aesthetic.with_clip(FLAT, "head.pth", loaded(SHAPESWORLD))


def test_reading_a_head_draws_no_random_numbers() -> None:
    weights = state()
    before = torch.get_rng_state()
    aesthetic.read_head(weights, "head.pth")
    assert torch.equal(torch.get_rng_state(), before)


def test_bad_heads(folder: Path) -> None:
    whole = state()
    cases = {
        "layout": ({key.replace("7", "9"): value for key, value in whole.items()}, "Known are the heads"),
        "bias": ({key: value for key, value in whole.items() if key != "layers.4.bias"}, "incomplete head"),
        "sizes": ({**whole, "layers.4.weight": torch.zeros(64, 100)}, "incomplete head"),
        "many": ({"weight": torch.zeros(3, 768), "bias": torch.zeros(3)}, "3 numbers"),
        "flat": ({"weight": torch.zeros(768), "bias": torch.zeros(1)}, "incomplete head"),
        "other": ({"layers.a.weight": torch.zeros(2, 2)}, "no CLIP"),
    }
    for name, (weights, said) in cases.items():
        save_file({key: value.clone() for key, value in weights.items()}, folder / f"{name}.safetensors")
        with pytest.raises(UnknownScorer, match=said):
            loaded(f"{name}.safetensors", clip_scorer=clip())
    (folder / "cut.pth").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(UnknownScorer, match="damaged"):
        loaded("cut.pth", clip_scorer=clip())
