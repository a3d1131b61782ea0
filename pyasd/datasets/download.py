"""Download the DCASE data sets from Zenodo: resumed, verified and unpacked; what is there already is left as it is.

Built on requests, not on pooch: pooch (1.9) downloads into a temporary file with a random name, so that a killed
download starts again; with a resuming downloader plugged in, its comparison of checksums is all that we would use.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import time
import warnings
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from pyasd import storage
from pyasd.clips.sources import open_zip
from pyasd.datasets import layouts
from pyasd.datasets.dcase import UNPACKING
from pyasd.datasets.layouts import PARTS, Archive, Year
from pyasd.errors import DownloadError
from pyasd.progress import Progress, silent

ZENODO = "https://zenodo.org"

ATTEMPTS, WAIT, TIMEOUT = 4, 2.0, 60.0
"""Attempts at a connection that breaks, seconds between them, and seconds of silence that count as a break. After a
file failed, each further one gets one attempt.
"""

CHUNK = 1 << 20
"""Bytes read at a time."""


def download(
    year: int,
    to: str | os.PathLike[str],
    *,
    machines: Sequence[str] | None = None,
    parts: Sequence[str] = PARTS,
    unpack: bool = True,
    remove: bool = False,
    progress: Progress = silent,
) -> list[str]:
    """Download a year's data set to a folder: `to/dev_data/<machine type>/...`, `to/eval_data/...` and its archives.

    Archives that are in `to`, put there by hand perhaps, are checked and not downloaded again; an unfinished download
    or unpacking goes on where it was. With the evaluation part, the list of labels is fetched as well.

    Args:
        year: the challenge's year.
        to: made where it doesn't exist.
        machines: machine types; `None` for all.
        parts: of "development", "additional" and "evaluation".
        unpack: leave archives packed if false: pyasd reads them as they are.
        remove: remove each archive when it is unpacked.
        progress: hears of each file.

    Returns:
        How files were verified, a line for each kind of verification.

    Raises:
        DownloadError: files can't be downloaded, verified or unpacked; the others are there.
        ValueError: there is no such year, machine type or part.
        OSError: the folder can't be written to.
    """
    layout = layouts.year(year)
    layout.check(machines or (), parts)
    run = _Run(layout, Path(to), progress)
    run.folder.mkdir(parents=True, exist_ok=True)
    for archive in layout.archives:
        if archive.record and archive.part in parts and (machines is None or archive.machine_type in machines):
            try:
                run.get_archive(archive, unpack, remove)
            except DownloadError as error:
                run.failures[archive.name] = str(error)
    if "evaluation" in parts and layout.labels_url:
        try:
            run.fetch(layout.label_list, layout.labels_url, f"sha256:{layout.labels_sha256}")
        except DownloadError as error:
            run.failures[layout.label_list] = str(error)
    if run.failures:
        raise DownloadError(run.instructions())
    return list(run.notes)


@dataclass
class _Run:
    """One call of `download`: what it downloads, and where to.

    Attributes:
        layout, folder, progress: see `download`.
        notes: how files were verified, in order.
        failures: files that can't be had, and why.
        stated: MD5s that Zenodo states today, for each record that it was asked about.
    """

    layout: Year
    folder: Path
    progress: Progress
    notes: dict[str, None] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    stated: dict[str, dict[str, str]] = field(default_factory=dict)

    def get_archive(self, archive: Archive, unpack: bool, remove: bool) -> None:
        """Download an archive, unpack it if `unpack`, and then remove it if `remove`.

        Raises:
            DownloadError: it can't be downloaded, verified or unpacked.
        """
        path = self.folder / archive.name
        receipt = path.with_name(f".unpacked-{archive.name}")
        if receipt.exists() and not path.exists():
            return
        checksum = self._checksum(archive)
        self.notes[self._verification(checksum is not None)] = None
        url = f"{ZENODO}/records/{archive.record}/files/{archive.name}?download=1"
        self.fetch(archive.name, url, f"md5:{checksum}" if checksum else None)
        if unpack:
            _unpack(path, self.folder / self.layout.folders[archive.part], self.progress)
            if remove:
                receipt.touch()
                path.unlink()

    def fetch(self, name: str, url: str, checksum: str | None) -> None:
        """Make sure that the folder has a file of that name and checksum ("md5:..."; `None` for any).

        An interrupted download leaves `<name>.partial` and is resumed; that file is renamed once it is verified.
        """
        import requests

        path, damaged = self.folder / name, ""
        if path.exists():
            if _matches(path, checksum):
                return
            damaged = f"; the {name} that is there is damaged or another version"
            warnings.warn(f"{path} hasn't the checksum of record, {checksum}: it is downloaded again", stacklevel=4)
        partial = path.with_name(name + ".partial")
        attempts = 1 if self.failures else ATTEMPTS
        for attempt in range(attempts):
            try:
                _resume(url, partial, name, self.progress)
                break
            except requests.RequestException as error:
                if attempt + 1 == attempts or isinstance(error, requests.HTTPError):
                    raise DownloadError(_reason(error, url, name) + damaged) from None
                time.sleep(WAIT)
        if not _matches(partial, checksum):
            partial.unlink()
            raise DownloadError(
                f"what {url} gave for {name} hasn't the checksum of record, {checksum}, and was removed: if that "
                f"happens again, the file there is another one by now{damaged}"
            )
        storage.publish(partial, path)

    def instructions(self) -> str:
        """Return what to do about the files that failed, in one line."""
        pages = {x.name: f"{ZENODO}/records/{x.record}" for x in self.layout.archives}
        pages[self.layout.label_list] = self.layout.labels_url.rpartition("/")[0]
        reasons = "; ".join(dict.fromkeys(self.failures.values()))
        files = ", ".join(f"{name} (from {pages[name]})" for name in self.failures)
        return (
            f"{len(self.failures)} files are not there: {reasons}. Give the command again to go on; or put them into "
            f"{self.folder} by hand, and then give it again (pyasd download dcase{self.layout.number} --to "
            f"{self.folder}): {files}"
        )

    def _checksum(self, archive: Archive) -> str | None:
        """Return an archive's MD5: that of record, else the one that Zenodo states today, if it states one."""
        if self.layout.md5:
            return self.layout.md5.get(archive.name)
        if archive.record not in self.stated:
            self.stated[archive.record] = _stated_checksums(archive.record)
        return self.stated[archive.record].get(archive.name)

    def _verification(self, known: bool) -> str:
        year = self.layout.number
        if self.layout.md5:
            return "every archive has the MD5 of record"
        if known:
            return f"pyasd knows no checksums of {year}: archives have those that Zenodo states for them today"
        return f"NOT VERIFIED: pyasd knows no checksums of {year}, and Zenodo stated none"


def _stated_checksums(record: str) -> dict[str, str]:
    """Return the MD5s that Zenodo states for a record's files; none where it can't be asked."""
    import requests

    try:
        answer = requests.get(f"{ZENODO}/api/records/{record}", timeout=TIMEOUT)
        answer.raise_for_status()
        files: list[dict[str, Any]] = answer.json()["files"]
        return {x.get("key") or x["filename"]: str(x["checksum"]).removeprefix("md5:") for x in files}
    except (requests.RequestException, ValueError, KeyError, TypeError):
        return {}


# -- one file ----------------------------------------------------------------------------------------------------


def _matches(path: Path, checksum: str | None) -> bool:
    """Return whether a file has a checksum ("md5:..." or "sha256:..."; `None` fits any)."""
    if checksum is None:
        return True
    algorithm, _, wanted = checksum.partition(":")
    digest = hashlib.new(algorithm)
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest() == wanted


def _reason(error: Exception, url: str, name: str) -> str:
    """Return a short reason for a failed request: requests' own messages are long, and name its internals."""
    import requests

    host = url.split("/")[2]
    if isinstance(error, requests.ConnectionError | requests.Timeout):
        return f"no connection to {host}"
    status = (
        error.response.status_code if isinstance(error, requests.HTTPError) and error.response is not None else None
    )
    return f"{host} gave no {name} ({f'HTTP {status}' if status else type(error).__name__})"


def _resume(url: str, partial: Path, name: str, progress: Progress) -> None:
    """Download what `partial` lacks of a file."""
    import requests

    done = partial.stat().st_size if partial.exists() else 0
    headers = {"Range": f"bytes={done}-"} if done else {}
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
        if answer.status_code == 416:  # nothing is missing, or the file became another: the checksum tells
            return
        answer.raise_for_status()
        if answer.status_code != 206:
            done = 0
        length = answer.headers.get("Content-Length")
        total = done + int(length) if length else 0
        if total and shutil.disk_usage(partial.parent).free < total - done:
            raise DownloadError(
                f"{name} needs {(total - done) / 1e9:.1f} GB, and {partial.parent} has "
                f"{shutil.disk_usage(partial.parent).free / 1e9:.1f} GB left"
            )
        with open(partial, "ab" if done else "wb") as file:
            for chunk in answer.iter_content(CHUNK):
                file.write(chunk)
                done += len(chunk)
                progress(f"downloading {name}, MB", done // 10**6, max(total, done) // 10**6, "")
    if total and done < total:
        raise requests.ConnectionError(f"the connection broke after {done} of {total} bytes")


# -- unpacking ---------------------------------------------------------------------------------------------------


def _unpack(archive: Path, folder: Path, progress: Progress) -> None:
    """Unpack the files of an archive that aren't in `folder` yet, or aren't whole.

    Raises:
        DownloadError: the archive is damaged or would write outside of `folder`, or the disk is full.
    """
    try:
        zipped = open_zip(archive)
    except ValueError as error:
        raise DownloadError(str(error)) from None
    infos = [x for x in zipped.infolist() if not x.is_dir()]
    for info in infos:
        inner = PurePosixPath(info.filename)
        if ".." in inner.parts or inner.is_absolute():
            raise DownloadError(f"{archive} has a file {info.filename!r} that would lie outside of its folder")
    missing = [x for x in infos if not _is_whole(folder / x.filename, x)]
    if not missing:
        return
    size = sum(x.file_size for x in missing)
    if shutil.disk_usage(archive.parent).free < size:
        raise DownloadError(f"unpacking {archive.name} needs {size / 1e9:.1f} GB, which {folder} hasn't left")
    _remove_leftovers({folder / x.filename for x in missing})
    marker = archive.with_name(UNPACKING + archive.name)
    marker.touch()
    for done, info in enumerate(missing):
        _unpack_file(zipped, info, folder / info.filename, archive)
        progress(f"unpacking {archive.name}", done + 1, len(missing), "")
    os.sync()  # once, before the marker goes: flushing each of 50,000 files takes ten minutes
    marker.unlink()


def _unpack_file(zipped: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path, archive: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with storage.atomic(path, flush=False) as partial, zipped.open(info) as source, open(partial, "wb") as file:
            shutil.copyfileobj(source, file, CHUNK)
    except (zipfile.BadZipFile, EOFError, zlib.error, NotImplementedError, RuntimeError) as error:
        raise DownloadError(
            f"{archive} is damaged ({info.filename}: {error}): remove it and download it again"
        ) from None
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise DownloadError(f"the disk is full: make room for the rest of {archive.name}") from None
        raise


def _remove_leftovers(paths: set[Path]) -> None:
    """Remove the partial files of `storage.atomic` that a killed unpacking of `paths` left beside them."""
    names = {(path.parent, path.name) for path in paths}
    for folder in {path.parent for path in paths}:
        for partial in folder.glob(".*.partial"):
            if (folder, re.sub(r"^\.(.*?)(?:\.\d+)?\.partial$", r"\1", partial.name)) in names:
                partial.unlink()


def _is_whole(path: Path, info: zipfile.ZipInfo) -> bool:
    return path.is_file() and path.stat().st_size == info.file_size
