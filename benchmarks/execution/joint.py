"""One training on the training cases of several datasets of a suite, for a method that is told what to look for."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.common.errors import UserError
from benchmarks.contestants import Target
from benchmarks.data.dataset import Case, Dataset, same_scan
from benchmarks.execution.entries import DatasetEntry, MethodEntry
from benchmarks.execution.members import method_of

Part = tuple[Target, tuple[Case, ...]]
Member = tuple[DatasetEntry, Dataset]


def joint_parts(entry: MethodEntry, members: Sequence[Member], fold: int, evaluated: str) -> tuple[Part, ...]:
    """Every target of the datasets that an entry is run on, with its training cases, in the order of the suite.

    Of a dataset with several folds the one of this number is meant; a dataset that stands in the suite with one fold
    only is meant with that one.

    Args:
        members: the datasets of the suite with their entries.
        evaluated: the part of the splits that is evaluated, "test" or "validation".

    Raises:
        UserError: a method that does not train in the bench's loop, a dataset that learns from another one, datasets of
            several modalities, a missing fold, or a scan that one dataset learns from and another evaluates.
    """
    name = f"method '{entry.title}'"
    if method_of(entry).training != "bench":
        raise UserError(f"{name}: `joint` is for methods that the bench trains")
    chosen = _of_fold(name, [one for one in members if entry.meets(one[1].name)], fold)
    if len(chosen) < 2 and len(chosen[0][1].targets) < 2:
        raise UserError(f"{name}: `joint` needs more than one target, and there is only {chosen[0][1].name}")
    for _, dataset in chosen:
        if dataset.external is not None:
            raise UserError(f"{name}: `joint` cannot take {dataset.name}, which learns from another dataset")
    modalities = sorted({dataset.modality for _, dataset in chosen})
    if len(modalities) > 1:
        raise UserError(f"{name}: `joint` needs datasets of one modality, not {' and '.join(modalities)}")
    learned = [(dataset, dataset.split_cases("train", one.fold_number)) for one, dataset in chosen]
    tested = [case for one, dataset in chosen for case in dataset.split_cases(evaluated, one.fold_number)]
    both = same_scan([case for _, cases in learned for case in cases], tested)
    if both is not None:
        case, other = both
        raise UserError(
            f"{name}: `joint` would train on '{case.case_id}' of {case.dataset}, which is evaluated as "
            f"'{other.case_id}' of {other.dataset}; give both the same `splits`"
        )
    return tuple((target, tuple(cases)) for dataset, cases in learned for target in dataset.targets)


def _of_fold(name: str, members: Sequence[Member], fold: int) -> list[Member]:
    groups: dict[tuple[str, ...], list[Member]] = {}
    for one in members:
        groups.setdefault((one[1].name, *(target.name for target in one[1].targets)), []).append(one)
    found = []
    for own in groups.values():
        right = own if len(own) == 1 else [one for one in own if one[0].fold_number == fold]
        if not right:
            raise UserError(f"{name}: `joint` in fold {fold} needs a fold {fold} of {own[0][1].name}, too")
        found.append(right[0])
    return found
