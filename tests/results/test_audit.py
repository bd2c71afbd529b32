"""From a record back to its mask, on files written by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmarks.commands.show import _last_masks, _overview, _steps
from benchmarks.prompting.protocol import Protocol
from benchmarks.results.audit import Trail, trails_of
from tests.results.boards import row_of, unit_of

TWICE = Protocol("iterative", rounds=2)


def kept(out: Path, unit: dict[str, Any], step: int, weights: str | None, mask: bool = True) -> Path:
    """Mask and side-car of a step of case_00, as evaluation writes them; the side-car."""
    name = f"{unit['target']['name']}.{TWICE.name}.{step}"
    folder = out / unit["predictions"] / "case_00"
    folder.mkdir(parents=True, exist_ok=True)
    if mask:
        (folder / f"{name}.nii.gz").write_bytes(b"mask")
    facts = {"carried": not mask} | ({} if weights is None else {"weights": weights})
    (folder / f"{name}.json").write_text(json.dumps({"facts": facts, "prompts": {"clicks": []}}), encoding="utf-8")
    return folder / f"{name}.json"


def net(target: str = "kidney-tumor", weights: str | None = "first") -> tuple[dict[str, Any], pd.DataFrame]:
    place = f"predictions/suite/kits21/net-{target}"
    unit = unit_of("net", "kits21", [TWICE], 1, suite="suite", target={"name": target}, predictions=place)
    unit["unit"] = f"net@{target}"
    rows = [row_of(unit, 0, TWICE, step, 0.5, fold=0, weights=weights) for step in (1, 2)]
    return unit, pd.DataFrame(rows)


def trail(out: Path, unit: dict[str, Any], rows: pd.DataFrame) -> Trail:
    (found,) = trails_of(rows, [unit], out, "case_00")
    return found


def test_a_mask_by_other_weights_is_not_that_of_the_record(tmp_path: Path) -> None:
    """`run --fresh` has scored the case anew and was cut off before the old record was replaced."""
    unit, rows = net()
    first, second = (kept(tmp_path, unit, step, "first") for step in (1, 2))
    shown = trail(tmp_path, unit, rows)
    assert [step["side_car"] for step in shown.steps] == [str(path.relative_to(tmp_path)) for path in (first, second)]
    kept(tmp_path, unit, 2, "second")
    one, other = trail(tmp_path, unit, rows).steps
    assert one["mask"].endswith(".1.nii.gz")
    assert (other["mask"], other["side_car"], other["prompts"]) == ("", "", None)
    assert "by other weights" in other["no_mask"]
    told = trail(tmp_path, unit, rows)
    assert "by other weights" in next(iter(_last_masks([told]).values()))
    assert "by other weights" in _steps(told)[1]["mask"]


def test_a_step_that_kept_a_mask_by_other_weights_has_none_either(tmp_path: Path) -> None:
    unit, rows = net()
    kept(tmp_path, unit, 1, "second")
    kept(tmp_path, unit, 2, "second", mask=False)
    assert [step["mask"] for step in trail(tmp_path, unit, rows).steps] == ["", ""]


@pytest.mark.parametrize(("record", "mask"), [("first", None), ("", "first"), (None, "first"), (float("nan"), "first")])
def test_a_mask_or_a_record_of_before_that_says_no_weights_is_taken_as_it_is(
    tmp_path: Path, record: Any, mask: str | None
) -> None:
    unit, rows = net(weights=record)
    kept(tmp_path, unit, 1, mask)
    assert trail(tmp_path, unit, rows).steps[0]["mask"]


def test_both_targets_of_a_case_are_shown(tmp_path: Path) -> None:
    """As after `run --data DIR --target 1` and `--target 2` into one output folder."""
    units, rows = zip(*(net(target) for target in ("cyst", "tumor")), strict=True)
    for unit in units:
        kept(tmp_path, unit, 2, "first")
    trails = trails_of(pd.concat(rows, ignore_index=True), units, tmp_path, "case_00")
    masks = _last_masks(trails)
    assert [Path(mask).name for mask in masks.values()] == ["cyst.iterative-2.2.nii.gz", "tumor.iterative-2.2.nii.gz"]
    assert [name.rsplit(", ", 1)[1] for name in masks] == ["cyst", "tumor"]
    assert [row["target"] for row in _overview(trails)] == ["cyst", "tumor"]
    assert list(_last_masks(trails[:1])) == ["net, iterative-2"]
    assert "target" not in _overview(trails[:1])[0]
