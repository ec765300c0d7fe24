"""Comparisons with other programs, which need the test harness: `python -m tests.bench cpu | stream | load`."""
