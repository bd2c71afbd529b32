"""How fast scans become crops, beside MONAI's PersistentDataset and beside nibabel with scipy; one thread each.

python tests/performance/test_data_speed.py        # the table as JSON
pytest -m bench tests/performance/test_data_speed.py -s

The scan is synthetic, 512 × 512 × 400 voxels of 0.75 × 0.75 × 1.25 mm, int16, gzipped, resampled to 1 mm
(384 × 384 × 500). Its extent is a whole number of mm along every axis, so that all tools resample to as many
voxels. Values are compared with MONAI's Resize, which covers the same extent; MONAI's Spacing, the usual choice,
starts its grid at the centre of the first voxel, so its voxels lie elsewhere and only its time can be compared.
"Warm" means prepared earlier, by another object, with the file pages in memory.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from benchmarks.common.seeds import generator
from benchmarks.data.cache import Cache
from benchmarks.data.dataset import Case
from benchmarks.data.preprocessing import Preprocessing, prepare
from benchmarks.data.volume import Volume, read_volume

SHAPE = (512, 512, 400)
SPACING = (0.75, 0.75, 1.25)
WANTED = (384, 384, 500)
WINDOW, MEAN, STD = (-54.0, 247.0), 59.5, 55.5
RECIPE = Preprocessing((1.0, 1.0, 1.0), WINDOW, MEAN, STD)
PATCH = (128, 128, 128)
CENTRE = (190, 200, 260)
MB = 1e6

pytestmark = pytest.mark.bench


def write_scan(path: Path) -> None:
    """Soft blobs and noise in a body with padding around it; compresses about as well as a CT does."""
    random = generator("data speed")
    coarse = ndimage.zoom(random.standard_normal((32, 32, 25), dtype=np.float32), 16, order=1)
    scan = np.empty(SHAPE, np.int16)
    x, y = np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE[:2]], indexing="ij")
    outside = x**2 + y**2 > 1
    for z in range(SHAPE[2]):
        plane = 40 + 60 * coarse[:, :, z] + 12 * random.standard_normal(SHAPE[:2], dtype=np.float32)
        plane[outside] = -1024
        scan[:, :, z] = plane
    image = nib.Nifti1Image(scan, np.diag([*SPACING, 1.0]))
    nib.openers.Opener.default_compresslevel = 1
    nib.save(image, path)


def wall(work: Callable[[], Any], repeats: int = 1) -> float:
    """The least of several wall times: what others do on the machine only ever adds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def processor(work: Callable[[], Any], repeats: int) -> float:
    """The least of several CPU times."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def monai_transforms(resampling: str) -> list[Any]:
    """MONAI's way to as many voxels and the same intensities."""
    from monai import transforms

    low, high = ((edge - MEAN) / STD for edge in WINDOW)
    resample = {
        "Spacing": transforms.Spacingd("image", pixdim=RECIPE.spacing, padding_mode="border", dtype=np.float32),
        "Resize": transforms.Resized("image", spatial_size=WANTED, mode="trilinear", align_corners=False),
    }
    return [resample[resampling], transforms.ScaleIntensityRanged("image", *WINDOW, low, high, clip=True)]


def measure_loading(folder: Path) -> dict[str, float]:
    """Wall seconds from the file to a crop."""
    import torch
    from monai import transforms
    from monai.data import PersistentDataset

    torch.set_num_threads(1)
    path = folder / "scan.nii.gz"
    case = Case("bench", "scan", path, path)
    found = {}
    found["cold crop"] = wall(lambda: Cache(folder / "cache").prepared(case, RECIPE).crop(CENTRE, PATCH))
    found["warm crop"] = wall(lambda: Cache(folder / "cache").prepared(case, RECIPE).crop(CENTRE, PATCH), 5)
    found["warm volume"] = wall(lambda: Cache(folder / "cache").prepared(case, RECIPE).array.astype(np.float32), 3)

    def nibabel_and_scipy() -> Any:
        image = nib.as_closest_canonical(nib.load(path))
        array = np.asarray(image.dataobj, np.float32)
        array = ndimage.zoom(array, np.divide(WANTED, SHAPE), order=1, mode="nearest", grid_mode=True)
        array = (array.clip(*WINDOW) - MEAN) / STD
        return array[tuple(slice(c - n // 2, c + n // 2) for c, n in zip(CENTRE, PATCH, strict=True))]

    found["nibabel and scipy, crop"] = wall(nibabel_and_scipy)
    steps = [
        transforms.LoadImaged("image"),
        transforms.EnsureChannelFirstd("image"),
        transforms.Orientationd("image", axcodes="RAS", labels=None),
        *monai_transforms("Spacing"),
        transforms.RandSpatialCropd("image", roi_size=PATCH, random_size=False),
    ]
    persistent = PersistentDataset([{"image": str(path)}], transforms.Compose(steps), cache_dir=folder / "monai")
    found["PersistentDataset, cold crop"] = wall(lambda: persistent[0])
    found["PersistentDataset, warm crop"] = wall(lambda: persistent[0], 3)
    return found


def measure_preprocessing(folder: Path) -> dict[str, float]:
    """CPU seconds from an array in memory to the prepared array, and by how many HU the two differ."""
    import torch
    from monai.data import MetaTensor
    from monai.transforms import Compose

    torch.set_num_threads(1)
    volume = read_volume(folder / "scan.nii.gz")
    tensor = MetaTensor(torch.from_numpy(volume.array)[None], affine=torch.from_numpy(volume.affine))
    with_spacing, with_resize = (Compose(monai_transforms(name)) for name in ("Spacing", "Resize"))
    ours, theirs = prepare(volume, RECIPE).array, with_resize({"image": tensor})["image"].numpy()[0]
    assert ours.shape == theirs.shape == WANTED
    difference = max(float(np.abs(a - b).max()) for a, b in zip(ours, theirs, strict=True)) * STD
    del ours, theirs
    return {
        "prepare": processor(lambda: prepare(volume, RECIPE), 3),
        "MONAI, Spacing": processor(lambda: with_spacing({"image": tensor}), 1),
        "MONAI, Resize": processor(lambda: with_resize({"image": tensor}), 3),
        "largest difference (HU)": difference,
    }


def measure_memory(folder: Path) -> dict[str, float]:
    """MB by which the peak resident memory of a process grows while it opens a warm volume and crops."""
    path = folder / "scan.nii.gz"
    cache, case = Cache(folder / "cache"), Case("bench", "scan", path, path)
    np.zeros(PATCH, np.float16).astype(np.float32)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = _resident("VmHWM")
    entries = len(list(cache.root.iterdir()))
    patch, _ = cache.prepared(case, RECIPE).crop(CENTRE, PATCH)
    assert len(list(cache.root.iterdir())) == entries, "not warm: the code changed during the measurement"
    return {"peak of a warm crop (MB)": _resident("VmHWM") - before, "the crop itself (MB)": patch.nbytes / MB}


def _resident(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return float(line.split()[1]) * 1024 / MB
    raise LookupError(field)


PARTS = {"loading": measure_loading, "preprocessing": measure_preprocessing, "memory": measure_memory}


def measure() -> dict[str, float]:
    """Every part in a process of its own, one thread."""
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_scan(folder / "scan.nii.gz")
        for part in PARTS:
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
            command = [sys.executable, __file__, part, str(folder)]
            done = subprocess.run(command, capture_output=True, text=True, env=environment)
            assert done.returncode == 0, done.stderr
            found |= json.loads(done.stdout.splitlines()[-1])
    return {name: round(value, 4) for name, value in found.items()}


@pytest.fixture(scope="module")
def figures() -> dict[str, float]:
    found = measure()
    print(json.dumps(found, indent=1))
    return found


def test_warm_crop_is_20_times_faster_than_cold(figures):
    assert figures["cold crop"] >= 20 * figures["warm crop"]
    assert figures["nibabel and scipy, crop"] >= 20 * figures["warm crop"]


def test_warm_crop_is_twice_as_fast_as_persistent_dataset(figures):
    assert figures["PersistentDataset, warm crop"] >= 2 * figures["warm crop"]


def test_a_crop_needs_little_more_memory_than_itself(figures):
    assert figures["peak of a warm crop (MB)"] < 1.2 * figures["the crop itself (MB)"] + 50


def test_preprocessing_is_monais_within_half_a_hounsfield_unit_and_no_slower(figures):
    assert figures["largest difference (HU)"] < 0.5
    assert figures["prepare"] <= min(figures["MONAI, Spacing"], figures["MONAI, Resize"])


def test_the_scan_is_what_the_figures_say(tmp_path):
    volume = Volume(np.zeros((8, 8, 8), np.float32), np.diag([*SPACING, 1.0]))
    assert prepare(volume, RECIPE).shape == (6, 6, 10)
    assert tuple(round(n * s) for n, s in zip(SHAPE, SPACING, strict=True)) == WANTED


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(json.dumps(PARTS[sys.argv[1]](Path(sys.argv[2]))))
    else:
        print(json.dumps(measure(), indent=1))
