"""The list of contestants that docs/methods/index.md shows, made from their cards.

    python docs/contestants.py          # after a card, an environment or a licence has changed

A test holds the page to the cards.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from marks import with_block

from benchmarks.contestants import Environment, Method, methods

PAGE = Path(__file__).resolve().parent / "methods" / "index.md"
BEGIN, END = "<!-- contestants -->", "<!-- end of the contestants -->"
HEADINGS = ("method", "runs", "licence of the code", "licence of the weights", "environment", "has seen")

REWRITTEN = "its networks, rewritten"
REWRITTEN_2D = "its networks, rewritten; slices by us"
# page of the method: what of it runs, and the tests that compare it with something that is not ours
PAGES = {
    "tags": ("our own model", ["tests/tags"]),
    "nnunet": ("its own package", ["tests/baselines/test_nnunet.py"]),
    "sam-b": (
        REWRITTEN_2D,
        ["tests/parity/test_sam_b.py", "tests/baselines/test_sam_networks.py"],
    ),
    "sam-med2d": (REWRITTEN_2D, ["tests/parity/test_sam_med2d.py"]),
    "sam-med3d": (REWRITTEN, ["tests/parity/test_sam_med3d.py"]),
    "segvol": (REWRITTEN, ["tests/parity/test_segvol.py"]),
    "universal": (REWRITTEN, ["tests/parity/test_universal.py"]),
    "3dsam-adapter": (REWRITTEN, ["tests/parity/test_sam3d_adapter.py"]),
    "nninteractive": ("its own package", ["tests/baselines/test_nninteractive.py"]),
    "sam2": ("its own package", ["tests/baselines/test_sam2.py"]),
    "vista3d": ("its classes in MONAI", ["tests/baselines/test_vista3d.py"]),
    "totalsegmentator": ("its own package", ["tests/baselines/test_totalsegmentator.py"]),
    "floors": ("no network", ["tests/baselines/test_ball.py", "tests/baselines/test_region_growing.py"]),
}
OTHER_NAMES = {"ball": "floors", "region-growing": "floors", "medsam2": "sam2"}


def own() -> list[Method]:
    """The methods of this project, whatever else is installed."""
    return [one for one in methods().values() if one.factory.partition(".")[0] in ("tags", "baselines")]


def page_of(name: str) -> str:
    """The page that describes a method: the longest one whose name its own begins with.

    Raises:
        ValueError: there is none.
    """
    fitting = [page for page in PAGES if name == page or name.startswith(f"{page}-")]
    if name not in OTHER_NAMES and not fitting:
        raise ValueError(f"'{name}' has no page: write docs/methods/{name}.md and add '{name}' to PAGES in {__file__}")
    return OTHER_NAMES.get(name) or max(fitting, key=len)


def table(found: Iterable[Method]) -> str:
    """The list in Markdown, a row for each method."""
    rows = [_row(method) for method in sorted(found, key=lambda one: (list(PAGES).index(page_of(one.name)), one.name))]
    return _markdown(HEADINGS, rows)


def tests_table() -> str:
    """For every page the tests that compare its methods with something that is not ours."""
    rows = [(f"[{page}]({page}.md)", ", ".join(f"`{test}`" for test in tests)) for page, (_, tests) in PAGES.items()]
    return _markdown(("methods of", "tests"), rows)


def _markdown(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (headings, ["---"] * len(headings), *rows))


def _row(method: Method) -> list[str]:
    page = page_of(method.name)
    seen = sorted({word for name, word in method.card.training_data.items() if name != "*"})
    everywhere = method.card.training_data.get("*", "unknown")
    return [
        f"[`{method.name}`]({page}.md)",
        PAGES[page][0],
        method.card.code_licence,
        method.card.weights_licence,
        _environment(method.environment),
        ", ".join(seen) or everywhere,
    ]


def _environment(environment: Environment | None) -> str:
    return "the bench's" if environment is None else f"its own: `pip {' '.join(environment.pip)}`"


def with_tables(page: str) -> str:
    """The page with both tables between its marks."""
    return with_block(page, BEGIN, END, f"{table(own())}\n\n## Tests\n\n{tests_table()}")


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text("utf-8")), "utf-8")
