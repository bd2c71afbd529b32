"""A finished run without Ray: phantoms, records, masks and prompts as a run leaves them."""

from __future__ import annotations

from pathlib import Path

from benchmarks import load_suite
from benchmarks.execution.case_files import note_case_files, note_machine
from benchmarks.execution.evaluate import evaluate_case
from benchmarks.execution.progress import Progress
from benchmarks.execution.work import planned
from benchmarks.results.records import RecordStore

SUITE = """
name: small
seed: 5
datasets:
  - {name: lits17, source: phantom, cases: 6}
  - {name: kits21, source: phantom, cases: 6}
methods:
  - region-growing
  - {name: region-growing, label: "grown <script>alert(1)</script>", config: {multiplier: 1.5}}
  - mock-crash
protocols: [centre-click, {kind: iterative, rounds: 3}]
budget: {steps: 1}
"""


def finish(out: Path) -> None:
    """Plan the suite and evaluate every case, one after the other, in this process."""
    file = out.parent / "small.yaml"
    file.write_text(SUITE, encoding="utf-8")
    work = planned(load_suite(file), out, Progress())
    store = RecordStore(work.folders.records)
    store.set_current(work.suite.name, [])
    for unit in work.units:
        store.begin_unit(unit.folder, unit.description())
        segmenter = unit.method.build(unit.entry.config)
        for case in unit.cases:
            store.write_case(unit.folder, case.case_id, evaluate_case(case, segmenter, unit.evaluation))
        store.complete_unit(unit.folder)
    store.set_current(work.suite.name, [unit.folder for unit in work.units])
    note_case_files(work.units, work.folders)
    note_machine(work.suite.name, work.folders)
