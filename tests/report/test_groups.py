"""Letters and bars say just what the tests say."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.results.report.groups import letters, runs

NAMES = ("a", "b", "c", "d", "e", "f")
pairs = st.sets(st.sampled_from([frozenset(pair) for pair in combinations(NAMES, 2)]))


@settings(deadline=None)
@given(pairs)
def test_two_methods_share_a_letter_just_when_no_test_tells_them_apart(apart: set[frozenset[str]]) -> None:
    found = letters(NAMES, lambda a, b: frozenset((a, b)) in apart)
    for a, b in combinations(NAMES, 2):
        assert bool(set(found[a]) & set(found[b])) == (frozenset((a, b)) not in apart)
    assert "a" in found["a"]  # letters begin with the best


def test_a_chain_of_neighbours_overlaps() -> None:
    """Of three in a row only the ends differ: the middle one has both letters."""
    assert letters("xyz", lambda a, b: {a, b} == {"x", "z"}) == {"x": "a", "y": "ab", "z": "b"}
    assert letters([], lambda a, b: True) == {}


@settings(deadline=None)
@given(pairs)
def test_bars_are_all_longest_runs(apart: set[frozenset[str]]) -> None:
    alike = [
        (i, j)
        for i in range(len(NAMES))
        for j in range(i + 1, len(NAMES))
        if not any(frozenset(pair) in apart for pair in combinations(NAMES[i : j + 1], 2))
    ]
    longest = [(i, j) for i, j in alike if not any((k, m) != (i, j) and k <= i and j <= m for k, m in alike)]
    found = runs(NAMES, lambda a, b: frozenset((a, b)) in apart)
    assert found == [(NAMES[i], NAMES[j]) for i, j in sorted(longest)]
