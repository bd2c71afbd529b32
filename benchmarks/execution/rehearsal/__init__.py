"""The rehearsal of a suite: what is there and what is missing, every method once on one case, and what all will cost.

A rehearsal has an output folder of its own, its suite and every unit are marked, and nothing of it is ever ranked.
"""
