"""What a user may get wrong, for every published system alike: one clear line, or an empty lesion that does no harm."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from baselines.sam.network import Sam
from baselines.sam3d_adapter.method import sam3d_adapter, sam3d_adapter_tiny
from baselines.sam_b.method import sam_b, sam_b_tiny
from baselines.sam_med2d.method import sam_med2d, sam_med2d_tiny
from baselines.sam_med2d.segmenter import SIZES as SAM_MED2D
from baselines.sam_med3d.method import sam_med3d, sam_med3d_tiny
from baselines.sam_med3d.segmenter import SIZES as SAM_MED3D
from baselines.segvol.method import segvol, segvol_tiny
from baselines.universal.method import universal_swin, universal_tiny, universal_unet
from benchmarks.common.errors import UserError
from benchmarks.contestants import Batch, Method, Target, Trainable
from benchmarks.data.volume import Volume
from benchmarks.prompting.prompts import Click, PromptKind, Prompts

OFFICIAL = pytest.mark.parametrize(
    "method",
    [sam_b, sam_med2d, sam_med3d, segvol, universal_swin, universal_unet, sam3d_adapter],
    ids=lambda method: method.name,
)
TINY = pytest.mark.parametrize(
    "method",
    [sam_b_tiny, sam_med2d_tiny, sam_med3d_tiny, segvol_tiny, universal_tiny, sam3d_adapter_tiny],
    ids=lambda method: method.name,
)
TARGET = Target("kidney-tumor", "kidney", "tumor", (2,))


class Malice:
    """Pickles as a call of `os.system`."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("true",)


@OFFICIAL
def test_the_file_of_another_system(method: Method, tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    sizes, other = (SAM_MED3D, "SAM-Med3D") if method is sam_med2d else (SAM_MED2D, "SAM-Med2D")
    torch.save({"model": Sam(sizes["tiny"]).state_dict()}, path)
    with pytest.raises(UserError, match=f"this looks like {other}, expected "):
        method.build({"checkpoint": str(path)})


@OFFICIAL
def test_a_truncated_file(method: Method, tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    torch.save({"model": Sam(SAM_MED2D["tiny"]).state_dict()}, path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UserError, match="truncated"):
        method.build({"checkpoint": str(path)})


@OFFICIAL
def test_a_file_that_would_act(method: Method, tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    torch.save({"model": Malice()}, path)
    with pytest.raises(UserError, match="refused"):
        method.build({"checkpoint": str(path)})


def prompts_at(method: Method, place: tuple[int, int, int]) -> Prompts:
    return Prompts((Click(place),)) if PromptKind.CLICK in method.prompts else Prompts()


@TINY
def test_a_click_outside_the_volume(method: Method) -> None:
    session = method.build().open(Volume(np.zeros((20, 20, 9), np.float32), np.eye(4)), TARGET)
    if PromptKind.CLICK in method.prompts:
        with pytest.raises(UserError, match="outside the volume"):
            session.segment(Prompts((Click((20, 3, 3)),)))
    else:
        with pytest.raises(UserError, match="does not understand prompts of kind click"):
            session.segment(Prompts((Click((20, 3, 3)),)))


@TINY
@pytest.mark.parametrize("shape", [(1, 1, 1), (7, 5, 2), (60, 4, 3)])
def test_a_volume_smaller_than_the_window(method: Method, shape: tuple[int, int, int]) -> None:
    volume = Volume(np.random.default_rng(0).normal(40, 30, shape).astype(np.float32), np.diag([2.0, 2.0, 4.0, 1.0]))
    mask = method.build().open(volume, TARGET).segment(prompts_at(method, (0, 0, 0)))
    assert mask.shape == shape
    assert mask.dtype == np.bool_


@TINY
def test_an_answer_that_is_not_finite_is_no_empty_mask(method: Method) -> None:
    """As half precision leaves it where it overflows."""
    segmenter = method.build()
    assert isinstance(segmenter, Trainable)
    with torch.no_grad():
        next(segmenter.module.parameters()).view(-1)[0] = torch.nan
    volume = Volume(np.random.default_rng(0).normal(40, 30, (40, 36, 20)).astype(np.float32), np.eye(4))
    with pytest.raises(ValueError, match="the network's answer is not finite"):
        segmenter.open(volume, TARGET).segment(prompts_at(method, (20, 18, 10)))


@TINY
def test_a_crop_without_lesion(method: Method) -> None:
    """A loss and a gradient that are finite: nothing to prompt for must not end a training."""
    segmenter = method.build()
    assert isinstance(segmenter, Trainable)
    patch = segmenter.recipe(TARGET).patch
    image = torch.randn(2, 1, *patch, generator=torch.Generator().manual_seed(0)) * 50
    batch = Batch(image, torch.zeros_like(image), [TARGET] * 2, torch.Generator().manual_seed(1), 0.0)
    loss, _ = segmenter.loss(batch)
    loss.backward()
    assert torch.isfinite(loss)
    gradients = [p.grad for p in segmenter.trainable_parameters() if p.grad is not None]
    assert gradients
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients)
