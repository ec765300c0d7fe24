"""Imported by ComfyUI, used by no test."""


class MelScale:
    pass
