"""The work on placed objects: sampling, decoding, encoding, upscaling."""
