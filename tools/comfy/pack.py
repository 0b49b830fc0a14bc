"""Makes the pack importable as `fovea` and ComfyUI as `comfy` in stand-alone scripts (training, evaluation)."""

from __future__ import annotations

import sys
import types

from .host import ROOT, locate


def load_packages() -> None:
    """Put ComfyUI on sys.path and register the pack's folders as package `fovea`, without running its entry point.

    The entry point needs ComfyUI's whole server API; scripts need only the library below the nodes.
    """
    import torch

    sys.path.insert(0, str(locate()))
    import comfy.cli_args

    comfy.cli_args.args.cpu = not torch.cuda.is_available()
    comfy.cli_args.args.use_pytorch_cross_attention = True  # differentiable and fast on every device
    package = types.ModuleType("fovea")
    package.__path__ = [str(ROOT)]
    sys.modules.setdefault("fovea", package)
