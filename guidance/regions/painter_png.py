"""The region painter's PNGs, read from data URLs without trust: a header tells the size before anything is decoded."""

from __future__ import annotations

import base64
import binascii
import io
import struct

import numpy as np
from PIL import Image

PREFIX = "data:image/png;base64,"


class BadPng(ValueError):
    """What is wrong with one, in a sentence."""


def gray(url: str, size: tuple[int, int]) -> np.ndarray:
    """What is painted, [height, width] of 0..255: white is, black and clear pixels are not. size: width, height."""
    data = _data(url, size)
    if data[24] > 8:
        raise BadPng("should be a PNG of at most 8 bits.")
    pixels = _pixels(data, size)
    return np.round(pixels[..., 0].astype(np.float32) * pixels[..., 1] / 255).astype(np.uint8)


def _data(url: str, size: tuple[int, int]) -> bytes:
    """The file, if it says that it is a PNG of this size."""
    if not url.startswith(PREFIX):
        raise BadPng(f"should begin with {PREFIX}.")
    try:
        data = base64.b64decode(url[len(PREFIX) :], validate=True)
    except (binascii.Error, ValueError):
        raise BadPng("its base64 is damaged.") from None
    if len(data) < 26 or data[:8] != b"\x89PNG\r\n\x1a\n" or data[12:16] != b"IHDR":
        raise BadPng("holds no PNG.")
    said = struct.unpack(">II", data[16:24])
    if said != size:
        raise BadPng(f"is {said[0]} x {said[1]} pixels, width and height say {size[0]} x {size[1]}.")
    return data


def _pixels(data: bytes, size: tuple[int, int]) -> np.ndarray:
    """[height, width, 2]: how light, how opaque. size: a second header, which a decoder may follow, says nothing else.
    """
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
            if picture.size != size:
                raise BadPng(f"has a second header, of {picture.width} x {picture.height} pixels.")
            return np.array(picture.convert("RGBA").convert("LA"))
    except BadPng:
        raise
    except Exception as why:  # whatever a damaged file makes the decoder say
        raise BadPng(f"the PNG is damaged ({type(why).__name__}).") from None
