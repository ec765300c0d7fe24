"""Masks: an uploaded picture's transparency becomes that of a picture that is here."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from .requests import refused

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
"""Of pictures; others that Pillow knows start programs, such as Ghostscript for EPS."""


def with_mask(original: Path, mask: bytes) -> bytes:
    """The original as PNG with the mask's alpha channel and its own texts, as ComfyUI makes it.

    Raises:
        Refused: one of both is no picture, or too large, or they differ in size.
    """
    try:
        drawing = io.BytesIO(mask)
        with Image.open(original, formats=FORMATS) as picture, Image.open(drawing, formats=FORMATS) as drawn:
            texts = PngInfo()
            for name, text in getattr(picture, "text", {}).items():
                texts.add_text(name, text)
            masked = picture.convert("RGBA")
            masked.putalpha(drawn.convert("RGBA").getchannel("A"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise refused(400, "invalid_request", "The mask cannot be put on that picture", str(error)) from error
    written = io.BytesIO()
    masked.save(written, format="PNG", compress_level=4, pnginfo=texts)
    return written.getvalue()
