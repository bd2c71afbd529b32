"""The command line of tags-bench: parse, call one function, print. Heavy imports wait inside the commands."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from benchmarks.common.errors import UserError, one_line

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from benchmarks.data.dataset import Dataset
    from benchmarks.execution.plan import Folders, Unit
    from benchmarks.execution.suite import Suite
    from benchmarks.prompting.protocol import Protocol
    from benchmarks.results.mlflow_sink import MlflowSink

app = typer.Typer(
    name="tags-bench",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="""A benchmark for 3D tumour segmentation, distributed on Ray, recorded in MLflow.

`tags-bench run --all-datasets` trains and evaluates every method on synthetic phantoms, in minutes on a laptop.
`tags-bench run --data DIR` does the same on your own scans.""",
)
data_app = typer.Typer(no_args_is_help=True, help="Make and inspect data sets.")
app.add_typer(data_app, name="data")
weights_app = typer.Typer(no_args_is_help=True, help="Official weights files: what there is, fetch, verify.")
app.add_typer(weights_app, name="weights")

SuiteOption = Annotated[str, typer.Option("--suite", help="Embedded suite by name, or a YAML file.")]
DatasetOption = Annotated[list[str] | None, typer.Option("--dataset", help="Only this dataset; repeatable.")]
AllOption = Annotated[bool, typer.Option("--all-datasets", help="Every dataset of the suite.")]
DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data", help="Your own scans: a folder in MSD, nnU-Net raw, KiTS21 or LiTS17 layout, or a CSV table."
    ),
]
TargetOption = Annotated[str | None, typer.Option("--target", help="With --data: the label to segment, value or name.")]
OrganOption = Annotated[str, typer.Option("--organ", help="With --data: the organ in plain words, for text prompts.")]
LesionOption = Annotated[str, typer.Option("--lesion", help="With --data: the lesion in plain words.")]
MethodsOption = Annotated[
    str | None, typer.Option("--methods", help="Comma-separated names; see `tags-bench methods`.")
]
OutOption = Annotated[Path, typer.Option("--out", help="Records, checkpoints, predictions, logs and the MLflow store.")]
RecordsOption = Annotated[Path | None, typer.Option("--records", help="Read records from here; default: OUT/records.")]
UriOption = Annotated[str | None, typer.Option("--tracking-uri", help="MLflow server; default: SQLite in OUT.")]
AddressOption = Annotated[str | None, typer.Option("--address", help="Ray cluster to join; default: this machine.")]
SeedOption = Annotated[int | None, typer.Option("--seed", help="Replaces the suite's seed.")]
MinutesOption = Annotated[float | None, typer.Option("--minutes", min=0.01, help="Training budget of each method.")]
StepsOption = Annotated[int | None, typer.Option("--steps", min=1, help="Training budget in optimiser steps.")]
WorkersOption = Annotated[int | None, typer.Option("--workers", min=1, help="Ray Train workers per training.")]
CpusOption = Annotated[int | None, typer.Option("--cpus", min=1, help="Processors per worker.")]
GpusOption = Annotated[float | None, typer.Option("--gpus", min=0, help="GPUs per worker (0.5: two share one).")]
CheckpointOption = Annotated[
    list[str] | None,
    typer.Option(
        "--checkpoint", metavar="METHOD=FILE", help="Official weights of a method, used as they are; repeatable."
    ),
]
AcceptOption = Annotated[bool, typer.Option("--accept-licence", help="Accept the licence without being asked.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]

DEFAULT_OUT = Path("tags-bench-out")


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"tags-bench {version('tags-bench')}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command()
def run(
    suite: SuiteOption = "phantom",
    dataset: DatasetOption = None,
    all_datasets: AllOption = False,
    data: DataOption = None,
    target: TargetOption = None,
    organ: OrganOption = "",
    lesion: LesionOption = "",
    methods: MethodsOption = None,
    out: OutOption = DEFAULT_OUT,
    tracking_uri: UriOption = None,
    address: AddressOption = None,
    seed: SeedOption = None,
    minutes: MinutesOption = None,
    steps: StepsOption = None,
    workers: WorkersOption = None,
    cpus: CpusOption = None,
    gpus: GpusOption = None,
    checkpoint: CheckpointOption = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Compute everything again, trained models included.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Compute failed cases again.")] = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Train, evaluate and rank methods. What is finished is never computed twice.

    Examples:

    * `tags-bench run --all-datasets` — all methods on the synthetic phantoms
    * `tags-bench run --dataset kits21 --methods tags-tiny,ball` — one dataset, two methods
    * `tags-bench run --data ./Task07_Pancreas --target 2 --organ pancreas --lesion tumour` — your own scans
    * `tags-bench run --suite my.yaml --address auto --gpus 1` — a suite of yours, on a Ray cluster
    """
    from benchmarks.results.leaderboard import as_json as plain_rows
    from benchmarks.results.leaderboard import check_complete, leaderboard_of, notes_of

    console = _console()
    chosen = _suite(
        suite,
        dataset,
        all_datasets,
        data,
        target,
        organ,
        lesion,
        methods,
        seed,
        minutes,
        steps,
        workers,
        cpus,
        gpus,
    )
    chosen = chosen.with_checkpoints(_checkpoint_files(checkpoint))
    folders, units, datasets = _plan(chosen, out, console)
    frame, computed, seconds, links = _execute(
        chosen, units, datasets, folders, tracking_uri, address, fresh, retry_failed, console
    )
    descriptions = [unit.description() for unit in units]
    check_complete(frame, descriptions)
    board = leaderboard_of(frame, descriptions)
    if as_json:
        _print_json({"leaderboard": plain_rows(board), "computed_cases": computed, "seconds": seconds, **links})
        return
    from benchmarks.results.tables import show_leaderboard, show_mapping

    printer = _console(stderr=False)
    show_leaderboard(board, printer, notes_of(frame, descriptions))
    total = sum(len(unit.cases) for unit in units)
    show_mapping(f"{computed} of {total} cases computed now, {seconds:.0f} s", links, printer)
    show_mapping("next", _next_steps(chosen, out, links), printer)


@app.command()
def train(
    suite: SuiteOption = "phantom",
    dataset: DatasetOption = None,
    all_datasets: AllOption = False,
    data: DataOption = None,
    target: TargetOption = None,
    organ: OrganOption = "",
    lesion: LesionOption = "",
    methods: MethodsOption = "tags-tiny",
    out: OutOption = DEFAULT_OUT,
    tracking_uri: UriOption = None,
    address: AddressOption = None,
    seed: SeedOption = None,
    minutes: MinutesOption = None,
    steps: StepsOption = None,
    workers: WorkersOption = None,
    cpus: CpusOption = None,
    gpus: GpusOption = None,
    checkpoint: CheckpointOption = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Train again even if the checkpoint exists.")] = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Train methods on the training split and keep the checkpoints, which `run` then uses.

    Examples:

    * `tags-bench train --dataset kits21 --minutes 2` — tags-tiny on the phantoms of one dataset
    * `tags-bench train --workers 2` — two Ray Train workers
    * `tags-bench train --data ./Task07_Pancreas --target 2 --methods tags-vit-b --gpus 1 --minutes 600`
    """
    import shutil

    from benchmarks.execution.cluster import start_ray
    from benchmarks.execution.pool import train_now
    from benchmarks.execution.training import checkpoint_folder

    console = _console()
    chosen = _suite(
        suite,
        dataset,
        all_datasets,
        data,
        target,
        organ,
        lesion,
        methods,
        seed,
        minutes,
        steps,
        workers,
        cpus,
        gpus,
    )
    chosen = _fine_tuned(chosen.with_checkpoints(_checkpoint_files(checkpoint)))
    folders, units, _ = _plan(chosen, out, console)
    units = [unit for unit in units if unit.job is not None]
    if not units:
        raise UserError("none of these methods is trained; see `tags-bench methods`")
    start_ray(address)
    results = []
    for unit in units:
        assert unit.job is not None
        folder = checkpoint_folder(folders.checkpoints, unit.job)
        if fresh and folder.exists():
            shutil.rmtree(folder)
        with console.status(f"training {unit.title}, log in {unit.log}"):
            figures = train_now(unit, folders)
        results.append({**figures, "checkpoint": str(folder)})
    sink = _sink(folders, tracking_uri)
    for unit, figures in zip(units, results, strict=True):
        sink.log_training(unit.description(), figures)
    sink.close()
    if as_json:
        _print_json(results)
        return
    from benchmarks.results.tables import show_mapping

    for figures in results:
        shown = {key: value for key, value in figures.items() if not isinstance(value, (list, dict))}
        show_mapping(f"{figures['method']} on {figures['dataset']}", shown, _console(stderr=False))


@app.command()
def tune(
    suite: SuiteOption = "phantom",
    dataset: DatasetOption = None,
    data: DataOption = None,
    target: TargetOption = None,
    organ: OrganOption = "",
    lesion: LesionOption = "",
    methods: MethodsOption = "tags-tiny",
    trials: Annotated[int, typer.Option("--trials", min=1, help="Points of the search space to try.")] = 6,
    concurrent: Annotated[int, typer.Option("--concurrent", min=1, help="Trials at a time.")] = 2,
    out: OutOption = DEFAULT_OUT,
    tracking_uri: UriOption = None,
    address: AddressOption = None,
    seed: SeedOption = None,
    minutes: MinutesOption = None,
    steps: StepsOption = None,
    workers: WorkersOption = None,
    cpus: CpusOption = None,
    gpus: GpusOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Search a method's hyper-parameters (Ray Tune, Optuna, ASHA); the validation split decides.

    Examples:

    * `tags-bench tune --trials 6` — tags-tiny on the first dataset of the phantoms
    * `tags-bench tune --methods tags-vit-b --data DIR --target 2 --gpus 1 --minutes 120 --trials 40 --concurrent 8`
    """
    from dataclasses import replace

    from benchmarks.execution.cluster import start_ray
    from benchmarks.execution.tuning import tune_method
    from benchmarks.results.sweep import as_rows

    console = _console()
    chosen = _suite(
        suite, dataset, False, data, target, organ, lesion, methods, seed, minutes, steps, workers, cpus, gpus
    )
    folders, units, datasets = _plan(chosen, out, console)
    if len(units) != 1 or units[0].job is None:
        raise UserError("a sweep takes exactly one method that is trained, and one dataset")
    unit, job, data_set = units[0], units[0].job, datasets[0]
    validation = tuple(data_set.split_cases("validation", unit.fold))
    start_ray(address)
    with console.status(f"{trials} trials of {unit.title}"):
        found = tune_method(
            replace(job, validation=validation), trials, concurrent, folders.out / "sweeps" / unit.digest
        )
    rows = as_rows(found)
    best = found[0]
    best_file = folders.out / "sweeps" / unit.digest / "best.yaml"
    import yaml

    best_file.write_text(
        yaml.safe_dump({"name": unit.method.name, "label": f"{unit.method.name}-tuned", "config": best.config})
    )
    sink = _sink(folders, tracking_uri)
    sink.log_sweep(unit.description(), found)
    sink.close()
    if as_json:
        _print_json({"trials": rows, "best": best.config, "best_file": str(best_file)})
        return
    from benchmarks.results.tables import show_rows

    printer = _console(stderr=False)
    _say_synthetic(data_set.synthetic, printer)
    show_rows(f"sweep of {unit.title}", rows, printer)
    printer.print(f"best setting: {best_file} (an entry for the `methods:` of a suite)", soft_wrap=True)


@app.command()
def ablate(
    suite: SuiteOption = "ablation",
    dataset: DatasetOption = None,
    all_datasets: AllOption = False,
    data: DataOption = None,
    target: TargetOption = None,
    organ: OrganOption = "",
    lesion: LesionOption = "",
    methods: MethodsOption = "tags-tiny",
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Trainings of every variant.")] = 1,
    metric: Annotated[str, typer.Option("--metric", help="What is compared.")] = "dice",
    out: OutOption = DEFAULT_OUT,
    tracking_uri: UriOption = None,
    address: AddressOption = None,
    seed: SeedOption = None,
    minutes: MinutesOption = None,
    steps: StepsOption = None,
    workers: WorkersOption = None,
    cpus: CpusOption = None,
    gpus: GpusOption = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Compute everything again, trained models included.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Compute failed cases again.")] = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Train and evaluate a method without each of its parts in turn: what is every part worth?

    Examples:

    * `tags-bench ablate --all-datasets --repeats 3` — tags-tiny on the synthetic phantoms
    * `tags-bench ablate --methods tags-vit-b --data DIR --target 2 --gpus 1 --minutes 120`
    """
    from benchmarks.execution.ablation import ablation_suite, ablation_table
    from benchmarks.results.leaderboard import as_json as plain_rows
    from benchmarks.results.leaderboard import check_complete
    from benchmarks.results.statistics import higher_is_better

    higher_is_better(metric)  # an unknown metric ends here, before the work
    console = _console()
    chosen = _suite(
        suite,
        dataset,
        all_datasets,
        data,
        target,
        organ,
        lesion,
        methods,
        seed,
        minutes,
        steps,
        workers,
        cpus,
        gpus,
    )
    chosen, variants = ablation_suite(chosen, repeats)
    folders, units, datasets = _plan(chosen, out, console)
    frame, computed, seconds, links = _execute(
        chosen, units, datasets, folders, tracking_uri, address, fresh, retry_failed, console
    )
    check_complete(frame, [unit.description() for unit in units])
    table = ablation_table(frame, variants, metric)
    if as_json:
        _print_json({"ablation": plain_rows(table), "computed_cases": computed, "seconds": seconds, **links})
        return
    from benchmarks.results.tables import show_ablation, show_mapping

    printer = _console(stderr=False)
    show_ablation(table, metric, any(dataset.synthetic for dataset in datasets), printer)
    total = sum(len(unit.cases) for unit in units)
    show_mapping(f"{computed} of {total} cases computed now, {seconds:.0f} s", links, printer)


@app.command()
def leaderboard(
    suite: Annotated[str, typer.Option("--suite", help="Name of the suite whose records are shown.")] = "phantom",
    out: OutOption = DEFAULT_OUT,
    records: RecordsOption = None,
    tracking_uri: Annotated[
        str | None, typer.Option("--tracking-uri", help="Read from this MLflow server, not from records.")
    ] = None,
    overall: Annotated[bool, typer.Option("--overall", help="Only the tables over all datasets.")] = False,
    show_all: Annotated[bool, typer.Option("--details", help="Ranks, paired tests, subgroups, click curves …")] = False,
    table: Annotated[
        list[str] | None, typer.Option("--table", help="Only this table of --details, such as comparisons; repeatable.")
    ] = None,
    metric: Annotated[str, typer.Option("--metric", help="What the details compare.")] = "dice",
    margin: Annotated[float | None, typer.Option("--margin", help="Differences below this are of no interest.")] = None,
    incomplete: Annotated[bool, typer.Option("--incomplete", help="Show a run that is not finished.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print as Markdown.")] = False,
    latex: Annotated[bool, typer.Option("--latex", help="Print as LaTeX (booktabs).")] = False,
    svg: Annotated[Path | None, typer.Option("--svg", help="Write a picture of the table to this file.")] = None,
    figure: Annotated[
        Path | None, typer.Option("--figure", help="Draw the robustness and click curves: PNG, SVG or PDF.")
    ] = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Show the ranking from records on disk, or from an MLflow server. Computes no prediction.

    Examples:

    * `tags-bench leaderboard --details` — with paired tests, ranking stability, subgroups
    * `tags-bench leaderboard --records /data/shared/records --suite paper --json`
    * `tags-bench leaderboard --tracking-uri http://127.0.0.1:5000`
    """
    from benchmarks.results.leaderboard import as_json as plain_rows
    from benchmarks.results.leaderboard import check_complete, details, leaderboard_of, notes_of

    if tracking_uri is not None:
        from benchmarks.results.mlflow_sink import records_from_mlflow

        frame, units = records_from_mlflow(tracking_uri, suite)
    else:
        from benchmarks.results.records import RecordStore

        frame, units = RecordStore(records or out / "records").read_suite(suite)
    if not incomplete:
        check_complete(frame, units)
    board, notes = leaderboard_of(frame, units), notes_of(frame, units)
    only, wants_details = tuple(table or ()), show_all or bool(table)
    if as_json:
        rows = plain_rows(board)
        if wants_details:
            tables = details(frame, units, metric, margin, only)
            _print_json({"leaderboard": rows, **{name: plain_rows(one) for name, one in tables.items()}})
        else:
            _print_json(rows)
        return
    from benchmarks.results.tables import show_details, show_leaderboard, to_latex, to_markdown
    from benchmarks.results.tables import svg as as_svg

    if markdown or latex:
        print(to_markdown(board, notes) if markdown else to_latex(board))
        return
    if svg is not None:
        svg.write_text(as_svg(board, notes, overall), encoding="utf-8")
        return
    if figure is not None:
        from benchmarks.results.figures import curves_figure
        from benchmarks.results.tables import SYNTHETIC_BANNER

        curves = details(frame, units, metric, margin, ("robustness", "rounds"))
        synthetic = any(unit["synthetic"] for unit in units)
        print(curves_figure(curves, figure, metric, SYNTHETIC_BANNER if synthetic else ""))
        return
    printer = _console(stderr=False)
    show_leaderboard(board, printer, notes, overall)
    if wants_details:
        show_details(frame, units, printer, metric, margin, only)


@app.command()
def score(
    predictions: Annotated[Path, typer.Argument(metavar="PRED_DIR", help="Folder of predicted masks (NIfTI).")],
    labels: Annotated[Path, typer.Argument(metavar="LABEL_DIR", help="Folder of label maps; files pair by name.")],
    label: Annotated[int | None, typer.Option("--label", help="The value to score; without it, all above 0.")] = None,
    tolerance: Annotated[
        list[float] | None,
        typer.Option("--tolerance", min=0, help="Of the surface Dice, mm; repeatable. Default 1 2 5."),
    ] = None,
    as_json: JsonOption = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print a row per case as CSV.")] = False,
    debug: DebugOption = False,
) -> None:
    """Score a folder of masks against a folder of labels: Dice, IoU, surface Dice, HD95, lesions. No run is needed.

    Examples:

    * `tags-bench score predictions/ labelsTs/` — every voxel above 0
    * `tags-bench score predictions/ labelsTs/ --label 2 --tolerance 1 --tolerance 3 --json`
    """
    from benchmarks.metrics import TOLERANCES_MM
    from benchmarks.metrics.folders import mean_scores, score_folders, to_csv, to_json

    if as_json and as_csv:
        raise UserError("choose one of --json and --csv")
    rows = score_folders(predictions, labels, label, tuple(tolerance) if tolerance else TOLERANCES_MM)
    if as_json:
        print(to_json(rows))
        return
    if as_csv:
        print(to_csv(rows), end="")
        return
    from benchmarks.results.tables import show_mapping, show_rows

    surface = [key for key in rows[0] if key.startswith("nsd@")]
    shown = ["case", "dice", "iou", *surface, "hd95_mm", "lesion_f1", "status"]
    table = [
        {key: f"{row[key]:.3f}" if isinstance(row[key], float) else row[key] for key in shown} | {"": row["reason"]}
        for row in rows
    ]
    printer = _console(stderr=False)
    show_rows(f"{predictions} against {labels}", table, printer)
    means = mean_scores(rows)
    show_mapping(
        "means, failed cases at their worst values",
        {key: f"{means[key]:.3f}" for key in shown if key in means},
        printer,
    )


@app.command("methods")
def list_methods(as_json: JsonOption = False, debug: DebugOption = False) -> None:
    """List the installed methods: what they understand, how they train, where they come from."""
    from benchmarks.contestants import methods as installed

    rows = [
        {
            "name": method.name,
            "summary": method.summary,
            "prompts": ", ".join(sorted(method.prompts)),
            "training": {"none": "none", "bench": "by the bench", "own": "by its own tool"}[method.training],
            "floor": "yes" if method.floor else "",
        }
        for method in installed().values()
    ]
    _rows("methods", rows, as_json)


@app.command("datasets")
def list_datasets(as_json: JsonOption = False, debug: DebugOption = False) -> None:
    """List the datasets that the bench knows by name; any MSD or nnU-Net folder works with --data."""
    from benchmarks.data.catalogue import datasets as known

    rows = [
        {
            "name": info.name,
            "title": info.title,
            "target": ", ".join(target.name for target in info.targets),
            "cases": info.cases,
            "licence": info.licence,
            "split": info.split_source,
        }
        for info in known().values()
    ]
    _rows("datasets", rows, as_json)


@data_app.command("synth")
def data_synth(
    dataset: DatasetOption = None,
    cases: Annotated[int, typer.Option("--cases", min=3, help="Phantoms per dataset.")] = 14,
    out: OutOption = DEFAULT_OUT,
    seed: SeedOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Write synthetic CT in the official layout of KiTS21, MSD-Pancreas and LiTS17.

    Example: `tags-bench data synth --dataset lits17 --cases 20 --out /tmp/phantoms`
    """
    from benchmarks.common.errors import nearest_name
    from benchmarks.data.phantom import KINDS as PHANTOMS
    from benchmarks.data.phantom import synthesise

    console = _console()
    rows = []
    for name in dataset or list(PHANTOMS):
        if name not in PHANTOMS:
            raise UserError(f"no phantom of dataset '{name}'; {nearest_name(name, PHANTOMS)}")
        with console.status(f"writing {cases} phantoms of {name}"):
            folder = synthesise(
                name, _writable(out) / "data" / "phantom", seed=2026 if seed is None else seed, cases=cases
            )
        rows.append({"dataset": name, "cases": cases, "folder": str(folder), "synthetic": True})
    _rows("synthetic phantoms", rows, as_json)


@data_app.command("fetch")
def data_fetch(
    name: Annotated[str, typer.Argument(help="msd-pancreas, msd-colon, lits17 or kits21.")],
    cases: Annotated[int | None, typer.Option("--cases", min=1, help="Only the first cases (kits21).")] = None,
    accept: AcceptOption = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Download a public dataset (resumed, checksummed), check it, and add it. The licence is shown and accepted once.

    Example: `tags-bench data fetch msd-pancreas --accept-licence`
    """
    from benchmarks.common.errors import nearest_name
    from benchmarks.data.fetch import accept_licence, fetch, fetchable, licence, licence_accepted

    if name not in fetchable():
        raise UserError(f"'{name}' cannot be fetched; {nearest_name(name, fetchable())}")
    console = _console()
    if not licence_accepted(name):
        _show_licence(licence(name), accept, console)
        accept_licence(name)
    with _download_bars(console) as advance:
        folder = fetch(name, cases=range(cases) if cases else None, progress=advance)
    _add_dataset(name, folder, console, as_json)


@data_app.command("add")
def data_add(
    name: Annotated[str, typer.Argument(help="kits21, msd-pancreas, lits17, msd-colon, or a name for your own data.")],
    source: Annotated[
        Path,
        typer.Option(
            "--from", help="Folder with the data as downloaded, or a CSV table of pairs; nothing is written there."
        ),
    ],
    target: TargetOption = None,
    organ: OrganOption = "",
    lesion: LesionOption = "",
    splits: Annotated[str | None, typer.Option("--splits", help="3dsam-adapter or patient; default: its own.")] = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Check every voxel of a dataset and list it by name; bad cases are left out and listed with reasons.

    Example: `tags-bench data add kits21 --from /data/kits21`
    """
    if not source.exists():
        raise UserError(f"--from {source}: no such folder or table")
    options = {"target": target, "organ": organ, "lesion": lesion, "splits": splits}
    _add_dataset(name, source, _console(), as_json, **options)


@data_app.command("list")
def data_list(as_json: JsonOption = False, debug: DebugOption = False) -> None:
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
    if not rows and not as_json:
        print("none yet; see `tags-bench data add --help`")
        return
    _rows("datasets of this machine", rows, as_json)


@data_app.command("verify")
def data_verify(
    name: Annotated[str, typer.Argument(help="A dataset of `tags-bench data list`.")],
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Check an added dataset again, after its files changed."""
    from benchmarks.data.registry import verify_again
    from benchmarks.data.verify import in_processes

    with _case_bar(_console(), name) as (opened, progress):
        found = verify_again(name, each=in_processes, opened=opened, progress=progress)
    _show_registration(found, as_json)


@data_app.command("stats")
def data_stats(
    name: Annotated[str, typer.Argument(help="A dataset of `tags-bench data list`.")],
    figure: Annotated[Path | None, typer.Option("--figure", help="Also draw it: PNG, SVG or PDF.")] = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Spacings, sizes, Hounsfield units, volume and number of tumours over the cases of a dataset."""
    from benchmarks.data.figures import statistics_figure
    from benchmarks.data.registry import registration
    from benchmarks.data.verify import statistics

    found = registration(name)
    _rows(f"{name}, {len(found.sizes)} cases", statistics(found.reports), as_json)
    if figure is not None:
        _console().print(f"figure: {statistics_figure(found.reports, figure, name)}")


@data_app.command("splits")
def data_splits(
    name: Annotated[str, typer.Argument(help="A dataset of `tags-bench data list`.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Also write the case ids of every fold to this file.")
    ] = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Show how many cases are in which part of every fold, with a hash of each fold; every run uses these.

    Example: `tags-bench data splits kits21 --out kits21-splits.json`
    """
    from benchmarks.data.registry import load
    from benchmarks.data.splits import split_rows, write_splits

    dataset = load(name)
    _rows(f"splits of {name}: {dataset.split_source}", split_rows(dataset.splits), as_json)
    if out is not None:
        _console().print(f"case ids: {write_splits(out, name, dataset.split_source, dataset.splits)}")


@data_app.command("remove")
def data_remove(
    name: Annotated[str, typer.Argument(help="A dataset of `tags-bench data list`.")], debug: DebugOption = False
) -> None:
    """Forget an added dataset. No file of it is deleted."""
    from benchmarks.data.registry import remove

    print(f"forgotten; the files stay in {remove(name)}")


@data_app.command("import-dicom")
def data_import_dicom(
    source: Annotated[Path, typer.Argument(help="A folder per case: a CT series with its RTSTRUCT or SEG.")],
    out: Annotated[Path, typer.Option("--out", help="New folder for the scans in MSD layout.")],
    label: Annotated[list[str], typer.Option("--label", metavar="NAME=VALUE", help="ROI or segment; repeatable.")],
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Convert DICOM series with contours or segmentations into a folder that `--data` reads.

    Example: `tags-bench data import-dicom DICOM --out scans --label GTV-1=1`
    """
    from benchmarks.data.dicom import convert

    labels = {}
    for word in label:
        roi, separator, value = word.rpartition("=")
        if not separator or not value.isdigit():
            raise UserError(f"--label {word}: the form is NAME=VALUE, such as GTV-1=1")
        labels[roi] = int(value)
    with _console().status("converting"):
        failed = convert(source, out, labels)
    rows = [{"case": case, "not converted": why} for case, why in failed.items()]
    if as_json:
        _print_json({"folder": str(out), "failed": failed})
    elif rows:
        _rows(f"{out}, without these", rows, as_json=False)
    else:
        print(f"all cases converted into {out}")


def _show_licence(terms: str, accept: bool, console: Console) -> None:
    """Show it, and go on only if it is accepted, by option or by answer."""
    console.print(terms, soft_wrap=True, markup=False)
    if not accept and not (sys.stdin.isatty() and typer.confirm("Do you accept it?", err=True)):
        raise UserError("the licence was not accepted; read it and use --accept-licence")


@contextmanager
def _download_bars(console: Console) -> Iterator[Callable[[Any, int, int | None], None]]:
    """A bar for every file that is being fetched."""
    from rich.progress import DownloadColumn, Progress, TransferSpeedColumn

    with Progress(*Progress.get_default_columns(), DownloadColumn(), TransferSpeedColumn(), console=console) as bars:
        tasks: dict[str, Any] = {}

        def advance(remote: Any, done: int, total: int | None) -> None:
            if remote.path not in tasks:
                tasks[remote.path] = bars.add_task(remote.path, total=total)
            bars.update(tasks[remote.path], completed=done, total=total)

        yield advance


@weights_app.command("list")
def weights_list(
    method: Annotated[str | None, typer.Option("--method", help="Only the files of this method.")] = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """List the official files of all installed methods: size, licence, whether it is here, how to come by it.

    No file is read: "verified" and "wrong …" tell what the last check of these very bytes found.
    """
    from benchmarks.common.weight_file import weights_folder
    from benchmarks.weights.official_files import as_rows, official_files, readable, wanted

    rows = as_rows(wanted([method]) if method else official_files().values())
    if as_json:
        _print_json(rows)
        return
    shown = [
        {
            "file": row["file"],
            "methods": ", ".join(row["methods"]),
            "size": readable(row["bytes"]),
            "licence": row["licence"],
            "state": row["state"],
            "how": row["how"] + (", optional" if row["optional"] else ""),
        }
        for row in rows
    ]
    _rows(f"official files, in {weights_folder()}", shown, as_json)
    if any(row["state"] == "absent" for row in rows):
        print("`tags-bench weights fetch FILE` brings a file, or says how to get it by hand")


@weights_app.command("fetch")
def weights_fetch(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Files or methods of `tags-bench weights list`.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every file that a program can fetch.")] = False,
    accept: AcceptOption = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Download official files (resumed, checked) into the weights folder. The licence is shown and accepted once.

    Examples:

    * `tags-bench weights fetch sam-b` — the file of a method
    * `tags-bench weights fetch sam_vit_h_4b8939.pth --accept-licence` — a file by name
    """
    from benchmarks.weights.official_files import (
        accept_licence,
        fetch_all,
        licence_accepted,
        official_files,
        terms,
        wanted,
    )

    if bool(names) == every:
        raise UserError("name files or methods of `tags-bench weights list`, or use --all")
    chosen = [one for one in official_files().values() if one.file.url] if every else wanted(names or [])
    console = _console()
    for one in chosen:
        if one.file.url and not one.file.path.is_file() and not licence_accepted(one.file):
            _show_licence(terms(one.file), accept, console)
            accept_licence(one.file)
    with _download_bars(console) as advance:
        rows, problems = fetch_all(chosen, advance)
    if rows or as_json:
        _rows("in the weights folder", rows, as_json)
    if problems:
        raise UserError("; ".join(problems))


@weights_app.command("verify")
def weights_verify(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", help="Files or methods; default: every file that is here."),
    ] = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Read official files: size, checksum where one is published, and whether they hold what their name says.

    Where no checksum is published, the computed SHA-256 is shown. Exit code 2 if a file is not what it should be.
    """
    from benchmarks.weights.official_files import official_files, problems_of, verify, wanted

    chosen = wanted(names) if names else [one for one in official_files().values() if one.file.path.is_file()]
    with _console().status("reading the files"):
        rows = [verify(one) for one in chosen]
    if not rows and not as_json:
        print("no official file is here; see `tags-bench weights list`")
        return
    if as_json:
        _print_json(rows)
    else:
        shown = [{key: row[key] for key in ("file", "state", "sha256", "published", "problem")} for row in rows]
        for row in shown:
            row["published"] = row["published"].partition(":")[0]
        _rows("official files, read just now", shown, as_json)
    problems = problems_of(rows)
    if problems:
        raise UserError("; ".join(problems))


def _add_dataset(name: str, folder: Path, console: Console, as_json: bool, **options: Any) -> None:
    from benchmarks.data.registry import add
    from benchmarks.data.verify import in_processes

    with _case_bar(console, name) as (opened, progress):
        found = add(name, folder, each=in_processes, opened=opened, progress=progress, **options)
    _show_registration(found, as_json)


@contextmanager
def _case_bar(console: Console, name: str) -> Iterator[tuple[Callable[[Any], None], Callable[[Any], None]]]:
    """A progress bar over the cases of a dataset: to be told the dataset, then every case."""
    from rich.progress import MofNCompleteColumn, Progress

    with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=console) as bar:
        task = bar.add_task(f"checking {name}", total=None)
        yield (lambda dataset: bar.update(task, total=len(dataset.cases))), (lambda report: bar.advance(task))


def _show_registration(found: Any, as_json: bool) -> None:
    from benchmarks.data.registry import problem_rows

    rows = problem_rows(found)
    if as_json:
        _print_json({"name": found.name, "root": str(found.root), "cases": len(found.sizes), "problems": rows})
        return
    if rows:
        _rows(f"{found.name}: what is wrong with which case", rows, as_json=False)
    left = f", {len(found.excluded)} left out" if found.excluded else ", no error found"
    print(f"{found.name}: {len(found.sizes)} cases{left}; use it as a dataset without `source` in a suite")


# --- new: beside data_app ---
prompts_app = typer.Typer(no_args_is_help=True, help="Look at first prompts, take them out as JSON, give your own.")
app.add_typer(prompts_app, name="prompts")
ProtocolOption = Annotated[str, typer.Option("--protocol", help="A protocol of the suite, by its name.")]
OneDatasetOption = Annotated[
    str | None, typer.Option("--dataset", help="A dataset of the suite; default: its first one.")
]


@prompts_app.command("show")
def prompts_show(
    suite: SuiteOption = "phantom",
    dataset: OneDatasetOption = None,
    protocol: ProtocolOption = "centre-click",
    case: Annotated[str | None, typer.Option("--case", help="Only this case.")] = None,
    out: OutOption = DEFAULT_OUT,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Show the frozen first prompts that every method is given, in world mm and voxels.

    Example: `tags-bench prompts show --dataset kits21 --protocol centre-click`
    """
    from benchmarks.execution.prompt_banks import frozen_bank
    from benchmarks.prompting.by_hand import prompt_rows

    chosen, data, fold, folder, followed = _prompted(suite, dataset, protocol, out)
    bank = frozen_bank(folder, chosen, data, fold, followed)
    title = f"{bank.origin} prompts, {data.name}, {followed.name}, bank {bank.digest[:16]}"
    _rows(title, prompt_rows(bank, case), as_json)


@prompts_app.command("export")
def prompts_export(
    to: Annotated[Path, typer.Argument(metavar="DIR", help="New folder: one JSON file for each case and target.")],
    suite: SuiteOption = "phantom",
    dataset: OneDatasetOption = None,
    protocol: ProtocolOption = "centre-click",
    out: OutOption = DEFAULT_OUT,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Write the first prompts as JSON in world mm, to be read, drawn in a viewer, or edited.

    Example: `tags-bench prompts export clicks --dataset kits21`
    """
    from benchmarks.execution.prompt_banks import frozen_bank
    from benchmarks.prompting.by_hand import export_prompts

    chosen, data, fold, folder, followed = _prompted(suite, dataset, protocol, out)
    files = export_prompts(frozen_bank(folder, chosen, data, fold, followed), to)
    _print_json({"files": [str(file) for file in files]}) if as_json else print(f"{len(files)} files in {to}")


@prompts_app.command("import")
def prompts_import(
    source: Annotated[Path, typer.Argument(metavar="DIR", help="Folder as `prompts export` writes it.")],
    suite: SuiteOption = "phantom",
    dataset: OneDatasetOption = None,
    protocol: ProtocolOption = "centre-click",
    replace: Annotated[bool, typer.Option("--replace", help="Replace other prompts that were given before.")] = False,
    out: OutOption = DEFAULT_OUT,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Let the next run of the suite replay your own first prompts, to every method; its rows say so.

    Example: `tags-bench prompts import clicks --dataset kits21`, then `tags-bench run --dataset kits21`
    """
    from benchmarks.execution.prompt_banks import bank_file
    from benchmarks.prompting.by_hand import import_prompts, save_given

    chosen, data, fold, folder, followed = _prompted(suite, dataset, protocol, out)
    bank = import_prompts(source, data, chosen.part, fold, followed, chosen.seed)
    path = bank_file(folder, chosen, data, fold, followed)
    save_given(bank, path, replace)
    told = {"bank": str(path), "sha256": bank.digest, "cases": len(bank.cases)}
    _print_json(told) if as_json else print(f"{len(bank.cases)} cases; the next run replays {path}")


def _prompted(suite: str, dataset: str | None, protocol: str, out: Path) -> tuple[Suite, Dataset, int, Path, Protocol]:
    """Suite, dataset, fold, folder of the prompt banks and protocol that the options name."""
    from benchmarks.execution.plan import Folders, resolve_dataset
    from benchmarks.execution.prompt_banks import protocol_of
    from benchmarks.execution.suite import load_suite

    chosen = load_suite(suite)
    entry = chosen.with_datasets([dataset]).datasets[0] if dataset else chosen.datasets[0]
    folders = Folders(_writable(out))
    followed = protocol_of(chosen, protocol)
    return chosen, resolve_dataset(entry, chosen.seed, folders), entry.fold, folders.prompts, followed


@app.command()
def predict(
    scan: Annotated[Path, typer.Argument(help="The scan (NIfTI, NRRD or MHA); no label is needed.")],
    mask: Annotated[Path, typer.Argument(help="The mask to write: .nii or .nii.gz.")],
    method: Annotated[str, typer.Option("--method", help="A method of a finished run, as its leaderboard names it.")],
    prompts: Annotated[Path | None, typer.Option("--prompts", help="JSON in world mm; see docs/protocols.md.")] = None,
    text: Annotated[str | None, typer.Option("--text", help="A text prompt, such as 'liver tumor'.")] = None,
    suite: Annotated[str, typer.Option("--suite", help="Name of the suite that was run.")] = "phantom",
    dataset: Annotated[str | None, typer.Option("--dataset", help="On which it was trained, if several.")] = None,
    out: OutOption = DEFAULT_OUT,
    gpus: GpusOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Segment one scan with a method of a finished run and your own prompts.

    Example: `tags-bench predict scan.nii.gz mask.nii.gz --method tags-tiny --dataset kits21 --prompts clicks.json`
    """
    from benchmarks.contestants import Budget
    from benchmarks.execution.plan import Folders
    from benchmarks.execution.predict import load_unit, predict_scan, unit_of
    from benchmarks.execution.training import device_for
    from benchmarks.results.records import RecordStore

    folders = Folders(out.expanduser().resolve())
    _, units = RecordStore(folders.records).read_suite(suite)
    unit = unit_of(units, method, dataset)
    segmenter, target = load_unit(unit, folders.checkpoints, device_for(Budget(gpus=gpus or 0.0)))
    told = predict_scan(scan, segmenter, target, mask, prompts, text)
    if as_json:
        _print_json(told)
        return
    from benchmarks.results.tables import show_mapping

    printer = _console(stderr=False)
    _say_synthetic(bool(unit["synthetic"]), printer)
    show_mapping(f"{method}, trained and evaluated on {unit['dataset']}", told, printer)


@app.command()
def doctor(
    out: OutOption = DEFAULT_OUT,
    tracking_uri: UriOption = None,
    address: AddressOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Say what is installed and reachable: packages, GPU, Ray, MLflow, checkpoints."""
    from benchmarks.execution.doctor import examine

    findings = examine(out.resolve(), tracking_uri, address)
    if as_json:
        _print_json(findings)
        return
    from benchmarks.results.tables import show_mapping

    for section, values in findings.items():
        show_mapping(section, values, _console(stderr=False))


def _suite(
    name: str,
    datasets: list[str] | None,
    all_datasets: bool,
    data: Path | None,
    target: str | None,
    organ: str,
    lesion: str,
    methods: str | None,
    seed: int | None,
    minutes: float | None,
    steps: int | None,
    workers: int | None,
    cpus: int | None,
    gpus: float | None,
) -> Suite:
    """The suite that the options describe."""
    from benchmarks.execution.suite import BudgetEntry, DatasetEntry, load_suite

    suite = load_suite(name)
    if data is not None:
        if all_datasets or (datasets and len(datasets) > 1):
            raise UserError("--data names one folder; use it with at most one --dataset, and not with --all-datasets")
        if not data.exists():
            raise UserError(f"--data {data}: no such folder or table")
        own = datasets[0] if datasets else data.resolve().stem if data.is_file() else data.resolve().name
        entry = DatasetEntry(name=own, source=str(data), target=target, organ=organ, lesion=lesion)
        suite = suite.model_copy(update={"name": f"data-{own}", "title": str(data), "datasets": (entry,)})
    elif target or organ or lesion:
        raise UserError("--target, --organ and --lesion belong to --data")
    elif datasets:
        suite = suite.with_datasets(datasets)
    elif not all_datasets:
        suite = suite.with_datasets([suite.datasets[0].name])
    if methods:
        suite = suite.with_methods([word.strip() for word in methods.split(",") if word.strip()])
    changes: dict[str, Any] = {}
    if seed is not None:
        changes["seed"] = seed
    if workers is not None:
        changes["workers"] = workers
    given = {"minutes": minutes, "steps": steps, "cpus": cpus, "gpus": gpus}
    budget = suite.budget.model_dump() | {key: value for key, value in given.items() if value is not None}
    if steps is not None and minutes is None:
        budget["minutes"] = None  # a budget in steps replaces one in minutes
    changes["budget"] = BudgetEntry(**budget)
    return suite.model_copy(update=changes)


def _checkpoint_files(given: list[str] | None) -> dict[str, Path]:
    """`METHOD=FILE` words as a mapping. Raises UserError for another form or a missing file."""
    files = {}
    for word in given or []:
        name, separator, path = word.partition("=")
        if not separator or not path:
            raise UserError(f"--checkpoint {word}: the form is METHOD=FILE")
        if not Path(path).expanduser().is_file():
            raise UserError(f"--checkpoint {word}: no such file")
        files[name] = Path(path).expanduser().resolve()
    return files


def _fine_tuned(suite: Suite) -> Suite:
    """Every method trained, those with official weights from these."""
    entries = tuple(entry.model_copy(update={"fine_tune": True}) for entry in suite.methods)
    return suite.model_copy(update={"methods": entries})


def _plan(suite: Suite, out: Path, console: Console) -> tuple[Folders, list[Unit], list[Dataset]]:
    """Output folder, units and datasets; phantoms are written on the way. Bad input ends here, before any work."""
    from benchmarks.contestants import method
    from benchmarks.execution.plan import Folders, plan, resolve_dataset

    for entry in suite.methods:
        method(entry.name).configured(entry.config)
    folders = Folders(_writable(out))
    datasets = []
    for dataset_entry in suite.datasets:
        with console.status(f"reading {dataset_entry.name}"):
            datasets.append(resolve_dataset(dataset_entry, suite.seed, folders))
    return folders, plan(suite, datasets, folders), datasets


def _execute(
    suite: Suite,
    units: list[Unit],
    datasets: list[Dataset],
    folders: Folders,
    tracking_uri: str | None,
    address: str | None,
    fresh: bool,
    retry_failed: bool,
    console: Console,
) -> tuple[pd.DataFrame, int, float, dict[str, str]]:
    """Run the units with progress bars and MLflow; all rows, cases computed, seconds, and where things lie."""
    import time

    import pandas as pd

    from benchmarks.commands.terminal import Bars
    from benchmarks.common.identity import digest
    from benchmarks.execution.cluster import start_ray
    from benchmarks.execution.pool import run as run_units
    from benchmarks.results.leaderboard import leaderboard_of

    started = time.perf_counter()
    synthetic = any(dataset.synthetic for dataset in datasets)
    _say_synthetic(synthetic, console)
    sink = _sink(folders, tracking_uri)
    plan_digest = digest([unit.digest for unit in units])
    sink.begin(suite_as_dict(suite), plan_digest, synthetic, [unit.description() for unit in units])
    with console.status("starting Ray"):
        start_ray(address)
    frames: dict[str, pd.DataFrame] = {}

    def on_unit(unit: Unit, rows: pd.DataFrame, training: dict[str, Any] | None) -> None:
        sink.log_unit(unit.description(), rows, training)
        frames[unit.digest] = rows

    try:
        with Bars(units, console) as bars:
            outcome = run_units(units, folders, bars, fresh=fresh, retry_failed=retry_failed, on_unit=on_unit)
    except BaseException as error:
        sink.end(None, 0, "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        sink.close(patience=3.0)
        raise
    in_order = [frames[unit.digest] for unit in units]  # not in the order in which they happened to finish
    rows = pd.concat([frame for frame in in_order if not frame.empty], ignore_index=True)
    failed = int((rows["status"] == "failed").sum())
    sink.end(leaderboard_of(rows, [unit.description() for unit in units]), failed)
    sink.close()
    links = {
        "MLflow store": sink.shown_uri,
        "records": str(folders.records / suite.name),
        "masks and prompts of each case": str(folders.predictions / suite.name),
        "trained models": str(folders.checkpoints),
        "logs": str(folders.logs / suite.name),
    }
    return rows, outcome.computed, time.perf_counter() - started, links


def suite_as_dict(suite: Suite) -> dict[str, Any]:
    """The suite as plain values, for MLflow."""
    plain = suite.model_dump(mode="json", exclude={"protocols"})
    return plain | {"protocols": [protocol.to_mapping() for protocol in suite.protocols]}


def _sink(folders: Folders, tracking_uri: str | None) -> MlflowSink:
    """The MLflow side of this call: the server that was named, or the store of the output folder."""
    from benchmarks.results.mlflow_sink import MlflowSink

    return MlflowSink(folders.out, tracking_uri)


def _next_steps(suite: Suite, out: Path, links: dict[str, str]) -> dict[str, str]:
    place = "" if out == DEFAULT_OUT else f" --out {out}"
    name = "" if suite.name == "phantom" else f" --suite {suite.name}"
    return {
        "ranks, tests, subgroups": f"tags-bench leaderboard --details{place}{name}",
        "browse the runs": f"mlflow ui --host 127.0.0.1 --backend-store-uri {links['MLflow store']}",
        "try your own scans": f"tags-bench run --data DIR --target LABEL --organ NAME --lesion NAME{place}",
        "search hyper-parameters": f"tags-bench tune --methods tags-tiny{place}",
    }


def _writable(out: Path) -> Path:
    """The output folder, absolute, created. Raises UserError if nothing can be written there."""
    import os
    import tempfile

    folder = out.expanduser().resolve()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written ({os.strerror(error.errno or 0)})") from error
    return folder


def _say_synthetic(synthetic: bool, console: Console) -> None:
    if synthetic:
        from benchmarks.results.tables import SYNTHETIC_BANNER

        console.print(f"[bold yellow]{SYNTHETIC_BANNER}[/]")


def _rows(title: str, rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        _print_json(rows)
        return
    from benchmarks.results.tables import show_rows

    show_rows(title, rows, _console(stderr=False))


def _print_json(content: Any) -> None:
    print(json.dumps(content, indent=2, default=_plain))


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _console(stderr: bool = True) -> Console:
    """Progress goes to standard error, results to standard output; a file or a pipe gets wide lines."""
    from rich.console import Console

    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(stderr=stderr, width=None if terminal else 120)


def main() -> None:
    """Entry point: a user's mistake is one line and exit code 2; a traceback needs --debug."""
    try:
        app()
    except UserError as error:
        if "--debug" in sys.argv:
            raise
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except Exception as error:
        if "--debug" in sys.argv:
            raise
        print(f"internal error: {one_line(error)} (run again with --debug for the traceback)", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
