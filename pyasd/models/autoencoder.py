"""The challenge's baseline autoencoder (Koizumi et al., 2020), the baseline row of the report's Table 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from pyasd import training
from pyasd.config import AutoencoderConfig, Precision
from pyasd.models import dense


class Autoencoder(nn.Module):
    """Dense layers down to a bottleneck and back, over windows of log-Mel frames in dB.

    Args:
        config: see `config.AutoencoderConfig`.
        mels: Mel bands.
        seed: of the initial weights.
    """

    name: ClassVar[str] = "autoencoder"
    modes: ClassVar[tuple[str, ...]] = ("mse",)
    default_mode: ClassVar[str] = "mse"

    def __init__(self, config: AutoencoderConfig, mels: int, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        generator = torch.Generator().manual_seed(seed)
        dims = config.frames * mels
        self.trunk = dense.DenseStack([dims, *config.hidden], generator, batch_norm_eps=config.batch_norm_eps)
        self.output = dense.glorot_linear(config.hidden[-1], dims, generator)
        self.eval()

    def forward(self, windows: Tensor) -> Tensor:
        """The reconstruction of `[n, frames * mels]` float32 windows in dB, of the same shape."""
        reconstruction: Tensor = self.output(self.trunk(windows))
        return reconstruction

    def fit(self, log_mels: Sequence[Tensor], ids: Sequence[str], run: training.Run) -> training.History:
        """Learn to reconstruct the windows of clips: see `GroupMade.fit`; the loss is the mean squared error."""
        config = self.config
        validation = training.held_out(ids, config.validation, run.seed)
        windows = training.WindowSet(log_mels, config.frames, validation, run.device)
        self.to(run.device)

        def loss(starts: Tensor) -> Tensor:
            batch = windows.gather(starts)
            return nn.functional.mse_loss(self(batch), batch)

        return training.fit(self, loss, windows, config, run)

    def scorer(
        self,
        device: torch.device | str = "cpu",
        backend: str = "auto",
        precision: Precision = "float32",
        modes: Sequence[str] | None = None,
    ) -> Scorer:
        """The network as it is now, made ready for scoring on `device`. It is plain torch in float32 whatever the
        backend and the precision, and has one mode.
        """
        return Scorer(self, torch.device(device))

    def state(self) -> dict[str, Tensor]:
        """All tensors by name, on the CPU."""
        return dense.state_of(self)

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take over the tensors of `state`. Raises ValueError where they don't fit."""
        dense.load_state(self, state)


class Scorer:
    """Scores whole clips with an `Autoencoder` whose batch norm is folded into plain layers."""

    def __init__(self, autoencoder: Autoencoder, device: torch.device) -> None:
        self.config = autoencoder.config
        self._layers = autoencoder.trunk.fold(device)
        self._weight, self._bias = autoencoder.output.weight.to(device), autoencoder.output.bias.to(device)

    def _squared_error(self, windows: Tensor) -> Tensor:
        hidden = dense.run_folded(self._layers, windows)
        return (torch.addmm(self._bias, hidden, self._weight.T) - windows).square()

    @torch.no_grad()
    def score(self, log_mel: Tensor, machine_id: str | None = None) -> Tensor:
        """A clip's mean squared error, in dB squared.

        Args:
            log_mel: `[frames, mels]` float32, in dB, at least one window long.
            machine_id: makes no difference here.

        Returns:
            `[1]` float64, summed and pooled in float64.
        """
        error = dense.map_windows(
            log_mel, self.config.frames, lambda x: self._squared_error(x).double().mean(1, keepdim=True)
        )
        return dense.pool(error, self.config.pooling)

    @torch.no_grad()
    def explain(self, log_mel: Tensor, mode: str = "mse", machine_id: str | None = None) -> Tensor:
        """Mean squared error of each frame and band, in dB squared, `[frames, mels]` float32, over the windows that
        contain it.
        """
        error = dense.map_windows(log_mel, self.config.frames, self._squared_error)
        frames = self.config.frames
        return dense.spread_over_frames(error.view(len(error), frames, -1), range(frames))
