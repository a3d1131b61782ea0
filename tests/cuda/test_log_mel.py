"""The log-Mel CUDA kernel against float64, in the emulation: frame sizes, edges, ragged batches, NaN."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from pyasd import ops
from pyasd.backends.contract import Floor, Pad
from pyasd.backends.cuda import CudaBackend
from pyasd.backends.reference import BACKEND as reference

from .conftest import guarded


def machine(clips: int, n: int) -> Tensor:
    """Hum, harmonics and noise 50 dB below: int16 whose bands span some 80 dB."""
    rng = np.random.default_rng(0)
    base = rng.uniform(40, 400, (clips, 1))
    tones = sum(np.sin(2 * np.pi * base * k * np.arange(n) / 16000) / k for k in range(1, 9))
    return guarded(torch.from_numpy((4000 * tones + 15 * rng.standard_normal((clips, n))).round().astype(np.int16)))


@pytest.mark.parametrize("n_fft", [256, 512, 1024, 2048, 4096])
@pytest.mark.parametrize(
    ("n_mels", "hop", "pad", "floor", "dtype"),
    [(40, 2, "reflect", "max", torch.int16), (128, 3, "constant", "add", torch.float32)],
)
def test_every_frame_size_equals_float64(
    cuda: CudaBackend, n_fft: int, n_mels: int, hop: int, pad: Pad, floor: Floor, dtype: torch.dtype
) -> None:
    plan = ops.LogMelPlan(n_fft=n_fft, hop_length=n_fft // hop, n_mels=n_mels, pad=pad, floor=floor)
    samples, lengths = machine(2, 5 * n_fft + 7), [5 * n_fft + 7] * 2
    floats = guarded(samples.float() / 32768)
    got = cuda.log_mel(samples if dtype == torch.int16 else floats, plan, lengths)
    exact = reference.log_mel(floats.double(), plan, lengths)
    plain = reference.log_mel(floats, plan, lengths)
    below = exact.amax(-1, keepdim=True) - exact
    error = (got - exact).abs()
    assert (error <= 4 * (plain - exact)[below <= 80].abs().max() + 1e-4)[below <= 80].all()
    assert error[below <= 80].max() <= 1e-3
    assert error[below <= 100].max() <= 2e-2


def test_clips_of_unequal_length(cuda: CudaBackend, order: str) -> None:
    plan = ops.LogMelPlan(n_fft=512, hop_length=192, n_mels=64)
    lengths = [3000, 257, 1931, 1024, 2]
    samples = machine(5, 3000).float() / 32768
    for clip, n in zip(samples, lengths, strict=True):
        clip[n:] = float("nan")  # what lies past a clip's end must not be read
    constant = ops.LogMelPlan(n_fft=512, hop_length=192, n_mels=64, pad="constant")
    for this, clips in ((plan, 4), (constant, 5)):
        got = cuda.log_mel(guarded(samples[:clips]), this, lengths[:clips])
        alone = [cuda.log_mel(guarded(samples[i : i + 1, :n]), this, [n]) for i, n in enumerate(lengths[:clips])]
        assert torch.equal(got, torch.cat(alone))
        exact = reference.log_mel(samples[:clips].double(), this, lengths[:clips])
        assert (got - exact).abs().max() <= 1e-3


def test_views_into_larger_tensors(cuda: CudaBackend) -> None:
    plan = ops.LogMelPlan(n_fft=256, hop_length=100, n_mels=33)
    samples = machine(3, 1300).float() / 32768
    whole = guarded(torch.full((5, 1303), float("nan")))
    whole[1:4, 1:1301] = samples
    expected = cuda.log_mel(guarded(samples), plan, [1300] * 3)
    assert torch.equal(cuda.log_mel(whole[1:4, 1:1301], plan, [1300] * 3), expected)
    assert torch.equal(cuda.log_mel(samples.t().contiguous().t(), plan, [1300] * 3), expected)


def test_a_nan_costs_its_own_frames_only(cuda: CudaBackend) -> None:
    plan = ops.LogMelPlan()
    samples = machine(1, 8000).float() / 32768
    clean = cuda.log_mel(guarded(samples), plan, [8000])
    samples[0, 5000] = float("nan")
    samples[0, 2000] = float("inf")
    got = cuda.log_mel(guarded(samples), plan, [8000])
    touched = torch.zeros(16, dtype=torch.bool)
    touched[[3, 4, 9, 10]] = True  # the frames whose windows hold these samples
    assert got[touched].isnan().all()
    assert torch.equal(got[~touched], clean[~touched])


def test_silence_is_the_floor(cuda: CudaBackend) -> None:
    got = cuda.log_mel(guarded(torch.zeros(1, 3000, dtype=torch.int16)), ops.LogMelPlan(), [3000])
    torch.testing.assert_close(got, torch.full_like(got, -156.5356), rtol=0, atol=1e-4)


def test_other_frame_sizes_and_empty_batches(cuda: CudaBackend) -> None:
    samples, plan = machine(1, 4000), ops.LogMelPlan(n_fft=400, hop_length=160, n_mels=80)
    assert torch.equal(cuda.log_mel(samples, plan, [4000]), reference.log_mel(samples, plan, [4000]))
    assert cuda.log_mel(torch.zeros(0, 16000), ops.LogMelPlan(), []).shape == (0, 128)
