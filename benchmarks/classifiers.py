"""Speed of the classifiers in learning and scoring, beside the same torchvision networks in plain loops.

    python -m benchmarks.classifiers [--backbone mobilenet resnet] [--rounds 3] [--threads 2] [--device cpu]

Contestants take turns, on the same images of noise, and the median over the rounds counts. "plain" is torchvision's
network with one input channel in a loop of forward, cross-entropy, backward and Adam, over images that are all in
memory already; in scoring it sees one clip's 32 images at a time, as trained. Ours is `Classifier.fit`, whole, and
`Scorer.score_many`. `fit` gathers the images, and takes batch norm's statistics anew after each epoch, over as large a
share of these few batches as of the 100 of 200 clips. Needs torchvision (see `.ci/run` for how it is installed beside a
torch without CUDA).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pyasd.compute import Compute
from pyasd.features.windows import images
from pyasd.models import MobileNet, ResNet
from pyasd.models.classifier import Backbone, ClassifierConfig, ResNetConfig
from pyasd.training import loop
from pyasd.training.data import TrainingSet
from pyasd.training.run import Run

FRAMES, MELS = 313, 128  # a clip of 10 s
IDS = ("00", "01", "02", "03")
BATCH = 64
CLIPS = {"mobilenet": (20, 16), "resnet": (12, 4)}
"""Clips that are learnt from, one epoch, and scored."""
KINDS = {"mobilenet": (MobileNet, ClassifierConfig), "resnet": (ResNet, ResNetConfig)}
SETTLED = loop.SETTLING_BATCHES / 100


def torchvision_network(backbone: Backbone, classes: int) -> nn.Module:
    library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in (
        "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
        "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    ):
        library.define(schema)  # its operators don't load beside another torch, and its import asks for them
    import torchvision

    if backbone == "resnet":
        net = torchvision.models.resnet50(num_classes=classes)
        net.conv1 = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
    else:
        net = torchvision.models.MobileNetV2(num_classes=classes, width_mult=0.5)
        net.features[0][0] = nn.Conv2d(1, 16, 3, stride=2, padding=1, bias=False)
    net._library = library  # the schemas last as long as it
    network: nn.Module = net
    return network


def learn_plainly(net: nn.Module, x: Tensor, labels: Tensor) -> None:
    net.train()
    optimizer = torch.optim.Adam(net.parameters())
    for chosen in torch.randperm(len(x), device=x.device).split(BATCH):
        loss = nn.functional.cross_entropy(net(x[chosen]), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@torch.no_grad()
def score_plainly(net: nn.Module, clips: list[Tensor]) -> list[float]:
    net.eval()
    return [-net(images(x)[:, None]).softmax(1)[:, 0].mean().item() for x in clips]


def seconds(function: Callable[[], Any], device: torch.device) -> float:
    start = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(backbone: Backbone, device: torch.device, rounds: int) -> None:
    count, scored = CLIPS[backbone]
    clips = [torch.randn(FRAMES, MELS, device=device) * 8 - 40 for _ in range(count)]
    ids = [IDS[i % len(IDS)] for i in range(count)]
    stacked = torch.cat([images(x) for x in clips])[:, None].contiguous()
    labels = torch.arange(count, device=device).repeat_interleave(len(stacked) // count) % len(IDS)
    loop.SETTLING_BATCHES = round(SETTLED * len(stacked) / BATCH)
    plain = torchvision_network(backbone, len(IDS)).to(device)
    standard = (stacked + 40) / 8

    def learn(**settings: Any) -> Callable[[], Any]:
        compute = computes[settings.pop("precision", "float32")]
        config = config_class(validation=0.0, epochs=1, batch_size=BATCH, **settings)
        return lambda: kind(backbone, config, MELS).fit(data, Run(compute=compute))

    data = TrainingSet(clips, ids)
    kind, config_class = KINDS[backbone]
    computes: dict[str, Compute] = {
        "float32": Compute((device,)), "bfloat16": Compute((device,), precision="bfloat16"),
    }  # fmt: skip
    member = kind(backbone, config_class(epochs=1, validation=0.0), MELS)
    member.fit(data, Run(compute=computes["float32"]))
    some, some_ids = (clips * scored)[:scored], ["00"] * scored
    scorers = {precision: member.scorer(compute) for precision, compute in computes.items()}
    contestants: dict[str, tuple[int, Callable[[], Any]]] = {
        "learn, plain": (len(stacked), lambda: learn_plainly(plain, standard, labels)),
        "learn": (len(stacked), learn()),
        "learn, bfloat16": (len(stacked), learn(precision="bfloat16")),
        "learn, mixed and warped": (len(stacked), learn(mix="power", warps=2)),
        "score, plain": (32 * scored, lambda: score_plainly(plain, some)),
        "score": (32 * scored, lambda: scorers["float32"].score_many(some, some_ids)),
        "score, bfloat16": (32 * scored, lambda: scorers["bfloat16"].score_many(some, some_ids)),
    }
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(1 + rounds):  # the first warms up
        for name, (_, function) in contestants.items():
            taken = seconds(function, device)
            if turn:
                times[name].append(taken)
    for name, (number, _) in contestants.items():
        rate = number / statistics.median(times[name])
        basis = statistics.median(times[f"{name.split(',')[0]}, plain"]) / statistics.median(times[name])
        print(f"| {backbone} | {name} | {rate:.0f} | {basis:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", nargs="+", default=list(CLIPS), choices=CLIPS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="torch's")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    print("| backbone | what | images a second | times plain |\n|---|---|---:|---:|")
    for backbone in args.backbone:
        measure(backbone, torch.device(args.device), args.rounds)


if __name__ == "__main__":
    main()
