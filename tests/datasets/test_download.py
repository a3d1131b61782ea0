"""Downloads from a server on this machine: resumed, verified, unpacked; and every way in which they fail."""

from __future__ import annotations

import hashlib
import http.server
import json
import shutil
import threading
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pyasd.cli import app as cli
from pyasd.datasets import dcase, download, layouts
from pyasd.errors import DownloadError
from pyasd.factory import miniature


class Server(http.server.ThreadingHTTPServer):
    """Serves a folder's files as Zenodo does, whatever the path before the name; notes what it is asked for."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.asked: list[tuple[str, str]] = []  # name and range
        self.break_after: int | None = None  # bytes of the next answer's body
        self.ranges = True
        self.states: dict[str, str] = {}  # MD5s that the API states
        self.md5 = {path.name: md5(path) for path in folder.glob("*.zip")}  # of record, for 2020

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_: object) -> None:
        """A client that goes away is no news."""


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        server, name = self.server, Path(self.path.partition("?")[0]).name
        asked = self.headers.get("Range", "")
        server.asked.append((name, asked))
        if "/api/records/" in self.path:
            files = [{"key": k, "checksum": f"md5:{v}"} for k, v in server.states.items()]
            return self._answer(200, json.dumps({"files": files}).encode())
        path = server.folder / name
        if not path.is_file():
            return self._answer(404, b"no such file")
        content, start = path.read_bytes(), 0
        if asked and server.ranges:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(content):
                return self._answer(416, b"")
        return self._answer(206 if start else 200, content[start:])

    def _answer(self, code: int, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        limit, self.server.break_after = self.server.break_after, None
        self.wfile.write(body if limit is None else body[:limit])
        if limit is not None:
            self.connection.close()


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archives and the list of labels of two machine types of 2020."""
    folder = tmp_path_factory.mktemp("zenodo") / "files"
    miniature.write(folder, machines=["fan", "pump"], train=2, test=1, seconds=0.1, zipped=True)
    return folder


@pytest.fixture
def zenodo(originals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server of copies of these, whose checksums are of record."""
    folder = tmp_path / "served"
    shutil.copytree(originals, folder)
    server = Server(folder)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(download, "ZENODO", server.address)
    monkeypatch.setattr(download, "WAIT", 0.01)
    monkeypatch.setattr(download, "CHUNK", 1000)
    of_record(monkeypatch, server.address, server.md5, folder / "eval_data_list_2020.csv")
    yield server
    server.shutdown()
    server.server_close()


def of_record(monkeypatch: pytest.MonkeyPatch, address: str, checksums: Mapping[str, str], labels: Path) -> None:
    """Give the data set of 2020 these checksums, and let it have its list of labels from that address."""
    real = layouts.year
    sha256 = hashlib.sha256(labels.read_bytes()).hexdigest()

    def year(number: int) -> layouts.Year:
        layout = replace(real(number), labels_url=f"{address}/lists/{real(number).label_list}")
        return replace(layout, md5=checksums, labels_sha256=sha256) if number == 2020 else layout

    monkeypatch.setattr(layouts, "year", year)


def get(to: Path, **how: Any) -> list[str]:
    return download.download(2020, to, **{"machines": ["fan", "pump"], **how})


def clips_of(folder: Path) -> dict[str, bytes]:
    found = sorted(x for x in folder.rglob("*.wav"))
    return {x.relative_to(folder).as_posix(): x.read_bytes() for x in found}


def packed(folder: Path, prefix: str, place: str) -> dict[str, bytes]:
    out: dict[str, bytes] = {}
    for path in folder.glob(f"{prefix}*.zip"):
        with zipfile.ZipFile(path) as file:
            out |= {f"{place}/{name}": file.read(name) for name in file.namelist()}
    return out


# -- when all goes well ------------------------------------------------------------------------------------------


def test_everything(zenodo: Server, originals: Path, tmp_path: Path) -> None:
    to = tmp_path / "new" / "data"
    steps: list[tuple[str, int, int]] = []
    notes = get(to, progress=lambda stage, done, total, info: steps.append((stage, done, total)))
    assert notes == ["every archive has the MD5 of record"]
    assert clips_of(to) == packed(originals, "dev_", "dev_data") | packed(originals, "eval_", "eval_data")
    assert (to / "eval_data_list_2020.csv").read_bytes() == (originals / "eval_data_list_2020.csv").read_bytes()
    assert sorted(x.name for x in to.iterdir()) == sorted(
        [x.name for x in originals.glob("*.zip")] + ["dev_data", "eval_data", "eval_data_list_2020.csv"]
    )
    stages = list(dict.fromkeys(x[0] for x in steps))
    assert stages[:2] == ["downloading dev_data_fan.zip, MB", "unpacking dev_data_fan.zip"]
    assert ("unpacking dev_data_fan.zip", 16, 16) in steps
    zenodo.asked.clear()
    get(to)
    assert zenodo.asked == [], "what is there is not asked for again"
    assert len(dcase.find(to)) == 2 * (4 * 4 + 3 * 4)


def test_only_what_is_wanted(zenodo: Server, tmp_path: Path) -> None:
    get(tmp_path / "data", machines=["pump"], parts=["development"], unpack=False)
    assert [x.name for x in (tmp_path / "data").iterdir()] == ["dev_data_pump.zip"]
    assert len(dcase.find(tmp_path / "data")) == 16


def test_archives_can_go_when_they_are_unpacked(zenodo: Server, tmp_path: Path) -> None:
    get(tmp_path / "data", remove=True)
    assert not list((tmp_path / "data").glob("[!.]*.zip"))
    assert len(dcase.find(tmp_path / "data")) == 56
    zenodo.asked.clear()
    get(tmp_path / "data", remove=True)
    assert zenodo.asked == []


def test_archives_put_there_by_hand(zenodo: Server, originals: Path, tmp_path: Path) -> None:
    shutil.copytree(originals, tmp_path / "data")
    get(tmp_path / "data")
    assert zenodo.asked == []
    assert len(clips_of(tmp_path / "data")) == 56


# -- interrupted -------------------------------------------------------------------------------------------------


def test_a_broken_connection_is_taken_up_where_it_broke(zenodo: Server, originals: Path, tmp_path: Path) -> None:
    zenodo.break_after = 5000
    get(tmp_path / "data", machines=["fan"], parts=["development"])
    assert [x[0] for x in zenodo.asked] == ["dev_data_fan.zip"] * 2
    asked = zenodo.asked[1][1]
    assert asked.startswith("bytes=")
    assert 0 < int(asked[6:-1]) <= 5000
    assert md5(tmp_path / "data" / "dev_data_fan.zip") == md5(originals / "dev_data_fan.zip")


@pytest.mark.parametrize("ranges", [True, False])
def test_an_interrupted_download_is_taken_up(zenodo: Server, originals: Path, tmp_path: Path, ranges: bool) -> None:
    whole = (originals / "dev_data_fan.zip").read_bytes()
    to = tmp_path / "data"
    to.mkdir()
    (to / "dev_data_fan.zip.partial").write_bytes(whole[:3000])
    zenodo.ranges = ranges
    get(to, machines=["fan"], parts=["development"])
    assert zenodo.asked == [("dev_data_fan.zip", "bytes=3000-")]
    assert (to / "dev_data_fan.zip").read_bytes() == whole
    assert not list(to.glob("*.partial"))


def test_a_download_that_was_killed_just_before_its_end(zenodo: Server, originals: Path, tmp_path: Path) -> None:
    to = tmp_path / "data"
    to.mkdir()
    shutil.copy(originals / "dev_data_fan.zip", to / "dev_data_fan.zip.partial")
    get(to, machines=["fan"], parts=["development"])
    assert md5(to / "dev_data_fan.zip") == md5(originals / "dev_data_fan.zip")


def test_a_half_written_unpacking_is_done_again(zenodo: Server, tmp_path: Path) -> None:
    to = tmp_path / "data"
    get(to)
    whole = clips_of(to)
    gone, cut, untouched = sorted(to.rglob("fan/train/*.wav"))[:3]
    gone.unlink()
    cut.write_bytes(cut.read_bytes()[:100])
    for name in (f".{gone.name}.partial", f".{gone.name}.4711.partial", f".{cut.name}.4711.partial"):
        (cut.parent / name).write_bytes(b"half")
    (cut.parent / ".mine.partial").write_bytes(b"somebody else's")
    before = untouched.stat().st_mtime_ns
    get(to)
    assert clips_of(to) == whole
    assert untouched.stat().st_mtime_ns == before
    assert [x.name for x in to.rglob("*.partial")] == [".mine.partial"]


def test_an_interrupted_unpacking_leaves_its_mark(
    zenodo: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to = tmp_path / "data"
    real, count = shutil.copyfileobj, iter(range(100))

    def copy(*arguments: object) -> None:
        if next(count) == 3:
            raise KeyboardInterrupt
        real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(shutil, "copyfileobj", copy)
    with pytest.raises(KeyboardInterrupt):
        get(to, machines=["fan"])
    with pytest.raises(
        ValueError, match=r"dev_data_fan\.zip was being unpacked into .* and was not finished: go on with"
    ):
        dcase.find(to)
    monkeypatch.undo()
    # The patches of the server are undone, too: the archive is there, and what it has is all that is needed.
    checksums = {"dev_data_fan.zip": md5(to / "dev_data_fan.zip")}
    of_record(monkeypatch, zenodo.address, checksums, zenodo.folder / "eval_data_list_2020.csv")
    get(to, machines=["fan"], parts=["development"])
    assert len(dcase.find(to)) == 16
    assert not list(to.rglob(".*"))


# -- what can be wrong -------------------------------------------------------------------------------------------


def test_no_network_says_which_files_to_put_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zenodo: Server
) -> None:
    zenodo.shutdown()
    zenodo.server_close()
    to = tmp_path / "data"
    with pytest.raises(DownloadError) as caught:
        get(to, machines=["fan"])
    text = str(caught.value)
    assert text.startswith(f"4 files are not there: no connection to {download.ZENODO[7:]}. Give the command again")
    assert f"put them into {to} by hand, and then give it again (pyasd download dcase2020 --to {to}): " in text
    for name, record in (("dev_data_fan", 3678171), ("eval_data_train_fan", 3727685), ("eval_data_test_fan", 3841772)):
        assert f"{name}.zip (from {download.ZENODO}/records/{record})" in text
    assert "eval_data_list_2020.csv (from " in text


def test_one_file_that_is_not_there_costs_itself_alone(zenodo: Server, tmp_path: Path) -> None:
    (zenodo.folder / "eval_data_train_fan.zip").unlink()
    with pytest.raises(DownloadError, match=r"1 files are not there: .* gave no eval_data_train_fan\.zip \(HTTP 404\)"):
        get(tmp_path / "data", machines=["fan"])
    assert len(dcase.find(tmp_path / "data")) == 16 + 6
    assert [x for x, _ in zenodo.asked].count("eval_data_train_fan.zip") == 1


def test_a_wrong_checksum(zenodo: Server, tmp_path: Path) -> None:
    path = zenodo.folder / "dev_data_fan.zip"
    path.write_bytes(path.read_bytes() + b"x")
    expected = zenodo.md5["dev_data_fan.zip"]
    with pytest.raises(
        DownloadError, match=rf"dev_data_fan\.zip hasn't the checksum of record, md5:{expected}, and was re"
    ):
        get(tmp_path / "data", machines=["fan"], parts=["development"])
    assert list((tmp_path / "data").iterdir()) == []


def test_a_damaged_archive_that_is_there_is_replaced(zenodo: Server, originals: Path, tmp_path: Path) -> None:
    to = tmp_path / "data"
    to.mkdir()
    (to / "dev_data_fan.zip").write_bytes((originals / "dev_data_fan.zip").read_bytes()[:-10])
    with pytest.warns(UserWarning, match=r"dev_data_fan\.zip hasn't the checksum of record, md5:\w+: it is downloaded"):
        get(to, machines=["fan"], parts=["development"])
    assert md5(to / "dev_data_fan.zip") == md5(originals / "dev_data_fan.zip")


def test_a_damaged_archive_and_no_network(zenodo: Server, tmp_path: Path) -> None:
    zenodo.shutdown()
    zenodo.server_close()
    to = tmp_path / "data"
    to.mkdir()
    (to / "dev_data_fan.zip").write_bytes(b"half")
    with (
        pytest.warns(UserWarning, match="hasn't the checksum"),
        pytest.raises(DownloadError, match=r"no connection to .*; the dev_data_fan\.zip that is there is damaged or"),
    ):
        get(to, machines=["fan"], parts=["development"])
    assert (to / "dev_data_fan.zip").read_bytes() == b"half", "nothing is lost"


def test_a_corrupt_archive_of_a_year_without_checksums(zenodo: Server, tmp_path: Path) -> None:
    miniature.write(tmp_path / "files", 2022, machines=["fan"], train=1, test=1, seconds=0.1, zipped=True)
    path = tmp_path / "files" / "dev_fan.zip"
    content = bytearray(path.read_bytes())
    content[200] ^= 255
    (zenodo.folder / "dev_fan.zip").write_bytes(content)
    with pytest.raises(DownloadError, match=r"dev_fan\.zip is damaged \(.*\): remove it and download it again"):
        download.download(2022, tmp_path / "data", machines=["fan"], parts=["development"])
    (zenodo.folder / "dev_fan.zip").write_bytes(content[:-300])
    (tmp_path / "data" / "dev_fan.zip").unlink()
    with pytest.raises(DownloadError, match=r"dev_fan\.zip is no whole zip archive"):
        download.download(2022, tmp_path / "data", machines=["fan"], parts=["development"])


def test_years_without_checksums_say_what_was_verified(zenodo: Server, tmp_path: Path) -> None:
    miniature.write(tmp_path / "files", 2022, machines=["fan"], train=1, test=1, seconds=0.1, zipped=True)
    for path in (tmp_path / "files").glob("*.zip"):
        shutil.copy(path, zenodo.folder)
    how = {"machines": ["fan"], "parts": ["development"]}
    notes = download.download(2022, tmp_path / "a", **how)  # type: ignore[arg-type]
    assert notes == ["NOT VERIFIED: pyasd knows no checksums of 2022, and Zenodo stated none"]
    zenodo.states = {"dev_fan.zip": md5(zenodo.folder / "dev_fan.zip")}
    notes = download.download(2022, tmp_path / "b", **how)  # type: ignore[arg-type]
    assert notes == ["pyasd knows no checksums of 2022: archives have those that Zenodo states for them today"]
    zenodo.states = {"dev_fan.zip": "0" * 32}
    with pytest.raises(DownloadError, match="hasn't the checksum of record"):
        download.download(2022, tmp_path / "c", **how)  # type: ignore[arg-type]


def test_an_archive_that_would_write_elsewhere(zenodo: Server, tmp_path: Path) -> None:
    path = zenodo.folder / "dev_data_fan.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("fan/../../../outside.wav", b"x")
    zenodo.md5["dev_data_fan.zip"] = md5(path)
    with pytest.raises(DownloadError, match="would lie outside of its folder"):
        get(tmp_path / "data", machines=["fan"], parts=["development"])
    assert not (tmp_path / "outside.wav").exists()


def test_too_little_room(zenodo: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 90, 10))  # type: ignore[attr-defined]
    with pytest.raises(DownloadError, match=r"dev_data_fan\.zip needs .* GB, and .* has 0\.0 GB left"):
        get(tmp_path / "data", machines=["fan"], parts=["development"])


def test_no_such_machine_type_or_part(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="DCASE 2020 has no machine type lathe: it has ToyCar"):
        get(tmp_path, machines=["lathe"])
    with pytest.raises(ValueError, match="DCASE 2020 has no part train: it has development, additional, evaluation"):
        get(tmp_path, parts=["train"])


# -- the command -------------------------------------------------------------------------------------------------


def test_the_command(zenodo: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    to = tmp_path / "data"
    for machines, code in ((["fan", "pump"], 0), (["valve"], 1)):
        arguments = ["download", "dcase2020", "--machines", *machines, "--to", to]
        with pytest.raises(SystemExit) as stop:
            cli.app([str(x) for x in arguments], prog_name="pyasd")
        assert stop.value.code == code
        out, err = capsys.readouterr()
        if code == 0:
            assert out == f"{to}: 56 clips of dcase2020\n"
            assert err.startswith("pyasd: every archive has the MD5 of record\npyasd: the archives lack clips")
        else:
            assert out == ""
            assert err.startswith("pyasd: error: 3 files are not there: ")
            assert err.count("\n") == 1
