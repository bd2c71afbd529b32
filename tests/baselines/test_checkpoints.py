"""Reading official files safely, and loading them strictly."""

from __future__ import annotations

import argparse
import os
import pickle
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from baselines.checkpoints import (
    Inert,
    load_official,
    official_file_problem,
    read_checkpoint,
    recognise,
    required_file,
    state_dict_of,
    strip_prefixes,
)
from benchmarks.common.errors import UserError


class Call:
    """Pickles as a call of `function(*args)`: the classic way to run code in whoever reads the file."""

    def __init__(self, function: object, *args: object) -> None:
        self.call = (function, args)

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call


def network() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 1))


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize("container", ["bare", "model", "model_state_dict", "net"])
def test_official_containers_load_bit_by_bit(tmp_path: Path, container: str) -> None:
    source, target = network(), network()
    state = {f"module.{key}": value for key, value in source.state_dict().items()}
    torch.save(state if container == "bare" else {container: state, "epoch": 3}, tmp_path / "file.pth")
    load_official(target, tmp_path / "file.pth", "a system")
    assert same(source, target)


def test_module_on_meta_receives_the_tensors(tmp_path: Path) -> None:
    source = network()
    torch.save(source.half().state_dict(), tmp_path / "file.pth")
    with torch.device("meta"):
        target = network()
    load_official(target, tmp_path / "file.pth", "a system")
    assert same(source.float(), target)
    assert all(parameter.requires_grad for parameter in target.parameters())


def test_objects_become_inert(tmp_path: Path) -> None:
    source = network()
    optimiser = torch.optim.Adam(source.parameters())
    source(torch.ones(1, 3)).sum().backward()
    optimiser.step()
    path = tmp_path / "sam-med2d_b.pth"
    content = {
        "model": source.state_dict(),
        "optimizer": optimiser,
        "args": argparse.Namespace(lr=1),
        "best": np.float64(0.5),
    }
    torch.save(content, path)
    checkpoint = read_checkpoint(path)
    assert isinstance(checkpoint["optimizer"], Inert)
    assert isinstance(checkpoint["args"], Inert)
    assert not isinstance(checkpoint["optimizer"], torch.optim.Optimizer)
    target = network()
    load_official(target, path, "a system")
    assert same(source, target)


def test_stand_ins_do_not_outlive_the_reading(tmp_path: Path) -> None:
    torch.save({"model": network().state_dict(), "args": argparse.Namespace()}, tmp_path / "file.pth")
    read_checkpoint(tmp_path / "file.pth")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "file.pth", weights_only=True)


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (os.system, ("touch {}",)),
        (subprocess.call, (["touch", "{}"],)),
        (eval, ("open('{}', 'w')",)),
        (exec, ("open('{}', 'w')",)),
        (open, ("{}", "w")),
        (Path.touch, (Path("{}"),)),
    ],
)
def test_a_malicious_file_is_refused_and_runs_nothing(
    tmp_path: Path, function: object, arguments: tuple[object, ...]
) -> None:
    trace = tmp_path / "trace"

    def aim(argument: object) -> object:
        if isinstance(argument, list):
            return [aim(part) for part in argument]
        aimed = str(argument).replace("{}", str(trace))
        return Path(aimed) if isinstance(argument, Path) else aimed

    call = Call(function, *map(aim, arguments))
    torch.save({"model": network().state_dict(), "optimizer": call}, tmp_path / "file.pth")
    with pytest.raises(UserError, match="refused"):
        load_official(network(), tmp_path / "file.pth", "a system")
    assert not trace.exists()


def test_an_unknown_callable_is_never_called(tmp_path: Path) -> None:
    trace = tmp_path / "trace.npy"
    torch.save({"model": network().state_dict(), "x": Call(np.save, str(trace), 1)}, tmp_path / "file.pth")
    assert isinstance(read_checkpoint(tmp_path / "file.pth")["x"], Inert)
    assert not trace.exists()


def test_a_plain_malicious_pickle_is_refused(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    (tmp_path / "file.pth").write_bytes(pickle.dumps(Call(os.system, f"touch {trace}"), protocol=2))
    with pytest.raises(UserError, match="truncated, or not a torch checkpoint"):
        read_checkpoint(tmp_path / "file.pth")
    assert not trace.exists()


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9, 0.999])
def test_truncated_file(tmp_path: Path, share: float) -> None:
    path = tmp_path / "file.pth"
    torch.save({"w": torch.zeros(5000), "args": argparse.Namespace()}, path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(UserError, match=r"file\.pth: truncated"):
        read_checkpoint(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "page.pth").write_text("<html>not found</html>")
    with zipfile.ZipFile(tmp_path / "zip.pth", "w") as archive:
        archive.writestr("a", "b")
    for name in ("page.pth", "zip.pth"):
        with pytest.raises(UserError, match="not a torch checkpoint"):
            read_checkpoint(tmp_path / name)
    with pytest.raises(UserError, match="no such checkpoint file"):
        read_checkpoint(tmp_path / "absent.pth")


def test_keys_that_do_not_fit_are_named(tmp_path: Path) -> None:
    state = network().state_dict()
    path = tmp_path / "file.pth"

    def message(changed: dict[str, torch.Tensor]) -> str:
        torch.save(changed, path)
        with pytest.raises(UserError) as caught:
            load_official(network(), path, "a system")
        return str(caught.value)

    assert "1 missing: 1.bias" in message({k: v for k, v in state.items() if k != "1.bias"})
    assert "1 unexpected: extra" in message({**state, "extra": torch.zeros(1)})
    assert "1 wrong shape: 0.weight (3, 2) instead of (2, 3)" in message({**state, "0.weight": torch.zeros(3, 2)})
    assert "4 missing" in message({f"prefix.{k}": v for k, v in state.items()})
    assert "and 6 more" in message({**state, **{f"extra{i}": torch.zeros(1) for i in range(10)}})
    assert "holds no state dict" in message({})


@pytest.mark.parametrize(
    ("keys", "system"),
    [
        (["image_encoder.blocks.0.Adapter.spatial.0.weight", "image_encoder.pos_embed"], "SAM-Med2D"),
        (["image_encoder.blocks.0.attn.rel_pos_d", "image_encoder.pos_embed"], "SAM-Med3D"),
        (["module.text_encoder.dim_align.weight"], "SegVol"),
        (["module.swinViT.layers1.0.x"], "Universal Model (Swin UNETR)"),
        (["module.backbone.down_tr64.ops.0.conv1.weight"], "Universal Model (U-Net)"),
        (["encoder_dict.blocks.0.attn.lr"], "3DSAM-adapter"),
        (["image_encoder.pos_embed"], "SAM-B"),
        (["something.else"], None),
    ],
)
def test_systems_are_recognised(keys: list[str], system: str | None) -> None:
    checkpoint = {"model": {key: torch.zeros(1, 2, 2, 768) for key in keys}}
    assert recognise(checkpoint) == system
    if system is not None:
        with pytest.raises(UserError, match=r"this looks like .*, expected another"):
            state_dict_of(checkpoint, "file.pth", "another")


def test_prefixes_go_only_where_all_keys_have_them() -> None:
    one = torch.zeros(1)
    assert set(strip_prefixes({"module.a": one, "module.b": one})) == {"a", "b"}
    assert set(strip_prefixes({"module.a": one, "b": one})) == {"module.a", "b"}


def test_required_file_says_what_and_where(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'sam-b' needs the official file sam\.pth \(the release page\)"):
        required_file(None, "sam-b", "sam.pth", "the release page")
    with pytest.raises(UserError, match="no such checkpoint file"):
        required_file(tmp_path / "sam.pth", "sam-b", "sam.pth", "the release page")
    (tmp_path / "sam.pth").touch()
    assert required_file(str(tmp_path / "sam.pth"), "sam-b", "sam.pth", "") == tmp_path / "sam.pth"


def test_required_file_is_looked_for_in_the_weights_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAGS_BENCH_WEIGHTS", str(tmp_path))
    with pytest.raises(UserError, match=r"see `tags-bench weights fetch sam-b`"):
        required_file(None, "sam-b", "sam.pth", "the release page")
    (tmp_path / "sam.pth").touch()
    assert required_file(None, "sam-b", "sam.pth", "") == tmp_path / "sam.pth"
    assert required_file("sam.pth", "sam-b", "other.pth", "") == tmp_path / "sam.pth"


@pytest.mark.parametrize("old_format", [False, True])
def test_a_file_is_looked_into_before_it_is_loaded(tmp_path: Path, old_format: bool) -> None:
    path = tmp_path / "file.pth"

    def problem(content: object) -> str:
        torch.save(content, path, _use_new_zipfile_serialization=not old_format)
        return official_file_problem(path, "SAM-Med2D")

    right = {"image_encoder.blocks.0.Adapter.spatial.0.weight": torch.zeros(1)}
    assert problem({"model": right}) == ""
    if not old_format:  # with objects inside, a file from before torch 1.6 is refused
        assert problem({"model": right, "optimizer": torch.optim.Adam(network().parameters())}) == ""
    segvol = {"model": {"module.text_encoder.dim_align.weight": torch.zeros(1)}}
    assert problem(segvol) == "this looks like SegVol, expected SAM-Med2D"
    assert problem({"model": {"a": torch.zeros(1)}}) == "not recognised as any known system, expected SAM-Med2D"
    refusal = "not a torch checkpoint" if old_format else "refused, the file asks for"
    assert refusal in problem({"model": right, "x": Call(os.system, f"touch {tmp_path / 'x'}")})
    assert not (tmp_path / "x").exists()
    path.write_bytes(path.read_bytes()[:50])
    assert official_file_problem(path, "SAM-Med2D").startswith("truncated, or not a torch checkpoint")
