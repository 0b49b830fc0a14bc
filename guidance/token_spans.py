"""Which tokens of an encoded prompt belong to a phrase.

Phrases are found by their letters, not by token numbers: CLIP's tokenizer makes one token of neighboring marks, so
"a dog!" ends in "!" by itself and in "!," in a list. web/js/painter/phrases.js does the same on plain text; both answer
tests/phrase_cases.json.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch

Entry = tuple[Any, ...]  # id (or an embedding's vector), weight, word number (0: start, end or padding)
Tokens = Mapping[str, Sequence[Sequence[Entry]]]  # encoder -> sections of entries
CLIP_ENCODERS = ("l", "g", "h", "clip_l", "clip_g", "clip_h")  # whose tokens are those of OpenAI's CLIP
_T5_ALONE = ({"l", "t5xxl"}, {"l", "g", "t5xxl", "llama"})  # Flux, HiDream: the others go elsewhere
_UNKNOWN = "\ue000"  # private use: stands before what has no letters, so that it is found by identity
# Of scripts without blanks between words, as Unicode's names of their letters begin.
_UNSPACED = (
    "CJK ", "IDEOGRAPHIC ", "HIRAGANA ", "KATAKANA", "HALFWIDTH KATAKANA ", "THAI ", "LAO ", "KHMER ", "MYANMAR ",
)  # fmt: skip


class Tokenizer(Protocol):
    """The part of ComfyUI's CLIP that is needed."""

    def tokenize(self, text: str, return_word_ids: bool = False) -> Tokens:
        """A text's tokens by encoder; each has its word number only with return_word_ids."""
        ...


class Piece(NamedTuple):
    """One token's letters. token: its place in the prompt; start: of its letters in the whole text."""

    token: int
    start: int
    letters: bytes


@dataclass(frozen=True)
class Letters:
    """A tokenized text as letters in UTF-8, with a blank between words. CLIP's tokens may be parts of letters."""

    text: bytes
    pieces: tuple[Piece, ...]


class Match(NamedTuple):
    """Where a phrase stands in a prompt. tokens: of the prompt. pairs: (prompt token, phrase token) that are the same
    token; those at the ends may differ, as "!," does from "!"."""

    tokens: tuple[int, ...]
    pairs: tuple[tuple[int, int], ...]


def letters_of(clip: Any, encoder: str, sections: Sequence[Sequence[Entry]]) -> Letters:
    """The letters of one encoder's tokens; start, end and padding have none."""
    vocabulary = _vocabulary(clip, encoder)
    text, pieces = b"", []
    for place, entry in enumerate(entry for section in sections for entry in section):
        if not entry[2]:
            continue
        piece = _piece(entry[0], vocabulary, encoder in CLIP_ENCODERS)
        if piece.startswith(b" ") and not text.endswith(b" "):
            text += b" "
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


def _piece(token: Any, vocabulary: Mapping[int, str], is_clip: bool) -> bytes:
    """A token's letters in UTF-8, with a blank where a word ends (CLIP) or begins (T5)."""
    if isinstance(token, torch.Tensor):  # an embedding: found where the same vector stands
        return f"{_UNKNOWN}{hashlib.sha1(token.detach().float().cpu().numpy().tobytes()).hexdigest()} ".encode()
    piece = vocabulary.get(token) if isinstance(token, int) else None
    if piece is None:
        return f"{_UNKNOWN}{token if isinstance(token, int) else id(token)} ".encode()
    if is_clip:
        word = b"".join(_CLIP_BYTES.get(letter, letter.encode()) for letter in piece.removesuffix("</w>"))
        return word + b" " if piece.endswith("</w>") else word
    return (" " + piece[1:] if piece.startswith("\u2581") else piece).encode()


def _clip_bytes() -> dict[str, bytes]:
    """The letters by which CLIP's vocabulary writes bytes: Latin-1's, and those from U+0100 on where it has none."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printable]
    letters = {byte: byte for byte in printable} | {byte: 0x100 + n for n, byte in enumerate(others)}
    return {chr(letter): bytes([byte]) for byte, letter in letters.items()}


_CLIP_BYTES = _clip_bytes()


def occurrences(prompt: Letters, phrase: Letters) -> list[Match]:
    """All places of a phrase in a prompt, in order and without overlaps: "very very" is once in "very very very".

    A phrase begins and ends at the border of a word, beside a mark, or beside a letter of a script without blanks
    between words: "cat" is not in "catalog".
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


def _is_border(text: bytes, at: int) -> bool:
    before, after = (part.decode(errors="ignore") for part in (text[:at], text[at:]))
    return not before or not after or _stands_alone(before[-1]) or _stands_alone(after[0])


def _stands_alone(letter: str) -> bool:
    """A blank, a mark, or a letter of a script that writes words without blanks between them."""
    is_mark = letter == " " or unicodedata.category(letter)[0] in "PS"
    return is_mark or unicodedata.name(letter, "").startswith(_UNSPACED)


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
        count = sum(len(section) for name in encoders for section in text_tokens[name])
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
    """Whose tokens lie one after the other in an encoded prompt: one of the CLIPs', which read the same tokens side by
    side (SDXL, SD3), and T5's; without those that a model can do without and was loaded without.

    None of them where a language model encodes the prompt: a CLIP beside it gives the pooled vector alone.
    """
    t5 = [name for name in tokens if "t5" in name and name != "byt5"]  # which encodes quoted letters
    clips = [name for name in CLIP_ENCODERS if name in tokens]
    if set(tokens) in _T5_ALONE:
        clips = []
    elif len(clips) + len(t5) < len(tokens):
        return []
    model = getattr(clip, "cond_stage_model", None)
    loaded = ([name for name in names if _is_loaded(model, name)] for names in (clips, t5))
    return [names[0] for names in loaded if names]


def _is_loaded(model: Any, name: str) -> bool:
    return all(getattr(model, each, True) is not None for each in (name, f"clip_{name}"))


def _layout(clip: Any, tokens: Tokens, length: int) -> list[tuple[str, int]] | None:
    """The encoders with the first place of each in a prompt of this length; None where it does not fit them."""
    encoders = _encoders(clip, tokens)
    lengths = [sum(len(section) for section in tokens[name]) for name in encoders]
    trimmed = len(encoders) == 1 and _used(tokens[encoders[0]]) <= length < lengths[0]  # padding is left out
    if not encoders or (length != sum(lengths) and not trimmed):
        return None
    return [(name, sum(lengths[:at])) for at, name in enumerate(encoders)]


def _used(sections: Sequence[Sequence[Entry]]) -> int:
    """How many tokens there are up to the end token behind the last word."""
    flat = [entry for section in sections for entry in section]
    return max((i + 2 for i, entry in enumerate(flat) if entry[2]), default=2)
