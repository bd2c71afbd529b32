"""The sheets of a comparison of two runs or methods."""

from __future__ import annotations

from benchmarks.results.run_pairs import RunPairs
from benchmarks.results.tables.sheet import Page, Sheet, few_mark, few_note, mean_text, number_text, p_text

NOTE = (
    "difference: b minus a, paired by case, 95 % interval over patients; p: sign-flip test, Holm-corrected over all "
    "rows of this page, which decides the verdict."
)


def pairs_page(pairs: RunPairs, names: tuple[str, str], metric: str, synthetic: bool) -> Page:
    """One sheet for each data set, target and protocol; `names` are those of a and b."""
    if pairs.table.empty:
        return Page((), ("nothing can be compared", *pairs.notes), synthetic)
    headings = ("method", f"{metric} a", f"{metric} b", "difference [95 % CI]", "p", "verdict")
    sheets = []
    for (dataset, target, _, protocol), rows in pairs.table.groupby(
        ["dataset", "target", "track", "protocol"], sort=False
    ):
        cells = tuple(
            (
                str(row["method"]),
                number_text(row["mean_a"], 3),
                number_text(row["mean_b"], 3),
                mean_text(row["difference"], row["low"], row["high"], row["patients"], signed=True),
                p_text(row["p_sign_flip_holm"]),
                f"{row['verdict']}{few_mark(row['patients'])}",
            )
            for row in rows.to_dict("records")
        )
        counted = f"n={rows['n'].max()}, {rows['patients'].max()} patients"
        title = f"{dataset} · {target} · {protocol} ({counted}){' · SYNTHETIC' * synthetic}"
        sheets.append(Sheet(title, headings, cells, headings[1:-1]))
    sides = f"a: {names[0]}, b: {names[1]}"
    return Page(tuple(sheets), (sides, NOTE, *few_note(sheets), *pairs.notes), synthetic)
