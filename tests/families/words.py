"""What is checked of a family, in this order: a lost card stays lost."""

from __future__ import annotations

CHECKS = {
    "stock": "stock ComfyUI computes with it",
    "cpu": "the same on the CPU in fp32",
    "resident": "on a card the same as stock there",
    "streamed": "the same with 10 % of the weights on a card",
    "once": "of a model, each streamed byte is copied once a pass, and again only after a ring of others",
    "memory once": "the same after running out of memory once",
    "memory thrice": "the same after running out of memory three times",
    "bf16": "in bf16 on the CPU not further from fp32 than stock's bf16",
    "lost, card": "the same after losing the card, on another; but for rounding where it keeps there what it computed",
    "lost, CPU": "the same, but for rounding, after losing the last card, on the CPU",
}
