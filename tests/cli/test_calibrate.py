"""`pyasd calibrate`: thresholds from other normal clips; what changed; the old model stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import Command, normal_fans, usage_error


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Normal clips of the factory's fans, 20 of each, that nobody has learnt."""
    return normal_fans(tmp_path_factory.mktemp("healthy"), 20, 7)


def test_thresholds_before_and_after(pyasd: Command, model: Path, healthy: Path, tmp_path: Path) -> None:
    out, before = tmp_path / "new.safetensors", model.read_bytes()
    outcome = pyasd("calibrate", model, healthy, "-o", out)
    assert outcome.code == 0
    assert outcome.err == f"pyasd: {out}: calibrated; scores are as before\n"
    head, _, *rows = [line for line in outcome.out.splitlines() if line.strip()]
    assert head.split("  ")[-1].strip() == "5 % after"
    assert [row.split()[:4] for row in rows] == [["fan", x, "1", "20"] for x in ("00", "02", "04")]
    assert model.read_bytes() == before
    decided = pyasd("score", healthy, "-m", out, "--false-alarms", "40%")
    assert decided.code == 0
    assert "training clips" not in decided.err  # as thresholds no longer come from them
    for row in rows:  # 1 % asks for 99 clips, 5 % for 19; one clip was held out in training
        assert row.split()[4:10] == ["too", "few"] * 3
        assert f"{float(row.split()[10]):.2f}" == row.split()[10]


def test_the_model_itself_is_never_written_to(pyasd: Command, model: Path, healthy: Path, tmp_path: Path) -> None:
    usage_error(pyasd("calibrate", model, healthy, "-o", model), model, "name another file")
    usage_error(pyasd("calibrate", tmp_path / "no.safetensors", healthy, "-o", tmp_path / "x"), "no.safetensors")
    usage_error(pyasd("calibrate", model, tmp_path / "nowhere", "-o", tmp_path / "x"), "nowhere")
    assert not list(tmp_path.iterdir())


def test_unusable_clips_are_told(pyasd: Command, model: Path, healthy: Path, tmp_path: Path) -> None:
    (tmp_path / "fan").mkdir()
    broken = tmp_path / "fan" / "normal_id_00_00000000.wav"
    broken.write_text("no audio")
    usage_error(pyasd("calibrate", model, broken, "-o", tmp_path / "x"), broken.name)
    outcome = pyasd("calibrate", model, healthy, broken, "-o", tmp_path / "x")
    assert outcome.code == 1
    assert "clips not used: 1;" in outcome.err


# -- adapt -------------------------------------------------------------------------------------------------------


def test_adapting_says_what_it_changed(pyasd: Command, model: Path, healthy: Path, tmp_path: Path) -> None:
    import pyasd as library

    out, before = tmp_path / "new.safetensors", model.read_bytes()
    outcome = pyasd("adapt", model, healthy, "-o", out, "--memory", 4)
    assert outcome.code == 0
    assert outcome.err.endswith(f"pyasd: {out}: adapted\n")
    assert model.read_bytes() == before
    lines = [line.split() for line in outcome.out.splitlines() if line.strip()]
    moments = {(x[1], x[2]): list(map(float, x[3:])) for x in lines if x[0] == "fan" and len(x) == 7}
    old, new = library.load(model), library.load(out)
    modes = old.score_modes()
    for machine_id in ("00", "02", "04"):
        for name in modes:
            both = [x.machines["fan"].baselines[name].usual(machine_id, modes[name]) for x in (old, new)]
            expected = [both[0][0], both[1][0], both[0][1], both[1][1]]
            assert moments.pop((machine_id, name)) == pytest.approx(expected, rel=1e-3)
            assert expected[0] != expected[1]
    assert not moments
    thresholds = [x[1:4] for x in lines if x[0] == "fan" and len(x) > 7]
    assert thresholds == [[x, "1", "20"] for x in ("00", "02", "04")]


def test_what_cannot_be_adapted(pyasd: Command, model: Path, healthy: Path, tmp_path: Path) -> None:
    usage_error(pyasd("adapt", model, healthy, "-o", model), model, "name another file")
    usage_error(pyasd("adapt", model, tmp_path / "nowhere", "-o", tmp_path / "x"), "nowhere")
    assert pyasd("adapt", model, healthy, "-o", tmp_path / "x", "--memory", 0).code == 2
    assert not list(tmp_path.iterdir())


# -- verdicts ----------------------------------------------------------------------------------------------------


def test_verdicts_change_thresholds(pyasd: Command, model: Path, factory: Path, healthy: Path, tmp_path: Path) -> None:
    table, more, out, heard = (tmp_path / x for x in ("a.csv", "b.parquet", "new.safetensors", "heard.csv"))
    assert pyasd("score", healthy, "-m", model, "-o", table).code == 0
    assert pyasd("score", factory / "fan" / "test", "-m", model, "-o", more).code == 0
    clips = sorted(healthy.rglob("*_id_02_*.wav"))
    fault = factory / "fan" / "test" / "anomaly_id_02_00000000.wav"
    heard.write_text("clip,verdict\n" + "".join(f"{x},false alarm\n" for x in clips) + f"{fault},missed fault\n")
    outcome = pyasd("calibrate", model, table, more, "--verdicts", heard, "-o", out)
    assert outcome.code == 0
    assert outcome.err == f"pyasd: {out}: calibrated; scores are as before\n"
    lines = [line.split() for line in outcome.out.splitlines() if line.strip().startswith("fan")]
    assert [x[:4] for x in lines[:3]] == [["fan", "00", "1", "1"], ["fan", "02", "1", "21"], ["fan", "04", "1", "1"]]
    assert lines[3][:4] == ["fan", "02", "20", "1"]
    assert lines[3][4] == lines[3][6]  # of one fault
    assert 100 / 22 <= float(lines[3][4]) <= 100
    with heard.open("a") as file:
        file.write("nowhere.wav,ok\n")
    outcome = pyasd("calibrate", model, table, "--verdicts", heard, "-o", out)
    assert outcome.code == 1
    assert "2 of 22 verdicts not used" in outcome.err
    usage_error(pyasd("calibrate", model, table, "--verdicts", tmp_path / "no.csv", "-o", out), "no.csv")
    usage_error(pyasd("calibrate", model, tmp_path / "no.csv", "--verdicts", heard, "-o", out), "no.csv doesn't exist")
