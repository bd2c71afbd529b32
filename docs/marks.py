"""A part of a page that a script writes: what stands between two marks."""

from __future__ import annotations

import re


def with_block(page: str, begin: str, end: str, block: str) -> str:
    """The page with a block between its marks, in place of what stood there.

    Raises:
        ValueError: the page has not both marks once.
    """
    marked = f"{begin}\n\n{block}\n\n{end}"
    replaced, count = re.subn(f"{begin}.*{end}", lambda _: marked, page, flags=re.DOTALL)
    if count != 1:
        raise ValueError(f"the page needs {begin} and {end} once")
    return replaced
