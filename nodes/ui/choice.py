"""What a combo whose options have inputs of their own (io.DynamicCombo) was set to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def chosen(given: dict[str, Any] | None, name: str, options: Iterable[str]) -> tuple[str, dict[str, Any]]:
    """The option, and those of its inputs that were set. given: as ComfyUI hands it on, None if it knew no such option.

    Raises ValueError: there is no such option.
    """
    given = given or {}
    option = next((each for each in options if each == given.get(name)), None)
    if option is None:
        raise ValueError(f"{name} must be one of: {', '.join(options)}.")
    return option, {key: value for key, value in given.items() if key != name and value is not None}
