"""Tensors as kernels take them, and what a CUDA graph can't hold."""

from __future__ import annotations

import pytest
import torch

from pyasd.backends import layout

CUDA = torch.device("cuda", 0)


@pytest.fixture
def _capturing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)


def test_rows_stay_in_place_where_they_can() -> None:
    x = torch.arange(24.0).view(4, 6)
    assert layout.whole_rows(x[:, 1:4]).data_ptr() == x[:, 1:4].data_ptr()
    assert layout.whole_rows(x.t()).stride(1) == 1
    assert layout.whole(x[:, 1:4]).is_contiguous()
    odd = torch.frombuffer(bytearray(1) + bytearray(x.numpy().tobytes()), dtype=torch.float32, offset=1)
    assert layout.whole(odd).data_ptr() % 4 == 0
    assert torch.equal(layout.whole(odd), x.flatten())


def test_a_table_goes_to_the_device() -> None:
    table = torch.arange(5)
    assert torch.equal(layout.without_waiting(table, torch.device("cpu")), table)


@pytest.mark.usefixtures("_capturing")
def test_a_cuda_graph_takes_no_copy_from_the_host() -> None:
    with pytest.raises(RuntimeError, match=r"CUDA graph .* clips of one length"):
        layout.without_waiting(torch.arange(5), CUDA)
    with pytest.raises(RuntimeError, match="run it before"):
        layout.refuse_in_capture(CUDA, "run it before")
    assert not layout.is_capturing(torch.device("cpu"))
    layout.refuse_in_capture(torch.device("cpu"), "")
