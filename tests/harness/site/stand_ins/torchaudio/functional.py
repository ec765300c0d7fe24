"""What ComfyUI's models of sound ask for: the same lengths as torchaudio's, other values."""

import torch


def resample(waveform: torch.Tensor, orig_freq: float, new_freq: float) -> torch.Tensor:
    length = int(waveform.shape[-1] * new_freq / orig_freq)
    flat = torch.nn.functional.interpolate(waveform.reshape(1, -1, waveform.shape[-1]), size=length, mode="linear")
    return flat.reshape(*waveform.shape[:-1], length)
