"""`predict`: scans of a person's own, no label."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from benchmarks.commands import completion
from benchmarks.commands.declare import DATA, METHODS, OUTPUT, PROMPTS, command, new_group
from benchmarks.commands.options import LAST_RUN, FinishedOptions, GpusOption, PrintOptions
from benchmarks.commands.printing import print_json, print_mapping, print_rows, say, say_synthetic
from benchmarks.common.errors import UserError

if TYPE_CHECKING:
    from benchmarks import api
    from benchmarks.prompting.given import GivenBox, GivenPrompts, Point

app = new_group()

PRINTED = PrintOptions()


@dataclass(frozen=True)
class PromptOptions:
    """What the method is told about the scan."""

    click: Annotated[
        list[str] | None,
        Option("--click", metavar="X,Y,Z", help="A voxel inside, counted from 0 as stored.", rich_help_panel=PROMPTS),
    ] = None
    click_mm: Annotated[
        list[str] | None,
        Option("--click-mm", metavar="X,Y,Z", help="A point inside, in world mm.", rich_help_panel=PROMPTS),
    ] = None
    negative_click: Annotated[
        list[str] | None,
        Option("--negative-click", metavar="X,Y,Z", help="A voxel outside.", rich_help_panel=PROMPTS),
    ] = None
    negative_click_mm: Annotated[
        list[str] | None,
        Option("--negative-click-mm", metavar="X,Y,Z", help="A point outside.", rich_help_panel=PROMPTS),
    ] = None
    box: Annotated[
        str | None,
        Option("--box", metavar="X,Y,Z,X,Y,Z", help="Its two corner voxels, both inside.", rich_help_panel=PROMPTS),
    ] = None
    box_mm: Annotated[
        str | None,
        Option("--box-mm", metavar="X,Y,Z,X,Y,Z", help="Likewise in world mm.", rich_help_panel=PROMPTS),
    ] = None
    space: Annotated[
        str,
        Option(
            "--space", metavar="RAS|LPS", help="World axes: Slicer's and NIfTI's, or DICOM's.", rich_help_panel=PROMPTS
        ),
    ] = "RAS"
    prompts: Annotated[
        Path | None,
        Option("--prompts", metavar="FILE", help="JSON, or 3D Slicer's .mrk.json.", rich_help_panel=PROMPTS),
    ] = None
    text: Annotated[
        str | None,
        Option("--text", metavar="WORDS", help="A text prompt, such as 'liver tumor'.", rich_help_panel=PROMPTS),
    ] = None


@dataclass(frozen=True)
class ScanOptions:
    """What the scans are."""

    table: Annotated[
        Path | None,
        Option("--batch", metavar="FILE", help="Many scans: a CSV with scan, mask, click, …", rich_help_panel=DATA),
    ] = None
    modality: Annotated[
        str | None,
        Option("--modality", metavar="NAME", help="CT, MR, PET, SUV or other.", rich_help_panel=DATA),
    ] = None
    organ: Annotated[str, Option("--organ", metavar="WORDS", help="What to look for.", rich_help_panel=DATA)] = ""
    lesion: Annotated[str, Option("--lesion", metavar="WORDS", help="Likewise.", rich_help_panel=DATA)] = ""


@dataclass(frozen=True)
class TrainedOptions:
    """Which trained method of which run, or without a run."""

    run: FinishedOptions = LAST_RUN
    dataset: Annotated[
        str | None,
        Option(
            "--dataset",
            metavar="NAME",
            help="On which it was trained, if several.",
            rich_help_panel=METHODS,
            autocompletion=completion.dataset_names,
        ),
    ] = None
    fold: Annotated[
        int | None, Option("--fold", metavar="N", min=0, help="Likewise, if several.", rich_help_panel=METHODS)
    ] = None
    target: Annotated[
        str | None, Option("--target", metavar="NAME", help="Likewise, if several.", rich_help_panel=METHODS)
    ] = None
    checkpoint: Annotated[
        Path | None,
        Option(
            "--checkpoint",
            metavar="PATH",
            help="Checkpoint folder, or official file; also METHOD=PATH.",
            rich_help_panel=METHODS,
        ),
    ] = None
    gpus: GpusOption = None


@dataclass(frozen=True)
class WrittenOptions:
    """What is written beside the mask."""

    preview: Annotated[
        Path | None,
        Option("--preview", metavar="FILE", help="Picture: three planes, outline, clicks.", rich_help_panel=OUTPUT),
    ] = None
    overwrite: Annotated[
        bool, Option("--overwrite", help="Make masks again that are there.", rich_help_panel=OUTPUT)
    ] = False
    printing: PrintOptions = PRINTED


@command(app, panel="Results")
def predict(
    *,
    scan: Annotated[Path | None, Argument(help="NIfTI, NRRD, MHA or a folder of DICOM.")] = None,
    mask: Annotated[Path | None, Argument(help="To write: .nii.gz, .nrrd, .mha, .dcm (SEG) or .rtstruct.dcm.")] = None,
    method: Annotated[
        str,
        Option(
            "--method",
            metavar="NAME",
            help="As the leaderboard of the run names it, or one that needs no run.",
            rich_help_panel=METHODS,
            autocompletion=completion.method_names,
        ),
    ],
    scans: ScanOptions,
    prompting: PromptOptions,
    trained: TrainedOptions,
    written: WrittenOptions,
) -> None:
    """Segment scans of your own, with your own prompts. No label is needed, and none is looked for.

    Examples:

    * `tags-bench predict scan.nii.gz mask.nii.gz --method region-growing --click 120,88,41 --preview mask.png`
    * `tags-bench predict scan.nii.gz mask.nii.gz --method tags-tiny --dataset kits21 --prompts Slicer.mrk.json`
    * `tags-bench predict dicom/ mask.dcm --method region-growing --click-mm=-31.5,12,-140 --space LPS`
    * `tags-bench predict --batch cases.csv --method ball --dataset lits17`
    """
    from benchmarks import api

    wanted = _wanted(method, trained)
    options = api.PredictOptions(scans.organ, scans.lesion, scans.modality, trained.gpus or 0.0, written.overwrite)
    given = _given(prompting)
    if scans.table is not None:
        if scan or mask or written.preview or given != type(given)():
            raise UserError("--batch takes scans, masks, prompts and previews from its table; give no others")
        _predict_table(scans.table, wanted, options, written)
        return
    if scan is None or mask is None:
        raise UserError("a scan and the mask to write are needed: tags-bench predict SCAN MASK, or --batch FILE")
    result = api.predict(scan, mask, wanted, prompts=given, preview=written.preview, options=options)
    if written.printing.as_json:
        print_json(result.figures)
        return
    say_synthetic(bool(result.unit["synthetic"]))
    figures = dict(result.figures)
    notes = figures.pop("notes")
    print_mapping(_heading(result.unit), {key: _shown(value) for key, value in figures.items()})
    for note in notes:
        print(f"note: {note}", file=sys.stderr)


def _predict_table(table: Path, wanted: api.Wanted, options: api.PredictOptions, written: WrittenOptions) -> None:
    from benchmarks import api

    def said(row: Any) -> None:
        say(f"{row['scan']}: {row['status']}")

    result = api.predict_table(table, wanted, options=options, progress=said)
    if written.printing.as_json:
        print_json(result.cases)
    else:
        say_synthetic(bool(result.unit["synthetic"]))
        shown = [{key: _shown(value) for key, value in row.items()} for row in result.cases]
        print_rows(_heading(result.unit), shown)
    if result.failed:
        print(f"error: {len(result.failed)} of {len(result.cases)} scans have no mask", file=sys.stderr)
        raise typer.Exit(2)


def _wanted(method: str, trained: TrainedOptions) -> api.Wanted:
    from benchmarks import api

    place = (trained.dataset, trained.fold, trained.target)
    run_named = trained.run != LAST_RUN or any(one is not None for one in place)
    if trained.checkpoint is not None:
        if run_named:
            raise UserError("--checkpoint needs no run; leave out --suite, --out, --dataset, --fold and --target")
        return api.MethodOfCheckpoint(method, Path(str(trained.checkpoint).removeprefix(f"{method}=")))
    if not run_named:
        return method
    return api.MethodOfRun(method, trained.dataset, trained.run.suite, trained.run.out, trained.fold, trained.target)


def _given(options: PromptOptions) -> GivenPrompts:
    """The prompts of the options: positive clicks first, in their order."""
    from benchmarks.prompting.given import GivenPrompts

    return GivenPrompts(options.prompts, tuple(_points(options)), _box(options), options.text, options.space.upper())


def _points(options: PromptOptions) -> list[Point]:
    from benchmarks.prompting.given import Point, parse_point

    found = [Point(parse_point(one, "--click"), "voxel") for one in options.click or ()]
    found += [Point(parse_point(one, "--click-mm"), "mm") for one in options.click_mm or ()]
    found += [Point(parse_point(one, "--negative-click"), "voxel", False) for one in options.negative_click or ()]
    found += [Point(parse_point(one, "--negative-click-mm"), "mm", False) for one in options.negative_click_mm or ()]
    return found


def _box(options: PromptOptions) -> GivenBox | None:
    from benchmarks.prompting.given import GivenBox, parse_box

    if options.box and options.box_mm:
        raise UserError("give one of --box and --box-mm")
    if options.box:
        return GivenBox(parse_box(options.box, "--box"))
    return GivenBox(parse_box(options.box_mm, "--box-mm"), "mm") if options.box_mm else None


def _heading(unit: Any) -> str:
    trained = f", trained on {unit['dataset']}" if unit["dataset"] else ", as it is installed"
    return f"{unit['method']}{trained}"


def _shown(value: Any) -> Any:
    if value is None:
        return ""
    return f"{value:.3f}" if isinstance(value, float) else value
