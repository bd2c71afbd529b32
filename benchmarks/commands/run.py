"""`run`, `train`, `tune`, `ablate`: work on a suite."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from benchmarks.commands.declare import METHODS, command, new_group
from benchmarks.commands.options import (
    ABLATION,
    ONE_METHOD,
    AgainOptions,
    DataOptions,
    FreshOption,
    OutputOptions,
    PrintOptions,
    RepeatsOption,
    UntrainedOption,
    WorkOptions,
)
from benchmarks.commands.printing import console, print_json, print_mapping, print_rows, say_synthetic
from benchmarks.common.errors import UserError
from benchmarks.common.output import DEFAULT_OUT
from benchmarks.common.paths import user_path

if TYPE_CHECKING:
    from benchmarks.execution.entries import OwnData
    from benchmarks.execution.outcomes import RunResult
    from benchmarks.execution.suite import Suite

app = new_group()
PANEL = "Work"
NOT_RUN_EXIT = 3
"""The machine kept a case from being evaluated, or a training from its end; the same command takes it up again."""


@command(app, panel=PANEL)
def run(
    *,
    work: WorkOptions,
    untrained: UntrainedOption = False,
    repeats: RepeatsOption = None,
    output: OutputOptions,
    again: AgainOptions,
    printing: PrintOptions,
) -> None:
    """Train, evaluate and rank methods; what is finished is kept.

    Examples:

    * `tags-bench run --all-datasets` — the default suite's methods on its synthetic phantoms
    * `tags-bench run --dataset kits21 --methods tags-tiny,ball` — one dataset, two methods
    * `tags-bench run --data ./Task07_Pancreas --target 2 --organ pancreas --lesion tumour` — your own scans
    * `tags-bench run --dataset lits17 --methods ball --masks ours=./masks` — masks made elsewhere, scored beside them
    * `tags-bench run --dataset mine --train-on kits21 --gpus 1` — learn from one dataset, test on another
    * `tags-bench run --suite paper --all-datasets --address auto` — the real benchmark; `rehearse` it first
    """
    from benchmarks import api
    from benchmarks.commands.terminal import Terminal
    from benchmarks.results.leaderboard import as_json as plain_rows
    from benchmarks.results.tables import leaderboard_page, print_page

    suite = chosen_suite(work)
    suite = suite.with_untrained() if untrained else suite
    result = api.run(
        suite if repeats is None else suite.with_repeats(repeats),
        out=output.out,
        tracking_uri=output.tracking_uri,
        address=work.cluster.address,
        recompute=again.recompute,
        progress=Terminal(console()),
    )
    if not result.complete:
        _end_unfinished(result, printing)
    result.check_complete()
    if printing.as_json:
        print_json({"leaderboard": plain_rows(result.leaderboard), **_figures(result)})
        return
    print_page(leaderboard_page(result.leaderboard, result.overall, result.notes), console(stderr=False))
    _print_end(result)
    print_mapping("next", _next_steps(result, work, output.out))


@command(app, panel=PANEL)
def train(
    *,
    work: WorkOptions = ONE_METHOD,
    repeats: RepeatsOption = None,
    output: OutputOptions,
    fresh: FreshOption = False,
    printing: PrintOptions,
) -> None:
    """Train methods and keep the checkpoints, which `run` then uses.

    Trainings run side by side as there is room. One that fails costs the others nothing: it is named, and the exit
    code is 1, or 3 where it was the machine that failed.

    Examples:

    * `tags-bench train --dataset kits21 --minutes 2` — tags-tiny on the phantoms of one dataset
    * `tags-bench train --workers 2` — two Ray Train workers
    * `tags-bench train --data ./Task07_Pancreas --target 2 --methods tags-vit-b --gpus 1 --minutes 600`
    """
    from benchmarks import api
    from benchmarks.commands.terminal import Terminal
    from benchmarks.execution.outcomes import short_figures

    suite = chosen_suite(work)
    result = api.train(
        suite if repeats is None else suite.with_repeats(repeats),
        out=output.out,
        tracking_uri=output.tracking_uri,
        address=work.cluster.address,
        fresh=fresh,
        progress=Terminal(console()),
    )
    if printing.as_json:
        print_json(result.trainings)
    else:
        for figures in result.trainings:
            print_mapping(f"{figures['method']} on {figures['dataset']}", short_figures(figures))
    for line in result.unfinished_lines():
        print(line, file=sys.stderr)
    if not result.complete:
        raise typer.Exit(NOT_RUN_EXIT if result.not_run else 1)


@command(app, panel=PANEL)
def tune(
    *,
    work: WorkOptions = ONE_METHOD,
    trials: Annotated[
        int,
        typer.Option("--trials", metavar="N", min=1, help="Points of the search space.", rich_help_panel=METHODS),
    ] = 6,
    concurrent: Annotated[
        int, typer.Option("--concurrent", metavar="N", min=1, help="Trials at a time.", rich_help_panel=METHODS)
    ] = 2,
    output: OutputOptions,
    printing: PrintOptions,
) -> None:
    """Search hyper-parameters; the validation split decides.

    Ray Tune with Optuna's TPE; ASHA stops the trials that fall behind. The same command goes on after an
    interruption, and with a larger --trials after the end. Exit code 3 if the machine kept a trial from its end.

    Examples:

    * `tags-bench tune --trials 6` — tags-tiny on the first dataset of the phantoms
    * `tags-bench tune --methods tags-vit-b --data DIR --target 2 --gpus 1 --minutes 120 --trials 40 --concurrent 8`
    """
    from benchmarks import api
    from benchmarks.commands.terminal import Terminal
    from benchmarks.results.sweep import as_rows, importance_rows

    result = api.tune(
        chosen_suite(work),
        trials=trials,
        concurrent=concurrent,
        out=output.out,
        tracking_uri=output.tracking_uri,
        address=work.cluster.address,
        progress=Terminal(console()),
    )
    rows, shares = as_rows(result.trials), importance_rows(result.trials)
    if printing.as_json:
        print_json({"trials": rows, "best": result.best, "importance": shares, "best_file": str(result.best_file)})
    else:
        say_synthetic(bool(result.unit["synthetic"]))
        print_rows(f"sweep of {result.unit['method']} · {result.unit['dataset']}", rows)
        print(
            "best first: trials that went through more rungs stand before those that were stopped early, whatever their"
        )
        print("Dice, for that of an early rung is measured after less training and picked from more trials")
        if shares:
            print_rows("which knobs mattered", shares)
        print_mapping(f"{len(rows)} trials, {result.seconds:.0f} s", result.places)
        best = f"tags-bench run --methods {quote(str(result.best_file))}"
        print_mapping("next", {"use the best": best + _same_work(work, output.out)})
    for one in result.not_run:
        print(f"trial {one.number}: {one.status}; the same command takes it up again", file=sys.stderr)
    if result.not_run:
        raise typer.Exit(NOT_RUN_EXIT)


@command(app, panel=PANEL)
def ablate(
    *,
    work: WorkOptions = ABLATION,
    repeats: Annotated[
        int,
        typer.Option("--repeats", metavar="N", min=1, help="Trainings of every variant.", rich_help_panel=METHODS),
    ] = 1,
    metric: Annotated[
        str, typer.Option("--metric", metavar="NAME", help="What is compared.", rich_help_panel=METHODS)
    ] = "dice",
    output: OutputOptions,
    again: AgainOptions,
    printing: PrintOptions,
) -> None:
    """Run a method without each of its parts in turn.

    Examples:

    * `tags-bench ablate --all-datasets --repeats 3` — tags-tiny on the synthetic phantoms
    * `tags-bench ablate --methods tags-vit-b --data DIR --target 2 --gpus 1 --minutes 120`
    """
    from benchmarks import api
    from benchmarks.commands.terminal import Terminal
    from benchmarks.results.leaderboard import as_json as plain_rows
    from benchmarks.results.statistics import higher_is_better
    from benchmarks.results.tables import ablation_page, print_page

    higher_is_better(metric)  # an unknown metric ends here, before the work
    result = api.ablate(
        chosen_suite(work),
        repeats=repeats,
        out=output.out,
        tracking_uri=output.tracking_uri,
        address=work.cluster.address,
        recompute=again.recompute,
        progress=Terminal(console()),
    )
    if not result.complete:
        _end_unfinished(result, printing)
    result.check_complete()
    table = result.table(metric)
    if printing.as_json:
        print_json({"ablation": plain_rows(table), **_figures(result)})
        return
    print_page(ablation_page(table, metric, result.synthetic), console(stderr=False))
    _print_end(result)


def chosen_suite(work: WorkOptions) -> Suite:
    """The suite that the options describe; without a word about datasets, on its first one."""
    from benchmarks import api

    wanted = work.methods
    suite = api.load_suite(
        work.data.suite,
        methods=None if wanted.methods is None else _words(wanted.methods),
        budget=api.BudgetChanges(
            work.budget.minutes, work.budget.steps, work.cluster.cpus, work.cluster.gpus, work.cluster.workers
        ),
        seed=work.data.seed,
        checkpoints=_checkpoint_files(wanted.checkpoint or ()),
    )
    suite = suite.with_masks(_mask_folders(wanted.masks or ()))
    if work.cluster.storage is not None:
        suite = suite.with_storage(work.cluster.storage)
    return _with_data(suite, work.data)


def _with_data(suite: Suite, data: DataOptions) -> Suite:
    """The suite on the data that the options name, split, prompted and learned from as they say."""
    own = _own_data(data)
    if data.dataset and data.all_datasets:
        raise UserError("--dataset and --all-datasets contradict each other")
    if data.data is not None and data.phantoms:
        raise UserError("--phantoms belongs to --dataset, not to --data")
    if own is not None:
        suite = suite.with_own_data(own)
    elif data.dataset:
        suite = suite.with_datasets(data.dataset, data.phantoms)
    elif not data.all_datasets:
        suite = suite.with_first_dataset()
    if data.phantoms and not data.dataset:
        suite = suite.with_datasets(suite.dataset_names, phantoms=True)
    if data.train_on is not None:
        suite = suite.with_training_on(data.train_on, data.phantoms)
    if data.splits is not None and (own is None or data.train_on is not None):
        suite = suite.with_splits(data.splits)
    if data.fold:
        suite = suite.with_folds([_fold(word) for word in data.fold])
    return suite.with_protocols(data.protocol) if data.protocol else suite


def _own_data(data: DataOptions) -> OwnData | None:
    """What `--data` names. Raises UserError for options that belong to it and stand alone, or that contradict it."""
    from benchmarks import api

    labels = data.labels
    if data.data is None:
        if labels.target or labels.organ or labels.lesion:
            raise UserError("--target, --organ and --lesion belong to --data")
        return None
    if data.all_datasets or len(data.dataset or ()) > 1:
        raise UserError("--data names one folder; use it with at most one --dataset, and not with --all-datasets")
    name = data.dataset[0] if data.dataset else ""
    splits = data.splits if data.train_on is None else None  # else that of the data that are learned from
    return api.OwnData(data.data, name, labels.target, labels.organ, labels.lesion, splits)


def _fold(word: str) -> int | str:
    if word == "all" or word.isdecimal():
        return word if word == "all" else int(word)
    raise UserError(f"--fold {word}: a number from 0 on, or 'all'")


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",")]


def _checkpoint_files(words: Sequence[str]) -> dict[str, Path]:
    """`METHOD=FILE` words as a mapping. Raises UserError for another form or a missing file."""
    files = {}
    for word in words:
        name, separator, path = word.partition("=")
        if not separator or not path:
            raise UserError(f"--checkpoint {word}: the form is METHOD=FILE")
        if user_path(path).is_dir():
            raise UserError(
                f"--checkpoint {word}: a folder, not a file of official weights; what was trained here is used again "
                "with the same --out (on another dataset: --train-on), or by `tags-bench predict --checkpoint`"
            )
        if not user_path(path).is_file():
            raise UserError(f"--checkpoint {word}: no such file")
        if name in files:
            raise UserError(f"--checkpoint {word}: '{name}' is named twice")
        files[name] = user_path(path).resolve()
    return files


def _mask_folders(words: Sequence[str]) -> dict[str, Path]:
    """`NAME=DIR` words as a mapping. Raises UserError for another form or a missing folder."""
    folders: dict[str, Path] = {}
    for word in words:
        name, separator, path = word.partition("=")
        if not separator or not name or not path:
            raise UserError(f"--masks {word}: the form is NAME=DIR")
        if not user_path(path).is_dir():
            raise UserError(f"--masks {word}: no such folder")
        if name in folders:
            raise UserError(f"--masks {word}: '{name}' is named twice")
        folders[name] = user_path(path).resolve()
    return folders


def _figures(result: RunResult) -> dict[str, Any]:
    not_run = [{"unit": one.unit, "case": one.case, "reason": one.reason} for one in result.not_run]
    return {"computed_cases": result.computed, "seconds": result.seconds, "not_run": not_run, **result.places}


def _print_end(result: RunResult) -> None:
    print_mapping(f"{result.computed} of {result.cases} cases computed now, {result.seconds:.0f} s", result.places)


def _end_unfinished(result: RunResult, printing: PrintOptions) -> NoReturn:
    """Name the cases that the machine kept from running, and end with an exit code that says so. Nothing is ranked."""
    if printing.as_json:
        print_json(_figures(result))
    else:
        _print_end(result)
    for line in result.not_run_lines():
        print(line, file=sys.stderr)
    raise typer.Exit(NOT_RUN_EXIT)


def _next_steps(result: RunResult, work: WorkOptions, out: Path) -> dict[str, str]:
    place = _options({"--out": [] if out == DEFAULT_OUT else [out]})
    name = _options({"--suite": [] if result.suite == DataOptions.suite else [result.suite]})
    own = "--data DIR --target LABEL --organ NAME --lesion NAME --minutes 30"
    return {
        "ranks, tests, subgroups": f"tags-bench leaderboard --details{place}{name}",
        "every case, in one page": f"tags-bench report{place}{name}",
        "browse the runs": f"tags-bench mlflow{place}{name}",
        "try your own scans": f"tags-bench run {own}{place}",
        "search hyper-parameters": f"tags-bench tune --methods tags-tiny{_same_work(work, out, one=True)}",
    }


def _same_work(work: WorkOptions, out: Path, one: bool = False) -> str:
    """The options by which another command works on the same data, under the same budget, in the same output folder.

    Args:
        one: only the first dataset and fold; a sweep takes no more.
    """
    data, labels, cluster = work.data, work.data.labels, work.cluster
    folds = [word for word in data.fold or () if word != "all"] if one else data.fold or ()
    last = 1 if one else None
    chosen = {
        "--suite": [] if data.suite == DataOptions.suite else [data.suite],
        "--dataset": (data.dataset or ())[:last],
        "--data": [data.data],
        "--target": [labels.target],
        "--organ": [labels.organ],
        "--lesion": [labels.lesion],
        "--train-on": [data.train_on],
        "--splits": [data.splits],
        "--fold": folds[:last],
        "--seed": [data.seed],
        "--minutes": [work.budget.minutes],
        "--steps": [work.budget.steps],
        "--workers": [cluster.workers],
        "--cpus": [cluster.cpus],
        "--gpus": [cluster.gpus],
        "--address": [cluster.address],
        "--storage": [cluster.storage],
        "--out": [] if out == DEFAULT_OUT else [out],
    }
    flags = " --phantoms" * data.phantoms + " --all-datasets" * (data.all_datasets and not one)
    return flags + _options(chosen)


def _options(chosen: Mapping[str, Sequence[object]]) -> str:
    """Options as they are typed, a blank before each; those without a value are left out."""
    given = [(name, value) for name, values in chosen.items() for value in values if value not in (None, "")]
    return "".join(f" {name} {quote(str(value))}" for name, value in given)
