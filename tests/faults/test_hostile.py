"""`pytest tests/faults -m faults -s`: a table of what became of hundreds of hostile inputs; none may be BAD."""

from __future__ import annotations

import pytest

from tests.faults.hostile import BAD, sweep, table


@pytest.mark.faults
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_hostile_input_is_read_right_or_ends_in_one_line(tmp_path, monkeypatch, seed):
    pytest.importorskip("pydicom")
    root = tmp_path / "sandbox"
    monkeypatch.setenv("TAGS_BENCH_DATA", str(root / "home"))
    monkeypatch.chdir(tmp_path)
    verdicts = sweep(root, 402, seed)
    print(f"\n{table(verdicts)}")
    bad = [one for one in verdicts if one.verdict == BAD]
    assert not bad, "\n".join(f"{one.kind}: {' '.join(map(ascii, one.command))[:300]}: {one.why}" for one in bad)
