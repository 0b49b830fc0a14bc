"""The region painter's PNGs, read from data URLs without trust: a header tells the size before anything is decoded."""

from __future__ import annotations

import base64
import binascii
import io
import struct

import numpy as np
from PIL import Image

PREFIX = "data:image/png;base64,"
PALETTE_KIND = 3


class BadPng(ValueError):
    """What is wrong with one, in a sentence."""


def gray(url: str, size: tuple[int, int]) -> np.ndarray:
    """What is painted, [height, width] of 0..255: white is, black and clear pixels are not. size: width, height."""
    data = _data(url, size)
    if data[24] > 8:
        raise BadPng("should be a PNG of at most 8 bits.")
    pixels = _pixels(data, "LA", size)
    return np.round(pixels[..., 0].astype(np.float32) * pixels[..., 1] / 255).astype(np.uint8)


def ids(url: str, size: tuple[int, int]) -> np.ndarray:
    """The map of an old drawing, [height, width]: gray values are ids; of colors red is; clear is nobody's."""
    data = _data(url, size)
    if data[24] != 8 or data[25] == PALETTE_KIND:
        raise BadPng("should be a PNG of 8-bit gray or colors, without a palette.")
    pixels = _pixels(data, "RGBA", size)
    return np.where(pixels[..., 3] < 128, 0, pixels[..., 0]).astype(np.uint8)


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


def _pixels(data: bytes, mode: str, size: tuple[int, int]) -> np.ndarray:
    """[height, width, channels]. size: a second header, which a decoder may follow, says nothing else."""
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
            if picture.size != size:
                raise BadPng(f"has a second header, of {picture.width} x {picture.height} pixels.")
            return np.array(picture.convert("RGBA").convert(mode))
    except BadPng:
        raise
    except Exception as why:  # whatever a damaged file makes the decoder say
        raise BadPng(f"the PNG is damaged ({type(why).__name__}).") from None
