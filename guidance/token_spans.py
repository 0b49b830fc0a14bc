"""Which tokens of an encoded prompt belong to a phrase.

Phrases are found by their letters, not by token numbers: CLIP's tokenizer makes one token of neighboring marks, so
"a dog!" ends in "!" by itself and in "!," in a list. web/js/painter/phrases.js does the same on plain text; both answer
tests/phrase_cases.json.
"""

from __future__ import annotations

import hashlib
import string
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch

Entry = tuple[Any, ...]  # id (or an embedding's vector), weight, word number (0: start, end or padding)
Tokens = Mapping[str, Sequence[Sequence[Entry]]]  # encoder -> sections of entries
CLIP_ENCODERS = ("l", "g", "h", "clip_l", "clip_g", "clip_h")
_UNKNOWN = "\ue000"  # private use: stands before what has no letters, so that it is found by identity


class Tokenizer(Protocol):
    """The part of ComfyUI's CLIP that is needed."""

    def tokenize(self, text: str, return_word_ids: bool = False) -> Tokens:
        """A text's tokens by encoder; each has its word number only with return_word_ids."""
        ...


class Piece(NamedTuple):
    """One token's letters. token: its place in the prompt; start: of its letters in the whole text."""

    token: int
    start: int
    letters: str


@dataclass(frozen=True)
class Letters:
    """A tokenized text as letters, with a blank between words."""

    text: str
    pieces: tuple[Piece, ...]


class Match(NamedTuple):
    """Where a phrase stands in a prompt. tokens: of the prompt. pairs: (prompt token, phrase token) that are the same
    token; those at the ends may differ, as "!," does from "!"."""

    tokens: tuple[int, ...]
    pairs: tuple[tuple[int, int], ...]


def letters_of(clip: Any, encoder: str, sections: Sequence[Sequence[Entry]]) -> Letters:
    """The letters of one encoder's tokens; start, end and padding have none."""
    vocabulary = _vocabulary(clip, encoder)
    text, pieces = "", []
    for place, entry in enumerate(entry for section in sections for entry in section):
        if not entry[2]:
            continue
        piece = _piece(entry[0], vocabulary)
        if piece.startswith(" ") and not text.endswith(" "):
            text += " "
        pieces.append(Piece(place, len(text), piece.strip()))
        text += piece.lstrip()
    return Letters(text, tuple(pieces))


def _vocabulary(clip: Any, encoder: str) -> Mapping[int, str]:
    """Token number -> letters, of ComfyUI's tokenizers that keep one."""
    tokenizer = getattr(clip, "tokenizer", None)
    for name in (encoder, f"clip_{encoder}"):
        vocabulary = getattr(getattr(tokenizer, name, None), "inv_vocab", None)
        if vocabulary is not None:
            return vocabulary
    return {}


def _piece(token: Any, vocabulary: Mapping[int, str]) -> str:
    """A token's letters, with a blank where a word ends (CLIP) or begins (T5 and others)."""
    if isinstance(token, torch.Tensor):  # an embedding: found where the same vector stands
        return f"{_UNKNOWN}{hashlib.sha1(token.detach().float().cpu().numpy().tobytes()).hexdigest()} "
    piece = vocabulary.get(token) if isinstance(token, int) else None
    if piece is None:
        return f"{_UNKNOWN}{token if isinstance(token, int) else id(token)} "
    if piece.endswith("</w>"):
        return piece.removesuffix("</w>") + " "
    return " " + piece[1:] if piece[:1] in ("\u2581", "\u0120") else piece


def occurrences(prompt: Letters, phrase: Letters) -> list[Match]:
    """All places of a phrase in a prompt, in order and without overlaps: "very very" is once in "very very very".

    A phrase begins and ends at the border of a word or beside a mark: "cat" is not in "catalog".
    """
    wanted = phrase.text.strip()
    lead = phrase.text.find(wanted)
    matches: list[Match] = []
    start = prompt.text.find(wanted) if wanted else -1
    while start >= 0:
        end = start + len(wanted)
        if _is_border(prompt.text, start) and _is_border(prompt.text, end):
            matches.append(_match(prompt, phrase, start, end, lead))
        else:
            end = start + 1
        start = prompt.text.find(wanted, end)
    return matches


def _is_border(text: str, at: int) -> bool:
    around = text[max(0, at - 1) : at + 1]
    return at in (0, len(text)) or any(letter == " " or is_mark(letter) for letter in around)


def is_mark(letter: str) -> bool:
    """Punctuation and symbols. Latin-1's count as letters: CLIP's vocabulary writes the bytes of other scripts so."""
    if letter in string.punctuation:
        return True
    return ord(letter) > 0xFF and unicodedata.category(letter)[0] in "PS"


def _match(prompt: Letters, phrase: Letters, start: int, end: int, lead: int) -> Match:
    """What stands at [start, end) of the prompt; the phrase's own letters begin at `lead`."""
    there = [piece for piece in prompt.pieces if piece.start < end and piece.start + len(piece.letters) > start]
    own = {(piece.start - lead, piece.letters): piece.token for piece in phrase.pieces}
    pairs = tuple(
        (piece.token, own[piece.start - start, piece.letters])
        for piece in there
        if (piece.start - start, piece.letters) in own
    )
    return Match(tuple(piece.token for piece in there), pairs)


def word_tokens(clip: Any, tokens: Tokens, length: int) -> tuple[int, ...] | None:
    """Places of the words in a prompt that was encoded to `length` tokens, each section's end token included; None
    where it is not known how this encoder's tokens lie in it."""
    layout = _layout(clip, tokens, length)
    if layout is None:
        return None
    indices = []
    for name, offset in layout:
        flat = [entry for section in tokens[name] for entry in section]
        words = [i for i, entry in enumerate(flat) if entry[2]]
        ends = [i + 1 for i in words if i + 1 < len(flat) and not flat[i + 1][2]]
        indices += [offset + i for i in sorted({*words, *ends})]
    return tuple(indices)


def phrase_tokens(clip: Tokenizer, text: str, phrase: str, length: int) -> tuple[int, ...]:
    """Indices of a phrase's tokens in a prompt encoded to `length` tokens; all places where the phrase occurs.

    Knows encoders of the CLIP and T5 kinds, alone and one after the other. Raises ValueError that tells what to do if
    the phrase is not in the text, the text is not what the prompt was made from, or the encoder is another one.
    """
    text_tokens = clip.tokenize(text, return_word_ids=True)
    phrase_ids = clip.tokenize(phrase, return_word_ids=True)
    encoders = _encoders(clip, text_tokens)
    if not encoders:
        raise ValueError(f"Phrases cannot be told in this text encoder ({', '.join(text_tokens)}): leave phrase empty.")
    layout = _layout(clip, text_tokens, length)
    if layout is None:
        count = sum(len(section) for section in text_tokens[encoders[0]])
        raise ValueError(
            f"The conditioning has {length} tokens, the text {count}. Give the text (and the CLIP) that the "
            "conditioning was made from."
        )
    indices: list[int] = []
    for name, offset in layout:
        prompt, wanted = (letters_of(clip, name, tokens[name]) for tokens in (text_tokens, phrase_ids))
        indices += [offset + i for match in occurrences(prompt, wanted) for i in match.tokens]
    if not indices:
        raise ValueError(f"The phrase {phrase!r} does not occur in the text {text!r}.")
    return tuple(indices)


def _encoders(clip: Any, tokens: Tokens) -> list[str]:
    """One of the CLIP encoders, which read the same tokens side by side (SDXL, SD3), and T5; without those that a
    model can do without and was loaded without."""
    model = getattr(clip, "cond_stage_model", None)
    there = [name for name in tokens
             if all(getattr(model, each, True) is not None for each in (name, f"clip_{name}"))]  # fmt: skip
    groups = (
        next((name for name in CLIP_ENCODERS if name in there), None),
        next((name for name in there if "t5" in name), None),
    )
    return [name for name in groups if name is not None]


def _layout(clip: Any, tokens: Tokens, length: int) -> list[tuple[str, int]] | None:
    """Which encoders' tokens lie one after the other in a prompt of this length, each with its first place."""
    encoders = _encoders(clip, tokens)
    lengths = {name: sum(len(section) for section in tokens[name]) for name in encoders}
    for names in [encoders, *([name] for name in encoders)]:
        if names and sum(lengths[name] for name in names) == length:
            return [(name, sum(lengths[before] for before in names[:at])) for at, name in enumerate(names)]
    if len(encoders) == 1 and _used(tokens[encoders[0]]) <= length < lengths[encoders[0]]:
        return [(encoders[0], 0)]  # the padding behind the last word is left out
    return None


def _used(sections: Sequence[Sequence[Entry]]) -> int:
    """How many tokens there are up to the end token behind the last word."""
    flat = [entry for section in sections for entry in section]
    return max((i + 2 for i, entry in enumerate(flat) if entry[2]), default=2)
