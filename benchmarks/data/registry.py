"""The datasets of this machine: checked once, listed by name, found again by the runner.

The data home is `TAGS_BENCH_DATA` or `~/.tags-bench`. `registry/NAME.json` in it says where a dataset lies, what
the full check found in every case, and which cases are left out and why. The data themselves stay where they
are and are never written to; `remove` forgets a dataset and touches none of its files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.common.errors import UserError, nearest_name, printable, shorten
from benchmarks.common.files import is_utf8, readable, write_json
from benchmarks.common.home import HOME_VARIABLE, data_home
from benchmarks.common.paths import NAME_LENGTH, user_path, whole_path
from benchmarks.data.catalogue import Reading, datasets, load_dataset, load_own, refuse_another_target
from benchmarks.data.dataset import Case, Dataset
from benchmarks.data.layouts.layout import volume_files
from benchmarks.data.split_files import FOLDERS, absolute
from benchmarks.data.verify import CaseReport, Problem, TargetSize, refuse_without_target, verify, without_bad_cases

NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
NOT_CHECKED = "was not there when the dataset was checked; run `tags-bench data verify {name}`"


@dataclass(frozen=True)
class Registration:
    """A dataset of this machine.

    Attributes:
        root: the folder, or the CSV table.
        target, organ, lesion: as given for the user's own data; see `load_folder`.
        splits: "3dsam-adapter", "patient", or a word of `split_files`; None is the dataset's default.
        licence: as stated by the dataset.
        sizes: case id → bytes of image and label when they were checked.
        apart: likewise of the cases of imagesTs that these splits do not read; `--splits folders` tests them.
        excluded: case id → why it is left out.
        notes: what concerns the whole dataset, such as a download that is only partial.
        reports: of the full check, one per case that could be opened.
    """

    name: str
    root: Path
    target: int | str | None = None
    organ: str = ""
    lesion: str = ""
    splits: str | None = None
    licence: str = ""
    sizes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    apart: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    excluded: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    reports: tuple[CaseReport, ...] = ()

    @property
    def cases(self) -> int:
        """How many cases are used."""
        return len(self.sizes)

    @property
    def warnings(self) -> list[Problem]:
        """What is odd about cases that are used."""
        used = (report for report in self.reports if report.usable)
        return [one for report in used for one in report.problems if one.severity == "warning"]


def add(
    wanted: Registration,
    *,
    each: Callable[..., Iterable[CaseReport]] = map,
    opened: Callable[[Dataset], Any] | None = None,
    progress: Callable[[CaseReport], Any] | None = None,
) -> Registration:
    """Check every voxel of a dataset and list it under a name. Bad cases are left out and listed with reasons.

    Its splits decide what is learned from and tested; what is checked, besides, is what lies in imagesTs with a label.

    Args:
        wanted: name and root, for own data the target too; the check fills in the rest. A known name expects its
            official layout.
        each: as in `verify`; `in_processes` checks several cases at once.
        opened: called once the layout is known, with as many cases as `progress` will then see.

    Raises:
        UserError: the layout is not there, words are not those of the target, no case is usable or
            none of them has the target, or the data home cannot be written.
    """
    _path(wanted.name)  # a name that cannot be kept ends here, before the work
    wanted = replace(wanted, root=whole_path(user_path(wanted.root)), splits=absolute(wanted.splits))
    _refuse_what_is_no_text(wanted)
    dataset = _open(wanted)
    asked = Reading(wanted.target, wanted.organ, wanted.lesion)
    refuse_another_target(dataset, asked, "name the label with `data add --target`, too", called=wanted.target)
    apart = _tested_apart(wanted, dataset)
    whole = replace(dataset, cases={**dataset.cases, **apart})
    if opened is not None:
        opened(whole)
    reports = verify(whole, each=each, progress=progress)
    usable = without_bad_cases(dataset, reports)
    refuse_without_target(dataset, [report for report in reports if report.case_id in dataset.cases])
    found = replace(
        wanted,
        licence=usable.licence,
        sizes={case_id: _sizes(usable, case_id) for case_id in usable.cases},
        apart={case_id: _sizes(whole, case_id) for case_id in apart if case_id not in usable.excluded},
        excluded={printable(case_id): printable(why) for case_id, why in usable.excluded.items()},
        notes=tuple(map(printable, usable.notes)),
        reports=tuple(report for report in reports if report.usable or report.case_id in dataset.cases),
    )
    _write(found)
    return found


def verify_again(name: str, **options: Any) -> Registration:
    """Check a listed dataset once more, with the settings it was added with. `options` as for `add`."""
    return add(registration(name), **options)


def registrations() -> dict[str, Registration]:
    """All listed datasets by name."""
    return {path.stem: _read(path) for path in sorted((data_home() / "registry").glob("*.json"))}


@readable()
def registration(name: str) -> Registration:
    """One listed dataset. Raises UserError with the nearest name, or how to add it."""
    path = _path(name)
    if path.is_file():
        return _read(path)
    have = [file.stem for file in path.parent.glob("*.json")]
    if not have and name in datasets():
        raise UserError(f"dataset '{name}' is not on this machine; `tags-bench data add {name} --from DIR` adds it")
    raise UserError(f"no dataset '{name}' on this machine; {nearest_name(name, have)}")


@readable()
def folder_of(name: str) -> Path | None:
    """The folder or table that is listed under a name, whether it is still there or not; None if there is no such name.

    Raises:
        UserError: the entry cannot be read.
    """
    return registration(name).root if NAME.fullmatch(name) and _path(name).is_file() else None


@readable()
def resolve(name: str) -> Path | None:
    """Where a dataset lies; None if it is not listed. Raises UserError if its folder is gone."""
    if not _path(name).is_file():
        return None
    root = registration(name).root
    if not root.exists():
        raise UserError(f"dataset '{name}': {root} is gone; add it again, or `tags-bench data remove {name}`")
    return root


def load(name: str, splits: str | None = None) -> Dataset:
    """A listed dataset with its bad cases left out; `splits` other than those it was added with.

    Its splits do not depend on the seed of a run: what `data splits` shows is what every run uses.

    Raises:
        UserError: not listed, gone, or a file has another size than when it was checked.
    """
    known = registration(name)
    resolve(name)
    wanted = known if splits is None else replace(known, splits=splits)
    dataset = _open(wanted)
    checked, unread = {**known.apart, **known.sizes}, _unread(known, wanted)
    for case_id, sizes in checked.items():
        if case_id in dataset.cases:
            if _sizes(dataset, case_id) != tuple(sizes):
                raise UserError(f"{name}, case {case_id}: changed since its check; run `tags-bench data verify {name}`")
        elif case_id not in unread:
            reason = dataset.excluded.get(case_id, "missing")
            raise UserError(f"{name}, case {case_id}: {reason}; run `tags-bench data verify {name}`")
    if wanted.splits == FOLDERS and not checked.keys() & set(dataset.splits[0].test):
        raise UserError(f"{name}: what lies in imagesTs was not checked; run `tags-bench data verify {name}`")
    left_out = {
        case_id: known.excluded.get(case_id, NOT_CHECKED.format(name=name))
        for case_id in dataset.cases
        if case_id not in checked
    }
    bad = [CaseReport(case_id, problems=(Problem(case_id, "error", why),)) for case_id, why in left_out.items()]
    return without_bad_cases(_with_voxels(dataset, known.reports), bad)


def _with_voxels(dataset: Dataset, reports: Iterable[CaseReport]) -> Dataset:
    """The dataset with what the check found of the voxels, so that a scan is known again without being read."""
    found = {report.case_id: report.fingerprint for report in reports}
    cases = {case_id: replace(case, voxels=found.get(case_id, "")) for case_id, case in dataset.cases.items()}
    return replace(dataset, cases=cases)


def remove(name: str) -> Path:
    """Forget a dataset; its files stay where they are. Returns their folder."""
    root = registration(name).root
    _path(name).unlink()
    return root


def problem_rows(found: Registration) -> list[dict[str, str]]:
    """What is wrong with which case, for a table: notes on the whole, the cases left out, then the warnings."""
    rows = [{"case": "(all)", "severity": "note", "what": note} for note in found.notes]
    rows += [{"case": case_id, "severity": "left out", "what": why} for case_id, why in sorted(found.excluded.items())]
    return rows + [{"case": one.case_id, "severity": one.severity, "what": one.text} for one in found.warnings]


def _open(wanted: Registration) -> Dataset:
    if wanted.name in datasets() and wanted.target is None:
        return load_dataset(wanted.name, wanted.root, splits=wanted.splits, strict=False)
    reading = Reading(wanted.target, wanted.organ, wanted.lesion, wanted.name, wanted.splits, strict=False)
    return load_own(wanted.root, reading)


def _tested_apart(wanted: Registration, dataset: Dataset) -> dict[str, Case]:
    """The cases of imagesTs that the splits of a dataset do not read; none where it cannot be split by folder."""
    if wanted.splits == FOLDERS or not (wanted.root / "labelsTs").is_dir():
        return {}
    try:
        every = _open(replace(wanted, splits=FOLDERS))
    except UserError:
        return {}
    known = {*dataset.cases, *dataset.excluded}
    return {case_id: case for case_id, case in every.cases.items() if case_id not in known}


def _unread(known: Registration, wanted: Registration) -> set[str]:
    """The checked cases that the wanted splits do not read: those of imagesTs, which only `folders` reads."""
    if wanted.splits == FOLDERS:
        return set()
    return {*known.apart, *(volume_files(known.root / "labelsTs") if known.splits == FOLDERS else ())}


@readable()
def _sizes(dataset: Dataset, case_id: str) -> tuple[int, int]:
    case = dataset.cases[case_id]
    return case.image.stat().st_size, case.label.stat().st_size


def _refuse_what_is_no_text(wanted: Registration) -> None:
    """What is kept is kept as UTF-8, which a name of a file need not be."""
    for words in (wanted.root, wanted.splits, wanted.target, wanted.organ, wanted.lesion):
        if words is not None and not is_utf8(str(words)):
            raise UserError(f"{words}: a name that is not UTF-8 cannot be kept; rename it")


def _path(name: str) -> Path:
    if not NAME.fullmatch(name) or len(name) > NAME_LENGTH:
        raise UserError(f"'{shorten(name, 80)}' is no name for a dataset; use small letters, digits, '-', '_' and '.'")
    return data_home() / "registry" / f"{name}.json"


def _write(found: Registration) -> None:
    path = _path(found.name)
    content = asdict(found) | {"root": str(found.root)}
    try:
        write_json(path, content)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); set {HOME_VARIABLE} to a folder") from error


def _read(path: Path) -> Registration:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        reports = tuple(_report(one) for one in content.pop("reports"))
        sizes, apart = (
            {case_id: (image, label) for case_id, (image, label) in of_cases.items()}
            for of_cases in (content.pop("sizes"), content.pop("apart", {}))
        )
        known = {**content, "root": Path(content["root"]), "notes": tuple(content.get("notes", ()))}
        return Registration(**known, sizes=sizes, apart=apart, reports=reports)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: not readable ({shorten(str(error))}); remove it and add the dataset again") from error


def _report(content: dict[str, Any]) -> CaseReport:
    tuples = {key: content[key] and tuple(content[key]) for key in ("shape", "spacing", "intensities")}
    return CaseReport(
        **{
            **content,
            **tuples,
            "label_values": tuple(content.get("label_values", ())),
            "targets": {name: TargetSize(**size) for name, size in content["targets"].items()},
            "problems": tuple(Problem(**one) for one in content["problems"]),
        }
    )
