"""`doctor`: is everything there?"""

from __future__ import annotations

from benchmarks.commands.declare import command, new_group
from benchmarks.commands.options import AddressOption, OutputOptions, PrintOptions
from benchmarks.commands.printing import print_json, print_mapping

app = new_group()


@command(app, panel="Set-up")
def doctor(*, address: AddressOption = None, output: OutputOptions, printing: PrintOptions) -> None:
    """Say what is installed and reachable.

    Packages, GPU, Ray, MLflow, checkpoints.
    """
    from benchmarks.execution.doctor import examine

    findings = examine(output.out.resolve(), output.tracking_uri, address)
    if printing.as_json:
        print_json(findings)
        return
    for section, values in findings.items():
        print_mapping(section, values)
