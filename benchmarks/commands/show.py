"""`show`: from a number back to what made it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from benchmarks.commands import completion
from benchmarks.commands.declare import METHODS, command, new_group
from benchmarks.commands.options import LAST_RUN, FinishedOptions, PrintOptions
from benchmarks.commands.printing import print_json, print_mapping, print_rows, say_synthetic

if TYPE_CHECKING:
    from benchmarks.results.audit import Trail

app = new_group()
SHOWN = ("dice", "nsd@2mm", "hd95_mm")


@command(app, panel="Results")
def show(
    *,
    case: Annotated[str, Argument(metavar="CASE", help="DATASET/CASE, or the case alone if one data set has it.")],
    method: Annotated[
        str | None,
        Option(
            "--method",
            metavar="NAME",
            help="Only this one, with every step and its prompts.",
            rich_help_panel=METHODS,
            autocompletion=completion.method_names,
        ),
    ] = None,
    run: FinishedOptions = LAST_RUN,
    printing: PrintOptions,
) -> None:
    """Show what a case's numbers come from: record, mask, prompts, log.

    Examples:

    * `tags-bench show kits21/case_00003` — every method, and where its mask lies
    * `tags-bench show case_00003 --method tags-tiny` — every step, its prompts, and what decided the numbers
    """
    from benchmarks import api

    trails = api.show(case, method, suite=run.suite, out=run.out)
    if printing.as_json:
        print_json([trail.as_json() for trail in trails])
        return
    say_synthetic(any(bool(trail.unit["synthetic"]) for trail in trails))
    if method is None:
        print_rows(f"{case}, last step of each protocol", _overview(trails))
        for name, mask in _last_masks(trails).items():  # whole lines, to be copied
            print(f"{name}: {mask}")
        print("`--method NAME` shows every step with its prompts")
        return
    for trail in trails:
        unit = trail.unit
        print_rows(f"{unit['method']} on {unit['dataset']}, {unit['target']['name']}", _steps(trail))
        print_mapping("prompts of the masks", _prompts(trail))
        print_mapping("where it lies", trail.places)
        print_mapping("what decided the numbers", {key: _short(value) for key, value in trail.decided_by.items()})


def _overview(trails: Sequence[Trail]) -> list[dict[str, Any]]:
    rows = []
    for trail in trails:
        last = {step["protocol"]: step for step in trail.steps}
        target = {"target": trail.unit["target"]["name"]} if _several_targets(trails) else {}
        rows += [
            {"method": trail.unit["method"], **target, "protocol": name, **_numbers(step),
             "clicks": step.get("clicks", "")}
            for name, step in last.items()
        ]  # fmt: skip
    return rows


def _last_masks(trails: Sequence[Trail]) -> dict[str, str]:
    """Method, protocol and, where there are several, target → file of the last mask, from the output folder on."""
    masks = {}
    for trail in trails:
        target = f", {trail.unit['target']['name']}" if _several_targets(trails) else ""
        for step in trail.steps:
            name = f"{trail.unit['method']}, {step['protocol']}{target}"
            masks[name] = step["mask"] or step["no_mask"] or "no mask kept"
    return masks


def _several_targets(trails: Sequence[Trail]) -> bool:
    return len({trail.unit["target"]["name"] for trail in trails}) > 1


def _steps(trail: Trail) -> list[dict[str, Any]]:
    return [
        {"protocol": step["protocol"], "step": step["step"], **_numbers(step), "clicks": step.get("clicks", ""),
         "s prompt": _short(step.get("seconds_segment", "")),
         "mask": Path(step["mask"]).name or step["no_mask"] or "not kept"}
        for step in trail.steps
    ]  # fmt: skip


def _numbers(step: Any) -> dict[str, Any]:
    status = step["status"] if not step.get("reason") else f"{step['status']}: {step['reason']}"
    return {"status": status} | {key: _short(step[key]) for key in SHOWN if key in step}


def _prompts(trail: Trail) -> dict[str, str]:
    """What was given at each step that has a mask of its own."""
    shown: dict[str, str] = {}
    for step in trail.steps:
        if step["mask"] and not step.get("carried"):
            shown[f"{step['protocol']}, step {step['step']}"] = json.dumps(step["prompts"], sort_keys=True)
    return shown


def _short(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
