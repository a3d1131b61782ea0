"""All native operators at once from many Python threads, each with its own helpers from the one pool.

`python tests/csrc/sanitize.py thread` runs this under ThreadSanitizer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch
from torch import Tensor

from pyasd import ops
from pyasd.backends.contract import Precision
from pyasd.backends.cpu import BACKEND as cpu

CALLERS, THREADS, ROUNDS = 4, 3, 3


@pytest.fixture
def _pool() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_pool")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_every_operator_at_once(isa: str, precision: Precision) -> None:
    mels, hidden, components, windows = 20, 32, 3, 70
    prefix = (0, 8, 16, 24, 32)
    weight, bias = 0.1 * torch.randn(3 * 5 * mels * components, hidden), 0.3 * torch.randn(3 * 5 * mels * components)
    degrees = [1 + i * 4 // hidden for i in range(hidden)]
    head = ops.MixtureHead(weight, bias, degrees, [1, 2, 3, 4, 5], components)
    assert head.shape.prefix == prefix
    layers = (
        (torch.randn(hidden, 5 * mels) / 10, torch.randn(hidden)),
        (torch.randn(hidden, hidden) / 6, bias[:hidden]),
    )
    network = ops.GroupMadeNetwork(-60 + torch.randn(mels), 3 + torch.rand(mels), layers, head)
    h, x, grad = torch.randn(windows, hidden).relu(), torch.randn(windows, 5 * mels), torch.randn(windows, 5)
    samples = (3000 * torch.randn(2, 9000)).to(torch.int16)
    plan = ops.LogMelPlan(n_mels=mels)

    calls: list[Callable[[], tuple[Tensor, ...]]] = [
        lambda: (cpu.mixture_log_prob(head.tensors(h, x), head.shape, precision, False),),
        lambda: cpu.mixture_log_prob_backward(grad, head.tensors(h, x), head.shape, precision, False),
        lambda: (cpu.log_mel(samples, plan, [9000, 7000]),),
        lambda: (cpu.group_made_log_prob(x[:, :mels] - 60, network, range(5), precision, False),),
    ]
    expected = [call() for call in calls]
    start = Barrier(CALLERS)

    def caller(number: int) -> None:
        start.wait()
        for i in range(ROUNDS * len(calls)):
            which = (number + i) % len(calls)
            for got, known in zip(calls[which](), expected[which], strict=True):
                assert torch.equal(got, known)

    with ThreadPoolExecutor(CALLERS) as callers:
        for done in [callers.submit(caller, number) for number in range(CALLERS)]:
            done.result()
