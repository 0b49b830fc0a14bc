"""Regions on Anima, whose model turns the encoder's tokens into those of T5 before it draws."""

from __future__ import annotations

from functools import partial
from typing import Any
from unittest import mock

import comfy.ldm.anima.model
import comfy.model_base
import comfy.supported_models
import pytest
import techniques
import tiny_models as tiny
import tiny_transformers as dit
import torch
from torch import Tensor

from fovea.guidance.regions.masks import Region, Regions
from fovea.guidance.regions.prompt_regions import MARK
from fovea.nodes.regions import FoveaDenseDiffusion


class Encoder:
    """What ComfyUI's text encoder for Anima gives, a word a token: features of one tokenizer, ids of the other."""

    def tokenize(self, text: str, return_word_ids: bool = False) -> dict[str, list]:
        words = [(sum(map(ord, word)) % 90 + 1, 1.0, n + 1) for n, word in enumerate(text.split())] or [(1, 1.0, 0)]
        tokens = [word if return_word_ids else word[:2] for word in words]
        return {"qwen3_06b": [tokens + tokens[:1]], "t5xxl": [tokens]}

    def encode_from_tokens_scheduled(self, tokens: dict[str, list]) -> list:
        ids = [entry[0] for entry in tokens["t5xxl"][0]]
        rows = [torch.randn(32, generator=torch.Generator().manual_seed(entry[0])) for entry in tokens["qwen3_06b"][0]]
        return [[torch.stack(rows)[None], {"pooled_output": None, "t5xxl_ids": torch.tensor(ids, dtype=torch.int),
                                           "t5xxl_weights": torch.ones(len(ids))}]]  # fmt: skip


@pytest.fixture(scope="module")
def model() -> Any:
    small = partial(comfy.ldm.anima.model.LLMAdapter, source_dim=32, target_dim=32, model_dim=32, num_layers=1,
                    num_heads=2)  # fmt: skip
    config = {**dit.KINDS["cosmos"].config, "image_model": "anima", "dtype": torch.float32}
    with mock.patch.object(comfy.ldm.anima.model, "LLMAdapter", small):  # the real one is 1024 wide
        network = comfy.model_base.Anima(comfy.supported_models.Anima(config), device=tiny.CPU)
    tiny.initialize(network.diffusion_model, 0, 1.0)
    return comfy.model_patcher.ModelPatcher(network, tiny.CPU, tiny.CPU)


def steered(model: Any, **settings: Any) -> tuple[Any, list, list, str]:
    left, right = techniques.halves(8, 12).items
    regions = Regions((Region(left.mask, "a red star"), Region(right.mask, "one blue circle")))
    with torch.inference_mode():
        given = {"model": model, "clip": Encoder(), "regions": regions, "prompt": "two things"}
        return techniques.outputs(FoveaDenseDiffusion, **given, **settings)


def sample(model: Any, positive: list, negative: list) -> Tensor:
    return tiny.sample(model, torch.randn(1, 16, 1, 16, 24, generator=torch.Generator().manual_seed(1)), cfg=3.0,
                       steps=2, positive=positive, negative=negative)  # fmt: skip


def far(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def test_words_of_regions_are_tokens_of_their_own(model: Any) -> None:
    _, positive, _, report = steered(model)
    (features, options), *_ = positive
    assert "t5xxl_ids" not in options and features.shape[1] == 512 + 3 + 3
    assert options[MARK].tokens == ((512, 513, 514), (515, 516, 517)) and options[MARK].appended == 512
    assert "appended" in report


def test_what_is_appended_is_not_seen_where_nothing_steers(model: Any) -> None:
    """Where steering begins after the last step, the prompt alone acts, as ComfyUI encodes it itself."""
    with torch.inference_mode():
        plain = Encoder().encode_from_tokens_scheduled(Encoder().tokenize("two things"))
        empty = Encoder().encode_from_tokens_scheduled(Encoder().tokenize(""))
    patched, positive, negative, _ = steered(model, start_percent=0.95, end_percent=1.0)
    wanted = sample(model, plain, empty)
    assert far(sample(patched, positive, negative), wanted) < 2e-4
    assert far(sample(model, positive, negative), wanted) > 2e-3, "twin: else what is appended is seen"


def test_regions_change_the_picture(model: Any) -> None:
    patched, positive, negative, _ = steered(model)
    got = sample(patched, positive, negative)
    assert torch.isfinite(got).all() and not torch.allclose(got, sample(model, positive, negative), atol=1e-3)
