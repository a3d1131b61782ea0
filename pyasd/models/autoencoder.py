"""The challenge's baseline autoencoder (Koizumi et al., 2020), the baseline row of the report's Table 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pyasd.compute import Compute
from pyasd.models import dense
from pyasd.models.member import Mode, Scorer, register
from pyasd.models.pooling import Pooling, pool
from pyasd.models.trained import TrainedConfig, TrainedMember
from pyasd.training import loop
from pyasd.training.data import TrainingSet, WindowSet
from pyasd.training.run import History, Run


@dataclass(frozen=True)
class AutoencoderConfig(TrainedConfig):
    """The challenge's baseline autoencoder (Koizumi et al., 2020): the report's baseline row.

    A window of `frames` log-Mel frames goes through dense layers with batch norm and ReLU, down to a bottleneck
    and back; the score is the mean squared error. `batch_norm_eps` is Keras's, the baseline's framework.
    The training settings are the baseline's.
    """

    frames: int = 5
    hidden: tuple[int, ...] = (128, 128, 128, 128, 8, 128, 128, 128, 128)
    batch_norm_eps: float = 1e-3
    pooling: Pooling = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.frames < 1 or min(self.hidden, default=0) < 1:
            raise ValueError(f"frames and hidden widths must be positive, got {self.frames} and {self.hidden}")

    @property
    def min_frames(self) -> int:
        """Log-Mel frames that a clip must have: a window."""
        return self.frames


@register
class Autoencoder(TrainedMember, nn.Module):
    """Dense layers down to a bottleneck and back, over windows of log-Mel frames in dB."""

    kind = "autoencoder"
    Config = AutoencoderConfig
    MODES = (Mode("mse", "squared error, dB²", "mean squared error of the reconstructed windows"),)

    config: AutoencoderConfig

    def __init__(self, name: str, config: AutoencoderConfig, mels: int, seed: int = 0) -> None:
        self.size(config, mels)  # refuses what is too large before it is made
        super().__init__(name, config, mels, seed)
        generator = torch.Generator().manual_seed(seed)
        dims = config.frames * mels
        self.trunk = dense.DenseStack([dims, *config.hidden], generator, batch_norm_eps=config.batch_norm_eps)
        self.output = dense.glorot_linear(config.hidden[-1], dims, generator)
        self.eval()

    @classmethod
    def size(cls, config: AutoencoderConfig, mels: int) -> int:
        """Return its number of weights; see `Member.size`."""
        return dense.count_weights([config.frames * mels, *config.hidden, config.frames * mels])

    def forward(self, windows: Tensor) -> Tensor:
        """Reconstruct windows `[n, frames * mels]` float32, in dB."""
        reconstruction: Tensor = self.output(self.trunk(windows))
        return reconstruction

    def fit(self, data: TrainingSet, run: Run) -> History:
        """Learn to reconstruct the windows of clips; the loss is the mean squared error.

        Raises:
            ValueError: there are fewer than two windows.
            TrainingDiverged: the loss is no longer finite.
        """
        config, device = self.config, run.compute.device
        windows = WindowSet(data.log_mels, config.frames, data.held_out(config.validation), device)
        self.to(device)

        def loss(starts: Tensor) -> Tensor:
            batch = windows.gather(starts)
            return nn.functional.mse_loss(self(batch), batch)

        return loop.fit(self, loss, loop.Sampler(windows), config, run)

    def scorer(self, compute: Compute | None = None, modes: Sequence[str] | None = None) -> AutoencoderScorer:
        """Make the network ready for scoring, as it is now. It is plain torch in float32 whatever the backend and the
        precision, and has one mode.
        """
        return AutoencoderScorer(self, (compute or Compute()).device)

    def state(self) -> dict[str, Tensor]:
        """Return all tensors by name, on the CPU."""
        return dense.state_of(self)

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take over the tensors of `state`.

        Raises:
            ValueError: tensors are missing, unknown or of another shape.
        """
        dense.load_state(self, state)


class AutoencoderScorer(Scorer):
    """Scores whole clips with an `Autoencoder` whose batch norm is folded into plain layers."""

    def __init__(self, autoencoder: Autoencoder, device: torch.device) -> None:
        self.config = autoencoder.config
        self._layers = autoencoder.trunk.fold(device)
        self._weight, self._bias = autoencoder.output.weight.to(device), autoencoder.output.bias.to(device)

    def _squared_error(self, windows: Tensor) -> Tensor:
        hidden = dense.run_folded(self._layers, windows)
        return (torch.addmm(self._bias, hidden, self._weight.T) - windows).square()

    @torch.no_grad()
    def score_many(self, log_mels: Sequence[Tensor], machine_ids: Sequence[str | None]) -> Tensor:
        """Compute clips' mean squared errors, one clip after the other: in another batch torch's matrix products give
        the same row other bits.

        Args:
            log_mels: `[frames, mels]` float32 each, in dB, at least one window long.
            machine_ids: make no difference here.

        Returns:
            `[clips, 1]` float64, in dB squared, summed and pooled in float64.
        """
        return torch.stack([self._score(x) for x in log_mels])

    def _score(self, log_mel: Tensor) -> Tensor:
        error = dense.map_windows(
            log_mel, self.config.frames, lambda x: self._squared_error(x).double().mean(1, keepdim=True)
        )
        return pool(error, self.config.pooling)

    @torch.no_grad()
    def explain(self, log_mel: Tensor, mode: str = "mse", machine_id: str | None = None) -> Tensor:
        """Compute each frame's and band's mean squared error, `[frames, mels]` float32, in dB squared, over the windows
        that contain it.
        """
        error = dense.map_windows(log_mel, self.config.frames, self._squared_error)
        frames = self.config.frames
        return dense.spread_over_frames(error.view(len(error), frames, -1), range(frames))
