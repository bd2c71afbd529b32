"""MLflow as a sink: everything arrives once, and a server that is away costs a warning and nothing else."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from benchmarks.common.addresses import sqlite_address, sqlite_path, without_password
from benchmarks.common.errors import UserError
from benchmarks.common.identity import digest
from benchmarks.results.mlflow import (
    MlflowSink,
    Summary,
    default_uri,
    outbox_folder,
    records_from_mlflow,
    sync,
)
from benchmarks.results.mlflow import outbox as outbox_module
from benchmarks.results.mlflow import sender as sender_module
from benchmarks.results.mlflow.outbox import Outbox
from benchmarks.results.mlflow.sender import Sender
from benchmarks.results.records import SCHEMA_VERSION, RecordStore
from benchmarks.results.sweep import Trial
from tests.results.mlflow_runs import (
    CURVE,
    DICE,
    MESSAGES,
    RUNS,
    SUITE,
    TRAINING,
    a_run,
    artifact,
    child_named,
    client_of,
    description_of,
    parents,
    rows_of,
    runs_of,
)


def test_everything_arrives_once_however_often_it_is_sent(out: Path) -> None:
    for _ in range(3):
        assert a_run(out) == 0
    runs, client = runs_of(out), client_of(out)
    assert len(runs) == RUNS
    assert len(parents(runs)) == 1
    assert {run.info.status for run in runs} == {"FINISHED"}
    net = child_named(runs, "net · kits21 · iterative")
    history = client.get_metric_history(net.info.run_id, "dice")
    assert [(point.step, point.value) for point in history] == [
        (step, pytest.approx(sum(value or 0.0 for value in pair) / 2)) for step, pair in DICE.items()
    ]
    training = child_named(runs, "net · kits21 · training")
    curve = client.get_metric_history(training.info.run_id, "train/loss")
    assert [(p.step, p.value) for p in curve] == [(1, 0.9), (3, 0.5)]
    assert [p.timestamp - training.info.start_time for p in curve] == [1000, 3000]
    assert net.data.metrics["failed"] == 1
    assert len(net.inputs.dataset_inputs) == 1
    assert training.inputs.dataset_inputs == []
    digests = {run.inputs.dataset_inputs[0].dataset.digest for run in runs if run.data.tags.get("track")}
    assert digests == {"5eed"}
    spent = rows_of(description_of("net"))[["seconds_open", "seconds_segment"]].sum().sum()
    assert (net.info.end_time - net.info.start_time) / 1000 == pytest.approx(spent, abs=0.01)
    table = json.loads((artifact(out, net.info.run_id, "cases.json")).read_text(encoding="utf-8"))
    assert len(table["data"]) == 6


def test_rows_that_changed_take_the_place_of_the_old(out: Path) -> None:
    a_run(out)
    sink = MlflowSink(out)
    sink.begin(SUITE, "plan", True, [])
    sink.log_unit(description_of("ball"), rows_of(description_of("ball")).iloc[:4], None)
    assert sink.close() == 0
    ball = child_named(runs_of(out), "ball")
    table = json.loads(artifact(out, ball.info.run_id, "cases.json").read_text(encoding="utf-8"))
    assert len(table["data"]) == 4


@pytest.mark.parametrize("name", ["Bob's scans", 'say "50 %" \\ or _', "a'b\"c", "plain"])
def test_what_is_read_back_is_what_the_records_say(out: Path, name: str) -> None:
    a_run(out, suite="another")
    a_run(out, suite=name, plan="of this name")
    rows, units = records_from_mlflow(default_uri(out), name)
    assert [unit["method"] for unit in units] == ["ball", "net"]
    expected = pd.concat([rows_of(description_of(method, name)) for method in ("ball", "net")], ignore_index=True)
    assert_frame_equal(rows, expected)


def test_all_calls_of_an_output_folder_count_as_in_its_records(out: Path) -> None:
    """Of every unit the newest, in the order of the calls; `RecordStore` is asked the same."""
    call(out, "first", ["ball", "net"])
    call(out, "second", ["region", "ball"], seed=8, patients={"case_00": "p"})
    call(out, "third", ["net"], patients={"case_00": "q", "case_01": "q"})
    assert units_read_back(out) == ["region-second", "ball-second", "net-third"]
    rows, _ = records_from_mlflow(default_uri(out), "suite")
    assert set(rows["patient"]) == {"q"}, "the newest unit says whose a case is, of all methods"


def test_a_case_that_another_fold_tests_again_counts_once_as_in_the_records(out: Path) -> None:
    call(out, "before", ["ball", "net"], cases=["case_00", "case_01"])
    call(out, "other splits", ["net"], fold=1, cases=["case_01"])
    assert units_read_back(out) == ["ball-before", "net-other splits"]


def call(out: Path, plan: str, methods: Sequence[str], **changes: Any) -> None:
    """A call of `run` that writes records and tells MLflow."""
    store, sink = RecordStore(out / "records"), MlflowSink(out)
    units = [description_of(method) | changes | {"unit": f"{method}-{plan}"} for method in methods]
    sink.begin(SUITE, plan, True, units)
    folders = [store.unit_folder("suite", "kits21", unit["method"], unit["unit"]) for unit in units]
    for unit, folder in zip(units, folders, strict=True):
        store.begin_unit(folder, unit)
        rows = rows_of(unit).filter(regex="^(?!voxels|iou)")  # the Dice was put in, and the counts contradict it
        for case, group in rows[rows["case"].isin(unit["cases"])].groupby("case"):
            lines = [{**row, "schema_version": SCHEMA_VERSION} for row in group.to_dict("records")]
            store.write_case(folder, str(case), lines)
        store.complete_unit(folder)
        sink.log_unit(unit, store.read_unit(folder), None)
    store.set_current("suite", folders)
    sink.end(Summary())
    assert sink.close() == 0


def units_read_back(out: Path) -> list[str]:
    """The digests of the units that MLflow gives, which are those of the records, with all their rows."""
    rows, units = records_from_mlflow(default_uri(out), "suite")
    expected_rows, expected_units = RecordStore(out / "records").read_suite("suite")
    told = [(unit["key"], unit["unit"], unit["seed"], unit["latest_call"]) for unit in units]
    assert told == [(unit["key"], unit["unit"], unit["seed"], unit["latest_call"]) for unit in expected_units]
    assert_frame_equal(rows[list(expected_rows)], expected_rows)
    return [str(unit["unit"]) for unit in units]


def test_two_folders_share_a_server_and_no_run(new_out: Callable[[str], Path]) -> None:
    one, other = new_out("one"), new_out("other")
    for out in (one, other):
        assert a_run(out, default_uri(one)) == 0
    assert len(parents(runs_of(one))) == 2
    assert len(runs_of(one)) == 2 * RUNS
    assert len(list(one.rglob("records.parquet"))) == 4  # not in the folder from which it was called


def test_a_deleted_experiment_comes_back(out: Path, capfd: pytest.CaptureFixture[str]) -> None:
    a_run(out)
    client = client_of(out)
    client.delete_experiment(client.get_experiment_by_name("tags-bench/suite").experiment_id)
    assert a_run(out) == 0
    assert len(runs_of(out)) == RUNS
    assert "had been deleted and is restored" in capfd.readouterr().err


def test_a_deleted_run_is_written_again(out: Path) -> None:
    a_run(out)
    client = client_of(out)
    for run in runs_of(out):
        client.delete_run(run.info.run_id)
    assert a_run(out) == 0
    assert len(runs_of(out)) == RUNS


def test_runs_deleted_in_the_middle_cost_nothing(out: Path) -> None:
    sink = MlflowSink(out)
    sink.begin(SUITE, "plan", True, [])
    sink.log_unit(description_of("ball"), rows_of(description_of("ball")), None)
    wait_until(lambda: not list(outbox_folder(out, default_uri(out)).glob("*.json")))
    for run in runs_of(out):
        client_of(out).delete_run(run.info.run_id)
    sink.log_unit(description_of("net"), rows_of(description_of("net")), None)
    sink.end(Summary())
    assert sink.close(30) == 0
    runs = runs_of(out)
    assert {run.data.tags.get("tagsbench.method") for run in runs} == {None, "net"}
    assert a_run(out) == 0  # the next run sends the one that was deleted
    assert {run.data.tags.get("tagsbench.method") for run in runs_of(out)} == {None, "net", "ball"}


def test_a_store_that_is_broken_costs_one_line_and_no_traceback(out: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Here a table is gone. MLflow logs every error of its database at length before it raises it."""
    a_run(out)
    with sqlite3.connect(sqlite_path(default_uri(out))) as database:
        database.execute("DROP TABLE tags")
    capfd.readouterr()
    assert a_run(out, plan="another", patience=3.0) > 0
    told = capfd.readouterr().err
    assert "Traceback" not in told
    assert [line.startswith("warning: MLflow at ") for line in told.splitlines()].count(True) == 1


def test_a_message_that_is_sent_while_the_waiting_ones_are_listed_is_no_fault(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    kept = outbox.put("begin", "key", {})
    (tmp_path / "begin-sent-meanwhile.json").symlink_to(tmp_path / "no such file")  # listed, and not to be found
    assert outbox.waiting() == [kept]


def wait_until(holds: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_run_that_a_crash_left_running_is_ended_by_the_next(out: Path) -> None:
    sink = MlflowSink(out)
    sink.begin(SUITE, "crashed", True, [])
    assert sink.close() == 0
    assert [run.info.status for run in runs_of(out)] == ["RUNNING"]
    a_run(out, plan="next")
    by_plan = {run.data.tags["tagsbench.plan"]: run.info.status for run in parents(runs_of(out))}
    assert by_plan == {"crashed": "KILLED", "next": "FINISHED"}


def test_an_interrupted_run_is_killed(out: Path) -> None:
    sink = MlflowSink(out)
    sink.begin(SUITE, "plan", True, [])
    sink.end(Summary(), "KILLED")
    assert sink.close() == 0
    assert [run.info.status for run in runs_of(out)] == ["KILLED"]


@contextmanager
def bad_server(manner: str) -> Iterator[str]:
    """A server that answers every request with 500, with a page, or not at all."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if manner == "hangs":
                release.wait(30)
                return
            self.send_response(500 if manner == "500" else 200)
            self.send_header("Content-Length", "14")
            self.end_headers()
            self.wfile.write(b"<html>no</html>"[:14])

        do_POST = do_GET

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    release = threading.Event()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    release.set()
    server.shutdown()


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("manner", ["500", "html", "hangs", "down"])
def test_a_bad_server_costs_a_warning_and_no_waiting(
    manner: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    started = time.monotonic()
    if manner == "down":
        left = a_run(tmp_path, f"http://somebody:secret@127.0.0.1:{closed_port()}", patience=3.0)
    else:
        with bad_server(manner) as address:
            left = a_run(tmp_path, address.replace("http://", "http://somebody:secret@"), patience=3.0)
    assert left == MESSAGES
    assert time.monotonic() - started < 20  # the import of MLflow and the patience
    told = capfd.readouterr().err
    assert "tags-bench sync" in told
    kept = "".join(path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file())
    assert "secret" not in told + kept


def test_what_could_not_be_sent_is_sent_later(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*arguments: Any) -> Any:
        raise ConnectionError("nobody there")

    with monkeypatch.context() as broken:
        broken.setattr(sender_module, "MlflowWriter", away)
        assert a_run(out, patience=1.0) == MESSAGES
    assert sync(out, patience=30.0) == (MESSAGES, 0)
    assert len(runs_of(out)) == RUNS
    assert {run.info.status for run in runs_of(out)} == {"FINISHED"}
    assert sync(out) == (0, 0)


def test_sync_says_which_messages_wait_for_another_server(
    call: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The server is down; `sync` without its address looks into the outbox of the folder's own store."""
    monkeypatch.setattr(Sender, "wake", lambda self: None)
    out, address = tmp_path / "out put", f"http://127.0.0.1:{closed_port()}"
    assert a_run(out, f"http://me:secret@{address.removeprefix('http://')}/", patience=0.0) == MESSAGES
    command = f"tags-bench sync --tracking-uri {address} --out '{out}'"
    assert f"`{command}`" in capsys.readouterr().err
    done = call("sync", "--out", str(out))
    assert (done.code, done.out) == (2, "0 messages sent, 0 left\n")
    assert done.errors == [f"error: {MESSAGES} messages wait for {address}: `{command}`"]
    done = call(*shlex.split(command)[1:])  # as advised: the messages are found, whatever becomes of them
    assert (done.code, done.out) == (2, f"0 messages sent, {MESSAGES} left\n")
    assert not any("secret" in path.read_text(errors="replace") for path in out.rglob("*") if path.is_file())


def test_messages_for_another_server_are_no_error_where_those_for_the_named_one_were_sent(
    call: Any, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for uri in (None, "http://127.0.0.1:9"):
        Outbox(outbox_folder(out, uri or default_uri(out)), uri or "").put("begin", "key", {})
    monkeypatch.setattr(Sender, "_sent_now", lambda self, path: self._outbox.sent(path) or True)
    own = default_uri(out)
    sent = call("sync", "--out", str(out), "--tracking-uri", own)
    assert (sent.code, sent.out) == (0, "1 messages sent, 0 left\n")
    assert sent.err.startswith("warning: 1 message waits for http://127.0.0.1:9: `tags-bench sync --tracking-uri ")
    assert call("sync", "--out", str(out), "--tracking-uri", own).code == 2  # nothing waits there any more
    assert call("sync", "--out", str(out), "--tracking-uri", "http://127.0.0.1:9").code == 0
    assert call("sync", "--out", str(out)).code == 0


def test_a_slash_at_the_end_of_an_address_is_the_same_server_and_no_message_of_before_is_lost(tmp_path: Path) -> None:
    slash, plain = "http://me:pw@server:5000/", "http://server:5000"
    assert outbox_folder(tmp_path, slash) == outbox_folder(tmp_path, plain)
    assert outbox_folder(tmp_path, plain).name == digest(plain)  # as before, where there was none
    before = Outbox(tmp_path / "mlflow-outbox" / digest(f"{plain}/"))
    kept = before.put("unit", "key", {}, pd.DataFrame({"a": [1]}))
    (waiting,) = MlflowSink(tmp_path, plain)._outbox.waiting()
    assert waiting.name == kept.name
    assert Outbox(waiting.parent).read(waiting).rows is not None
    assert before.waiting() == []


def test_two_suites_of_the_same_units_wait_beside_each_other(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their plans are equal, and so are the keys of their units and trainings."""
    with monkeypatch.context() as away:
        away.setattr(Sender, "wake", lambda self: None)
        for suite in ("one", "other"):
            a_run(out, suite=suite, patience=0.0)
    assert sync(out, patience=60.0) == (2 * MESSAGES, 0)
    client = client_of(out)
    for suite in ("one", "other"):
        rows, _ = records_from_mlflow(default_uri(out), suite)
        expected = pd.concat([rows_of(description_of(method, suite)) for method in ("ball", "net")], ignore_index=True)
        assert_frame_equal(rows, expected)
        experiment = client.get_experiment_by_name(f"tags-bench/{suite}").experiment_id
        assert len(client.search_runs([experiment])) == RUNS
        assert len(client.search_logged_models([experiment])) == 1


def test_the_rows_of_two_plans_of_a_suite_wait_beside_each_other(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    told = {plan: {"plan": {"suite": "suite", "plan": plan, "out": "here"}} for plan in ("first", "second")}
    first, second = (outbox.put("unit", "key", content, pd.DataFrame({"a": [1]})) for content in told.values())
    assert outbox.waiting() == [first, second]
    assert [outbox.read(path).key for path in (first, second)] == ["key", "key"]
    again = outbox.put("unit", "key", told["first"])
    assert outbox.waiting() == [second, again]


def test_a_message_that_an_earlier_version_left_is_sent_and_only_its_own_run_replaces_it(tmp_path: Path) -> None:
    outbox, rows = Outbox(tmp_path), pd.DataFrame({"a": [1]})
    mine, others = ({"plan": {"suite": suite, "plan": "plan", "out": "here"}} for suite in ("mine", "other's"))
    left = tmp_path / f"unit-{digest(['unit', 'key'])}.json"
    now = outbox.put("unit", "key", mine, rows)
    for suffix in (".json", ".parquet"):
        now.with_suffix(suffix).rename(left.with_suffix(suffix))
    other = outbox.put("unit", "key", others, rows)
    assert set(outbox.waiting()) == {left, other}
    assert outbox.read(left).rows is not None
    again = outbox.put("unit", "key", mine, rows)
    assert set(outbox.waiting()) == {other, again}
    assert not left.with_suffix(".parquet").exists()
    left.write_text("{", encoding="utf-8")
    outbox.put("unit", "key", mine, rows)
    assert left.exists()


def test_a_message_stays_whole_while_the_one_before_it_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sender is through with the older one when the rows of the newer one are on the disk, and nothing else."""
    outbox = Outbox(tmp_path)
    older = outbox.put("end", "key", {"time": 1}, pd.DataFrame({"a": [1]}))
    write_json = outbox_module.write_json

    def late(path: Path, content: Any) -> None:
        outbox.sent(older)
        write_json(path, content)

    monkeypatch.setattr(outbox_module, "write_json", late)
    newer = outbox.put("end", "key", {"time": 2}, pd.DataFrame({"a": [2]}))
    assert outbox.waiting() == [newer]
    message = outbox.read(newer)
    assert message.rows is not None
    assert (message.content["time"], message.rows["a"].tolist()) == (2, [2])


def test_a_message_that_comes_while_the_one_before_it_is_dropped_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox, unlink, newer = Outbox(tmp_path), Path.unlink, list[Path]()
    older = outbox.put("training", "key", {"finished": False})

    def late(path: Path, missing_ok: bool = False) -> None:
        if not newer:
            newer.append(path)  # what is put unlinks, too
            newer[0] = outbox.put("training", "key", {"finished": True})
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", late)
    outbox.sent(older)
    assert outbox.waiting() == newer
    assert outbox.read(newer[0]).content["finished"]


def test_a_message_that_is_replaced_while_it_is_read_costs_no_warning(
    out: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    ball, real, replaced = description_of("ball"), Outbox.read, list[Path]()
    with monkeypatch.context() as away:
        away.setattr(Sender, "wake", lambda self: None)
        sink = MlflowSink(out)
        sink.begin(SUITE, "plan", True, [])
        sink.log_unit(ball, rows_of(ball).iloc[:4], None)

    def late(self: Outbox, path: Path) -> Any:
        if path.name.startswith("unit") and not replaced:
            message = real(self, path)
            replaced.append(path)
            self.put(message.kind, message.key, message.content, rows_of(ball))
        return real(self, path)

    monkeypatch.setattr(Outbox, "read", late)
    assert sync(out, patience=30.0) == (2, 0)
    assert replaced
    assert "warning" not in capfd.readouterr().err
    table = artifact(out, child_named(runs_of(out), "ball").info.run_id, "cases.json")
    assert len(json.loads(table.read_text(encoding="utf-8"))["data"]) == 6


def test_a_message_for_which_the_disk_has_no_room_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> Any:
        raise OSError(28, "No space left on device")

    outbox = Outbox(tmp_path)
    kept = outbox.put("end", "key", {})
    monkeypatch.setattr(outbox_module, "write_json", full)
    with pytest.raises(OSError, match="No space"):
        outbox.put("end", "key", {}, pd.DataFrame({"a": [1]}))
    assert list(tmp_path.iterdir()) == [kept]


def test_a_curve_that_is_sent_after_the_end_of_its_training_begins_no_other(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first call was interrupted while it trained, another plan went on, and a server was away meanwhile."""
    with monkeypatch.context() as away:
        away.setattr(Sender, "wake", lambda self: None)
        before, after = MlflowSink(out), MlflowSink(out)
        before.begin(SUITE, "before", True, [])
        before._log_curve(description_of("net"), CURVE[:1], {})
        after.begin(SUITE, "after", True, [])
        after.log_training(description_of("net"), TRAINING)
    in_order = Outbox.waiting
    monkeypatch.setattr(Outbox, "waiting", lambda self: in_order(self)[::-1])
    assert sync(out, patience=30.0) == (4, 0)
    (training,) = (run for run in runs_of(out) if run.data.tags["tagsbench.kind"] == "training")
    assert training.info.status == "FINISHED"


def trainings(out: Path) -> list[Any]:
    return [run for run in runs_of(out) if run.data.tags["tagsbench.kind"] == "training"]


def tell_training(out: Path, plan: str, **changes: Any) -> None:
    """A call of `run` that makes use of a training; of `train` if it has no plan."""
    sink = MlflowSink(out)
    if plan:
        sink.begin(SUITE, plan, True, [])
    sink.log_training(description_of("net") | changes, {**TRAINING, "checkpoint": "checkpoints/net"})
    assert sink.close(30.0) == 0


def test_a_training_that_several_runs_make_use_of_is_told_once(out: Path) -> None:
    """First by `train`, then by a run, and by another one that asks with another protocol."""
    tell_training(out, "")
    (first,) = trainings(out)
    assert "mlflow.parentRunId" not in first.data.tags
    tell_training(out, "one")
    tell_training(out, "two", unit="another", method="net, seen otherwise", protocol_names=["box"])
    tell_training(out, "one")
    (training,) = trainings(out)
    assert training.info.run_id == first.info.run_id
    assert (training.info.start_time, training.info.end_time) == (first.info.start_time, first.info.end_time)
    (one,) = (run for run in parents(runs_of(out)) if run.data.tags["tagsbench.plan"] == "one")
    assert training.data.tags["mlflow.parentRunId"] == one.info.run_id


def test_a_training_that_an_earlier_version_told_is_the_same(out: Path) -> None:
    """Its digest was another one for each plan."""
    tell_training(out, "one")
    (first,) = trainings(out)
    client_of(out).set_tag(first.info.run_id, "tagsbench.content", digest(["training", "with its plan"]))
    tell_training(out, "two")
    assert [run.info.run_id for run in trainings(out)] == [first.info.run_id]


def test_a_training_that_waits_since_an_earlier_version_is_sent(out: Path) -> None:
    """The file as that version named and wrote it."""
    description = description_of("net")
    plan = {"suite": "suite", "seed": 7, "plan": "plan", "synthetic": True, "out": "here", "user": "me"}
    content = {"plan": plan, "out": "here", "description": description, "training": TRAINING, "finished": True,
               "environment": {}, "source": "tags-bench run", "host": "h", "user": "me"}  # fmt: skip
    stored = {"kind": "training", "key": "c0ffee", "content": content, "rows": False, "at": time.time(), "times": {}}
    folder = outbox_folder(out, default_uri(out))
    folder.mkdir(parents=True, exist_ok=True)
    waiting = folder / f"training-{digest(['training', 'c0ffee'])}.json"
    waiting.write_text(json.dumps(stored), encoding="utf-8")
    assert sync(out, patience=30.0) == (1, 0)
    (training,) = trainings(out)
    assert training.data.metrics["training/seconds_total"] == 4.0


def test_messages_that_the_disk_does_not_take_cost_a_warning_and_are_said_again(
    out: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(*arguments: Any) -> Any:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(Outbox, "put", full)
        assert a_run(out) == 0
    assert "warning: a message to MLflow cannot be kept" in capfd.readouterr().err
    assert a_run(out) == 0
    assert len(runs_of(out)) == RUNS


def test_a_store_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow makes its tables in many steps, and can never open a store in which only some were taken."""
    import mlflow.tracking

    def ended_midway(tracking_uri: str) -> Any:
        Path(tracking_uri.removeprefix("sqlite:///")).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(mlflow.tracking, "MlflowClient", ended_midway)
        assert a_run(tmp_path, patience=1.0) == MESSAGES
    assert not (tmp_path / "mlflow.db").exists()
    assert sync(tmp_path, patience=60.0) == (MESSAGES, 0)
    assert len(runs_of(tmp_path)) == RUNS


def test_an_end_that_is_sent_before_its_beginning_stays_the_end(
    out: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A message that waits since an earlier call keeps its place in the queue, with what a later call says."""

    def backwards(self: Any) -> list[Path]:
        return sorted(self.folder.glob("*.json"), reverse=True)  # units, end, begin

    with monkeypatch.context() as changed:
        changed.setattr(Outbox, "waiting", backwards)
        changed.setattr(Sender, "wake", lambda self: None)
        a_run(out, patience=0.0)
    with monkeypatch.context() as changed:
        changed.setattr(Outbox, "waiting", backwards)
        assert sync(out, patience=30.0) == (MESSAGES, 0)
    assert {run.info.status for run in runs_of(out)} == {"FINISHED"}
    sink = MlflowSink(out)
    sink.begin(SUITE, "plan", True, [])
    sink.close(30.0)
    assert [run.info.status for run in parents(runs_of(out))] == ["RUNNING"]  # the next call begins
    assert capfd.readouterr().out == ""


def test_a_damaged_message_stops_no_other(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = MlflowSink(out)
    folder = outbox_folder(out, default_uri(out))
    folder.mkdir(parents=True)
    (folder / "unit-0.json").write_text("{", encoding="utf-8")
    sink.begin(SUITE, "plan", True, [])
    wait_until(lambda: [path.name for path in folder.glob("*.json")] == ["unit-0.json"])
    assert sink.close(2.0) == 1
    assert len(runs_of(out)) == 1


def test_a_sweep_and_a_training_arrive_once(out: Path) -> None:
    trials = [
        Trial(number, {"rate": rate}, dice, 4, 1.5, status, None)
        for number, rate, dice, status in ((1, 0.1, 0.7, "finished"), (0, 0.2, 0.6, "failed: no"))
    ]
    for _ in range(2):
        sink = MlflowSink(out)
        sink.log_sweep(description_of("net"), trials, "one")
        figures = {"seconds_total": 2.0, "loss": 0.5, "config": {"rate": 1}, "curve": CURVE}
        sink.log_training(description_of("net") | {"checkpoint": "abc"}, figures)
        assert sink.close() == 0
    runs = runs_of(out)
    assert len(runs) == 4
    sweep = child_named(runs, "net · kits21 · sweep")
    assert sweep.data.metrics["best_validation_dice"] == 0.7
    assert child_named(runs, "net · kits21 · trial 0").info.status == "FAILED"
    training = child_named(runs, "net · kits21 · training")
    assert training.data.metrics["training/loss"] == 0.5


@pytest.mark.parametrize("name", ["a b", "ha#sh", "quo'te", "umläut", "50%"])
def test_a_store_lies_in_folders_of_odd_names(new_out: Callable[[str], Path], name: str) -> None:
    out = new_out(name)
    assert a_run(out) == 0
    assert len(runs_of(out)) == RUNS
    assert len(list(out.rglob("records.parquet"))) == 2


@pytest.mark.parametrize("name", ["why?", "a%20b"])
def test_a_folder_in_which_mlflow_can_keep_no_store_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="rename"):
        MlflowSink(tmp_path / name)


def test_addresses_are_shown_without_passwords() -> None:
    assert without_password("http://me:pw@host:5000/x") == "http://host:5000/x"
    assert without_password("no route to postgresql://u:p%40@db/x, sorry") == "no route to postgresql://db/x, sorry"
    plain = sqlite_address(Path("/data/a@b/mlflow.db"))
    assert without_password(plain) == plain


@pytest.mark.slow
def test_a_real_server_that_goes_away_and_comes_back(tmp_path: Path, empty_store: Path) -> None:
    """Down at the start, up, down in the middle, up again: in the end everything is there once."""
    port = closed_port()
    address = f"http://127.0.0.1:{port}"
    shutil.copy(empty_store, tmp_path / "server.db")
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
               "--backend-store-uri", f"sqlite:///{tmp_path / 'server.db'}",
               "--artifacts-destination", str(tmp_path / "artifacts")]  # fmt: skip

    @contextmanager
    def serving() -> Iterator[None]:
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        try:
            wait_until(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0, 120)
            yield
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()

    out = tmp_path / "out"
    out.mkdir()
    assert a_run(out, address, plan="first", patience=3.0) == MESSAGES
    with serving():
        assert sync(out, address, patience=60.0) == (MESSAGES, 0)
        sink = MlflowSink(out, address)
        sink.begin(SUITE, "second", True, [description_of("ball")])
        wait_until(lambda: not list(outbox_folder(out, address).glob("*.json")), 60)
    sink.log_unit(description_of("ball"), rows_of(description_of("ball")), None)
    sink.end(Summary())
    assert sink.close(3.0) == 2
    with serving():
        assert sync(out, address, patience=60.0) == (2, 0)
        from mlflow.tracking import MlflowClient

        client = MlflowClient(tracking_uri=address)
        runs = client.search_runs([client.get_experiment_by_name("tags-bench/suite").experiment_id])
        assert len(runs) == RUNS + 2
        assert {run.info.status for run in runs} == {"FINISHED"}
        rows, units = records_from_mlflow(address, "suite")
        assert sorted(unit["method"] for unit in units) == ["ball", "net"]
        ball = rows[rows["method"] == "ball"].reset_index(drop=True)
        assert_frame_equal(ball, rows_of(description_of("ball")))


def test_two_calls_in_one_process_send_nothing_twice(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first call does not wait for a slow server to the end; its thread still sends when the next call does."""
    real, waiting = sender_module.MlflowWriter.send, threading.Event()

    def slow(self: Any, message: Any) -> None:
        waiting.set()
        time.sleep(0.3)
        real(self, message)

    monkeypatch.setattr(sender_module.MlflowWriter, "send", slow)
    assert a_run(out, patience=0.01) > 0
    assert waiting.wait(30)
    assert sync(out, patience=60.0)[1] == 0
    wait_until(lambda: not any(thread.name == "mlflow-sender" for thread in threading.enumerate()))
    assert len(runs_of(out)) == RUNS
