"""Fetching what is publicly hosted: resumed where it broke off, checked, and only once its licence is accepted.

What is fetched and from where is the `FetchList` that a dataset announces. The scans of LiTS17 come as Task03 of the
Decathlon; LiTS17 itself is behind a registration (competitions.codalab.org/competitions/17094).

An archive that was got by other means and put where the message says is checked and used without a network.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common import download as http
from benchmarks.common.download import Progress, RemoteFile, check_download, download
from benchmarks.common.errors import UserError, nearest_name
from benchmarks.common.files import exclusively
from benchmarks.common.home import data_home
from benchmarks.data.archives import extract
from benchmarks.data.catalogue import dataset_info, dataset_source, sources
from benchmarks.data.source import FetchList


def fetchable() -> dict[str, str]:
    """Datasets that can be fetched, and from where."""
    return {name: source.fetch.where for name, source in sources().items() if source.fetch is not None}


def licence(name: str) -> str:
    """The licence of what `fetch` brings, in a line. Raises UserError for a dataset that it does not know."""
    info, listed = dataset_info(name), _fetch_list(name)
    return f"{info.title}: {listed.licence or info.licence} ({listed.url or info.url}); cite {info.citation}"


def licence_accepted(name: str) -> bool:
    """Whether its licence was accepted on this machine before."""
    return http.licence_accepted(_acceptance(name), licence(name))


def accept_licence(name: str) -> None:
    """Remember that the licence was shown and accepted."""
    http.accept_licence(_acceptance(name), licence(name))


def remote_files(name: str, cases: Sequence[int] | None = None) -> list[RemoteFile]:
    """What there is to fetch of a dataset; `cases` are numbers of cases, where they come one by one (kits21)."""
    return list(_fetch_list(name).files(cases))


def fetch(
    name: str,
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
    if not licence_accepted(name):
        raise UserError(f"{licence(name)}. Accept this licence with `tags-bench data fetch {name} --accept-licence`")
    folder = data_home() / "datasets" / name
    busy = f"{folder}: another process is fetching {name}; wait until it is done"
    with exclusively(folder / ".fetch.lock", busy):
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
        check_download(remote, target)
    else:
        download(remote, target, progress)
    raw = folder / f".{unpacked.name}.raw"
    shutil.rmtree(raw, ignore_errors=True)  # of a run that was killed before the folder got its name
    extract(target, raw)
    try:
        inner = [path for path in raw.iterdir() if path.is_dir()]
        os.rename(inner[0] if len(inner) == 1 and inner[0].name == unpacked.name else raw, unpacked)
    finally:
        shutil.rmtree(raw, ignore_errors=True)
    target.unlink()


def _fetch_list(name: str) -> FetchList:
    listed = dataset_source(name).fetch
    if listed is None:
        raise UserError(f"dataset '{name}' is not publicly hosted; {nearest_name(name, fetchable())}")
    return listed


def _acceptance(name: str) -> Path:
    return data_home() / "licences" / f"{name}.json"
