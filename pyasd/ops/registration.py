"""Operators of `torch.library`, registered below its `custom_op`: the first call of one of those imports
`torch._dynamo`, which takes a second.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import torch

NAMESPACE = "pyasd"

_library = torch.library.Library(NAMESPACE, "FRAGMENT")

_TAGS = (torch.Tag.pt2_compliant_tag, torch.Tag.needs_fixed_stride_order)
"""Those of `custom_op`: the operators work under `torch.compile`, with inputs strided as they are given."""


class Operator:
    """An operator `torch.ops.pyasd.<name>` that changes no argument and returns none; made by `operator`."""

    def __init__(self, name: str, kernel: Callable[..., Any]) -> None:
        self._name = f"{NAMESPACE}::{name}"
        _library.define(name + torch.library.infer_schema(kernel, mutates_args=()), tags=_TAGS)
        _library.impl(name, _untraced(kernel), "CompositeExplicitAutograd")

    def register_fake(self, fake: Callable[..., Any]) -> None:
        """Take `fake` for what gives outputs of the right shapes, without values; as a decorator."""
        torch.library.register_fake(self._name, fake, lib=_library)

    def register_autograd(self, backward: Callable[..., Any], setup_context: Callable[..., Any]) -> None:
        """Take these for the gradients; see `torch.library.register_autograd`."""
        torch.library.register_autograd(self._name, backward, setup_context=setup_context, lib=_library)


def operator(name: str) -> Callable[[Callable[..., Any]], Operator]:
    """Register the function below as the kernel of an operator, whose schema comes from its annotations."""
    return functools.partial(Operator, name)


def _untraced(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """The kernel, into which `torch.compile` doesn't look. Where `torch._dynamo` isn't there, nothing is traced."""
    hidden: list[Callable[..., Any]] = []

    @functools.wraps(kernel)
    def call(*args: Any) -> Any:
        if "torch._dynamo" not in sys.modules:
            return kernel(*args)
        if not hidden:
            hidden.append(torch.compiler.disable(kernel))
        return hidden[0](*args)

    return call
