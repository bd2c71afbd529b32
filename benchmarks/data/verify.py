"""A full check of a dataset: every voxel of every pair is read once, and what is wrong is listed by case."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing import get_context
from typing import Any, Literal

import numpy as np
import psutil
from scipy import ndimage

from benchmarks.common.errors import UserError
from benchmarks.data.boxes import bounding_box
from benchmarks.data.dataset import Case, Dataset, Split, target_mask
from benchmarks.data.file_doubts import file_doubts
from benchmarks.data.intensities import CT, DARKEST_EXPECTED_HU
from benchmarks.data.target import Target
from benchmarks.data.volume import BoolArray, FloatArray, read_label, read_volume, values_in, voxel_hash

Severity = Literal["error", "warning"]

ODD_SPACING_MM = (0.1, 20.0)
MOST_LABEL_VALUES = 255  # even maps that number every lesion or organ hold fewer
NO_LABEL_MAP = "as in a scan and not in a label map; are image and label the wrong way round?"
MAX_REASONS = 3
MAX_VALUES = 8  # of label maps, in a report
MAX_PROCESSES = 8
MEMORY_OF_ONE = 3 << 30  # a CT of 512 × 512 × 800 takes twice 0.8 GB while it is checked
WORTHWHILE_BYTES = 300 << 20  # below that, starting processes takes longer than they save


@dataclass(frozen=True)
class Problem:
    """What is wrong with a case; an error makes it unusable, a warning does not."""

    case_id: str
    severity: Severity
    text: str


@dataclass(frozen=True)
class TargetSize:
    """How much of a target a case holds; a lesion is a 26-connected component."""

    voxels: int
    millilitres: float
    lesions: int


@dataclass(frozen=True)
class CaseReport:
    """What the check found in one case.

    Attributes:
        shape, spacing: of the volume in RAS+, mm; None if it could not be read.
        intensities: the 0.5, 50 and 99.5 percentiles.
        targets: by the target's name.
        fingerprint: `voxel_hash` of the volume, equal for equal scans whatever their file.
        label_values: what the label map holds, `MAX_VALUES` of it at most; empty if it could not be read.
    """

    case_id: str
    shape: tuple[int, int, int] | None = None
    spacing: tuple[float, float, float] | None = None
    intensities: tuple[float, float, float] | None = None
    targets: Mapping[str, TargetSize] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    fingerprint: str = ""
    label_values: tuple[int, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether no problem is an error."""
        return all(problem.severity != "error" for problem in self.problems)


def verify_case(case: Case, targets: Sequence[Target] = (), label_values: Sequence[int] = ()) -> CaseReport:
    """Read one pair and check it. Whatever is wrong with the files becomes a problem, never an exception."""
    try:
        doubts = file_doubts(case.image)
        doubts += [f"label map: {doubt}" for doubt in file_doubts(case.label) if doubt not in doubts]
        volume = read_volume(case.image)
        label = read_label(case.label, like=volume)
    except UserError as error:
        return CaseReport(case.case_id, problems=(Problem(case.case_id, "error", str(error)),))
    found: list[tuple[Severity, str]] = []
    found += [("warning", doubt) for doubt in doubts]
    found += _intensity_problems(volume.array, case.modality)
    found += _spacing_problems(volume.spacing)
    present = values_in(label)
    found += _label_problems(present, targets, label_values)
    millilitres = float(np.prod(volume.spacing)) / 1000
    low, middle, high = (float(value) for value in np.percentile(_sample(volume.array), (0.5, 50, 99.5)))
    return CaseReport(
        case_id=case.case_id,
        shape=volume.shape,
        spacing=volume.spacing,
        intensities=(low, middle, high),
        targets={target.name: _size(target_mask(label, target), millilitres) for target in targets},
        problems=tuple(Problem(case.case_id, severity, text) for severity, text in found),
        fingerprint=voxel_hash(volume.array),
        label_values=tuple(present[:MAX_VALUES]),
    )


def verify(
    dataset: Dataset,
    each: Callable[..., Iterable[CaseReport]] = map,
    progress: Callable[[CaseReport], Any] | None = None,
) -> list[CaseReport]:
    """Check every case of a dataset, and the cases against each other.

    Args:
        each: called as `each(check, cases)`, like `map`; `in_processes` checks several at once.
        progress: called after every case.
    """
    check = partial(verify_case, targets=dataset.targets, label_values=dataset.label_values)
    reports = []
    for report in each(check, list(dataset.cases.values())):
        reports.append(report)
        if progress is not None:
            progress(report)
    return _with_duplicates(reports)


def in_processes(
    check: Callable[[Case], CaseReport], cases: Iterable[Case], processes: int | None = None
) -> Iterator[CaseReport]:
    """`map`, in several processes where there is enough to read that it pays; for the `each` of `verify`.

    A script that calls it needs the usual `if __name__ == "__main__":`, since every process imports it afresh.

    Args:
        processes: by default as many as there are processors and memory for, at most `MAX_PROCESSES`.

    Raises:
        UserError: a process was killed.
    """
    cases = list(cases)
    wanted = processes or min(MAX_PROCESSES, os.cpu_count() or 1, psutil.virtual_memory().available // MEMORY_OF_ONE)
    if min(wanted, len(cases)) < 2 or sum(case.image.stat().st_size for case in cases) < WORTHWHILE_BYTES:
        yield from map(check, cases)
        return
    with ProcessPoolExecutor(min(wanted, len(cases)), mp_context=get_context("spawn")) as pool:
        try:
            yield from pool.map(check, cases)
        except BrokenProcessPool as error:
            raise UserError("a process that checked cases was killed; is there enough memory?") from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def problems(reports: Iterable[CaseReport]) -> list[Problem]:
    """All problems, errors first, then by case."""
    found = [problem for report in reports for problem in report.problems]
    return sorted(found, key=lambda problem: (problem.severity != "error", problem.case_id))


def statistics(reports: Iterable[CaseReport]) -> list[dict[str, Any]]:
    """The dataset in numbers: one row per quantity with its count, minimum, quartiles and maximum over the cases.

    Five digits: headers carry spacings as float32, and what comes after is noise.
    Lesion counts and volumes leave out the cases without the target.
    """
    columns: dict[str, list[float]] = {}
    for report in reports:
        for quantity, value in _quantities(report):
            columns.setdefault(quantity, []).append(value)
    points = {"min": 0, "q25": 25, "median": 50, "q75": 75, "max": 100}
    return [
        {"quantity": quantity, "cases": len(values)}
        | {name: float(f"{np.percentile(values, point):.5g}") for name, point in points.items()}
        for quantity, values in columns.items()
    ]


def without_bad_cases(dataset: Dataset, reports: Iterable[CaseReport]) -> Dataset:
    """The dataset without its unusable cases, which `excluded` then lists with the first reason."""
    bad = {
        report.case_id: next(one.text for one in report.problems if one.severity == "error")
        for report in reports
        if not report.usable
    }
    kept = {case_id: case for case_id, case in dataset.cases.items() if case_id not in bad}
    if not kept:
        raise UserError(f"{dataset.name}: no usable case among {len(dataset.cases)}; {_reasons(bad)}")

    def cut(part: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(case_id for case_id in part if case_id not in bad)

    splits = tuple(Split(cut(s.train), cut(s.validation), cut(s.test)) for s in dataset.splits)
    return replace(dataset, cases=kept, splits=splits, excluded={**dataset.excluded, **bad})


def refuse_without_target(dataset: Dataset, reports: Iterable[CaseReport]) -> None:
    """Raises UserError if no usable case holds a target: nothing could be prompted, learned or compared.

    Args:
        reports: of the full check of this dataset.
    """
    usable = [report for report in reports if report.usable]
    if any(size.voxels for report in usable for size in report.targets.values()):
        return
    targets = " or ".join(f"'{one.name}' (label {'+'.join(map(str, one.labels))})" for one in dataset.targets)
    held = sorted({value for report in usable for value in report.label_values})
    listing = ", ".join(map(str, held[:MAX_VALUES])) + (" and more" if len(held) > MAX_VALUES else "")
    raise UserError(
        f"{dataset.name}: none of the {len(usable)} cases holds the target {targets}; "
        f"their label maps hold the values {listing}; is it another --target?"
    )


def _reasons(bad: Mapping[str, str]) -> str:
    """The reasons that most cases share, in a line; each with one of its cases."""
    cases: dict[str, list[str]] = {}
    for case_id, reason in bad.items():
        cases.setdefault(reason, []).append(case_id)
    usual = sorted(cases.items(), key=lambda one: -len(one[1]))
    lines = [
        f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}: {reason}"
        for reason, names in usual[:MAX_REASONS]
    ]
    left = sum(len(names) for _, names in usual[MAX_REASONS:])
    return "; ".join([*lines, *([f"and {left} more bad cases"] if left else [])])


def _quantities(report: CaseReport) -> Iterator[tuple[str, float]]:
    if report.shape is None or report.spacing is None or report.intensities is None:
        return
    for axis, voxels, spacing in zip("xyz", report.shape, report.spacing, strict=True):
        yield f"voxels {axis}", voxels
        yield f"spacing {axis} (mm)", spacing
    for name, value in zip(("0.5 %", "median", "99.5 %"), report.intensities, strict=True):
        yield f"intensity {name}", value
    for target, size in report.targets.items():
        if size.voxels:
            yield f"{target} (ml)", size.millilitres
            yield f"{target} (lesions)", size.lesions


def _intensity_problems(array: FloatArray, modality: str) -> list[tuple[Severity, str]]:
    low, high = float(array.min()), float(array.max())
    if low == high:
        return [("error", f"every voxel is {low:g}")]
    if modality == CT and low > DARKEST_EXPECTED_HU:
        return [("warning", f"nothing is darker than {low:g}; are these Hounsfield units?")]
    return []


def _spacing_problems(spacing: tuple[float, float, float]) -> list[tuple[Severity, str]]:
    low, high = ODD_SPACING_MM
    if min(spacing) < low or max(spacing) > high:
        words = " × ".join(f"{s:g}" for s in spacing)
        return [("warning", f"a spacing of {words} mm is hard to believe; are the units of the header mm?")]
    return []


def _label_problems(
    present: Sequence[int], targets: Sequence[Target], known: Sequence[int]
) -> list[tuple[Severity, str]]:
    found: list[tuple[Severity, str]] = []
    strange = [value for value in present if known and value not in known]
    if strange:
        listing = ", ".join(map(str, strange[:5]))
        found.append(("error", f"label values {listing} are not of this dataset (known: {tuple(known)})"))
    elif not known and present[0] < 0:
        found.append(("error", f"label values below 0 (down to {present[0]}), {NO_LABEL_MAP}"))
    elif not known and len(present) > MOST_LABEL_VALUES:
        found.append(("error", f"{len(present)} different label values, {NO_LABEL_MAP}"))
    for target in targets:
        if not set(target.labels) & set(present):
            found.append(("warning", f"no voxel of the target '{target.name}'"))
    return found


def _size(mask: BoolArray, millilitres: float) -> TargetSize:
    box = bounding_box(mask)
    if box is None:
        return TargetSize(0, 0.0, 0)
    part = mask[tuple(slice(low, high) for low, high in zip(*box, strict=True))]
    _, lesions = ndimage.label(part, structure=np.ones((3, 3, 3), np.int8))
    voxels = int(part.sum())
    return TargetSize(voxels, voxels * millilitres, int(lesions))


def _sample(array: FloatArray) -> FloatArray:
    """About a million voxels on a regular lattice: enough for percentiles, quick to sort."""
    step = max(1, round((array.size / 1e6) ** (1 / 3)))
    return array[::step, ::step, ::step]


def _with_duplicates(reports: list[CaseReport]) -> list[CaseReport]:
    """The same scan under two names would stand on both sides of a split: the later one is an error.

    One that is left out anyway stands on no side, and takes the place of none.
    """
    first: dict[str, str] = {}
    checked = []
    for report in reports:
        if report.fingerprint in first:
            problem = Problem(report.case_id, "error", f"the same scan as case {first[report.fingerprint]}")
            report = replace(report, problems=(*report.problems, problem))
        elif report.fingerprint and report.usable:
            first[report.fingerprint] = report.case_id
        checked.append(report)
    return checked
