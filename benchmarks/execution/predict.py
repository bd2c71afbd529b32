"""A method on scans of a person's own, with prompts by hand → masks. No label is needed, and none is looked for."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from benchmarks.common.errors import UserError, is_out_of_memory, nearest_name, one_line
from benchmarks.common.files import read_json
from benchmarks.common.paths import user_path
from benchmarks.contestants import Method, OwnTraining, Segmenter, Target, method
from benchmarks.data.catalogue import datasets
from benchmarks.data.intensities import CT, said_of
from benchmarks.data.mask_files import MaskOrigin, check_mask_name, is_mask_file, save_mask
from benchmarks.data.scan import Scan, is_volume_file, read_scan
from benchmarks.execution.datasets import as_released
from benchmarks.execution.preview import Shown, check_preview_name, draw_preview
from benchmarks.execution.training import load_segmenter
from benchmarks.execution.training_job import finished
from benchmarks.prompting.given import GivenPrompts
from benchmarks.prompting.prompts import PromptKind, Prompts
from benchmarks.weights.official_files import settings_from_files, unnamed_release
from benchmarks.weights.zoo import zoo_weights

Loaded = TypeVar("Loaded")


@dataclass(frozen=True)
class Contestant:
    """A method ready to segment, with what it looks for.

    Attributes:
        unit: what it was trained and evaluated on, as in a run's `unit.json`; less where there was no run.
        notes: what a reader of the mask must know, in a line each.
    """

    method: Method
    segmenter: Segmenter
    target: Target
    unit: Mapping[str, Any]
    notes: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        return str(self.unit["method"])

    def looking_for(self, organ: str = "", lesion: str = "") -> Contestant:
        """The same with other words for what is to be segmented; empty words change nothing."""
        target = replace(self.target, organ=organ or self.target.organ, lesion=lesion or self.target.lesion)
        return replace(self, target=target)


@dataclass(frozen=True)
class Place:
    """Where in its suite a method was trained; None: not said, which will do if there is one only."""

    dataset: str | None = None
    fold: int | None = None
    target: str | None = None


def unit_of(units: Iterable[Mapping[str, Any]], name: str, place: Place = Place()) -> Mapping[str, Any]:
    """The description of one method at one place of a finished suite; see `RecordStore.read_suite`.

    A method that learned from nothing is the same everywhere: where several places are left, it is given without one.

    Raises:
        UserError: no such method, it was not run there, or several places are left and its weights differ.
    """
    units = list(units)
    mine = [unit for unit in units if unit["method"] == name]
    if not mine:
        raise UserError(f"no method '{name}' in this suite; {nearest_name(name, {unit['method'] for unit in units})}")
    for what, value in asdict(place).items():
        if value is not None:
            known = [_place_of(unit)[what] for unit in mine]
            mine = [unit for unit in mine if _place_of(unit)[what] == str(value)]
            if not mine:
                raise UserError(f"'{name}' was not run on {what} '{value}'; {nearest_name(str(value), set(known))}")
    if len(mine) > 1 and _learned_from_nothing(mine):
        target = _plain_target(method(str(mine[0]["method_name"])), mine[0]["config"])
        return {**mine[0], **_no_unit(name), "target": asdict(target)}
    for what in asdict(place):
        left = list(dict.fromkeys(_place_of(unit)[what] for unit in mine))
        if len(left) > 1:
            raise UserError(f"'{name}' was run on the {what}s {', '.join(left)}; say which with --{what}")
    return mine[0]


def _place_of(unit: Mapping[str, Any]) -> dict[str, str]:
    """The values of a `Place`, in words."""
    return {"dataset": str(unit["dataset"]), "fold": str(unit["fold"]), "target": str(unit["target"]["name"])}


def _learned_from_nothing(units: Sequence[Mapping[str, Any]]) -> bool:
    """Whether they are one method with one setting that has no weights of a dataset, and reads no words of a target."""
    first = units[0]
    alike = all(unit[key] == first[key] for unit in units for key in ("method_name", "config"))
    alike = alike and all(unit.get("modality", CT) == first.get("modality", CT) for unit in units)
    weights = any(unit["checkpoint"] or unit.get("zoo") or unit.get("made_elsewhere") for unit in units)
    return alike and not weights and not method(str(first["method_name"])).reads_words


def of_run(unit: Mapping[str, Any], checkpoints: Path, device: str = "cpu") -> Contestant:
    """The method of a unit with the weights that it was evaluated with, and its target.

    Raises:
        UserError: the checkpoint is not there any more, or damaged; or the unit holds masks made elsewhere.
    """
    if unit.get("made_elsewhere"):
        raise UserError(f"'{unit['method']}' are masks made elsewhere; there is no method that could be run")
    chosen = method(str(unit["method_name"]))
    folder = None
    if unit["checkpoint"]:
        found = sorted(checkpoints.glob(f"*-{unit['checkpoint']}/training.json"))
        if not found:
            raise UserError(f"{checkpoints}: no checkpoint {unit['checkpoint']} of '{unit['method']}'; run it again")
        folder = found[0].parent
    elif unit.get("zoo"):
        folder = _folder_of_zoo(chosen, unit)
    where = folder or f"method '{unit['method']}'"
    segmenter = _loaded(where, lambda: load_segmenter(chosen, dict(unit["config"]), device, folder))
    return Contestant(chosen, segmenter, Target.from_plain(unit["target"]), unit)


def _folder_of_zoo(chosen: Method, unit: Mapping[str, Any]) -> Path:
    """The weights that come with a method, if they are still those of the run."""
    weights = zoo_weights(chosen, str(unit["dataset"]))
    if weights is None or weights.digest != unit["zoo"]:
        raise UserError(f"the weights of '{unit['method']}' in the zoo are not those of the run; run it again")
    return weights.folder


def of_checkpoint(name: str, place: Path, device: str = "cpu") -> Contestant:
    """A method with a checkpoint folder of `train` or `run`, or with a file of official weights.

    Raises:
        UserError: neither, of another method, or damaged.
    """
    chosen, place = method(name), user_path(place)
    if place.is_file():
        if "checkpoint" not in chosen.config:
            raise UserError(f"method '{name}' takes no file of weights; --checkpoint names a folder of `train` for it")
        return _official(chosen, {"checkpoint": str(place)}, device)
    if not finished(place):
        raise UserError(f"{place}: no checkpoint folder (it has no training.json) and no file of weights")
    figures = read_json(place / "training.json")
    if figures.get("method") != name:
        raise UserError(f"{place}: a checkpoint of '{figures.get('method')}', not of '{name}'")
    target = figures.get("segments") or _known_target(str(figures.get("dataset")), str(figures.get("target")), place)
    segmenter = _loaded(place, lambda: load_segmenter(chosen, dict(figures["config"]), device, place))
    unit = {"method": name, "dataset": figures.get("dataset", ""), "synthetic": False, "target": target}
    said = {key: figures[key] for key in ("modality", "synthetic") if key in figures}
    assumed = f"{place} is older and does not say what it learned from: real CT is assumed"
    notes = () if "modality" in said else (assumed,)
    return Contestant(chosen, segmenter, Target.from_plain(target), unit | said, notes)


def _known_target(dataset: str, name: str, place: Path) -> dict[str, Any]:
    """Of checkpoints that do not hold what they segment, and of datasets that the bench knows."""
    known = datasets()
    for target in known[dataset].targets if dataset in known else ():
        if target.name == name:
            return asdict(target)
    raise UserError(f"{place}: does not say what it was trained to segment; name its run with --out and --suite")


def without_run(name: str, device: str = "cpu") -> Contestant:
    """A method as it is installed: one that needs no training, or has official weights in the weights folder.

    Raises:
        UserError: it has to be trained, or its official file is not there.
    """
    chosen = method(name)
    if chosen.training == "none" or chosen.needs_checkpoint:
        return _official(chosen, {}, device)
    advice = "train it (`tags-bench run`), or name a checkpoint with --checkpoint"
    if chosen.training == "bench":
        raise UserError(f"method '{name}' has to be trained first: {advice}")
    segmenter: OwnTraining = _loaded(f"method '{name}'", lambda: load_segmenter(chosen, {}, device, None))
    try:
        assumed = segmenter.without_training()
    except UserError as error:
        raise UserError(f"method '{name}': {error}; {advice}") from error
    notes = (f"{name} without training: {assumed}",)
    return Contestant(chosen, segmenter, _plain_target(chosen, {}), _no_unit(name), notes)


def _official(chosen: Method, config: dict[str, Any], device: str) -> Contestant:
    whole = chosen.configured(config)
    config |= settings_from_files(chosen, chosen.name, whole, "")
    segmenter = _loaded(f"method '{chosen.name}'", lambda: load_segmenter(chosen, config, device, None))
    note = unnamed_release(chosen, chosen.name, config, "")
    return Contestant(chosen, segmenter, _plain_target(chosen, config), _no_unit(chosen.name), (note,) if note else ())


def _no_unit(name: str) -> dict[str, Any]:
    return {"method": name, "dataset": "", "synthetic": False}


def _plain_target(chosen: Method, config: Mapping[str, Any]) -> Target:
    """Something with the soft-tissue window, or with that of the official file; a caller may put words to it."""
    return as_released(Target("lesion", "", "lesion", (1,)), chosen, config)


def _loaded(where: object, build: Callable[[], Loaded]) -> Loaded:
    try:
        return build()
    except UserError:
        raise
    except Exception as error:  # files that are cut off fail in as many ways as there are libraries that read them
        if is_out_of_memory(error):
            raise
        raise UserError(
            f"{where}: cannot be loaded ({one_line(error, 200)}); if it is damaged, train it again"
        ) from error


@dataclass(frozen=True)
class Order:
    """One scan to segment.

    Attributes:
        scan: a file or a folder of DICOM.
        mask: the file to write; its name says its kind (`benchmarks.data.mask_files`).
        preview: a picture to draw, or None.
        modality: of the scan; None: what DICOM says, else that of the method's dataset.
        overwrite: whether the mask may take the place of an older file; of another scan it never does.
    """

    scan: Path
    mask: Path
    prompts: GivenPrompts = field(default_factory=GivenPrompts)
    preview: Path | None = None
    modality: str | None = None
    overwrite: bool = False

    def resolved(self) -> Order:
        """With `~` and the like replaced. Raises UserError for what no path may hold."""
        file = user_path(self.prompts.file) if self.prompts.file else None
        return replace(
            self,
            scan=user_path(self.scan),
            mask=user_path(self.mask),
            prompts=replace(self.prompts, file=file),
            preview=user_path(self.preview) if self.preview else None,
        )

    def check(self) -> None:
        """Before any work: nothing is written in the place of a folder, of a file that the mask is made from, of a scan
        beside it, or, unless `overwrite` is set, of an older file.

        Raises:
            UserError: it would be.
        """
        check_mask_name(self.mask, from_dicom=not is_volume_file(self.scan))
        inputs = [self.scan, *([self.prompts.file] if self.prompts.file else [])]
        written = [("mask", self.mask)]
        if self.preview is not None:
            check_preview_name(self.preview)
            written.append(("preview", self.preview))
        for what, path in written:
            if path.is_dir():
                raise UserError(f"{path}: is a folder; name a file for the {what}")
            for file in inputs:
                if path.exists() and file.exists() and path.samefile(file):
                    raise UserError(f"{path}: is the same file as {file}; the {what} would replace it")
                if file.is_dir() and path.exists() and path.resolve().is_relative_to(file.resolve()):
                    raise UserError(f"{path}: lies in the scan's folder {file} and would replace a file of it")
        self._check_older_file()

    def _check_older_file(self) -> None:
        if not self.mask.exists():
            return
        if _folders_of(self.mask) & _folders_of(self.scan) and not is_mask_file(self.mask):
            raise UserError(f"{self.mask}: lies in the scan's folder and is no mask of 0 and 1; name another file")
        if not self.overwrite:
            raise UserError(f"{self.mask}: is there already; --overwrite replaces it")


def _folders_of(file: Path) -> set[Path]:
    """Where a file lies: two folders if it is a link."""
    return {file.parent.resolve(), file.resolve().parent}


def predict_scan(order: Order, contestant: Contestant) -> dict[str, Any]:
    """Segment one scan and write the mask on the scan's own grid.

    Returns:
        mask (the file), modality, voxels, millilitres, clicks, seconds_open, seconds_segment, preview if drawn, notes.

    Raises:
        UserError: an unusable scan or prompt, prompts that the method does not understand, or a mask that may not
            be written there (`Order.check`) or cannot be.
    """
    order = order.resolved()
    order.check()
    scan = read_scan(order.scan, order.modality, otherwise=str(contestant.unit.get("modality", CT)))
    volume, prompts = scan.volume, order.prompts.on(scan.volume)
    _refuse_foreign(prompts, contestant.segmenter)
    started = time.perf_counter()
    session = contestant.segmenter.open(volume, contestant.target)
    opened = time.perf_counter()
    found = session.segment(prompts)
    ended = time.perf_counter()
    if isinstance(found, np.ma.MaskedArray) or found.dtype != np.bool_ or found.shape != volume.shape:
        kind = f"{type(found).__name__} of {found.dtype} {found.shape}"
        raise UserError(f"the method gave a {kind}; a bool array of shape {volume.shape} is due")
    by_hand = prompts.kinds != {PromptKind.NONE}
    origin = MaskOrigin(_label(contestant.target), contestant.title, contestant.method.version, by_hand)
    save_mask(found, scan, order.mask, origin)
    voxels = int(np.count_nonzero(found))
    millilitres = voxels * float(np.prod(volume.spacing)) / 1000
    figures = {
        "mask": str(order.mask),
        "modality": scan.modality,
        "voxels": voxels,
        "millilitres": millilitres,
        "clicks": len(prompts.clicks),
        "seconds_open": opened - started,
        "seconds_segment": ended - opened,
    }
    if order.preview is not None:
        title = f"{order.scan.name}: {_label(contestant.target)} by {contestant.title}, {millilitres:.2f} ml"
        figures["preview"] = str(
            draw_preview(Shown(volume, found, prompts, contestant.target.window, title), order.preview)
        )
    notes = [*contestant.notes, *_notes(scan, contestant), *(["the mask is empty"] if not voxels else [])]
    return figures | {"notes": notes}


def _refuse_foreign(prompts: Prompts, segmenter: Segmenter) -> None:
    foreign = prompts.kinds - segmenter.prompts
    if foreign:
        needs = ", ".join(sorted(segmenter.prompts))
        accepted = "some prompt" if foreign == {PromptKind.NONE} else f"no {', '.join(sorted(foreign))}"
        raise UserError(f"the method takes {accepted}; it understands: {needs}")


def _notes(scan: Scan, contestant: Contestant) -> list[str]:
    found = list(scan.notes)
    if scan.modality != CT:
        found.append(said_of(scan.modality))
    known = contestant.unit.get("modality")
    if contestant.unit["dataset"] and known not in (None, scan.modality):
        found.append(f"'{contestant.title}' learned from {known}, this scan is {scan.modality}")
    return found


def _label(target: Target) -> str:
    return re.sub(r"\s+", " ", f"{target.organ} {target.lesion}").strip() or target.name
