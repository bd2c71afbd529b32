"""Intensity augmentation: each change against another implementation, and how often it comes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from tags import intensity
from tags.intensity import gaussian_blur, intensity_augmented


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def crops(number=4, side=16):
    return torch.randn(number, 1, side, side + 2, side + 4, generator=generator(9))


def test_a_blur_is_scipys():
    image = crops(2)
    found = gaussian_blur(image, torch.tensor([0.5, 1.0]).view(2, 1, 1, 1, 1))
    for one, blurred, deviation in zip(image, found, (0.5, 1.0), strict=True):
        expected = gaussian_filter(one[0].numpy(), deviation, mode="nearest", radius=3)
        assert np.allclose(blurred[0], expected, atol=1e-5)


def test_blurs_are_of_half_a_voxel_to_one(monkeypatch):
    drawn = []
    monkeypatch.setattr(intensity, "gaussian_blur", lambda image, deviation: drawn.append(deviation) or image)
    intensity._blurred(crops(200, 4), generator())
    assert drawn[0].shape == (200, 1, 1, 1, 1)
    assert 0.5 <= drawn[0].min() < 0.51
    assert 0.99 < drawn[0].max() <= 1.0


def test_nothing_is_rounded_under_autocast():
    image = crops()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = intensity_augmented(image, 1.0, generator())
    assert torch.equal(found, intensity_augmented(image, 1.0, generator()))


def test_gamma_keeps_the_range_and_is_a_power_between_its_ends():
    image = crops(64, 8)
    found = intensity._with_gamma(image, generator())
    lowest, highest = image.amin(dim=(1, 2, 3, 4)), image.amax(dim=(1, 2, 3, 4))
    assert torch.allclose(found.amin(dim=(1, 2, 3, 4)), lowest, atol=1e-5)
    assert torch.allclose(found.amax(dim=(1, 2, 3, 4)), highest, atol=1e-5)
    powers = []
    for before, after, low, high in zip(image, found, lowest, highest, strict=True):
        inner = ((before - low) / (high - low)).flatten().numpy(), ((after - low) / (high - low)).flatten().numpy()
        between = (inner[0] > 0.1) & (inner[0] < 0.9)
        ratio = np.log(inner[1][between]) / np.log(inner[0][between])
        assert np.ptp(ratio) < 1e-3, "one exponent for all voxels"
        powers.append(float(ratio.mean()))
    assert 0.7 <= min(powers) < 0.8
    assert 1.4 < max(powers) <= 1.5


def test_contrast_keeps_the_mean_and_noise_and_contrast_stay_in_their_ranges():
    image = crops(200, 8)
    contrast = intensity._with_contrast(image, generator())
    assert torch.allclose(contrast.mean(dim=(1, 2, 3, 4)), image.mean(dim=(1, 2, 3, 4)), atol=1e-5)
    factor = contrast.std(dim=(1, 2, 3, 4)) / image.std(dim=(1, 2, 3, 4))
    assert 0.75 <= factor.min() < 0.77
    assert 1.23 < factor.max() <= 1.25
    noise = intensity._with_noise(image, generator()) - image
    deviation = noise.std(dim=(1, 2, 3, 4))
    assert deviation.min() < 0.01
    assert 0.28 < deviation.max() < 0.32
    assert noise.mean().abs() < 0.005


def test_a_lower_resolution_keeps_the_place_and_loses_what_lies_between():
    """Of three voxels the one in the middle stays, so that a ramp is itself again."""
    ramp = torch.arange(33).float().expand(1, 1, 33, 33, 33)
    assert (intensity._resampled(ramp, [11, 11, 11]) - ramp)[..., 2:-2].abs().max() < 1e-4
    peaks = (torch.arange(33) % 3 == 0).float().expand(1, 1, 33, 33, 33)
    assert not intensity._resampled(peaks, [11, 11, 11])[..., 2:-2].any()


def test_each_crop_has_its_own_resolution_the_same_along_each_axis(monkeypatch):
    seen = []
    monkeypatch.setattr(intensity, "_resampled", lambda image, size: seen.append((image, size)) or image)
    image = torch.arange(200.0).view(200, 1, 1, 1, 1).expand(-1, -1, 40, 60, 80)
    assert torch.equal(intensity._at_lower_resolution(image, generator()), image)
    assert [float(one[0, 0, 0, 0, 0]) for one, _ in seen] == list(range(200))
    shares = torch.tensor([size for _, size in seen]) / torch.tensor([40, 60, 80])
    assert (shares.amax(dim=1) - shares.amin(dim=1)).max() < 0.02
    assert 0.49 < shares.min() < 0.52
    assert 0.98 < shares.max() <= 1.0


def test_each_change_has_its_own_chance_for_each_crop():
    image = crops(1, 8).expand(600, -1, -1, -1, -1).contiguous()
    before = image.clone()
    found = intensity_augmented(image, 0.3, generator())
    assert torch.equal(image, before), "the crops themselves stay"
    changed = (found != image).flatten(1).any(dim=1)
    assert changed.float().mean() == pytest.approx(1 - 0.7**5, abs=0.05)
    assert len({tuple(one.flatten()[:9].tolist()) for one in found[changed]}) > 300, "equal crops differ afterwards"


def test_all_five_changes_come_equally_often(monkeypatch):
    counted = {}
    for name in ("_with_noise", "_blurred", "_with_contrast", "_at_lower_resolution", "_with_gamma"):
        monkeypatch.setattr(intensity, name, lambda image, _, name=name: counted.update({name: len(image)}) or image)
    intensity_augmented(crops(1000, 2), 0.3, generator())
    assert len(counted) == 5
    assert all(250 < times < 350 for times in counted.values())


def test_no_chance_changes_nothing_and_draws_nothing():
    image, drawn = crops(), generator()
    assert intensity_augmented(image, 0.0, drawn) is image
    assert torch.equal(drawn.get_state(), generator().get_state())


def test_the_generator_alone_decides():
    torch.manual_seed(1)
    one = intensity_augmented(crops(), 0.8, generator(5))
    torch.manual_seed(2)
    assert torch.equal(one, intensity_augmented(crops(), 0.8, generator(5)))
    assert not torch.equal(one, intensity_augmented(crops(), 0.8, generator(6)))


def test_an_empty_crop_stays_finite():
    assert intensity_augmented(torch.full((8, 1, 8, 8, 8), -1.0), 1.0, generator()).isfinite().all()
