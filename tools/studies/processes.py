"""How the process of a study begins, and several of them at once."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable
from typing import Any

import torch

from ..comfy.pack import load_packages
from ..comfy.server import LIBC, die_with_parent


def begin(threads: int | None = None) -> torch.device:
    """Make pack and host importable; no gradients. threads: of torch, None as it is. -> the device in use."""
    load_packages()
    torch.set_grad_enabled(False)
    if threads:
        os.environ["OMP_NUM_THREADS"] = str(threads)
        torch.set_num_threads(threads)
    from comfy.model_management import get_torch_device

    return get_torch_device()


def in_processes(work: Callable[..., None], shares: Iterable[tuple[Any, ...]]) -> None:
    """work(*share) for every share at once, each in a process of one thread: faster than one with several threads. They
    end with this one, even where it is killed: else they would write into the results of whoever goes on."""
    context = multiprocessing.get_context("spawn")
    started = [context.Process(target=_alone, args=(work, share)) for share in shares]
    for process in started:
        process.start()
    for process in started:
        process.join()


def _alone(work: Callable[..., None], share: tuple[Any, ...]) -> None:
    if LIBC:
        die_with_parent()
    begin(threads=1)
    work(*share)
