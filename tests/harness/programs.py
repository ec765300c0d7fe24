"""Programs from the distribution that tests need: Chromium, Nix."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

CHROMIUMS = ("chromium", "chromium-browser", "google-chrome")


def ensure_program(program: str, package: str) -> str:
    """The path of a program, installed with Debian's package manager where it is missing and we may.

    Raises:
        RuntimeError: it is missing and cannot be installed here.
    """
    found = shutil.which(program)
    if found is None and _may_install():
        subprocess.run(["apt-get", "update", "-qq"], check=False)
        subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", package], check=False)
        found = shutil.which(program)
    if found is None:
        raise RuntimeError(f"The tests need {program}: install it, as with Debian's package {package}.")
    return found


def ensure_chromium() -> str:
    """The path of the system's Chromium, or of the one that Playwright installs for this user where we may not.

    Raises:
        RuntimeError: there is none and none can be installed here.
    """
    found = next(filter(None, map(shutil.which, CHROMIUMS)), None)
    if found is not None:
        return found
    if _may_install():
        return ensure_program("chromium", "chromium")
    subprocess.run([sys.executable, "-m", "playwright", "install", "chromium"], check=False)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
    if not Path(own).is_file():
        raise RuntimeError("The tests need Chromium: install it, or run `playwright install chromium`.")
    return own


def _may_install() -> bool:
    return shutil.which("apt-get") is not None and hasattr(os, "geteuid") and os.geteuid() == 0
