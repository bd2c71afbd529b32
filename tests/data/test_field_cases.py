"""Data sets as they are met in the field, made from real scans; skipped where these are not at hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.common.errors import UserError
from benchmarks.data import registry


@pytest.fixture
def field_cases(shared: Path) -> Path:
    folder = shared / "field_cases"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    return folder


@pytest.mark.parametrize("target", ["tumor", "masses", "kidney", "1", "3"])
def test_regions_of_nnunet(field_cases, target):
    found = registry.add(
        registry.Registration("k", field_cases / "04-nnunet-regions" / "nnunet", target=target, organ="kidney")
    )
    assert (found.cases, found.excluded) == (6, {})
    assert min(report.targets[next(iter(report.targets))].voxels for report in found.reports) > 0


@pytest.mark.parametrize("inner", ["", "dataset"])
def test_kits23(field_cases, inner):
    root = field_cases / "09-kits23-layout" / "kits23"
    found = registry.add(registry.Registration("mine", root / inner, target="2", organ="kidney"))
    assert (found.cases, found.excluded) == (6, {})
    with pytest.raises(UserError, match="files of KiTS19 or KiTS23"):
        registry.add(registry.Registration("kits21", root / inner))


def test_lits_with_a_lost_affine(field_cases):
    found = registry.add(registry.Registration("lits17", field_cases / "08-lits-identity-affine" / "lits"))
    assert found.cases == 6
    assert [one.case_id for one in found.warnings if "identity" in one.text] == ["volume-28", "volume-29"]


def test_nnunet_without_channel(field_cases):
    with pytest.raises(UserError, match="lacks a channel such as _0000"):
        registry.add(registry.Registration("n", field_cases / "16-nnunet-no-channel-suffix" / "images"))


def test_all_cases_bad(field_cases):
    with pytest.raises(UserError, match=r"no usable case among 6; STS_003 and 5 more: label values 255 are not"):
        registry.add(registry.Registration("b", field_cases / "18-all-cases-bad-no-reason" / "nnunet"))
