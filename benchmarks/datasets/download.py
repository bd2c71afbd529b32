"""Fetching what is publicly hosted: resumed where it broke off, checked, and only once its licence is accepted.

- The Decathlon (Task07 Pancreas, Task10 Colon, and Task03 Liver, which holds the scans of LiTS17): addresses and
  MD5 of the archives are those of MONAI's `DecathlonDataset`, asked when they are needed, so that they follow
  the installed MONAI. LiTS17 itself is behind a registration (competitions.codalab.org/competitions/17094).
- KiTS21: images one by one from the challenge's storage, as its own `get_imaging.py` does, and the label maps
  from its repository (github.com/neheller/kits21). No checksums are published; every file is instead read to
  its end, where gzip keeps the CRC-32 of the content.

An archive that was got by other means and put where the message says is checked and used without a network.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import socket
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from benchmarks.datasets import kits21
from benchmarks.datasets.archives import extract
from benchmarks.datasets.catalogue import dataset_info
from benchmarks.datasets.registry import data_home
from benchmarks.errors import UserError, nearest_name
from benchmarks.results import write_json

TASKS = {"msd-pancreas": "Task07_Pancreas", "msd-colon": "Task10_Colon", "lits17": "Task03_Liver"}
TASK_LICENCE = "CC BY-SA 4.0"  # the Decathlon's, also for the scans that it shares with LiTS17
KITS_IMAGES = "https://kits19.sfo2.digitaloceanspaces.com/master_{:05d}.nii.gz"
KITS_LABELS = "https://github.com/neheller/kits21/raw/master/kits21/data/case_{:05d}/" + kits21.LABEL

ATTEMPTS = 5
PAUSE_SECONDS = 2.0  # doubled after every attempt that brought nothing
TIMEOUT_SECONDS = 30.0
BLOCK = 1 << 20

Progress = Callable[["RemoteFile", int, int | None], Any]


@dataclass(frozen=True)
class RemoteFile:
    """A file to fetch: its address, its path below the dataset's folder, and how to know that it is whole."""

    url: str
    path: str
    check: Literal["md5", "gzip"]
    md5: str = ""


def fetchable() -> dict[str, str]:
    """Datasets that can be fetched, and from where."""
    tasks = {name: f"{task}.tar, as hosted for MONAI" for name, task in TASKS.items()}
    return {"kits21": "images from the challenge's storage, label maps from its repository", **tasks}


def licence(name: str) -> str:
    """The licence of what `fetch` brings, in a line. Raises UserError for a dataset that it does not know."""
    _check_name(name)
    info = dataset_info(name)
    terms, source = (TASK_LICENCE, "http://medicaldecathlon.com") if name in TASKS else (info.licence, info.url)
    return f"{info.title}: {terms} ({source}); cite {info.citation}"


def licence_accepted(name: str, home: Path | None = None) -> bool:
    """Whether its licence was accepted on this machine before."""
    return _acceptance(name, home).is_file()


def accept_licence(name: str, home: Path | None = None) -> None:
    """Remember that the licence was shown and accepted."""
    write_json(_acceptance(name, home), {"licence": licence(name), "accepted": time.strftime("%Y-%m-%dT%H:%M:%S%z")})


def remote_files(name: str, cases: Sequence[int] | None = None) -> list[RemoteFile]:
    """What there is to fetch of a dataset; `cases` are numbers of KiTS21, whose files come one by one."""
    _check_name(name)
    if name == "kits21":
        numbers = range(kits21.INFO.cases) if cases is None else cases
        strange = [number for number in numbers if not 0 <= number < kits21.INFO.cases]
        if strange:
            raise UserError(f"kits21 has the cases 0 to {kits21.INFO.cases - 1}, not {strange[0]}")
        return [
            RemoteFile(address.format(number), f"data/case_{number:05d}/{file}", "gzip")
            for number in numbers
            for address, file in ((KITS_IMAGES, kits21.IMAGE), (KITS_LABELS, kits21.LABEL))
        ]
    if cases is not None:
        raise UserError(f"{name} comes in one archive; single cases cannot be fetched")
    from monai.apps import DecathlonDataset

    task = TASKS[name]
    return [RemoteFile(DecathlonDataset.resource[task], f"{task}.tar", "md5", DecathlonDataset.md5[task])]


def fetch(
    name: str,
    home: Path | None = None,
    *,
    cases: Sequence[int] | None = None,
    progress: Progress | None = None,
    files: Sequence[RemoteFile] | None = None,
) -> Path:
    """Download a dataset into the data home and return its folder, ready for `registry.add`.

    What is there already is not fetched again. `files` replaces the built-in list (mirrors, tests).

    Raises:
        UserError: the licence is not accepted, no connection, a wrong checksum, or the disk is full.
    """
    if not licence_accepted(name, home):
        raise UserError(f"{licence(name)}. Accept this licence with `tags-bench data fetch {name} --accept-licence`")
    folder = (home or data_home()) / "datasets" / name
    for remote in files if files is not None else remote_files(name, cases):
        target = folder / remote.path
        if remote.path.endswith((".tar", ".zip", ".tar.gz", ".tgz")):
            _fetch_archive(remote, target, folder, progress)
        elif not target.is_file():
            download(remote, target, progress)
    return folder


def _fetch_archive(remote: RemoteFile, target: Path, folder: Path, progress: Progress | None) -> None:
    """Fetch, unpack, drop the archive. MSD archives hold one folder that has their own name."""
    unpacked = folder / target.name.split(".")[0]
    if unpacked.is_dir():
        return
    if target.is_file():
        _check(remote, target)
    else:
        download(remote, target, progress)
    raw = extract(target, folder / f".{unpacked.name}.raw")
    try:
        inner = [path for path in raw.iterdir() if path.is_dir()]
        os.rename(inner[0] if len(inner) == 1 and inner[0].name == unpacked.name else raw, unpacked)
    finally:
        shutil.rmtree(raw, ignore_errors=True)
    target.unlink()


def download(remote: RemoteFile, target: Path, progress: Progress | None = None) -> None:
    """Fetch one file to `target`, which appears whole and checked; a broken transfer goes on where it stopped.

    Raises:
        UserError: no connection (with what to get and where to put it), refused by the server, wrong content,
            or no space.
    """
    if urlsplit(remote.url).scheme not in ("http", "https"):
        raise UserError(f"{remote.url}: only http and https addresses are fetched")
    partial = target.with_name(target.name + ".part")
    by_hand = f"get {remote.url} by other means, save it as {target}, and run this again"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        problem = _transfer_patiently(remote, partial, progress)
        if problem:
            host = urlsplit(remote.url).netloc
            raise UserError(f"no complete answer from {host} ({problem}); try again later, or {by_hand}")
        _check(remote, partial)
        os.replace(partial, target)
        _tag_file(partial).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{target}: cannot be written ({error.strerror or error})") from error


def _transfer_patiently(remote: RemoteFile, partial: Path, progress: Progress | None) -> str:
    """Ask again, each time for what is missing; what was wrong at the end, nothing if the file is complete."""
    pause, problem = PAUSE_SECONDS, ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(pause)
        before = _size(partial)
        try:
            if _transfer(remote, partial, progress):
                return ""
            problem = "the connection broke off"
        except urllib.error.HTTPError as error:
            if error.code < 500:
                raise UserError(f"{remote.url}: refused by the server ({error.code} {error.reason})") from error
            problem = f"{error.code} {error.reason}"
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            reason = getattr(error, "reason", error)
            problem = str(reason) or type(reason).__name__
            if isinstance(reason, (socket.gaierror, ConnectionRefusedError)):
                return problem  # no network, or nobody there: waiting does not help
        pause = PAUSE_SECONDS if _size(partial) > before else 2 * pause
    return problem


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _transfer(remote: RemoteFile, partial: Path, progress: Progress | None) -> bool:
    """One request, for what is missing; whether the file is then complete."""
    have = _size(partial)
    headers = {"User-Agent": "tags-bench", "Accept-Encoding": "identity"}
    tag = _tag_file(partial)
    if have and tag.is_file():
        headers |= {"Range": f"bytes={have}-", "If-Range": tag.read_text("utf-8")}
    else:
        have = 0  # without a tag nothing says that the rest would belong to this beginning
    try:
        answer = urllib.request.urlopen(urllib.request.Request(remote.url, headers=headers), timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is left to send: it was complete, or it is another file by now
            complete = (error.headers.get("Content-Range") or "").rpartition("/")[2]
            if complete == str(have):
                return True
            partial.unlink(missing_ok=True)
            return False
        raise
    with answer:
        if answer.status != 206:
            have = 0  # the server sends all of it
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length else None
        if total is not None and total - have > shutil.disk_usage(partial.parent).free:
            raise UserError(f"{partial.parent}: no space for {total:,} bytes of {remote.url}")
        _write_tag(tag, answer.headers)
        with partial.open("ab" if have else "wb") as file:
            while block := answer.read(BLOCK):
                file.write(block)
                have += len(block)
                if progress is not None:
                    progress(remote, have, total)
    return total is None or have == total


def _tag_file(partial: Path) -> Path:
    return partial.with_name(partial.name + ".tag")


def _write_tag(path: Path, headers: Any) -> None:
    """What If-Range needs: a strong entity tag, else the date of change."""
    tag = headers.get("ETag") or ""
    value = tag if tag and not tag.startswith("W/") else headers.get("Last-Modified") or ""
    if value:
        path.write_text(value, "utf-8")
    else:
        path.unlink(missing_ok=True)


def _check(remote: RemoteFile, path: Path) -> None:
    """Whether the content is what was promised; a wrong file is removed."""
    reason = _md5_problem(remote, path) if remote.check == "md5" else _gzip_problem(path)
    if reason:
        path.unlink()
        _tag_file(path).unlink(missing_ok=True)
        raise UserError(f"{remote.url}: {reason}; the file was removed, fetch it again")


def _md5_problem(remote: RemoteFile, path: Path) -> str:
    hasher = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            hasher.update(block)
    found = hasher.hexdigest()
    return "" if found == remote.md5 else f"wrong checksum (MD5 {found}, expected {remote.md5})"


def _gzip_problem(path: Path) -> str:
    """Read a gzip file to its end without keeping anything; its CRC-32 is checked on the way."""
    inflate = zlib.decompressobj(wbits=31)
    try:
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                while block and not inflate.eof:
                    inflate.decompress(block, BLOCK)
                    block = inflate.unconsumed_tail
    except zlib.error as error:
        return f"damaged ({error})"
    return "" if inflate.eof else "damaged (it ends too early)"


def _check_name(name: str) -> None:
    dataset_info(name)
    if name not in fetchable():
        raise UserError(f"dataset '{name}' is not publicly hosted; {nearest_name(name, fetchable())}")


def _acceptance(name: str, home: Path | None) -> Path:
    return (home or data_home()) / "licences" / f"{name}.json"
