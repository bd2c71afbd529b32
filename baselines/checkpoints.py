"""Safe reading of official checkpoint files, and strict loading into our networks.

An official file is a stranger's pickle. It is read with `torch.load(weights_only=True)` and in no other way:
torch's own unpickler, which builds tensors and plain containers and calls nothing else. Some official files
also hold objects (an optimiser, an `argparse.Namespace`, a NumPy scalar). Those are not imported either:
`read_checkpoint` lists the classes that the file names, without running it, and hands torch's unpickler an
inert stand-in for each. A file that names anything able to act (os, subprocess, builtins.eval …) is refused.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.common.checkpoint import load_strictly, named
from benchmarks.common.errors import UserError
from benchmarks.common.weight_file import locate
from benchmarks.weights.segment_anything import sam_of

State = dict[str, torch.Tensor]


_ACTING_MODULES = frozenset(
    """
    asyncio builtins bdb code codeop commands ctypes cProfile distutils doctest ftplib functools
    glob http httplib imp importlib io linecache marshal multiprocessing nt operator os pathlib pdb
    pickle pip pkgutil platform posix posixpath profile pty pydoc requests runpy shelve shutil
    signal site smtplib socket socketserver sqlite3 ssl subprocess sys sysconfig tempfile threading
    timeit trace types urllib urllib2 venv webbrowser xmlrpc zipfile zipimport __builtin__
    """.split()  # noqa: SIM905, one name per line would drown the file
)
_PLAIN_BUILTINS = frozenset(
    """
    bool bytearray bytes complex dict float frozenset int list object range set slice str tuple
    """.split()  # noqa: SIM905
)
_HARMLESS_IN_ACTING = frozenset(
    {"pathlib.Path", "pathlib.PosixPath", "pathlib.WindowsPath", "pathlib.PurePosixPath", "functools.partial"}
)


class Inert:
    """Stands in for an object whose class is never imported. It holds nothing and does nothing."""

    def __new__(cls, *_args: object, **_kwargs: object) -> Inert:
        return super().__new__(cls)

    def __init__(self, *_args: object, **_kwargs: object) -> None: ...

    def __setstate__(self, _state: object) -> None: ...

    def __hash__(self) -> int:
        return id(self)


def _inert_mapping(*_args: object) -> OrderedDict[Any, Any]:
    """For `collections.defaultdict` (the state of an optimiser): a plain mapping."""
    return OrderedDict()


def _inert_list(*_args: object) -> list[Any]:
    return []


_STAND_INS: dict[str, Callable[..., Any]] = {
    "collections.defaultdict": _inert_mapping,
    "collections.deque": _inert_list,
}


def read_checkpoint(path: Path | str, mmap: bool = False) -> Any:
    """Read an official checkpoint file onto the CPU; whatever is not a tensor or plain data becomes `Inert`.

    Args:
        mmap: leave the tensors in the file, where its format allows: enough to look at names and shapes.

    Raises:
        UserError: no such file, truncated, not a torch checkpoint, or one that asks for code to be run.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint file")
    mmap = mmap and zipfile.is_zipfile(path)  # the format of torch before 1.6 cannot be mapped
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        return _read_with_stand_ins(path, error, mmap)
    except (
        RuntimeError,
        EOFError,
        ValueError,
        KeyError,
        IndexError,
        OSError,
        AttributeError,
        TypeError,
    ) as error:
        raise UserError(_unreadable(path, error)) from error


def _read_with_stand_ins(path: Path, refusal: Exception, mmap: bool) -> Any:
    try:
        foreign = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(str(path)))
    except (RuntimeError, ValueError, EOFError, KeyError, IndexError, pickle.UnpicklingError) as error:
        raise UserError(_unreadable(path, refusal)) from error
    if not foreign:  # refused for another reason than a foreign class
        raise UserError(_unreadable(path, refusal)) from refusal
    acting = [name for name in foreign if _can_act(name)]
    if acting:
        raise UserError(f"{path}: refused, the file asks for {named(acting)} to be called; it is not a model")
    stand_ins: list[Callable | tuple[Callable, str]] = [(_STAND_INS.get(name, Inert), name) for name in foreign]
    try:
        with torch.serialization.safe_globals(stand_ins):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except (RuntimeError, ValueError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise UserError(_unreadable(path, error)) from error


def _can_act(name: str) -> bool:
    package, _, attribute = name.partition(".")
    if package in ("builtins", "__builtin__"):
        return attribute not in _PLAIN_BUILTINS
    return package in _ACTING_MODULES and name not in _HARMLESS_IN_ACTING


def _unreadable(path: Path, error: Exception) -> str:
    reason = str(error).strip().split("\n")[0][:160] or type(error).__name__
    return f"{path}: truncated, or not a torch checkpoint; download it again ({reason})"


def tensor_names(checkpoint: Any, prefix: str = "") -> Iterator[str]:
    """Dotted names of all tensors anywhere in a checkpoint, such as "model.image_encoder.pos_embed"."""
    if isinstance(checkpoint, torch.Tensor):
        yield prefix
    elif isinstance(checkpoint, Mapping):
        for key, value in checkpoint.items():
            yield from tensor_names(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(checkpoint, list | tuple):
        for index, value in enumerate(checkpoint):
            yield from tensor_names(value, f"{prefix}.{index}" if prefix else str(index))


_SIGNATURES: tuple[tuple[str, str], ...] = (  # first match wins: (pattern of a tensor's name, what the file is)
    (r"\.Adapter\.spatial\.\d+\.weight$", "SAM-Med2D"),
    (r"feature_dict\.\d+\.|\.attn\.lr$", "3DSAM-adapter"),
    (r"text_encoder\.(clip_text_model|dim_align)\.|txt_align_upscaled_embedding", "SegVol"),
    (r"swinViT\.layers1\.", "Universal Model (Swin UNETR)"),
    (r"down_tr64\.ops\.", "Universal Model (U-Net)"),
    (r"image_encoder\.blocks\.\d+\.attn\.rel_pos_d$", "SAM-Med3D"),
    (r"vision_encoder\.layers\.\d+\.attn\.", "SAM in the layout of transformers"),
    (r"network_weights\.", "nnU-Net"),
    (r"memory_attention\.layers\.", "SAM 2"),
    (r"(^|\.)point_head\.", "VISTA3D"),
)


def recognise(checkpoint: Any) -> str | None:
    """Which system's official file this looks like, judged by the names of its tensors; None if unknown."""
    names = list(tensor_names(checkpoint))
    for pattern, system in _SIGNATURES:
        if any(re.search(pattern, name) for name in names):
            return system
    return sam_of(_positions(checkpoint))


def _positions(checkpoint: Any) -> tuple[int, ...]:
    """Shape of a 2D SAM image encoder's table of positions, at any depth of the containers; empty if there is none."""
    if not isinstance(checkpoint, Mapping):
        return ()
    for key, value in checkpoint.items():
        if isinstance(value, torch.Tensor) and str(key).endswith("image_encoder.pos_embed"):
            return tuple(value.shape)
        found = _positions(value)
        if found:
            return found
    return ()


def state_dict_of(
    checkpoint: Any,
    path: Path | str,
    system: str,
    containers: Sequence[str] = ("model_state_dict", "model", "state_dict", "net"),
    prefixes: Sequence[str] = ("module.",),
) -> State:
    """The state dict inside a checkpoint: its container opened, a prefix common to all keys taken off.

    Args:
        checkpoint: what `read_checkpoint` gave.
        system: the system expected ("SAM-Med2D"), for messages and to notice the file of another one.
        containers: keys that may hold the state dict, tried in order; a bare state dict passes.
        prefixes: prefixes that are stripped if every key has them.

    Raises:
        UserError: the file belongs to another system, or holds no state dict.
    """
    seen = recognise(checkpoint)
    if seen is not None and seen != system:
        raise UserError(f"{path}: this looks like {seen}, expected {system}")
    state = checkpoint
    for container in containers:
        if isinstance(state, Mapping) and isinstance(state.get(container), Mapping):
            state = state[container]
            break
    if not isinstance(state, Mapping) or not state:
        raise UserError(f"{path}: holds no state dict (expected {system})")
    foreign = [str(key) for key, value in state.items() if not isinstance(value, torch.Tensor)]
    if foreign:
        raise UserError(f"{path}: not a state dict of {system}: {named(foreign)} is no tensor")
    return strip_prefixes({str(key): value for key, value in state.items()}, prefixes)


def strip_prefixes(state: Mapping[str, torch.Tensor], prefixes: Sequence[str] = ("module.",)) -> State:
    """Take each prefix off all keys, if all of them have it."""
    for prefix in prefixes:
        if state and all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return dict(state)


def load_official(
    module: torch.nn.Module,
    path: Path | str,
    system: str,
    prefixes: Sequence[str] = ("module.",),
    optional: Iterable[str] = (),
) -> None:
    """Read an official file and load it strictly: the three steps above in a row.

    Args:
        optional: patterns (`re.search`) of keys that the file may hold and that are dropped.
    """
    state = state_dict_of(read_checkpoint(path), path, system, prefixes=prefixes)
    kept = {key: value for key, value in state.items() if not any(re.search(pattern, key) for pattern in optional)}
    load_strictly(module, kept, path, system)


def official_file_problem(path: Path, system: str) -> str:
    """What is wrong with a file that should be the official one of `system`, in a line; "" if nothing is.

    Names and shapes are looked at, no value is read and nothing of the file is run.
    """
    try:
        seen = recognise(read_checkpoint(path, mmap=True))
    except UserError as error:
        return str(error).removeprefix(f"{path}: ")
    if seen is None:
        return f"not recognised as any known system, expected {system}"
    return "" if seen == system else f"this looks like {seen}, expected {system}"


def required_file(checkpoint: Path | str | None, method: str, file_name: str, source: str) -> Path:
    """The path of an official file that a method cannot do without.

    Args:
        checkpoint: the method's setting `checkpoint`: a path, or a name in the weights folder; None for `file_name`.
        file_name: the official name, such as "sam_vit_b_01ec64.pth".
        source: in words, where it is released.

    Raises:
        UserError: not given or not there; says which file, where it is released and how to name it.
    """
    path = locate(file_name if checkpoint is None else checkpoint)
    if path is not None:
        return path
    if checkpoint is None:
        raise UserError(
            f"method '{method}' needs the official file {file_name} ({source}): "
            f"see `tags-bench weights fetch {method}`, or set the method's 'checkpoint' to its path"
        )
    raise UserError(f"{checkpoint}: no such checkpoint file; method '{method}' needs {file_name} ({source})")
