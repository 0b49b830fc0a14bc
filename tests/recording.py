"""Techniques that look: at the saliency in every block, at every attention call; and models with them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from fovea.attention import block_names as naming
from fovea.attention import hooks
from fovea.attention.families import registry
from fovea.attention.recorders import SaliencyRecorder
from fovea.attention.run import Attention, AttentionCall, Run


@dataclass(frozen=True, eq=False)
class Recording:
    """A technique that records saliency in every block and keeps what it found."""

    blocks: frozenset
    found: dict = field(default_factory=dict, repr=False)

    def begin(self, run: Run) -> Any:
        return (SaliencyRecorder(self.blocks),)

    def post_cfg(self, args: dict[str, Any]) -> Tensor:
        run = hooks.run_of(args["model_options"])
        for name in ("cond", "uncond"):
            for block in self.blocks:
                for _, record in run.records(block, args[name] or (), 0):
                    self.found[name, naming.block_name(block)] = record
        return args["denoised"]


def recorded(model: Any) -> tuple[Any, Recording]:
    network = model.model.diffusion_model
    patched, recording = model.clone(), Recording(frozenset(registry.family_of(network).blocks(network)))
    hooks.install(patched, recording)
    patched.set_model_sampler_post_cfg_function(recording.post_cfg)
    return patched, recording


@dataclass(frozen=True, eq=False)
class Watching:
    """A technique, and its own wrapper, that keeps every attention call it is asked about."""

    calls: list[AttentionCall] = field(default_factory=list, repr=False)
    blocks: None = None
    kinds: frozenset[str] = frozenset({"self", "cross", "joint"})
    reads: bool = True

    def begin(self, run: Run) -> Any:
        return (self,)

    def wants(self, run: Run, rows: Any, degraded: str | None) -> bool:
        return True

    def attend(self, call: AttentionCall, attention: Attention) -> Tensor:
        self.calls.append(call)
        return attention(call.q, call.k, call.v)


def watched(model: Any) -> tuple[Any, list[AttentionCall]]:
    """A model, and the calls of its attention that are known, once it has been used."""
    patched, watching = model.clone(), Watching()
    hooks.install(patched, watching)
    return patched, watching.calls
