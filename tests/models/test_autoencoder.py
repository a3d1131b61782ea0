from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from pyasd.models.autoencoder import Autoencoder, AutoencoderConfig
from pyasd.training.data import TrainingSet
from pyasd.training.run import Run

SMALL = AutoencoderConfig(hidden=(16, 2, 16), epochs=60, batch_size=64, patience=60)


def published(real_data: Path) -> Autoencoder:
    """The autoencoder that others trained and published, loaded into ours."""
    with np.load(real_data / "toycar_logmel" / "challenge_autoencoder.npz") as file:
        arrays = {name: torch.from_numpy(file[name]) for name in file.files}
    state = {k.replace("dense9", "output") if "dense9" in k else f"trunk.{k}": x for k, x in arrays.items()}
    autoencoder = Autoencoder("autoencoder", AutoencoderConfig(), 128)
    autoencoder.load_state(state)
    return autoencoder


@pytest.mark.parametrize(
    ("machine_id", "normal", "anomalous", "auc", "pauc"), [("01", 44, 37, 84.2, 71.0), ("04", 350, 265, 94.34, 82.85)]
)
def test_published_weights_give_the_published_scores(
    real_data: Path, machine_id: str, normal: int, anomalous: int, auc: float, pauc: float
) -> None:
    folder = real_data / "toycar_logmel"
    scorer = published(real_data).scorer()
    with np.load(folder / f"id_{machine_id}.npz") as file:
        names = file["names"].tolist()
        log_mels = torch.from_numpy(file["logmel_q8"].astype(np.float32) / 256)
    with open(folder / f"published_scores_id_{machine_id}.csv", newline="") as file:
        expected = {row["file"]: float(row["anomaly_score"]) for row in csv.DictReader(file)}
    scores = np.array([scorer.score(x).item() for x in log_mels])
    np.testing.assert_allclose(scores, [expected[name] for name in names], rtol=1e-4)
    labels = [name.startswith("anomaly") for name in names]
    assert (labels.count(False), labels.count(True)) == (normal, anomalous)
    assert 100 * roc_auc_score(labels, scores) == pytest.approx(auc, abs=0.06)
    assert 100 * roc_auc_score(labels, scores, max_fpr=0.1) == pytest.approx(pauc, abs=0.06)


def test_shape_is_the_challenges() -> None:
    autoencoder = Autoencoder("autoencoder", AutoencoderConfig(), 128)
    weights = [x.shape for name, x in autoencoder.state().items() if name.endswith("weight") and x.ndim == 2]
    widths = [640, 128, 128, 128, 128, 8, 128, 128, 128, 128, 640]
    assert [tuple(x) for x in weights] == list(zip(widths[1:], widths[:-1], strict=True))
    norm = autoencoder.trunk.get_submodule("bn0")
    assert isinstance(norm, torch.nn.BatchNorm1d)
    assert norm.eps == 1e-3


def test_score_is_the_mean_squared_error_of_all_windows() -> None:
    autoencoder = Autoencoder("autoencoder", SMALL, 6)
    autoencoder.train()
    autoencoder(torch.randn(64, 30))  # moves batch norm's statistics
    autoencoder.eval()
    log_mel = torch.randn(23, 6)
    windows = log_mel.unfold(0, 5, 1).transpose(1, 2).reshape(19, 30)
    expected = (autoencoder(windows) - windows).double().square().mean()
    assert autoencoder.scorer().score(log_mel).item() == pytest.approx(expected.item(), rel=1e-6)
    share = autoencoder.scorer().explain(log_mel[:5])
    first = (autoencoder(windows[:1]) - windows[:1]).square().view(5, 6)
    torch.testing.assert_close(share, first, rtol=1e-4, atol=1e-5)


def test_fit_learns_to_reconstruct() -> None:
    generator = np.random.default_rng(0)
    mixing = generator.normal(size=(2, 30))

    def clip(odd: bool) -> torch.Tensor:
        x = generator.normal(size=(8, 2)) @ mixing if not odd else 2 * generator.normal(size=(8, 30))
        return torch.from_numpy(x.reshape(-1, 6).astype(np.float32))

    autoencoder = Autoencoder("autoencoder", replace(SMALL, hidden=(16, 4, 16)), 6)
    history = autoencoder.fit(TrainingSet([clip(False) for _ in range(30)], ["00"] * 30), Run())
    assert history.training[-1] < 0.7 * history.training[0]
    scorer = autoencoder.scorer()
    normal = [scorer.score(clip(False)).item() for _ in range(5)]
    odd = [scorer.score(clip(True)).item() for _ in range(5)]
    assert min(odd) > np.mean(normal)


def test_same_clip_has_the_same_bits_wherever_it_lies() -> None:
    scorer = Autoencoder("autoencoder", AutoencoderConfig(), 128).scorer()
    around = torch.randn(700, 128)
    assert torch.equal(scorer.score(around[101:414]), scorer.score(around[101:414].clone()))


def test_long_clips_are_scored_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = Autoencoder("autoencoder", SMALL, 4).scorer()
    log_mel = torch.randn(60, 4)
    whole = scorer.score(log_mel)
    monkeypatch.setattr("pyasd.models.dense.WINDOWS_PER_PASS", 10)
    torch.testing.assert_close(scorer.score(log_mel), whole, rtol=1e-6, atol=0)
