"""What is cut off the prompts of a model call: tokens that a technique has put behind them and nobody should see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .conds import Row
from .families.registry import family_of
from .run import Run, TextTrimmer
from .sites import Forward

Rows = tuple[Row, ...]


def trimmers(run: Run) -> list[TextTrimmer]:
    """The wrappers of a run that say what nobody should see."""
    return [each for each in run.attention_wrappers if isinstance(each, TextTrimmer)]


def trimmed(
    run: Run, rows: Rows, forward: Forward, text: Any, inputs: dict[str, Any]
) -> tuple[Rows, Any, dict[str, Any]]:
    """A call's rows, text features and other inputs, without the tokens that a wrapper says nobody should see.

    As they are where something of those tokens would be left in the rest.
    """
    found, family = trimmers(run), family_of(forward.network)
    whole = sum(row.stop - row.start for row in rows) == forward.batch
    if not found or not whole or not isinstance(text, Tensor) or text.ndim != 3:
        return rows, text, inputs
    by_token = {name for name, value in inputs.items()
                if isinstance(value, Tensor) and value.ndim in (2, 3) and value.shape[1] == text.shape[1]}  # fmt: skip
    if by_token - {"attention_mask"} or (family is not None and family.text_is_mixed):
        return rows, text, inputs
    if family is not None and family.text_place(forward).at_end:
        return (rows, text, inputs) if by_token else (*_trimmed_at_end(run, found, rows, text), inputs)
    return _trimmed_behind(run, found, rows, text, inputs, masked=bool(by_token))


def _visible(run: Run, found: Sequence[TextTrimmer], rows: Rows) -> int | None:
    """How many tokens of the prompts in these rows all wrappers leave; None: all."""
    return min((n for each in found if (n := each.visible_text(run, rows))), default=None)


def _trimmed_behind(
    run: Run, found: Sequence[TextTrimmer], rows: Rows, text: Tensor, inputs: dict[str, Any], masked: bool
) -> tuple[Rows, Tensor, dict[str, Any]]:
    """Where the text begins with the prompt: all rows at once, if they agree. masked: whether tokens have a mask."""
    kept = _visible(run, found, rows)
    if kept is None or kept >= text.shape[1]:
        return rows, text, inputs
    inputs = dict(inputs)
    if masked:
        inputs["attention_mask"] = inputs["attention_mask"][:, :kept]
    if "num_tokens" in inputs:
        seen = int(inputs["attention_mask"].sum()) if masked else kept
        inputs["num_tokens"] = min(inputs["num_tokens"], max(1, seen))
    return tuple(replace(row, length=min(row.length, kept)) for row in rows), text[:, :kept], inputs


def _trimmed_at_end(run: Run, found: Sequence[TextTrimmer], rows: Rows, text: Tensor) -> tuple[Rows, Tensor]:
    """Where padding comes before short prompts, each row by itself: its prompt moves to the end, behind more padding.

    So it is as it would be without those tokens, place for place. A prompt too long for padding stays as it is.
    """
    count, after = text.shape[1], []
    for row in rows:
        kept = _visible(run, found, (row,)) or row.length
        if kept < row.length < count:
            own = F.pad(text[row.start : row.stop, : kept - row.length], (0, 0, row.length - kept, 0))
            text = torch.cat([text[: row.start], own, text[row.stop :]])
            row = replace(row, length=kept)
        after.append(row)
    return tuple(after), text
