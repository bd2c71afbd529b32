"""What is looked at on every node of a cluster, and what is said of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.common.content import sha256_of
from benchmarks.common.environment import package_versions, revision
from benchmarks.common.errors import UserError
from benchmarks.contestants import method, methods
from benchmarks.execution import room
from benchmarks.execution.observer import Nobody
from benchmarks.execution.orders import Node
from benchmarks.execution.preflight import Expected, Host, look_here


@pytest.fixture
def expected(tmp_path: Path) -> Expected:
    """What a node that is like this machine fulfils."""
    (tmp_path / ".seen").write_text("a word", encoding="utf-8")
    (tmp_path / "scan.nii.gz").write_bytes(b"voxels")
    wanted = {"mock-noop": method("mock-noop").version}
    scan = tmp_path / "scan.nii.gz"
    version, commit = package_versions()["tags-bench"], revision()[0]
    return Expected(version, commit, wanted, tmp_path / ".seen", "a word", scan, sha256_of(scan))


def test_a_node_like_this_one_is_fit(expected: Expected) -> None:
    found = look_here(expected)
    assert found.problems == ()
    row = found.row()
    assert list(row) == [
        "node", "tags-bench", "commit", "methods", "--out", "data", "GPU", "driver", "free GB", "fit",
    ]  # fmt: skip
    assert (row["--out"], row["data"], row["fit"]) == ("shared", expected.data_digest[:12], "yes")
    assert (row["commit"], row["methods"]) == (expected.commit[:10], str(len(methods())))


@pytest.mark.parametrize(
    ("change", "column", "shown", "problem"),
    [
        ({"nonce": "another"}, "--out", "NOT shared", "is another folder there"),
        ({"nonce_file": Path("/nowhere/.seen")}, "--out", "NOT shared", r"/nowhere \(--out\) is not shared with it"),
        ({"data_file": Path("/nowhere/scan.nii.gz")}, "data", "none", "/nowhere/scan.nii.gz is not there"),
        ({"data_digest": "0" * 64}, "fit", "", "has another content there"),
        ({"version": "9.9"}, "fit", "", r"tags-bench .* at .*, not 9\.9 at "),
        ({"methods": {"mock-gone": "1"}}, "fit", "", "method 'mock-gone' is not installed"),
        ({"methods": {"mock-noop": "77"}}, "fit", "", "method 'mock-noop' .*, not 77"),
        ({"weight_files": ("/nowhere/sam.pth",)}, "fit", "", "the weights file /nowhere/sam.pth is not there: copy"),
    ],
)
def test_what_is_wrong_with_a_node_is_said(
    expected: Expected, change: dict[str, Any], column: str, shown: str, problem: str
) -> None:
    found = look_here(replace(expected, **change))
    assert len(found.problems) == 1
    with pytest.raises(AssertionError, match=problem):
        raise AssertionError(found.problems[0])
    row = found.row()
    assert row["fit"] == found.problems[0]
    assert shown in row[column]


def test_a_node_that_does_not_answer_has_an_empty_row() -> None:
    row = Host("n1", problems=("no answer within 60 s",)).row()
    assert {name for name, value in row.items() if value} == {"node", "fit"}


class Watch(Nobody):
    def __init__(self) -> None:
        self.rows: list[Mapping[str, str]] = []

    def hosts(self, rows: Sequence[Mapping[str, str]]) -> None:
        self.rows = list(rows)


def test_the_observer_sees_every_host_before_the_unfit_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = [Host("a", out=True), Host("b", out=False, problems=("no --out",))]
    asked: list[Any] = []
    monkeypatch.setattr(room, "look_at_hosts", lambda *arguments: asked.append(arguments) or hosts)
    machines: Any = SimpleNamespace(nodes={"a": "1", "b": "2"})
    unit: Any = SimpleNamespace(
        cases=[SimpleNamespace(image=Path("scan"))],
        method=SimpleNamespace(name="m"),
        evaluation=SimpleNamespace(given=None),
        weight_files=("sam.pth",),
    )
    folders: Any = SimpleNamespace(out=Path("out"))
    watch = Watch()
    assert room.unfit_nodes([unit], folders, machines, watch) == {"b": "no --out"}
    assert asked == [({"a": "1", "b": "2"}, Path("out"), ["m"], Path("scan"), ["sam.pth"])]
    assert [(row["node"], row["fit"]) for row in watch.rows] == [("a", "yes"), ("b", "no --out")]
    hosts[0] = replace(hosts[0], problems=("another version",))
    with pytest.raises(UserError, match=r"no node of the cluster can take part; a: another version \| b: no --out"):
        room.unfit_nodes([unit], folders, machines, watch)
    assert room.unfit_nodes([unit], folders, SimpleNamespace(nodes={"a": "1"}), watch) == {}


def test_what_only_the_nodes_that_are_left_out_could_hold_is_refused() -> None:
    two: Any = SimpleNamespace(now=lambda: [Node("a", 4, 1), Node("b", 4, 1)])
    job = SimpleNamespace(budget=SimpleNamespace(cpus=1, gpus=1), workers=2)
    unit: Any = SimpleNamespace(job=job, cpus=1, gpus=1, method=SimpleNamespace(floor=False), title="m · kits21")
    room.check_room([unit], two)
    with pytest.raises(UserError) as refused:
        room.check_room([unit], two, {"b": "no --out"})
    assert str(refused.value) == (
        "'m · kits21' asks for 2 workers with 1 CPU and 1 GPU; the cluster has 4 CPU and 1 GPU on 1 node(s), the "
        "largest 4 CPU and 1 GPU; lower --cpus, --gpus or --workers; b cannot take part: no --out"
    )
