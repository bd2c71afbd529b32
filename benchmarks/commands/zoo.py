"""`zoo`: the small weights that come with the methods."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from typer import Option

from benchmarks.commands import completion
from benchmarks.commands.declare import BUDGET, CLUSTER, DATA, METHODS, OUTPUT, command, new_group
from benchmarks.commands.options import OutOption, PrintOptions, names_in
from benchmarks.commands.printing import console, print_json, print_rows
from benchmarks.common.output import DEFAULT_OUT

app = new_group(help="Small weights that come with the methods, trained on phantoms: what there is, train.")


@command(app, "list")
def list_weights(printing: PrintOptions) -> None:
    """List the weights: for which data sets, steps, seconds of training, size. Every file is checked."""
    from benchmarks.contestants import methods
    from benchmarks.execution.zoo import as_row
    from benchmarks.weights.zoo import all_weights

    found = all_weights(methods().values())
    if printing.as_json:
        print_json([{**one.card, "folder": str(one.folder)} for one in found])
        return
    print_rows("the zoo: weights trained on phantoms", [as_row(one.card) for one in found])


@dataclass(frozen=True)
class ZooOptions:
    """What is trained, on what, with what means; what is not said is as the methods announce it."""

    methods: Annotated[
        str | None,
        Option(
            "--methods",
            metavar="NAME,…",
            help="Only these; default: all that bring weights.",
            rich_help_panel=METHODS,
            autocompletion=completion.method_names,
        ),
    ] = None
    datasets: Annotated[
        str | None, Option("--datasets", metavar="NAME,…", help="Only phantoms of these.", rich_help_panel=DATA)
    ] = None
    seed: Annotated[
        int | None, Option("--seed", metavar="N", help="Of phantoms and trainings.", rich_help_panel=DATA)
    ] = None
    cases: Annotated[
        int | None, Option("--cases", metavar="N", min=3, help="Phantoms of each data set.", rich_help_panel=DATA)
    ] = None
    steps: Annotated[
        int | None,
        Option("--steps", metavar="N", min=1, help="In place of the method's own number.", rich_help_panel=BUDGET),
    ] = None
    cpus: Annotated[int, Option("--cpus", metavar="N", min=1, help="Processors.", rich_help_panel=CLUSTER)] = 1
    gpus: Annotated[float, Option("--gpus", metavar="N", min=0, help="GPUs.", rich_help_panel=CLUSTER)] = 0.0
    zoo: Annotated[
        Path | None,
        Option(
            "--zoo",
            metavar="DIR",
            help="Put the weights here, not into the packages of the methods.",
            rich_help_panel=OUTPUT,
        ),
    ] = None


@command(app)
def train(*, work: ZooOptions, out: OutOption = DEFAULT_OUT, printing: PrintOptions) -> None:
    """Train the weights again, one after another; an interrupted call goes on where it was.

    Examples:

    * `tags-bench zoo train` — all of them, some hours on one processor
    * `tags-bench zoo train --methods tags-tiny --steps 200 --zoo /tmp/zoo` — a short trial beside the package
    """
    from benchmarks import api
    from benchmarks.commands.terminal import Terminal
    from benchmarks.execution.zoo import CASES, DATASETS, SEED, ZooOrder

    order = ZooOrder(
        methods=tuple(names_in(work.methods, "--methods") or ()),
        datasets=tuple(names_in(work.datasets, "--datasets") or DATASETS),
        steps=work.steps,
        seed=SEED if work.seed is None else work.seed,
        cases=CASES if work.cases is None else work.cases,
        cpus=work.cpus,
        gpus=work.gpus,
        zoo=work.zoo,
    )
    rows = api.train_zoo(order, out=out, progress=Terminal(console()))
    print_rows("trained", rows, printing.as_json)
