"""What ComfyUI's models of sound ask for: the same shapes as torchaudio's, other values."""

from typing import Any

import torch


class MelScale(torch.nn.Module):
    def __init__(
        self,
        n_mels: int = 128,
        sample_rate: int = 16000,
        f_min: float = 0.0,
        f_max: float | None = None,
        n_stft: int = 201,
        *_: Any,
    ) -> None:
        super().__init__()
        bins = torch.linspace(0, n_mels, n_stft)[:, None] - torch.arange(n_mels)
        self.register_buffer("fb", (1 - bins.abs()).clamp_min(0) + 1e-3)

    def forward(self, specgram: torch.Tensor) -> torch.Tensor:
        return torch.matmul(specgram.transpose(-1, -2), self.fb).transpose(-1, -2)


class MelSpectrogram(torch.nn.Module):
    def __init__(self, *, n_fft: int, hop_length: int, n_mels: int, **_: Any) -> None:
        super().__init__()
        self.n_fft, self.hop_length = n_fft, hop_length
        self.mel_scale = MelScale(n_mels, n_stft=n_fft // 2 + 1)

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        window = torch.hann_window(self.n_fft, device=waveform.device)
        flat = waveform.reshape(-1, waveform.shape[-1])
        bins = torch.stft(flat, self.n_fft, self.hop_length, window=window, return_complex=True).abs()
        return self.mel_scale(bins).reshape(*waveform.shape[:-1], -1, bins.shape[-1])
