"""Batched fbank of 32 ten-second clips against torchaudio's Kaldi fbank, a clip at a time: ``python
benchmarks/fbank.py``.
"""

from __future__ import annotations

import torch
from peers import torchaudio_kaldi
from timing import compare, set_threads

from mae_ast_plugin.audio.frontend import make_frontend


def main() -> None:
    set_threads()
    kaldi, frontend = torchaudio_kaldi(), make_frontend()
    waveforms = torch.rand(32, 160000, generator=torch.Generator().manual_seed(0)) - 0.5

    def theirs() -> torch.Tensor:
        return torch.stack([kaldi.fbank(wave[None], num_mel_bins=128, use_energy=False) for wave in waveforms])

    with torch.inference_mode():
        difference = (frontend(waveforms) - theirs()).abs()
        print(f"largest difference {difference.max():.2g}, mean {difference.mean():.2g}")
        compare("fbank of 32 x 10 s", lambda: frontend(waveforms), theirs, "torchaudio per clip", 3.0)


if __name__ == "__main__":
    main()
