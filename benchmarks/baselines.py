"""Simple baselines of anomaly detection, by scikit-learn: one model for each machine ID."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf
from sklearn.ensemble import IsolationForest
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import LocalOutlierFactor, NearestNeighbors
from sklearn.svm import OneClassSVM

from benchmarks.real_sets import ClipSet, LogMels

GAUSSIANS = 16
FRAMES_PER_FIT = 20_000
"""Frames, evenly spaced over a machine ID's clips, that a mixture is fitted to."""

Array = NDArray[np.float64]


def mean(log_mels: LogMels) -> Array:
    """Compute each clip's mean log-Mel, `[clips, mels]`."""
    return np.stack([x.mean(0, dtype=np.float64) for x in log_mels])


def mean_and_deviation(log_mels: LogMels) -> Array:
    """Compute mean and standard deviation of each Mel band over a clip's frames, `[clips, 2 * mels]`."""
    return np.concatenate([mean(log_mels), np.stack([x.std(0, dtype=np.float64) for x in log_mels])], 1)


def _of(features: Callable[[LogMels], Array], distance: Callable[[Array, Array], Array]) -> Baseline:
    def score(train: LogMels, test: LogMels) -> Array:
        known, new = features(train), features(test)
        scale = known.std(0).clip(0.1)
        return distance(known / scale, new / scale)

    return score


def _mahalanobis(train: Array, test: Array) -> Array:
    distances: Array = LedoitWolf().fit(train).mahalanobis(test)
    return distances


def _nearest(train: Array, test: Array) -> Array:
    distances: Array = NearestNeighbors(n_neighbors=1).fit(train).kneighbors(test)[0][:, 0]
    return distances


def _outlier_factor(train: Array, test: Array) -> Array:
    factor = LocalOutlierFactor(min(5, len(train) - 1), novelty=True).fit(train)
    scores: Array = factor.score_samples(test)
    return -scores


def _one_class_svm(train: Array, test: Array) -> Array:
    scores: Array = OneClassSVM(nu=0.1).fit(train).score_samples(test)
    return -scores


def _isolation_forest(train: Array, test: Array) -> Array:
    scores: Array = IsolationForest(random_state=0).fit(train).score_samples(test)
    return -scores


def _mixture_of_frames(train: LogMels, test: LogMels) -> Array:
    frames = np.concatenate(train).astype(np.float64)
    some = frames[:: -(-len(frames) // FRAMES_PER_FIT)]
    mixture = GaussianMixture(GAUSSIANS, covariance_type="diag", reg_covar=1e-3, random_state=0).fit(some)
    return np.array([-mixture.score(x.astype(np.float64)) for x in test])


Baseline = Callable[[LogMels, LogMels], Array]
BASELINES: dict[str, Baseline] = {
    "Mahalanobis, mean": _of(mean, _mahalanobis),
    "Mahalanobis, mean and deviation": _of(mean_and_deviation, _mahalanobis),
    "nearest neighbour": _of(mean_and_deviation, _nearest),
    "local outlier factor": _of(mean_and_deviation, _outlier_factor),
    "one-class SVM": _of(mean_and_deviation, _one_class_svm),
    "isolation forest": _of(mean_and_deviation, _isolation_forest),
    "16 Gaussians on frames": _mixture_of_frames,
}


def score(name: str, clips: ClipSet) -> Array:
    """Score a set's test clips by one of `BASELINES`, machine ID by machine ID."""
    train_ids, test_ids = np.array(clips.train_ids), np.array(clips.test_ids)
    scores = np.empty(len(clips.test))
    for machine_id in np.unique(test_ids):
        own, new = np.flatnonzero(train_ids == machine_id), np.flatnonzero(test_ids == machine_id)
        scores[new] = BASELINES[name]([clips.train[i] for i in own], [clips.test[i] for i in new])
    return scores
