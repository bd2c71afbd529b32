"""`prompts`: first prompts, shown, taken out as JSON, given by hand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from benchmarks.commands.declare import DATA, command, new_group
from benchmarks.commands.options import DataOptions, MethodOptions, OutOption, PrintOptions, WorkOptions
from benchmarks.commands.printing import print_json, print_rows
from benchmarks.commands.run import chosen_suite
from benchmarks.common.errors import UserError
from benchmarks.common.output import DEFAULT_OUT, writable_folder
from benchmarks.common.output_lock import writing_to
from benchmarks.common.paths import user_path

if TYPE_CHECKING:
    from benchmarks.data.dataset import Dataset
    from benchmarks.execution.suite import Suite
    from benchmarks.prompting.bank import PromptBank
    from benchmarks.prompting.protocol import Protocol

app = new_group(help="Look at first prompts, take them out as JSON, give your own.")

AS_RUN = WorkOptions()


@dataclass(frozen=True)
class BankOptions:
    """Whose prompts: of one dataset, fold and protocol, chosen as `run` chooses them.

    Methods count as well: own data from which none of them learns are tested whole, and need prompts for every case.
    """

    data: DataOptions = AS_RUN.data
    methods: MethodOptions = AS_RUN.methods
    out: OutOption = DEFAULT_OUT


@command(app)
def show(
    *,
    bank: BankOptions,
    case: Annotated[str | None, Option("--case", metavar="ID", help="Only this case.", rich_help_panel=DATA)] = None,
    printing: PrintOptions,
) -> None:
    """Show the frozen first prompts that every method is given, in world mm and voxels.

    Example: `tags-bench prompts show --dataset kits21 --protocol centre-click`
    """
    from benchmarks.prompting.by_hand import prompt_rows

    chosen = _chosen(bank)
    frozen = chosen.frozen()
    title = f"{frozen.origin} prompts, {chosen.dataset.name}, {chosen.protocol.name}, bank {frozen.digest[:16]}"
    print_rows(title, prompt_rows(frozen, case), printing.as_json)


@command(app, "export")
def export(
    *,
    to: Annotated[Path, Argument(metavar="DIR", help="New folder: one JSON file for each case and target.")],
    bank: BankOptions,
    printing: PrintOptions,
) -> None:
    """Write the first prompts as JSON in world mm, to be read, drawn in a viewer, or edited.

    Example: `tags-bench prompts export clicks --dataset kits21`
    """
    from benchmarks.prompting.by_hand import export_prompts

    to = user_path(to)
    files = export_prompts(_chosen(bank).frozen(), to)
    if printing.as_json:
        print_json({"files": [str(file) for file in files]})
    else:
        print(f"{len(files)} files in {to}")


@command(app, "import")
def import_(
    *,
    source: Annotated[Path, Argument(metavar="DIR", help="Folder as `prompts export` writes it.")],
    bank: BankOptions,
    replace: Annotated[bool, Option("--replace", help="Replace other prompts that were given before.")] = False,
    printing: PrintOptions,
) -> None:
    """Let the next run with the same options replay your own first prompts, to every method; its rows say so.

    Examples:

    * `tags-bench prompts import clicks --dataset kits21`, then `tags-bench run --dataset kits21`
    * `tags-bench prompts import clicks --dataset mine --methods ball --fold 1`, then `run` with these very options
    """
    from benchmarks.execution.prompt_banks import bank_file
    from benchmarks.prompting.by_hand import import_prompts, save_given

    with writing_to(bank.out, "prompts import"):
        chosen = _chosen(bank)
        suite, dataset, fold, protocol = chosen.suite, chosen.dataset, chosen.fold, chosen.protocol
        imported = import_prompts(source, dataset, suite.part, fold, protocol, suite.seed)
        path = bank_file(chosen.folder, suite, dataset, fold, protocol)
        save_given(imported, path, replace)
    if printing.as_json:
        print_json({"bank": str(path), "sha256": imported.digest, "cases": len(imported.cases)})
    else:
        print(f"{len(imported.cases)} cases; the next run replays {path}")


@dataclass(frozen=True)
class _Chosen:
    """The prompts of one protocol on one dataset of a suite.

    Attributes:
        folder: of the prompt banks.
    """

    suite: Suite
    dataset: Dataset
    fold: int
    protocol: Protocol
    folder: Path

    def frozen(self) -> PromptBank:
        from benchmarks.execution.prompt_banks import frozen_bank

        return frozen_bank(self.folder, self.suite, self.dataset, self.fold, self.protocol)


def _chosen(bank: BankOptions) -> _Chosen:
    """What the options name. Raises UserError for more than one dataset, fold or protocol."""
    from benchmarks.execution.datasets import Folders, dataset_of
    from benchmarks.execution.entries import ALL_FOLDS

    data = bank.data
    suite = chosen_suite(WorkOptions(data=data, methods=bank.methods))
    if len({entry.name for entry in suite.datasets}) > 1:
        raise UserError("prompts are those of one dataset; choose it with --dataset")
    if len(suite.datasets) > 1 or suite.datasets[0].fold == ALL_FOLDS:
        raise UserError("prompts are those of one fold; choose it with --fold, such as --fold 0")
    if data.protocol and len(data.protocol) > 1:
        raise UserError("prompts are those of one protocol; choose it with --protocol")
    protocol = suite.protocols[0] if data.protocol else suite.protocol("centre-click")
    entry, folders = suite.datasets[0], Folders(writable_folder(bank.out))
    return _Chosen(suite, dataset_of(suite, entry, folders), entry.fold_number, protocol, folders.prompts)
