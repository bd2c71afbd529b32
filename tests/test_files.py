"""A file appears whole or not at all, whoever else writes it."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from benchmarks.files import atomically, write_json


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
