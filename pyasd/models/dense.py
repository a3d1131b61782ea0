"""Dense layers with batch norm and ReLU for models of stacked frames, and the same folded for scoring."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pyasd.features.windows import frame_windows

WINDOWS_PER_PASS = 4096
"""Windows that go through a model at once in scoring: bounds the memory of hours-long clips. Every clip is cut at
the same places whatever it is scored with, so that its score has the same bits."""


MAX_WEIGHTS = 2**28
"""Weights that dense layers may have, 1 GiB: settings that ask for more are a slip, or a model file that is none."""


def count_weights(widths: Sequence[int]) -> int:
    """Return the number of weights of dense layers of these widths, the input's first.

    Raises:
        ValueError: they are more than `MAX_WEIGHTS`.
    """
    weights = sum(before * after for before, after in itertools.pairwise(widths))
    if weights > MAX_WEIGHTS:
        raise ValueError(
            f"layers of {', '.join(map(str, widths))} units have {weights:,} weights, more than {MAX_WEIGHTS:,}: give "
            "smaller or fewer layers"
        )
    return weights


class DenseStack(nn.Module):
    """Dense layers `dense0`, `dense1`, ..., each followed by batch norm (`bn0`, ...) and ReLU.

    Args:
        widths: of the input and of each layer.
        masks: for each layer a `[out, in]` mask of its weights; `None` for none.
        batch_norm_eps: batch norm's epsilon.
        generator: for the initial weights (Glorot's uniform; biases are zero).
    """

    def __init__(
        self,
        widths: Sequence[int],
        generator: torch.Generator,
        masks: Sequence[Tensor] | None = None,
        batch_norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.depth = len(widths) - 1
        for i in range(self.depth):
            self.add_module(f"dense{i}", glorot_linear(widths[i], widths[i + 1], generator))
            self.add_module(f"bn{i}", nn.BatchNorm1d(widths[i + 1], eps=batch_norm_eps))
            if masks is not None:
                self.register_buffer(f"mask{i}", masks[i], persistent=False)

    def _layers(self) -> Iterator[tuple[Tensor, Tensor, nn.BatchNorm1d]]:
        for i in range(self.depth):
            dense = self.get_submodule(f"dense{i}")
            mask = getattr(self, f"mask{i}", None)
            norm = self.get_submodule(f"bn{i}")
            assert isinstance(dense, nn.Linear)
            assert isinstance(norm, nn.BatchNorm1d)
            yield (dense.weight if mask is None else dense.weight * mask), dense.bias, norm

    def forward(self, x: Tensor, shift: Tensor | None = None) -> Tensor:
        """`[n, widths[0]]` to `[n, widths[-1]]`, in the module's mode (training or evaluation).

        `shift` `[n, widths[1]]` is added to the first layer's sums.
        """
        for i, (weight, bias, norm) in enumerate(self._layers()):
            x = nn.functional.linear(x, weight, bias)
            x = torch.relu(norm(x if i or shift is None else x + shift))
        return x

    @contextmanager
    def variance_floor(self, floor: float) -> Iterator[None]:
        """Add `floor` to the variances that batch norm divides by, inside the context in training and in evaluation; at
        its end the running variances take it over, so that the stack stays the function that was trained.

        A unit that is almost always zero has next to no variance. A clip that wakes it is else multiplied by up to
        `1 / sqrt(eps)`, layer after layer.
        """
        norms = [norm for _, _, norm in self._layers()]
        eps = [norm.eps for norm in norms]
        for norm in norms:
            norm.eps += floor
        try:
            yield
        finally:
            for norm, before in zip(norms, eps, strict=True):
                norm.eps = before
                assert norm.running_var is not None
                norm.running_var += floor

    @torch.no_grad()
    def fold(self, device: torch.device) -> list[tuple[Tensor, Tensor]]:
        """Weights `[out, in]` and biases `[out]`, on `device`, of dense layers that, each followed by ReLU, compute
        what this stack does in evaluation mode: batch norm's running statistics are folded in (in float64), masks too.
        """
        folded = []
        for weight, bias, norm in self._layers():
            assert norm.running_mean is not None
            gain = _gain(norm)
            shift = norm.bias.double() + (bias.double() - norm.running_mean.double()) * gain
            folded.append(((weight.double() * gain[:, None]).float().to(device), shift.float().to(device)))
        return folded

    @torch.no_grad()
    def fold_shifts(self, shifts: Tensor, device: torch.device) -> Tensor:
        """What the `shift` of `forward` adds to the first folded layer's biases, of the same shape, on `device`."""
        _, _, norm = next(self._layers())
        return (shifts.double() * _gain(norm)).float().to(device)


def _gain(norm: nn.BatchNorm1d) -> Tensor:
    """What batch norm multiplies by in evaluation, in float64."""
    assert norm.running_var is not None
    return norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)


def run_folded(layers: Sequence[tuple[Tensor, Tensor]], x: Tensor) -> Tensor:
    """Dense layers from `DenseStack.fold`, each followed by ReLU."""
    for weight, bias in layers:
        x = torch.addmm(bias, x, weight.T).relu_()
    return x


class _Undrawn(nn.Linear):
    """A dense layer whose weights nobody has drawn yet: torch's own random numbers stay as they are."""

    def reset_parameters(self) -> None:
        """Draw nothing."""


def glorot_linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    """A dense layer as Keras (the challenge baseline) initialises it: Glorot's uniform weights, zero biases."""
    layer = _Undrawn(inputs, outputs)
    nn.init.xavier_uniform_(layer.weight, generator=generator)
    nn.init.zeros_(layer.bias)
    return layer


def map_windows(log_mel: Tensor, frames: int, function: Callable[[Tensor], Tensor]) -> Tensor:
    """`function` of all windows `[n, frames * mels]` of a clip, `WINDOWS_PER_PASS` at a time, in one tensor."""
    return torch.cat([function(x) for x in torch.split(frame_windows(log_mel, frames), WINDOWS_PER_PASS)])


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """The tensors that make `module` what it is, by name (not batch norm's counter of batches, which tells nothing)."""
    return {k: v.detach().cpu() for k, v in module.state_dict().items() if not k.endswith("num_batches_tracked")}


def load_state(module: nn.Module, state: dict[str, Tensor]) -> None:
    """Give `module` the tensors of `state_of`.

    Raises:
        ValueError: names, shapes or types don't fit the module, or a number can't be what its name says.
    """
    needed = state_of(module)
    wrong = sorted(needed.keys() ^ state.keys()) or [k for k, v in needed.items() if v.shape != state[k].shape]
    if wrong:
        raise ValueError(f"tensors are missing, unknown or of another shape: {', '.join(wrong[:5])}")
    for name, x in state.items():
        check_values(name, x, needed[name].dtype)
    module.load_state_dict(state, strict=False)
    module.eval()


def check_values(name: str, x: Tensor, dtype: torch.dtype) -> None:
    """Check that a model file's tensor is of its type, finite, and above zero where it is a variance or a scale.

    Raises:
        ValueError: it isn't; the message names the tensor.
    """
    if x.dtype != dtype:
        raise ValueError(f"{name} is {x.dtype}, not {dtype}")
    if not x.isfinite().all():
        raise ValueError(f"{name} is not finite")
    if (name.endswith("band_scale") and not (x > 0).all()) or (name.endswith("running_var") and not (x >= 0).all()):
        raise ValueError(f"{name} must be positive")  # the variance of a unit that never wakes is 0


def pack_names(names: Sequence[str]) -> Tensor:
    """Names as a tensor of their UTF-8, each with a newline behind it, uint8."""
    return torch.tensor(list("".join(f"{x}\n" for x in names).encode()), dtype=torch.uint8)


def unpack_names(packed: Tensor) -> tuple[str, ...]:
    """The names that `pack_names` packed."""
    return tuple(bytes(packed.tolist()).decode().split("\n")[:-1])


def spread_over_frames(values: Tensor, which: Sequence[int]) -> Tensor:
    """Average values of windows over each frame and band of a clip.

    Args:
        values: `[windows, frames, mels]`, of windows with a stride of one frame.
        which: the places in a window that count, from 0.

    Returns:
        `[windows + frames - 1, mels]` float32; NaN where a frame has no counted place in any window.
    """
    windows, frames, mels = values.shape
    total = values.new_zeros(windows + frames - 1, mels, dtype=torch.float64)
    count = total.new_zeros(windows + frames - 1, 1)
    for place in which:
        total[place : place + windows] += values[:, place]
        count[place : place + windows] += 1
    return (total / count).float()
