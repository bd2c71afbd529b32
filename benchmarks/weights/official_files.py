"""The official weights files of all installed methods: listed, fetched, verified, and found for a run.

Every method announces its files (`Method.files`), so whatever is installed takes part, third-party methods included.
A file that no program can fetch (a form, a shared drive) is never pretended: it is listed with the page to open and
the name under which to save it.
"""

from __future__ import annotations

import importlib
import json
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from benchmarks.common import download as http
from benchmarks.common.download import Progress, RemoteFile, content_problem, download, file_digest
from benchmarks.common.errors import UserError, nearest_name
from benchmarks.common.files import write_json
from benchmarks.common.paths import user_path
from benchmarks.common.weight_file import WeightFile, locate, weights_folder
from benchmarks.contestants import Method, methods

logger = logging.getLogger(__name__)

State = Literal["absent", "present", "verified", "wrong size", "wrong checksum", "wrong content"]
WRONG: tuple[State, ...] = ("wrong size", "wrong checksum", "wrong content")
NOT_PUBLISHED = "none published"
RECORDS = ".records"  # below the weights folder: accepted licences, and what the last check of a file found


@dataclass(frozen=True)
class Announced:
    """A file with the methods that use it, and how each of them does (`uses`, in the same order)."""

    file: WeightFile
    methods: tuple[str, ...]
    uses: tuple[WeightFile, ...]


def official_files(installed: Iterable[Method] | None = None) -> dict[str, Announced]:
    """All announced files by name, in the order of the methods.

    Raises:
        ValueError: two methods announce different files under one name (a mistake in a method).
    """
    found: dict[str, Announced] = {}
    for method in methods().values() if installed is None else installed:
        for file in method.files:
            known = found.get(file.name, Announced(file, (), ()))
            if known.file != file:
                raise ValueError(f"methods {known.methods[0]} and {method.name} disagree about '{file.name}'")
            found[file.name] = Announced(file, (*known.methods, method.name), (*known.uses, file))
    return found


def wanted(words: Iterable[str]) -> list[Announced]:
    """The files that some names of files or of methods stand for.

    Raises:
        UserError: a word that is neither, or a method without official files; with the nearest name.
    """
    files, installed = official_files(), methods()
    chosen: dict[str, Announced] = {}
    for word in words:
        of_method = {name: one for name, one in files.items() if word in one.methods}
        if word in files:
            chosen[word] = files[word]
        elif of_method:
            chosen |= of_method
        elif word in installed:
            raise UserError(f"method '{word}' has no official file")
        else:
            known = {*files, *(name for one in files.values() for name in one.methods)}
            raise UserError(f"no file and no method with files '{word}'; {nearest_name(word, known)}")
    return list(chosen.values())


# -- list --


def state_of(file: WeightFile) -> State:
    """What is known without reading the file: its size, and what the last check of these very bytes found."""
    if not file.path.is_file():
        return "absent"
    if file.bytes is not None and file.path.stat().st_size != file.bytes:
        return "wrong size"
    record = _last_check(file)
    known: dict[str, State] = {word: word for word in ("present", "verified", *WRONG)}
    return known.get(str(record.get("state")), "present")


def as_rows(announced: Iterable[Announced]) -> list[dict[str, Any]]:
    """Plain rows for JSON: everything that is known of each file."""
    return [
        {
            "file": one.file.name,
            "methods": list(one.methods),
            "bytes": one.file.bytes,
            "licence": one.file.licence,
            "state": state_of(one.file),
            "how": how(one.file),
            "optional": all(use.optional for use in one.uses),
            "url": one.file.url,
            "page": one.file.page,
            "checksum": one.file.checksum,
            "path": str(one.file.path),
            "note": one.file.note,
        }
        for one in announced
    ]


def how(file: WeightFile) -> str:
    """How one comes by the file: "fetch" or "by hand"."""
    return "fetch" if file.url else "by hand"


def size_words(size: int | None) -> str:
    """Bytes as MB or GB; "unknown" where no size is known."""
    if size is None:
        return "unknown"
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def markdown_table(announced: Iterable[Announced]) -> str:
    """The facts about the files as a Markdown table, for the documentation."""
    lines = ["| file | methods | size | licence | checksum | where from |", "| --- | --- | ---: | --- | --- | --- |"]
    for one in announced:
        file = one.file
        kind, _, digest = file.checksum.partition(":")
        checksum = f"{kind.upper().replace('SHA', 'SHA-')} `{digest[:8]}…`" if digest else NOT_PUBLISHED
        source = f"[{how(file)}]({file.page})" + (f", there {file.upstream}" if file.upstream else "")
        cells = (f"`{file.name}`", ", ".join(one.methods), size_words(file.bytes), file.licence, checksum, source)
        lines.append("| " + " | ".join(cells) + " |")
    notes = dict.fromkeys(one.file.note for one in announced if one.file.note)
    return "\n".join(lines) + "\n\n" + "\n".join(f"- {note}" for note in notes) + "\n"


# -- fetch --


def terms(file: WeightFile) -> str:
    """What is accepted before a file is fetched, in a line."""
    return f"{file.name}: {file.licence} ({file.page})"


def licence_accepted(file: WeightFile) -> bool:
    """Whether these terms were accepted on this machine before."""
    return http.licence_accepted(_record(file, "licence"), terms(file))


def accept_licence(file: WeightFile) -> None:
    """Remember that the terms were shown and accepted."""
    http.accept_licence(_record(file, "licence"), terms(file))


def by_hand(file: WeightFile) -> str:
    """Exactly what a person has to do to get the file."""
    what = f"open {file.page}, download {file.upstream or file.name}, save it as {file.path}"
    return f"{what}, then `tags-bench weights verify {file.name}`"


def fetch(file: WeightFile, progress: Progress | None = None) -> Path:
    """Bring a file into the weights folder, whole and checked; one that is there is only checked.

    Raises:
        UserError: no program can fetch it (with what to do by hand), licence not accepted, no connection, another
            size or checksum than published, or what is there is not the file.
    """
    if file.path.is_file():
        problem = content_problem(file.path, file.checksum, file.bytes)
        if problem:
            raise UserError(f"{file.path}: {problem}; remove it and run this again")
    elif not file.url:
        raise UserError(f"no program can fetch {file.name}: {by_hand(file)}")
    elif not licence_accepted(file):
        raise UserError(f"{terms(file)}. Accept it with `tags-bench weights fetch {file.name} --accept-licence`")
    else:
        remote = RemoteFile(file.url, file.name, file.checksum, file.bytes, file.page)
        download(remote, file.path, progress)
    if file.checksum:
        _remember(file, "verified", "")
    return file.path


def fetch_all(
    announced: Iterable[Announced], progress: Progress | None = None
) -> tuple[list[dict[str, Any]], list[str]]:
    """Fetch each file; what is there now, as rows, and a line for each that is missing or wrong.

    A file without a published checksum is looked into, as `verify` does.
    """
    rows, problems = [], []
    for one in announced:
        try:
            path = fetch(one.file, progress)
        except UserError as error:
            problems.append(str(error))
            continue
        found = {"state": "verified"} if one.file.checksum else verify(one)
        rows.append({"file": one.file.name, "state": found["state"], "path": str(path)})
        problems += problems_of([found])
    return rows, problems


# -- verify --


def problems_of(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """A line for each row of `verify` whose file is absent or is not what it should be."""
    wrong = [f"{row['path']}: {row['problem']}" for row in rows if row["state"] in WRONG]
    return wrong + [f"{row['file']} is absent: {row['problem']}" for row in rows if row["state"] == "absent"]


def verify(one: Announced) -> dict[str, Any]:
    """Read a file and say what it is: size, checksum, and layout where a method can tell.

    A checksum that was never published is computed and shown, so that others can compare.
    """
    file = one.file
    row: dict[str, Any] = {"file": file.name, "state": "absent", "problem": "", "sha256": "", "path": str(file.path)}
    row["published"] = file.checksum or NOT_PUBLISHED
    if not file.path.is_file():
        return {**row, "problem": f"`tags-bench weights fetch {file.name}`" if file.url else by_hand(file)}
    row["sha256"] = file_digest(file.path, "sha256")
    state, problem = _content_state(file, row["sha256"])
    inside = next(filter(None, (_layout_problem(use) for use in one.uses)), "")
    if inside and not problem:
        state = "wrong content"
    problem = "; ".join(filter(None, (problem, inside)))  # what it is instead says what went wrong
    _remember(file, state, problem)
    return {**row, "state": state, "problem": problem}


def _content_state(file: WeightFile, sha256: str) -> tuple[State, str]:
    """By size and checksum alone; the SHA-256 is known already."""
    problem = content_problem(file.path, "", file.bytes)
    if problem:
        return "wrong size", problem
    if not file.checksum:
        return "present", ""
    if file.checksum == f"sha256:{sha256}":
        return "verified", ""
    problem = content_problem(file.path, file.checksum)
    return ("wrong checksum", problem) if problem else ("verified", "")


def _layout_problem(use: WeightFile) -> str:
    """What the method that announces the file says about its inside."""
    return _inside(use.check, use.path, use.system) if use.check else ""


def _inside(check: str, path: Path, system: str) -> str:
    """The answer of a method's own check."""
    module, _, name = check.partition(":")
    return str(getattr(importlib.import_module(module), name)(path, system))


@cache
def _inside_once(check: str, path: Path, system: str, size: int, mtime_ns: int) -> str:
    """The same, asked once for a file as it is: a plan asks for every unit."""
    return _inside(check, path, system)


# -- for a run --


def settings_from_files(
    method: Method, title: str, config: Mapping[str, Any], dataset: str, by_rule: Collection[str] = ()
) -> dict[str, str]:
    """Settings that name the official files of the weights folder where the configuration names none.

    Args:
        title: the method's name in the suite, for messages.
        config: the method's whole configuration.
        dataset: name of the dataset at hand, since some methods have a file for each; "" for none.
        by_rule: names of the files whose place a stand-in of a rehearsal takes.

    Raises:
        UserError: a file that the method cannot do without is not there (says how to get it), it holds something
            else than it should, or its licence has not been accepted.
    """
    found = {}
    for setting in dict.fromkeys(file.setting for file in method.files if not file.optional):
        files = [file for file in method.files if file.setting == setting and not file.optional]
        value = config.get(setting)
        if value is None and setting == "checkpoint" and method.needs_checkpoint:
            found[setting] = str(_file_for(files, title, dataset))
        named = next((file for file in files if file.name == value), None)
        if named is not None:
            path = locate(named.name)
            if path is None:
                raise UserError(_missing(named, title))
            if setting == "checkpoint":  # methods take a path there; other settings know names themselves
                found[setting] = str(path)
    if method.needs_checkpoint and not {**config, **found}.get("checkpoint"):
        raise UserError(
            f"method '{title}' needs its official file: --checkpoint {title}=FILE, or `checkpoint` in the suite "
            f"(docs/methods says which file)"
        )
    _refuse_another_content(method, title, {**config, **found}.get("checkpoint"))
    due = [file for file in _used(method.files, {**config, **found}, dataset) if file.name not in by_rule]
    _refuse_what_was_not_accepted(method, title, due)
    return found


def released_for(method: Method, config: Mapping[str, Any]) -> str:
    """The one dataset that the official file of a configuration was made for, by its announced name; "" where none is.

    Its weights want scans with the intensities of that dataset.
    """
    name = user_path(str(config.get("checkpoint"))).name
    made_for = next((file.datasets for file in _checkpoints(method) if file.name == name), ())
    return made_for[0] if len(made_for) == 1 else ""


def unnamed_release(method: Method, title: str, config: Mapping[str, Any], dataset: str) -> str:
    """A line for a file whose name does not say which dataset it was made for, where that is not the one at hand."""
    files = _checkpoints(method)
    apart = bool(files) and not any(file.fits(dataset) for file in files)
    if not apart or not config.get("checkpoint") or released_for(method, config):
        return ""
    return (
        f"{title}: the name of {config['checkpoint']} does not say which dataset its weights are of, so they see scans "
        f"in the window of the target at hand, and not in their own; save it as {files[0].name} or so"
    )


def _checkpoints(method: Method) -> list[WeightFile]:
    return [file for file in method.files if file.setting == "checkpoint"]


def _used(files: Sequence[WeightFile], config: Mapping[str, Any], dataset: str) -> list[WeightFile]:
    """Of a method's files those that a configuration uses on a dataset.

    Where a setting has a file for each dataset, it is the one that is named, or else the one of the dataset; all of
    them where neither says which.
    """
    used = []
    for setting in dict.fromkeys(file.setting for file in files):
        choice = [file for file in files if file.setting == setting]
        named = [file for file in choice if file.name == user_path(str(config.get(setting))).name]
        fitting = [file for file in choice if file.fits(dataset)]
        used += named or fitting or choice
    return used


def _refuse_what_was_not_accepted(method: Method, title: str, files: Sequence[WeightFile]) -> None:
    """A licence that restricts the use is accepted before the use, however the file came to be there.

    A stand-in is not the authors' work: only its keys and shapes are those of the file, so no licence is asked for.
    """
    for file in files:
        if file.restricted and not licence_accepted(file):
            raise UserError(
                f"method '{title}': the terms of {terms(file)} restrict its use; read them, and accept them with "
                f"`tags-bench weights fetch {file.name} --accept-licence`"
            )


def _refuse_another_content(method: Method, title: str, checkpoint: Any) -> None:
    """Another system's file, a damaged or a malicious one: told now and not after an hour in the queue."""
    use = next((file for file in method.files if file.setting == "checkpoint" and file.check), None)
    path = user_path(str(checkpoint))
    if checkpoint is None or use is None or not path.is_file():
        return
    found = path.stat()
    problem = _inside_once(use.check, path, use.system, found.st_size, found.st_mtime_ns)
    if problem:
        raise UserError(f"method '{title}': {path}: {problem}")


def _file_for(files: list[WeightFile], title: str, dataset: str) -> Path:
    suited = [file for file in files if file.fits(dataset)]
    if not suited:
        if not dataset:
            known = ", ".join(file.name for file in files)
            raise UserError(
                f"method '{title}' has an official file for each dataset: say which with --checkpoint FILE ({known}, "
                f"in {weights_folder()})"
            )
        known = ", ".join(dict.fromkeys(name for file in files for name in file.datasets))
        raise UserError(
            f"method '{title}' needs an official file for each dataset, and none was released for '{dataset}' (only "
            f"for {known}); give one with --checkpoint {title}=FILE"
        )
    present = [file.path for file in suited if file.path.is_file()]
    if not present:
        raise UserError(_missing(suited[0], title))
    return present[0]


def _missing(file: WeightFile, title: str) -> str:
    source = size_words(file.bytes) if file.url else f"by hand, from {file.page}"
    other = f"--checkpoint {title}=FILE" if file.setting == "checkpoint" else f"its path as setting `{file.setting}`"
    return (
        f"method '{title}' needs its official file {file.name} in {weights_folder()}: "
        f"`tags-bench weights fetch {file.name}` ({source}; {file.licence}), or give {other}"
    )


# -- what was found before --


def _record(file: WeightFile, kind: str) -> Path:
    return weights_folder() / RECORDS / f"{file.name}.{kind}.json"


def _remember(file: WeightFile, state: State, problem: str) -> None:
    """What a check found, and of which bytes, so that a list need not read gigabytes again."""
    found = file.path.stat()
    seen = {"bytes": found.st_size, "mtime_ns": found.st_mtime_ns, "published": file.checksum}
    try:
        write_json(_record(file, "check"), {**seen, "state": state, "problem": problem})
    except OSError as error:  # a folder that is shared read-only is no mistake
        logger.warning("%s: what was found is not remembered (%s)", file.path, error.strerror)


def _last_check(file: WeightFile) -> dict[str, Any]:
    """What the last check found, or nothing if the file or the published checksum has changed since."""
    try:
        record = json.loads(_record(file, "check").read_text("utf-8"))
        found = file.path.stat()
        seen = (record["bytes"], record["mtime_ns"], record["published"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}  # never checked, or a damaged record: as good as never
    return record if seen == (found.st_size, found.st_mtime_ns, file.checksum) else {}
