"""The bench from Python: one function for every verb of the command line, each giving back a result object.

    import benchmarks
    suite = benchmarks.load_suite("phantom", datasets=["lits17"], methods=["ball", "region-growing"])
    benchmarks.run(suite)

Ray is started on first use and kept until the process ends; pass `address` to join a cluster.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common.errors import UserError
from benchmarks.common.output import DEFAULT_OUT
from benchmarks.common.output_lock import only_writer
from benchmarks.common.paths import user_path
from benchmarks.contestants import Budget
from benchmarks.execution import suite as suites
from benchmarks.execution.ablation import ablation_suite
from benchmarks.execution.outcomes import (
    AblationResult,
    Prediction,
    Results,
    RunResult,
    ScoreResult,
    TrainingResult,
    TuningResult,
)
from benchmarks.execution.plan import Folders
from benchmarks.execution.progress import Progress
from benchmarks.execution.suite import BudgetChanges, OwnData, Suite
from benchmarks.execution.training import device_for
from benchmarks.execution.tuned import Points, tuned
from benchmarks.execution.work import Recompute, executed, planned, trained
from benchmarks.metrics import TOLERANCES_MM
from benchmarks.results.records import RecordStore


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
    return executed(work, tracking_uri, address, recompute, progress)


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
    work = planned(_suite(suite).fine_tuned(), out, progress)
    return trained(work, tracking_uri, address, fresh, progress)


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
    work = planned(_suite(suite), out, progress)
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
        from benchmarks.results.mlflow_sink import records_from_mlflow

        rows, units = records_from_mlflow(tracking_uri, suite)
    else:
        rows, units = RecordStore(user_path(records or Path(out) / "records")).read_suite(suite)
    return Results(suite, rows, tuple(units))


@dataclass(frozen=True)
class MethodOfRun:
    """A method of a finished run.

    Attributes:
        name: as the leaderboard has it.
        dataset: on which it was trained; needed if it was run on several.
        suite: name of the suite that was run.
        out: output folder of the run.
    """

    name: str
    dataset: str | None = None
    suite: str = "phantom"
    out: str | Path = DEFAULT_OUT


def predict(
    scan: str | Path,
    mask: str | Path,
    method: MethodOfRun | str,
    *,
    prompts: str | Path | None = None,
    text: str | None = None,
    gpus: float = 0.0,
) -> Prediction:
    """Segment one scan with a method of a finished run, and write the mask. No label is needed.

    Args:
        scan: NIfTI, NRRD or MHA.
        mask: the .nii or .nii.gz file to write, on the grid of the scan.
        prompts: JSON in world mm; see docs/protocols.md.
        text: a text prompt, such as "liver tumor".
        gpus: more than 0 to work on the GPU.

    Raises:
        UserError: no such method or checkpoint, an unusable scan, prompts that the method does not understand.
    """
    from benchmarks.execution.predict import load_unit, predict_scan, unit_of

    wanted = method if isinstance(method, MethodOfRun) else MethodOfRun(method)
    folders = Folders(user_path(wanted.out).resolve())
    _, units = RecordStore(folders.records).read_suite(wanted.suite)
    unit = unit_of(units, wanted.name, wanted.dataset)
    segmenter, target = load_unit(unit, folders.checkpoints, device_for(Budget(gpus=gpus)))
    figures = predict_scan(Path(scan), segmenter, target, Path(mask), Path(prompts) if prompts else None, text)
    return Prediction(Path(mask), figures, unit)


def score(
    predictions: str | Path,
    labels: str | Path,
    *,
    label: int | None = None,
    tolerances: Sequence[float] = TOLERANCES_MM,
) -> ScoreResult:
    """Score a folder of masks against a folder of label maps; files pair by name. No run is needed.

    Args:
        label: the value to score; without it, all above 0.
        tolerances: of the surface Dice, mm.

    Raises:
        UserError: folders or files that do not fit each other.
    """
    from benchmarks.metrics.folders import mean_scores, score_folders

    rows = score_folders(Path(predictions), Path(labels), label, tuple(tolerances))
    return ScoreResult(tuple(rows), mean_scores(rows))


def _suite(suite: Suite | str | Path) -> Suite:
    return suite if isinstance(suite, Suite) else suites.load_suite(str(suite))
