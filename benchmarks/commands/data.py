"""`data`: make, fetch, check and inspect data sets."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from benchmarks.commands import completion
from benchmarks.commands.declare import command, new_group
from benchmarks.commands.licence import show_licence
from benchmarks.commands.options import (
    AcceptOption,
    DatasetsOption,
    DebugOption,
    LabelOptions,
    OutOption,
    PrintOptions,
    SeedOption,
)
from benchmarks.commands.printing import console, print_json, print_rows, say
from benchmarks.common.errors import UserError
from benchmarks.common.files import readable
from benchmarks.common.output import DEFAULT_OUT, writable_folder
from benchmarks.common.output_lock import writing_to

if TYPE_CHECKING:
    from benchmarks.data.registry import Registration

app = new_group(help="Make, fetch, check and inspect data sets.")

AddedArgument = Annotated[
    str,
    Argument(metavar="NAME", help="A dataset of `tags-bench data list`.", autocompletion=completion.added_names),
]


@command(app)
def synth(
    *,
    dataset: DatasetsOption = None,
    cases: Annotated[int, Option("--cases", metavar="N", min=3, help="Phantoms per dataset.")] = 14,
    out: OutOption = DEFAULT_OUT,
    seed: SeedOption = None,
    printing: PrintOptions,
) -> None:
    """Write synthetic CT in the official layouts of the datasets.

    Example: `tags-bench data synth --dataset lits17 --cases 20 --out /tmp/phantoms`
    """
    from rich.text import Text

    from benchmarks.data.catalogue import phantom_names
    from benchmarks.data.phantom import synthesise

    rows = []
    with writing_to(out, "data synth"):
        folder = writable_folder(out) / "data" / "phantom"
        for name in dataset or phantom_names():
            with console().status(Text(f"writing {cases} phantoms of {name}")):
                written = synthesise(name, folder, seed=2026 if seed is None else seed, cases=cases)
            rows.append({"dataset": name, "cases": cases, "folder": str(written), "synthetic": True})
    print_rows("synthetic phantoms", rows, printing.as_json)


@command(app)
def fetch(
    *,
    name: Annotated[str, Argument(help="msd-pancreas, msd-colon, lits17 or kits21.")],
    cases: Annotated[int | None, Option("--cases", metavar="N", min=1, help="Only the first cases (kits21).")] = None,
    accept: AcceptOption = False,
    printing: PrintOptions,
) -> None:
    """Download a public dataset (resumed, checksummed), check it, and add it.

    The licence is shown and accepted once.

    Example: `tags-bench data fetch msd-pancreas --accept-licence`
    """
    from benchmarks.commands.bars import download_bars
    from benchmarks.common.errors import nearest_name
    from benchmarks.data import fetch as fetching

    if name not in fetching.fetchable():
        raise UserError(f"'{name}' cannot be fetched; {nearest_name(name, fetching.fetchable())}")
    if not fetching.licence_accepted(name):
        show_licence(fetching.licence(name), accept)
        fetching.accept_licence(name)
    with download_bars(console()) as advance:
        folder = fetching.fetch(name, cases=range(cases) if cases else None, progress=advance)
    _add(name, folder, printing, LabelOptions())


@command(app)
def add(
    *,
    name: Annotated[str, Argument(help="kits21, msd-pancreas, lits17, msd-colon, or a name for your own data.")],
    source: Annotated[
        Path,
        Option("--from", metavar="DIR", help="The data as downloaded, or a CSV table of pairs; only read."),
    ],
    labels: LabelOptions,
    splits: Annotated[
        str | None,
        Option("--splits", metavar="WORD", help="3dsam-adapter, patient, folders, or a table or file of yours."),
    ] = None,
    printing: PrintOptions,
) -> None:
    """Check every voxel of a dataset and list it by name.

    Bad cases are left out and listed with reasons. Nothing is written to the data.

    Example: `tags-bench data add kits21 --from /data/kits21`
    """
    with readable():
        if not source.exists():
            raise UserError(f"--from {source}: no such folder or table")
    _add(name, source, printing, labels, splits)


@command(app, "list")
def list_added(printing: PrintOptions) -> None:
    """List the datasets of this machine that have been added."""
    from benchmarks.data.registry import registrations

    rows = [
        {
            "name": one.name,
            "cases": len(one.sizes),
            "left out": len(one.excluded),
            "licence": one.licence,
            "folder": str(one.root),
        }
        for one in registrations().values()
    ]
    if not rows and not printing.as_json:
        print("none yet; see `tags-bench data add --help`")
        return
    print_rows("datasets of this machine", rows, printing.as_json)


@command(app)
def verify(name: AddedArgument, printing: PrintOptions) -> None:
    """Check an added dataset again, after its files changed."""
    from benchmarks.commands.bars import case_bar
    from benchmarks.data.registry import verify_again
    from benchmarks.data.verify import in_processes

    with case_bar(console(), name) as (opened, progress):
        found = verify_again(name, each=in_processes, opened=opened, progress=progress)
    _show(found, printing)


@command(app)
def stats(
    *,
    name: AddedArgument,
    figure: Annotated[Path | None, Option("--figure", metavar="FILE", help="Also draw it: PNG, SVG or PDF.")] = None,
    printing: PrintOptions,
) -> None:
    """Spacings, sizes, Hounsfield units, tumours over the cases of a dataset."""
    from benchmarks.data.figures import statistics_figure
    from benchmarks.data.registry import registration
    from benchmarks.data.verify import statistics

    found = registration(name)
    reports = [report for report in found.reports if report.case_id not in found.apart]
    print_rows(f"{name}, {len(found.sizes)} cases", statistics(reports), printing.as_json)
    if figure is not None:
        say(f"figure: {statistics_figure(reports, figure, name)}")


@command(app)
def splits(
    *,
    name: AddedArgument,
    out: Annotated[
        Path | None, Option("--out", metavar="FILE", help="Also write the case ids of every fold here.")
    ] = None,
    printing: PrintOptions,
) -> None:
    """Show how many cases are in which part of every fold.

    Each fold has a hash; every run uses these. With --out the SHA-256 of the file is told as well, for `StoredSplits`.

    Example: `tags-bench data splits kits21 --out kits21-splits.json`
    """
    from benchmarks.common.content import sha256_of
    from benchmarks.data.registry import load
    from benchmarks.data.splits import split_rows, write_splits

    dataset = load(name)
    print_rows(f"splits of {name}: {dataset.split_source}", split_rows(dataset.splits), printing.as_json)
    if out is not None:
        path = write_splits(out, name, dataset.split_source, dataset.splits)
        say(f"case ids: {path}")
        say(f"SHA-256 of the file: {sha256_of(path)}")


@command(app)
def remove(name: AddedArgument, debug: DebugOption = False) -> None:
    """Forget an added dataset. No file of it is deleted."""
    from benchmarks.data import registry

    print(f"forgotten; the files stay in {registry.remove(name)}")


@command(app, "import-dicom")
def import_dicom(
    *,
    source: Annotated[Path, Argument(help="A folder per case: a series with its RTSTRUCT or SEG.")],
    out: Annotated[Path, Option("--out", metavar="DIR", help="New folder for the scans in MSD layout.")],
    label: Annotated[list[str], Option("--label", metavar="NAME=VALUE", help="ROI or segment; repeatable.")],
    modality: Annotated[
        str | None, Option("--modality", metavar="NAME", help="CT, MR or PET, where a case has several.")
    ] = None,
    annotation: Annotated[
        str | None, Option("--annotation", metavar="WORDS", help="Part of its file name or title, likewise.")
    ] = None,
    printing: PrintOptions,
) -> None:
    """Convert CT, MR or PET in DICOM with contours or segmentations into a folder for `--data`.

    Example: `tags-bench data import-dicom DICOM --out scans --label GTV-1=1`
    """
    from benchmarks.data.dicom import Choice, convert, labels_of
    from benchmarks.data.intensities import PET, SUV, named_modality

    labels = labels_of(label)
    wanted = None if modality is None else {SUV: PET}.get(named_modality(modality), named_modality(modality))
    with console().status("converting"):
        done = convert(source, out, labels, Choice(wanted, annotation))
    rows = [{"case": case, "not converted": why} for case, why in done.failed.items()]
    cases, patients = len(done.patients), len(set(done.patients.values()))
    if printing.as_json:
        counts = {"cases": cases, "patients": patients}
        print_json(
            {"folder": str(out), "modality": done.modality, **counts, "failed": done.failed, "notes": done.notes}
        )
        return
    for case, note in done.notes.items():
        print(f"note: {case}: {note}", file=sys.stderr)
    if patients < cases:
        words = f"{cases} cases are of {patients} patient{'' if patients == 1 else 's'} by their PatientID"
        print(f"note: {words}; `patients` in {out / 'dataset.json'} says which", file=sys.stderr)
    if rows:
        print_rows(f"{out}, without these", rows, as_json=False)
    else:
        print(f"all cases ({done.modality}) converted into {out}")


def _add(name: str, folder: Path, printing: PrintOptions, labels: LabelOptions, splits: str | None = None) -> None:
    from benchmarks.commands.bars import case_bar
    from benchmarks.data import registry
    from benchmarks.data.verify import in_processes

    _say_what_is_replaced(name, folder)
    with case_bar(console(), name) as (opened, progress):
        wanted = registry.Registration(name, folder, labels.target, labels.organ, labels.lesion, splits)
        found = registry.add(wanted, each=in_processes, opened=opened, progress=progress)
    _show(found, printing)


def _say_what_is_replaced(name: str, folder: Path) -> None:
    """Before the check, which takes long: the name has been that of another folder."""
    from benchmarks.common.paths import user_path, whole_path
    from benchmarks.data.registry import folder_of

    try:
        listed = folder_of(name)
    except UserError:  # a damaged entry says nothing, and adding the dataset again is what mends it
        return
    if listed not in (None, whole_path(user_path(folder))):
        say(f"note: '{name}' was added for {listed}; {folder} takes its place once it is checked")


def _show(found: Registration, printing: PrintOptions) -> None:
    from benchmarks.data.registry import problem_rows

    rows = problem_rows(found)
    if printing.as_json:
        print_json({"name": found.name, "root": str(found.root), "cases": len(found.sizes), "problems": rows})
        return
    if rows:
        print_rows(f"{found.name}: what is wrong with which case", rows, as_json=False)
    left = f", {len(found.excluded)} left out" if found.excluded else ", no error found"
    print(f"{found.name}: {len(found.sizes)} cases{left}; use it as a dataset without `source` in a suite")
