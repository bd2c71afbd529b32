"""Prompts that grow: what the user has added since the round before."""

from __future__ import annotations

from benchmarks.contestants import Click, Prompts


def added_clicks(before: Prompts | None, now: Prompts) -> tuple[Click, ...] | None:
    """The clicks that were made since, if nothing else has changed; None where a session has to begin anew."""
    if before is None or now.box != before.box or now.text != before.text:
        return None
    if now.mask is not None or before.mask is not None:
        return None
    known = len(before.clicks)
    return now.clicks[known:] if now.clicks[:known] == before.clicks else None
