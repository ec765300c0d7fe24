"""Placed objects at work: sampling, decoding, encoding, upscaling."""
