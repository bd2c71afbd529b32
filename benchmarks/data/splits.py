"""Training, validation and test cases: the predecessor's published fold, and ours by a rule.

Our rule: patients are ordered by SHA-256 of the text `<seed>\\x1f<patient id>`, and the order is cut into
consecutive parts. It does not depend on the order of files, on the machine, or on Python's hash. All cases of a
patient stay together.

For our own datasets both are stored in `splits/`, with a SHA-256 that is checked on loading: NAME.json is the
predecessor's fold 0, NAME.patient.json the five folds of our rule (fold 0 is 70 / 10 / 20 %) over all official cases.
A partial download gets the intersection, so a patient who tests one copy of a dataset never trains another. The case
ids of the Decathlon's tasks are those that its dataset.json lists (281 of pancreas_001 to 421, 126 of colon_001 to
219), as in the 3DSAM-adapter's datafile.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from importlib.resources.abc import Traversable
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.common.errors import UserError
from benchmarks.common.files import atomically
from benchmarks.data.dataset import Split

PREDECESSOR = "3dsam-adapter"
PARTS = ("train", "validation", "test")
PATIENT = "patient"
FOLDS = 5
STORED_SEED = 0  # of the folds in NAME.patient.json
FRACTIONS = (0.7, 0.1, 0.2)
PHANTOM_FRACTIONS = (0.5, 0.1, 0.4)  # phantoms are cheap to make; a ranking needs test cases


@dataclass(frozen=True)
class StoredSplits:
    """The folds that belong to a dataset, in files that its package ships; a changed file is refused.

    Attributes:
        dataset: its name. The files are `DATASET.patient.json` (folds over all official cases, as `write_splits` writes
            them) and, where there is one, `DATASET.json` (one published fold).
        by_patient: SHA-256 of the text of the former.
        published: SHA-256 of the text of the latter, "" where there is none. It names the `validation`, the `test` and
            the `excluded` cases (all others train) and the `counts` of a complete download.
        publisher: what the published fold is called.
        folder: where the files lie.
    """

    dataset: str
    by_patient: str
    published: str = ""
    publisher: str = PREDECESSOR
    folder: Traversable = field(default_factory=lambda: files("benchmarks.data") / "splits")

    def cases(self) -> frozenset[str]:
        """The ids of all cases with public labels."""
        first = self._by_patient()["folds"][0]
        return frozenset(case_id for part in PARTS for case_id in first[part])

    def folds(self, ids: Iterable[str]) -> tuple[Split, ...]:
        """The folds by patient, cut down to the case ids that are present. Raises UserError if the file was changed."""
        present = set(ids)
        return tuple(
            Split(**{part: tuple(case_id for case_id in fold[part] if case_id in present) for part in PARTS})
            for fold in self._by_patient()["folds"]
        )

    def published_fold(self, ids: Iterable[str]) -> Split:
        """The published fold, cut down to the case ids that are present. Raises UserError if the file was changed."""
        stored = self._published()
        present = sorted(set(ids) & self.cases())
        validation = [case_id for case_id in present if case_id in stored["validation"]]
        test = [case_id for case_id in present if case_id in stored["test"]]
        elsewhere = {*validation, *test, *stored["excluded"]}
        return Split(tuple(i for i in present if i not in elsewhere), tuple(validation), tuple(test))

    def excluded(self) -> frozenset[str]:
        """Case ids that the published fold leaves out, such as the tumour-free scans of LiTS17."""
        return frozenset(self._published()["excluded"])

    def published_counts(self) -> tuple[int, int, int]:
        """Training, validation and test cases of the published fold in a complete download."""
        counts: Mapping[str, int] = self._published()["counts"]
        return counts["train"], counts["validation"], counts["test"]

    def _by_patient(self) -> dict[str, Any]:
        return self._read(f"{self.dataset}.patient.json", self.by_patient)

    def _published(self) -> dict[str, Any]:
        return self._read(f"{self.dataset}.json", self.published)

    def _read(self, name: str, sha256: str) -> dict[str, Any]:
        text = (self.folder / name).read_text("utf-8")
        found = hashlib.sha256(text.encode()).hexdigest()
        if found != sha256:
            raise UserError(
                f"the stored split {name} was changed: its SHA-256 is {found}, and {sha256} was announced; "
                "install the package again"
            )
        loaded: dict[str, Any] = json.loads(text)
        return loaded


def stored_document(name: str, ids: Iterable[str]) -> dict[str, Any]:
    """What NAME.patient.json holds: the rule over all official case ids, each its own patient."""
    source = f"by patient, {FOLDS} folds, seed {STORED_SEED}: the rule in benchmarks/data/splits.py"
    return split_document(name, source, patient_folds(ids, seed=STORED_SEED))


def patient_split(
    ids: Iterable[str],
    patients: Mapping[str, str] | None = None,
    seed: int = 0,
    fractions: tuple[float, float, float] = FRACTIONS,
) -> Split:
    """One split by patient, `fractions` of the patients for training, validation and test.

    Args:
        ids: case ids, in any order.
        patients: case id → patient; a case that is missing or has an empty name is a patient of its own.

    Every part with a positive fraction gets a patient while any are left: training first, then test, then
    validation. Fractions are of patients; where patients have several cases those of cases differ.
    """
    by_patient, order = _ordered(ids, patients, seed)
    validation, test = _counts(len(order), fractions)
    return _cut(by_patient, order, 0, test, validation)


def patient_folds(
    ids: Iterable[str],
    patients: Mapping[str, str] | None = None,
    seed: int = 0,
    folds: int = FOLDS,
    validation: float = FRACTIONS[1],
) -> tuple[Split, ...]:
    """Cross-validation by patient: every patient is in the test part of exactly one fold.

    The order of patients is cut into `folds` test blocks; the patients after a block (around the end) are its
    validation part. Fewer patients than folds give fewer folds; a single patient gives one, to train on.
    """
    ids = list(ids)
    by_patient, order = _ordered(ids, patients, seed)
    count = min(folds, len(order))
    if count < 2:
        return (patient_split(ids, patients, seed),)
    edges = [round(fold * len(order) / count) for fold in range(count + 1)]
    parts = []
    for low, high in pairwise(edges):
        rest = len(order) - (high - low)
        validating = min(max(1, round(len(order) * validation)), rest - 1)
        parts.append(_cut(by_patient, order, low, high - low, validating))
    return tuple(parts)


def split_document(dataset: str, source: str, folds: Iterable[Split]) -> dict[str, Any]:
    """The folds in full, case id by case id, each with the hash of `split_rows`."""
    kept = list(folds)
    return {
        "dataset": dataset,
        "source": source,
        "folds": [
            {"sha256": row["sha256"], **{part: list(getattr(fold, part)) for part in PARTS}}
            for fold, row in zip(kept, split_rows(kept), strict=True)
        ],
    }


def split_text(document: Mapping[str, Any]) -> str:
    """A document as JSON with a line per part, so that two files can be compared line by line."""
    folds = [
        ",\n".join(f"   {json.dumps(key)}: {json.dumps(value)}" for key, value in fold.items())
        for fold in document["folds"]
    ]
    head = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in document.items() if key != "folds"]
    body = ",\n".join(f"  {{\n{fold}\n  }}" for fold in folds)
    return ",\n".join(["{\n" + head[0], *head[1:], f' "folds": [\n{body}\n ]\n}}\n'])


def write_splits(path: Path, dataset: str, source: str, folds: Iterable[Split]) -> Path:
    """Write the folds in full to a JSON file, atomically, and return its path. Raises UserError if it cannot be."""
    try:
        with atomically(path) as partial:
            partial.write_text(split_text(split_document(dataset, source, folds)), "utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error
    return path


def split_rows(folds: Iterable[Split]) -> list[dict[str, Any]]:
    """The folds for a table: how many cases each part has, and a hash of which they are.

    Equal hashes mean equal splits; quote the hash beside results.
    """
    return [
        {
            "fold": number,
            **{part: len(ids) for part, ids in vars(fold).items()},
            "sha256": hashlib.sha256(json.dumps(vars(fold), sort_keys=True).encode()).hexdigest()[:16],
        }
        for number, fold in enumerate(folds)
    ]


def _ordered(
    ids: Iterable[str], patients: Mapping[str, str] | None, seed: int
) -> tuple[dict[str, list[str]], list[str]]:
    by_patient: dict[str, list[str]] = {}
    for case_id in sorted(set(ids)):
        by_patient.setdefault((patients or {}).get(case_id) or case_id, []).append(case_id)
    return by_patient, sorted(by_patient, key=lambda patient: (_rank(patient, seed), patient))


def _rank(patient: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}\x1f{patient}".encode()).hexdigest()


def _counts(patients: int, fractions: tuple[float, float, float]) -> tuple[int, int]:
    """How many patients validate and test; the rest trains."""
    train, validation, test = fractions
    if min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise UserError(f"the fractions of a split must be positive and sum to 1, not {fractions}")
    wanted_test = max(1, round(patients * test)) if test else 0
    wanted_validation = max(1, round(patients * validation)) if validation else 0
    keep = 1 if train else 0
    testing = min(wanted_test, max(patients - keep, 0))
    validating = min(wanted_validation, max(patients - keep - testing, 0))
    if not train:  # nothing may be left over for a part of which nothing was asked
        testing = patients - validating if test else 0
        validating = patients - testing
    return validating, testing


def _cut(by_patient: dict[str, list[str]], order: list[str], start: int, test: int, validation: int) -> Split:
    turned = order[start:] + order[:start]

    def cases(patients: list[str]) -> tuple[str, ...]:
        return tuple(sorted(case_id for patient in patients for case_id in by_patient[patient]))

    return Split(
        train=cases(turned[test + validation :]),
        validation=cases(turned[test : test + validation]),
        test=cases(turned[:test]),
    )
