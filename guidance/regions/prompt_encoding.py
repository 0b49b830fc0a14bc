"""Prompts with regions: where each region's words are in the prompt, or the regions' prompts appended to it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ..token_spans import CLIP_ENCODERS, Match, Tokens, letters_of, occurrences, word_tokens
from .control import RegionControl
from .masks import Region, Regions
from .prompt_regions import MARK, PromptRegions

Conditioning = list  # as ComfyUI has it: [[tensor, dict], ...]
MODES = ("auto", "prompt", "concat")
TOKEN_TAGS = "minimax_token_tags"  # what each token of MiniMax H3's prompts is: of a picture (0) or of text (1)
USED_OPTIONS = frozenset({"pooled_output", "attention_mask", TOKEN_TAGS})  # what appending needs or replaces
ALONE = 1e-4  # strength of a prompt that says something only where no other prompt does
Weights = dict[str, list[float]]  # encoder -> weight of every token


class Clip(Protocol):
    """The part of ComfyUI's CLIP that is needed."""

    def tokenize(self, text: str, return_word_ids: bool = False) -> Tokens:
        """A text's tokens by encoder; each has its word number (0: no word) only with return_word_ids."""
        ...

    def encode_from_tokens_scheduled(self, tokens: Any) -> Conditioning:
        """Encoded tokens: one entry, or one per time range where the CLIP has hooks with a schedule."""
        ...


class Encoded(NamedTuple):
    """An encoded prompt with its regions, and what there is to say about it."""

    conditioning: Conditioning
    notes: list[str]


class Found(NamedTuple):
    """Where regions' prompts are in a prompt. free: tokens of no region, those included that sum the prompt up behind
    its words; without the start tokens, which say nothing."""

    matches: list[list[Match]]
    free: tuple[int, ...]
    notes: list[str]

    @property
    def tokens(self) -> list[tuple[int, ...]]:
        return [tuple(sorted({token for match in matches for token in match.tokens})) for matches in self.matches]


class Stretch(NamedTuple):
    """A part of the schedule, in percent as fractions, and what is whose in it, see Regions.canvas."""

    start: float
    end: float
    canvas: Tensor


class NotInPrompt(ValueError):
    """A region's prompt cannot be told in the prompt; the text says which and what to do."""


def encode(clip: Clip, prompt: str) -> Conditioning:
    """The prompt alone, as ComfyUI's own text encode node has it."""
    return clip.encode_from_tokens_scheduled(clip.tokenize(prompt))


def compose(region_prompts: Iterable[str]) -> str:
    """A prompt made of regions' prompts, one mention for every region: "a dog, a dog and a cat"."""
    *others, last = [each.strip() for each in region_prompts if each.strip()] or [""]
    return f"{', '.join(others)} and {last}" if others else last


def whole_prompt(prompt: str, regions: Regions) -> str:
    """The prompt, or one made of the regions' where it is empty."""
    return prompt if prompt.strip() else compose(region.prompt for region in regions.items)


def positive(
    clip: Clip, prompt: str, regions: Regions, mode: str, separate: bool, control: RegionControl,
    own_clips: Sequence[Clip] = (),
) -> Encoded:  # fmt: skip
    """Encode a prompt so that its regions are known. mode: see the nodes. separate: encode each region's prompt on its
    own too. own_clips: what encodes each region's own prompt, with its LoRAs; (): `clip` does.

    Raises NotInPrompt in mode "prompt".
    """
    prompt, own_clips = whole_prompt(prompt, regions), own_clips or (clip,) * len(regions)
    texts = [region.prompt for region in regions.items]
    if mode == "concat":
        return _appended(clip, prompt, regions, texts, control, own_clips)
    try:
        return _in_prompt(clip, prompt, regions, separate, control, own_clips)
    except NotInPrompt as why:
        if mode == "prompt":
            raise
        conditioning, notes = _appended(clip, prompt, regions, texts, control, own_clips)
        return Encoded(conditioning, [f"{why} The regions' prompts were appended to the prompt instead.", *notes])


def negative(
    clip: Clip, prompt: str, regions: Regions, control: RegionControl, own_clips: Sequence[Clip] = ()
) -> Encoded:
    """Encode a negative prompt; the regions' own negative prompts are appended. own_clips: as in `positive`."""
    if not any(region.negative_prompt.strip() for region in regions.items):
        return Encoded(encode(clip, prompt), [])
    items = (r if r.conditioning is None else replace(r, conditioning=None) for r in regions.items)
    plain = Regions(tuple(items), regions.overlap)
    texts, own_clips = [region.negative_prompt for region in regions.items], own_clips or (clip,) * len(regions)
    return _appended(clip, prompt, plain, texts, control, own_clips, negative=True)


def _in_prompt(
    clip: Clip, prompt: str, regions: Regions, separate: bool, control: RegionControl, own_clips: Sequence[Clip]
) -> Encoded:
    if any(region.conditioning is not None for region in regions.items):
        raise NotInPrompt("A region has a CONDITIONING, which has no place in a prompt: use mode concat.")
    tokens = clip.tokenize(prompt)
    if not all(name in CLIP_ENCODERS for name in tokens):
        raise NotInPrompt(
            f"Regions' prompts cannot be told in what this text encoder ({', '.join(tokens)}) returns: use mode concat."
        )
    spans = find_regions(clip, prompt, [region.prompt for region in regions.items])
    weights = _weights(clip, tokens, regions, spans)
    conditioning = clip.encode_from_tokens_scheduled(_weighted(tokens, weights))
    if separate:
        replaced: set[int] = set()
        # Long ones first, and what they have replaced stays: "a red dress" of "a woman in a red dress" is the woman's.
        for at in sorted(range(len(regions)), key=lambda i: -max((len(m.tokens) for m in spans.matches[i]), default=0)):
            text, matches = regions.items[at].prompt, spans.matches[at]
            conditioning = _replace(own_clips[at], conditioning, text, matches, weights, replaced)
    elif any(own is not clip for own in own_clips):
        spans.notes.append("LoRAs of regions act on the text encoder only where regions are encoded separately.")
    length = conditioning[0][0].shape[1]
    free = tuple(i for i in spans.free if i < length)  # some encoders leave padding out
    return Encoded(_marked(conditioning, regions, spans.tokens, length, control, free=free), spans.notes)


def find_regions(clip: Clip, prompt: str, region_prompts: Sequence[str]) -> Found:
    """Where every region's prompt is in a prompt that a CLIP encodes.

    A prompt of one region has all its occurrences; one of several regions is dealt out, the n-th to the n-th of them,
    and what is left over belongs to none.
    Long ones choose first, so that "dog" is not found inside of "hot dog" while it is somewhere else too; where it is
    not, both own the word. An empty prompt has no tokens. Raises NotInPrompt that lists the prompt's words.
    """
    encoder, sections = next(iter(clip.tokenize(prompt, return_word_ids=True).items()))
    there = letters_of(clip, encoder, sections)
    wanted = [letters_of(clip, encoder, clip.tokenize(text, return_word_ids=True)[encoder]) for text in region_prompts]
    matches: list[list[Match]] = [[] for _ in region_prompts]
    taken: set[int] = set()
    notes = []
    for text in sorted(dict.fromkeys(letters.text for letters in wanted if letters.text), key=len, reverse=True):
        owners = [i for i, letters in enumerate(wanted) if letters.text == text]
        everywhere = occurrences(there, wanted[owners[0]])
        open_matches = [match for match in everywhere if not taken.intersection(match.tokens)] or everywhere
        if not open_matches:
            raise NotInPrompt(
                f"The region's prompt {region_prompts[owners[0]]!r} is not in the prompt, whose words are: "
                f"{', '.join(prompt.replace(',', ' ').split())}. Write it as in the prompt, or use mode concat."
            )
        if len(owners) > len(open_matches):
            notes.append(
                f"{len(owners)} regions are called {region_prompts[owners[0]]!r}, which is in the prompt "
                f"{len(open_matches)} x: the last of them share it."
            )
        for n, owner in enumerate(owners):
            matches[owner] = open_matches if len(owners) == 1 else [open_matches[min(n, len(open_matches) - 1)]]
        taken.update(token for match in open_matches for token in match.tokens)
    lengths = [len(section) for section in sections]
    not_free = {sum(lengths[:i]) for i in range(len(lengths))}
    not_free |= {token for own in matches for match in own for token in match.tokens}
    return Found(matches, tuple(i for i in range(sum(lengths)) if i not in not_free), notes)


def _own_weights(tokens: Tokens) -> Weights:
    """The weights that a text gives its own tokens."""
    return {name: [entry[1] for section in sections for entry in section] for name, sections in tokens.items()}


def _weights(clip: Clip, tokens: Tokens, regions: Regions, spans: Found) -> Weights:
    """Every token's weight: the prompt's, and where that has none, the one that the region's prompt gives it."""
    weights = _own_weights(tokens)
    for region, matches in zip(regions.items, spans.matches):
        for name, own in _own_weights(clip.tokenize(region.prompt)).items() if matches else ():
            for token, own_token in (pair for match in matches for pair in match.pairs):
                if weights[name][token] == 1:
                    weights[name][token] = own[own_token]
    return weights


def _weighted(tokens: Tokens, weights: Mapping[str, Sequence[float]]) -> dict[str, list[list[tuple[Any, float]]]]:
    """The same tokens with other weights."""
    weighted = {}
    for name, sections in tokens.items():
        given = iter(weights[name])
        weighted[name] = [[(entry[0], next(given)) for entry in section] for section in sections]
    return weighted


def _replace(
    clip: Clip, conditioning: Conditioning, text: str, matches: list[Match], weights: Weights, replaced: set[int]
) -> Conditioning:
    """Put a region prompt's embeddings, encoded alone with the weights they have in the prompt, in their places.

    replaced: tokens of the prompt that keep what they have; those done now are added.
    """
    alone = clip.tokenize(text)
    for match in matches:
        pairs = [pair for pair in match.pairs if pair[0] not in replaced]
        if not pairs:
            continue
        own = _own_weights(alone)
        for name in own:
            for token, own_token in match.pairs:
                own[name][own_token] = weights[name][token]
        encoded = clip.encode_from_tokens_scheduled(_weighted(alone, own))
        here, there = (list(places) for places in zip(*pairs))
        changed = []
        for i, (tensor, options) in enumerate(conditioning):
            tensor = tensor.clone()
            tensor[:, here] = encoded[min(i, len(encoded) - 1)][0][:, there].to(tensor)
            changed.append([tensor, options])
        conditioning = changed
        replaced.update(here)
    return conditioning


def _appended(
    clip: Clip, prompt: str, regions: Regions, texts: Sequence[str], control: RegionControl,
    own_clips: Sequence[Clip], negative: bool = False,
) -> Encoded:  # fmt: skip
    """Append every region's own prompt to the prompt's tokens."""
    notes: list[str] = []
    blocks = [_block(own, region, text, notes) for own, region, text in zip(own_clips, regions.items, texts)]
    result = []
    for i, (tensor, options) in enumerate(encode(clip, prompt)):
        parts, length = [tensor], tensor.shape[1]
        places: list[tuple[int, ...]] = []
        for block in blocks:
            extra = block[min(i, len(block) - 1)].to(tensor) if block else tensor[:, :0]
            if extra.shape[-1] != tensor.shape[-1]:
                raise ValueError(
                    f"A region's CONDITIONING has {extra.shape[-1]} channels, the prompt's {tensor.shape[-1]}: encode "
                    "it with the CLIP that is connected here."
                )
            places.append(tuple(range(length, length + extra.shape[1])))
            parts.append(extra.expand(tensor.shape[0], -1, -1))
            length += extra.shape[1]
        if options.get("attention_mask") is not None:
            options = {**options, "attention_mask": _longer(options["attention_mask"], length)}
        if options.get(TOKEN_TAGS) is not None:
            options = {**options, TOKEN_TAGS: _longer(options[TOKEN_TAGS][None], length)[0]}
        whole = [[torch.cat(parts, dim=1), options]]
        result += _marked(whole, regions, places, tensor.shape[1], control, negative=negative)
    return Encoded(result, notes)


def _block(clip: Clip, region: Region, text: str, notes: list[str]) -> list[Tensor]:
    """What a region appends, one tensor per time range of the CLIP; nothing where it has no prompt."""
    if region.conditioning:
        ignored = sorted({key for _, options in region.conditioning for key in options} - USED_OPTIONS)
        if ignored:
            notes.append(f"A region's CONDITIONING has {', '.join(ignored)}, which do not act inside of a region.")
        return [torch.cat([tensor for tensor, _ in region.conditioning], dim=1)]  # combined prompts act together
    if not text.strip():
        return []
    encoded = [tensor for tensor, _ in encode(clip, text)]
    if all(name in CLIP_ENCODERS for name in clip.tokenize(text)):  # batched with others by blocks of 77 tokens
        return encoded
    words = word_tokens(clip, clip.tokenize(text, return_word_ids=True), encoded[0].shape[1])
    if words is not None:
        return [tensor[:, list(words)] for tensor in encoded]  # without the padding
    return [tensor[:, tensor.abs().amax(dim=(0, 2)) > 0] for tensor in encoded]  # what is padded with is nothing


def _longer(mask: Tensor, length: int) -> Tensor:
    """An attention mask [batch, tokens] for more tokens, which are seen; or tags of tokens, for more of text."""
    return torch.cat([mask, mask.new_ones(mask.shape[0], length - mask.shape[1])], dim=1)


def _marked(
    conditioning: Conditioning, regions: Regions, tokens: Sequence[tuple[int, ...]], appended: int,
    control: RegionControl, **more: Any,
) -> Conditioning:  # fmt: skip
    """The conditioning with its regions. appended: place of the first token that is there for a region only."""
    strengths = tuple(region.strength for region in regions.items)
    windows = tuple(region.window for region in regions.items)
    mark = PromptRegions(
        control, regions.canvas(), strengths, tuple(tokens), conditioning[0][0].shape[1], appended,
        windows=() if all(window == (0.0, 1.0) for window in windows) else windows, regions=regions, **more,
    )  # fmt: skip
    return [[tensor, {**options, MARK: mark}] for tensor, options in conditioning]


def masked(
    clip: Clip, prompt: str, regions: Regions, prompt_strength: float, latent: tuple[int, ...] | None = None,
    own_clips: Sequence[Clip] = (), hooks: Sequence[Any] = (),
) -> Conditioning:  # fmt: skip
    """The regions as ComfyUI's own masked prompts, and the prompt everywhere, which is empty rather than lacking: where
    no prompt acts, ComfyUI predicts 0, and CFG turns the negative prompt around. A region that asks for nothing leaves
    its place to the prompt.

    latent: shape of what is sampled. own_clips: as in `positive`. hooks: ComfyUI's, of each region, None for none.
    Raises ValueError where several masks per region cannot be fitted without latent.
    """
    stretches = _stretches(regions, latent)
    asking = [i for i, r in enumerate(regions.items) if r.prompt.strip() or r.conditioning or r.loras]
    framed = latent is not None and len(latent) == 5 and latent[2] == 1
    conditioning = []
    for i in asking:
        region, encoder = regions.items[i], own_clips[i] if own_clips else clip
        own = list(region.conditioning) if region.conditioning is not None else encode(encoder, region.prompt)
        settings = {"set_area_to_bounds": False, "mask_strength": region.strength}
        if hooks and hooks[i] is not None:
            settings["hooks"] = hooks[i]
        for stretch in _masks_of(i, stretches):
            mask = stretch.canvas
            mask = mask[:, None] if framed and len(mask) > 1 else mask  # three axes are frames, height, width
            conditioning += [[tensor, {**options, **settings, "mask": mask, **_window(stretch, options)}]
                             for tensor, options in own]  # fmt: skip
    strength = max(prompt_strength if prompt.strip() else 0.0, ALONE)
    free = any(bool((canvas[:, asking].sum(dim=1) == 0).any()) for _, _, canvas in stretches)
    if strength > ALONE or free:
        conditioning += [[tensor, {**options, "strength": strength}] for tensor, options in encode(clip, prompt)]
    return conditioning


def _stretches(regions: Regions, latent: tuple[int, ...] | None) -> list[Stretch]:
    """The schedule, cut wherever a region begins or ends."""
    items = regions.items
    cuts = sorted({0.0, 1.0, *(edge for region in items for edge in region.window)})
    acting = [[i for i, r in enumerate(items) if r.start <= start and end <= r.end] for start, end in pairwise(cuts)]
    canvases = (_fitted(regions.only_acting(now), latent) for now in acting)
    return [Stretch(start, end, canvas) for (start, end), canvas in zip(pairwise(cuts), canvases)]


def _masks_of(region: int, stretches: Sequence[Stretch]) -> list[Stretch]:
    """Where in the schedule a region has which mask [n, height, width], where it has any."""
    found: list[Stretch] = []
    for start, end, canvas in stretches:
        mask = canvas[:, region]
        if found and found[-1].end == start and torch.equal(found[-1].canvas, mask):
            found[-1] = found[-1]._replace(end=end)
        elif mask.any():
            found.append(Stretch(start, end, mask))
    return found


def _window(stretch: Stretch, options: Mapping[str, Any]) -> dict[str, float]:
    """Where in the schedule a prompt with these options acts, of a stretch of it; nothing where it always does."""
    start = max(stretch.start, options.get("start_percent", 0.0))
    end = min(stretch.end, options.get("end_percent", 1.0))
    return {} if (start, end) == (0.0, 1.0) else {"start_percent": start, "end_percent": end}


def _fitted(regions: Regions, latent: tuple[int, ...] | None) -> Tensor:
    """The canvas with one mask per picture or frame of a latent, as ComfyUI needs them; one serves all."""
    frames = latent is not None and len(latent) == 5 and latent[2] > 1
    canvas = regions.canvas(frames)
    count = len(canvas)
    if count == 1:
        return canvas
    if latent is None:
        raise ValueError(f"the regions have {count} masks each: connect latent, so that they can be fitted to it.")
    if frames:
        return canvas[(torch.arange(latent[2]) * count / latent[2]).long()]
    return canvas[torch.arange(latent[0]) % count]
