"""The error of everything that takes gradients."""

from __future__ import annotations


class NoGradient(RuntimeError):
    """Gradients through this model would be wrong or impossible; the text names what and the cure."""
