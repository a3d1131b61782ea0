"""log_mel against librosa, torch in float64, and itself on other batches, threads and instruction sets."""

from __future__ import annotations

import warnings

import librosa
import numpy as np
import pytest
import soundfile
import torch

from pyasd import backends, ops
from pyasd.backends import reference


def machine(clips: int = 3, n: int = 16000, seed: int = 0) -> torch.Tensor:
    """Hum, harmonics and noise 50 dB below: int16 whose bands span some 80 dB."""
    rng = np.random.default_rng(seed)
    t = np.arange(n) / 16000
    base = rng.uniform(40, 400, (clips, 1))
    tones = sum(np.sin(2 * np.pi * base * k * t) / k for k in range(1, 9))
    return torch.from_numpy((4000 * tones + 15 * rng.standard_normal((clips, n))).round().astype(np.int16))


def librosa_log_mel(samples: np.ndarray, pad: str = "reflect", floor: str = "max") -> np.ndarray:
    power = librosa.feature.melspectrogram(
        y=samples, sr=16000, n_fft=1024, hop_length=512, n_mels=128, power=2.0, pad_mode=pad
    )
    eps = np.finfo(float).eps
    return 10 * np.log10(np.maximum(power, eps) if floor == "max" else power + eps).T


def assert_within_tolerance(got: np.ndarray, expected: np.ndarray) -> None:
    """1e-3 dB in bands within 80 dB of the frame's peak, 2e-2 dB within 100: below, no float32 FFT is right."""
    below = expected.max(axis=1, keepdims=True) - expected
    error = np.abs(got - expected)
    assert error[below <= 80].max() <= 1e-3
    assert error[below <= 100].max() <= 2e-2


@pytest.mark.parametrize("pad", ["reflect", "constant"])
@pytest.mark.parametrize("floor", ["max", "add"])
@pytest.mark.parametrize("dtype", [torch.int16, torch.float32])
def test_equals_librosa(isa: str, pad: str, floor: str, dtype: torch.dtype) -> None:
    samples = machine()
    plan = ops.LogMelPlan(pad=pad, floor=floor)
    given = samples if dtype == torch.int16 else samples.float() / 32768
    got = ops.log_mel(given, plan, backend="cpu")
    for clip, mine in zip(samples.double().numpy() / 32768, got.numpy(), strict=True):
        assert_within_tolerance(mine, librosa_log_mel(clip, pad, floor))


@pytest.mark.parametrize("pad", ["reflect", "constant"])
@pytest.mark.parametrize("floor", ["max", "add"])
def test_equals_librosa_on_real_clips(real_data, pad: str, floor: str) -> None:
    paths = sorted((real_data / "uav/UAV/test").glob("*.flac"))[::60]
    for path in [*paths, *sorted((real_data / "mimii_8ch").glob("*.flac"))[:2]]:
        samples, rate = soundfile.read(path, dtype="int16", always_2d=True)
        assert rate == 16000
        got = ops.log_mel(torch.from_numpy(samples[:, :1].T.copy()), ops.LogMelPlan(pad=pad, floor=floor))
        expected = librosa_log_mel(samples[:, 0] / 32768, pad, floor)
        assert got.shape == (1, *expected.shape)
        assert_within_tolerance(got[0].numpy(), expected)


def test_filter_bank_is_librosas() -> None:
    for mels, rate, n_fft in [(128, 16000, 1024), (64, 48000, 2048), (40, 8000, 256), (200, 16000, 512)]:
        plan = ops.LogMelPlan(sample_rate=rate, n_fft=n_fft, n_mels=mels)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # librosa says that some bands are empty
            expected = librosa.filters.mel(sr=rate, n_fft=n_fft, n_mels=mels, dtype=np.float64)
        np.testing.assert_allclose(plan.dense_weights(), expected, atol=1e-12)
    assert len(ops.LogMelPlan().mel_weights[2]) == 1009


@pytest.mark.parametrize("n_fft", [64, 128, 256, 512, 1024, 2048, 4096])
@pytest.mark.parametrize(("n_mels", "hop"), [(40, 2), (13, 3), (128, 4)])
def test_every_frame_size_equals_float64(isa: str, n_fft: int, n_mels: int, hop: int) -> None:
    samples = machine(2, 9001)
    plan = ops.LogMelPlan(n_fft=n_fft, hop_length=n_fft // hop, n_mels=n_mels)
    got = ops.log_mel(samples, plan, backend="cpu").double()
    frames = [9001, 9001]
    exact = reference.log_mel(samples.double() / 32768, plan, frames).view_as(got)
    plain = reference.log_mel(samples.float() / 32768, plan, frames).view_as(got)
    heard = exact.amax(-1, keepdim=True) - exact <= 80
    assert ((got - exact).abs() <= 4 * (plain - exact)[heard].abs().max() + 1e-4)[heard].all()


def test_other_frame_sizes_go_through_the_reference() -> None:
    samples, plan = machine(1, 4000), ops.LogMelPlan(n_fft=400, hop_length=160, n_mels=80)
    assert torch.equal(ops.log_mel(samples, plan, backend="cpu"), ops.log_mel(samples, plan, backend="reference"))


@pytest.mark.parametrize("frames", [2, 3, 4, 5, 15, 16, 17, 31, 33])
def test_same_bits_whatever_the_batch_and_the_threads(isa: str, frames: int) -> None:
    n = (frames - 1) * 512 + 100
    samples = machine(5, n)
    plan = ops.LogMelPlan()
    alone = torch.cat([ops.log_mel(clip[None], plan, backend="cpu") for clip in samples])
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            assert torch.equal(ops.log_mel(samples, plan, backend="cpu"), alone)
    finally:
        torch.set_num_threads(before)


def test_clips_of_unequal_length() -> None:
    samples = machine(4, 6000)
    lengths = [6000, 513, 4096, 2047]
    poisoned = samples.float() / 32768
    for clip, n in zip(poisoned, lengths, strict=True):
        clip[n:] = float("nan")  # what lies past a clip's end must not be read
    plan = ops.LogMelPlan()
    got = ops.log_mel(poisoned, plan, lengths)
    for clip, n, mine in zip(samples, lengths, got, strict=True):
        assert torch.equal(mine, ops.log_mel(clip[None, :n].float() / 32768, plan)[0])
    assert [len(x) for x in got] == [1 + n // 512 for n in lengths]


def test_views_into_larger_tensors(isa: str) -> None:
    plan = ops.LogMelPlan()
    samples = machine(3, 5000).float() / 32768
    whole = torch.full((5, 5003), float("nan"))
    whole[1:4, 1:5001] = samples
    assert torch.equal(ops.log_mel(whole[1:4, 1:5001], plan), ops.log_mel(samples, plan))
    assert torch.equal(ops.log_mel(samples.t().contiguous().t(), plan), ops.log_mel(samples, plan))


def test_a_nan_costs_its_own_frames_only(isa: str) -> None:
    samples = machine(2, 16000).float() / 32768
    clean = ops.log_mel(samples, ops.LogMelPlan(), backend="cpu")
    samples[1, 5000] = float("nan")
    got = ops.log_mel(samples, ops.LogMelPlan(), backend="cpu")
    touched = torch.zeros(32, dtype=torch.bool)
    touched[[9, 10]] = True  # the frames whose windows hold sample 5000
    assert got[1, touched].isnan().all()
    assert torch.equal(got[1, ~touched], clean[1, ~touched])
    assert torch.equal(got[0], clean[0])


def test_silence_is_the_floor(isa: str) -> None:
    silence = torch.zeros(1, 5000, dtype=torch.int16)
    got = ops.log_mel(silence, ops.LogMelPlan(), backend="cpu")
    torch.testing.assert_close(got, torch.full_like(got, -156.5356), rtol=0, atol=1e-4)


def test_empty_batch() -> None:
    assert ops.log_mel(torch.zeros(0, 16000), ops.LogMelPlan()).shape == (0, 32, 128)


def test_wrong_input_is_refused() -> None:
    plan = ops.LogMelPlan()
    with pytest.raises(TypeError, match="int16 or float32"):
        ops.log_mel(torch.zeros(1, 16000, dtype=torch.float64), plan)
    with pytest.raises(ValueError, match=r"\[clips, n\]"):
        ops.log_mel(torch.zeros(16000), plan)
    with pytest.raises(ValueError, match="at least 513"):
        ops.log_mel(torch.zeros(1, 512), plan)
    assert ops.log_mel(torch.zeros(1, 1), ops.LogMelPlan(pad="constant")).shape == (1, 1, 128)
    with pytest.raises(ValueError, match="none over 600"):
        ops.log_mel(torch.zeros(1, 600), plan, [601])
    with pytest.raises(backends.BackendUnavailable, match="choose from"):
        ops.log_mel(torch.zeros(1, 600), plan, backend="fpga")
    for wrong in ({"pad": "wrap"}, {"floor": "none"}, {"n_fft": 7}, {"f_min": 9000.0}, {"hop_length": 0}):
        with pytest.raises(ValueError, match=r"must|need"):
            ops.LogMelPlan(**wrong)


def test_operator_check_and_compile() -> None:
    plan = ops.LogMelPlan()
    args = (machine(2, 3000), [3000, 2000], 16000, 1024, 512, 128, 0.0, None, "reflect", "max", "auto")
    torch.library.opcheck(torch.ops.pyasd.log_mel.default, args)
    compiled = torch.compile(lambda x: ops.log_mel(x, plan).mean(1), fullgraph=True, backend="eager")
    samples = machine(2, 3000)
    assert torch.equal(compiled(samples), ops.log_mel(samples, plan).mean(1))
