"""Peak memory and time of a piece of work, on a GPU by its allocator, on a CPU by watching every tensor."""

from __future__ import annotations

import statistics
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from tqdm import tqdm


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors made inside and still alive; `peak` is the most there were at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._seen: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = {id(t.untyped_storage()) for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if id(storage) not in before and id(storage) not in self._seen:
                    self._add(storage)
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()

        def gone(_: weakref.ref) -> None:
            self.live -= size
            self._seen.pop(key, None)

        self._seen[key] = weakref.ref(storage, gone)
        self.live += size
        self.peak = max(self.peak, self.live)


def peak_bytes(work: Callable[[], Any], device: torch.device) -> int:
    """Most bytes that the work had allocated at a time, above those there before."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with LiveBytes() as live:
        work()
    return live.peak


def seconds(work: Callable[[], Any], device: torch.device) -> float:
    """Wall time of the work, to its last kernel."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda _: None
    wait(device)
    started = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - started


def taking_turns(
    works: Mapping[Any, Callable[[], Any]], device: torch.device, repeats: int, label: str
) -> dict[Any, list[float]]:
    """Seconds of every piece of work, several times. They take turns, so that a busy machine hits all alike."""
    times: dict[Any, list[float]] = {name: [] for name in works}
    for _ in tqdm(range(repeats), desc=label):
        for name, work in works.items():
            times[name].append(seconds(work, device))
    return times


def spread(values: Sequence[float]) -> float:
    """(largest - smallest) / median."""
    return round((max(values) - min(values)) / statistics.median(values), 3)


def mib(size: float) -> float:
    return round(size / 2**20, 1)
