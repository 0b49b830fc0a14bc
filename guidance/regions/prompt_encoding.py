"""Prompts with regions: where each phrase is in a caption, or the regions' prompts appended to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ..token_spans import Tokens
from .attention_patch import MARK, Layout
from .masks import Region, Regions

Conditioning = list  # as ComfyUI has it: [[tensor, dict], ...]
MODES = ("auto", "caption", "concat")


class Clip(Protocol):
    """The part of ComfyUI's CLIP that is needed."""

    def tokenize(self, text: str, return_word_ids: bool = False) -> Tokens:
        """A text's tokens by encoder; each has its word number (0: no word) only with return_word_ids."""
        ...

    def encode_from_tokens_scheduled(self, tokens: Any) -> Conditioning:
        """Encoded tokens: one entry, or one per time range where the CLIP has hooks with a schedule."""
        ...


class Prompt(NamedTuple):
    """An encoded prompt with its regions, and what there is to say about it."""

    conditioning: Conditioning
    warnings: list[str]


class NotInCaption(ValueError):
    """A phrase cannot be told in the caption; the text says which and what to do."""


def encode(clip: Clip, caption: str) -> Conditioning:
    """The caption alone, as ComfyUI's own text encode node has it."""
    return clip.encode_from_tokens_scheduled(clip.tokenize(caption))


def compose(phrases: Sequence[str]) -> str:
    """A caption made of regions' phrases, one mention for every region: "a dog, a dog and a cat"."""
    *others, last = [phrase.strip() for phrase in phrases if phrase.strip()] or [""]
    return f"{', '.join(others)} and {last}" if others else last


def positive(clip: Clip, caption: str, regions: Regions, mode: str, separate: bool) -> Prompt:
    """Encode a caption so that its regions are known. mode: see the nodes. separate: encode each phrase on its own too.

    Raises NotInCaption in caption mode.
    """
    caption = caption if caption.strip() else compose([region.phrase for region in regions.items])
    if mode == "concat":
        return Prompt(*_concat(clip, caption, regions.items, regions, [r.phrase for r in regions.items]))
    try:
        return Prompt(*_in_caption(clip, caption, regions, separate))
    except NotInCaption as why:
        if mode == "caption":
            raise
        found, warnings = _concat(clip, caption, regions.items, regions, [r.phrase for r in regions.items])
        return Prompt(found, [f"{why} The regions' phrases were appended to the prompt instead.", *warnings])


def negative(clip: Clip, caption: str, regions: Regions) -> Prompt:
    """Encode a negative prompt; the regions' own negative phrases are appended."""
    if not any(region.negative.strip() for region in regions.items):
        return Prompt(encode(clip, caption), [])
    phrases = [region.negative for region in regions.items]
    plain = [Region(r.mask, r.phrase, r.strength, r.negative) for r in regions.items]
    return Prompt(*_concat(clip, caption, plain, regions, phrases, negative=True))


def _in_caption(clip: Clip, caption: str, regions: Regions, separate: bool) -> tuple[Conditioning, list[str]]:
    tokens = clip.tokenize(caption, return_word_ids=True)
    if any(region.conditioning is not None for region in regions.items):
        raise NotInCaption("A region has a CONDITIONING, which has no place in a caption: use mode concat.")
    if not all(name in ("l", "g", "h", "clip_l", "clip_g", "clip_h") for name in tokens):
        names = ", ".join(tokens)
        raise NotInCaption(f"Phrases cannot be told in what this text encoder ({names}) returns: use mode concat.")
    places, warnings = phrase_places(clip, caption, [region.phrase for region in regions.items])
    conditioning = encode(clip, caption)
    if separate:
        for region, tokens_of_region in zip(regions.items, places):
            if tokens_of_region:
                conditioning = _replaced(clip, conditioning, caption, region.phrase, tokens_of_region)
    length = conditioning[0][0].shape[1]
    return _marked(conditioning, layout(regions, places, length, length)), warnings


def phrase_places(clip: Clip, caption: str, phrases: Sequence[str]) -> tuple[list[tuple[int, ...]], list[str]]:
    """Token indices of every phrase in an encoded caption, and warnings.

    A phrase of one region has all its occurrences; one of several regions is dealt out, the n-th to the n-th of them.
    Long phrases choose first, so that "dog" is not found inside of "hot dog" if that is a phrase too. An empty phrase
    has no tokens. Raises NotInCaption that lists the caption's words.
    """
    words = _words(next(iter(clip.tokenize(caption, return_word_ids=True).values())))
    wanted = [_ids(clip, phrase) for phrase in phrases]
    places: list[tuple[int, ...]] = [()] * len(phrases)
    taken: set[int] = set()
    warnings = []
    for ids in sorted(set(wanted) - {()}, key=len, reverse=True):
        owners = [i for i, other in enumerate(wanted) if other == ids]
        found = [at for at in _runs(words, ids) if not taken.intersection(at)]
        if not found:
            raise NotInCaption(
                f"The phrase {phrases[owners[0]]!r} is not in the caption, whose words are: "
                f"{', '.join(caption.replace(',', ' ').split())}. Write it as in the caption, or use mode concat."
            )
        if len(owners) > len(found):
            warnings.append(
                f"{len(owners)} regions are called {phrases[owners[0]]!r}, which is in the caption {len(found)} x: "
                "the last of them share it."
            )
        for n, owner in enumerate(owners):
            chosen = found if len(owners) == 1 else [found[min(n, len(found) - 1)]]
            places[owner] = tuple(token for at in chosen for token in at)
        taken.update(token for at in found for token in at)
    return places, warnings


def _words(sections: Sequence[Sequence[tuple[Any, ...]]]) -> list[tuple[int, Any]]:
    """(place, id) of every token that is text: without start, end, padding."""
    flat = [entry for section in sections for entry in section]
    return [(i, entry[0] if isinstance(entry[0], int) else None) for i, entry in enumerate(flat) if entry[2]]


def _ids(clip: Clip, phrase: str) -> tuple[int, ...]:
    if not phrase.strip():
        return ()
    return tuple(i for _, i in _words(next(iter(clip.tokenize(phrase, return_word_ids=True).values()))))


def _runs(words: Sequence[tuple[int, Any]], ids: Sequence[int]) -> list[tuple[int, ...]]:
    """Where a sequence of ids occurs, without overlaps."""
    found, start = [], 0
    while start <= len(words) - len(ids):
        part = words[start : start + len(ids)]
        if [i for _, i in part] == list(ids):
            found.append(tuple(at for at, _ in part))
            start += len(ids)
        else:
            start += 1
    return found


def _replaced(
    clip: Clip, conditioning: Conditioning, caption: str, phrase: str, places: tuple[int, ...]
) -> Conditioning:
    """Put the phrase's embeddings, encoded alone with the weights it has in the caption, in its places."""
    weights = {name: [entry[1] for section in sections for entry in section]
               for name, sections in clip.tokenize(caption).items()}  # fmt: skip
    alone = clip.tokenize(phrase, return_word_ids=True)
    spots = [at for at, _ in _words(next(iter(alone.values())))]
    result = conditioning
    for first in range(0, len(places), len(spots)):
        here = places[first : first + len(spots)]
        tokens = {}
        for name, sections in alone.items():
            given = dict(zip(spots, (weights[name][at] for at in here)))
            counter = iter(range(10**6))
            tokens[name] = [[(e[0], given.get(next(counter), e[1])) for e in section] for section in sections]
        encoded = clip.encode_from_tokens_scheduled(tokens)
        changed = []
        for i, (tensor, options) in enumerate(result):
            tensor = tensor.clone()
            tensor[:, list(here)] = encoded[min(i, len(encoded) - 1)][0][:, spots].to(tensor)
            changed.append([tensor, options])
        result = changed
    return result


def _concat(
    clip: Clip, caption: str, items: Sequence[Region], regions: Regions, phrases: Sequence[str], negative: bool = False
) -> tuple[Conditioning, list[str]]:
    """Append every region's own prompt to the caption's tokens."""
    blocks: list[Conditioning | None] = []
    for item, phrase in zip(items, phrases):
        given = None if item.conditioning is None else list(item.conditioning)
        blocks.append(given or (encode(clip, phrase) if phrase.strip() else None))
    result, found = [], None
    for i, (tensor, options) in enumerate(encode(clip, caption)):
        parts, length = [tensor], tensor.shape[1]
        places: list[tuple[int, ...]] = []
        for block in blocks:
            if block is None:
                places.append(())
                continue
            extra = block[min(i, len(block) - 1)][0].to(tensor)
            if extra.shape[-1] != tensor.shape[-1]:
                raise ValueError(
                    f"A region's CONDITIONING has {extra.shape[-1]} channels, the caption's {tensor.shape[-1]}: encode "
                    "it with the CLIP that is connected here."
                )
            places.append(tuple(range(length, length + extra.shape[1])))
            parts.append(extra.expand(tensor.shape[0], -1, -1))
            length += extra.shape[1]
        if options.get("attention_mask") is not None:
            options = {**options, "attention_mask": _longer(options["attention_mask"], length)}
        found = layout(regions, places, length, tensor.shape[1], negative)
        result.append([torch.cat(parts, dim=1), {**options, MARK: found}])
    return result, []


def _longer(mask: Tensor, length: int) -> Tensor:
    """An attention mask [batch, tokens] for more tokens, which are seen."""
    return torch.cat([mask, mask.new_ones(mask.shape[0], length - mask.shape[1])], dim=1)


def layout(
    regions: Regions, places: Sequence[tuple[int, ...]], length: int, appended: int, negative: bool = False
) -> Layout:
    """The regions as the attention wrapper needs them."""
    strengths = tuple(region.strength for region in regions.items)
    return Layout(regions.canvas(), strengths, tuple(places), length, appended, negative)


def _marked(conditioning: Conditioning, found: Layout) -> Conditioning:
    return [[tensor, {**options, MARK: found}] for tensor, options in conditioning]


def masked(clip: Clip, caption: str, regions: Regions, caption_strength: float) -> Conditioning:
    """The regions as ComfyUI's own masked prompts, and the caption everywhere."""
    canvas = regions.canvas()
    found = []
    for i, region in enumerate(regions.items):
        prompt = list(region.conditioning) if region.conditioning is not None else encode(clip, region.phrase)
        settings = {"mask": canvas[:, i], "set_area_to_bounds": False, "mask_strength": region.strength}
        found += [[tensor, {**options, **settings}] for tensor, options in prompt]
    if (caption.strip() and caption_strength > 0) or not found:
        found += [[tensor, {**options, "strength": caption_strength}] for tensor, options in encode(clip, caption)]
    return found
