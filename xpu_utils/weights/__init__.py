"""Weights from a file to where they compute, as one path: header, check, spans, readers, fill."""
