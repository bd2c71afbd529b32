"""`suites`, `methods`, `datasets`: what there is to choose from."""

from __future__ import annotations

from typing import Any

from benchmarks.commands.declare import command, new_group
from benchmarks.commands.options import PrintOptions
from benchmarks.commands.printing import print_broken, print_json, print_rows

app = new_group()
PANEL = "What there is"


@command(app, "suites", panel=PANEL)
def list_suites(printing: PrintOptions) -> None:
    """List the embedded suites and what is in them."""
    from benchmarks.execution.embedded import embedded_suites
    from benchmarks.execution.suite import load_suite

    rows: list[dict[str, Any]] = []
    for suite in map(load_suite, embedded_suites()):
        sources = {entry.source or "added" for entry in suite.datasets}
        rows.append(
            {
                "name": suite.name,
                "title": suite.title,
                "datasets": list(dict.fromkeys(entry.name for entry in suite.datasets)),
                "data": ", ".join(sorted("phantoms" if source == "phantom" else source for source in sources)),
                "methods": [entry.title for entry in suite.methods],
                "protocols": [protocol.name for protocol in suite.protocols],
                "budget": suite.budget.model_dump(exclude_none=True),
            }
        )
    if printing.as_json:
        print_json(rows)
        return
    shown = [
        {
            "name": row["name"],
            "title": row["title"],
            "datasets": ", ".join(row["datasets"]),
            "data": row["data"],
            "methods": len(row["methods"]),
            "protocols": len(row["protocols"]),
            "training": ", ".join(
                f"{row['budget'][unit]:g} {unit}" for unit in ("minutes", "steps") if unit in row["budget"]
            ),
        }
        for row in rows
    ]
    print_rows("suites", shown, as_json=False)


@command(app, "methods", panel=PANEL)
def list_methods(printing: PrintOptions) -> None:
    """List the installed methods, the prompts they take, and the licences of their code and weights."""
    from benchmarks.contestants import broken_methods
    from benchmarks.contestants import methods as installed

    rows = [
        {
            "name": method.name,
            "summary": method.summary,
            "prompts": ", ".join(sorted(method.prompts)),
            "training": {"none": "none", "bench": "by the bench", "own": "by its own tool"}[method.training],
            "floor": "yes" if method.floor else "",
            "code": method.card.code_licence,
            "weights": method.card.weights_licence,
            "environment": str(method.environment or ""),
        }
        for method in installed().values()
    ]
    if printing.as_json:
        print_json(rows)
    else:
        print_rows("methods", [_shown(row) for row in rows])
    print_broken(broken_methods())


def _shown(row: dict[str, Any]) -> dict[str, str]:
    """A method in five columns; `--json` says which environment it has, and names code and weights apart."""
    licences = row["code"] if row["weights"] in (row["code"], "none") else f"{row['code']}; weights: {row['weights']}"
    summary = row["summary"] + ("; runs in an environment of its own" if row["environment"] else "")
    return {
        "name": row["name"],
        "summary": summary,
        "prompts": row["prompts"],
        "training": row["training"],
        "licences": licences,
    }


@command(app, "datasets", panel=PANEL)
def list_datasets(printing: PrintOptions) -> None:
    """List the datasets known by name; `--data` reads other folders."""
    from benchmarks.data.catalogue import broken_datasets
    from benchmarks.data.catalogue import datasets as known

    rows = [
        {
            "name": info.name,
            "title": info.title,
            "target": ", ".join(target.name for target in info.targets),
            "cases": info.cases,
            "licence": info.licence,
            "split": info.split_source,
        }
        for info in known().values()
    ]
    print_rows("datasets", rows, printing.as_json)
    print_broken(broken_datasets())
