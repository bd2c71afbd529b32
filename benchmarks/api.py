"""The bench from Python: one function for every verb of the command line, each giving back a result object.

    import benchmarks
    suite = benchmarks.load_suite("phantom", datasets=["lits17"], methods=["ball", "region-growing"])
    benchmarks.run(suite)

Ray is started on first use and kept until the process ends; pass `address` to join a cluster.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.common.errors import UserError, nearest_name
from benchmarks.common.output import DEFAULT_OUT, writable_folder
from benchmarks.common.output_lock import only_writer
from benchmarks.common.paths import user_path
from benchmarks.execution import suite as suites
from benchmarks.execution.ablation import ablation_suite
from benchmarks.execution.outcomes import (
    AblationResult,
    Prediction,
    ReportChoice,
    ReportResult,
    Results,
    RunResult,
    ScoreResult,
    TablePrediction,
    TrainingResult,
    TuningResult,
)
from benchmarks.execution.progress import Progress
from benchmarks.execution.rehearsal.mark import refuse_rehearsal
from benchmarks.execution.rehearsal.whole import REHEARSAL_OUT, Rehearsal, Scope, rehearsed
from benchmarks.execution.suite import BudgetChanges, OwnData, Suite
from benchmarks.execution.tuned import Points, tuned
from benchmarks.execution.wanted import InstalledMethod as InstalledMethod
from benchmarks.execution.wanted import MethodOfCheckpoint as MethodOfCheckpoint
from benchmarks.execution.wanted import MethodOfRun as MethodOfRun
from benchmarks.execution.wanted import PredictOptions, Wanted
from benchmarks.execution.work import Recompute, check_protocols, executed, planned, trained
from benchmarks.metrics import TOLERANCES_MM
from benchmarks.prompting.given import GivenPrompts
from benchmarks.results.audit import Trail, trails_of
from benchmarks.results.records import RecordStore
from benchmarks.results.run_pairs import RunPairs, Side, compared

if TYPE_CHECKING:
    from benchmarks.execution.zoo import ZooOrder


def load_suite(
    name_or_file: str | Path = "phantom",
    *,
    datasets: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
    data: OwnData | str | Path | None = None,
    budget: BudgetChanges | None = None,
    seed: int | None = None,
    checkpoints: Mapping[str, Path] | None = None,
) -> Suite:
    """Read a suite, and change what is named here; `Suite.with_fold` and `with_protocols` change more.

    Args:
        name_or_file: an embedded suite by name, or a YAML file.
        datasets: only these of the suite, or of those added on this machine.
        methods: only these; a name that the suite does not list joins with its default configuration.
        data: the user's own scans in place of the datasets.
        budget: of the training.
        seed: of phantoms, splits, prompts and trainings.
        checkpoints: official weights files, by method, used as they are.

    Raises:
        UserError: an unknown name (the nearest one is offered), an unreadable file, a bad value.
    """
    suite = suites.load_suite(str(name_or_file))
    if data is not None:
        if datasets is not None:
            raise UserError("own data replace the datasets of a suite; name one or the other")
        suite = suite.with_own_data(data if isinstance(data, OwnData) else OwnData(Path(data)))
    elif datasets is not None:
        suite = suite.with_datasets(datasets)
    if methods is not None:
        suite = suite.with_methods(methods)
    if budget is not None:
        suite = suite.with_budget(budget)
    if seed is not None:
        suite = suite.with_seed(seed)
    return suite.with_checkpoints(checkpoints) if checkpoints else suite


@only_writer("run")
def run(
    suite: Suite | str | Path = "phantom",
    *,
    out: str | Path = DEFAULT_OUT,
    tracking_uri: str | None = None,
    address: str | None = None,
    recompute: Recompute = "missing",
    progress: Progress | None = None,
) -> RunResult:
    """Train, evaluate and rank the methods of a suite. What is finished is not computed again.

    Args:
        suite: all of it is run; `load_suite` gives a part of one.
        out: folder of records, checkpoints, predictions, logs and the MLflow store.
        tracking_uri: MLflow server; by default a SQLite store in `out`.
        address: Ray cluster to join; by default Ray starts on this machine.
        progress: who is told how it goes on; by default the log `tags_bench`.

    Raises:
        UserError: an unknown name or setting, data that cannot be read, a folder that cannot be written.
    """
    progress = progress or Progress()
    work = planned(_suite(suite), out, progress)
    check_protocols(work)
    return executed(work, tracking_uri, address, recompute, progress)


@only_writer("rehearse")
def rehearse(
    suite: Suite | str | Path = "paper",
    *,
    out: str | Path = REHEARSAL_OUT,
    cpus: int | None = None,
    gpus: float | None = None,
    address: str | None = None,
    kept_only: bool = False,
    progress: Progress | None = None,
) -> Rehearsal:
    """See whether everything that a suite needs is here, and send every method once along the road. Nothing is ranked.

    Args:
        out: a folder of its own; no records of runs may lie in it.
        cpus, gpus: of a worker; by default what the suite asks for, or what this machine has.
        address: Ray cluster to join.
        kept_only: run nothing; put together what rehearsals in `out` have found so far.

    Raises:
        UserError: an unknown name, a folder that holds the records of a run, a dataset that cannot be imitated.
    """
    scope = Scope(cpus, gpus, address, kept_only)
    return rehearsed(_suite(suite), Path(out), scope, progress or Progress())


@only_writer("ablate")
def ablate(
    suite: Suite | str | Path = "ablation",
    *,
    repeats: int = 1,
    out: str | Path = DEFAULT_OUT,
    tracking_uri: str | None = None,
    address: str | None = None,
    recompute: Recompute = "missing",
    progress: Progress | None = None,
) -> AblationResult:
    """Run the one method of a suite whole, and without each of its parts. Arguments as for `run`.

    Args:
        repeats: trainings of every variant.

    Raises:
        UserError: as for `run`; not exactly one method, or one that announces no part.
    """
    progress = progress or Progress()
    varied, variants = ablation_suite(_suite(suite), repeats)
    work = planned(varied, out, progress)
    check_protocols(work)
    return AblationResult.of(executed(work, tracking_uri, address, recompute, progress), variants)


@only_writer("train")
def train(
    suite: Suite | str | Path = "phantom",
    *,
    out: str | Path = DEFAULT_OUT,
    tracking_uri: str | None = None,
    address: str | None = None,
    fresh: bool = False,
    progress: Progress | None = None,
) -> TrainingResult:
    """Train the methods of a suite and keep the checkpoints, which `run` then uses. Arguments as for `run`.

    A method with official weights is trained from these. Trainings run side by side as the cluster has room. One that
    fails costs the others nothing: it is in `failed`, and in `not_run` where it was the machine that failed.

    Args:
        fresh: train again even if the checkpoint is there.

    Raises:
        UserError: as for `run`; none of the methods is trained.
    """
    progress = progress or Progress()
    work = planned(_suite(suite).from_scratch().fine_tuned(), out, progress)
    return trained(work, tracking_uri, address, fresh, progress)


@only_writer("zoo train")
def train_zoo(
    order: ZooOrder | None = None, *, out: str | Path = DEFAULT_OUT, progress: Progress | None = None
) -> list[dict[str, Any]]:
    """Train the small weights that come with the methods, on phantoms, and put them into their packages.

    Args:
        order: which methods, on what, for how long; by default all that bring weights, as they announce it.
        out: folder of phantoms, trainings and logs; an interrupted call goes on from there.

    Returns:
        A row for each set of weights.

    Raises:
        UserError: an unknown name, or a method that brings no weights.
    """
    from benchmarks.execution.plan import Folders
    from benchmarks.execution.zoo import ZooOrder, train

    return train(order or ZooOrder(), Folders(writable_folder(out)), progress or Progress())


@only_writer("tune")
def tune(
    suite: Suite | str | Path,
    *,
    trials: int = 6,
    concurrent: int = 2,
    out: str | Path = DEFAULT_OUT,
    tracking_uri: str | None = None,
    address: str | None = None,
    progress: Progress | None = None,
) -> TuningResult:
    """Search the hyper-parameters of the one method of a suite on its one dataset; the validation split decides.

    What an earlier call of the same sweep has found counts, whether it came to its end or not.

    Args:
        trials: points of the search space to try in all.
        concurrent: how many at a time.

    Raises:
        UserError: as for `run`; more than one method or dataset, or a method that is not trained.
        Interrupted: Ctrl-C; the same call goes on.
    """
    progress = progress or Progress()
    work = planned(_suite(suite).from_scratch(), out, progress)
    if len(work.units) != 1 or work.units[0].job is None:
        raise UserError("a sweep takes exactly one method that is trained, and one dataset")
    return tuned(work, Points(trials, concurrent), tracking_uri, address, progress)


def load_results(
    suite: str = "phantom",
    *,
    out: str | Path = DEFAULT_OUT,
    records: str | Path | None = None,
    tracking_uri: str | None = None,
) -> Results:
    """The records of an earlier run, complete or not. Computes no prediction.

    Args:
        suite: its name.
        out: output folder of the run.
        records: the folder of records, if it lies elsewhere.
        tracking_uri: read from this MLflow server, not from records.

    Raises:
        UserError: there are no records of that suite.
    """
    if tracking_uri is not None:
        from benchmarks.results.mlflow import records_from_mlflow

        rows, units = records_from_mlflow(tracking_uri, suite)
    else:
        rows, units = RecordStore(user_path(records or Path(out) / "records")).read_suite(suite)
    refuse_rehearsal(suite, units)
    return Results(suite, rows, tuple(units))


def report(
    results: Results,
    path: str | Path,
    *,
    out: str | Path = DEFAULT_OUT,
    choice: ReportChoice | None = None,
    progress: Progress | None = None,
) -> ReportResult:
    """Write the report of a run: one HTML file that opens offline, from the answer down to every case.

    Args:
        results: what `load_results` or `run` gave.
        path: the .html file to write.
        out: output folder of the run, for masks and for where its scans lie.
        choice: what it shows, such as `ReportChoice(scans=False)`.

    Raises:
        UserError: records that are not complete, an unknown metric, a file that cannot be written.
    """
    from benchmarks.execution.plan import Folders
    from benchmarks.execution.reporting import write_report

    folders = Folders(user_path(out).resolve())
    return write_report(results, Path(path), folders, choice or ReportChoice(), progress or Progress())


def predict(
    scan: str | Path,
    mask: str | Path,
    method: Wanted,
    *,
    prompts: str | Path | GivenPrompts | None = None,
    text: str | None = None,
    preview: str | Path | None = None,
    options: PredictOptions | None = None,
) -> Prediction:
    """Segment one scan, and write the mask. No label is needed.

    Args:
        scan: NIfTI, NRRD, MHA, a folder of DICOM, or a multi-frame DICOM file.
        mask: the file to write, on the grid of the scan: .nii, .nii.gz, .nrrd, .mha; of a DICOM scan also .dcm (SEG)
            and .rtstruct.dcm. A file that is there is replaced only with `options.overwrite`.
        method: a name is that of a finished run in the default folder, or of a method that needs none.
        prompts: what a person gives, or a file of it; see docs/protocols.md.
        text: a text prompt, such as "liver tumor".
        preview: a picture to draw: .png, .pdf or .svg.

    Raises:
        UserError: no such method or checkpoint, an unusable scan, prompts that the method does not understand, or a
            mask that would replace a file.
    """
    from benchmarks.execution.by_hand import segment_scan
    from benchmarks.execution.predict import Order

    options = options or PredictOptions()
    given = prompts if isinstance(prompts, GivenPrompts) else GivenPrompts(Path(prompts) if prompts else None)
    given = given if text is None else replace(given, text=text)
    shown = Path(preview) if preview else None
    order = Order(Path(scan), Path(mask), given, shown, options.modality, options.overwrite).resolved()
    order.check()  # before anything is loaded
    figures, unit = segment_scan(order, method, options)
    return Prediction(Path(mask), figures, unit)


def predict_table(
    table: str | Path,
    method: Wanted,
    *,
    options: PredictOptions | None = None,
    progress: Callable[[Mapping[str, Any]], Any] | None = None,
) -> TablePrediction:
    """Segment the scan of every row of a CSV table; see docs/predict.md for its columns.

    Args:
        options: of rows that do not say otherwise. Rows whose masks are there are passed over, and say so, unless
            it has `overwrite`.
        progress: called with every row when it is done.

    Raises:
        UserError: as for `predict`, or a table that cannot be used; nothing is computed then.
    """
    from benchmarks.execution.by_hand import segment_rows
    from benchmarks.execution.predict_table import read_table

    options = options or PredictOptions()
    rows = [row.with_modality(options.modality) for row in read_table(Path(table))]
    results, unit = segment_rows(rows, method, options, progress)
    return TablePrediction(tuple(results), unit)


def show(
    case: str,
    method: str | None = None,
    *,
    suite: str = "phantom",
    out: str | Path = DEFAULT_OUT,
) -> tuple[Trail, ...]:
    """From a case back to what made its numbers: records, masks, prompts, logs, and what decided them.

    Args:
        case: `dataset/case_id`, or the case alone where one data set has it.
        method: as the leaderboard has it; by default all.
        suite: name of the suite that was run.
        out: output folder of the run.

    Raises:
        UserError: no such records, case or method.
    """
    folder = user_path(out).resolve()
    rows, units = RecordStore(folder / "records").read_suite(suite)
    refuse_rehearsal(suite, units)
    return trails_of(rows, units, folder, case, method)


def compare(
    a: str | Path,
    b: str | Path,
    *,
    suite: str = "phantom",
    out: str | Path = DEFAULT_OUT,
    metric: str = "dice",
    margin: float | None = None,
) -> RunPairs:
    """Two runs or two methods on the same cases: paired differences, b minus a, with intervals over patients.

    Args:
        a, b: two output folders (their runs of `suite`), two methods of the run in `out`, or two suites in `out`.
        margin: the smallest difference that matters; see `benchmarks.results.leaderboard.comparisons_of`.

    Raises:
        UserError: neither folders, methods nor suites; one of which no case is there yet; runs with no method in
            common; an unknown metric.
    """
    names = [str(a), str(b)]
    store = RecordStore(user_path(out) / "records")
    stores = [RecordStore(user_path(name) / "records") for name in names]
    if all(one.root.is_dir() for one in stores):
        sides = [Side(name, *one.read_suite(suite)) for name, one in zip(names, stores, strict=True)]
    elif set(names) <= set(store.suites()):
        sides = [Side(name, *store.read_suite(name)) for name in names]
    else:
        sides = _methods_of_run(store, suite, names)
    for side in sides:
        refuse_rehearsal(suite, side.units)
        if side.rows.empty:
            raise UserError(f"{side.name}: not finished: no case is there yet; run the suite again")
        Results(suite, side.rows, tuple(side.units)).check_metric(metric)
    return compared(sides[0], sides[1], metric, margin)


def _methods_of_run(store: RecordStore, suite: str, names: Sequence[str]) -> list[Side]:
    rows, units = store.read_suite(suite)
    known = list(dict.fromkeys(str(unit["method"]) for unit in units))
    for name in names:
        if name not in known:
            raise UserError(
                f"'{name}' is no output folder, no suite and no method of '{suite}' in {store.root.parent}; "
                f"{nearest_name(name, known)}"
            )
    return [
        Side(name, rows if rows.empty else rows[rows["method"] == name], [u for u in units if u["method"] == name])
        for name in names
    ]


def score(
    predictions: str | Path,
    labels: str | Path,
    *,
    label: int | None = None,
    prediction_label: int | None = None,
    tolerances: Sequence[float] = TOLERANCES_MM,
    protocol: str | None = None,
) -> ScoreResult:
    """Score a folder of masks against a folder of label maps; files pair by name. No run is needed.

    Args:
        label: the value to score; without it, all above 0.
        prediction_label: the value in the masks, if it is another than `label`, or masks that hold nothing but 0 and 1
            are not to be read as binary ones.
        tolerances: of the surface Dice, mm.
        protocol: where the predictions are the masks that a run kept of a unit; their last step is scored.

    Raises:
        UserError: folders or files that do not fit each other.
    """
    from benchmarks.metrics.folders import kept_masks, mean_scores, score_folders

    masks = kept_masks(Path(predictions), protocol) or Path(predictions)
    rows = score_folders(masks, Path(labels), label, tuple(tolerances), prediction_label=prediction_label)
    return ScoreResult(tuple(rows), mean_scores(rows))


def _suite(suite: Suite | str | Path) -> Suite:
    return suite if isinstance(suite, Suite) else suites.load_suite(str(suite))
