"""Commands that write into an output folder wait for no other and stand in nobody's way: they are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.common.test_output_lock import another


@pytest.mark.parametrize("words", ["sync", "data synth --cases 3", "prompts import clicks"])
def test_a_command_beside_another_writer_is_refused(call, tmp_path: Path, words: str) -> None:
    (tmp_path / "out").mkdir()
    with another(tmp_path / "out"):
        before = sorted(tmp_path.rglob("*"))
        outcome = call(*words.split(), "--out", "out")
        assert outcome.code == 2
        assert "`tags-bench run` is writing there since" in outcome.err
        assert outcome.err.count("\n") == 1
        assert [path for path in sorted(tmp_path.rglob("*")) if path.name != ".tags-bench.lock.turn"] == before


def test_a_disk_that_fails_is_one_line_and_the_command_can_be_given_again(call, monkeypatch) -> None:
    from benchmarks.data import phantom

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(phantom, "synthesise", full)
    outcome = call("data", "synth", "--cases", "3", "--out", "out")
    assert outcome.code == 3
    assert outcome.err.splitlines()[-1].startswith("error: the disk: OSError: [Errno 28] No space left on device")
    assert "internal" not in outcome.err
