"""nnInteractive's files: looked into, and put together as the folder that its package reads."""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from baselines.checkpoints import read_checkpoint
from benchmarks.common.errors import UserError, is_out_of_memory, one_line
from benchmarks.common.weight_file import locate

PLACES = {
    "checkpoint": "fold_0/checkpoint_final.pth",
    "plans": "plans.json",
    "dataset": "dataset.json",
    "session": "inference_session_class.json",
}
"""Setting → where the package looks for that file."""


def json_problem(path: Path, system: str) -> str:
    """Whether a file of the model's settings holds what it should, in a line."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return f"not a JSON file ({one_line(error, 100)})"
    return "" if isinstance(content, dict | str) else f"no settings of {system}"


def load_model(session: Any, config: Mapping[str, Any]) -> None:
    """The released model into a session of the package.

    The package unpickles whatever the file holds. Here it is given the tensors and the plain values only.

    Raises:
        UserError: a file is missing or not what it should be.
    """
    files = {setting: _file(config[setting]) for setting in PLACES}
    content = read_checkpoint(files["checkpoint"])
    with tempfile.TemporaryDirectory(prefix="nninteractive-") as name:
        for setting, found in files.items():
            modern = found.name.endswith("inference_info.json")  # what later models call the session's file
            target = Path(name) / ("inference_info.json" if modern else PLACES[setting])
            target.parent.mkdir(exist_ok=True)
            target.symlink_to(found.resolve())
        try:
            with mock.patch.object(torch, "load", return_value=content), contextlib.redirect_stdout(sys.stderr):
                session.initialize_from_trained_model_folder(name)
        except Exception as error:  # a file that does not fit fails in as many ways as there are parts of the model
            if is_out_of_memory(error):
                raise
            raise UserError(
                f"{files['checkpoint']}: cannot be loaded as nnInteractive ({one_line(error, 200)})"
            ) from error


def _file(name: Any) -> Path:
    found = locate(str(name)) if name else None
    if found is None:
        raise UserError(f"nninteractive: no file {name}; `tags-bench weights fetch nninteractive`")
    return found
