"""Classifiers as ensemble members: labels and augmentation, training, resume, and scores against hand calculations."""

from __future__ import annotations

import dataclasses
import math
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

import pyasd
from pyasd import audio, backends, ops
from pyasd.backends import cpu
from pyasd.compute import Compute
from pyasd.errors import TrainingDiverged
from pyasd.features.windows import images, repeat_frames
from pyasd.models import NormalScores, classifier, kinds
from pyasd.models.backbones.mobilenet import MobileNetV2
from pyasd.models.backbones.resnet import ResNet50
from pyasd.models.classifier import Classifier, ClassifierConfig, fold
from pyasd.models.trained import TrainedMember
from pyasd.recipes import MemberRecipe, Recipe
from pyasd.training import loop
from pyasd.training.data import TrainingSet
from pyasd.training.run import History, Run, StatisticsPolicy

MELS = 32
CONFIG = ClassifierConfig(width=0.1, image_frames=32, epochs=4, batch_size=16, learning_rate=5e-3, validation=0.25)
"""Small networks on small images."""


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def machine(machine_id: str, clips: int, seed: int, frames: int = 72) -> list[torch.Tensor]:
    """Clips that pulsate in time ("01"), or whose spectrum has ripples ("04")."""
    generator = torch.Generator().manual_seed(seed)
    pulse = torch.sin(torch.arange(frames)[:, None] * math.pi / 4)
    ripple = torch.sin(torch.arange(MELS) * math.pi / 4)
    pattern = {"01": pulse, "04": ripple}[machine_id]
    return [6 * pattern - 40 + 2 * torch.randn(frames, MELS, generator=generator) for _ in range(clips)]


@pytest.fixture(scope="module")
def clips() -> tuple[list[torch.Tensor], list[str]]:
    return machine("01", 12, 0) + machine("04", 12, 1), ["01"] * 12 + ["04"] * 12


Clips = tuple[list[torch.Tensor], list[str]]


@pytest.fixture(scope="module")
def fitted(clips: Clips) -> tuple[Classifier, History]:
    torch.set_num_threads(1)
    member = Classifier("mobilenet", dataclasses.replace(CONFIG, width=0.35, learning_rate=2e-3, epochs=20), MELS)
    return member, member.fit(TrainingSet(*clips), Run(seed=3))


def test_learns_the_ids_and_finds_what_is_of_another(fitted: tuple[Classifier, History]) -> None:
    member, history = fitted
    assert member.ids == ("01", "04")
    assert history.training[-1] < history.training[0]
    assert history.accuracy[history.kept] > 0.9
    scorer = member.scorer()
    ones, fours = machine("01", 6, 7), machine("04", 6, 8)
    for machine_id, labels in (("01", [0] * 6 + [1] * 6), ("04", [1] * 6 + [0] * 6)):
        scores = scorer.score_many(ones + fours, [machine_id] * 12).numpy()
        assert [roc_auc_score(labels, column) for column in scores.T] == [1, 1]


def test_scores_are_means_of_minus_p_and_minus_log_p(fitted: tuple[Classifier, History]) -> None:
    member, _ = fitted
    clip = machine("01", 1, 11, frames=100)[0]
    views = images(clip, 32, 8)[:, None]
    assert len(views) == 9
    with torch.no_grad():
        z = (views.double() - member.band_mean) / member.band_scale
        p = member.net.double()(z).softmax(1)
        member.net.float()
    scorer = member.scorer()
    for column, machine_id in enumerate(member.ids):
        expected = [-p[:, column].log().mean().item(), -p[:, column].mean().item()]
        assert scorer.score(clip, machine_id).tolist() == pytest.approx(expected, rel=1e-4)
    assert scorer.score(clip, machine_id).dtype == torch.float64
    unknown = torch.minimum(scorer.score(clip, "01"), scorer.score(clip, "04"))
    assert torch.equal(scorer.score(clip, None), unknown)
    assert torch.equal(scorer.score(clip, "77"), unknown)


def test_certain_clips_still_differ() -> None:
    """Where the probability is 1 to all digits of float32, its logarithm still tells clips apart, as pAUC needs."""
    member = Classifier("mobilenet", CONFIG, MELS)
    member._make(["a", "b"])
    logits = torch.tensor([[20.0, 0.0], [25.0, 0.0], [60.0, 0.0]])
    scores = [member.scorer()._modes(row[None].double(), "a")[0].item() for row in logits]
    assert scores == pytest.approx([math.log1p(math.exp(-x)) for x in (20, 25, 60)], rel=1e-6)
    assert scores[0] > scores[1] > scores[2] >= 0
    assert len(set(logits.softmax(1)[:, 0].tolist())) == 1


def test_a_clips_bits_depend_on_that_clip_alone(fitted: tuple[Classifier, History]) -> None:
    scorer = fitted[0].scorer()
    clip = machine("01", 1, 12)[0]
    alone = scorer.score(clip, "01")
    for before in (1, 5, 40):
        crowd = machine("04", before, 13, frames=90)
        scores = scorer.score_many([*crowd, clip, *crowd[:3]], ["04"] * before + ["01"] + ["04"] * min(before, 3))
        assert torch.equal(scores[before], alone)
    torch.set_num_threads(2)
    assert torch.equal(scorer.score(clip, "01"), alone)


def test_short_clips_are_repeated(fitted: tuple[Classifier, History]) -> None:
    scorer = fitted[0].scorer()
    short = machine("01", 1, 14, frames=7)[0]
    assert torch.equal(repeat_frames(short, 32), torch.cat([short] * 5)[:32])
    assert torch.equal(scorer.score(short, "01"), scorer.score(repeat_frames(short, 32), "01"))
    member = Classifier("mobilenet", dataclasses.replace(CONFIG, epochs=1), MELS)
    short_clips = [x[:9] for x in machine("01", 3, 0) + machine("04", 3, 0)]
    member.fit(TrainingSet(short_clips, ["01"] * 3 + ["04"] * 3), Run())


@pytest.mark.parametrize(
    "settings",
    [{"mix": "power", "warps": 2}, {"loss": "arcface", "warps": 1}],
    ids=["mixed-and-warped", "arcface"],
)
def test_resume_gives_the_same_bits(clips: Clips, settings: dict[str, Any], tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, epochs=3, **settings)
    whole = Classifier("mobilenet", config, MELS)
    history = whole.fit(TrainingSet(*clips), Run(seed=5))

    def killed(stage: str, done: int, total: int, info: str) -> None:
        if done > total * 2 // 3:
            raise KeyboardInterrupt

    run = Run(seed=5, checkpoint=tmp_path / "checkpoint.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
        with pytest.raises(KeyboardInterrupt):
            Classifier("mobilenet", config, MELS).fit(TrainingSet(*clips), dataclasses.replace(run, progress=killed))
    torch.rand(17)  # elsewhere in the process, random numbers were drawn in the meantime
    resumed = Classifier("mobilenet", config, MELS)
    assert resumed.fit(TrainingSet(*clips), run) == history
    for name, x in whole.state().items():
        assert torch.equal(x, resumed.state()[name]), name


def test_training_leaves_torchs_random_numbers_alone(clips: Clips) -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    member = Classifier("mobilenet", dataclasses.replace(CONFIG, epochs=1, mix="log"), MELS)
    member.fit(TrainingSet(*clips), Run())
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("settings", [{}, {"loss": "arcface", "warps": 1}], ids=["softmax", "arcface"])
def test_state_brings_the_member_back(clips: Clips, settings: dict[str, Any]) -> None:
    config = dataclasses.replace(CONFIG, epochs=1, **settings)
    member = Classifier("mobilenet", config, MELS)
    member.fit(TrainingSet(clips[0], ["ümlaut" if x == "01" else "" for x in clips[1]]), Run())
    other = Classifier("mobilenet", config, MELS, seed=9)
    other.load_state(member.state())
    assert other.ids == ("", "ümlaut")
    assert torch.equal(member.scorer().score(clips[0][0], "ümlaut"), other.scorer().score(clips[0][0], "ümlaut"))
    with pytest.raises(ValueError, match="ids"):
        other.load_state({name: x for name, x in member.state().items() if name != "ids"})
    with pytest.raises(ValueError, match="band_mean"):
        other.load_state({name: x for name, x in member.state().items() if name != "band_mean"})


def test_classes_of_warped_and_resampled_ids(clips: Clips, monkeypatch: pytest.MonkeyPatch) -> None:
    """Class = ID x variants + variant; what is resampled isn't warped, and none of it is in the validation."""
    seen: dict[bool, list[int]] = {True: [], False: []}
    counted: list[int] = []
    forward = Classifier.forward

    def spy(self: Classifier, x: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        if labels is not None:
            seen[True] += labels.tolist()
        else:
            counted.append(len(x))
        return forward(self, x, labels)

    monkeypatch.setattr(Classifier, "forward", spy)
    monkeypatch.setattr(loop, "_settle", lambda *_: None)
    config = dataclasses.replace(CONFIG, epochs=2, warps=2, ratios=(0.9, 1.1), loss="arcface")
    member = Classifier("mobilenet", config, MELS)
    log_mels, ids = clips
    faster = {ratio: [x[: round(len(x) / ratio)] for x in log_mels] for ratio in config.ratios}
    member.fit(TrainingSet(log_mels, ids, at_speed=faster), Run())
    assert member.config.variants == 5
    assert member.arcface is not None
    assert member.arcface.weight.shape[0] == 10
    counts = np.bincount(seen[True], minlength=10)
    assert (counts > 0).all()
    plain = 2 * 2 * 9 * (1 + (72 - 32) // 8)  # epochs, IDs, clips that train, images
    assert counts[[0, 1, 2, 5, 6, 7]].sum() == plain
    assert counts[[0, 1, 2]].min() > 0.2 * plain / 2, "an image is warped in three ways with equal chances"
    assert sum(counted) == 2 * 2 * 3 * 6, "validation: epochs, IDs, clips held out, images"
    with pytest.raises(ValueError, match="resampled"):
        member.fit(TrainingSet(log_mels, ids, at_speed={0.9: faster[0.9]}), Run())


def test_scarce_ids_are_seen_as_often(clips: Clips, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(loop, "_settle", lambda *_: None)
    measure = Classifier._measure

    def spy(self: Classifier, x: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
        seen.extend(true.tolist() if self.training else [])
        return measure(self, x, true)

    monkeypatch.setattr(Classifier, "_measure", spy)
    log_mels, ids = clips[0][:16], clips[1][:16]
    assert ids.count("04") == 4
    counts = {}
    for balance in (True, False):
        seen.clear()
        config = dataclasses.replace(CONFIG, epochs=1, balance=balance)
        Classifier("mobilenet", config, MELS).fit(TrainingSet(log_mels, ids), Run())
        counts[balance] = np.bincount(seen).tolist()
    assert counts == {True: [36, 36], False: [54, 18]}


def test_balance_changes_nothing_where_ids_are_as_frequent(clips: Clips) -> None:
    learnt = []
    for balance in (True, False):
        member = Classifier("mobilenet", dataclasses.replace(CONFIG, epochs=2, balance=balance), MELS)
        learnt.append((member.fit(TrainingSet(*clips), Run()).training, member.state()))
    assert learnt[0][0] == learnt[1][0]
    assert all(torch.equal(x, learnt[1][1][name]) for name, x in learnt[0][1].items())


def test_a_balanced_training_resumes_to_the_same_bits(
    clips: Clips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    log_mels, ids = clips[0][:16], clips[1][:16]
    config = dataclasses.replace(CONFIG, epochs=3)
    whole, broken, resumed = (Classifier("mobilenet", config, MELS) for _ in range(3))
    history = whole.fit(TrainingSet(log_mels, ids), Run())

    def progress(stage: str, done: int, total: int, info: str) -> None:
        if done > 2 * total // 3:
            raise InterruptedError

    checkpoint = tmp_path / "checkpoint.safetensors"
    with pytest.raises(InterruptedError):
        broken.fit(TrainingSet(log_mels, ids), Run(checkpoint=checkpoint, progress=progress))
    assert resumed.fit(TrainingSet(log_mels, ids), Run(checkpoint=checkpoint)) == history
    assert all(torch.equal(x, resumed.state()[name]) for name, x in whole.state().items())


def test_one_id_needs_warps(clips: Clips) -> None:
    log_mels = clips[0][:6]
    with pytest.raises(ValueError, match=r"IDs apart.*two IDs.*warps=1"):
        Classifier("mobilenet", CONFIG, MELS).fit(TrainingSet(log_mels, ["01"] * 6), Run())
    member = Classifier("mobilenet", dataclasses.replace(CONFIG, epochs=1, warps=1), MELS)
    member.fit(TrainingSet(log_mels, ["01"] * 6), Run())
    scores = member.scorer().score_many(log_mels, ["01"] * 6)
    assert torch.isfinite(scores).all()
    assert len(set(scores[:, 0].tolist())) == 6, "the warped class competes, so scores differ"


def test_an_id_with_a_single_clip_is_learnt(clips: Clips) -> None:
    member = Classifier("mobilenet", dataclasses.replace(CONFIG, epochs=1), MELS)
    member.fit(TrainingSet([*clips[0][:6], machine("04", 1, 3)[0]], ["01"] * 6 + ["04"]), Run())
    assert member.ids == ("01", "04")


def test_nan_stops_with_the_batch(clips: Clips) -> None:
    log_mels = [x.clone() for x in clips[0]]
    log_mels[0][3, 3] = torch.nan
    with pytest.raises(TrainingDiverged, match="epoch 1"):
        Classifier("mobilenet", dataclasses.replace(CONFIG, validation=0.0), MELS).fit(
            TrainingSet(log_mels, clips[1]), Run()
        )


def test_learning_rate_sinks_along_a_cosine(clips: Clips, monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    step = torch.optim.Adam.step

    def spy(self: torch.optim.Adam) -> None:
        rates.append(self.param_groups[0]["lr"])
        step(self)

    monkeypatch.setattr(torch.optim.Adam, "step", spy)
    Classifier("mobilenet", CONFIG, MELS).fit(TrainingSet(*clips), Run())
    assert rates[0] == 5e-3
    assert rates[len(rates) // 2] == pytest.approx(2.5e-3)
    assert rates[-1] < 1e-4
    assert rates == sorted(rates, reverse=True)


@pytest.mark.parametrize("net", [MobileNetV2(3), ResNet50(3)], ids=["mobilenet", "resnet"])
def test_folding_leaves_no_batch_norm_and_the_same_outputs(net: torch.nn.Module) -> None:
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    folded = fold(net)
    assert not [x for x in folded.modules() if isinstance(x, torch.nn.BatchNorm2d)]
    x = torch.randn(2, 1, 64, 128)
    expected = net.eval()(x)
    torch.testing.assert_close(folded(x), expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


def test_bfloat16_scores_are_close(fitted: tuple[Classifier, History]) -> None:
    """Clips of the ID and of another keep their scores, but for a tenth of the distance between them."""
    clips = [*machine("01", 4, 15), *machine("04", 4, 16)]
    scorers = fitted[0].scorer(), fitted[0].scorer(Compute(precision="bfloat16"))
    exact, rough = (torch.stack([x.score(clip, "04") for clip in clips]) for x in scorers)  # [clips, modes]
    assert ((rough - exact).abs() <= 0.1 * (exact.amax(0) - exact.amin(0))).all()
    assert not torch.equal(exact, rough)


def test_explanation_is_the_scores_slope(fitted: tuple[Classifier, History]) -> None:
    """Against a finite difference, in float64, in the direction of the clip's own distance from the mean."""
    scorer = fitted[0].scorer()
    clip = machine("01", 1, 16)[0]
    share = scorer.explain(clip, "log-probability", "04")
    assert share.shape == clip.shape
    assert share.dtype == torch.float32
    scorer._classifier.double()
    exact, away = clip.double(), (clip - fitted[0].band_mean).double()
    step = 1e-8  # mostly less than the distance to the next kink of any ReLU
    above, below = (scorer.score(exact + sign * step * away, "04")[0] for sign in (1, -1))
    slope = ((above - below) / (2 * step)).item()
    assert scorer.explain(exact, "log-probability", "04").sum().item() == pytest.approx(slope, rel=1e-3)


def test_pass_sizes_are_known_for_every_device() -> None:
    assert set(classifier.IMAGES_PER_PASS) == {"cpu", "cuda"}


def test_system_3_from_clips_to_table_by_way_of_a_file(clips: Clips, tmp_path: Path) -> None:
    log_mels, ids = [x.numpy() for x in clips[0]], clips[1]
    path = tmp_path / "model.safetensors"
    how: dict[str, Any] = {"features": "log-mel", "device": "cpu"}
    detector = pyasd.fit(
        log_mels, "3", ids=ids, out=path, n_mels=MELS, width=0.1, image_frames=32, hidden=(8, 8), components=2,
        epochs=2, **how,
    )  # fmt: skip
    assert detector.recipe.names == ("mobilenet", "arcface", "group-made")
    test, test_ids = [*log_mels[:2], log_mels[0][:20], log_mels[0], log_mels[0][:4]], ["01", "04", "01", "77", "01"]
    table = detector.score(test, ids=test_ids, unknown_ids="pool", **how)
    assert table["status"].tolist() == ["ok", "ok", "repeated", "pooled", "too-short"]
    assert np.isfinite(table.loc[:3, ["score", "score.mobilenet", "score.arcface", "score.group-made"]]).all(axis=None)
    member = detector.machines[""].members["arcface"]
    expected = member.scorer().score(torch.from_numpy(test[1]), "04")
    assert table["score.arcface"][1] == expected[0].item()
    again = pyasd.load(path).score(test, ids=test_ids, unknown_ids="pool", **how)
    assert again.equals(table)
    report = detector.score(test[:2], ids=test_ids[:2], score_mode="probability", **how)
    assert report["score.arcface"][1] == expected[1].item()
    assert report["score.group-made"][1] == table["score.group-made"][1]
    assert detector.explain(test[1], ids=["04"], member="mobilenet", **how).score_map.shape == (72, MELS)


def test_clips_are_read_once_more_for_each_ratio(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each classifier gets the ratios that it asks for; what is too short at one of them is learnt at none."""
    given: dict[str, TrainingSet] = {}
    fit = Classifier.fit

    def spy(self: Classifier, data: TrainingSet, run: Run) -> History:
        given[self.name] = data
        return fit(self, data, run)

    monkeypatch.setattr(Classifier, "fit", spy)
    small = dataclasses.replace(CONFIG, epochs=1)
    recipe = Recipe(
        (
            MemberRecipe("mobilenet", "mobilenet", dataclasses.replace(small, ratios=(0.9, 1.25))),
            MemberRecipe("arcface", "arcface", dataclasses.replace(small, ratios=(1.25,), loss="arcface", warps=1)),
            MemberRecipe.of_kind("autoencoder"),
        ),
        ops.LogMelPlan(n_mels=MELS),
    )
    noise = (3000 * np.random.default_rng(0).standard_normal((8, 20_000))).astype(np.int16)
    stages: dict[str, int] = {}
    how: dict[str, Any] = {"sample_rate": 16000, "device": "cpu", "machine_type": "fan"}
    path = tmp_path / "model.safetensors"
    with pytest.warns(UserWarning, match=r"1 of 9 .*1\.25 times as fast"):
        detector = pyasd.fit(
            [*noise, noise[0, :2100]], recipe, ids=["01", "04"] * 4 + ["01"], out=path, **how,
            progress=lambda stage, done, *_: stages.update({stage: done}),
        )  # fmt: skip
    assert [row["status"] for row in detector.skipped] == ["too-short"]
    assert [(x, n) for x, n in stages.items() if "reading" in x] == [
        ("reading fan", 9), ("reading fan at ratio 0.9", 9), ("reading fan at ratio 1.25", 9),
    ]  # fmt: skip
    plan = ops.LogMelPlan(n_mels=MELS)

    def expected(ratio: float) -> list[torch.Tensor]:
        played = noise if ratio == 1 else [audio.change_speed(x, ratio) for x in noise]
        return [ops.log_mel(torch.from_numpy(x)[None], plan)[0] for x in played]

    for name, ratios in (("mobilenet", (0.9, 1.25)), ("arcface", (1.25,))):
        data = given[name]
        assert all(torch.equal(a, b) for a, b in zip(data.log_mels, expected(1.0), strict=True))
        for ratio in ratios:
            assert all(torch.equal(a, b) for a, b in zip(data.at_speed(ratio), expected(ratio), strict=True))
    members = detector.machines["fan"].members
    logits = {name: members[name](torch.zeros(2, 1, 32, MELS)) for name in given}  # type: ignore[operator]
    assert {name: x.shape[1] for name, x in logits.items()} == {"mobilenet": 2 * 3, "arcface": 2 * 3}
    table = pyasd.load(path).score(list(noise), ids=["01", "04"] * 4, **how)
    assert table["status"].eq("ok").all()
    assert np.isfinite(table["score"]).all()


def test_ratios_need_audio(clips: Clips) -> None:
    with pytest.raises(ValueError, match=r"log-Mels can't be resampled by 0\.9: give the clips' audio"):
        pyasd.fit([x.numpy() for x in clips[0]], "2", ids=clips[1], n_mels=MELS, ratios=(0.9,), features="log-mel")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"backbone": "vgg"}, "mobilenet, resnet"),
        ({"loss": "arcface", "mix": "log"}, "one true class"),
        ({"warps": -1}, "warps"),
        ({"image_frames": 16}, "image_frames"),
        ({"ratios": (1.0,)}, "ratios"),
        ({"mix_probability": 1.5}, "mix_probability"),
    ],
)
def test_impossible_settings(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ClassifierConfig(**settings)  # type: ignore[arg-type]


# -- what is remarked on -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("balance", "guessed", "enough", "short"), [(True, 50, 0.63, 0.62), (False, 90, 0.93, 0.92)])
def test_guessing_is_judged_by_what_accuracy_means(balance: bool, guessed: int, enough: float, short: float) -> None:
    """Of 18 clips of one ID and 2 of another: balanced, chance is a half; else it is the share of the first."""
    member = Classifier("mobilenet", dataclasses.replace(CONFIG, balance=balance), MELS)
    ids = ["00"] * 18 + ["01"] * 2
    member._make(ids)
    assert member._remark_on_guessing(History(kept=1, accuracy=[0.5, enough]), ids) is None
    remark = member._remark_on_guessing(History(kept=1, accuracy=[0.99, short]), ids)
    assert remark is not None
    assert re.search(rf"mobilenet finds .*{short:.0%} of the held-out images.*about {guessed}%", remark)


def test_learning_by_heart_is_remarked_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clips held out score 2 and 4, those learnt 0 +- 1 and 0 +- 0.1: 2 and 40 standard deviations away."""
    ids = ["00"] * 5 + ["01"] * 5
    scores = np.array([[1, -1, 1, -1, 2, 0.1, -0.1, 0.1, -0.1, 4]]).T * np.ones((1, 2))
    held = np.array([False] * 4 + [True] + [False] * 4 + [True])

    def remarks(count: int, held: np.ndarray, statistics: StatisticsPolicy = "training") -> list[str]:
        member = Classifier("mobilenet", CONFIG, MELS)
        data = TrainingSet([torch.zeros(5, MELS)] * count, ids[:count])
        normal = NormalScores(scores[:count], ids[:count], 0.0)
        monkeypatch.setattr(TrainedMember, "normal_scores", lambda *_: normal)
        monkeypatch.setattr(TrainingSet, "held_out", lambda *_: held)
        assert member.normal_scores(data, Run(statistics=statistics)) is normal
        return member.remarks()

    (remark,) = remarks(10, held)  # the root of (2 ** 2 + 40 ** 2) / 2
    assert re.search(r'by heart: normal ones held out score 28\.3 .*statistics="held-out"', remark)
    assert remarks(5, held[:5]) == []
    assert remarks(10, np.zeros(10, bool)) == []
    assert remarks(10, held, "robust") == []


# -- precision ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("isa", ["avx512", "avx512bf16"])
def test_classifiers_learn_in_bfloat16_where_that_is_faster(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "isa", lambda: isa)
    monkeypatch.setattr(backends, "available", lambda device: {"cpu": None})
    members = [kinds()[kind](kind, kinds()[kind].Config(), 32) for kind in ("resnet", "mobilenet", "group-made")]

    def chosen(compute: Compute) -> list[str]:
        return [member.training_compute(compute).precision for member in members]

    assert {asked: chosen(Compute.choose("cpu", "auto", asked)) for asked in ("auto", "float32", "bfloat16")} == {
        "auto": ["bfloat16" if isa == "avx512bf16" else "float32", "float32", "float32"],
        "float32": ["float32"] * 3,
        "bfloat16": ["bfloat16"] * 3,
    }
    on_gpu = Compute.choose("cpu", "auto", "auto").on([torch.device("cuda")])
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    assert chosen(on_gpu) == ["bfloat16", "bfloat16", "float32"]
    assert on_gpu.precision == "float32"


@pytest.mark.parametrize("kind", ["resnet", "mobilenet"])
def test_few_bands_are_learnt_in_float32_on_a_cpu(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "isa", lambda: "avx512bf16")
    few, enough = (kinds()[kind](kind, kinds()[kind].Config(), mels) for mels in (31, 32))
    for asked in ("auto", "bfloat16"):
        assert few.training_compute(Compute.choose("cpu", "auto", asked)).precision == "float32"
    asked_for = Compute.choose("cpu", "auto", "bfloat16")
    assert enough.training_compute(asked_for) == asked_for
    on_gpu = asked_for.on([torch.device("cuda")])
    assert few.training_compute(on_gpu) == on_gpu


def test_scoring_precision_is_not_that_of_training(clips: Clips, monkeypatch: pytest.MonkeyPatch) -> None:
    """Normal clips are scored as any others are, in float32, where nobody asked for a precision."""
    seen: dict[str, str] = {}
    for name in ("fit", "normal_scores"):
        real = getattr(Classifier, name)

        def spy(self: Classifier, data: TrainingSet, run: Run, name: str = name, real: Any = real) -> Any:
            seen[name] = run.compute.precision
            return real(self, data, run)

        monkeypatch.setattr(Classifier, name, spy)
    to_bfloat16 = lambda self, compute: dataclasses.replace(compute, precision="bfloat16")  # noqa: E731
    monkeypatch.setattr(Classifier, "training_compute", to_bfloat16)
    recipe = Recipe((MemberRecipe("mobilenet", "mobilenet", dataclasses.replace(CONFIG, epochs=1)),))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        log_mels = [x.numpy() for x in clips[0]]
        pyasd.fit(log_mels, recipe, ids=clips[1], n_mels=MELS, features="log-mel", device="cpu")
    assert seen == {"fit": "bfloat16", "normal_scores": "float32"}
