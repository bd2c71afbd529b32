"""Score a folder of predicted masks against a folder of label maps: no model, no GPU, no run needed.

Files are NIfTI, NRRD or MHA and pair by name without suffix ("case_01.nii.gz" with "case_01.nrrd"); a prediction
that kept nnU-Net's channel suffix ("case_01_0000") pairs with "case_01" if nothing pairs exactly. Every label gives
one row, whatever became of its prediction.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from benchmarks.common.errors import UserError
from benchmarks.common.files import read_json, readable
from benchmarks.common.paths import user_path
from benchmarks.data.layouts.layout import (
    VOLUME_SUFFIXES,
    read_dataset_json,
    refuse_partial_annotation,
    visible,
    volume_files,
)
from benchmarks.data.split_files import FOLDERS
from benchmarks.data.volume import read_grid, read_label, same_grid, values_in, voxel_size
from benchmarks.metrics import TOLERANCES_MM, Reference, evaluate_mask, failed_values

MAX_VALUES = 8  # in a message
CHANNEL_SUFFIX = "_0000"
KEPT_FACTS = re.compile(r"(?P<target>[^.]+)\.(?P<protocol>.+)\.(?P<step>[0-9]+)\.json")
ANY = "any"  # `prediction_label` of a row whose prediction was read as a binary mask
Row = dict[str, Any]


@dataclass(frozen=True)
class _Grid:
    shape: tuple[int, int, int]
    affine: NDArray[np.float64]

    @property
    def spacing(self) -> tuple[float, float, float]:
        return voxel_size(self.affine)


@dataclass(frozen=True)
class KeptMasks:
    """The masks that a run kept of one unit under one protocol.

    Attributes:
        folder: of the unit.
        masks: case → mask of the last step, or the earlier one that this step kept; none where the step failed.
        cases: those that the unit tests; None where its records do not lie beside its masks.
    """

    folder: Path
    masks: Mapping[str, Path]
    cases: frozenset[str] | None


def score_folders(
    predictions: Path | KeptMasks,
    labels: Path,
    label: int | None = None,
    tolerances: Sequence[float] = TOLERANCES_MM,
    prediction_label: int | None = None,
) -> list[Row]:
    """One row for each label map, sorted by case, then one for each prediction without a label.

    Args:
        predictions: a folder of NIfTI, NRRD or MHA files; or masks that a run kept (`kept_masks`): then only the cases
            that its unit tests are scored.
        labels: a folder of such files, or a data set in a layout that the bench reads: its cases of imagesTs where the
            predictions are of these, else those of imagesTr; of a unit those that it tests.
        label: the value to score, in the label maps and in the predictions; None scores every voxel above 0.
        tolerances: mm, for "nsd@…mm".
        prediction_label: the value in the predictions, if it is another than `label`.

    If `prediction_label` is not given and all predictions of the folder hold 0 and one other value, which is 1 or
    stands in no label map (such as 255), they are binary masks of the asked label and are read as such: the rows
    then say `prediction_label: "any"`.

    Returns:
        Rows with "case", the metrics, counts and rules of `evaluate_mask`, "label", "prediction_label",
        "status" and "reason". Status is "ok" (then "reason" may hold a remark); "failed" (no prediction, unreadable,
        with values below 0, or on another grid: every metric at its worst); or "no-label" (a prediction that no label
        map belongs to: metrics None, it cannot be scored).

    Raises:
        UserError: a missing or empty folder, two files for one case, no pair at all, an unreadable label
            map or one with values below 0, a label that no label map holds while they hold others, label maps that are
            annotated in part (nnU-Net's label `ignore`), or arguments out of range.
    """
    _check_arguments(label, prediction_label, tolerances)
    labels = user_path(labels)
    if isinstance(predictions, KeptMasks):
        folder, found, tested = predictions.folder, dict(predictions.masks), predictions.cases
    else:
        folder, found, tested = user_path(predictions), _mask_files(user_path(predictions), "prediction"), None
    label_files = _label_files(labels, label, found, tested)
    prediction_files = _pair(found, label_files)
    paired = sorted(label_files.keys() & prediction_files.keys())
    if not paired:
        raise UserError(_no_pair(folder, labels, prediction_files, label_files))
    wanted: int | None = label if prediction_label is None else prediction_label
    if label is not None and prediction_label is None:
        files = [prediction_files[case] for case in paired]
        wanted = None if _all_binary(files, label, list(label_files.values())) else label
    rows: list[Row] = []
    known: set[int] = set()
    held: set[int] = set()  # by the predictions
    for case in sorted(label_files):
        truth, grid = _read(label_files[case])
        if label is not None:
            known.update(values_in(truth))
        reference = Reference(_select(truth, label), grid.spacing, tolerances)
        path = prediction_files.get(case)
        if path is None:
            row = _missing(case, folder, reference)
        else:
            row, values = _score(path, reference, grid, wanted)
            held |= values
        rows.append({"case": case} | row)
    if label is not None and label not in known and known != {0}:
        raise UserError(f"no label map in {labels} holds the value {label}; they hold {_listing(known)}")
    if label is not None:
        _remark(rows, _doubt(label, wanted, held - {0}, known))
    for case in sorted(prediction_files.keys() - label_files.keys()):
        empty: Row = dict.fromkeys(reference.metric_keys)
        reason = f"no label map of that name in {labels}"
        rows.append({"case": case} | empty | {"status": "no-label", "reason": reason})
    for row in rows:
        row |= {"label": ANY if label is None else label, "prediction_label": ANY if wanted is None else wanted}
    return rows


def to_json(rows: Sequence[Mapping[str, Any]]) -> str:
    """A JSON list with one object for each case; what does not exist is null."""
    return json.dumps([{key: _plain(value) for key, value in row.items()} for row in rows], indent=2, allow_nan=False)


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """The same rows as CSV with a header; what does not exist is an empty field."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _plain(value) for key, value in row.items()} for row in rows)
    return text.getvalue()


def mean_scores(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Mean of each metric over all rows that have a label, failed ones with their worst values; none is dropped."""
    scored = [row for row in rows if row["status"] != "no-label"]
    keys = [key for key in scored[0] if isinstance(scored[0][key], float) and not key.endswith("_mm3")]
    return {key: math.fsum(float(row[key]) for row in scored) / len(scored) for key in keys}


def _missing(case: str, folder: Path, reference: Reference) -> Row:
    reason = "no prediction for this label map"
    unread = [path.name for path in visible(folder) if path.name.startswith(f"{case}.")]
    if unread:
        reason += f"; {unread[0]} is none of {', '.join(VOLUME_SUFFIXES)}, which are read"
    return failed_values(reference) | {"status": "failed", "reason": reason}


def _score(path: Path, reference: Reference, grid: _Grid, wanted: int | None) -> tuple[Row, set[int]]:
    """The row of a prediction, and the values that it holds; none if it cannot be used."""
    try:
        prediction = _read_on(grid, path)
    except UserError as error:
        return failed_values(reference) | {"status": "failed", "reason": str(error)}, set()
    row = evaluate_mask(_select(prediction, wanted), reference) | {"status": "ok", "reason": ""}
    return row, set(values_in(prediction))


def _read(path: Path) -> tuple[NDArray[np.int16], _Grid]:
    """A label map in RAS+ and its grid."""
    values = _values(path)
    shape, affine = read_grid(path)
    return values, _Grid(shape, affine)


def _values(path: Path) -> NDArray[np.int16]:
    """The values of a label map in RAS+. Raises UserError for what cannot be one, such as a scan."""
    values = read_label(path)
    if (lowest := int(values.min())) < 0:
        raise UserError(f"{path}: holds values below 0 (down to {lowest}); is this a scan and no label map?")
    return values


def _read_on(grid: _Grid, path: Path) -> NDArray[np.int16]:
    """A prediction in RAS+. Raises UserError if it does not lie on the grid of its label map."""
    values, own = _read(path)
    if own.shape != grid.shape:
        raise UserError(f"{path}: shape {own.shape} in RAS+ order, the label map has {grid.shape}")
    if not same_grid(own.affine, grid.affine, grid.shape):
        raise UserError(f"{path}: lies on another grid than the label map (affines differ)")
    return values


def _select(values: NDArray[np.int16], label: int | None) -> NDArray[np.bool_]:
    return np.asarray(values > 0 if label is None else values == label)


def _doubt(label: int, wanted: int | None, held: set[int], known: set[int]) -> str:
    """Why the values of all predictions may not be what they were taken for; "" where nothing speaks for that.

    Args:
        held, known: values of all predictions without 0, and of all label maps.
    """
    if wanted is None and held & (known - {label}):
        value = _listing(held)
        return (
            f"read as binary masks of label {label}, for all hold 0 and {value} alone; label maps hold {value}, too: "
            f"--prediction-label {label} if these are label maps"
        )
    if wanted is not None and held and wanted not in held:
        return f"no prediction holds the value {wanted}; they hold {_listing({0, *held})}"
    return ""


def _remark(rows: Sequence[Row], doubt: str) -> None:
    for row in rows:
        if row["status"] == "ok":
            row["reason"] = doubt


def _listing(values: set[int]) -> str:
    shown = ", ".join(map(str, sorted(values)[:MAX_VALUES]))
    return shown if len(values) <= MAX_VALUES else f"{shown} and {len(values) - MAX_VALUES} more"


def _all_binary(paths: Sequence[Path], label: int, label_maps: Sequence[Path]) -> bool:
    """Whether all readable predictions hold 0 and one value, which is not `label` and must mean it.

    That is 1, or a value of no label map. Stops at the first prediction that shows the contrary.
    """
    held: set[int] = set()
    for path in paths:
        try:
            held.update(values_in(_values(path)))
        except UserError:
            continue  # becomes a failed row when its turn comes
        if label in held or len(held - {0}) > 1:
            return False
    held -= {0}
    return held <= {1} or not any(held & set(values_in(_values(path))) for path in label_maps)


def kept_masks(folder: Path, protocol: str | None = None) -> KeptMasks | None:
    """The masks of the last step, where a folder is that of a unit of a run; None if it is any other.

    Args:
        protocol: under which the masks were made; needed if there are several.

    Raises:
        UserError: an unknown protocol, none named where there are several, or no mask at all of its last step.
    """
    folder = user_path(folder).absolute()
    kept = _kept_steps(folder)
    if not kept:
        if protocol is not None:
            raise UserError(f"{folder} holds no masks of a unit, of which --protocol could choose")
        return None
    if protocol is None and len(kept) == 1:
        (protocol,) = kept
    if protocol is None or protocol not in kept:
        wrong = "" if protocol is None else f"no protocol '{protocol}'; "
        raise UserError(f"{folder}: {wrong}choose one with --protocol: {', '.join(kept)}")
    masks = _of_last_step(kept[protocol])
    if not masks:
        raise UserError(f"{folder}: no mask of the last step of '{protocol}' was kept")
    return KeptMasks(folder, masks, _tested_cases(folder))


def _kept_steps(folder: Path) -> dict[str, dict[str, dict[int, Path]]]:
    """Protocol → case → step → its facts, as a run keeps them: `<case>/<target>.<protocol>.<step>.json`."""
    found: dict[str, dict[str, dict[int, Path]]] = {}
    for path in sorted(folder.glob("*/*.json")):
        if (named := KEPT_FACTS.fullmatch(path.name)) is not None:
            steps = found.setdefault(unquote(named["protocol"]), {}).setdefault(unquote(path.parent.name), {})
            steps[int(named["step"])] = path
    return {
        name: cases
        for name, cases in sorted(found.items())
        if any(path.with_suffix(".nii.gz").is_file() for steps in cases.values() for path in steps.values())
    }


def _of_last_step(cases: Mapping[str, Mapping[int, Path]]) -> dict[str, Path]:
    """Case → mask of the protocol's last step; a step with facts alone kept the mask before it, one without failed."""
    last = max(max(steps) for steps in cases.values())
    masks = {}
    for case, steps in cases.items():
        step = last
        while step in steps and not (mask := steps[step].with_suffix(".nii.gz")).is_file():
            step -= 1
        if step in steps:
            masks[case] = mask
    return masks


def _tested_cases(folder: Path) -> frozenset[str] | None:
    """The cases of the unit whose masks lie in `<out>/predictions/<suite>/<data set>/<unit>`, from its records."""
    if len(folder.parents) < 4:
        return None
    out = folder.parents[3]
    for path in sorted((out / "records" / folder.parents[1].name / folder.parents[0].name).glob("*/unit.json")):
        unit = read_json(path)
        if isinstance(unit, dict) and unit.get("predictions") == folder.relative_to(out).as_posix():
            return frozenset(map(str, unit.get("cases", ())))
    return None


@readable()
def _label_files(
    folder: Path, label: int | None, masks: Mapping[str, Path], tested: frozenset[str] | None
) -> dict[str, Path]:
    """The label maps of a folder, or of a data set in a layout that the bench reads; of `tested` cases where given.

    Those of labelsTs take part where a case that is tested lies there, or where no mask belongs to one of labelsTr.
    """
    if _is_plain(folder):
        _refuse_partial_annotation(folder)
        files = _mask_files(folder, "label")
    else:
        files = _dataset_labels(folder, label)
        elsewhere = not _pair(masks, files).keys() & files.keys() if tested is None else bool(tested - files.keys())
        if elsewhere and volume_files(folder / "labelsTs"):
            every = _dataset_labels(folder, label, FOLDERS)
            files = every if tested is not None else {case: every[case] for case in every.keys() - files.keys()}
    return files if tested is None else {case: files[case] for case in files.keys() & tested}


def _is_plain(folder: Path) -> bool:
    """Whether a folder is to be read as masks alone, and not as a data set."""
    if not folder.is_dir():
        return True
    from benchmarks.data.catalogue import is_dataset

    only_folders = not volume_files(folder) and any(path.is_dir() for path in visible(folder))
    return not only_folders and not is_dataset(folder)


def _refuse_partial_annotation(folder: Path) -> None:
    """Label maps of a data set, given without the rest of it, are described by the dataset.json beside their folder."""
    folder = folder.absolute()
    if folder.name not in ("labelsTr", "labelsTs"):
        return
    try:
        content = read_dataset_json(folder.parent)
    except UserError:
        return  # plain label maps need no description
    refuse_partial_annotation(folder.parent, content)


def _dataset_labels(folder: Path, label: int | None, splits: str | None = None) -> dict[str, Path]:
    """The label maps of a data set by case. Raises UserError as its reader does, or if no label is chosen."""
    from benchmarks.data.catalogue import Reading, load_own

    if label is None:
        raise UserError(f"{folder} is a data set, whose label maps hold several values: choose one with --label")
    return {name: case.label for name, case in load_own(folder, Reading(label, splits=splits)).cases.items()}


@readable()
def _mask_files(folder: Path, what: str) -> dict[str, Path]:
    """The masks of a folder by case name; hidden files (such as macOS's "._name.nii.gz") are none."""
    if not folder.is_dir():
        raise UserError(f"{what} folder {folder} {'is a file' if folder.exists() else 'does not exist'}")
    found = volume_files(folder)
    for case, paths in found.items():
        if len(paths) > 1:
            names = " and ".join(path.name for path in paths)
            raise UserError(f"{folder} holds two files for case '{case}': {names}; keep one")
    if not found:
        raise UserError(f"{what} folder {folder} holds no file that ends with {', '.join(VOLUME_SUFFIXES)}")
    return {case: paths[0] for case, paths in found.items()}


def _pair(predictions: Mapping[str, Path], labels: Mapping[str, Path]) -> dict[str, Path]:
    """The predictions under the names of their labels."""
    named: dict[str, Path] = {}
    for case, path in predictions.items():
        short = case.removesuffix(CHANNEL_SUFFIX)
        renamed = case not in labels and short in labels and short not in predictions
        named[short if renamed else case] = path
    return named


def _no_pair(folder: Path, labels: Path, predictions: Mapping[str, Path], label_files: Mapping[str, Path]) -> str:
    """What to say where no prediction has a label map."""
    if not label_files:  # of a data set that holds none of the cases that a unit tests
        return f"{labels} holds no label map of a case that {folder} tests (such as '{min(predictions)}')"
    return (
        f"no file in {folder} has the name of one in {labels} "
        f"(such as '{min(predictions)}' and '{min(label_files)}'); give matching files the same name"
    )


def _check_arguments(label: int | None, prediction_label: int | None, tolerances: Sequence[float]) -> None:
    for name, value in (("label", label), ("prediction label", prediction_label)):
        if value is not None and value < 1:
            raise UserError(f"{name} {value} is background; give a value of 1 or more")
    bad = [tolerance for tolerance in tolerances if not (math.isfinite(tolerance) and tolerance >= 0)]
    if bad:
        raise UserError(f"tolerance {bad[0]} is not a distance in mm; give a number of 0 or more")


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
