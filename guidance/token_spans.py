"""Which tokens of an encoded prompt belong to a phrase."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

Tokens = Mapping[str, Sequence[Sequence[tuple[Any, ...]]]]  # encoder -> sections of (id, weight, word number; 0: none)


class Tokenizer(Protocol):
    """The part of ComfyUI's CLIP that is needed."""

    def tokenize(self, text: str, return_word_ids: bool = False) -> Tokens:
        """A text's tokens by encoder; each has its word number only with return_word_ids."""
        ...


def phrase_tokens(clip: Tokenizer, text: str, phrase: str, length: int) -> tuple[int, ...]:
    """Indices of a phrase's tokens in a prompt encoded to `length` tokens; all places where the phrase occurs.

    Knows encoders of the CLIP and T5 kinds, alone and one after the other. Raises ValueError that tells what to do if
    the phrase is not in the text, the text is not what the prompt was made from, or the encoder is another one.
    """
    text_tokens = clip.tokenize(text, return_word_ids=True)
    phrase_ids = clip.tokenize(phrase, return_word_ids=True)
    groups = [_clip_encoder(text_tokens), _t5_encoder(text_tokens)]
    encoders = [name for name in groups if name is not None]
    if not encoders:
        raise ValueError(f"Phrases cannot be told in this text encoder ({', '.join(text_tokens)}): leave phrase empty.")
    lengths = {name: sum(len(section) for section in text_tokens[name]) for name in encoders}
    layouts = [encoders, *([name] for name in encoders)]
    layout = next((names for names in layouts if sum(lengths[n] for n in names) == length), None)
    if layout is None:
        raise ValueError(
            f"The conditioning has {length} tokens, the text {lengths[encoders[0]]}. Give the text (and the CLIP) that "
            "the conditioning was made from."
        )
    found: list[int] = []
    offset = 0
    for name in layout:
        found += [offset + i for i in _occurrences(text_tokens[name], phrase_ids[name])]
        offset += lengths[name]
    if not found:
        raise ValueError(f"The phrase {phrase!r} does not occur in the text {text!r}.")
    return tuple(found)


def _clip_encoder(tokens: Tokens) -> str | None:
    """One of the CLIP encoders: several (SDXL, SD3) read the same tokens, side by side."""
    return next((name for name in ("l", "g", "h", "clip_l", "clip_g", "clip_h") if name in tokens), None)


def _t5_encoder(tokens: Tokens) -> str | None:
    return next((name for name in tokens if "t5" in name), None)


def _occurrences(text: Sequence[Sequence[tuple[Any, ...]]], phrase: Sequence[Sequence[tuple[Any, ...]]]) -> list[int]:
    flat = [entry for section in text for entry in section]
    # Without start, end and padding; an embedding's vector stands where a number would.
    words = [(i, entry[0] if isinstance(entry[0], int) else None) for i, entry in enumerate(flat) if entry[2]]
    wanted = [entry[0] for section in phrase for entry in section if entry[2]]
    found: list[int] = []
    start = 0
    while wanted and start <= len(words) - len(wanted):
        part = words[start : start + len(wanted)]
        same = [token for _, token in part] == wanted
        found += [i for i, _ in part] if same else []
        start += len(wanted) if same else 1  # no token twice: "very very" is once in "very very very"
    return found
