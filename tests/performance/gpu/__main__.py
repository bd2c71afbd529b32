"""What TAGS costs on a GPU: one table on the screen, all figures as JSON, from the code that trains and evaluates.

    python -m tests.performance.gpu                             # every section, tags-vit-b, one CUDA device
    python -m tests.performance.gpu --sections matmul,step      # some of them
    python -m tests.performance.gpu --device cpu --size tiny    # does it run at all

Weights are random, which changes no shape and no time. A section that fails, or takes longer than its share of
the time, says why and the next one begins; what is measured is written after every section. FLOP are counted once by
torch's own counter (matrix products, convolutions, attention) in a step without recomputation, so that the achieved
rate is that of useful work.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from tests.performance.gpu import evaluation, training
from tests.performance.gpu.report import Report, environment

SECTIONS = {  # with the seconds that each may take
    "matmul": (training.measure_matmul, 20.0),
    "step": (training.measure_step, 90.0),
    "parts": (training.measure_parts, 40.0),
    "profile": (training.measure_profile, 60.0),
    "inference": (evaluation.measure_inference, 40.0),
    "data": (training.measure_data, 60.0),
    "ddp": (training.measure_ddp, 40.0),
    "actors": (evaluation.measure_actors, 120.0),
    "compile": (training.measure_compile, 300.0),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; 1 if a section failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sections", default=",".join(SECTIONS), help=f"of {', '.join(SECTIONS)}")
    parser.add_argument("--size", default="vit-b", help="of TAGS: vit-b, vit-l, vit-h, tiny")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--cases", type=int, default=4, help="phantoms for training and evaluation")
    parser.add_argument("--cpus", type=int, default=min(8, os.cpu_count() or 1), help="of one training worker")
    parser.add_argument("--quick", action="store_true", help="one repetition each")
    parser.add_argument("--limits", default="", help="seconds for a section, such as compile=60,actors=40")
    parser.add_argument("--out", type=Path, default=None, help="folder for report.json, report.txt, profile.txt")
    options = parser.parse_args(arguments)
    names = options.sections.split(",")
    unknown = [name for name in names if name not in SECTIONS]
    if unknown:
        parser.error(f"no section '{unknown[0]}'; there are {', '.join(SECTIONS)}")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device; --device cpu --size tiny shows that it runs")
    limits = {
        **{name: limit for name, (_, limit) in SECTIONS.items()},
        **{name: float(value) for name, _, value in (one.partition("=") for one in options.limits.split(",") if one)},
    }
    print(json.dumps(environment(options.device)), flush=True)
    with tempfile.TemporaryDirectory(prefix="gpu-report-") as folder:
        report = Report(options.size, options.device, Path(folder), options.quick, options.cases, options.cpus)
        for name in names:
            report.run(name, SECTIONS[name][0], limits[name])
            if options.out is not None:
                write(report, options.out)
        print("\n\n".join([*report.texts, report.table()]), flush=True)
        if options.out is not None:
            write(report, options.out)
    return 1 if report.errors else 0


def write(report: Report, folder: Path) -> None:
    """All that is known so far."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(report.as_json(), indent=2) + "\n", encoding="utf-8")
    (folder / "report.txt").write_text(report.table() + "\n", encoding="utf-8")
    (folder / "profile.txt").write_text("\n\n".join(report.texts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
