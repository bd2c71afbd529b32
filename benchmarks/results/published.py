"""Numbers as printed in papers, kept apart from ours: other cases, other prompts, other hands.

They live in published.yaml with citation and protocol. A row says whether it was compared with its source
("verified") or written down from memory ("recalled"). Nothing here enters a ranking, a mean or a test.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from benchmarks.common.errors import UserError
from benchmarks.prompting.protocol import Track

LABEL = "published"

Standing = Literal["verified", "recalled"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Paper(_Strict):
    """Where numbers come from."""

    title: str
    citation: str
    url: str


class Claim(_Strict):
    """A claim in words, such as a gain in an abstract that no table at hand backs with values."""

    paper: str
    method: str
    text: str
    against: tuple[str, ...]
    checked: bool
    note: str = ""

    @property
    def standing(self) -> Standing:
        return "verified" if self.checked else "recalled"


class Column(_Strict):
    """One dataset and target of a printed table."""

    dataset: str
    target: str


class Table(_Strict):
    """A printed table: `rows` has for each method one list per column, with one value per metric."""

    paper: str
    where: str
    protocol: str
    track: Track
    metrics: tuple[str, ...] = Field(min_length=1)
    checked: bool
    columns: tuple[Column, ...] = Field(min_length=1)
    rows: dict[str, tuple[tuple[float, ...], ...]]

    @model_validator(mode="after")
    def _is_full(self) -> Table:
        for method, cells in self.rows.items():
            if len(cells) != len(self.columns) or any(len(cell) != len(self.metrics) for cell in cells):
                raise ValueError(f"'{method}' needs {len(self.columns)} cells of {len(self.metrics)} values")
            if any(not 0 <= value <= 100 for cell in cells for value in cell):
                raise ValueError(f"'{method}' has a value that is not a percentage")
        return self


class PublishedResult(_Strict):
    """One printed number.

    Attributes:
        value: a share from 0 to 1; `percent` is what the paper prints.
        standing: "verified" against its source, or "recalled".
    """

    method: str
    dataset: str
    target: str
    metric: str
    value: float
    percent: float
    protocol: str
    track: Track
    paper: str
    where: str
    citation: str
    standing: Standing
    origin: Literal["published"] = "published"

    @property
    def title(self) -> str:
        """The name for a table: it always says that the number is published, and if it was never checked."""
        return f"{self.method} ({LABEL}{', recalled' if self.standing == 'recalled' else ''})"


class Published(_Strict):
    """Everything in the file."""

    papers: dict[str, Paper]
    claims: tuple[Claim, ...]
    tables: tuple[Table, ...]

    @model_validator(mode="after")
    def _papers_are_known(self) -> Published:
        for paper in [claim.paper for claim in self.claims] + [table.paper for table in self.tables]:
            if paper not in self.papers:
                raise ValueError(f"unknown paper '{paper}'")
        return self

    @property
    def results(self) -> tuple[PublishedResult, ...]:
        """Every number of every table, in the order of the file."""
        return tuple(result for table in self.tables for result in _results(table, self.papers[table.paper]))

    def of_dataset(self, name: str) -> tuple[PublishedResult, ...]:
        """The numbers for a dataset."""
        return tuple(result for result in self.results if result.dataset == name)


def load_published(path: Path | None = None) -> Published:
    """Read the file of published numbers; None takes the one of the package.

    Raises:
        UserError: unreadable, an unknown key, an unknown paper, or a table with holes.
    """
    source = files("benchmarks.results") / "published.yaml" if path is None else path
    try:
        content = yaml.safe_load(source.read_text(encoding="utf-8"))
        return Published.model_validate(content)
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"{source}: unreadable ({' '.join(str(error).split())})") from error
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise UserError(f"{source}: {where}: {problem['msg']}") from error


def as_table(results: tuple[PublishedResult, ...]) -> pd.DataFrame:
    """The numbers as a long table with a column `origin` that says "published" in every row."""
    rows: list[dict[str, Any]] = [{**result.model_dump(), "title": result.title} for result in results]
    return pd.DataFrame(rows, columns=[*PublishedResult.model_fields, "title"])


def _results(table: Table, paper: Paper) -> list[PublishedResult]:
    return [
        PublishedResult(
            method=method,
            dataset=column.dataset,
            target=column.target,
            metric=metric,
            value=percent / 100,
            percent=percent,
            protocol=table.protocol,
            track=table.track,
            paper=table.paper,
            where=table.where,
            citation=paper.citation,
            standing="verified" if table.checked else "recalled",
        )
        for method, cells in table.rows.items()
        for column, cell in zip(table.columns, cells, strict=True)
        for metric, percent in zip(table.metrics, cell, strict=True)
    ]
