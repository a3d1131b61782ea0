"""Time that Group MADE takes to learn: the native kernels against eager torch.

    python -m benchmarks.training [--data FOLDER] [--clips 200] [--epochs 10] [--threads 1]

Both learn ToyCar ID 04's normal clips (log-Mel arrays) from the same seed, one after the other. Prints seconds, their
ratio, and both loss curves with the largest difference between them.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks import real_data
from benchmarks.cases import eager_head
from pyasd.backends.contract import Precision
from pyasd.models.group_made import GroupMade, GroupMadeConfig
from pyasd.training.data import TrainingSet
from pyasd.training.run import Run


class EagerGroupMade(GroupMade):
    """The same model whose output layer is eager torch, differentiated by autograd."""

    def mean_loss(
        self,
        windows: Tensor,
        backend: str = "auto",
        precision: Precision = "float32",
        ids: Tensor | None = None,
    ) -> Tensor:
        """Compute the loss in torch, for autograd."""
        z, head = self._standardise(windows), self.head(self.head_weight, self.head_bias)
        masked = head.weight * head.shape.mask(head.weight)
        return self.band_scale.log().mean() - eager_head(self._trunk(z, ids), z, masked, head.bias).sum() / z.numel()


def load(folder: Path, clips: int) -> list[Tensor]:
    """Log-Mel arrays of normal clips."""
    with np.load(folder / "toycar_logmel" / "id_04.npz") as file:
        normal = [i for i, name in enumerate(file["names"]) if name.startswith("normal")][:clips]
        return [torch.from_numpy(x.astype(np.float32) / 256) for x in file["logmel_q8"][normal]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder (PYASD_REAL_DATA) with toycar_logmel/id_04.npz")
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1, help="of torch and of the native kernels (default 1)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    log_mels = load(real_data(args.data), args.clips)
    config = GroupMadeConfig(epochs=args.epochs, patience=args.epochs)
    seconds, curves = [], []
    for name, model in (("pyasd", GroupMade), ("eager torch", EagerGroupMade)):
        made = model("group-made", config, log_mels[0].shape[1])
        start = time.perf_counter()
        history = made.fit(TrainingSet(log_mels, ["04"] * len(log_mels)), Run())
        seconds.append(time.perf_counter() - start)
        curves.append(np.array([history.training, history.validation]))
        print(f"{name}: {seconds[-1]:.1f} s for {len(history.training)} epochs of {len(log_mels)} clips")
        for what, losses in zip(("training", "validation"), curves[-1], strict=True):
            print(f"  {what} loss: {', '.join(f'{x:.4f}' for x in losses)}")
    print(f"eager torch takes {seconds[1] / seconds[0]:.2f} times as long on {args.threads} thread(s)")
    print(f"largest difference of the loss curves: {np.abs(curves[0] - curves[1]).max():.4f} nats per dimension")


if __name__ == "__main__":
    main()
