"""What can be said of any picture of the server."""

from __future__ import annotations

import io

from PIL import Image


def is_blank(data: bytes) -> bool:
    """Of one gray alone. data: of a file."""
    with Image.open(io.BytesIO(data)) as picture:
        low, high = picture.convert("L").getextrema()
    return high == low
