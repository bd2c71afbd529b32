"""Phantoms, measured on the files as the loaders read them back."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from benchmarks.common.errors import UserError
from benchmarks.data import phantom
from benchmarks.data.catalogue import Reading, load_dataset, load_own
from benchmarks.data.dataset import Dataset
from benchmarks.data.layouts import kits21, lits17, msd
from benchmarks.data.phantom import synthesise
from benchmarks.data.synthetic import abdomen, scan
from benchmarks.data.synthetic.scan import draw

ABDOMENS = {one.dataset: one for one in (kits21.ABDOMEN, msd.ABDOMEN, lits17.ABDOMEN)}
CASES = 14
SEED = 0


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("phantoms")
    return {name: synthesise(name, root, SEED, CASES) for name in ABDOMENS}


@pytest.fixture(scope="module")
def loaded(written) -> dict[str, Dataset]:
    return {name: load_dataset(name, written[name]) for name in ABDOMENS}


@pytest.fixture(scope="module")
def truth(written) -> dict[str, dict]:
    return {name: json.loads((written[name] / "phantom.json").read_text())["truth"] for name in ABDOMENS}


@pytest.mark.parametrize("name", ABDOMENS)
def test_read_back_by_the_real_loader(name, loaded, truth):
    dataset = loaded[name]
    assert dataset.synthetic
    assert "synthetic" in dataset.source
    assert f"seed-{SEED}" in dataset.version
    assert len(dataset.cases) == CASES
    assert sorted(truth[name]) == sorted(dataset.cases)
    assert not dataset.excluded
    split = dataset.splits[0]
    assert (len(split.train), len(split.validation), len(split.test)) == (7, 1, 6)
    assert len(dataset.splits) == 1
    assert dataset.split_source == "by phantom, 50/10/40 %, seed 0"


@pytest.mark.parametrize("name", ABDOMENS)
def test_files_are_as_the_official_ones(name, written):
    folder = written[name]
    assert "SYNTHETIC" in (folder / "SYNTHETIC.txt").read_text()
    if name == "kits21":
        files = sorted((folder / "data").glob("case_*/*.nii.gz"))
        codes = {("I", "P", "L")}  # slices first, as in the published label maps
    elif name == "msd-pancreas":
        files = sorted((folder / "Task07_Pancreas").glob("*Tr/pancreas_*.nii.gz"))
        codes = {("R", "A", "S")}
    else:
        files = sorted(folder.glob("Training Batch [12]/*.nii"))
        codes = {tuple(code) for code in lits17.ORIENTATIONS}
    assert len(files) == 2 * CASES
    images = [nib.load(path) for path in files]
    assert {nib.aff2axcodes(image.affine) for image in images} == codes
    assert {str(image.get_data_dtype()) for image in images} == {"int16", "uint8"}


@pytest.mark.parametrize(("name", "inner"), [("kits21", "data"), ("msd-pancreas", "Task07_Pancreas"),
                                            ("lits17", "Training Batch 1")])  # fmt: skip
def test_a_copy_of_the_folder_in_it_says_that_these_are_phantoms(name, inner, written, loaded, tmp_path):
    copy = tmp_path / "my" / "scans"
    shutil.copytree(written[name] / inner, copy)
    dataset = load_own(copy, Reading(2, name="mine"))
    assert dataset.synthetic
    assert all(case.synthetic for case in dataset.cases.values())
    assert (dataset.version, dataset.source) == (loaded[name].version, "synthetic phantoms")
    copy.rename(copy.with_name(inner))
    assert load_dataset(name, copy.parent).synthetic, "the folder above the copy holds the same phantoms"


def test_phantoms_that_older_versions_wrote_are_known(written, loaded, tmp_path):
    """Their notice lies in the outer folder alone; a copy has nothing but its dataset.json."""
    old, name = tmp_path / "old", "msd-pancreas"
    shutil.copytree(written[name], old)
    for mark in ("SYNTHETIC.txt", "phantom.json"):
        (old / "Task07_Pancreas" / mark).unlink()
    for root in (old, old / "Task07_Pancreas"):
        dataset = load_dataset(name, root)
        assert (dataset.synthetic, dataset.version) == (True, loaded[name].version)
    shutil.copytree(old / "Task07_Pancreas", tmp_path / "a" / "copy")
    assert load_own(tmp_path / "a" / "copy", Reading(2)).synthetic
    path = tmp_path / "a" / "copy" / "dataset.json"
    path.write_text(path.read_text().replace("SYNTHETIC phantoms", "Portal venous CT"))
    assert not load_own(path.parent, Reading(2)).synthetic


@pytest.mark.parametrize("name", ABDOMENS)
def test_geometry_survives_the_odd_axes(name, loaded):
    """What is read back is what was drawn, whatever the order and the signs on disk."""
    for index, case in enumerate(loaded[name].cases[i] for i in _in_order(loaded[name])):
        if index % 3:
            continue
        volume, label = case.load()
        drawn = draw(ABDOMENS[name], SEED, index)
        np.testing.assert_array_equal(volume.array, drawn.image)
        np.testing.assert_array_equal(label, drawn.label)
        np.testing.assert_allclose(volume.spacing, drawn.spacing, rtol=1e-5)
        assert nib.aff2axcodes(volume.affine) == ("R", "A", "S")
        in_plane, _, between = volume.spacing
        assert 1.5 <= in_plane <= 2.5
        assert 3 <= between <= 5.2
        assert 72 <= volume.shape[0] <= 96
        assert 22 <= volume.shape[2] <= 48


def _in_order(dataset: Dataset) -> list[str]:
    return sorted(dataset.cases, key=lambda case_id: int("".join(c for c in case_id if c.isdigit())))


@pytest.mark.parametrize("name", ABDOMENS)
def test_tissues_have_realistic_hu(name, loaded):
    """Shares of the histogram: padding, air, fat, soft tissue, bone, as in an abdominal scan."""
    for case in loaded[name].cases.values():
        volume, label = case.load()
        array = volume.array
        columns, rows = np.ogrid[: array.shape[0], : array.shape[1]]
        middle = (array.shape[0] - 1) / 2
        circle = (columns - middle) ** 2 + (rows - middle) ** 2 > (array.shape[0] / 2) ** 2
        assert (array[circle] == -1024).all()
        assert array.min() == -1024
        assert array.max() < 1200
        body = array[ndimage.binary_fill_holes(array.max(axis=2) > -300)]
        fat = ((body > -140) & (body < -60)).mean()
        soft = ((body > 0) & (body < 200)).mean()
        bone = (body > 250).mean()
        assert 0.1 < fat < 0.6
        assert 0.25 < soft < 0.8
        assert 0.01 < bone < 0.12
        organ = array[label == 1]
        low, high = ABDOMENS[name].kind.organ_hu
        assert low - 25 < np.median(organ) < high + 25
        assert organ.std() > 8


@pytest.mark.parametrize("name", ABDOMENS)
def test_contrast_of_lesions_is_that_of_the_description(name, loaded, truth):
    """Core of the lesion against healthy organ, on the volume read back; small ones blur into the organ."""
    faintest, strongest = ABDOMENS[name].kind.contrast
    measured = []
    for case_id, case in loaded[name].cases.items():
        volume, label = case.load()
        lesions, count = ndimage.label(label == 2)
        healthy = ndimage.binary_erosion(label == 1)
        for index in range(1, count + 1):
            core = ndimage.binary_erosion(lesions == index)
            if core.sum() < 30:
                continue
            contrast = abs(volume.array[core].mean() - np.median(volume.array[healthy]))
            measured.append(contrast)
            assert faintest - 12 < contrast < strongest + 10, (case_id, contrast)
    assert len(measured) >= 5
    assert faintest < np.mean(measured) < strongest
    for case in truth[name].values():
        assert all(faintest <= abs(g["contrast_hu"]) <= strongest for g in case["growths"] if g["what"] == "lesion")
        assert all(g["contrast_hu"] <= 45 for g in case["growths"])


@pytest.mark.parametrize(
    ("name", "low", "high"), [("kits21", 0.72, 0.86), ("lits17", 0.65, 0.8), ("msd-pancreas", 0.58, 0.74)]
)
def test_shapes_depart_from_a_ball_as_those_of_patients_do(name, low, high):
    """The best ball around the inmost point of the largest lesion: 0.80, 0.71 and 0.63 in patients' lesions."""
    best = []
    for index in range(10):
        phantom = draw(ABDOMENS[name], 2026, index)
        lesions, count = ndimage.label(np.pad(phantom.label == 2, 12))
        largest = lesions == 1 + int(np.argmax(ndimage.sum(lesions > 0, lesions, range(1, count + 1))))
        inside = ndimage.distance_transform_edt(largest, sampling=phantom.spacing)
        centre = np.unravel_index(inside.argmax(), inside.shape)
        axes = [(np.arange(n) - c) * s for n, c, s in zip(inside.shape, centre, phantom.spacing, strict=True)]
        x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
        distances = np.sqrt(x**2 + y**2 + z**2)
        radius = (3 * largest.sum() * np.prod(phantom.spacing) / (4 * np.pi)) ** (1 / 3)
        balls = [distances <= radius * share for share in np.linspace(0.7, 1.4, 15)]
        best.append(max(2 * (ball & largest).sum() / (ball.sum() + largest.sum()) for ball in balls))
    assert low < np.mean(best) < high


def test_sizes_numbers_and_look_alikes(truth, loaded):
    growths = [growth for name in ABDOMENS for case in truth[name].values() for growth in case["growths"]]
    diameters = [growth["diameter_mm"] for growth in growths if growth["what"] == "lesion"]
    assert 4 <= min(diameters) < 8
    assert 40 < max(diameters) <= 60
    numbers: list[int] = []
    for name in ABDOMENS:
        lesions = [sum(g["what"] == "lesion" for g in t["growths"]) for t in truth[name].values()]
        cysts = [sum(g["what"] == "cyst" for g in t["growths"]) for t in truth[name].values()]
        assert min(lesions) == 1
        assert max(lesions) <= len(ABDOMENS[name].kind.lesions)
        numbers.append(max(lesions))
        assert 0 < sum(cysts) < CASES
        values = set()
        for case_id, case in loaded[name].cases.items():
            _, label = case.load()
            values |= set(np.unique(label))
            assert (label == 2).any(), case_id
        assert values == ({0, 1, 2, 3} if name == "kits21" else {0, 1, 2})
    assert max(numbers) > 1


@pytest.mark.parametrize("name", ABDOMENS)
def test_diameter_on_disk_is_that_of_the_truth(name, loaded, truth):
    """The largest lesion's volume is that of a ball of the stated diameter, give or take its waves and bounds."""
    ratios = []
    for case_id, case in loaded[name].cases.items():
        growths = [g for g in truth[name][case_id]["growths"] if g["what"] == "lesion"]
        volume, label = case.load()
        lesions, _ = ndimage.label(label == 2)
        voxels = np.bincount(lesions.ravel())[1:].max() * np.prod(volume.spacing)
        ratios.append((6 * voxels / np.pi) ** (1 / 3) / max(g["diameter_mm"] for g in growths))
    assert 0.8 < np.median(ratios) < 1.2
    assert min(ratios) > 0.5
    assert max(ratios) < 1.4


@pytest.mark.parametrize("name", ABDOMENS)
def test_no_global_threshold_solves_them(name, loaded):
    """The best pair of HU thresholds over the whole dataset, chosen with knowledge of the labels."""
    edges = np.arange(-50, 260, 10)
    scores = np.zeros((len(edges), len(edges)))
    for case in loaded[name].cases.values():
        volume, label = case.load()
        mask = label == 2
        inside = np.histogram(volume.array[mask], [*edges, np.inf])[0]
        everywhere = np.histogram(volume.array, [*edges, np.inf])[0]
        for low in range(len(edges)):
            hits, found = np.cumsum(inside[low:]), np.cumsum(everywhere[low:])
            scores[low, low:] += 2 * hits / (found + mask.sum())
    assert scores.max() / CASES < 0.5


@pytest.mark.parametrize("name", ABDOMENS)
def test_no_threshold_within_the_organ_solves_them(name, loaded):
    """Even with the organ given, and each case's own best threshold, noise and texture leave work to do."""
    scores = []
    for case in loaded[name].cases.values():
        volume, label = case.load()
        region = label > 0
        values, mask = volume.array[region], (label == 2)[region]
        dark = [2 * mask[values < t].sum() / ((values < t).sum() + mask.sum()) for t in range(0, 220, 5)]
        bright = [2 * mask[values > t].sum() / ((values > t).sum() + mask.sum()) for t in range(0, 220, 5)]
        scores.append(max(dark + bright))
    assert np.mean(scores) < 0.75


def digest(folder: Path) -> dict[str, str]:
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            data = path.read_bytes() if not path.name.endswith(".gz") else nib.load(path).get_fdata().tobytes()
            found[str(path.relative_to(folder))] = hashlib.sha256(data).hexdigest()
    return found


@pytest.mark.parametrize("name", ABDOMENS)
def test_deterministic_from_the_seed(name, tmp_path):
    a = synthesise(name, tmp_path / "a", 7, 2, scale=0.5)
    b = synthesise(name, tmp_path / "b", 7, 2, scale=0.5)
    other = synthesise(name, tmp_path / "c", 8, 2, scale=0.5)
    assert digest(a) == digest(b)
    assert digest(a).keys() == digest(other).keys()
    assert digest(a) != digest(other)


def test_a_case_does_not_depend_on_how_many_there_are():
    np.testing.assert_array_equal(draw(kits21.ABDOMEN, 3, 1, 0.4).image, draw(kits21.ABDOMEN, 3, 1, 0.4).image)
    assert (draw(kits21.ABDOMEN, 3, 1, 0.4).image.shape) != draw(kits21.ABDOMEN, 3, 1, 0.8).image.shape


def test_nothing_is_computed_twice(tmp_path, monkeypatch):
    folder = synthesise("kits21", tmp_path, 1, 2, scale=0.4)
    before = digest(folder)
    monkeypatch.setattr(scan, "draw", lambda *args: pytest.fail("drawn again"))
    assert synthesise("kits21", tmp_path, 1, 2, scale=0.4) == folder
    assert digest(folder) == before


def test_other_parameters_have_their_own_folder(tmp_path):
    """Two runs with other phantoms never take each other's data away."""
    parameters = [(1, 3, 0.4), (2, 2, 0.4), (1, 2, 0.4), (1, 3, 0.5)]
    folders = [synthesise("kits21", tmp_path, *each) for each in parameters]
    assert len(set(folders)) == len(parameters)
    assert sorted(tmp_path.iterdir()) == sorted(folders)
    for folder, (_, cases, _) in zip(folders, parameters, strict=True):
        assert len(load_dataset("kits21", folder).cases) == cases
    assert folders[0].name == "kits21-3-1-0.4x"


def test_phantoms_of_an_older_generator_are_replaced(tmp_path):
    folder = synthesise("kits21", tmp_path, 1, 1, scale=0.4)
    manifest = folder / "phantom.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "generator": "0"}))
    (folder / "data" / "case_00000" / "imaging.nii.gz").write_bytes(b"old")
    assert synthesise("kits21", tmp_path, 1, 1, scale=0.4) == folder
    assert json.loads(manifest.read_text())["generator"] == abdomen.GENERATOR_VERSION
    assert len(load_dataset("kits21", folder).cases) == 1


def test_foreign_folders_are_left_alone(tmp_path):
    foreign = tmp_path / phantom.folder_name("kits21", 1, 2, 0.4)
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="holds no phantoms"):
        synthesise("kits21", tmp_path, 1, 2, scale=0.4)
    assert (foreign / "thesis.txt").read_text() == "mine"


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    original = scan.draw

    def fails(one, seed, index, scale=1.0):
        if index == 1:
            raise RuntimeError("out of ink")
        return original(one, seed, index, scale)

    monkeypatch.setattr(scan, "draw", fails)
    with pytest.raises(RuntimeError):
        synthesise("lits17", tmp_path, 1, 2, scale=0.4)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "cases", "scale"), [("kits", 2, 1.0), ("kits21", 0, 1.0), ("kits21", 1, 9.0)])
def test_wrong_parameters(tmp_path, name, cases, scale):
    with pytest.raises(UserError):
        synthesise(name, tmp_path, 0, cases, scale)
