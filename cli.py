"""The command line of tags-bench: puts the commands together, and turns a user's mistake into one line."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from benchmarks.commands import (
    compare,
    data,
    doctor,
    leaderboard,
    lists,
    mlflow,
    predict,
    prompts,
    rehearse,
    report,
    run,
    score,
    show,
    sync,
    weights,
    zoo,
)
from benchmarks.commands.declare import new_group
from benchmarks.common.errors import MachineFault, UserError, is_fault_of_files, one_line

app = new_group(
    name="tags-bench",
    help="""A benchmark for 3D tumour segmentation, distributed on Ray, recorded in MLflow.

`tags-bench run --all-datasets` ranks eleven small methods on synthetic phantoms, in minutes on a laptop.
`tags-bench run --data DIR --target LABEL --organ NAME --lesion NAME --minutes 30` does so on your own scans.""",
)
for module in (run, rehearse, leaderboard, report, compare, show, score, predict, mlflow, sync, lists):
    app.add_typer(module.app)
for name, module in (("data", data), ("weights", weights), ("prompts", prompts), ("zoo", zoo)):
    app.add_typer(module.app, name=name, rich_help_panel="Set-up")
app.add_typer(doctor.app)


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


def main() -> None:
    """Entry point. One line, exit code 2 for a mistake of the user, 3 for the machine; --debug has the traceback."""
    try:
        app()
    except UserError as error:
        _end(f"error: {error}", 2)
    except MachineFault as error:
        _end(f"error: {one_line(error, 300)}; what is finished is kept, and the same command goes on", 3)
    except Exception as error:
        if is_fault_of_files(error):
            _end(f"error: the disk: {one_line(error, 300)}; what is finished is kept, and the same command goes on", 3)
        _end(f"internal error: {one_line(error)} (run again with --debug for the traceback)", 1)


def _end(message: str, code: int) -> None:
    """Print a line and exit; with --debug, let the error that is being handled go on."""
    if "--debug" in sys.argv:
        raise
    print(message, file=sys.stderr)
    raise SystemExit(code) from None


if __name__ == "__main__":
    main()
