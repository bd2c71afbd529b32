"""The page as a whole: content, template, scripts, styles and pictures in one file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.resources import files
from typing import Any

import pandas as pd

from benchmarks.common.environment import now
from benchmarks.results.comparability import with_lists
from benchmarks.results.leaderboard import (
    as_json,
    claims_of,
    completeness_of,
    contamination_of,
    details,
    leaderboard_of,
    notes_of,
    overall_of,
    published_of,
)
from benchmarks.results.leaderboard.lists import row_dicts
from benchmarks.results.leaderboard.overall import OVER, uncompared
from benchmarks.results.report.answers import Answer, answer_over_all
from benchmarks.results.report.lists import ListPage, Shown, list_pages
from benchmarks.results.report.provenance import provenance_of
from benchmarks.results.tables import SYNTHETIC_BANNER, Sheet, detail_sheets, details_page, legend, overall_sheets
from benchmarks.results.tables.sheet import few_note, list_title

SCRIPTS = ("vendor/d3.min.js", "vendor/plot.umd.min.js", "state.js", "tables.js", "charts.js", "cases.js", "picture.js",
           "viewer.js", "main.js")  # fmt: skip
STYLES = ("report.css", "viewer.css")
LICENCES = ("vendor/d3.LICENSE", "vendor/plot.LICENSE")

ABOUT_ALL = ("completeness", "contamination", "robustness", "published", "claims", "overall")
"""Tables that are not of one list."""

DICE = "dice"
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
"""With which a browser opens the page: whatever it holds, it can ask no server for anything."""


@dataclass(frozen=True)
class ReportContent:
    """What a report is made of.

    Attributes:
        rows, units: the records of a suite, as `RecordStore.read_suite` gives them.
        metric: what the details compare.
        margin: the smallest difference that matters, for the equivalence test.
        incomplete: show a run that is not finished: what it has, and no comparison.
        pictures: (dataset, case, target) and `pictures.encoded`; gone through once.
        machines: what the suite was run on, a mapping for each.
        scans: whether the pictures show voxels of scans, to be said on the page.
    """

    suite: str
    rows: pd.DataFrame
    units: Sequence[Mapping[str, Any]]
    metric: str = DICE
    margin: float | None = None
    incomplete: bool = False
    pictures: Iterable[tuple[tuple[str, str, str], Mapping[str, Any]]] = ()
    machines: Sequence[Mapping[str, Any]] = ()
    scans: bool = False


@dataclass(frozen=True)
class Given:
    """A track and protocol: the answer over all datasets, and on each.

    Attributes:
        over_all: None where there is one dataset only.
        on_each: dataset and target → its list; not every one has every protocol.
    """

    title: str
    key: tuple[str, ...]
    over_all: Answer | None
    sheet: Sheet | None
    on_each: Mapping[str, ListPage] = field(default_factory=dict)

    @property
    def headline(self) -> Answer | None:
        """The answer to be said first."""
        return self.over_all or next((page.answer for page in self.on_each.values()), None)


def report_html(content: ReportContent) -> str:
    """The page as text.

    Raises:
        UserError: records that are not complete, unless `incomplete` is set; an unknown metric.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    units = list(content.units)
    rows = with_lists(content.rows, units)
    board = leaderboard_of(rows, units)
    overall = overall_of(board, rows, content.margin if content.metric == DICE else None)
    if content.incomplete:
        overall = uncompared(overall)
    tables, by_dice = _tables(content, rows)
    shown, ranking = Shown(_of_lists(tables), content.metric), _of_lists(by_dice)
    pages = [] if board.empty else list(list_pages(board, rows, ranking, shown, units))
    givens = [] if board.empty else list(_givens(pages, board, overall))
    synthetic = any(unit["synthetic"] for unit in units)
    pictures = list(content.pictures)
    environment = Environment(
        loader=PackageLoader("benchmarks.results.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":"), "allow_nan": False}
    return environment.get_template("report.html.j2").render(
        suite=content.suite,
        made_at=now(),
        version=version("tags-bench"),
        policy=POLICY,
        banner=SYNTHETIC_BANNER if synthetic else "",
        incomplete=content.incomplete,
        scans=content.scans,
        givens=givens,
        pages=pages,
        places=list(dict.fromkeys(page.where for page in pages)),
        notes=notes_of(rows, units),
        legend=_legend(board, pages, givens),
        counts=_counts(rows, units),
        about=_about(tables, rows, units, content.metric),
        provenance=provenance_of(rows, units, content.machines),
        licences=[_static(name) for name in LICENCES],
        styles=[_static(name) for name in STYLES],
        scripts=[_static(name) for name in SCRIPTS],
        data=_data(board, overall, by_dice, units, pages, pictures),
        pictures=[picture for _, picture in pictures],
    )


def _tables(content: ReportContent, rows: pd.DataFrame) -> tuple[dict[str, pd.DataFrame], dict[str, pd.DataFrame]]:
    """The tables of the metric that was asked for, and those by Dice, which answers, ranks and charts go by."""
    if content.incomplete:
        return {}, {}
    tables = details(rows, content.units, content.metric, content.margin)
    return tables, tables if content.metric == DICE else details(rows, content.units, DICE)


def _of_lists(tables: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    return {name: table for name, table in tables.items() if name not in ABOUT_ALL}


def _givens(pages: Sequence[ListPage], board: pd.DataFrame, overall: pd.DataFrame) -> Iterator[Given]:
    """Tracks and protocols, in the order of the pooled table, which goes from the least to the most given."""
    sheets = overall_sheets(board, overall)
    by_title = {sheet.title.removesuffix(" · SYNTHETIC"): sheet for sheet in sheets}
    for key, lines in overall.groupby(OVER, sort=False) if len(overall) else ():
        title = list_title(key, False)
        sheet = by_title.get(title)
        on_each = {page.where: page for page in pages if page.key[2:] == tuple(map(str, key))}
        yield Given(
            title=title.removeprefix("all datasets · "),
            key=tuple(map(str, key)),
            over_all=answer_over_all(row_dicts(lines), _boarded(board, key)) if sheet is not None else None,
            sheet=sheet,
            on_each=on_each,
        )


def _boarded(board: pd.DataFrame, key: Any) -> list[dict[str, Any]]:
    return row_dicts(board[(board[OVER] == list(key)).all(axis=1)])


def _about(
    tables: Mapping[str, pd.DataFrame], rows: pd.DataFrame, units: Sequence[Mapping[str, Any]], metric: str
) -> dict[str, Any]:
    """The tables that are not of one list, as sheets; those that need no complete records are always there."""
    names = {"contamination": contamination_of(units).reset_index(), "published": published_of(units)}
    names["completeness"] = completeness_of(rows, units)
    synthetic = {str(unit["dataset"]) for unit in units if unit["synthetic"]}
    floors = {str(unit["method"]) for unit in units if unit.get("floor")}
    names["robustness"] = tables.get("robustness", pd.DataFrame())
    sheets = {name: detail_sheets({name: table}, metric, synthetic, floors) for name, table in names.items()}
    sources = details_page(rows, units, metric, only=["published"]).notes if len(names["published"]) and tables else ()
    return {**sheets, "claims": claims_of(units), "sources": sources}


def _legend(board: pd.DataFrame, pages: Sequence[ListPage], givens: Sequence[Given]) -> list[str]:
    if board.empty:
        return []
    sheets = [sheet for page in pages for sheet in (*page.ranking, *page.quality)]
    sheets += [given.sheet for given in givens if given.sheet is not None]
    return [*legend(board), *few_note(sheets)]


def _counts(rows: pd.DataFrame, units: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    if rows.empty:
        return {"methods": 0, "datasets": 0, "cases": 0, "patients": 0}
    return {
        "methods": rows["method"].nunique(),
        "datasets": rows["dataset"].nunique(),
        "cases": len(rows.drop_duplicates(["dataset", "case"])),
        "patients": len(rows.drop_duplicates(["dataset", "patient"])),
    }


def _data(
    board: pd.DataFrame,
    overall: pd.DataFrame,
    tables: Mapping[str, pd.DataFrame],
    units: Sequence[Mapping[str, Any]],
    pages: Sequence[ListPage],
    pictures: Sequence[tuple[tuple[str, str, str], Mapping[str, Any]]],
) -> dict[str, Any]:
    """What the scripts work with. `leaderboard` is what `tags-bench leaderboard --json` prints."""
    floors = {str(unit["method"]) for unit in units if unit.get("floor")}
    pictured = {key: number for number, (key, _) in enumerate(pictures)}
    untrained = {str(unit["method"]) for unit in units if unit.get("untrained")}
    names = dict.fromkeys(str(unit["method"]) for unit in units)
    return {
        "methods": [{"name": name, "floor": name in floors, "untrained": name in untrained} for name in names],
        "leaderboard": as_json(board),
        "overall": as_json(overall),
        "robustness": as_json(tables.get("robustness", pd.DataFrame())),
        "lists": [
            {
                "key": list(page.key),
                "title": page.title,
                "drawn": page.drawn,
                "pictures": _places(page, pictured),
                **page.cases,
            }
            for page in pages
        ],
        "organs": {
            f"{unit['dataset']}/{unit['target']['name']}": str(unit["target"].get("organ", "")) for unit in units
        },
    }


def _places(page: ListPage, pictured: Mapping[tuple[str, str, str], int]) -> list[int | None]:
    """Which picture shows each case of a list; None if none does."""
    return [pictured.get((page.key[0], case, page.key[1])) for case in page.cases["cases"]]


def _static(name: str) -> str:
    return (files("benchmarks.results.report") / "static" / name).read_text(encoding="utf-8")
