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

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common import download as http
from benchmarks.common.download import Progress, RemoteFile, check_download, download
from benchmarks.common.errors import UserError, nearest_name
from benchmarks.common.files import exclusively
from benchmarks.data.archives import extract
from benchmarks.data.catalogue import dataset_info
from benchmarks.data.layouts import kits21
from benchmarks.data.registry import data_home

TASKS = {"msd-pancreas": "Task07_Pancreas", "msd-colon": "Task10_Colon", "lits17": "Task03_Liver"}
TASK_LICENCE = "CC BY-SA 4.0"  # the Decathlon's, also for the scans that it shares with LiTS17
KITS_IMAGES = "https://kits19.sfo2.digitaloceanspaces.com/master_{:05d}.nii.gz"
KITS_LABELS = "https://github.com/neheller/kits21/raw/master/kits21/data/case_{:05d}/" + kits21.LABEL


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
    return http.licence_accepted(_acceptance(name, home), licence(name))


def accept_licence(name: str, home: Path | None = None) -> None:
    """Remember that the licence was shown and accepted."""
    http.accept_licence(_acceptance(name, home), licence(name))


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
    return [RemoteFile(DecathlonDataset.resource[task], f"{task}.tar", f"md5:{DecathlonDataset.md5[task]}")]


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


def _check_name(name: str) -> None:
    dataset_info(name)
    if name not in fetchable():
        raise UserError(f"dataset '{name}' is not publicly hosted; {nearest_name(name, fetchable())}")


def _acceptance(name: str, home: Path | None) -> Path:
    return (home or data_home()) / "licences" / f"{name}.json"
