"""`sync`: what an MLflow server did not take."""

from __future__ import annotations

import sys

from benchmarks.commands.declare import command, new_group
from benchmarks.commands.options import OutputOptions, PrintOptions
from benchmarks.commands.printing import print_json
from benchmarks.common.errors import UserError
from benchmarks.common.files import readable
from benchmarks.common.output_lock import writing_to
from benchmarks.common.paths import user_path

app = new_group()


@command(app, panel="Results")
def sync(*, output: OutputOptions, printing: PrintOptions) -> None:
    """Send to MLflow what earlier runs could not.

    Examples:

    * `tags-bench sync` — to the store in the output folder
    * `tags-bench sync --tracking-uri http://127.0.0.1:5000`
    """
    from benchmarks.results import mlflow

    with readable():
        if not user_path(output.out).is_dir():  # the lock would make it
            raise UserError(f"--out {output.out}: no such folder; nothing waits there to be sent")
    out = user_path(output.out).resolve()
    with writing_to(output.out, "sync"):
        sent, left = mlflow.sync(out, output.tracking_uri)
        elsewhere = mlflow.waiting_elsewhere(out, output.tracking_uri)
    if printing.as_json:
        print_json({"sent": sent, "left": left})
    else:
        print(f"{sent} messages sent, {left} left")
    problems = [f"{left} messages were not taken; they are kept in {output.out}"] if left else []
    if left or (elsewhere and not (sent and output.tracking_uri)):  # who names a server need not mean the others
        raise UserError("; ".join([*problems, *elsewhere]))
    for line in elsewhere:
        print(f"warning: {line}", file=sys.stderr)
