"""State of one sampling run: what is evaluated now, what was recorded, what was said.

A `Run` lives from the start to the end of one sampling run and is dropped afterwards. Everything that a technique must
remember between steps is kept here, never in a node, a module or a model, so two runs cannot see each other.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

from torch import Tensor, nn

from .conds import CondRoles, Conds, CondTable, Row, RowKey, Window, cond_lists, cond_signature
from .packed import Shapes
from .sites import BlockId, Forward, LayerTokens, Site

logger = logging.getLogger(__name__)
T = TypeVar("T")
UNREAD = (
    "The model's attention cannot be read in this run: another node, or a picture that the prompt brings along, has "
    "changed how it is computed. Regions and what else goes by attention do nothing here."
)


@dataclass(frozen=True)
class AttentionCall:
    """One attention call. q, k, v: [batch, tokens, heads * dim], or [batch, heads, tokens, dim] when `heads_first`.

    width: channels of a head as the network gave them; wrappers farther out may have put more behind these, scaled so
    that all scores stay what they are.
    wrapped: another node's override or replacement is inside, which may count on the whole batch and all heads.
    plain: the user's backend where another node replaces the call, else None.
    """

    site: Site
    rows: tuple[Row, ...]
    q: Tensor
    k: Tensor
    v: Tensor
    heads: int
    heads_first: bool
    mask: Tensor | None
    scale: float | None
    run: Run
    latent_size: tuple[int, ...]
    width: int
    wrapped: bool = False
    plain: Attention | None = None


class Attention(Protocol):
    """Attention through the next wrapper or the backend; `heads`: of these tensors, if not those of the call."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, heads: int | None = None) -> Tensor: ...


class AttentionWrapper(Protocol):
    """Something that reads or changes attention. Immutable; what it remembers goes into the run."""

    @property
    def blocks(self) -> frozenset[BlockId] | None:
        """The blocks it wants, None for all."""
        ...

    @property
    def kinds(self) -> frozenset[str]:
        """Which of "self", "cross", "joint" it wants."""
        ...

    @property
    def reads(self) -> bool:
        """Whether it leaves attention as it is. Readers see what all others have changed, however nodes are ordered."""
        ...

    def wants(self, run: Run, rows: tuple[Row, ...], degraded: str | None) -> bool:
        """Whether this forward pass matters; `degraded` names the technique if it is an extra, degraded evaluation."""
        ...

    def attend(self, call: AttentionCall, attention: Attention) -> Tensor:
        """Return the result of the call, computed with `attention(q, k, v)`: the next wrapper or the user's backend.

        A part of the batch or of the heads may be computed at a time, but not if the call is `wrapped`.
        """
        ...


class Layer(NamedTuple):
    """A module of the network. tokens: None where its values are about no tokens, or about none that are known.
    pictures: which one of the batch every row of values is about, None where that is not known."""

    name: str
    module: nn.Module
    tokens: LayerTokens | None
    pictures: Sequence[int] | None


class LayerChange(Protocol):
    """What is done to the values of layers in one call of the network."""

    @property
    def layers(self) -> Sequence[str]:
        """Names of the modules."""
        ...

    def changed(self, layer: Layer, x: Tensor, y: Tensor) -> Tensor:
        """What the layer shall give in place of y, which it made of x. y may be overwritten where no gradient is
        taken."""
        ...


@runtime_checkable
class LayerChanger(Protocol):
    """Something that changes what layers of the network give, in one step. Immutable; what it remembers goes into the
    run."""

    def in_call(self, run: Run, rows: tuple[Row, ...], forward: Forward) -> LayerChange | None:
        """What it does in this call of the network; None: nothing."""
        ...


@runtime_checkable
class TextTrimmer(Protocol):
    """An attention wrapper that may cut tokens off the prompts of a model call."""

    def visible_text(self, run: Run, rows: tuple[Row, ...]) -> int | None:
        """How many text tokens this call, whose whole batch these rows are, shall see; None for all."""
        ...

    def added_text(self, marks: Mapping[str, Any]) -> slice:
        """Which text tokens this wrapper's technique has put behind a prompt with these marks."""
        ...


class Technique(Protocol):
    """A guidance or control method installed in a model."""

    def begin(self, run: Run) -> Sequence[AttentionWrapper | LayerChanger]:
        """Called when a denoising step starts; `run.sigma` and `run.model` are set. Returns what it needs in it."""
        ...


@runtime_checkable
class RunFinisher(Protocol):
    """A technique that has something to say when a run has come to its end."""

    def finish(self, run: Run) -> None:
        """Called after the last step, not after an error or a cancel; `run` still holds everything."""
        ...


@dataclass(frozen=True)
class Record:
    """What a recorder kept of one row: values [batch, tokens], their grid and extent (see Site), the latent's size."""

    values: Tensor
    grid: tuple[int, ...]
    extent: tuple[int, ...]
    latent_size: tuple[int, ...]


class Shared:
    """Copies of a model's options, which other packs make in the middle of a run, refer to the same object."""

    def __deepcopy__(self, _memo: dict[int, Any]) -> Shared:
        return self


@dataclass(eq=False)
class Run(Shared):
    """One sampling run. `shapes`: of the latents that are packed into one, see packed.py. `sigma` is the current noise
    level, `size` the axes of the whole picture after the channels, `conds` the guider's cond lists by its names for
    them, as far as they are ComfyUI's, `cfg` its scale, if it has one. `highest`: the schedule's highest sigma."""

    techniques: tuple[Technique, ...]
    shapes: Shapes = ()
    model: Any = None
    sigma: float = float("nan")
    size: tuple[int, ...] = ()
    conds: dict[str, Conds] = field(default_factory=dict)
    cfg: float | None = None
    highest: float = 0.0
    roles: CondRoles = field(default_factory=CondRoles)
    attention_wrappers: tuple[AttentionWrapper, ...] = ()
    layer_changers: tuple[LayerChanger, ...] = ()
    table: CondTable | None = None
    _lists: dict[tuple[uuid.UUID, ...], int] = field(default_factory=dict)
    _evaluated: set[RowKey] = field(default_factory=set)
    _records: dict[tuple[BlockId, RowKey], Record] = field(default_factory=dict)
    _previous: dict[tuple[BlockId, RowKey], Record] = field(default_factory=dict)
    _states: dict[object, Any] = field(default_factory=dict)
    _aliases: dict[tuple[Any, ...], uuid.UUID] = field(default_factory=dict)
    _warned: set[str] = field(default_factory=set)
    _read: set[bool] = field(default_factory=set)  # whether attention calls that a wrapper was there for were known
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def open(self, model: Any, sigma: float, size: tuple[int, ...] = (), guider: Any = None) -> None:
        """Start a denoising step: forget what the last one saw and ask every technique what it needs in this one."""
        self.model, self.sigma, self.size, self.conds = model, sigma, size, cond_lists(guider)
        # A guider with several scales keeps them elsewhere, and leaves this one as it was made.
        self.cfg = None if hasattr(guider, "cfg1") else getattr(guider, "cfg", None)
        self.roles.step(guider)
        self._lists.clear()
        self._evaluated.clear()
        self._keep_last_records()
        needed = [each for technique in self.techniques for each in technique.begin(self)]
        wrappers = [each for each in needed if not isinstance(each, LayerChanger)]
        self.attention_wrappers = tuple(sorted(wrappers, key=lambda wrapper: wrapper.reads))
        self.layer_changers = tuple(each for each in needed if isinstance(each, LayerChanger))

    def _keep_last_records(self) -> None:
        """Keep the last records of every cond and block: context windows move, so older ones would pile up."""
        fresh = {(block, key.conds, key.position) for block, key in self._records}
        older = {(block, key): record for (block, key), record in self._previous.items()
                 if (block, key.conds, key.position) not in fresh}  # fmt: skip
        self._previous, self._records = {**older, **self._records}, {}

    def finish(self) -> None:
        """Let techniques look back at a run that has come to its end; say so if attention could never be read."""
        if self._read == {False}:
            self.warn(UNREAD)
        for technique in self.techniques:
            if isinstance(technique, RunFinisher):
                technique.finish(self)

    def close(self) -> None:
        """Drop every tensor and every reference of the run."""
        self.model, self.table, self.attention_wrappers, self.layer_changers, self.conds = None, None, (), (), {}
        self.roles.clear()
        for kept in (self._lists, self._evaluated, self._records, self._previous, self._states, self._aliases):
            kept.clear()

    @contextmanager
    def calling(self, table: CondTable | None, remember: bool = True) -> Iterator[None]:
        """While ComfyUI evaluates these cond lists, rows are looked up in `table` (None: not our model).

        remember: let `list_index` find the lists for the rest of the step.
        """
        outer, self.table = self.table, table
        for index, signature in enumerate(table.signatures if table and remember else ()):
            if signature:
                self._lists.setdefault(signature, index)
        try:
            yield
        finally:
            self.table = outer

    def list_index(self, conds: Conds | None) -> int | None:
        """Place that this cond list had in this step's evaluation of the model, None if it was not evaluated."""
        return self._lists.get(cond_signature(conds)) if conds else None

    def mark_evaluated(self, rows: Sequence[Row]) -> None:
        """Note that this step evaluates the model for these rows: `records` answers for no others."""
        with self._lock:
            self._evaluated.update(row.key for row in rows)

    def has_record(self, block: BlockId, key: RowKey) -> bool:
        """Whether a record of this block and prompt was kept in this step already."""
        return (block, key) in self._records

    def keep(self, block: BlockId, key: RowKey, record: Record) -> None:
        """Store a record. The first of a step stays: later passes of the step are other techniques' perturbed ones."""
        with self._lock:
            self._records.setdefault((block, key), record)

    def records(self, block: BlockId, conds: Conds, position: int) -> list[tuple[Window | None, Record]]:
        """Records of one cond in this step, one per context window.

        Where the cond was evaluated but the network itself was skipped by a cache, the last record stands in.
        """
        signature = cond_signature(conds)
        records = []
        for key in sorted(self._evaluated, key=lambda key: key.window or Window((), 0, False)):
            if key.conds == signature and key.position == position:
                record = self._records.get((block, key)) or self._previous.get((block, key))
                if record is None:
                    return []
                records.append((key.window, record))
        return records

    def state(self, owner: object, make: Callable[[], T]) -> T:
        """The owner's own memory in this run, made on first use. Owners are told apart by identity (`eq=False`)."""
        with self._lock:
            if owner not in self._states:
                self._states[owner] = make()
            return self._states[owner]

    def alias(self, *key: Any) -> uuid.UUID:
        """A uuid that stays the same for this key during the run."""
        with self._lock:
            return self._aliases.setdefault(key, uuid.uuid4())

    def note_site(self, known: bool) -> None:
        """Note whether it is known what an attention call is about."""
        self._read.add(known)

    def warn(self, message: str) -> None:
        """Log a warning once per run."""
        with self._lock:
            fresh = message not in self._warned
            self._warned.add(message)
        if fresh:
            logger.warning(message)
