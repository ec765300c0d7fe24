"""Stands in for torchaudio, which newer ComfyUIs import at their start: no test computes with sound."""
