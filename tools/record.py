"""What every report says of where its numbers come from."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from typing import Any

import torch

from .host import ROOT


def commit() -> str:
    return subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()


def machine(device: torch.device) -> dict[str, Any]:
    """Of a benchmark: commit, device, threads, torch."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {"commit": commit(), "device": name, "threads": torch.get_num_threads(), "torch": torch.__version__}


def weights_and(settings: tuple) -> str:
    """A folder's name for results of the shipped weights and these settings: others must not be mixed in."""
    told = (ROOT / "demo" / "shapesworld.json").read_bytes() + repr(settings).encode()
    return hashlib.sha256(told).hexdigest()[:12]
