"""When a backend may use again what it derived from weights (a packed layout)."""

from __future__ import annotations

from torch import Tensor


def version(*tensors: Tensor) -> tuple[int, ...] | None:
    """Return what changes when the tensors' contents do, or `None` if nothing can tell.

    Tensors of inference mode have no version, and that of tensors in training can't be trusted, since torch's fused
    optimisers leave it as it is.
    """
    if any(x.is_inference() or x.requires_grad for x in tensors):
        return None
    return tuple(number for x in tensors for number in (x._version, x.data_ptr()))
