"""Phrases found in prompts, with ComfyUI's real tokenizers; the painter answers the same table (browser tests)."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.text_encoders.anima
import comfy.text_encoders.hidream
import comfy.text_encoders.hunyuan_image
import comfy.text_encoders.hunyuan_video
import comfy.text_encoders.kandinsky5
import pytest
import torch
from region_steps import PAPER, boxes
from tiny_encoders import encoder, sd15_encoder

from fovea.guidance.regions import prompt_encoding
from fovea.guidance.regions.masks import Region, Regions
from fovea.guidance.regions.prompt_regions import MARK
from fovea.guidance.token_spans import Letters, letters_of, occurrences, phrase_tokens, word_tokens

CASES = json.loads((Path(__file__).parent / "phrase_cases.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def clips() -> dict[str, Any]:
    return {"l": sd15_encoder(), "t5xxl": encoder("flux")}


def letters(clip: Any, name: str, text: str) -> Letters:
    return letters_of(clip, name, clip.tokenize(text, return_word_ids=True)[name])


@pytest.mark.parametrize("name", ["l", "t5xxl"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['phrase']} in {case['prompt']}")
def test_found_where_the_table_says(clips: dict[str, Any], name: str, case: dict[str, Any]) -> None:
    if name == "t5xxl" and case["prompt"] != case["prompt"].lower():
        case = {key: [v.lower() for v in value] if key == "found" else value.lower() for key, value in case.items()}
    clip = clips[name]
    prompt = letters(clip, name, case["prompt"])
    if b"<unk>" in prompt.text:
        pytest.skip("T5 knows no such letters")
    matches = occurrences(prompt, letters(clip, name, case["phrase"]))
    assert len(matches) == len(case["found"])
    pieces = {piece.token: piece.letters for piece in prompt.pieces}
    for match, wanted in zip(matches, case["found"]):
        there = b"".join(pieces[token] for token in match.tokens)
        bare = b"".join(letters(clip, name, wanted).text.split())
        more = there.replace(bare, b"").decode(errors="ignore")
        assert bare in there and len(more) <= 2, "and no more than marks that hang on"
        assert len(match.pairs) >= len(match.tokens) - 2 and {own for own, _ in match.pairs} <= set(match.tokens)


def test_scripts_without_blanks_in_vocabularies_that_write_them_out() -> None:
    """As UMT5, whose pieces are letters rather than bytes: beside Latin letters a phrase still ends with the word."""
    words = {1: "\u2581", 2: "\u4e00\u53ea", 3: "\u7ea2\u8272", 4: "\u7684", 5: "\u2581caf", 6: "\u00e9s"}
    clip = SimpleNamespace(tokenizer=SimpleNamespace(umt5xxl=SimpleNamespace(inv_vocab=words)))

    def of(*ids: int) -> Letters:
        return letters_of(clip, "umt5xxl", [[(each, 1.0, 1) for each in ids]])

    prompt = of(1, 2, 3, 4, 5, 6)
    assert [match.tokens for match in occurrences(prompt, of(1, 3))] == [(2,)]
    assert [match.pairs for match in occurrences(prompt, of(3, 4))] == [((2, 0), (3, 1))]
    assert occurrences(prompt, of(5)) == [], "beside a letter that CLIP writes the first byte of Chinese with"


def test_pairs_are_the_same_tokens(clips: dict[str, Any]) -> None:
    clip, text = clips["l"], "a cat and a happy dog!, a bird"
    ids = [entry[0] for entry in clip.tokenize(text)["l"][0]]
    own = [entry[0] for entry in clip.tokenize("a happy dog!")["l"][0]]
    (match,) = occurrences(letters(clip, "l", text), letters(clip, "l", "a happy dog!"))
    assert [ids[there] for there, _ in match.pairs] == [own[here] for _, here in match.pairs]
    assert len(match.tokens) == len(match.pairs) + 1, "the mark is another one there"


@pytest.mark.parametrize("name", ["flux", "sd3"])
def test_words_without_their_padding(name: str) -> None:
    """The words of a prompt and the token that ends it, where a text encoder pads to 77 or 256 tokens."""
    clip = encoder(name)
    tokens = clip.tokenize("a red star", return_word_ids=True)
    length = clip.encode_from_tokens_scheduled(clip.tokenize("a red star"))[0][0].shape[1]
    found = word_tokens(clip, tokens, length)
    count = sum(bool(entry[2]) for section in tokens["t5xxl"] for entry in section)
    assert found is not None and len(found) == count + 1 and found == tuple(range(count + 1))
    assert word_tokens(clip, tokens, length + 1) is None


class Tokenizer:
    """ComfyUI's tokenizers of models whose text encoders are too large for a test."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def tokenize(self, text: str, return_word_ids: bool = False) -> Any:
        return self.tokenizer.tokenize_with_weights(text, return_word_ids)


LANGUAGE_MODELS = {
    "Kandinsky 5": comfy.text_encoders.kandinsky5.Kandinsky5Tokenizer,
    "HunyuanVideo": comfy.text_encoders.hunyuan_video.HunyuanVideoTokenizer,
    "HunyuanImage": comfy.text_encoders.hunyuan_image.HunyuanImageTokenizer,
    "Anima": comfy.text_encoders.anima.AnimaTokenizer,
}


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_a_language_models_tokens_are_not_those_of_the_encoder_beside_it(name: str) -> None:
    """Whatever the length: CLIP-L gives the pooled vector there, and T5 numbers or quoted letters."""
    clip, text = Tokenizer(LANGUAGE_MODELS[name]()), 'Tyrannosaurus rex "OPEN"'
    tokens = clip.tokenize(text, return_word_ids=True)
    assert all(word_tokens(clip, tokens, length) is None for length in range(1, 200))
    for length in (7, 77):
        with pytest.raises(ValueError, match=rf"cannot be told in this text encoder \({', '.join(tokens)}\)"):
            phrase_tokens(clip, text, "rex", length)


def test_a_regions_prompt_is_whole_where_a_language_model_encodes_it() -> None:
    class Encoder(Tokenizer):
        """Five tokens for every prompt, of which none is padding."""

        def encode_from_tokens_scheduled(self, tokens: Any) -> list:
            return [[torch.ones(1, 5, 8), {}]]

    clip = Encoder(comfy.text_encoders.kandinsky5.Kandinsky5Tokenizer())
    regions = Regions(tuple(Region(mask, text) for mask, text in zip(boxes(), ("Tyrannosaurus rex", "a fern"))))
    encoded = prompt_encoding.positive(clip, "a valley", regions, "concat", True, PAPER)
    assert encoded.conditioning[0][1][MARK].tokens == (tuple(range(5, 10)), tuple(range(10, 15)))


def test_t5s_tokens_where_clips_are_as_many() -> None:
    """Flux and HiDream: the features are T5's alone."""
    flux = encoder("flux")
    text = "red fox, " + "a " * 25 + "the " * 253
    tokens = flux.tokenize(text, return_word_ids=True)
    t5, clip = (sum(len(section) for section in tokens[name]) for name in ("t5xxl", "l"))
    assert t5 == clip == flux.encode_from_tokens_scheduled(flux.tokenize(text))[0][0].shape[1] == 308
    assert word_tokens(flux, tokens, 308) == tuple(range(308)), "CLIP's begin behind a start token"
    found = phrase_tokens(flux, text, "red fox", 308)
    assert [flux.tokenizer.t5xxl.inv_vocab[tokens["t5xxl"][0][i][0]] for i in found] == ["\u2581red", "\u2581", "fox"]
    with pytest.raises(ValueError, match="has 385 tokens, the text 308"):
        phrase_tokens(flux, text, "red fox", 385)

    hidream = Tokenizer(comfy.text_encoders.hidream.HiDreamTokenizer())
    assert phrase_tokens(hidream, "a red fox", "red fox", 128) == phrase_tokens(flux, "a red fox", "red fox", 256)
