"""`doctor`: is everything there?"""

from __future__ import annotations

from benchmarks.commands.declare import command, new_group
from benchmarks.commands.options import AddressOption, OutputOptions, PrintOptions
from benchmarks.commands.printing import print_json, print_mapping, print_rows

app = new_group()


@command(app, panel="Set-up")
def doctor(*, address: AddressOption = None, output: OutputOptions, printing: PrintOptions) -> None:
    """Say what is installed and reachable.

    Packages, GPU, Ray, MLflow, checkpoints. With --address a table of the cluster's hosts: does every one have this
    version, its methods, the output folder, a GPU?
    """
    from benchmarks.execution.doctor import examine

    findings = examine(output.out.resolve(), output.tracking_uri, address)
    if printing.as_json:
        print_json(findings)
        return
    for section, values in findings.items():
        if isinstance(values, list):
            print_rows(section, values)
        else:
            print_mapping(section, values)
