"""The metrics package stays light: no torch, no pandas, and under a second."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import sys, time
start = time.process_time()
import benchmarks.metrics
print(time.process_time() - start)
print(sorted({"torch", "pandas", "monai", "ray", "nibabel", "mlflow"} & set(sys.modules)))
"""


def test_import_is_light() -> None:
    result = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    seconds, heavy = result.stdout.splitlines()
    assert heavy == "[]"
    assert float(seconds) < 1.0
