"""AUC and pAUC of each score on real recordings: ToyCar ID 04 of DCASE 2020 Task 2, as log-Mel arrays.

    python benchmarks/toycar.py --data FOLDER [--seeds 3] [--epochs 100]

200 normal clips, drawn once, are learnt from; 150 normal and 265 anomalous ones are scored. Prints a Markdown table:
AUC and pAUC in per cent, mean and (over the seeds) lowest to highest, of Group MADE in both orders and every score
mode, and of the challenge's autoencoder.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

import pyasd
from benchmarks import real_data
from pyasd.tables.evaluation import P_AUC_MAX_FPR


def load(folder: Path) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
    """Training clips, test clips, and the test clips' labels."""
    with np.load(folder / "toycar_logmel" / "id_04.npz") as file:
        log_mels, names = file["logmel_q8"].astype(np.float32) / 256, file["names"]
    order = np.argsort(names)
    anomalous = np.array([name.startswith("anomaly") for name in names[order]])
    normal = order[~anomalous][np.random.default_rng(0).permutation((~anomalous).sum())]
    test = np.concatenate([normal[200:], order[anomalous]])
    labels = np.repeat([0, 1], [len(normal) - 200, anomalous.sum()])
    return list(log_mels[normal[:200]]), list(log_mels[test]), labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder (PYASD_REAL_DATA) with toycar_logmel/id_04.npz")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, help="at most so many passes; the recipes' own by default")
    parser.add_argument("--threads", type=int, help="of torch and of the native kernels")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    train, test, labels = load(real_data(args.data))
    found: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for system, order in (("group-made", "causal"), ("group-made", "middle"), ("autoencoder", None)):
        for seed in range(args.seeds):
            start = time.perf_counter()
            settings = {"order": order, "epochs": args.epochs}
            detector = pyasd.fit(train, system, ids="04", features="log-mel", seed=seed, **settings)
            history = detector.machines[""].histories[system]
            modes = detector.machines[""].baselines[system].modes
            name = " ".join(filter(None, (system, order)))
            for mode in modes:
                scores = detector.score(test, ids="04", features="log-mel", score_mode=mode)["score"]
                auc, pauc = (roc_auc_score(labels, scores, max_fpr=x) for x in (None, P_AUC_MAX_FPR))
                found[name, mode].append((100 * auc, 100 * pauc))
                print(f"# {name}, {mode}, seed {seed}: AUC {100 * auc:.2f}, pAUC {100 * pauc:.2f}", flush=True)
            print(
                f"# {len(history.training)} epochs, the weights of epoch {history.kept + 1} kept, "
                f"{time.perf_counter() - start:.0f} s",
                flush=True,
            )
    print("\n| model | score | AUC | pAUC |\n|---|---|---|---|")
    for (name, mode), results in found.items():
        cells = [f"{x.mean():.2f} ({x.min():.2f} to {x.max():.2f})" for x in np.array(results).T]
        print(f"| {name} | {mode} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
