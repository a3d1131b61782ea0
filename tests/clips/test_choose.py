"""Which clips are learnt and scored, and what machines they are of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyasd.clips import Clip, Group, find, for_fitting, for_scoring, for_shard, groups, name_machines
from pyasd.clips.sources import FileSource

from .test_find import known, touch


def labelled(*splits_and_labels: tuple[str, int | None]) -> list[Clip]:
    return [
        Clip(f"{i}", FileSource(Path(f"{i}")), split=split, label=label)
        for i, (split, label) in enumerate(splits_and_labels)
    ]


def test_anomalies_and_test_clips_are_not_for_fitting() -> None:
    clips = labelled(("train", 0), ("train", 1), ("test", 0), ("supplemental", None), ("", None), ("train", None))
    assert [clip.name for clip in for_fitting(iter(clips))] == ["0", "4", "5"]


def test_without_training_clips_those_of_no_split_are_for_fitting_and_else_all_that_may_be_normal() -> None:
    clips = labelled(("train", 1), ("test", 0), ("supplemental", None), ("validation", 0), ("", None), ("", 1))
    assert [clip.name for clip in for_fitting(clips)] == ["4"]
    assert [clip.name for clip in for_fitting(clips[:4])] == ["1", "2", "3"]


def learnt(place: Any, folder: Path, **how: Any) -> list[str]:
    """The paths of the clips that `fit` would learn."""
    return [str(Path(clip.name).relative_to(folder)) for clip in for_fitting(find(place), **how)]


@pytest.mark.parametrize("training", ["train", "Train", "training"])
@pytest.mark.parametrize("validation", ["val", "valid", "Validation"])
@pytest.mark.parametrize("test", ["test", "eval"])
@pytest.mark.parametrize(("normal", "abnormal"), [("normal", "abnormal"), ("Normal", "Anomalous"), ("ok", "NG")])
def test_splits_of_any_folder_above_are_known(
    tmp_path: Path, training: str, validation: str, test: str, normal: str, abnormal: str
) -> None:
    touch(
        tmp_path, f"{training}/{normal}/1.wav", f"{validation}/{normal}/2.wav", f"{test}/{normal}/3.wav",
        f"{test}/{abnormal}/4.wav", f"{validation}/{abnormal}/5.wav",
    )  # fmt: skip
    files = sorted(str(x) for x in tmp_path.rglob("*.wav"))
    for place in (tmp_path, str(tmp_path / "*"), str(tmp_path / "**" / "*.wav"), files):
        assert learnt(place, tmp_path) == [f"{training}/{normal}/1.wav"], place


@pytest.mark.parametrize("name", ["normal_id_00_1 (1).wav", "NORMAL_id_00_1.wav"])
def test_validation_folders_of_dcase_names_are_never_learnt(tmp_path: Path, name: str) -> None:
    touch(tmp_path, f"fan/train/{name}", f"fan/val/{name}", f"fan/test/{name}", f"fan/test/anomaly{name[6:]}")
    assert learnt(tmp_path, tmp_path) == [f"fan/train/{name}"]
    assert {known(clip)[:2] for clip in find(tmp_path)} == {("fan", "00")}


def test_what_lies_above_the_place_given_tells_nothing(tmp_path: Path) -> None:
    touch(tmp_path, "test/faulty/project/pump/day 1/1.wav", "test/faulty/project/pump/day 2/2.wav")
    place = tmp_path / "test" / "faulty" / "project" / "pump"
    assert [known(clip)[2:] for clip in find(place)] == [("", None)] * 2
    assert len(learnt(place, tmp_path)) == 2


@pytest.mark.parametrize(
    "path", ["pump-broken/1.wav", "anomalous_2024/1.wav", "a/pump_NG_17.wav", "a/Fault 3.wav", "a/not ok, damaged.wav"]
)
def test_names_that_nearly_tell_are_not_learnt_unless_told(tmp_path: Path, path: str) -> None:
    touch(tmp_path, "a/healthy one.wav", path)
    with pytest.raises(
        ValueError, match=r"1 of 2 clips would be learnt as healthy, but may not be: .*doubtful="
    ) as told:
        learnt(tmp_path, tmp_path)
    assert path in str(told.value)
    assert len(learnt(tmp_path, tmp_path, doubtful="learn")) == 2


@pytest.mark.parametrize("path", ["no fault/1.wav", "a/non-defective 1.wav", "a/fault-free.wav", "a/default.wav"])
def test_denials_and_other_words_are_no_anomalies(tmp_path: Path, path: str) -> None:
    touch(tmp_path, "a/1.wav", path)
    assert path in learnt(tmp_path, tmp_path)


def test_where_name_and_folder_disagree_a_clip_is_not_learnt(tmp_path: Path) -> None:
    touch(tmp_path, "normal/anomaly_id_00_1.wav", "bad/normal_id_00_1.wav", "normal/normal_id_00_1.wav")
    with pytest.warns(UserWarning, match="2 clips are taken for anomalous, since name and folder disagree"):
        assert learnt(tmp_path, tmp_path) == ["normal/normal_id_00_1.wav"]


def test_files_given_by_name_are_all_scored(tmp_path: Path) -> None:
    touch(tmp_path, "train/1.wav", "test/2.wav")
    named = [tmp_path / "train/1.wav", tmp_path / "test/2.wav"]
    assert len([*for_scoring(find(named))]) == 2
    assert len([*for_scoring(find([tmp_path, named[0]]))]) == 2
    assert len([*for_scoring(find(tmp_path))]) == 1


def test_anomalies_alone_are_not_for_fitting() -> None:
    with pytest.raises(ValueError, match="all 2 clips are labelled anomalous: learning needs clips of healthy"):
        for_fitting(labelled(("train", 1), ("test", 1)))


def test_where_there_are_test_clips_training_clips_are_not_for_scoring() -> None:
    clips = labelled(("train", 0), ("test", 1), ("supplemental", None), ("", None))
    assert [clip.name for clip in for_scoring(iter(clips))] == ["1", "3"]
    assert [*for_scoring(clips[1:])] == clips[1:]
    assert [*for_scoring([clips[0], *clips[2:]])] == [clips[0], *clips[2:]]


# -- machines ----------------------------------------------------------------------------------------------------


def machines(place: Path, how: Any = "auto") -> list[str]:
    return [clip.machine_type for clip in name_machines(list(find(place)), how)]


def test_folders_that_differ_are_machine_types(tmp_path: Path) -> None:
    touch(tmp_path, "line 3/pump1/monday/1.wav", "line 3/pump2/1.wav", "line 3/pump2/train/2.wav")
    with pytest.warns(UserWarning, match=r"folders pump1, pump2 are taken for machine types.*machines="):
        assert machines(tmp_path) == ["pump1", "pump2", "pump2"]
    assert machines(tmp_path, "folder") == ["pump1", "pump2", "pump2"]
    assert machines(tmp_path, "names") == machines(tmp_path, "none") == [""] * 3


def test_names_of_dcase_without_split_folders_take_their_folders_for_machine_types(tmp_path: Path) -> None:
    touch(tmp_path, "fan/normal_id_00_00000000.wav", "pump/normal_id_00_00000000.wav")
    with pytest.warns(UserWarning, match="fan, pump are taken for machine types"):
        assert machines(tmp_path) == ["fan", "pump"]


@pytest.mark.parametrize(
    "folders",
    [("2024-01-01", "2024-01-02"), ("day 1", "day 2"), ("Monday", "Tuesday"), ("7", "8"), ("session_a", "session_b")],
)
def test_dates_numbers_and_sessions_are_no_machines_unless_told(tmp_path: Path, folders: tuple[str, str]) -> None:
    touch(tmp_path, *(f"{x}/1.wav" for x in folders))
    assert machines(tmp_path) == ["", ""]
    assert machines(tmp_path, "folder") == list(folders)


def test_a_clip_beside_the_folders_is_of_no_machine_and_so_none_is(tmp_path: Path) -> None:
    touch(tmp_path, "pump1/1.wav", "pump2/1.wav", "2.wav")
    assert machines(tmp_path) == [""] * 3
    with pytest.raises(ValueError, match=r"don't lie in several folders.*machine_type="):
        machines(tmp_path, "folder")


def test_names_of_data_sets_tell_machines_before_folders_do(tmp_path: Path) -> None:
    touch(tmp_path, "a/fan/train/normal_id_00_0.wav", "b/pump/train/normal_id_00_0.wav")
    assert machines(tmp_path) == machines(tmp_path, "folder") == ["fan", "pump"]
    assert machines(tmp_path, "none") == ["", ""]


def test_groups_tell_what_clips_are_taken_for(tmp_path: Path) -> None:
    touch(tmp_path, "fan/train/normal_id_00_0.wav", "fan/train/normal_id_00_1.wav", "fan/test/anomaly_id_00_0.wav")
    found = list(find(tmp_path))
    folder = str(tmp_path / "fan")
    assert groups(found, for_fitting(found)) == [
        Group(f"{folder}/test", "fan", "00", "test", 1, False, 1),
        Group(f"{folder}/train", "fan", "00", "train", 0, True, 2),
    ]
    assert {known(clip)[0] for clip in found} == {"fan"}


def test_a_clips_share_is_its_names() -> None:
    names = [f"day {i % 7}/{i:04d}.wav" for i in range(3000)]
    clips = [Clip(name, FileSource(Path(name))) for name in names]
    shares = [[*for_shard(clips, (i, 4))] for i in (1, 2, 3, 4)]
    assert sorted(x.name for share in shares for x in share) == sorted(x.name for x in clips)
    assert all(650 <= len(share) <= 850 for share in shares)
    assert [*for_shard(clips[::-1], (2, 4))] == shares[1][::-1]
    assert [*for_shard(clips[:50], (2, 4))] == [
        x for x in shares[1] if x in clips[:50]
    ]  # whatever other clips there are
    assert [*for_shard(clips, (1, 1))] == clips
    for wrong in ((0, 4), (5, 4), (1, 0)):
        with pytest.raises(ValueError, match="shard is i of n shares"):
            for_shard(clips, wrong)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["train", "test", "supplemental", "", "validation"]), st.booleans())))
def test_clips_are_chosen_while_they_are_found_as_if_all_were_known(kinds: list[tuple[str, bool]]) -> None:
    clips = [Clip(str(i), FileSource(Path(str(i))), split=split, named=named) for i, (split, named) in enumerate(kinds)]
    splits = {clip.split for clip in clips if not clip.named}
    both = "train" in splits and "test" in splits
    kept = [x for x in clips if x.named or not both or x.split not in ("train", "supplemental")]
    assert [*for_scoring(iter(clips))] == kept


def test_no_clip_waits_that_is_scored_anyway() -> None:
    found: list[str] = []

    def finding() -> Iterator[Clip]:
        for number, split in enumerate(["test"] * 3 + ["train"] * 3 + ["test"]):
            found.append(split)
            yield Clip(str(number), FileSource(Path(str(number))), split=split)

    seen = [(clip.name, len(found)) for clip in for_scoring(finding())]
    assert seen == [("0", 1), ("1", 2), ("2", 3), ("6", 7)]
