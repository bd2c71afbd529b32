"""The zoo: weights that come with a method, each set beside a card that says how `tags-bench zoo train` made it.

    PACKAGE/zoo/METHOD/joint/card.json, checkpoint/…       one set of weights for several data sets
    PACKAGE/zoo/METHOD/DATASET/card.json, checkpoint/…     weights of one data set

They are those of small networks, trained on phantoms. A run knows them by the content of every file, as it does
official weights, and never evaluates them on a case that they were trained on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.common.content import sha256_of_all
from benchmarks.common.errors import UserError
from benchmarks.common.identity import digest_of_folder
from benchmarks.contestants import Method
from benchmarks.data.dataset import Case

CARD, CHECKPOINT, JOINT = "card.json", "checkpoint", "joint"
MARK = 16  # hexadecimal digits of a file's SHA-256 by which a card names a training image


@dataclass(frozen=True)
class ZooWeights:
    """Weights that come with a method.

    Attributes:
        folder: holds the card and the folder `checkpoint`, as the folder of a finished training does.
        card: how they were made; see `benchmarks.execution.zoo`.
        digest: of the content of every file of the checkpoint.
    """

    folder: Path
    card: Mapping[str, Any]
    digest: str

    def refuse_seen(self, cases: Iterable[Case], title: str) -> None:
        """Raises UserError where one of the cases is among those that the weights were trained on."""
        cases = list(cases)
        trained_on = set(self.card["phantoms"]["images"])
        found = sha256_of_all([case.image for case in cases])
        for case, content in zip(cases, found, strict=True):
            if content[:MARK] in trained_on:
                raise UserError(
                    f"method '{title}': case '{case.dataset}/{case.case_id}' is among those that its weights of the "
                    f"zoo were trained on (phantoms of seed {self.card['phantoms']['seed']}); choose another --seed"
                )


def zoo_folder(method: Method) -> Path | None:
    """Where the weights of a method lie in its package; None if none come with it."""
    if method.zoo is None:
        return None
    package = find_spec(method.zoo.package)
    if package is None or not package.submodule_search_locations:
        raise ValueError(f"method '{method.name}': there is no package '{method.zoo.package}' to hold its zoo")
    return Path(next(iter(package.submodule_search_locations))) / "zoo" / method.name


def zoo_weights(method: Method, dataset: str) -> ZooWeights | None:
    """The weights that come with a method for a data set, None if there are none.

    Raises:
        UserError: a card or a file was changed or is missing, or the method has changed since.
    """
    root = zoo_folder(method)
    for part in (dataset, JOINT):
        if root is None or not (root / part / CARD).is_file():
            continue
        weights = read_weights(root / part)
        if dataset in weights.card["datasets"]:
            _require_fitting(weights, method)
            return weights
    return None


def all_weights(methods: Iterable[Method]) -> list[ZooWeights]:
    """Everything that the zoo holds of these methods, in their order."""
    roots = [root for method in methods if (root := zoo_folder(method)) is not None]
    return [read_weights(card.parent) for root in roots for card in sorted(root.glob(f"*/{CARD}"))]


def read_weights(folder: Path) -> ZooWeights:
    """The weights of a folder. Raises UserError if a file is not what the card says."""
    again = "install the package again, or train them with `tags-bench zoo train`"
    try:
        card = json.loads((folder / CARD).read_text("utf-8"))
        stated = card["digest"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / CARD}: not a readable card ({type(error).__name__}); {again}") from error
    found = digest_of_folder(folder / CHECKPOINT)
    if found != stated:
        raise UserError(f"{folder}: the weights are not those of their card (SHA-256 differs); {again}")
    return ZooWeights(folder, card, found)


def _require_fitting(weights: ZooWeights, method: Method) -> None:
    if weights.card["method_version"] != method.training_version:
        raise UserError(
            f"{weights.folder}: weights of version {weights.card['method_version']} of '{method.name}', which trains "
            f"as version {method.training_version} now; train them again with "
            f"`tags-bench zoo train --methods {method.name}`"
        )
