"""`predict`: one scan, no label."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from benchmarks.commands import completion
from benchmarks.commands.declare import DATA, METHODS, command, new_group
from benchmarks.commands.options import LAST_RUN, FinishedOptions, GpusOption, PrintOptions
from benchmarks.commands.printing import print_json, print_mapping, say_synthetic

app = new_group()


@dataclass(frozen=True)
class PromptOptions:
    """What the method is told about the scan."""

    prompts: Annotated[
        Path | None,
        Option("--prompts", metavar="FILE", help="JSON in world mm; see docs/protocols.md.", rich_help_panel=DATA),
    ] = None
    text: Annotated[
        str | None,
        Option("--text", metavar="WORDS", help="A text prompt, such as 'liver tumor'.", rich_help_panel=DATA),
    ] = None


@dataclass(frozen=True)
class TrainedOptions:
    """Which trained method of which run."""

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
    gpus: GpusOption = None


@command(app, panel="Results")
def predict(
    *,
    scan: Annotated[Path, Argument(help="The scan: NIfTI, NRRD or MHA.")],
    mask: Annotated[Path, Argument(help="The mask to write: .nii or .nii.gz.")],
    method: Annotated[
        str,
        Option(
            "--method",
            metavar="NAME",
            help="As the leaderboard of the run names it.",
            rich_help_panel=METHODS,
            autocompletion=completion.method_names,
        ),
    ],
    prompting: PromptOptions,
    trained: TrainedOptions,
    printing: PrintOptions,
) -> None:
    """Segment one scan with a method of a finished run.

    The prompts are your own; no label is needed, and none is looked for.

    Example: `tags-bench predict scan.nii.gz mask.nii.gz --method tags-tiny --dataset kits21 --prompts clicks.json`
    """
    from benchmarks import api

    wanted = api.MethodOfRun(method, trained.dataset, trained.run.suite, trained.run.out)
    result = api.predict(scan, mask, wanted, prompts=prompting.prompts, text=prompting.text, gpus=trained.gpus or 0.0)
    if printing.as_json:
        print_json(result.figures)
        return
    say_synthetic(bool(result.unit["synthetic"]))
    print_mapping(f"{method}, trained and evaluated on {result.unit['dataset']}", result.figures)
