"""Region LoRA inside ComfyUI: the technique, and the text encoder that a region's prompt is encoded with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import comfy.hooks
import comfy.lora
import comfy.lora_convert
import torch
from torch import Tensor

from ...attention import hooks
from ...attention.conds import Row
from ...attention.run import Layer, Run
from ...attention.sites import Forward, LayerTokens
from ..regions.attention_patch import NO_PART
from ..regions.masks import Lora, Region, Regions
from ..regions.prompt_regions import MARK
from ..schedule import inside
from .apart import Apart
from .layer_change import LayerChange, OnDevice, is_convolution
from .matching import NoMatch, match
from .shares import knows_its_part, shares_of_row, words_now

__all__ = ["NoMatch", "RegionLora", "clip_of", "ensure", "hooks_of", "install"]

SETTINGS = ("apart", "common", "negative", "start", "end")  # of a RegionLora

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import CLIP


@dataclass(frozen=True, eq=False)
class RegionLora:
    """LoRAs of regions, each in its place.

    changes: by the module's name in the network. apart: how much places of a region look at their own region only, see
    apart.py. common: how much of them what has no place takes, see shares.py.
    negative: whether the negative prompt's evaluation has them too. start, end: window in percent of the schedule as
    fractions.
    """

    regions: Regions
    changes: Mapping[str, LayerChange] = field(repr=False)
    apart: float = 1.0
    common: float = 1.0
    negative: bool = True
    start: float = 0.0
    end: float = 1.0

    def begin(self, run: Run) -> Sequence[Acting | Apart]:
        """The regions that act at this noise level; none outside of the window."""
        sampling, items = run.model.model_sampling, self.regions.items
        if self.start >= self.end or not inside(sampling, run.sigma, self.start, self.end):
            return ()
        now = tuple(i for i, r in enumerate(items) if inside(sampling, run.sigma, r.start, r.end))
        if not self.changes or not any(lora.model for i in now for lora in items[i].loras):
            return ()
        memory = run.state(self, Memory)
        if now not in memory.regions:
            memory.regions[now] = self.regions.only_acting(now)
        regions = memory.regions[now]
        acting = Acting(self, regions, memory)
        over_all = len(now) == 1 and bool((regions.canvas()[:, now[0]] == 1).all())  # there is nothing to keep apart
        if not self.apart or over_all:
            return (acting,)
        return acting, Apart(memory.attention, {}, regions=regions, strength=self.apart, negative=self.negative)


@dataclass(eq=False)
class Memory:
    """Of one run. regions: see Acting, by the numbers of those that act. changes: of a layer, on a device. shares: see
    InCall. attention: see RegionAttention.facts."""

    regions: dict[tuple[int, ...], Regions] = field(default_factory=dict)
    changes: dict[tuple[Any, ...], OnDevice] = field(default_factory=dict)
    shares: dict[tuple[Any, ...], dict[tuple[Any, ...], Tensor]] = field(default_factory=dict)
    attention: dict = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Acting:
    """A LayerChanger for one step. regions: the technique's, as if those that do not act were not there, see
    Regions.only_acting."""

    technique: RegionLora
    regions: Regions = field(repr=False)
    memory: Memory = field(repr=False)

    def in_call(self, run: Run, rows: tuple[Row, ...], forward: Forward) -> InCall | None:
        """What is done to the rows that have LoRAs; None where none has."""
        concerned = tuple(row for row in rows if self.technique.negative or not row.negative)
        known = tuple(row for row in concerned if knows_its_part(row, run, forward.latent_size))
        if len(known) < len(concerned):
            run.warn(NO_PART)
        if not known:
            return None
        if any(row.key.window is not None for row in known):
            self.memory.shares.clear()  # windows may lie elsewhere in the next step
        key = (self.regions, forward.latent_size, tuple(
            (row.key, row.area, row.length, row.start, row.stop, row.marks.get(MARK), words_now(row, run))
            for row in known
        ))  # fmt: skip
        return InCall(self, run, known, forward, self.memory.shares.setdefault(key, {}))


@dataclass(frozen=True, eq=False)
class InCall:
    """A LayerChange. kept: shares by what a layer's values are about, made once for all layers and steps alike."""

    acting: Acting
    run: Run
    rows: tuple[Row, ...]
    forward: Forward
    kept: dict[tuple[Any, ...], Tensor] = field(repr=False)

    @property
    def layers(self) -> Sequence[str]:
        return tuple(self.acting.technique.changes)

    def changed(self, layer: Layer, x: Tensor, y: Tensor) -> Tensor:
        """y with every region's change in its place, see OnDevice.added; rows that have none are left alone."""
        if layer.tokens is not None and not layer.tokens.maps and y.ndim == 2:  # one picture, no axis for the batch
            return self.changed(layer, x[None], y[None])[0]
        if y.shape[0] != self.forward.batch:  # a time embedding for every frame, or two for one picture
            shares, pictures = self._shares(None, 0, self.forward.batch, y), layer.pictures
            shares = shares.mean(dim=0, keepdim=True) if pictures is None else shares[list(pictures)]
            return self._added(layer, x, y, shares)
        if layer.tokens is not None and layer.tokens.shared:
            return self._added(layer, x, y, self._shares(layer.tokens, 0, y.shape[0], y))
        start, stop = min(row.start for row in self.rows), max(row.stop for row in self.rows)
        own = y[start:stop]
        added = self._added(layer, x[start:stop], own, self._shares(layer.tokens, start, stop, y))
        in_place = added.data_ptr() == own.data_ptr()
        return y if in_place else torch.cat([y[:start], added, y[stop:]])

    def _added(self, layer: Layer, x: Tensor, y: Tensor, shares: Tensor) -> Tensor:
        """shares: [batch, tokens or 1, regions]."""
        key, changes = (layer.name, x.device, y.dtype), self.acting.memory.changes
        if key not in changes:
            changes[key] = self.acting.technique.changes[layer.name].on(y)
        change, tokens = changes[key], layer.tokens
        if is_convolution(layer.module):
            return change.added(layer.module, x, y, _as_maps(shares, y.shape[2:]))
        if tokens is not None and tokens.grid and y.ndim > 3 and not tokens.maps:  # an axis for each of the grid's
            flat = change.added(layer.module, x.flatten(1, -2), y.flatten(1, -2), shares)
            return flat.view(y.shape)
        if tokens is None or not tokens.shared:
            spread = shares if y.ndim == 3 else shares.view(len(shares), *[1] * (y.ndim - 2), -1)
            return change.added(layer.module, x, y, spread)
        x, y = (t if t.ndim == 3 else t[:, None] for t in (x, y))
        added = change.added(layer.module, x, y, shares)
        return _as_maps(added, tokens.grid) if tokens.maps else added

    def _shares(self, tokens: LayerTokens | None, start: int, stop: int, y: Tensor) -> Tensor:
        """[stop - start, tokens or 1, regions]."""
        key = (tokens, start, stop, y.device, y.dtype)
        if key not in self.kept:
            about = (self.run, self.forward.latent_size, tokens, self.acting.regions, self.acting.technique.common)
            of_rows = [shares_of_row(row, *about) for row in self.rows]
            shares = torch.zeros(stop - start, *of_rows[0].shape[1:])
            for row, own in zip(self.rows, of_rows):
                shares[row.start - start : row.stop - start] = own
            self.kept[key] = shares.to(y)
        return self.kept[key]


def _as_maps(values: Tensor, size: Sequence[int]) -> Tensor:
    """[batch, tokens, channels] as [batch, channels, *size]; one token as one pixel."""
    maps = values.transpose(1, 2)
    return maps[(...,) + (None,) * (len(size) - 1)] if maps.shape[-1] == 1 else maps.unflatten(-1, tuple(size))


def install(patcher: ModelPatcher, regions: Regions, **settings: Any) -> list[str]:
    """Let the LoRAs of regions act in their places in a freshly cloned patcher; returns what there is to say.

    In place of what these regions' LoRAs already do in it. settings: see RegionLora. Raises NoMatch.
    """
    loras = [(i, lora) for i, region in enumerate(regions.items) for lora in region.loras]
    changes, notes = match(patcher.model, loras)
    hooks.remove(patcher, _installed(patcher, regions))
    hooks.install(patcher, RegionLora(regions, changes, **settings))
    return notes


def ensure(patcher: ModelPatcher, regions: Regions) -> list[str]:
    """As `install`, with the settings of what it replaces or else its defaults; nothing if all LoRAs act already: a
    node of its own has installed them."""
    before = _installed(patcher, regions)
    known = {region for each in before for region in each.regions.items}
    if all(region in known for region in regions.items if region.loras):
        return []
    settings = {name: getattr(before[0], name) for name in SETTINGS} if before else {}
    return install(patcher, regions, **settings)


def _installed(patcher: ModelPatcher, regions: Regions) -> list[RegionLora]:
    """What lets any of these regions' LoRAs act, whatever the regions were made into since (cropped, given a further
    LoRA). Regions alone may be shared with a node that gives other ones LoRAs."""
    found = [each for each in hooks.techniques_of(patcher) if isinstance(each, RegionLora)]
    ours = _loras(regions)
    return [each for each in found if ours & _loras(each.regions)]


def _loras(regions: Regions) -> set[Lora]:
    return {lora for region in regions.items for lora in region.loras}


def clip_of(clip: CLIP, region: Region) -> CLIP:
    """The text encoder with the parts that a region's LoRAs have for it; the same one where they have none."""
    for lora in region.loras:
        changes = _of_text(clip, lora) if lora.clip else {}
        if changes:
            clip = clip.clone()
            clip.add_patches(changes, lora.clip)
    return clip


def _of_text(clip: CLIP, lora: Lora) -> dict[Any, Any]:
    """What a LoRA changes about a text encoder, as ComfyUI's loader finds it, but silent about the model's part."""
    key_map = comfy.lora.model_lora_keys_clip(clip.cond_stage_model, {})
    return comfy.lora.load_lora(comfy.lora_convert.convert_lora(dict(lora.weights)), key_map, log_missing=False)


def hooks_of(region: Region) -> Any:
    """A region's LoRAs as ComfyUI's own hooks on a prompt (a HookGroup), which take an evaluation each; None: none."""
    groups = [comfy.hooks.create_hook_lora(dict(lora.weights), lora.model, lora.clip) for lora in region.loras]
    return comfy.hooks.HookGroup.combine_all_hooks(groups) if groups else None
