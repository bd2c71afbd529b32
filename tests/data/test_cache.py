"""The cache gives what preparing gives, under rivals, on a full disk, and after damage."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import textwrap
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.common.errors import UserError
from benchmarks.contestants import Target
from benchmarks.data import cache as module
from benchmarks.data.cache import Cache, compact, default_cache
from benchmarks.data.dataset import Case, target_mask
from benchmarks.data.preprocessing import Preprocessing, crop, prepare

RECIPE = Preprocessing((1.5, 1.5, 2.0), (-54.0, 247.0), 59.5, 55.5)
TARGET = Target("kidney-tumor", "kidney", "tumor", (2,))


def write_case(root: Path, case_id: str = "a", seed: int = 0) -> Case:
    root.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    hu = random.normal(40, 200, (40, 36, 20)).astype(np.int16)
    label = np.zeros(hu.shape, np.uint8)
    label[5:30, 8:20, 4:15] = 1
    label[10:18, 9:17, 6:11] = 2
    affine = np.diag([-1.0, 1.1, 2.5, 1.0])
    for role, values in (("image", hu), ("label", label)):
        nib.save(nib.Nifti1Image(values, affine), root / f"{case_id}-{role}.nii.gz")
    return Case("mine", case_id, root / f"{case_id}-image.nii.gz", root / f"{case_id}-label.nii.gz")


@pytest.fixture
def case(tmp_path) -> Case:
    return write_case(tmp_path / "data")


@pytest.fixture
def cache(tmp_path) -> Cache:
    return Cache(tmp_path / "cache")


def entries(cache: Cache) -> list[str]:
    return sorted(path.parent.name for path in cache.root.glob("*/entry.json"))


def leftovers(cache: Cache) -> list[Path]:
    return list(cache.root.glob(".*"))


def test_what_is_cached_is_what_preparing_gives(cache, case):
    volume, label = case.load()
    direct = prepare(volume, RECIPE)
    for _ in range(2):  # made, then found
        cached = cache.prepared(case, RECIPE)
        assert cached.on_disk
        assert (cached.shape, cached.spacing) == (direct.shape, direct.spacing)
        assert (cached.native_shape, cached.native_spacing) == (direct.native_shape, direct.native_spacing)
        assert cached.array.dtype == np.float16
        assert np.abs(cached.array.astype(float) - direct.array).max() * RECIPE.std < 0.1
        assert cached.low == np.float16(direct.array.min())  # as the voxels beside it
        np.testing.assert_allclose(cached.affine, volume.affine)
        points = [(3, 4, 5), (30.5, 20, 11)]
        np.testing.assert_array_equal(cached.to_prepared(points), direct.to_prepared(points))
        mask = cached.label_mask(TARGET)
        expected = direct.label(target_mask(label, TARGET))
        np.testing.assert_array_equal(mask.array, expected)
        assert mask.voxels == expected.sum()
        np.testing.assert_array_equal(mask.foreground, np.argwhere(expected))


def test_a_second_time_reads_no_scan(cache, case, monkeypatch):
    cache.prepared(case, RECIPE).label_mask(TARGET)
    monkeypatch.setattr("benchmarks.data.dataset.read_volume", lambda path: pytest.fail("read again"))
    monkeypatch.setattr(module, "read_label", lambda path: pytest.fail("read again"))
    again = Cache(cache.root).prepared(case, RECIPE)
    base = again.array
    while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap)
    assert not again.array.flags.writeable
    assert again.label_mask(TARGET).voxels


centres = st.tuples(*[st.floats(-60, 90)] * 3)
sizes = st.tuples(*[st.integers(1, 50)] * 3)


@pytest.fixture(scope="module")
def warm(tmp_path_factory):
    root = tmp_path_factory.mktemp("warm")
    return Cache(root / "cache").prepared(write_case(root), RECIPE)


@settings(max_examples=150, deadline=None)
@given(centre=centres, size=sizes)
def test_crops_are_those_of_the_whole_array(warm, centre, size):
    patch, origin = warm.crop(centre, size)
    expected, where = crop(warm.array.astype(np.float32), centre, size, warm.low)
    np.testing.assert_array_equal(patch, expected)
    assert (patch.dtype, origin) == (np.float32, where)
    mask = warm.label_mask(TARGET)
    patch, origin = mask.crop(centre, size)
    expected, where = crop(mask.array, centre, size, False)
    np.testing.assert_array_equal(patch, expected)
    assert (patch.dtype, origin) == (np.bool_, where)


@settings(max_examples=200, deadline=None)
@given(st.floats(-1500, 200), st.floats(1, 4000), st.floats(-300, 300), st.floats(0.5, 2000), st.integers(0, 2**32 - 1))
def test_compact_stays_within_its_tolerance(low, width, mean, std, seed):
    values = np.random.default_rng(seed).uniform(low, low + width, 500)
    array = ((np.append(values, [low, low + width]) - mean) / std).astype(np.float32)
    stored = compact(array[:, None, None], std)[:, 0, 0]
    assert np.abs(stored.astype(float) - array).max() * std < 0.25
    if width <= 300 and std >= 30 and max(abs(low - mean), abs(low + width - mean)) < 4 * std < 400:
        assert stored.dtype == np.float16  # the windows of abdominal CT always fit


def test_hounsfield_units_without_a_window_keep_their_precision(cache, case):
    whole = Preprocessing(None, None)
    cached = cache.prepared(case, whole)
    assert cached.array.dtype == np.int16  # whole numbers lose nothing
    np.testing.assert_array_equal(cached.array, case.load()[0].array)
    patch, _ = cached.crop((0, 0, 0), (9, 9, 9), fill=-0.5)
    assert patch.dtype == np.float32
    assert patch[0, 0, 0] == -0.5
    np.testing.assert_array_equal(patch[4:, 4:, 4:], cached.array[:5, :5, :5])
    resampled = cache.prepared(case, Preprocessing((1.5, 1.5, 2.0), None))
    assert resampled.array.dtype == np.float32
    np.testing.assert_array_equal(resampled.array, prepare(case.load()[0], Preprocessing((1.5, 1.5, 2.0), None)).array)


def test_the_key_is_the_content(cache, case, tmp_path, monkeypatch):
    cache.prepared(case, RECIPE)
    assert len(entries(cache)) == 1
    moved = write_case(tmp_path / "elsewhere", "b")
    cache.prepared(moved, RECIPE)  # equal bytes, another name
    assert len(entries(cache)) == 1
    cache.prepared(case, replace(RECIPE, mean=1.0))
    assert len(entries(cache)) == 2
    changed = write_case(tmp_path / "data", seed=1)  # the same path
    fresh = cache.prepared(changed, RECIPE)
    assert len(entries(cache)) == 3
    assert np.abs(fresh.array - prepare(changed.load()[0], RECIPE).array).max() < 0.01
    monkeypatch.setattr(module, "_code", lambda: "other code")
    cache.prepared(changed, RECIPE)
    assert len(entries(cache)) == 4


def test_masks_of_other_targets_and_changed_labels_are_other_entries(cache, case):
    volume = cache.prepared(case, RECIPE)
    tumour, organ = volume.label_mask(TARGET), volume.label_mask(replace(TARGET, labels=(1, 2)))
    assert 0 < tumour.voxels < organ.voxels
    label = nib.load(case.label)
    nib.save(nib.Nifti1Image(np.zeros(label.shape, np.uint8), label.affine), case.label)
    empty = cache.prepared(case, RECIPE).label_mask(TARGET)
    assert (empty.voxels, len(empty.foreground)) == (0, 0)
    assert not empty.array.any()
    assert not cache.prepared(case, RECIPE).label_mask(TARGET).crop((3, 3, 3), (4, 4, 4))[0].any()


def test_foreground_is_sampled_from_everywhere(cache, case, monkeypatch):
    monkeypatch.setattr(module, "FOREGROUND_SAMPLES", 50)
    mask = cache.prepared(case, RECIPE).label_mask(TARGET)
    assert len(mask.foreground) == len({tuple(v) for v in mask.foreground.tolist()}) == 50
    assert mask.array[tuple(mask.foreground.T)].all()
    box_low, box_high = np.argwhere(mask.array).min(0), np.argwhere(mask.array).max(0)
    assert (mask.foreground.max(0) - mask.foreground.min(0) >= (box_high - box_low) * 0.7).all()


def test_the_sample_is_that_of_the_names_whoever_came_first(cache, case, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "FOREGROUND_SAMPLES", 50)
    other = replace(case, dataset="another")
    samples = [cache.prepared(one, RECIPE).label_mask(TARGET).foreground for one in (case, other)]
    alone = Cache(tmp_path / "alone").prepared(other, RECIPE).label_mask(TARGET).foreground
    assert not np.array_equal(*samples)
    assert np.array_equal(samples[1], alone)


def test_label_on_another_grid_is_refused(cache, case):
    label = nib.load(case.label)
    nib.save(nib.Nifti1Image(np.asarray(label.dataobj)[:-1], label.affine), case.label)
    with pytest.raises(UserError, match="differs from the image's"):
        cache.prepared(case, RECIPE).label_mask(TARGET)
    assert len(entries(cache)) == 1


def test_a_missing_image(cache, case):
    case.image.unlink()
    with pytest.raises(UserError, match="no such file"):
        cache.prepared(case, RECIPE)


def _work(job: tuple[Path, Path, int]) -> float:
    data, root, order = job
    total = 0.0
    for index in range(6):
        case_id = f"c{(index * (order % 5 + 1)) % 3}"
        case = Case("mine", case_id, data / f"{case_id}-image.nii.gz", data / f"{case_id}-label.nii.gz")
        cached = Cache(root, 400_000).prepared(case, RECIPE)  # room for a few entries: eviction under the readers
        total += float(cached.array.astype(float).sum()) + cached.label_mask(TARGET).voxels
    return total


def test_rival_writers_and_evictions(tmp_path):
    cases = [write_case(tmp_path / "data", f"c{i}", i) for i in range(3)]
    jobs = [(tmp_path / "data", tmp_path / "cache", order) for order in range(8)]
    with ProcessPoolExecutor(4, mp_context=get_context("fork")) as pool:
        sums = list(pool.map(_work, jobs))
    alone = [_work((tmp_path / "data", tmp_path / f"alone{order}", order)) for order in range(8)]
    assert sums == alone
    cache = Cache(tmp_path / "cache")
    assert leftovers(cache) == []
    for case in cases:
        direct = prepare(case.load()[0], RECIPE)
        assert np.abs(cache.prepared(case, RECIPE).array - direct.array).max() < 0.01


def test_rival_threads(cache, tmp_path, caplog):
    cases = [write_case(tmp_path / "data", f"c{i}", i) for i in range(2)] * 8
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda case: cache.prepared(case, RECIPE).label_mask(TARGET).voxels, cases))
    assert len(set(found)) == 1
    assert len(entries(cache)) == 4
    assert caplog.records == []
    assert leftovers(cache) == []


def test_two_writers_of_one_key_leave_one_entry(cache, case, monkeypatch):
    rival = Cache(cache.root)
    original = module._prepare_image

    def while_a_rival_finishes(case, recipe):
        monkeypatch.setattr(module, "_prepare_image", original)
        rival.prepared(case, recipe)
        return original(case, recipe)

    monkeypatch.setattr(module, "_prepare_image", while_a_rival_finishes)
    assert cache.prepared(case, RECIPE).on_disk
    assert len(entries(cache)) == 1
    assert leftovers(cache) == []


def test_the_least_recently_used_goes_first(tmp_path):
    cases = [write_case(tmp_path / "data", f"c{i}", i) for i in range(3)]
    cache = Cache(tmp_path / "cache")
    held = cache.prepared(cases[0], RECIPE)
    size = cache.size_bytes()
    cache.limit_bytes = int(2.5 * size)
    cache.prepared(cases[1], RECIPE)
    for age, entry in ((100, 0), (200, 1)):  # the second was used before the first
        key = [path for path in cache.root.glob("*/entry.json") if f"c{entry}-image" in path.read_text()]
        os.utime(key[0], (1e9 - age, 1e9 - age))
    expected = np.array(held.array)
    cache.prepared(cases[2], RECIPE)
    kept = {path.read_text().split('"image": "')[1][:2] for path in cache.root.glob("*/entry.json")}
    assert kept == {"c0", "c2"}
    assert cache.size_bytes() <= cache.limit_bytes
    cache.limit_bytes = int(1.2 * size)
    cache.prepared(cases[1], RECIPE)
    assert len(entries(cache)) == 1
    np.testing.assert_array_equal(held.array, expected)  # evicted, and still readable by who has it open
    cache.clear()
    assert cache.size_bytes() == 0


def test_an_entry_beyond_the_limit_is_used_uncached(case, tmp_path, caplog):
    cache = Cache(tmp_path / "cache", 1000)
    with caplog.at_level(logging.WARNING):
        first, second = cache.prepared(case, RECIPE), cache.prepared(case, RECIPE)
    assert not first.on_disk
    np.testing.assert_array_equal(first.array, second.array)
    assert first.label_mask(TARGET).voxels
    assert len([r for r in caplog.records if "cannot cache" in r.message]) == 1
    assert entries(cache) == []


@pytest.mark.parametrize(
    "damage", ["cut", "no side-car", "bad side-car", "odd side-car", "missing array", "bad header", "pickle"]
)
def test_damaged_entries_are_made_again(cache, case, damage):
    whole = np.array(cache.prepared(case, RECIPE).array)
    (folder,) = (path.parent for path in cache.root.glob("*/entry.json"))
    if damage == "cut":
        os.truncate(folder / "image.npy", 500)
    elif damage == "no side-car":
        (folder / "entry.json").unlink()
    elif damage == "bad side-car":
        (folder / "entry.json").write_text('{"files": {"image"')
    elif damage == "odd side-car":
        (folder / "entry.json").write_text('{"files": ["image"]}')
    elif damage == "missing array":
        (folder / "image.npy").unlink()
    elif damage == "bad header":
        content = bytearray((folder / "image.npy").read_bytes())
        content[10:40] = b"?" * 30
        (folder / "image.npy").write_bytes(content)
    else:  # of the right size, and not unpickled
        size = (folder / "image.npy").stat().st_size
        with (folder / "image.npy").open("wb") as file:
            np.save(file, np.array([print], object), allow_pickle=True)
            file.write(bytes(size - file.tell()))
    again = cache.prepared(case, RECIPE)
    np.testing.assert_array_equal(again.array, whole)
    assert cache.prepared(case, RECIPE).on_disk
    assert leftovers(cache) == []


FULL = """
import logging, resource, sys
from pathlib import Path
import numpy as np
logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)
from benchmarks.data.cache import Cache
from benchmarks.data.dataset import Case
from benchmarks.data.preprocessing import Preprocessing
root = Path(sys.argv[1])
cases = [Case("mine", "a", root / "data/a-image.nii.gz", root / "data/a-label.nii.gz")] * 2
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # a write beyond that fails half-way, as on a full disk
for case in cases:
    cache = globals().get("cache") or Cache(root / "cache")
    cached = cache.prepared(case, Preprocessing(None, (-54, 247)))
    assert not cached.on_disk
    print("sum", float(np.asarray(cached.array, float).sum()))
"""


def test_a_disk_that_is_full_half_way(case, cache, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FULL), str(tmp_path)], capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert sum("cannot cache" in line for line in lines) == 1
    expected = prepare(case.load()[0], Preprocessing(None, (-54, 247))).array
    sums = [float(line.split()[1]) for line in lines if line.startswith("sum")]
    assert sums == pytest.approx([float(expected.astype(float).sum())] * 2)
    assert entries(cache) == []
    assert leftovers(cache) == []


def test_a_root_that_cannot_be_made(case, tmp_path, caplog):
    (tmp_path / "taken").write_text("a file")
    with caplog.at_level(logging.WARNING):
        cached = Cache(tmp_path / "taken").prepared(case, RECIPE)
    assert not cached.on_disk
    assert len(caplog.records) == 1


def test_the_dataset_folder_may_be_read_only(cache, case):
    before = sorted((path.name, path.stat().st_mtime_ns) for path in case.image.parent.iterdir())
    case.image.parent.chmod(0o555)
    try:
        assert cache.prepared(case, RECIPE).label_mask(TARGET).voxels
    finally:
        case.image.parent.chmod(0o755)
    assert before == sorted((path.name, path.stat().st_mtime_ns) for path in case.image.parent.iterdir())


def test_what_a_killed_writer_left_goes_after_a_day(cache, case):
    cache.root.mkdir()
    old, new = cache.root / ".partial-old", cache.root / ".partial-new"
    for folder in (old, new):
        folder.mkdir()
    os.utime(old, (1e9, 1e9))
    cache.prepared(case, RECIPE)
    assert leftovers(cache) == [new]


def test_where_the_cache_of_this_machine_lies(tmp_path, monkeypatch):
    monkeypatch.setenv("TAGS_BENCH_DATA", str(tmp_path))
    monkeypatch.delenv("TAGS_BENCH_CACHE", raising=False)
    monkeypatch.delenv("TAGS_BENCH_CACHE_GB", raising=False)
    assert (default_cache().root, default_cache().limit_bytes) == (tmp_path / "cache", 100_000_000_000)
    monkeypatch.setenv("TAGS_BENCH_CACHE", str(tmp_path / "fast"))
    monkeypatch.setenv("TAGS_BENCH_CACHE_GB", "0.5")
    assert (default_cache().root, default_cache().limit_bytes) == (tmp_path / "fast", 500_000_000)
    for wrong in ("-1", "much", "inf"):
        monkeypatch.setenv("TAGS_BENCH_CACHE_GB", wrong)
        with pytest.raises(UserError, match="number of gigabytes"):
            default_cache()
