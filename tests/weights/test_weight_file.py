"""What a method may announce of its official files, and where they are looked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.common.weight_file import WeightFile, locate, missing_file, named_files, weights_folder

SHA = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    "name",
    ["../evil.pth", "/etc/passwd", "a/b.pth", "a\\b.pth", "..", ".", ".hidden", "", "a b", "a\n.pth", "~root", "a:b"],
)
def test_a_name_cannot_lead_out_of_the_weights_folder(name: str) -> None:
    with pytest.raises(ValueError, match="must be plain"):
        WeightFile(name, "https://example.org", "MIT")


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"url": "file:///etc/passwd"}, "only http and https"),
        ({"url": "ftp://example.org/a"}, "only http and https"),
        ({"checksum": "0" * 64}, "a checksum is"),
        ({"checksum": "sha256:" + "0" * 63}, "a checksum is"),
        ({"checksum": "sha256:" + "A" * 64}, "a checksum is"),
        ({"checksum": "crc32:00000000"}, "a checksum is"),
    ],
)
def test_mistakes_of_a_method_are_refused_at_once(facts: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WeightFile("a.pth", "https://example.org", "MIT", **facts)


def test_equality_is_about_the_file_and_not_about_its_use() -> None:
    one = WeightFile("a.pth", "https://example.org", "MIT", checksum=SHA)
    assert one == WeightFile("a.pth", "https://example.org", "MIT", checksum=SHA, setting="tower", check="x:y")
    assert one != WeightFile("a.pth", "https://example.org", "MIT")


def test_one_folder_by_variable_or_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAGS_BENCH_WEIGHTS", str(tmp_path / "w"))
    assert weights_folder() == tmp_path / "w"
    assert WeightFile("a.pth", "https://example.org", "MIT").path == tmp_path / "w" / "a.pth"
    monkeypatch.delenv("TAGS_BENCH_WEIGHTS")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert weights_folder() == tmp_path / ".cache" / "tags-bench" / "weights"


def test_a_file_is_found_by_path_and_by_plain_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAGS_BENCH_WEIGHTS", str(tmp_path / "w"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "a.pth").touch()
    (tmp_path / "here.pth").touch()
    assert locate("a.pth") == tmp_path / "w" / "a.pth"
    assert locate("here.pth") == Path("here.pth")
    assert locate(tmp_path / "here.pth") == tmp_path / "here.pth"
    for absent in ("b.pth", "elsewhere/a.pth", "../w/b.pth", str(tmp_path)):
        assert locate(absent) is None


def test_the_files_that_a_configuration_names_are_missed_where_they_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is no file here (a word such as "random", nothing) is nowhere missed."""
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    for folder in (here, elsewhere):
        folder.mkdir()
    (here / "a.pth").touch()
    (tmp_path / "b.pth").touch()
    settings = ("checkpoint", "tower", "words", "other", "none")
    config = {"checkpoint": str(tmp_path / "b.pth"), "tower": "a.pth", "words": "random", "other": None, "size": 3}
    monkeypatch.setenv("TAGS_BENCH_WEIGHTS", str(here))
    names = named_files(config, settings)
    assert names == (str(tmp_path / "b.pth"), "a.pth")
    assert missing_file(names) == ""
    monkeypatch.setenv("TAGS_BENCH_WEIGHTS", str(elsewhere))
    assert missing_file(names).startswith(f"the weights file {elsewhere / 'a.pth'} is not there: copy it ")
    (tmp_path / "b.pth").unlink()
    assert missing_file(names).startswith(f"the weights file {tmp_path / 'b.pth'} is not there: copy it ")
