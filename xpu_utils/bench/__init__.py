"""Measurements: one module each, with `add_parser(subparsers)` for `python -m xpu_utils bench`."""
