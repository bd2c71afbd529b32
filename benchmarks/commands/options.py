"""Every option that more than one command has, written once; groups of them are parameters of a command."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from benchmarks.commands import completion
from benchmarks.commands.declare import BUDGET, CLUSTER, DATA, METHODS, OUTPUT, TABLES
from benchmarks.common.errors import UserError
from benchmarks.common.output import DEFAULT_OUT
from benchmarks.execution.embedded import embedded_suites

if TYPE_CHECKING:
    from benchmarks.api import Recompute

SuiteOption = Annotated[
    str,
    Option(
        "--suite",
        metavar="NAME",
        help=f"{', '.join(embedded_suites())}, or a YAML file.",
        rich_help_panel=DATA,
        autocompletion=completion.suite_names,
    ),
]
DatasetsOption = Annotated[
    list[str] | None,
    Option(
        "--dataset",
        metavar="NAME",
        help="Only this one; repeatable.",
        rich_help_panel=DATA,
        autocompletion=completion.dataset_names,
    ),
]
SeedOption = Annotated[
    int | None, Option("--seed", metavar="N", help="Replaces the suite's seed.", rich_help_panel=DATA)
]
GpusOption = Annotated[
    float | None,
    Option("--gpus", metavar="N", min=0, help="GPUs per worker; 0.5: two share one.", rich_help_panel=CLUSTER),
]
AddressOption = Annotated[
    str | None,
    Option("--address", metavar="HOST", help="Ray cluster to join; default: this machine.", rich_help_panel=CLUSTER),
]
MarginOption = Annotated[
    float | None, Option("--margin", metavar="X", help="Smaller differences do not matter.", rich_help_panel=TABLES)
]
OutOption = Annotated[Path, Option("--out", metavar="DIR", help="Where everything is written.", rich_help_panel=OUTPUT)]
UriOption = Annotated[
    str | None,
    Option("--tracking-uri", metavar="URI", help="MLflow server; default: SQLite in --out.", rich_help_panel=OUTPUT),
]
FreshOption = Annotated[
    bool,
    Option("--fresh", help="Compute everything again, trained models included.", rich_help_panel=OUTPUT),
]
UntrainedOption = Annotated[
    bool,
    Option("--untrained", help="Show what the bench trains untrained as well.", rich_help_panel=METHODS),
]
RepeatsOption = Annotated[
    int | None,
    Option("--repeats", metavar="N", min=1, help="Trainings of all that learns.", rich_help_panel=METHODS),
]
JsonOption = Annotated[bool, Option("--json", help="Print the result as JSON.", rich_help_panel=OUTPUT)]
DebugOption = Annotated[bool, Option("--debug", help="Show the traceback of an error.", rich_help_panel=OUTPUT)]
AcceptOption = Annotated[bool, Option("--accept-licence", help="Accept the licence without being asked.")]


@dataclass(frozen=True)
class FinishedOptions:
    """A run that is over."""

    suite: Annotated[
        str,
        Option(
            "--suite",
            metavar="NAME",
            help="Name of the suite that was run.",
            rich_help_panel=DATA,
            autocompletion=completion.suite_names,
        ),
    ] = "phantom"
    out: Annotated[Path, Option("--out", metavar="DIR", help="Output folder of the run.", rich_help_panel=DATA)] = (
        DEFAULT_OUT
    )


LAST_RUN = FinishedOptions()


@dataclass(frozen=True)
class LabelOptions:
    """What to segment in the user's own scans."""

    target: Annotated[
        str | None,
        Option("--target", metavar="LABEL", help="Own scans: label to segment, value or name.", rich_help_panel=DATA),
    ] = None
    organ: Annotated[
        str, Option("--organ", metavar="WORDS", help="Own scans: the organ, for text prompts.", rich_help_panel=DATA)
    ] = ""
    lesion: Annotated[
        str, Option("--lesion", metavar="WORDS", help="Own scans: the lesion, likewise.", rich_help_panel=DATA)
    ] = ""


@dataclass(frozen=True)
class DataOptions:
    """What is evaluated on."""

    suite: SuiteOption = "phantom"
    dataset: DatasetsOption = None
    all_datasets: Annotated[
        bool, Option("--all-datasets", help="Every dataset of the suite.", rich_help_panel=DATA)
    ] = False
    phantoms: Annotated[
        bool,
        Option("--phantoms", help="With --dataset: the suite's phantoms, even if added.", rich_help_panel=DATA),
    ] = False
    data: Annotated[
        Path | None,
        Option(
            "--data",
            metavar="DIR",
            help="Your own scans: MSD, nnU-Net raw, KiTS21 or LiTS17 layout, or a CSV table.",
            rich_help_panel=DATA,
        ),
    ] = None
    labels: LabelOptions = LabelOptions()
    train_on: Annotated[
        str | None,
        Option(
            "--train-on",
            metavar="NAME",
            help="Learn from this dataset, test on the whole other.",
            rich_help_panel=DATA,
            autocompletion=completion.dataset_names,
        ),
    ] = None
    splits: Annotated[
        str | None,
        Option(
            "--splits",
            metavar="WORD",
            help="patient, folders, FILE.json, TABLE.csv or TABLE.csv:COLUMN.",
            rich_help_panel=DATA,
        ),
    ] = None
    fold: Annotated[
        list[str] | None,
        Option("--fold", metavar="N", help="Replaces the suite's; repeatable, or `all`.", rich_help_panel=DATA),
    ] = None
    protocol: Annotated[
        list[str] | None,
        Option("--protocol", metavar="NAME", help="Only this way of prompting; repeatable.", rich_help_panel=DATA),
    ] = None
    seed: SeedOption = None


@dataclass(frozen=True)
class MethodOptions:
    """What is evaluated."""

    methods: Annotated[
        str | None,
        Option(
            "--methods",
            metavar="NAME,…",
            help="Only these; see `tags-bench methods`.",
            rich_help_panel=METHODS,
            autocompletion=completion.method_names,
        ),
    ] = None
    checkpoint: Annotated[
        list[str] | None,
        Option(
            "--checkpoint",
            metavar="METHOD=FILE",
            help="Official weights of a method, used as they are; repeatable.",
            rich_help_panel=METHODS,
        ),
    ] = None
    masks: Annotated[
        list[str] | None,
        Option(
            "--masks",
            metavar="NAME=DIR",
            help="Masks made elsewhere, files by case name, as a method; repeatable.",
            rich_help_panel=METHODS,
        ),
    ] = None


@dataclass(frozen=True)
class BudgetOptions:
    """What each training may cost."""

    minutes: Annotated[
        float | None,
        Option("--minutes", metavar="N", min=0.01, help="Time of each training.", rich_help_panel=BUDGET),
    ] = None
    steps: Annotated[
        int | None,
        Option("--steps", metavar="N", min=1, help="Optimiser steps of each training.", rich_help_panel=BUDGET),
    ] = None


@dataclass(frozen=True)
class ClusterOptions:
    """Where it is computed."""

    workers: Annotated[
        int | None,
        Option("--workers", metavar="N", min=1, help="Ray Train workers per training.", rich_help_panel=CLUSTER),
    ] = None
    cpus: Annotated[
        int | None, Option("--cpus", metavar="N", min=1, help="Processors per worker.", rich_help_panel=CLUSTER)
    ] = None
    gpus: GpusOption = None
    address: AddressOption = None
    storage: Annotated[
        str | None,
        Option("--storage", metavar="URI", help="Folder or s3://… for states of trainings.", rich_help_panel=CLUSTER),
    ] = None


@dataclass(frozen=True)
class WorkOptions:
    """A suite, what of it, and with what means."""

    data: DataOptions = DataOptions()
    methods: MethodOptions = MethodOptions()
    budget: BudgetOptions = BudgetOptions()
    cluster: ClusterOptions = ClusterOptions()


ONE_METHOD = WorkOptions(methods=MethodOptions(methods="tags-tiny"))
ABLATION = WorkOptions(data=DataOptions(suite="ablation"), methods=MethodOptions(methods="tags-tiny"))


@dataclass(frozen=True)
class OutputOptions:
    """Where it is written."""

    out: OutOption = DEFAULT_OUT
    tracking_uri: UriOption = None


@dataclass(frozen=True)
class AgainOptions:
    """What of the finished is computed again."""

    fresh: FreshOption = False
    retry_failed: Annotated[
        bool, Option("--retry-failed", help="Compute failed cases again.", rich_help_panel=OUTPUT)
    ] = False

    @property
    def recompute(self) -> Recompute:
        return "all" if self.fresh else "failed" if self.retry_failed else "missing"


@dataclass(frozen=True)
class PrintOptions:
    """How the result and an error are printed. `--debug` is looked up where errors are caught."""

    as_json: JsonOption = False
    debug: DebugOption = False


def names_in(text: str | None, option: str) -> list[str] | None:
    """The names of a list with commas; None where the option was left out, which may stand for all.

    Raises:
        UserError: one of them is empty, such as the only one of a variable of the shell that is not set.
    """
    names = None if text is None else [word.strip() for word in text.split(",")]
    if names is not None and not all(names):
        raise UserError(f"{option}: an empty name; give names with commas between them")
    return names
