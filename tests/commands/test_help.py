"""Help is fast and teaches, names complete, bad input is one line and exit code 2."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from benchmarks import api

ROOT = Path(__file__).resolve().parents[2]


def test_help_costs_less_than_half_a_second_of_processor() -> None:
    """Processor time, not wall-clock: the machine may be busy with other things."""
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [sys.executable, "-m", "cli", "--help"], capture_output=True, text=True, check=True, cwd=ROOT
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert "run" in done.stdout
    assert min(seconds) < 0.5


COMMANDS = [
    *(
        "run",
        "rehearse",
        "train",
        "tune",
        "ablate",
        "leaderboard",
        "report",
        "compare",
        "show",
        "mlflow",
        "score",
        "predict",
        "suites",
        "methods",
        "datasets",
        "doctor",
        "sync",
    ),
    *(f"data {verb}" for verb in ("synth", "fetch", "add", "list", "verify", "stats", "splits", "remove")),
    *("data import-dicom", "weights list", "weights fetch", "weights verify"),
    *("prompts show", "prompts export", "prompts import", "zoo list", "zoo train"),
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_that_fits_a_narrow_terminal(
    call, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 80)
    outcome = call(*command.split(), "--help")
    assert outcome.code == 0
    assert "--debug" in outcome.out
    assert "<bool>" not in outcome.out
    assert max(map(len, outcome.out.splitlines())) <= 80


def test_the_list_of_commands_is_whole() -> None:
    import typer.main

    import cli

    group = typer.main.get_command(cli.app)
    found = []
    for name, one in group.commands.items():
        found += [f"{name} {verb}" for verb in one.commands] if hasattr(one, "commands") else [name]
    assert sorted(found) == sorted(COMMANDS)


def test_options_stand_under_their_headings(call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 80)
    text = call("run", "--help").out
    headings = [line.strip("╭╮─ ") for line in text.splitlines() if line.startswith("╭")]
    assert headings == ["Data", "Methods", "Budget", "Cluster", "Output"]
    panels = dict(zip(headings, text.split("╭")[1:], strict=True))
    for heading, options in {
        "Data": ("--suite", "--dataset", "--all-datasets", "--data", "--target", "--seed"),
        "Methods": ("--methods", "--checkpoint", "--untrained"),
        "Budget": ("--minutes", "--steps"),
        "Cluster": ("--workers", "--cpus", "--gpus", "--address"),
        "Output": ("--out", "--tracking-uri", "--fresh", "--retry-failed", "--json", "--debug", "--help"),
    }.items():
        for option in options:
            assert f"{option} " in panels[heading], option


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "--suite", "phantoms"], "did you mean 'phantom'"),
        (["run", "--methods", "tags-tiney"], "did you mean 'tags-tiny'"),
        (["run", "--dataset", "kits"], "did you mean 'kits21'"),
        (["run", "--protocol", "center-click"], "did you mean 'centre-click'"),
        (["run", "--fold", "77", "--methods", "ball"], "folds 0 to"),
        (["run", "--methods", "ball,"], "an empty name"),
        (["run", "--data", "nowhere"], "no such folder"),
        (["run", "--target", "2"], "belong to --data"),
        (["run", "--dataset", "kits21", "--all-datasets"], "contradict each other"),
        (["run", "--data", ".", "--phantoms"], "--phantoms belongs to --dataset"),
        (
            ["run", "--checkpoint", "ball=/etc/hostname", "--checkpoint", "ball=/etc/hosts"],
            "'ball' is named twice",
        ),
        (["run", "--fold", "first"], "a number from 0 on, or 'all'"),
        (["run", "--splits", "nowhere.csv"], "split table nowhere.csv: not readable"),
        (["run", "--train-on", "kits"], "did you mean 'kits21'"),
        (["run", "--suite", "paper", "--methods", "ball"], "`tags-bench data add kits21"),
        (["rehearse", "--suite", "papr"], "did you mean 'paper'"),
        (["run", "--methods", "sam-b"], "`tags-bench weights fetch sam_vit_b_01ec64.pth`"),
        (["run", "--methods", "sam-b", "--checkpoint", "sam-b=nowhere.pth"], "no such file"),
        (["run", "--methods", "tags-tiny", "--checkpoint", "tags-tiny=."], "--train-on"),
        (["run", "--methods", "sam-b", "--checkpoint", "nowhere.pth"], "METHOD=FILE"),
        (["leaderboard", "--suite", "phantom"], "no records"),
        (["leaderboard", "--tracking-uri", "sqlite:////nowhere/at/all.db"], "cannot be read"),
        (["leaderboard", "--json", "--figures", "f"], "choose one of --json and --figures"),
        (["leaderboard", "--figure", "f.svg", "--figures", "f"], "choose one of --figure and --figures"),
        (["leaderboard", "--svg", "f.svg", "--markdown"], "choose one of --markdown and --svg"),
        (["leaderboard", "--markdown", "--latex", "--json"], "choose one of --json, --markdown and --latex"),
        (["leaderboard", "--overall", "--table", "sizes"], "choose one of --overall and --table"),
        (["leaderboard", "--overall", "--figure", "f.svg"], "choose one of --overall and --figure"),
        (["leaderboard", "--details", "--figures", "f"], "choose one of --details and --figures"),
        (["leaderboard", "--table", "sizes", "--figures", "f"], "choose one of --table and --figures"),
        (["compare", "a", "b", "--json", "--markdown"], "choose one of --json and --markdown"),
        (["leaderboard", "--records", "r", "--tracking-uri", "u"], "choose one of --records and --tracking-uri"),
        (["data", "synth", "--dataset", "lits"], "did you mean 'lits17'"),
        (["train", "--methods", "region-growing"], "none of these methods is trained"),
        (["ablate", "--methods", "ball"], "announces no part to switch off; these do:"),
        (["ablate", "--methods", "tags-tiny,ball"], "exactly one method, not 2"),
        (["ablate", "--metric", "dise"], "did you mean 'dice'"),
    ],
)
def test_bad_words_are_one_line_and_exit_code_2(call, words: list[str], message: str) -> None:
    outcome = call(*words)
    assert outcome.code == 2
    assert message in outcome.err
    assert len([line for line in outcome.err.splitlines() if line.startswith("error:")]) == 1
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize("names", ["", " ", "ball,", ",ball"])
@pytest.mark.parametrize(
    ("command", "option"),
    [("run", "--methods"), ("rehearse", "--methods"), ("zoo train", "--methods"), ("zoo train", "--datasets")],
)
def test_an_empty_name_does_not_stand_for_all(
    call, monkeypatch: pytest.MonkeyPatch, command: str, option: str, names: str
) -> None:
    """Such as that of a variable of the shell that is not set: `zoo train` trained for hours then."""

    def begin(*work: object, **settings: object) -> None:
        raise RuntimeError("begun")

    for name in ("run", "rehearse", "train_zoo"):
        monkeypatch.setattr(api, name, begin)
    outcome = call(*command.split(), option, names)
    assert (outcome.code, outcome.errors) == (
        2,
        [f"error: {option}: an empty name; give names with commas between them"],
    )


def test_an_unknown_option_is_exit_code_2(call) -> None:
    assert call("run", "--metods", "ball").code == 2


def test_lists_as_json(call) -> None:
    methods = json.loads(call("methods", "--json").out)
    assert {"ball", "region-growing", "nnunet", "tags-tiny"} <= {row["name"] for row in methods}
    suites = {row["name"]: row for row in json.loads(call("suites", "--json").out)}
    for file in (ROOT / "benchmarks" / "suites").glob("*.yaml"):
        written = yaml.safe_load(file.read_text(encoding="utf-8"))
        told = suites[written["name"]]
        assert told["title"] == written["title"]
        assert told["datasets"] == [entry["name"] for entry in written["datasets"]]  # each once, whatever its folds
        assert len(told["methods"]) == len(written["methods"])
    assert "all systems at tiny size" in call("suites").out
    datasets = json.loads(call("datasets", "--json").out)
    assert {"kits21", "msd-pancreas", "lits17"} <= {row["name"] for row in datasets}
