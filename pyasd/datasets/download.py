"""Download the DCASE data sets from Zenodo: resumed, verified and unpacked; what is there already is left as it is."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import time
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from pyasd.clips.sources import open_zip
from pyasd.datasets.dcase import FOLDERS, UNPACKING, YEARS, Archive
from pyasd.errors import DownloadError
from pyasd.progress import Progress

ZENODO = "https://zenodo.org"

LISTS = (
    "https://raw.githubusercontent.com/nttcslab/dcase2023_task2_baseline_ae/"
    "9b64dc42276a64f65b7cbf2761d3c9ec525cff94/datasets"
)
"""Where the organisers have their lists of the evaluation parts' labels."""

ATTEMPTS, WAIT, TIMEOUT = 4, 2.0, 60.0
"""Attempts at a connection that breaks, seconds between them, and seconds of silence that count as a break. After a
file could not be had, there is one attempt at each further one.
"""

CHUNK = 1 << 20


def download(
    year: int,
    to: str | os.PathLike[str],
    *,
    machines: Sequence[str] | None = None,
    parts: Sequence[str] = ("development", "additional", "evaluation"),
    unpack: bool = True,
    remove: bool = False,
    progress: Progress | None = None,
) -> list[str]:
    """Have a year's data set in a folder: `to/dev_data/<machine type>/...`, `to/eval_data/...` and its archives.

    Archives that are in `to`, put there by hand perhaps, are checked and not downloaded again; an unfinished download
    or unpacking goes on where it was. Of the evaluation part, the list of labels is fetched as well.

    Args:
        year: of the challenge.
        to: made where it doesn't exist.
        machines: machine types; `None` for all.
        parts: of "development", "additional" and "evaluation".
        unpack: leave archives packed if false: pyasd reads them as they are.
        remove: remove each archive when it is unpacked.
        progress: told of each file.

    Returns:
        What is to be known of how files were verified, a line each.

    Raises:
        DownloadError: files can't be had, verified or unpacked; the others are there.
        ValueError: there is no such machine type or part.
        OSError: the folder can't be written to.
    """
    told = YEARS[year]
    for what, given, known in (
        ("machine type", machines or (), told.machine_types), ("part", parts, tuple(FOLDERS)),
    ):  # fmt: skip
        if unknown := sorted(set(given).difference(known)):
            raise ValueError(f"DCASE {year} has no {what} {', '.join(unknown)}: it has {', '.join(known)}")
    wanted = [x for x in told.archives if x.part in parts and (machines is None or x.machine_type in machines)]
    folder = Path(to)
    folder.mkdir(parents=True, exist_ok=True)
    notes: dict[str, None] = {}
    failed: dict[str, str] = {}
    checksums: dict[str, dict[str, str]] = {}
    for archive in wanted:
        try:
            path = folder / archive.name
            if not path.exists() and _receipt(path).exists():
                continue
            if archive.record not in checksums:
                checksums[archive.record] = CHECKSUMS.get(year) or _listed(archive.record)
            checksum = checksums[archive.record].get(archive.name)
            notes[_verification(year, checksum is not None)] = None
            url = f"{ZENODO}/records/{archive.record}/files/{archive.name}?download=1"
            _have(path, url, f"md5:{checksum}" if checksum else None, progress, 1 if failed else ATTEMPTS)
            if unpack:
                _unpack(path, folder / FOLDERS[archive.part], progress)
                if remove:
                    _receipt(path).touch()
                    path.unlink()
        except DownloadError as error:
            failed[archive.name] = str(error)
    if "evaluation" in parts and year in LABELS:
        name = f"eval_data_list_{year}.csv"
        try:
            _have(folder / name, f"{LISTS}/{name}", f"sha256:{LABELS[year]}", progress, 1 if failed else ATTEMPTS)
        except DownloadError as error:
            failed[name] = str(error)
    if failed:
        raise DownloadError(_by_hand(failed, wanted, folder, year))
    return list(notes)


def _receipt(archive: Path) -> Path:
    return archive.with_name(f".unpacked-{archive.name}")


def _verification(year: int, known: bool) -> str:
    if year in CHECKSUMS:
        return "every archive has the MD5 of record"
    if known:
        return f"pyasd knows no checksums of {year}: archives have those that Zenodo states for them today"
    return f"NOT VERIFIED: pyasd knows no checksums of {year}, and Zenodo stated none"


def _by_hand(failed: dict[str, str], wanted: Iterable[Archive], folder: Path, year: int) -> str:
    records = {x.name: f"{ZENODO}/records/{x.record}" for x in wanted}
    reasons = "; ".join(dict.fromkeys(failed.values()))
    files = ", ".join(f"{name} (from {records.get(name, LISTS)})" for name in failed)
    return (
        f"{len(failed)} files are not there: {reasons}. Give the command again to go on; or put them into {folder} by "
        f"hand, and then give it again (pyasd download dcase{year} --to {folder}): {files}"
    )


def _listed(record: str) -> dict[str, str]:
    """The MD5s that Zenodo states for a record's files; none where it can't be asked."""
    import requests

    try:
        answer = requests.get(f"{ZENODO}/api/records/{record}", timeout=TIMEOUT)
        answer.raise_for_status()
        files: list[dict[str, Any]] = answer.json()["files"]
        return {x.get("key") or x["filename"]: str(x["checksum"]).removeprefix("md5:") for x in files}
    except (requests.RequestException, ValueError, KeyError, TypeError):
        return {}


# -- one file ----------------------------------------------------------------------------------------------------


def _have(path: Path, url: str, checksum: str | None, progress: Progress | None, attempts: int) -> None:
    """Have a file with that checksum ("md5:..."; `None` for any) at `path`.

    An interrupted download leaves `<path>.partial`, and is gone on with; it becomes `path` when it is verified.
    """
    import requests

    there = ""
    if path.exists():
        if _matches(path, checksum):
            return
        there = f"; the {path.name} that is there is damaged or another version"
        warnings.warn(f"{path} hasn't the checksum of record, {checksum}: it is downloaded again", stacklevel=3)
    rest = path.with_name(path.name + ".partial")
    for attempt in range(attempts):
        try:
            _continue(url, rest, path.name, progress)
            break
        except requests.RequestException as error:
            if attempt + 1 == attempts or isinstance(error, requests.HTTPError):
                raise DownloadError(_reason(error, url, path.name) + there) from None
            time.sleep(WAIT)
    if not _matches(rest, checksum):
        rest.unlink()
        raise DownloadError(
            f"what {url} gave for {path.name} hasn't the checksum of record, {checksum}, and was removed: if that "
            f"happens again, the file there is another one by now{there}"
        )
    os.replace(rest, path)


def _matches(path: Path, checksum: str | None) -> bool:
    if checksum is None:
        return True
    algorithm, _, wanted = checksum.partition(":")
    digest = hashlib.new(algorithm)
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest() == wanted


def _reason(error: Exception, url: str, name: str) -> str:
    """A few words of an error's: requests' own are long, and name its innards."""
    import requests

    host = url.split("/")[2]
    if isinstance(error, requests.ConnectionError | requests.Timeout):
        return f"no connection to {host}"
    status = (
        error.response.status_code if isinstance(error, requests.HTTPError) and error.response is not None else None
    )
    return f"{host} gave no {name} ({f'HTTP {status}' if status else type(error).__name__})"


def _continue(url: str, rest: Path, name: str, progress: Progress | None) -> None:
    """Download what `rest` lacks of a file."""
    import requests

    done = rest.stat().st_size if rest.exists() else 0
    headers = {"Range": f"bytes={done}-"} if done else {}
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
        if answer.status_code == 416:  # nothing is missing, or the file became another: the checksum tells
            return
        answer.raise_for_status()
        if answer.status_code != 206:
            done = 0
        length = answer.headers.get("Content-Length")
        total = done + int(length) if length else 0
        if total and shutil.disk_usage(rest.parent).free < total - done:
            raise DownloadError(
                f"{name} needs {(total - done) / 1e9:.1f} GB, and {rest.parent} has "
                f"{shutil.disk_usage(rest.parent).free / 1e9:.1f} GB left"
            )
        with open(rest, "ab" if done else "wb") as file:
            for chunk in answer.iter_content(CHUNK):
                file.write(chunk)
                done += len(chunk)
                if progress is not None:
                    progress(f"downloading {name}, MB", done // 10**6, max(total, done) // 10**6, "")
    if total and done < total:
        raise requests.ConnectionError(f"the connection broke after {done} of {total} bytes")


# -- unpacking ---------------------------------------------------------------------------------------------------


def _unpack(archive: Path, folder: Path, progress: Progress | None) -> None:
    """Unpack what is not in `folder` yet, or not whole. Each file is written beside its place and renamed into it."""
    try:
        zipped = open_zip(archive)
    except ValueError as error:
        raise DownloadError(str(error)) from None
    infos = [x for x in zipped.infolist() if not x.is_dir()]
    for info in infos:
        parts = PurePosixPath(info.filename).parts
        if ".." in parts or PurePosixPath(info.filename).is_absolute():
            raise DownloadError(f"{archive} has a file {info.filename!r} that would lie outside of its folder")
    missing = [x for x in infos if not _is_whole(folder / x.filename, x)]
    if not missing:
        return
    size = sum(x.file_size for x in missing)
    if shutil.disk_usage(archive.parent).free < size:
        raise DownloadError(f"unpacking {archive.name} needs {size / 1e9:.1f} GB, which {folder} hasn't left")
    marker = archive.with_name(UNPACKING + archive.name)
    marker.touch()
    for done, info in enumerate(missing):
        place = folder / info.filename
        place.parent.mkdir(parents=True, exist_ok=True)
        rest = place.with_name(f".{place.name}.partial")
        try:
            with zipped.open(info) as source, open(rest, "wb") as file:
                shutil.copyfileobj(source, file, CHUNK)
        except (zipfile.BadZipFile, EOFError, zlib.error, NotImplementedError, RuntimeError) as error:
            rest.unlink(missing_ok=True)
            raise DownloadError(
                f"{archive} is damaged ({info.filename}: {error}): remove it and download it again"
            ) from None
        except OSError as error:
            rest.unlink(missing_ok=True)
            if error.errno == errno.ENOSPC:
                raise DownloadError(f"the disk is full: make room for the rest of {archive.name}") from None
            raise
        os.replace(rest, place)
        if progress is not None:
            progress(f"unpacking {archive.name}", done + 1, len(missing), "")
    marker.unlink()


def _is_whole(path: Path, info: zipfile.ZipInfo) -> bool:
    return path.is_file() and path.stat().st_size == info.file_size


# -- checksums ---------------------------------------------------------------------------------------------------

CHECKSUMS: dict[int, dict[str, str]] = {
    2020: {
        "dev_data_ToyCar.zip": "4dec75ca8d9f666aa9e4c1894a740501",
        "dev_data_ToyConveyor.zip": "03b6aa1bfd09a39d53af0ba39f71fa91",
        "dev_data_fan.zip": "649bdfc06263ae7a838963f43b6641e6",
        "dev_data_pump.zip": "90e7091ef722b7238a7f1009365779cd",
        "dev_data_slider.zip": "da24a757719f0d94d5aa2d646bbfdc86",
        "dev_data_valve.zip": "34d2672f55bb041589ef79c10dc89934",
        "eval_data_train_ToyCar.zip": "a5d4ccd498af70b04dd74b644b820006",
        "eval_data_train_ToyConveyor.zip": "0e808ac0b761e9fb13d5e0c65caff00d",
        "eval_data_train_fan.zip": "567798854130c8019df8b664c095ed1e",
        "eval_data_train_pump.zip": "4e33ae9c0db5cc88437675f5e317caee",
        "eval_data_train_slider.zip": "f84f186f4295fc23754abcdd1b0580a7",
        "eval_data_train_valve.zip": "057cdd560caffb8305449541afd28c6d",
        "eval_data_test_ToyCar.zip": "bea2bdd612f616be8f2b8eb087b32c7c",
        "eval_data_test_ToyConveyor.zip": "ccfcc9847c7d3404d7ee9d6d9e0b2ba2",
        "eval_data_test_fan.zip": "1eb9356a768cadfd0f2e59a5c57e578b",
        "eval_data_test_pump.zip": "23a8f8f924be218c69df67fe07360348",
        "eval_data_test_slider.zip": "0193c769073840332ce3aad84b1ccaa2",
        "eval_data_test_valve.zip": "f69c551d2088691050d20cccca9d631c",
    },
    2023: {
        "dev_ToyCar.zip": "4e3bf15f4101ed4ed4f1fecde2e2b2a3",
        "dev_ToyTrain.zip": "6b02a6c65eebb3b8b1ae59a6b25bb897",
        "dev_bearing.zip": "8a813bc8d8f156b5395bfccdfac7673c",
        "dev_fan.zip": "9348591e96fb0ad499a1e33b082562fc",
        "dev_gearbox.zip": "b6e55f6a31faa0fc8569ec0afdd53ccf",
        "dev_slider.zip": "b3f8dee36b4718c36d659a4fd1c4afe0",
        "dev_valve.zip": "b2051a2022eadb53cd97581120811cae",
        "eval_data_ToyDrone_train.zip": "7fea367d1384a1521ae24f72203238de",
        "eval_data_ToyNscale_train.zip": "9332822f3e47afd984c01f2ecb5ca3af",
        "eval_data_ToyTank_train.zip": "b1fd3ab7de7561290df2d477de1c9d33",
        "eval_data_Vacuum_train.zip": "1c8de33d9a8c7850a1f7aaddb97d87be",
        "eval_data_bandsaw_train.zip": "9274dfe63de028743823f1123f8b4b47",
        "eval_data_grinder_train.zip": "17569c1f9df23621a0dbabc430684a35",
        "eval_data_shaker_train.zip": "35f821b5645b731fb5a1750e33b95fc3",
        "eval_data_ToyDrone_test.zip": "fdae7b8d1f4cadb2bea88bc93e2367db",
        "eval_data_ToyNscale_test.zip": "62f5f5043d8fb3a305b1c2e1025872de",
        "eval_data_ToyTank_test.zip": "f5639bf58c47169c622751f19c6fc321",
        "eval_data_Vacuum_test.zip": "a32524fd8c45b574a560685b38acc4e1",
        "eval_data_bandsaw_test.zip": "2a8e8f39f6584ab366a8f4da52d4d7a6",
        "eval_data_grinder_test.zip": "631b3e1608b6077772829a6e68c82c77",
        "eval_data_shaker_test.zip": "ba98c98caa96051ec80e24e44b8fca56",
    },
}
"""MD5s of the archives, from github.com/soundata/soundata: soundata/datasets/dcase2020task2.py (in its history) and
dcase23_task2.py. For other years no source of checksums was found."""

LABELS = {
    2020: "a179d4dde7993a2971044cf5ee00abb306c5016becce372c625e79845673b3bb",
    2021: "137b25ef444295e7626642957a5e9325176fe9f96be1bda53e2be080906ce2a6",
    2022: "9e4510f2ab8a2f53bec0968e0b16b1d99f0e2c77f76c986e59735e9ed2276c4a",
    2023: "705f2d2a8b7afa4e518b29c6ca751e3dfe552c6de35edd28cd85a67b610586ec",
    2024: "af0d0826eb50c7769fe3bd33f16ba6c62c9b87548b1181eecf6f03bc4c72da93",
    2025: "013aa59905d9b2c4bac64d88a7fd6166fa6458f0ffea408b57a761ef886cf265",
}
"""SHA-256 of the lists of labels, as they are in `LISTS`."""
