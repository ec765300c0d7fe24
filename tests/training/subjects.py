"""What the tiny checkpoint draws: emoji by their Unicode names, rendered from the font Noto Color Emoji."""

from __future__ import annotations

import functools
import random
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

SIDE = 256
"""Width and height of a picture in pixels."""

SUBJECTS: tuple[str, ...] = (
    *("tomato", "aubergine", "grapes", "watermelon", "tangerine", "lemon", "banana", "pineapple", "red apple"),
    *("green apple", "pear", "peach", "cherries", "strawberry", "hamburger", "slice of pizza", "taco", "hot dog"),
    *("doughnut", "cookie", "lollipop", "birthday cake", "croissant", "avocado", "carrot", "broccoli", "cooking"),
    *("cheese wedge", "cupcake", "french fries", "popcorn", "soft ice cream", "beer mug", "wine glass", "pretzel"),
    *("octopus", "honeybee", "lady beetle", "tropical fish", "turtle", "penguin", "spouting whale", "snail", "crab"),
    *("owl", "butterfly", "duck", "flamingo", "parrot", "hedgehog", "elephant", "frog face", "panda face"),
    *("fox face", "lion face", "unicorn face", "pig face", "cat face", "dog face", "koala", "tiger face"),
    *("monkey face", "rabbit face", "bear face", "shark", "squid", "lobster", "peacock", "dragon face"),
    *("cactus", "palm tree", "evergreen tree", "sunflower", "tulip", "rose", "mushroom", "four leaf clover"),
    *("maple leaf", "rainbow", "volcano", "water wave", "snowflake", "fire", "crescent moon", "sun with face"),
    *("earth globe americas", "snowman", "rocket", "helicopter", "steam locomotive", "bus", "taxi", "fire engine"),
    *("tractor", "bicycle", "sailboat", "flying saucer", "balloon", "guitar", "trumpet", "violin", "saxophone"),
    *("crown", "top hat", "gem stone", "ring", "umbrella", "teddy bear", "robot face", "ghost", "skull"),
    *("jack-o-lantern", "christmas tree", "wrapped present", "trophy", "soccer ball", "american football"),
    *("artist palette", "magnet", "key", "bell", "anchor", "telescope", "electric light bulb", "books"),
    *("television", "camera", "clapper board", "alien monster", "extraterrestrial alien", "candle", "teapot"),
)

FONT_NAME = "NotoColorEmoji.ttf"
_FONT_FOLDERS = (Path("/usr/share/fonts/truetype/noto"), Path("/usr/share/fonts/noto"), Path("/usr/share/fonts"))
_STRIKE = 109
"""The one size, in pixels, that the font's bitmaps have."""


def find_font(folders: Iterable[Path] = _FONT_FOLDERS) -> Path:
    """The font's file.

    Raises:
        FileNotFoundError: it is not installed.
    """
    for folder in folders:
        if (folder / FONT_NAME).is_file():
            return folder / FONT_NAME
    raise FileNotFoundError(f"{FONT_NAME} is not installed: install it, as with Debian's fonts-noto-color-emoji.")


@functools.cache
def drawing(subject: str, font: Path) -> Image.Image:
    """A subject as the font holds it, RGBA, cropped to what is drawn."""
    letter = unicodedata.lookup(subject.upper())
    canvas = Image.new("RGBA", (2 * _STRIKE, 2 * _STRIKE))
    face = ImageFont.truetype(str(font), _STRIKE)
    ImageDraw.Draw(canvas).text((10, 10), letter, font=face, embedded_color=True)
    return canvas.crop(canvas.getbbox())


def picture(subject: str, font: Path, *, extent: float = 0.8, right: float = 0, down: float = 0) -> Image.Image:
    """A subject on white, RGB, `SIDE` pixels square.

    Args:
        extent: its longer side, as a share of the picture's.
        right, down: how far its middle is from the picture's, as shares of the picture's side.
    """
    image = drawing(subject, font)
    scale = extent * SIDE / max(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
    place = (
        round((SIDE - image.width) / 2 + right * SIDE),
        round((SIDE - image.height) / 2 + down * SIDE),
    )
    canvas = Image.new("RGB", (SIDE, SIDE), "white")
    canvas.paste(image, place, image)
    return canvas


def varied(subject: str, font: Path, draw: random.Random, *, spread: float = 1.0) -> Image.Image:
    """A subject of random size and place; `spread` scales how much they vary."""
    extent = 0.8 + spread * draw.uniform(-0.08, 0.08)
    right, down = (spread * draw.uniform(-0.05, 0.05) for _ in range(2))
    return picture(subject, font, extent=extent, right=right, down=down)
