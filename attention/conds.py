"""Which prompt every row of a model batch belongs to: its list in the guider, its place there, what it brings along."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, NamedTuple

MARK_PREFIX = "fovea_"  # keys of a cond dict that techniques may use to recognize their own prompts
POSITIVE = ("positive", "middle")  # what ComfyUI's guiders call them
Conds = Sequence[Mapping[str, Any]]


class Window(NamedTuple):
    """Frames of one context window: indices, the latent axis they lie on, whether an extra frame leads them."""

    frames: tuple[int, ...]
    axis: int
    anchored: bool

    @property
    def seen(self) -> tuple[int, ...]:
        """Every frame that the network sees, in order; what leads them is the frame before."""
        return (self.frames[0] - 1, *self.frames) if self.anchored else self.frames


class RowKey(NamedTuple):
    """Identity of one prompt evaluation within a step.

    `conds` is the ordered tuple of uuids of the cond list and `position` the place in it. The uuid alone is not enough:
    ComfyUI copies a positive area cond into the negative list together with its uuid, but with the negative prompt.
    """

    conds: tuple[uuid.UUID, ...]
    position: int
    window: Window | None


@dataclass(frozen=True)
class Row:
    """The slice [start, stop) of a model batch that belongs to one cond.

    index: place of the cond list in ComfyUI's call, often 0 for the positive prompt. negative: of a negative prompt.
    original: not ComfyUI's copy of another list's cond, which has that one's marks and area and this list's prompt.
    area: (height, width, y, x) in latent pixels as ComfyUI keeps it, or None. marks: the cond's `fovea_` entries,
    text_marks: those of the prompt whose text it carries. length: text tokens, with what other nodes have put behind
    the prompt; 0 where it has none.
    """

    key: RowKey
    index: int
    uuid: uuid.UUID
    area: tuple[int, ...] | None
    marks: Mapping[str, Any]
    start: int = 0
    stop: int = 0
    negative: bool = False
    original: bool = True
    length: int = 0
    text_marks: Mapping[str, Any] = field(default_factory=dict)


def cond_signature(conds: Conds) -> tuple[uuid.UUID, ...]:
    """Ordered uuids of a cond list: tells the lists of one run apart even when they hold copies of the same conds."""
    return tuple(cond["uuid"] for cond in conds)


def cond_lists(guider: Any) -> dict[str, Conds]:
    """A guider's cond lists by its names for them, as far as they are ComfyUI's."""
    lists = getattr(guider, "conds", None) or {}
    return {name: conds for name, conds in lists.items() if conds and all("uuid" in cond for cond in conds)}


@dataclass(eq=False)
class CondRoles:
    """What a guider calls its cond lists: it evaluates them in an order of its own, so their place tells nothing."""

    _names: dict[tuple[uuid.UUID, ...], set[str]] = field(default_factory=dict)
    _owners: dict[uuid.UUID, set[str]] = field(default_factory=dict)

    def begin(self, guider: Any) -> None:
        """A run begins: ComfyUI has not copied conds from list to list yet."""
        for name, conds in cond_lists(guider).items():
            for cond in conds:
                self._owners.setdefault(cond["uuid"], set()).add(name)

    def step(self, guider: Any) -> None:
        """A step begins: these are the lists that will be evaluated."""
        for name, conds in cond_lists(guider).items():
            self._names.setdefault(cond_signature(conds), set()).add(name)

    def register_copies(self, conds: Conds, copies: Conds) -> None:
        """Copies with uuids of their own mean what the conds mean."""
        if cond_signature(conds) in self._names:
            self._names[cond_signature(copies)] = self._names[cond_signature(conds)]
        for cond, copy in zip(conds, copies, strict=True):
            if cond["uuid"] in self._owners:
                self._owners[copy["uuid"]] = self._owners[cond["uuid"]]

    def is_negative(self, signature: tuple[uuid.UUID, ...], uid: uuid.UUID, index: int) -> bool:
        """Whether a cond is of a negative prompt. A list without a name that tells counts by its place: after the first
        they are negative."""
        names, owners = self._names.get(signature, set()), self._owners.get(uid, set())
        names = names & owners or names or (owners if len(owners) == 1 else names)  # a part of a list has no name
        if any("negative" in name for name in names):
            return True
        return index > 0 and not any(name in POSITIVE or name.startswith(MARK_PREFIX) for name in names)

    def is_original(self, signature: tuple[uuid.UUID, ...], uid: uuid.UUID) -> bool:
        """Whether a cond is its list's own, not one that ComfyUI copied there from another list."""
        names = self._names.get(signature, set())
        return not names or bool(names & self._owners.get(uid, names))

    def clear(self) -> None:
        self._names.clear()
        self._owners.clear()


class CondTable:
    """Maps (list index, uuid) of one host call to the row it will become."""

    def __init__(
        self, lists: Sequence[Conds | None], window: Window | None = None, roles: CondRoles | None = None
    ) -> None:
        self._rows: dict[tuple[int, uuid.UUID], Row | None] = {}
        self.signatures = tuple(None if conds is None else cond_signature(conds) for conds in lists)
        roles = roles or CondRoles()
        prompts = {
            id(_text(cond)): cond for signature, conds in zip(self.signatures, lists) for cond in conds or ()
            if _text(cond) is not None and roles.is_original(signature or (), cond["uuid"])
        }  # fmt: skip
        for index, conds in enumerate(lists):
            signature = self.signatures[index] or ()
            for position, cond in enumerate(conds or ()):
                area = tuple(cond["area"]) if cond.get("area") is not None else None
                prompt = prompts.get(id(_text(cond)), cond)
                key, uid = RowKey(signature, position, window), cond["uuid"]
                known = (index, uid) in self._rows
                row = Row(
                    key, index, uid, area, _marks(cond), negative=roles.is_negative(signature, uid, index),
                    original=roles.is_original(signature, uid), length=_text_tokens(prompt), text_marks=_marks(prompt),
                )  # fmt: skip
                # Two conds of one list with one uuid look alike inside the model: better none than the wrong one.
                self._rows[index, uid] = None if known else row

    def text_marks(self, index: int, uid: uuid.UUID) -> Mapping[str, Any]:
        """See Row; none where it is not known which cond is meant."""
        row = self._rows.get((index, uid))
        return {} if row is None else row.text_marks

    def rows(self, indices: Sequence[int], uuids: Sequence[uuid.UUID], batch: int) -> tuple[Row, ...]:
        """Rows of a model batch made of equal chunks, in order; unknown chunks are left out."""
        if not indices or len(indices) != len(uuids) or batch % len(indices):
            return ()
        size = batch // len(indices)
        rows = []
        for chunk, (index, uid) in enumerate(zip(indices, uuids)):
            row = self._rows.get((index, uid))
            if row is not None:
                rows.append(replace(row, start=chunk * size, stop=(chunk + 1) * size))
        return tuple(rows)


def _marks(cond: Mapping[str, Any]) -> Mapping[str, Any]:
    return MappingProxyType({key: value for key, value in cond.items() if key.startswith(MARK_PREFIX)})


def _text(cond: Mapping[str, Any]) -> Any:
    """What ComfyUI made of a prompt's text, the same object in every cond that it copied the prompt into."""
    return cond.get("model_conds", {}).get("c_crossattn")


def _text_tokens(cond: Mapping[str, Any]) -> int:
    features = cond.get("cross_attn")
    return features.shape[1] if features is not None and getattr(features, "ndim", 0) == 3 else 0
