"""log_mel against librosa, torch in float64, and itself on other batches, threads and instruction sets."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pyasd import ops
from pyasd.backends.contract import Floor, Pad
from pyasd.backends.reference import BACKEND as reference
from pyasd.errors import BackendUnavailable
from pyasd.ops.packing import pack

if TYPE_CHECKING:
    from tests.conftest import Engine


def machine(clips: int = 3, n: int = 16000, seed: int = 0) -> torch.Tensor:
    """Hum, harmonics and noise 50 dB below: int16 whose bands span some 80 dB."""
    rng = np.random.default_rng(seed)
    t = np.arange(n) / 16000
    base = rng.uniform(40, 400, (clips, 1))
    tones = sum(np.sin(2 * np.pi * base * k * t) / k for k in range(1, 9))
    return torch.from_numpy((4000 * tones + 15 * rng.standard_normal((clips, n))).round().astype(np.int16))


def librosa_log_mel(samples: np.ndarray, pad: Pad = "reflect", floor: Floor = "max") -> NDArray[np.float64]:
    librosa = pytest.importorskip("librosa")
    power = librosa.feature.melspectrogram(
        y=samples, sr=16000, n_fft=1024, hop_length=512, n_mels=128, power=2.0, pad_mode=pad
    )
    eps = np.finfo(float).eps
    decibels: NDArray[np.float64] = 10 * np.log10(np.maximum(power, eps) if floor == "max" else power + eps)
    log_mel: NDArray[np.float64] = decibels.T
    return log_mel


def assert_within_tolerance(got: np.ndarray, expected: np.ndarray) -> None:
    """1e-3 dB in bands within 80 dB of the frame's peak, 2e-2 dB within 100: below, no float32 FFT is right."""
    below = expected.max(axis=1, keepdims=True) - expected
    error = np.abs(got - expected)
    assert error[below <= 80].max() <= 1e-3
    assert error[below <= 100].max() <= 2e-2


@pytest.mark.parametrize("pad", ["reflect", "constant"])
@pytest.mark.parametrize("floor", ["max", "add"])
@pytest.mark.parametrize("dtype", [torch.int16, torch.float32])
def test_equals_librosa(each_engine: Engine, pad: Pad, floor: Floor, dtype: torch.dtype) -> None:
    samples = machine()
    plan = ops.LogMelPlan(pad=pad, floor=floor)
    given = samples if dtype == torch.int16 else samples.float() / 32768
    got = ops.log_mel(each_engine.put(given), plan, backend=each_engine.backend).cpu()
    for clip, mine in zip(samples.double().numpy() / 32768, got.numpy(), strict=True):
        assert_within_tolerance(mine, librosa_log_mel(clip, pad, floor))


@pytest.mark.parametrize("pad", ["reflect", "constant"])
@pytest.mark.parametrize("floor", ["max", "add"])
def test_equals_librosa_on_real_clips(real_data: Path, pad: Pad, floor: Floor) -> None:
    soundfile = pytest.importorskip("soundfile")
    paths = sorted((real_data / "uav/UAV/test").glob("*.flac"))[::60]
    for path in [*paths, *sorted((real_data / "mimii_8ch").glob("*.flac"))[:2]]:
        samples, rate = soundfile.read(path, dtype="int16", always_2d=True)
        assert rate == 16000
        got = ops.log_mel(torch.from_numpy(samples[:, :1].T.copy()), ops.LogMelPlan(pad=pad, floor=floor))
        expected = librosa_log_mel(samples[:, 0] / 32768, pad, floor)
        assert got.shape == (1, *expected.shape)
        assert_within_tolerance(got[0].numpy(), expected)


def test_filter_bank_is_librosas() -> None:
    librosa = pytest.importorskip("librosa")
    for mels, rate, n_fft in [(128, 16000, 1024), (64, 48000, 2048), (40, 8000, 256), (200, 16000, 512)]:
        plan = ops.LogMelPlan(sample_rate=rate, n_fft=n_fft, n_mels=mels)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # librosa says that some bands are empty
            expected = librosa.filters.mel(sr=rate, n_fft=n_fft, n_mels=mels, dtype=np.float64)
        np.testing.assert_allclose(plan.dense_weights(), expected, atol=1e-12)
    assert len(ops.LogMelPlan().mel_weights[2]) == 1009


@pytest.mark.parametrize("n_fft", [64, 128, 256, 512, 1024, 2048, 4096])
@pytest.mark.parametrize(("n_mels", "hop"), [(40, 2), (13, 3), (128, 4)])
def test_every_frame_size_equals_float64(each_engine: Engine, n_fft: int, n_mels: int, hop: int) -> None:
    samples = machine(2, 9001)
    plan = ops.LogMelPlan(n_fft=n_fft, hop_length=n_fft // hop, n_mels=n_mels)
    got = ops.log_mel(each_engine.put(samples), plan, backend=each_engine.backend).cpu().double()
    frames = [9001, 9001]
    exact = reference.log_mel(samples.double() / 32768, plan, frames).view_as(got)
    plain = reference.log_mel(samples.float() / 32768, plan, frames).view_as(got)
    heard = exact.amax(-1, keepdim=True) - exact <= 80
    used = (got - exact)[heard].abs() / (4 * (plain - exact)[heard].abs().max() + 1e-4)
    assert (used <= 1).all(), f"{used.max():.3g} times the budget, {(used > 1).sum()} of {used.numel()}"


def test_other_frame_sizes_go_through_the_reference(engine: Engine) -> None:
    samples, plan = engine.put(machine(1, 4000)), ops.LogMelPlan(n_fft=400, hop_length=160, n_mels=80)
    expected = ops.log_mel(samples, plan, backend="reference")
    assert torch.equal(ops.log_mel(samples, plan, backend=engine.backend), expected)


@pytest.mark.parametrize("frames", [2, 3, 4, 5, 15, 16, 17, 31, 33])
def test_same_bits_whatever_the_batch_and_the_threads(each_engine: Engine, frames: int) -> None:
    n = (frames - 1) * 512 + 100
    samples = each_engine.put(machine(5, n))
    plan = ops.LogMelPlan()
    alone = torch.cat([ops.log_mel(clip[None], plan, backend=each_engine.backend) for clip in samples])
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            assert torch.equal(ops.log_mel(samples, plan, backend=each_engine.backend), alone)
    finally:
        torch.set_num_threads(before)


def test_clips_of_unequal_length(engine: Engine) -> None:
    samples = engine.put(machine(4, 6000)).float() / 32768
    lengths = [6000, 513, 4096, 2047]
    poisoned = samples.clone()
    for clip, n in zip(poisoned, lengths, strict=True):
        clip[n:] = float("nan")  # what lies past a clip's end must not be read
    plan = ops.LogMelPlan()
    got = ops.log_mel(poisoned, plan, lengths, engine.backend)
    for clip, n, mine in zip(samples, lengths, got, strict=True):
        assert torch.equal(mine, ops.log_mel(clip[None, :n], plan, backend=engine.backend)[0])
    assert [len(x) for x in got] == [1 + n // 512 for n in lengths]


def test_views_into_larger_tensors(each_engine: Engine) -> None:
    plan = ops.LogMelPlan()
    samples = each_engine.put(machine(3, 5000)).float() / 32768
    whole = torch.full((5, 5003), float("nan"), device=each_engine.device)
    whole[1:4, 1:5001] = samples
    expected = ops.log_mel(samples, plan, backend=each_engine.backend)
    assert torch.equal(ops.log_mel(whole[1:4, 1:5001], plan, backend=each_engine.backend), expected)
    assert torch.equal(ops.log_mel(samples.t().contiguous().t(), plan, backend=each_engine.backend), expected)


def test_every_output_is_written(each_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs begin as NaN, so that an element which no one writes shows."""
    samples = each_engine.put(machine(2, 5001))
    make = torch.Tensor.new_empty
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda *a, **k: make(*a, **k).fill_(float("nan")))
    for n_mels in (13, 128):
        plan = ops.LogMelPlan(n_mels=n_mels)
        assert all(x.isfinite().all() for x in ops.log_mel(samples, plan, [5001, 3000], each_engine.backend))


def test_a_nan_costs_its_own_frames_only(each_engine: Engine) -> None:
    samples = each_engine.put(machine(2, 16000)).float() / 32768
    clean = ops.log_mel(samples, ops.LogMelPlan(), backend=each_engine.backend)
    samples[1, 5000] = float("nan")
    got = ops.log_mel(samples, ops.LogMelPlan(), backend=each_engine.backend)
    touched = torch.zeros(32, dtype=torch.bool)
    touched[[9, 10]] = True  # the frames whose windows hold sample 5000
    assert got[1, touched].isnan().all()
    assert torch.equal(got[1, ~touched], clean[1, ~touched])
    assert torch.equal(got[0], clean[0])


def test_silence_is_the_floor(each_engine: Engine) -> None:
    silence = each_engine.put(torch.zeros(1, 5000, dtype=torch.int16))
    got = ops.log_mel(silence, ops.LogMelPlan(), backend=each_engine.backend)
    torch.testing.assert_close(got, torch.full_like(got, -156.5356), rtol=0, atol=1e-4)


def test_empty_batch(engine: Engine) -> None:
    got = ops.log_mel(engine.put(torch.zeros(0, 16000)), ops.LogMelPlan(), backend=engine.backend)
    assert got.shape == (0, 32, 128)


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
    with pytest.raises(BackendUnavailable, match="choose from"):
        ops.log_mel(torch.zeros(1, 600), plan, backend="fpga")
    for wrong in ({"pad": "wrap"}, {"floor": "none"}, {"n_fft": 7}, {"f_min": 9000.0}, {"hop_length": 0}):
        with pytest.raises(ValueError, match=r"must|need"):
            ops.LogMelPlan(**wrong)


def test_operator_check_and_compile(engine: Engine) -> None:
    plan, samples = ops.LogMelPlan(), engine.put(machine(2, 3000))
    args = (samples, [3000, 2000], pack(ops.LogMelPlan()), engine.backend)
    torch.library.opcheck(torch.ops.pyasd.log_mel.default, args)
    compiled = torch.compile(
        lambda x: ops.log_mel(x, plan, backend=engine.backend).mean(1), fullgraph=True, backend="eager"
    )
    assert torch.equal(compiled(samples), ops.log_mel(samples, plan, backend=engine.backend).mean(1))
