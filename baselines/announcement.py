"""What the announcements of the published systems have in common (torch-free): settings, files, the tiny sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.contestants import Card, Method, WeightFile, ZooTraining

CHECK = "baselines.checkpoints:official_file_problem"


def network_settings(train: str, learning_rate: float, **own: Any) -> dict[str, Any]:
    """The settings of every `NetworkSegmenter` at its official size, and those of one system."""
    return {
        "checkpoint": None,
        "size": "official",
        "precision": "auto",
        "train": train,
        "learning_rate": learning_rate,
        "seed": 0,
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
        note: what else differs, for the card.
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

    def of(self, official: Method) -> Method:
        """The classes of the system, trained from scratch: for the embedded suite and for tests."""
        what = self.what or f"the classes of {self.system}"
        note = f"For the embedded suite and for tests{self.note and f'; {self.note}'}."
        return replace(
            official,
            name=self.name,
            summary=f"{what} at a small size, trained from scratch by the bench",
            version="3",
            zoo=ZooTraining("baselines", self.zoo_steps),
            needs_checkpoint=False,
            files=(),
            config={**official.config, "size": "tiny", **self.config},
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
