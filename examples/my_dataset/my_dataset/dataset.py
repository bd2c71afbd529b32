"""My dataset, announced: twenty scans with a nodule in the lung."""

from pathlib import Path

import numpy as np

from benchmarks.data.source import (
    DatasetInfo,
    DatasetSource,
    Pair,
    Phantoms,
    StoredSplits,
    Target,
    volume_files,
    write_nifti,
)


def find_pairs(root):
    """scans/ID.nii.gz beside masks/ID.nii.gz."""
    scans, masks = volume_files(root / "scans"), volume_files(root / "masks")
    return [
        Pair(name, *(found[0] if found else None for found in (scans.get(name), masks.get(name))))
        for name in sorted({*scans, *masks})
    ]


def write_phantoms(folder, cases, seed, scale):
    """A ball of soft tissue in air-filled noise; everything from the seed."""
    truth = {}
    for index in range(cases):
        random = np.random.default_rng([seed, index])
        spacing, shape = np.array([3.0, 3.0, 4.0]) / scale, (np.array([40, 40, 24]) * scale).astype(int)
        place, radius = shape * spacing * random.uniform(0.35, 0.65, 3), random.uniform(10, 20)
        offsets = [axis * s - p for axis, s, p in zip(np.indices(shape), spacing, place, strict=True)]
        nodule = sum(offset**2 for offset in offsets) < radius**2
        scan = random.normal(np.where(nodule, 40, -700), 120)
        name, affine = f"case_{index:02d}", np.diag([*spacing, 1.0])
        write_nifti(scan.astype(np.int16), affine, folder / "scans" / f"{name}.nii.gz")
        write_nifti(nodule.astype(np.uint8), affine, folder / "masks" / f"{name}.nii.gz")
        truth[name] = {"radius_mm": round(radius, 1)}
    return truth


my_dataset = DatasetSource(
    info=DatasetInfo(
        name="my-dataset",
        title="My dataset, lung nodules",
        targets=(
            Target("lung-nodule", "lung", "nodule", labels=(1,), window=(-1000.0, 200.0), mean=-600.0, std=250.0),
        ),
        licence="CC BY 4.0",
        layout="scans/ID.nii.gz and masks/ID.nii.gz",
        citation="My paper, 2026",
        url="https://example.org/my-dataset",
        cases=20,
        split_source="by patient, 5 stored folds",
        label_values=(0, 1),
    ),
    pairs=find_pairs,
    splits=StoredSplits(
        "my-dataset",
        by_patient="c2cfc33184a9a4df21f80c64f6eb093fd29abe36b857292ab11689ccd83c62ec",
        folder=Path(__file__).parent,
    ),
    phantoms=Phantoms(write_phantoms),
)
