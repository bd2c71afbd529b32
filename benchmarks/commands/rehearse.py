"""`rehearse`: is everything there, does every method pass, and what will the whole cost?"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Option

from benchmarks.commands import completion
from benchmarks.commands.declare import CLUSTER, DATA, METHODS, OUTPUT, command, new_group
from benchmarks.commands.options import AddressOption, GpusOption, PrintOptions, names_in
from benchmarks.commands.printing import console, print_json, print_rows

if TYPE_CHECKING:
    from benchmarks.execution.rehearsal.costs import Cost
    from benchmarks.execution.rehearsal.whole import Rehearsal
    from benchmarks.execution.suite import Suite

app = new_group()


@dataclass(frozen=True)
class PartOptions:
    """What of the suite is rehearsed."""

    suite: Annotated[
        str,
        Option(
            "--suite",
            metavar="NAME",
            help="A suite of `tags-bench suites`, or a YAML file.",
            rich_help_panel=DATA,
            autocompletion=completion.suite_names,
        ),
    ] = "paper"
    dataset: Annotated[
        list[str] | None, Option("--dataset", metavar="NAME", help="Only this one; repeatable.", rich_help_panel=DATA)
    ] = None
    protocol: Annotated[
        list[str] | None,
        Option("--protocol", metavar="NAME", help="Only this way of prompting; repeatable.", rich_help_panel=DATA),
    ] = None
    methods: Annotated[
        str | None, Option("--methods", metavar="NAME,…", help="Only these.", rich_help_panel=METHODS)
    ] = None  # fmt: skip
    kept: Annotated[
        bool,
        Option("--kept", help="Run nothing: show what earlier rehearsals in --out have found.", rich_help_panel=OUTPUT),
    ] = False


@command(app, panel="Work")
def rehearse(
    *,
    part: PartOptions,
    cpus: Annotated[
        int | None, Option("--cpus", metavar="N", min=1, help="Processors per worker.", rich_help_panel=CLUSTER)
    ] = None,
    gpus: GpusOption = None,
    address: AddressOption = None,
    price: Annotated[
        float | None,
        Option("--price", metavar="N", min=0, help="Of an hour of a GPU, for the cost.", rich_help_panel=CLUSTER),
    ] = None,
    out: Annotated[
        Path, Option("--out", metavar="DIR", help="A folder for rehearsals alone.", rich_help_panel=OUTPUT)
    ] = Path("tags-bench-rehearsal"),
    printing: PrintOptions,
) -> None:
    """Prove the road of a suite before it is paid: checks, one case for every method, hours and cost of the whole.

    What is missing is named, with where to get it, and phantoms and stand-ins take its place. Exit code 1 if a method
    did not pass. Nothing of a rehearsal is a result; it goes on where it was stopped.

    Examples:

    * `tags-bench rehearse` — the suite `paper`, on this machine
    * `tags-bench rehearse --methods sam-b,nnunet --dataset kits21 --price 2.5`
    """
    from benchmarks import api
    from benchmarks.commands.terminal import Terminal

    progress = Terminal(console())
    result = api.rehearse(
        _suite(part), out=out, cpus=cpus, gpus=gpus, address=address, kept_only=part.kept, progress=progress
    )
    if printing.as_json:
        print_json(as_plain(result, price))
    else:
        show(result, price)
    if not result.passed:
        raise typer.Exit(1)


def _suite(part: PartOptions) -> Suite:
    from benchmarks import api

    suite = api.load_suite(part.suite)
    names = names_in(part.methods, "--methods")
    if names is not None:
        suite = suite.with_methods(names)
    if part.dataset:
        suite = suite.with_datasets(part.dataset)
    return suite.with_protocols(part.protocol) if part.protocol else suite


def as_plain(result: Rehearsal, price: float | None = None) -> dict[str, Any]:
    """Everything, for JSON; with the price of an hour of a GPU, what each method and all together cost at it."""
    from benchmarks.execution.rehearsal.costs import total

    def priced(one: Cost) -> dict[str, Any]:
        return {} if price is None else {"cost": dict(zip(("low", "high"), _money(one, result, price), strict=True))}

    return {
        "rehearsal": True,
        "suite": result.suite.name,
        "measured": {"cpus": result.cpus, "gpus": result.gpus, "as the suite asks": result.alike},
        "checks": {heading: [asdict(one) for one in found] for heading, found in result.checks.items()},
        "licences": list(result.licences),
        "passages": [asdict(one) for one in result.passages],
        "costs": [{**asdict(one), **priced(one)} for one in result.costs],
        **priced(total(result.costs)),
    }


def show(result: Rehearsal, price: float | None) -> None:
    """The tables, and in the end what has to be done."""
    from benchmarks.execution.rehearsal.costs import total

    for heading, found in result.checks.items():
        print_rows(f"REHEARSAL, {heading}", [_check_row(one) for one in found])
    print_rows("REHEARSAL, licences", result.licences)
    gone = [one for one in result.passages if one.state != "not rehearsed"]
    print_rows(
        "REHEARSAL, the road: one case each, no results; s a case: under all protocols of the suite",
        [_passage_row(one) for one in gone],
    )
    whole = [_cost_row(one, result, price) for one in (*result.costs, total(result.costs))]
    print_rows("REHEARSAL, what the whole will take on one worker", whole)
    if not result.alike:
        budget = result.suite.budget
        print(
            f"measured on {_worker(result.cpus, result.gpus)}; the suite asks for {_worker(budget.cpus, budget.gpus)}. "
            "Only trainings under a budget of minutes take the hours given here, all else will take others: "
            "rehearse on the machine that will run"
        )
    for dataset in dict.fromkeys(one.dataset for one in result.passages):
        left = [one.method for one in result.passages if one.dataset == dataset and one.state == "not rehearsed"]
        if left:
            print(f"not rehearsed so far on {dataset}: {', '.join(left)}")
    for one in gone:
        if one.state != "ok":
            print(f"did not pass: {one.method} on {one.dataset}: {one.state}: {one.reason}")
    for check in result.missing:
        print(f"{check.state}: {check.what}: {check.remedy or check.detail}")


def _check_row(check: Any) -> dict[str, str]:
    return {"what": check.what, "state": check.state, "found or needed": check.detail}


def _passage_row(one: Any) -> dict[str, str]:
    return {
        "method": one.method,
        "dataset": one.dataset,
        "data": one.data,
        "weights": one.weights,
        "state": one.state,
        "s in all": f"{one.seconds:.0f}",
        "s a step": f"{one.step_seconds:.1f}" if one.step_seconds else "",
        "s a case": f"{one.case_seconds:.1f}" if one.case_seconds else "",
        "RAM GB": f"{one.largest_gb:.1f}" if one.largest_gb else "",
        **({"GPU GB": f"{one.gpu_gb:.1f}"} if one.gpu_gb else {}),
    }


def _cost_row(one: Cost, result: Rehearsal, price: float | None) -> dict[str, str]:
    hours = one.training_hours
    row = {
        "method": one.method,
        "trainings": str(one.trainings or ""),
        "training h": "" if not one.trainings else f"{hours:.1f}" if hours else "not known",
        "evaluation h": _range(one.low_hours, one.high_hours) if one.known else "not known",
        "disk GB": f"{one.disk_gb:.1f}" if one.known else "",
        "GB in training": f"{one.working_gb:.0f}" if one.working_gb else "",
    }
    if price is not None:
        low, high = _money(one, result, price)
        row["cost"] = "not known" if low is None else f"at least {low:.1f}" if high is None else _range(low, high)
    return row | {"not counted": ", ".join(one.guessed)}


def _money(one: Cost, result: Rehearsal, price: float) -> tuple[float | None, float | None]:
    """What a method costs, at least and at most, as far as it is known from the worker that was measured."""
    workers, gpus = result.suite.workers, result.suite.budget.gpus
    if result.alike:
        return one.money(price, workers, gpus)
    return one.known_hours * workers * price * (gpus or 1.0) or None, None


def _worker(cpus: int, gpus: float) -> str:
    """Such as "1 processor, no GPU"."""
    gpu = f"{gpus:g} GPU{'s' * (gpus > 1)}" if gpus else "no GPU"
    return f"{cpus} processor{'s' * (cpus != 1)}, {gpu}"


def _range(low: float, high: float) -> str:
    return f"{low:.1f}" if f"{low:.1f}" == f"{high:.1f}" else f"{low:.1f} to {high:.1f}"
