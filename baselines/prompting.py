"""Checks of the prompts that reach a wrapper."""

from __future__ import annotations

from benchmarks.common.errors import UserError
from benchmarks.prompting.prompts import PromptKind, Prompts


def check_prompts(
    prompts: Prompts,
    kinds: frozenset[PromptKind],
    shape: tuple[int, int, int],
    method: str,
    mask_says_where: bool = False,
) -> None:
    """Raises UserError for a kind that the method does not understand, or a place outside the volume.

    Something has to say where to look: a positive click or a box, and for some methods a mask.
    """
    foreign = prompts.kinds - kinds
    if foreign:
        given, known = (", ".join(sorted(part)) for part in (foreign, kinds))
        raise UserError(f"{method} does not understand prompts of kind {given}; it takes {known}")
    for click in prompts.clicks:
        if not all(0 <= at < size for at, size in zip(click.position, shape, strict=True)):
            raise UserError(f"click {click.position} lies outside the volume of shape {shape}")
    if prompts.box is not None:
        corners = zip(prompts.box.low, prompts.box.high, shape, strict=True)
        if not all(0 <= low < high <= size for low, high, size in corners):
            raise UserError(
                f"box {prompts.box.low} to {prompts.box.high} is empty or leaves the volume of shape {shape}"
            )
    if mask_says_where and prompts.mask is not None:
        return
    if prompts.kinds <= {PromptKind.NEGATIVE_CLICK, PromptKind.MASK}:
        raise UserError(
            f"{method} needs at least one positive click" + (" or a box" if PromptKind.BOX in kinds else "")
        )
