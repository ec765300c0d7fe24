"""A pack without nodes, in which ComfyUI knows tiny model files."""

from tests.templates.tiny import tiny_models

KNOWN = tiny_models()
"""Kept: what is in its block ends with it."""
KNOWN.__enter__()
NODE_CLASS_MAPPINGS: dict[str, type] = {}
