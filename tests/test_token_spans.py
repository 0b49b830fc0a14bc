"""Phrases found in prompts, with ComfyUI's real tokenizers; the painter answers the same table (browser tests)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_encoders import encoder, sd15_encoder

from fovea.guidance.token_spans import Letters, letters_of, occurrences, word_tokens

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
    matches = occurrences(prompt, letters(clip, name, case["phrase"]))
    assert len(matches) == len(case["found"])
    pieces = {piece.token: piece.letters for piece in prompt.pieces}
    for match, wanted in zip(matches, case["found"]):
        there = "".join(pieces[token] for token in match.tokens)
        bare = "".join(letters(clip, name, wanted).text.split())
        assert bare in there and len(there) <= len(bare) + 2, "and no more than marks that hang on"
        assert len(match.pairs) >= len(match.tokens) - 2 and {own for own, _ in match.pairs} <= set(match.tokens)


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
