"""What only a GPU can show of the operators: streams, graphs, other devices, sizes beyond 2^31, parity with the CPU."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pyasd import ops
from pyasd.backends.contract import Precision
from pyasd.errors import BackendUnavailable

if TYPE_CHECKING:
    from tests.conftest import Engine

pytestmark = pytest.mark.gpu

PLAN = ops.LogMelPlan()


@pytest.fixture
def engine(gpu_engine: Engine) -> Engine:
    return gpu_engine


def network(seed: int = 0) -> ops.GroupMadeNetwork:
    """A Group MADE of the report's size with random weights."""
    torch.manual_seed(seed)
    degrees = [torch.arange(1, 6).repeat_interleave(128)]
    degrees += [torch.tensor(sorted(1 + i % 4 for i in range(width))) for width in (128,) * 4 + (32,) + (128,) * 4]
    layers = []
    for before, after in itertools.pairwise(degrees):
        mask = (before <= after[:, None]).float()
        layers.append((torch.randn(mask.shape) * mask / (0.5 * len(before)) ** 0.5, 0.1 * torch.randn(len(after))))
    head = ops.MixtureHead(
        0.1 * torch.randn(19200, 128), 0.3 * torch.randn(19200), degrees[-1].tolist(), [1, 2, 3, 4, 5], 10
    )
    return ops.GroupMadeNetwork(torch.full((128,), -60.0), torch.full((128,), 8.0), tuple(layers), head)


def machine(clips: int, n: int = 32_000, loud: float = 1.0) -> Tensor:
    """Hum, harmonics and noise: int16. `loud` scales the noise, which is what sounds wrong in some clips."""
    rng = np.random.default_rng(0)
    t = np.arange(n) / 16000
    base = rng.uniform(90, 110, (clips, 1))
    tones = sum(np.sin(2 * np.pi * base * k * t) / k for k in range(1, 9))
    return torch.from_numpy((3000 * tones + 60 * loud * rng.standard_normal((clips, n))).round().astype(np.int16))


def clip_scores(samples: Tensor, made: ops.GroupMadeNetwork, backend: str, precision: Any = "float32") -> Tensor:
    """Joint negative log-likelihoods of clips of one length, float64, on their device."""
    log_mels = ops.log_mel(samples, PLAN, backend=backend)
    lengths = [log_mels.shape[1]] * len(samples)
    nll = ops.group_made_score(log_mels.flatten(0, 1), made, None, backend, precision, lengths=lengths)
    return nll.sum(1).view(len(samples), -1).mean(1)


def test_clip_scores_are_the_cpus(engine: Engine) -> None:
    samples, made = machine(7), network()
    expected = clip_scores(samples, made, "cpu")
    got = clip_scores(engine.put(samples), engine.put(made), engine.backend).cpu()
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=0)


@pytest.mark.cuda
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_hidden_layers_run_in_their_kernel(make_engine: Any, precision: Precision) -> None:
    """Where it disagrees with the reference, `cuda` quietly leaves them to torch: not on this device."""
    engine = make_engine("cuda")
    assert engine.implementation.hidden_layers_obstacle(torch.device("cuda", torch.cuda.current_device())) is None
    made = network()
    log_mel = -60 + 8 * torch.randn(3000, 128)
    got, windows = engine.implementation.hidden_layers(*engine.put(log_mel, made), precision)
    z = made.standardised_windows(log_mel)
    layers = tuple((weight.double(), bias.double()) for weight, bias in made.layers)
    double = ops.GroupMadeNetwork(made.band_mean.double(), made.band_scale.double(), layers, made.head)
    exact = double.hidden_layers(z.double(), precision)
    assert torch.equal(windows.cpu(), z)
    error = ((got.cpu() - exact).abs() / (1 + exact.abs())).max()
    assert error <= (1e-5 if precision == "float32" else 0.02)


@pytest.mark.cuda
def test_products_of_warpgroups_where_the_device_has_them(make_engine: Any) -> None:
    cuda = make_engine("cuda").implementation
    why = cuda.warpgroups_obstacle(torch.device("cuda", torch.cuda.current_device()))
    assert (why is None) == (torch.cuda.get_device_capability()[0] == 9), why


def test_bfloat16_ranks_clips_alike(engine: Engine) -> None:
    """AUC of clips with more noise against clips with less, in bfloat16 and in float32: within half a point."""
    made = network()
    normal, odd = machine(60), machine(60, loud=1.05)
    scores = {}
    for precision in ("float32", "bfloat16"):
        a, b = (clip_scores(engine.put(x), engine.put(made), engine.backend, precision).cpu() for x in (normal, odd))
        scores[precision] = (b[:, None] > a).double().mean().item()
    assert 0.6 < scores["float32"] < 0.95, "neither all alike nor all apart"
    assert abs(scores["bfloat16"] - scores["float32"]) <= 0.005
    a, b = (clip_scores(engine.put(normal), engine.put(made), engine.backend, x).cpu() for x in ("float32", "bfloat16"))
    assert (a - b).abs().max() < 0.2 * a.std(), "rounding is small beside the distance between clips"


def test_the_same_bits_twice(engine: Engine) -> None:
    samples, made = engine.put(machine(9), network())
    for precision in ("float32", "bfloat16"):
        first = clip_scores(samples, made, engine.backend, precision)
        assert all(torch.equal(clip_scores(samples, made, engine.backend, precision), first) for _ in range(5))


def test_outputs_are_written_whole(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """With NaN in all memory that torch allocates, as it does where it is asked for repeatable results."""
    samples, made = engine.put(machine(3), network())
    hidden, target = (x.requires_grad_() for x in engine.put(torch.randn(37, 128).relu(), torch.randn(37, 640)))

    def results() -> list[Tensor]:
        grads = torch.autograd.grad(
            ops.mixture_log_prob(hidden, target, made.head, engine.backend).sum(), [hidden, target]
        )
        return [clip_scores(samples, made, engine.backend), *grads]

    expected = results()
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        assert torch.empty(9, device=engine.device).isnan().all()
        got = results()
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def test_work_goes_to_the_current_stream(engine: Engine) -> None:
    """On a stream of its own, behind a long wait, with inputs that exist only after it."""
    samples, made = engine.put(machine(5), network())
    expected = clip_scores(samples, made, engine.backend)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(200_000_000)  # some 0.1 s
        late = torch.zeros_like(samples)
        late.copy_(samples)
        got = clip_scores(late, made, engine.backend)
        assert not stream.query(), "the host must not wait for the GPU inside a batch"
    stream.synchronize()
    assert torch.equal(got, expected)


def test_a_cuda_graph_replays_on_new_samples(engine: Engine) -> None:
    samples, made = engine.put(machine(5), network())
    other = samples.flip(0).contiguous()
    expected = clip_scores(other, made, engine.backend)
    static = samples.clone()
    clip_scores(static, made, engine.backend)  # compiles, packs, makes the tables
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = clip_scores(static, made, engine.backend)
    static.copy_(other)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(out, expected)


def test_under_torch_compile(engine: Engine) -> None:
    made = engine.put(network())
    head = made.head
    h, x = engine.put(torch.randn(70, 128).relu(), torch.randn(70, 640))

    def loss(h: Tensor, x: Tensor) -> Tensor:
        return ops.mixture_log_prob(h * 2, x, head, engine.backend).mean()

    torch.testing.assert_close(torch.compile(loss, fullgraph=True)(h, x), loss(h, x))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is no second CUDA device")
def test_on_a_device_that_is_not_the_current_one(engine: Engine) -> None:
    samples, made = machine(5), network()
    expected = clip_scores(engine.put(samples), engine.put(made), engine.backend)
    second = type(engine)(engine.backend, torch.device("cuda:1"))
    got = clip_scores(second.put(samples), second.put(made), engine.backend)
    assert got.device == torch.device("cuda:1")
    assert torch.cuda.current_device() == 0
    assert torch.equal(got.cpu(), expected.cpu())


def test_targets_beyond_two_to_the_thirty_one_elements(engine: Engine) -> None:
    """3.4 million windows of 640: 8.6 GB whose last elements have offsets that 32 bits don't hold."""
    windows = 2**31 // 640 + 1000
    if torch.cuda.mem_get_info()[0] < 3 * windows * 640 * 4:
        pytest.skip("too little GPU memory")
    head = engine.put(network().head)
    hidden = torch.zeros(windows, 128, device=engine.device)
    target = torch.zeros(windows, 640, device=engine.device)
    some = torch.randn(64, 640, device=engine.device)
    target[-64:] = some
    expected = ops.mixture_log_prob(hidden[-64:], some, head, engine.backend)
    got = ops.mixture_log_prob(hidden, target, head, engine.backend)
    assert torch.equal(got[-64:], expected)
    assert torch.equal(got[0], got[windows // 2])


def test_samples_beyond_two_to_the_thirty_one(engine: Engine) -> None:
    clips, n = 2300, 1_000_000
    if torch.cuda.mem_get_info()[0] < 3 * clips * n * 2:
        pytest.skip("too little GPU memory")
    samples = torch.zeros(clips, n, dtype=torch.int16, device=engine.device)
    samples[-1] = engine.put(machine(1, n))[0]
    got = ops.log_mel(samples, PLAN, backend=engine.backend)
    assert torch.equal(got[-1], ops.log_mel(samples[-1:], PLAN, backend=engine.backend)[0])
    assert (got[:-1] == got[0, 0, 0]).all()


def test_tensors_of_another_device_are_refused(engine: Engine) -> None:
    head = network().head
    h, x = torch.randn(3, 128), torch.randn(3, 640)
    with pytest.raises(BackendUnavailable, match=f"'{engine.backend}' can't run on cpu"):
        ops.mixture_log_prob(h, x, head, engine.backend)
    with pytest.raises(ValueError, match="one device"):
        ops.mixture_log_prob(engine.put(h), x, head, engine.backend)
    with pytest.raises(BackendUnavailable, match="can't run on cuda"):
        ops.log_mel(engine.put(machine(1)), PLAN, backend="cpu")


def test_out_of_memory_is_torchs_own_error_and_nothing_is_broken(engine: Engine) -> None:
    head = engine.put(network().head)
    hidden, target = engine.put(torch.zeros(1, 128)), engine.put(torch.zeros(1, 640))
    expected = ops.mixture_log_prob(hidden, target, head, engine.backend, per_dim=True)
    many = 4 * torch.cuda.mem_get_info()[1] // (640 * 4)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        ops.mixture_log_prob(hidden.expand(many, -1), target.expand(many, -1), head, engine.backend, per_dim=True)
    assert torch.equal(ops.mixture_log_prob(hidden, target, head, engine.backend, per_dim=True), expected)


@pytest.mark.cuda
def test_two_cuda_graphs_of_one_network(make_engine: Any) -> None:
    """Weights that one graph packs are in its own memory: another graph, replayed first, must not read them."""
    engine = make_engine("cuda")
    samples, head, fresh = engine.put(machine(5), network(7).head, network(7).head)
    h, x = engine.put(torch.randn(33, 128).relu(), torch.randn(33, 640))
    expected = ops.mixture_log_prob(h, x, head, engine.backend)
    ops.log_mel(samples, PLAN, backend=engine.backend)
    graphs, outs = [torch.cuda.CUDAGraph() for _ in range(2)], []
    for graph in graphs:
        with torch.cuda.graph(graph):
            outs.append(ops.mixture_log_prob(h, x, fresh, engine.backend))
    for graph, out in zip(reversed(graphs), reversed(outs), strict=True):
        graph.replay()
        torch.cuda.synchronize()
        assert torch.equal(out, expected)
    assert torch.equal(ops.mixture_log_prob(h, x, fresh, engine.backend), expected)
    ragged = [samples.shape[1], *[samples.shape[1] - 1000] * 4]
    with pytest.raises(RuntimeError, match="clips of one length"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        ops.log_mel(samples, PLAN, ragged, engine.backend)


@pytest.mark.cuda
def test_another_stream_waits_for_the_weights(make_engine: Any) -> None:
    engine = make_engine("cuda")
    head = engine.put(network(8)).head
    hidden, target = engine.put(torch.randn(33, 128).relu(), torch.randn(33, 640))
    expected = ops.mixture_log_prob(hidden, target, engine.put(network(8)).head, engine.backend)
    torch.cuda.synchronize()
    first, second = torch.cuda.Stream(), torch.cuda.Stream()
    with torch.cuda.stream(first):
        torch.cuda._sleep(200_000_000)  # some 0.1 s, which the packing stands behind
        ops.mixture_log_prob(hidden, target, head, engine.backend)
    with torch.cuda.stream(second):
        got = ops.mixture_log_prob(hidden, target, head, engine.backend)
    torch.cuda.synchronize()
    assert torch.equal(got, expected)
