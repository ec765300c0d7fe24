"""A tiny checkpoint that was really trained: it draws emoji of Noto Color Emoji from their Unicode names.

`python -m tests.training` makes it anew on one CUDA GPU; `weights/` holds what that wrote.
"""
