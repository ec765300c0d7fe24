"""The verbs of `python -m xpu_utils`: one module each, with `add_parser(subparsers)`."""
