"""How much of a model stays on its device, in the words users give."""

from __future__ import annotations

import math
import re

from .choice import AUTO

ALL = "all"
CHOICES = (AUTO, ALL, "90%", "75%", "60%", "45%", "30%", "20%", "10%", "0%")


def resident_share(resident: object) -> float | None:
    """The share of the weights to keep on the device, 0 to 1; None for "auto": as much as fits.

    Raises:
        ValueError: neither "auto", "all" nor a percentage from 0% to 100%.
    """
    if resident == AUTO:
        return None
    if resident == ALL:
        return 1.0
    match = re.fullmatch(r"\s*(\d{1,3}(?:\.\d+)?)\s*%\s*", resident) if isinstance(resident, str) else None
    share = float(match[1]) / 100 if match else math.nan
    if not 0 <= share <= 1:
        raise ValueError(f"resident: {str(resident)[:40]!r} is not a share, use auto, all or a percentage such as 45%.")
    return share
