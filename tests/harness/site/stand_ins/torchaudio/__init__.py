"""Stands in for torchaudio, which ComfyUI's models of sound import."""

from . import functional as functional
from . import transforms as transforms
