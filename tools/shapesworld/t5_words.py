"""Captions to token ids with ComfyUI's T5 tokenizer, fast: every word of the grammar is looked up, not re-encoded."""

from __future__ import annotations

from functools import cache, lru_cache

import numpy as np

from .words import GRAMMAR, rows_of

LONGEST = 77
PAD_ROW = 1  # of the compact table: ids are sorted, and the pad is 0


@lru_cache
def _tokenizer():
    from fovea.models.shapesworld import dual_encoder

    return dual_encoder.T5Tokenizer()


@cache
def chunk_ids(chunk: str) -> tuple[int, ...]:
    """A word as it stands between spaces, with its comma."""
    return tuple(_tokenizer().tokenizer(chunk)["input_ids"][:-1])


@lru_cache
def known_ids() -> tuple[int, ...]:
    """Every token id a caption can contain, sorted; pad and end too."""
    words = [word for word in GRAMMAR if word[0].isalpha()]
    return tuple(sorted({0, 1, *(i for word in words for end in ("", ",", ".") for i in chunk_ids(word + end))}))


def encode(text: str) -> np.ndarray:
    """Caption -> int32 [77], the end token and then pads, exactly as ComfyUI tokenizes it."""
    ids = [i for chunk in text.split() for i in chunk_ids(chunk)][: LONGEST - 1]
    return np.array([*ids, 1] + [0] * (LONGEST - 1 - len(ids)), np.int32)


def rows(ids: np.ndarray) -> np.ndarray:
    """Token ids -> rows of the compact table (row 0 = unknown)."""
    return rows_of(ids, known_ids())
