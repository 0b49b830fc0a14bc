"""Captions to token ids with ComfyUI's CLIP tokenizer, fast: the grammar's words are looked up, not re-encoded."""

from __future__ import annotations

import re
from functools import cache, lru_cache
from inspect import getfile
from pathlib import Path

import numpy as np

from . import world

START, END, LENGTH = 49406, 49407, 77
GRAMMAR = [
    "a",
    "an",
    "the",
    "and",
    "on",
    "of",
    "with",
    "picture",
    "background",
    "style",
    ",",
    ".",
    "one",
    "two",
    "three",
    "four",
    *world.COLOUR_NAMES,
    *world.SHAPES,
    *world.TEXTURES,
    *world.BACKGROUND_NAMES,
    *world.STYLES,
]
PLACE_WORDS = ("at", "in", "top", "bottom", "left", "right", "middle", "above", "below")
"""What only the flow transformer was taught: they have no row in CLIP A's table."""
_SPLIT = re.compile(r"[a-z]+|[,.]")


@lru_cache
def _tokenizer():
    import comfy.sd1_clip
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(str(Path(getfile(comfy.sd1_clip)).parent / "sd1_tokenizer"))


@cache
def word_ids(word: str) -> tuple[int, ...]:
    return tuple(_tokenizer()(word)["input_ids"][1:-1])


@lru_cache
def known_ids() -> tuple[int, ...]:
    """Every token id a caption can contain, sorted; the start and end tokens too."""
    return tuple(sorted({START, END, *(i for w in GRAMMAR for i in word_ids(w))}))


@lru_cache
def place_ids() -> tuple[int, ...]:
    """Token ids of the words for places, sorted."""
    return tuple(sorted(i for w in PLACE_WORDS for i in word_ids(w)))


@lru_cache
def _shape_word_ends() -> frozenset[int]:
    return frozenset(word_ids(s)[-1] for s in world.SHAPES)


def split(text: str) -> list[str]:
    """Words, commas and full stops."""
    return _SPLIT.findall(text.lower())


def encode(text: str) -> np.ndarray:
    """Caption -> int32 [77] padded with the end token, exactly as ComfyUI tokenizes it."""
    ids = [i for w in split(text) for i in word_ids(w)][: LENGTH - 2]
    return np.array([START, *ids] + [END] * (LENGTH - 1 - len(ids)), np.int32)


def ends(ids: np.ndarray) -> np.ndarray:
    """Position of the first end token per row, [B, 77] -> [B]."""
    return (ids == END).argmax(-1)


def shape_positions(ids: np.ndarray) -> list[int]:
    """Where the nouns of a caption stand, in order: the token that has seen a whole phrase."""
    return [i for i, t in enumerate(ids.tolist()) if t in _shape_word_ends()]


def rows(ids: np.ndarray) -> np.ndarray:
    """Token ids -> rows of the compact table (row 0 = unknown)."""
    return rows_of(ids, known_ids())


def placed_rows(ids: np.ndarray) -> np.ndarray:
    """Token ids -> rows of the compact table with those of the words for places behind it (row 0 = unknown)."""
    places = rows_of(ids, place_ids())
    return np.where(places > 0, places + len(known_ids()), rows(ids))


def rows_of(ids: np.ndarray, known: tuple[int, ...]) -> np.ndarray:
    """Where ids stand among the known ones, which are sorted; from 1 on, 0 = unknown."""
    table = np.array(known)
    at = np.searchsorted(table, ids).clip(0, len(table) - 1)
    return np.where(table[at] == ids, at + 1, 0)
