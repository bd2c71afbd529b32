"""Suites: what is read, and what is refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.common.errors import UserError
from benchmarks.execution.entries import BudgetChanges
from benchmarks.execution.suite import BudgetEntry, embedded_suites, load_suite, parse_suite
from tests.plugins import install

MINIMAL = """
name: small
datasets: [{name: kits21, source: phantom, cases: 4}]
methods: [ball, {name: ball, label: ball-again}]
protocols: [centre-click, {kind: iterative, rounds: 3}]
budget: {steps: 5}
"""


def test_the_default_suite_is_embedded_and_names_three_datasets() -> None:
    assert "phantom" in embedded_suites()
    suite = load_suite("phantom")
    assert [entry.name for entry in suite.datasets] == ["kits21", "msd-pancreas", "lits17"]
    assert all(entry.source == "phantom" and entry.cases >= 12 for entry in suite.datasets)


def test_a_suite_is_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_text(MINIMAL)
    suite = load_suite(str(file))
    assert [entry.title for entry in suite.methods] == ["ball", "ball-again"]
    assert [protocol.name for protocol in suite.protocols] == ["centre-click", "iterative-3"]
    assert suite.budget.budget().steps == 5


def test_protocols_written_as_mappings_and_as_words_are_the_same() -> None:
    words = parse_suite(MINIMAL, "a").protocols[0]
    mapping = parse_suite(MINIMAL.replace("[centre-click,", "[{kind: centre-click},"), "b").protocols[0]
    assert words == mapping


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("budget: {steps: 5}", "budgets: {steps: 5}"), "did you mean 'budget'"),
        (("source: phantom", "sorce: phantom"), "did you mean 'source'"),
        (("{steps: 5}", "{step: 5}"), "did you mean 'steps'"),
        (("kind: iterative", "kind: iterativ"), "did you mean 'iterative'"),
        (("cases: 4", "cases: 1"), "greater than or equal to 3"),
        (("{steps: 5}", "{steps: [5}"), "not valid YAML"),
    ],
)
def test_a_mistake_is_one_line_with_the_nearest_name(change: tuple[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        parse_suite(MINIMAL.replace(*change), "test")
    assert "\n" not in str(caught.value)


def test_unknown_suite_and_missing_file() -> None:
    with pytest.raises(UserError, match="did you mean 'phantom'"):
        load_suite("phantoms")
    with pytest.raises(UserError, match="does not exist"):
        load_suite("nowhere.yaml")


def test_a_suite_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes("title: Tumör".encode("latin-1"))
    with pytest.raises(UserError, match="not readable as UTF-8"):
        load_suite(str(tmp_path / "latin.yaml"))


def test_a_dataset_outside_the_suite_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UserError, match="did you mean 'lits17'"):
        load_suite("phantom").with_datasets(["lits"])


def test_a_ladder_of_errors_becomes_protocols_and_equal_ones_are_one() -> None:
    suite = parse_suite(
        """
name: ladder
datasets: [{name: kits21, source: phantom}]
methods: [ball]
protocols: [centre-click, {kind: centre-click, noise: {displacement_mm: [0, 2, 4]}}]
budget: {steps: 1}
""",
        "here",
    )
    assert [protocol.name for protocol in suite.protocols] == [
        "centre-click",
        "centre-click-displaced-2mm",
        "centre-click-displaced-4mm",
    ]


def test_the_suite_of_operators_has_a_ladder_rounds_and_lesions() -> None:
    protocols = {protocol.name: protocol for protocol in load_suite("operators").protocols}
    assert [name for name in protocols if name.startswith("centre-click")] == [
        "centre-click",
        "centre-click-displaced-2mm",
        "centre-click-displaced-4mm",
        "centre-click-displaced-8mm",
    ]
    assert protocols["iterative-3-each-lesion"].per == "each-lesion"
    assert protocols["iterative-5-displaced-4mm-wrong-sign-0.1-late-1"].noise.late_stop == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("budget: {steps: 5}", "budget: {steps: 5}\nname: again"), "the key 'name' stands twice"),
        (("{kind: iterative, rounds: 3}", "{kind: iterative, rounds: 3, rounds: 4}"), "the key 'rounds' stands twice"),
        (("budget: {steps: 5}", "budget: {steps: 5}\nzoo: 2026-13-45"), "not valid YAML"),
        (("budget: {steps: 5}", "budget: {}"), "give minutes or steps"),
        (("budget: {steps: 5}", "budget: {minutes: .inf}"), "budget.minutes"),
        (("budget: {steps: 5}", "budget: {minutes: .nan}"), "budget.minutes"),
        (("budget: {steps: 5}", "budget: {steps: 5}\ntolerances_mm: [1, .nan]"), "tolerances_mm.1"),
        (("budget: {steps: 5}", "budget: {steps: 5}\ntolerances_mm: [.inf]"), "tolerances_mm.0"),
        (("budget: {steps: 5}", "budget: {steps: 5}\ntolerances_mm: [-1]"), "tolerances_mm.0"),
        (("budget: {steps: 5}", "budget: {steps: 5}\ncase_timeout_minutes: .inf"), "case_timeout_minutes"),
        (("budget: {steps: 5}", "budget: {steps: 5}\ntolerances_mm: []"), "tolerances_mm: at least one"),
        (("label: ball-again", "label: again, budget: {}"), "budget of a method: give minutes or steps"),
        (("label: ball-again", "label: again, datasets: []"), "methods.1.datasets: at least one"),
        (("name: small", "name: ''"), "name: must not be empty"),
        (("rounds: 3", "rounds: 1000000000000"), "'rounds' must be a whole number, 1 to 1000"),
        (("[centre-click, {kind: iterative, rounds: 3}]", "[]"), "protocols: at least one"),
        (("[centre-click, {kind: iterative, rounds: 3}]", "centre-click"), "protocols: a list is needed"),
        (("[ball, {name: ball, label: ball-again}]", "[]"), "methods: at least one"),
        (("[{name: kits21, source: phantom, cases: 4}]", "[]"), "datasets: at least one"),
        (("label: ball-again", "label: ' '"), "method 'ball': `label` must not be blank"),
        *(
            (
                ("budget: {steps: 5}", f"budget: {{steps: 5}}\nempty_policy: {policy}"),
                f"empty_policy '{policy}' leaves cases out, and a suite counts every case .*--table policies",
            )
            for policy in ("skip-any-empty/1", "skip-both-empty/1")
        ),
        (("cases: 4", "splits: ''"), "dataset 'kits21': `splits` must not be empty"),
        (("cases: 4", "target: ' '"), "dataset 'kits21': `target` must not be empty"),
        (("name: kits21", "name: ''"), "dataset '': `name` must not be empty"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_a_line_that_names_the_suite(change: tuple[str, str], message: str) -> None:
    assert change[0] in MINIMAL
    with pytest.raises(UserError, match=message) as caught:
        parse_suite(MINIMAL.replace(*change), "mine")
    assert str(caught.value).startswith("suite mine: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("policy", ["worst-value/1", "zero-for-both/1"])
def test_a_policy_that_counts_every_case_is_taken(policy: str) -> None:
    assert parse_suite(f"{MINIMAL}\nempty_policy: {policy}\n", "mine").empty_policy == policy


@pytest.mark.parametrize("names", [["", ""], ["ball", ""], []])
def test_a_method_without_a_name_is_refused(names: list[str]) -> None:
    with pytest.raises(UserError, match="name"):
        parse_suite(MINIMAL, "mine").with_methods(names)


@pytest.mark.parametrize("minutes", [float("inf"), float("nan"), 0.0, -1.0])
def test_a_budget_from_the_command_line_is_refused_in_a_line(minutes: float) -> None:
    with pytest.raises(UserError, match="budget: 'minutes'") as caught:
        BudgetEntry(minutes=minutes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("gpus", "fits"), [(0.5, True), (1.0, True), (2.0, True), (1.5, False)])
def test_a_worker_has_a_share_of_one_gpu_or_whole_ones(gpus: float, fits: bool) -> None:
    suite = load_suite("quick")
    if fits:
        assert suite.with_budget(BudgetChanges(gpus=gpus)).budget.gpus == gpus
    else:
        with pytest.raises(UserError, match=r"budget: 1\.5 GPUs: a worker has a share of one, or whole ones"):
            suite.with_budget(BudgetChanges(gpus=gpus))


def test_a_method_is_read_from_a_file_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a sweep writes it: in the list of a suite, and among the names that replace that list."""
    monkeypatch.chdir(tmp_path)
    Path("best.yaml").write_text("{name: mock-network, label: tuned, config: {learning_rate: 0.02}}")
    suite = parse_suite(MINIMAL.replace("[ball,", "[best.yaml,"), "here")
    assert (suite.methods[0].name, suite.methods[0].title) == ("mock-network", "tuned")
    (chosen,) = load_suite("quick").with_methods(["best.yaml"]).methods
    assert chosen == suite.methods[0]
    assert chosen.config == {"learning_rate": 0.02}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{name: ball, lable: a}", "method file best.yaml: unknown key 'lable'; did you mean 'label'"),
        ("[ball]", "method file best.yaml: "),
        ("{name: [", "method file best.yaml: cannot be read"),
        (None, "method file best.yaml: cannot be read"),
        (b"\xff\xfe\x00", "method file best.yaml: cannot be read"),
    ],
)
def test_a_method_file_that_is_none_is_refused(
    content: str | bytes | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path("best.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        load_suite("quick").with_methods(["best.yaml"])


def test_phantoms_of_a_dataset_of_others_join_a_suite_of_phantoms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = load_suite("phantom")
    with pytest.raises(UserError, match="has no dataset 'msd-colon'; known: "):
        suite.with_datasets(["msd-colon"])  # has no phantoms
    code = """
from dataclasses import replace
from benchmarks.data.layouts.lits17 import SOURCE
theirs = replace(SOURCE, info=replace(SOURCE.info, name="theirs"))
"""
    entries = {"theirs": "theirs", "broken": "absent"}
    install(monkeypatch, tmp_path, "their-data", "tags_bench.datasets", entries, code)
    joined = suite.with_datasets(["theirs", "kits21"]).datasets
    assert [(entry.name, entry.source, entry.cases) for entry in joined] == [
        ("theirs", "phantom", suite.datasets[0].cases),
        ("kits21", "phantom", suite.datasets[0].cases),
    ]
    with pytest.raises(UserError, match=r"dataset 'broken' of their-data 1\.0 .* is broken"):
        suite.with_datasets(["broken"])
    with pytest.raises(UserError, match="has no dataset 'theirs'"):
        parse_suite(MINIMAL.replace("source: phantom", "source: /data"), "real").with_datasets(["theirs"])


@pytest.mark.parametrize("value", ["null", "3", "ball", "{a: 1}"])
def test_methods_that_are_no_list(value):
    with pytest.raises(UserError, match="methods: a list is needed"):
        parse_suite(f"name: a\ndatasets: [{{name: kits21}}]\nmethods: {value}\nprotocols: [none]\n", "x")


@pytest.mark.parametrize("text", ["[" * 100_000, "a: " + "9" * 5000, "\0"])
def test_yaml_that_nobody_can_mean(text):
    with pytest.raises(UserError, match="suite x: not valid YAML") as caught:
        parse_suite(text, "x")
    assert len(str(caught.value)) < 400


def test_a_method_of_a_suite_is_chosen_by_its_label_too() -> None:
    """A title may say more than the label: what is trained jointly has the word behind it."""
    suite = parse_suite(
        MINIMAL.replace("{name: ball, label: ball-again}", "{name: tags-tiny, label: both, joint: true}"), "mine"
    )
    assert [entry.title for entry in suite.with_methods(["both"]).methods] == ["both (joint)"]
    assert suite.with_methods(["both (joint)"]).methods == suite.with_methods(["both"]).methods


def test_what_is_named_twice_is_taken_once(tmp_path: Path) -> None:
    """Twice it would be computed twice, and end where two rows have one place."""
    twice = parse_suite(MINIMAL + "tolerances_mm: [2, 1, 1.0]", "test")
    assert twice.tolerances_mm == (2.0, 1.0)
    suite = load_suite("phantom")
    assert [one.name for one in suite.with_protocols(["box", "none", "box"]).protocols] == ["box", "automatic"]
    file = tmp_path / "own.yaml"
    file.write_text("{name: ball, label: own}")
    methods = suite.with_methods(["ball", str(file), "ball", str(file), "nnunet-small"]).methods
    assert [entry.title for entry in methods] == ["ball", "own", "nnunet-small"]
    datasets = suite.with_datasets(["lits17", "kits21", "lits17"])
    assert [entry.name for entry in datasets.datasets] == ["lits17", "kits21"]
    assert [entry.fold for entry in suite.with_datasets(["lits17"]).with_folds([1, 0, 1]).datasets] == [1, 0]
    assert [entry.fold for entry in suite.with_datasets(["lits17"]).with_folds([1, "all"]).datasets] == ["all"]
