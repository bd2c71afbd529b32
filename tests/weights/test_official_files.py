"""Official files of all methods, a third party's included, against a server on this machine."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import mock_methods
import pytest

from benchmarks.common import download
from benchmarks.common.errors import UserError
from benchmarks.common.weight_file import WeightFile, weights_folder
from benchmarks.contestants import Method, methods
from benchmarks.weights import official_files
from benchmarks.weights.official_files import (
    Announced,
    as_rows,
    markdown_table,
    settings_from_files,
    size_words,
    state_of,
    verify,
    wanted,
)
from tests.conftest import Outcome
from tests.file_server import Server

ROOT = Path(__file__).parents[2]
CONTENT = b"MOCK" + bytes(range(256)) * 400
SHA256 = hashlib.sha256(CONTENT).hexdigest()
OURS = [one for one in methods().values() if one.factory.startswith(("tags.", "baselines."))]


@pytest.fixture
def call(call: Callable[..., Outcome]) -> Callable[..., Outcome]:
    """Run `tags-bench weights …` in this process."""
    return partial(call, "weights")


def announce(monkeypatch: pytest.MonkeyPatch, **facts: object) -> WeightFile:
    """Only the third party's method is installed, its file with other facts."""
    file = replace(mock_methods.official.files[0], **facts)
    method = replace(mock_methods.official, files=(file,))
    monkeypatch.setattr(official_files, "methods", lambda: {method.name: method})
    return file


@pytest.fixture
def hosted(server: Server, monkeypatch: pytest.MonkeyPatch) -> WeightFile:
    """The file on the server, with its published size and checksum."""
    server.files["/mock-official.bin"] = CONTENT
    return announce(monkeypatch, url=f"{server.url}/mock-official.bin", bytes=len(CONTENT), checksum=f"sha256:{SHA256}")


# -- list --


def test_a_third_party_is_listed_beside_ours(call) -> None:
    rows = {row["file"]: row for row in json.loads(call("list", "--json").out)}
    assert rows["mock-official.bin"]["methods"] == ["mock-official"]
    assert rows["sam_vit_b_01ec64.pth"]["methods"] == ["sam-b", "tags-vit-b"]
    assert rows["sam_vit_b_01ec64.pth"]["path"] == str(weights_folder() / "sam_vit_b_01ec64.pth")
    assert {row["state"] for row in rows.values()} == {"absent"}
    text = call("list", "--method", "sam-med2d").out
    for part in ("sam-med2d_b.pth", "unknown", "Apache-2.0", "absent", "by hand"):
        assert part in text
    assert str(weights_folder()) in "".join(text.split())  # a long path goes over lines
    assert "segvol" not in text
    assert [name for name, row in rows.items() if row["optional"]] == [
        name for name in rows if name.startswith("clip_vit")
    ]
    assert "fetch, optional" in call("list", "--method", "tags-vit-b").out
    for words, message in ((["sam-med2"], "did you mean 'sam-med2d'"), (["nnunet"], "has no official file")):
        outcome = call("list", "--method", *words)
        assert outcome.code == 2
        assert message in outcome.err


def test_the_states_of_a_file(hosted: WeightFile) -> None:
    one = Announced(hosted, ("mock-official",), (hosted,))
    assert state_of(hosted) == "absent"
    weights_folder().mkdir(parents=True)
    hosted.path.write_bytes(CONTENT[:-1])
    assert state_of(hosted) == "wrong size"
    hosted.path.write_bytes(CONTENT[:-1] + b"x")
    assert state_of(hosted) == "present"
    assert verify(one)["state"] == state_of(hosted) == "wrong checksum"
    hosted.path.write_bytes(CONTENT)
    os.utime(hosted.path, ns=(1, 1))  # another file by now: the last check says nothing of it
    assert state_of(hosted) == "present"
    assert verify(one)["state"] == state_of(hosted) == "verified"
    assert state_of(replace(hosted, checksum=f"sha256:{'0' * 64}")) == "present"
    next(weights_folder().glob(".records/*.check.json")).write_text("{broken")
    assert state_of(hosted) == "present"


def test_methods_that_disagree_about_a_file_are_a_mistake() -> None:
    one, other = (
        replace(mock_methods.official, name=name, files=(WeightFile("a.pth", "https://example.org", licence),))
        for name, licence in (("one", "MIT"), ("other", "GPL"))
    )
    with pytest.raises(ValueError, match=r"one and other disagree about 'a\.pth'"):
        official_files.official_files([one, other])
    assert official_files.official_files([one, replace(one, name="two")])["a.pth"].methods == ("one", "two")


def test_sizes_for_people() -> None:
    assert [size_words(size) for size in (None, 375_042_383, 2_564_550_879)] == ["unknown", "375 MB", "2.56 GB"]


# -- fetch --


def test_a_whole_file(call, hosted: WeightFile) -> None:
    outcome = call("fetch", "mock-official", "--accept-licence", "--json")
    assert outcome.code == 0
    assert json.loads(outcome.out) == [{"file": hosted.name, "state": "verified", "path": str(hosted.path)}]
    assert hosted.path.read_bytes() == CONTENT
    assert "CC0-1.0 (https://example.org/mock)" in outcome.err
    assert [path.name for path in weights_folder().iterdir() if path.name != ".records"] == [hosted.name]
    assert state_of(hosted) == "verified"


def test_the_licence_is_asked_once(call, hosted: WeightFile, server: Server) -> None:
    refused = call("fetch", "mock-official")
    assert refused.code == 2
    assert "--accept-licence" in refused.errors[0]
    assert server.asked == []
    with pytest.raises(UserError, match=r"CC0-1\.0.*--accept-licence"):
        official_files.fetch(hosted)
    assert call("fetch", "mock-official", "--accept-licence").code == 0
    hosted.path.unlink()
    again = call("fetch", "mock-official.bin")
    assert again.code == 0
    assert "CC0" not in again.err
    assert hosted.path.read_bytes() == CONTENT


def test_what_is_there_is_checked_and_not_fetched_again(call, hosted: WeightFile, server: Server) -> None:
    weights_folder().mkdir(parents=True)
    hosted.path.write_bytes(CONTENT)
    assert call("fetch", "mock-official").code == 0
    assert server.asked == []
    hosted.path.write_bytes(b"mine")
    outcome = call("fetch", "mock-official")
    assert outcome.code == 2
    assert "wrong size" in outcome.errors[0]
    assert "remove it and run this again" in outcome.errors[0]
    assert hosted.path.read_bytes() == b"mine"


def test_a_broken_transfer_goes_on_where_it_stopped(call, hosted: WeightFile, server: Server, monkeypatch) -> None:
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    server.cut, server.answers = 30_000, 1
    outcome = call("fetch", "mock-official", "--accept-licence")
    assert outcome.code == 2
    assert not hosted.path.exists()
    assert state_of(hosted) == "absent"
    server.cut = server.answers = None
    assert call("fetch", "mock-official").code == 0
    assert hosted.path.read_bytes() == CONTENT
    assert server.asked[-1] == "bytes=30000-"


def test_a_server_without_ranges(call, hosted: WeightFile, server: Server, monkeypatch) -> None:
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    server.ranges, server.cut, server.answers = False, 30_000, 1
    assert call("fetch", "mock-official", "--accept-licence").code == 2
    server.cut = server.answers = None
    assert call("fetch", "mock-official").code == 0
    assert hosted.path.read_bytes() == CONTENT


def test_a_wrong_checksum_is_refused_and_not_left_in_place(call, hosted: WeightFile, server: Server) -> None:
    server.files["/mock-official.bin"] = CONTENT[:-1] + b"x"
    outcome = call("fetch", "mock-official", "--accept-licence")
    assert outcome.code == 2
    assert re.search(f"wrong checksum .*expected {SHA256}", outcome.errors[0])
    assert [path.name for path in weights_folder().iterdir()] == [".records"]


def test_not_found(call, hosted: WeightFile, server: Server) -> None:
    server.files.clear()
    outcome = call("fetch", "mock-official", "--accept-licence")
    assert outcome.code == 2
    assert len(outcome.errors) == 1
    assert "refused by the server (404" in outcome.errors[0]


def test_offline_it_says_what_to_put_where(call) -> None:
    outcome = call("fetch", "mock-official", "--accept-licence")  # port 9: nobody listens
    assert outcome.code == 2
    assert len(outcome.errors) == 1
    for part in (
        "http://127.0.0.1:9/mock-official.bin",
        "https://example.org/mock",
        f"save it as {weights_folder() / 'mock-official.bin'}",
    ):
        assert part in outcome.errors[0]


def test_what_no_program_can_fetch_is_told_and_not_pretended(call) -> None:
    outcome = call("fetch", "sam-med2d", "--accept-licence")
    assert outcome.code == 2
    assert len(outcome.errors) == 1
    for part in ("no program can fetch", "drive.google.com", f"save it as {weights_folder() / 'sam-med2d_b.pth'}"):
        assert part in outcome.errors[0]
    assert not weights_folder().exists()


def test_several_files_each_have_their_line(call) -> None:
    outcome = call("fetch", "3dsam-adapter", "mock-official", "--accept-licence")
    assert outcome.code == 2
    assert "no program can fetch 3dsam-adapter_kits21.pth.tar" in outcome.errors[0]
    assert "last.pth.tar (or best.pth.tar) of the folder lits" in outcome.errors[0]
    assert "127.0.0.1:9" in outcome.errors[0]


def test_a_file_without_checksum_is_looked_into(call, server: Server, monkeypatch) -> None:
    server.files["/f"] = b"FAKE and more"
    file = announce(monkeypatch, url=f"{server.url}/f")
    outcome = call("fetch", "mock-official", "--accept-licence")
    assert outcome.code == 2
    assert "begins with b'FAKE', expected MOCK" in outcome.errors[0]
    assert state_of(file) == "wrong content"


@pytest.mark.parametrize(
    "words", [[], ["mock-official", "--all"], ["mock-oficial"], ["../../etc/passwd"], ["tags-tiny"]]
)
def test_words_that_name_no_file(call, words: list[str]) -> None:
    outcome = call("fetch", *words)
    assert outcome.code == 2
    assert len(outcome.errors) == 1
    assert not weights_folder().exists()


def test_all_means_all_that_a_program_can_fetch(call, hosted: WeightFile) -> None:
    outcome = call("fetch", "--all", "--accept-licence")
    assert outcome.code == 0
    assert hosted.path.is_file()


# -- verify --


def test_verify_shows_the_digest_where_none_is_published(call, monkeypatch) -> None:
    file = announce(monkeypatch)
    assert "no official file is here" in call("verify").out
    weights_folder().mkdir(parents=True)
    file.path.write_bytes(CONTENT)
    outcome = call("verify", "--json")
    assert outcome.code == 0
    (row,) = json.loads(outcome.out)
    assert (row["state"], row["sha256"], row["published"]) == ("present", SHA256, "none published")
    assert "none published" in call("verify").out


def test_verify_knows_a_published_md5(monkeypatch) -> None:
    file = announce(monkeypatch, checksum=f"md5:{hashlib.md5(CONTENT).hexdigest()}")
    weights_folder().mkdir(parents=True)
    file.path.write_bytes(CONTENT)
    (one,) = wanted(["mock-official"])
    assert verify(one)["state"] == "verified"
    file.path.write_bytes(CONTENT + b"x")
    row = verify(one)
    assert row["state"] == "wrong checksum"
    assert "md5" in row["problem"]


@pytest.mark.parametrize(
    ("content", "state", "message"),
    [
        (CONTENT[:-5], "wrong size", "wrong size"),
        (CONTENT[:-1] + b"x", "wrong checksum", "wrong checksum"),
        (b"FAKE" + CONTENT[4:], "wrong checksum", "begins with b'FAKE', expected MOCK"),
    ],
)
def test_verify_ends_with_code_2_if_something_is_wrong(
    call, hosted: WeightFile, content: bytes, state: str, message: str
) -> None:
    weights_folder().mkdir(parents=True)
    hosted.path.write_bytes(content)
    outcome = call("verify", "--json")
    assert outcome.code == 2
    assert json.loads(outcome.out)[0]["state"] == state
    assert str(hosted.path) in outcome.errors[0]
    assert message in outcome.errors[0]
    assert hosted.path.read_bytes() == content


def test_verify_of_a_file_that_is_not_here(call) -> None:
    outcome = call("verify", "sam-b")
    assert outcome.code == 2
    assert "sam_vit_b_01ec64.pth is absent: `tags-bench weights fetch sam_vit_b_01ec64.pth`" in outcome.errors[0]
    assert "drive.google.com" in call("verify", "sam-med2d").errors[0]


@pytest.mark.parametrize("method", [one for one in OURS if one.needs_checkpoint], ids=lambda one: one.name)
def test_a_file_of_something_else_is_told_by_its_keys(method: Method) -> None:
    """No checksum helps where none is published: the names inside do."""
    import torch

    weights_folder().mkdir(parents=True)
    file = method.files[0]
    one = Announced(replace(file, bytes=None, checksum=""), (method.name,), (file,))
    other = "text_encoder.dim_align.weight" if method.name != "segvol" else "swinViT.layers1.0.x"
    torch.save({"model": {other: torch.zeros(1)}}, file.path)
    row = verify(one)
    assert row["state"] == "wrong content"
    assert re.search(rf"this looks like .*, expected {re.escape(file.system)}", row["problem"])
    file.path.write_bytes(file.path.read_bytes()[:200])
    assert re.search("truncated, or not a (torch checkpoint|zip archive)", verify(one)["problem"])


LAYOUTS = {
    "sam-b": "sam_b",
    "sam-med2d": "sam_med2d",
    "sam-med3d": "sam_med3d",
    "segvol": "segvol",
    "universal-swinunetr": "universal_swinunetr",
    "universal-unet": "universal_unet",
    "3dsam-adapter": "sam3d_adapter",
    "tags-vit-b": "sam_b",
}


def official_layout(path: Path, layout: str) -> None:
    """A file with every official key and shape, and one number behind each tensor: a few hundred kilobytes."""
    import torch

    with (ROOT / "tests" / "golden" / f"{layout}.keys.tsv").open(newline="") as table:
        rows = list(csv.DictReader(table, delimiter="\t"))
    shapes = {row["key"]: [int(n) for n in row["shape"].split(",")] for row in rows if row["shape"] != "scalar"}
    torch.save({key: torch.zeros(1).expand(*shape) for key, shape in shapes.items()}, path)


@pytest.mark.parametrize("name", LAYOUTS)
def test_each_official_layout_is_known_as_its_own_and_as_no_other(name: str) -> None:
    weights_folder().mkdir(parents=True)
    file = replace(methods()[name].files[0], bytes=None, checksum="")
    one = Announced(file, (name,), (file,))
    for layout in dict.fromkeys(LAYOUTS.values()):
        official_layout(file.path, layout)
        row = verify(one)
        if layout == LAYOUTS[name]:
            assert (row["state"], row["problem"]) == ("present", "")
        else:
            assert row["state"] == "wrong content"
            assert file.system in row["problem"]


# -- for a run --


def test_a_run_takes_the_file_of_the_weights_folder() -> None:
    sam = methods()["sam-b"]
    with pytest.raises(UserError, match=r"`tags-bench weights fetch sam_vit_b_01ec64\.pth` \(375 MB; Apache-2\.0\)"):
        settings_from_files(sam, "mine", sam.config, "kits21")
    weights_folder().mkdir(parents=True)
    official_layout(sam.files[0].path, "sam_b")
    path = str(sam.files[0].path)
    assert settings_from_files(sam, "mine", sam.config, "kits21") == {"checkpoint": path}
    assert settings_from_files(sam, "mine", {**sam.config, "checkpoint": sam.files[0].name}, "x") == {
        "checkpoint": path
    }
    assert settings_from_files(sam, "mine", {**sam.config, "checkpoint": "/my/own.pth"}, "kits21") == {}


def test_a_file_for_each_dataset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(official_files, "licence_accepted", lambda file: True)
    adapter = methods()["3dsam-adapter"]
    with pytest.raises(UserError, match=r"weights fetch 3dsam-adapter_lits17\.pth\.tar` \(by hand, from https"):
        settings_from_files(adapter, "3dsam-adapter", adapter.config, "lits17")
    weights_folder().mkdir(parents=True)
    for file in adapter.files:
        official_layout(file.path, "sam3d_adapter")
    found = settings_from_files(adapter, "3dsam-adapter", adapter.config, "lits17")
    assert found == {"checkpoint": str(weights_folder() / "3dsam-adapter_lits17.pth.tar")}
    with pytest.raises(UserError, match=r"none was released for 'mine'.*--checkpoint"):
        settings_from_files(adapter, "3dsam-adapter", adapter.config, "mine")


def test_towers_are_asked_for_before_any_work() -> None:
    tags = methods()["tags-vit-b"]
    with pytest.raises(UserError, match=r"weights fetch sam_vit_b_01ec64\.pth`.*its path as setting `sam_weights`"):
        settings_from_files(tags, "tags-vit-b", tags.config, "kits21")
    assert settings_from_files(tags, "tags-vit-b", {**tags.config, "sam_weights": "random"}, "kits21") == {}
    weights_folder().mkdir(parents=True)
    tags.files[0].path.touch()
    assert settings_from_files(tags, "tags-vit-b", tags.config, "kits21") == {}  # CLIP: open_clip can fetch it


def test_a_licence_that_restricts_the_use_is_accepted_before_the_use(call, monkeypatch: pytest.MonkeyPatch) -> None:
    """However the file came to be there; the acceptance is asked for by the command that brings the file."""
    file = announce(monkeypatch, restricted=True)
    mock = official_files.methods()["mock-official"]
    weights_folder().mkdir(parents=True)
    file.path.write_bytes(CONTENT)
    with pytest.raises(UserError, match=r"CC0-1\.0.* restrict its use.*fetch mock\S* --accept-licence"):
        settings_from_files(mock, "mine", mock.config, "kits21")
    assert call("fetch", "mock-official").code == 2
    accepted = call("fetch", "mock-official", "--accept-licence")
    assert accepted.code == 0
    assert "CC0-1.0 (https://example.org/mock)" in accepted.err
    assert settings_from_files(mock, "mine", mock.config, "kits21") == {"checkpoint": str(file.path)}
    others = announce(monkeypatch, restricted=True, licence="another one")
    assert not official_files.licence_accepted(others)


def test_every_licence_that_is_not_permissive_is_accepted_before_the_use() -> None:
    files = {file.name: file for method in OURS for file in method.files}
    permissive = {name for name, file in files.items() if re.match(r"(Apache-2\.0|MIT)\b", file.licence)}
    assert {name for name, file in files.items() if not file.restricted} == permissive
    assert len(permissive) > 10
    assert len(files) - len(permissive) > 5


def test_only_files_that_are_used_ask_for_their_licence(monkeypatch: pytest.MonkeyPatch) -> None:
    """3DSAM-adapter has a file for each data set: whoever uses one of them accepts the terms of that one."""
    adapter = methods()["3dsam-adapter"]
    kits, lits = (next(file for file in adapter.files if name in file.datasets) for name in ("kits21", "lits17"))
    weights_folder().mkdir(parents=True)
    for file in (kits, lits):
        official_layout(file.path, "sam3d_adapter")
    monkeypatch.setattr(official_files, "licence_accepted", lambda file: file is lits)
    config = adapter.config
    assert settings_from_files(adapter, "a", config, "lits17") == {"checkpoint": str(lits.path)}
    assert settings_from_files(adapter, "a", config, "kits21", by_rule={kits.name}) == {"checkpoint": str(kits.path)}
    settings_from_files(adapter, "a", {**config, "checkpoint": str(lits.path)}, "mine")
    with pytest.raises(
        UserError, match=r"terms of 3dsam-adapter_kits21\.pth\.tar.*fetch 3dsam-adapter_kits21\.pth\.tar "
    ):
        settings_from_files(adapter, "a", config, "kits21")
    renamed = kits.path.rename(kits.path.with_name("own.pth"))
    with pytest.raises(UserError, match="terms of 3dsam-adapter"):  # whose file it is nobody knows
        settings_from_files(adapter, "a", {**config, "checkpoint": str(renamed)}, "mine")


def test_a_stand_in_asks_for_no_licence_and_the_file_still_does(monkeypatch: pytest.MonkeyPatch) -> None:
    file = announce(monkeypatch, restricted=True)
    mock = official_files.methods()["mock-official"]
    weights_folder().mkdir(parents=True)
    file.path.write_bytes(CONTENT)
    found = settings_from_files(mock, "mine", mock.config, "kits21", by_rule={file.name})
    assert found == {"checkpoint": str(file.path)}
    for others in ((), {"another.bin"}):
        with pytest.raises(UserError, match="restrict its use"):
            settings_from_files(mock, "mine", mock.config, "kits21", by_rule=others)


def test_a_method_that_announces_nothing_still_says_what_it_needs() -> None:
    bare = replace(mock_methods.official, files=())
    with pytest.raises(UserError, match="needs its official file: --checkpoint mine=FILE"):
        settings_from_files(bare, "mine", bare.config, "kits21")
    assert settings_from_files(bare, "mine", {**bare.config, "checkpoint": "x"}, "kits21") == {}


def test_a_file_with_another_content_is_refused_before_any_work(tmp_path: Path) -> None:
    sam = methods()["sam-b"]
    given = tmp_path / "given.pth"

    def settings() -> dict[str, str]:
        return settings_from_files(sam, "mine", {**sam.config, "checkpoint": str(given)}, "kits21")

    official_layout(given, "sam_med2d")
    with pytest.raises(UserError, match=rf"'mine': {given}: this looks like SAM-Med2D, expected SAM-B"):
        settings()
    official_layout(given, "sam_b")
    os.utime(given, ns=(1, 1))
    assert settings() == {}
    given.write_bytes(given.read_bytes()[:1000])
    with pytest.raises(UserError, match="truncated, or not a torch checkpoint"):
        settings()


def test_a_folder_that_cannot_be_written(call, hosted: WeightFile, caplog: pytest.LogCaptureFixture) -> None:
    weights_folder().parent.mkdir(parents=True, exist_ok=True)
    weights_folder().write_text("a file and no folder")
    outcome = call("fetch", "mock-official", "--accept-licence")
    assert outcome.code == 2
    assert "cannot be written" in outcome.errors[0]
    weights_folder().unlink()
    weights_folder().mkdir()
    hosted.path.write_bytes(CONTENT)
    (weights_folder() / ".records").write_text("a file and no folder")
    assert call("verify").code == 0
    assert "not remembered" in caplog.text


# -- what is announced --


@pytest.mark.parametrize("method", OURS, ids=lambda one: one.name)
def test_what_our_methods_announce_holds_together(method: Method) -> None:
    assert bool(method.files) == (method.needs_checkpoint or ("clip_weights" in method.config and "vit" in method.name))
    for file in method.files:
        assert file.setting in method.config
        assert file.page.startswith("https://")
        assert file.url.startswith("https://") or not file.url
        assert file.licence
        assert file.system
        assert not file.url or file.bytes is None or file.bytes > 10_000_000
        assert not file.url or file.url.endswith(f"/{file.upstream or file.name}")
        if "huggingface.co" in file.url:
            assert re.fullmatch(
                r"https://huggingface\.co/[\w.-]+/[\w.-]+/resolve/(main|[0-9a-f]{40})/[\w./-]+", file.url
            )
        module, _, name = file.check.partition(":")
        assert module.split(".")[0] == method.factory.split(".")[0]
        assert name


def test_doctor_names_the_files_that_are_here(tmp_path: Path) -> None:
    from benchmarks.execution.doctor import _checkpoints

    title = f"official files in {weights_folder()}"
    assert _checkpoints(tmp_path) == {title: "none"}
    weights_folder().mkdir(parents=True)
    (weights_folder() / "sam_vit_b_01ec64.pth").write_bytes(b"cut short")
    (weights_folder() / "mock-official.bin").write_bytes(CONTENT)
    (weights_folder() / "mine.pth").touch()
    verify(wanted(["mock-official"])[0])
    found = _checkpoints(tmp_path)
    assert "sam_vit_b_01ec64.pth (wrong size)" in found[title]
    assert "mock-official.bin (present)" in found[title]
    assert found["other files there"] == "mine.pth"


def test_the_document_says_what_the_code_says() -> None:
    text = (ROOT / "docs" / "weights.md").read_text("utf-8")
    table = markdown_table(official_files.official_files(OURS).values())
    assert table in text, f"docs/weights.md needs this table:\n\n{table}"
    assert len(as_rows(official_files.official_files(OURS).values())) == table.count("\n| `")
