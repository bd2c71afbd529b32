"""What the announcements of the published systems have in common (torch-free): settings, files, the tiny sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks.contestants import Card, Method, WeightFile, ZooTraining

CHECK = "baselines.checkpoints:official_file_problem"


TRAINING = {
    "training_batch": 2, "warm_up": 0.0, "weight_decay": 0.01, "foreground": 1.0, "dice_share": 0.5, "ema": 0.0,
}  # fmt: skip
"""How the bench trains a `NetworkSegmenter` that says nothing else."""


def network_settings(train: str, learning_rate: float, **own: Any) -> dict[str, Any]:
    """The settings of every `NetworkSegmenter` at its official size, and those of one system."""
    return {
        "checkpoint": None,
        "size": "official",
        "precision": "auto",
        "train": train,
        "learning_rate": learning_rate,
        "seed": 0,
        **TRAINING,
        **own,
    }


RANGE_OF_RATES = 8.0  # of the learning rate, up and down from the method's own


def network_space(config: Mapping[str, Any], frozen: str, **own: Sequence[Any]) -> dict[str, Sequence[Any]]:
    """What a sweep varies of a `NetworkSegmenter`: optimisation, crops, loss, what is trained, and its own knobs.

    At the official size `train` is searched, and a larger batch only where the encoder is frozen: where it is trained
    memory may hold no more. A small size begins with random weights, and all of them have to be trained.

    Args:
        frozen: the word of `train` that leaves the encoder as it is.
    """
    rate, batch, decay = config["learning_rate"], config["training_batch"], config["weight_decay"]
    parts: dict[str, Sequence[Any]] = {"training_batch": ["choice", [1, 2, 4]]}
    if config["size"] == "official":
        larger = ["choice", sorted({batch, 2 * batch, max(1, batch // 2)}), {"train": [frozen]}]
        parts = {"train": ["choice", [frozen, "all"]], "training_batch": larger}
    return {
        "learning_rate": ["loguniform", rate / RANGE_OF_RATES, rate * RANGE_OF_RATES],
        "warm_up": ["uniform", 0.0, 0.2],
        "weight_decay": ["choice", sorted({0.0, 1e-4, 1e-2, decay})],
        **parts,
        "dice_share": ["uniform", 0.2, 0.9],
        "foreground": ["uniform", 0.5, 1.0],
        **own,
    }


def official_file(name: str, system: str, page: str, licence: str, **facts: Any) -> WeightFile:
    """An official file whose content `baselines.checkpoints` recognises; `facts` are further fields."""
    return WeightFile(name=name, page=page, licence=licence, system=system, check=CHECK, **facts)


@dataclass(frozen=True)
class TinySize:
    """A system at a small size.

    Attributes:
        name: of the method.
        system: in a sentence, such as "SAM-B" or "the Universal Model".
        paper: whose architecture it is.
        page: in docs/methods, without .md.
        parameters: how many.
        config: what differs from the official settings, beside the size.
        what: is taken of the system, by default its classes.
        zoo_steps: of the training of the weights that come with it.
        knobs: of its own that a sweep varies, see `network_space`.
        note: what else differs, for the card.
        version: of the method, see `Method`.
    """

    name: str
    system: str
    paper: str
    page: str
    parameters: str
    config: Mapping[str, Any]
    zoo_steps: int
    what: str = ""
    note: str = ""
    version: str = "3"
    knobs: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    def of(self, official: Method) -> Method:
        """The classes of the system, trained from scratch: for the embedded suite and for tests."""
        what = self.what or f"the classes of {self.system}"
        config = {**official.config, "size": "tiny", **self.config}
        note = f"For the embedded suite and for tests{self.note and f'; {self.note}'}."
        return replace(
            official,
            name=self.name,
            summary=f"{what} at a small size, trained from scratch by the bench",
            version=self.version,
            zoo=ZooTraining("baselines", self.zoo_steps),
            needs_checkpoint=False,
            files=(),
            config=config,
            search_space=network_space(config, "", **self.knobs),
            card=Card(
                title=f"{self.system.removeprefix('the ')}, tiny",
                paper=f"the architecture of {self.paper} at a small size",
                code_licence="Apache-2.0",
                weights_licence="Apache-2.0: those of the zoo, trained on phantoms, come with this project",
                parameters=self.parameters,
                training_data={"*": "unseen"},
                notes=f"{note} Says nothing about {self.system}. See docs/methods/{self.page}.md.",
            ),
        )
