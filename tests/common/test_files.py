"""A file appears whole or not at all, whoever else writes it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from benchmarks.common import files
from benchmarks.common.errors import UserError
from benchmarks.common.files import atomically, exclusively, in_turn, read_json, safe_name, write_json


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "new" / "résumé.nii.gz"
    for text in ("first", "second"):
        before = path.read_text() if path.exists() else None
        with atomically(path) as partial:
            assert partial.suffixes == [".nii", ".gz"]
            partial.write_text(text)
            assert (path.read_text() if path.exists() else None) == before
        assert path.read_text() == text
    assert [one.name for one in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_write_leaves_what_was_there(tmp_path, error):
    path = tmp_path / "a.json"
    write_json(path, {"kept": True})

    def fail() -> None:
        with atomically(path) as partial:
            partial.write_text("half")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert json.loads(path.read_text()) == {"kept": True}
    assert [one.name for one in tmp_path.iterdir()] == ["a.json"]


def test_the_longest_name_that_a_disk_takes(tmp_path):
    write_json(tmp_path / ("肝" * 80 + ".json"), [])
    write_json(tmp_path / ("x" * 250 + ".json"), [])
    assert len(list(tmp_path.iterdir())) == 2


def test_rivals_leave_one_whole_file_with_the_usual_permissions(tmp_path):
    path = tmp_path / "a.json"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: write_json(path, [number] * 5000), range(40)))
    assert len(set(json.loads(path.read_text()))) == 1
    assert [one.name for one in tmp_path.iterdir()] == ["a.json"]
    mask = os.umask(0)
    os.umask(mask)
    assert Path(path).stat().st_mode & 0o777 == 0o666 & ~mask


def _count(folder: Path) -> int:
    """Add one to a number in a file, thirty times, not atomically; how often another process was in the way."""
    refused = done = 0
    while done < 30:
        try:
            with exclusively(folder / "number.lock", "busy"):
                number = int((folder / "number").read_text())
                time.sleep(0.0005)
                (folder / "number").write_text(str(number + 1))
                done += 1
        except UserError:
            refused += 1
            time.sleep(0.0005)
    return refused


def test_only_one_process_at_a_time(tmp_path):
    (tmp_path / "number").write_text("0")
    with ProcessPoolExecutor(4, mp_context=get_context("fork")) as pool:
        refused = list(pool.map(_count, [tmp_path] * 4))
    assert (tmp_path / "number").read_text() == "120"
    assert sum(refused) > 0, "they never met; the test showed nothing"
    assert [path.name for path in tmp_path.iterdir()] == ["number"]


def test_the_lock_of_a_killed_process_is_no_obstacle(tmp_path):
    code = (
        "import sys; from pathlib import Path; from benchmarks.common.files import exclusively\n"
        "with exclusively(Path(sys.argv[1]), ''): print('held', flush=True); sys.stdin.read()"
    )
    lock = tmp_path / "a.lock"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="is being fetched"), exclusively(lock, "a is being fetched"):
            pass
        holder.kill()
    assert lock.exists()
    with exclusively(lock, "busy"):
        assert lock.exists()
    assert not lock.exists()


def test_a_whole_file_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    order = []
    flushed, replaced = files.flush, os.replace
    monkeypatch.setattr(files, "flush", lambda path: (order.append(("flush", path.name)), flushed(path)))
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append(("replace", b.name)), replaced(a, b)))
    write_json(tmp_path / "folder" / "a.json", [1])
    assert order == [("flush", "a.json"), ("replace", "a.json"), ("flush", "folder")]


ORDINARY = ["kits21", "volume-0", "tags-tiny (untrained)", "ball@liver-tumor", "a.b_c~1,2=3+4"]


@pytest.mark.parametrize("name", ORDINARY)
def test_an_ordinary_name_stays_as_it_is(name):
    assert safe_name(name) == name


HOSTILE = ["", ".", "..", "../x", "/etc/passwd", "a/b", "a\\b", "\0", "x\0y", ".hidden", "~", "肝" * 100, "x" * 300,
           "x" * 299 + "y", "%", "%2E", "a\nb", "\udcff", "C:\\x", "x" * 132 + "%~" + "0" * 16]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_any_name_is_one_file_inside_its_folder(tmp_path, name):
    path = tmp_path / "inside" / safe_name(name)
    path.parent.mkdir()
    path.with_name(f"{path.name}-0123456789abcdef.parquet").write_text("")
    path.write_text("")
    assert path.resolve().parent == (tmp_path / "inside").resolve()
    assert len(list((tmp_path / "inside").iterdir())) == 2
    assert not path.name.startswith(".")


def test_no_two_names_share_a_file():
    names = [*HOSTILE, *ORDINARY, *map(safe_name, HOSTILE)]
    assert len({safe_name(name) for name in names}) == len(set(names))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not valid JSON"),
        ('{"a": ', "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ('{"a": ' + "9" * 400 + "}", "a number of 400 digits"),
        (b"\xff\xfe\x00", "not valid JSON"),
    ],
)
def test_json_that_cannot_be_read_is_one_line(tmp_path, text, message):
    path = tmp_path / "unit.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=rf"unit\.json: .*{message}") as caught:
        read_json(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"gone\.json: cannot be read \(No such file"):
        read_json(tmp_path / "gone.json")


def _append_in_turn(path: Path) -> None:
    with in_turn(path.with_name("lock")):
        before = path.read_text()
        time.sleep(0.01)
        path.write_text(before + "x")


def test_who_waits_gets_its_turn(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "POLL_SECONDS", 0.002)
    path = tmp_path / "text"
    path.write_text("")
    with ProcessPoolExecutor(4, mp_context=get_context("fork")) as pool:
        list(pool.map(_append_in_turn, [path] * 12))
    assert path.read_text() == "x" * 12
