"""Fetching files over HTTP: resumed where it broke off, checked, and only once a licence is accepted.

A file appears under its name whole and checked, or not at all. What has arrived of it waits beside it as `.part`,
and the next call goes on from there. Without a network the error says what to get and where to put it.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import shutil
import socket
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.common.errors import UserError
from benchmarks.common.files import exclusively, write_json

ATTEMPTS = 5  # in a row that bring nothing
PAUSE_SECONDS = 2.0  # doubled after every attempt that brought nothing
TIMEOUT_SECONDS = 30.0
BLOCK = 1 << 20

Progress = Callable[["RemoteFile", int, int | None], Any]


@dataclass(frozen=True)
class RemoteFile:
    """A file to fetch, and how to know that it is whole.

    Attributes:
        url: its address.
        path: its place below the folder of whatever it belongs to.
        check: "md5:…" or "sha256:…" in hexadecimal, "gzip" (read to the end, where its CRC-32 stands), or "" where
            nothing is published.
        bytes: its size, where published.
        page: where a person would look for it.
    """

    url: str
    path: str
    check: str = ""
    bytes: int | None = None
    page: str = ""


def licence_accepted(record: Path, terms: str) -> bool:
    """Whether these very terms were accepted before; `record` is what `accept_licence` wrote."""
    if not record.is_file():
        return False
    try:
        return bool(json.loads(record.read_text("utf-8")).get("licence") == terms)
    except (ValueError, AttributeError):
        return False  # a damaged record proves nothing: ask again


def accept_licence(record: Path, terms: str) -> None:
    """Remember that the terms were shown and accepted. Raises UserError if nothing can be written there."""
    try:
        write_json(record, {"licence": terms, "accepted": time.strftime("%Y-%m-%dT%H:%M:%S%z")})
    except OSError as error:
        raise UserError(f"{record}: cannot be written ({error.strerror or error})") from error


def download(remote: RemoteFile, target: Path, progress: Progress | None = None) -> None:
    """Fetch one file to `target`, which appears whole and checked; a broken transfer goes on where it stopped.

    Raises:
        UserError: no connection (with what to get and where to put it), refused by the server, wrong content,
            or no space.
    """
    if urlsplit(remote.url).scheme not in ("http", "https"):
        raise UserError(f"{remote.url}: only http and https addresses are fetched")
    partial = target.with_name(target.name + ".part")
    by_hand = f"get {remote.url} by other means{_see(remote)}, save it as {target}, and run this again"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        busy = f"{target}: another process is fetching this file; wait until it is done"
        with exclusively(partial.with_name(partial.name + ".lock"), busy):
            problem = _transfer_patiently(remote, partial, progress)
            if problem:
                host = urlsplit(remote.url).netloc
                raise UserError(f"no complete answer from {host} ({problem}); try again later, or {by_hand}")
            _check(remote, partial)
            os.replace(partial, target)
            _tag_file(partial).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{target}: cannot be written ({error.strerror or error})") from error


def check_download(remote: RemoteFile, path: Path) -> None:
    """Check a file that was got by other means. Raises UserError, and leaves the file alone."""
    reason = content_problem(path, remote.check, remote.bytes)
    if reason:
        raise UserError(f"{path}: {reason}; remove it and fetch {remote.url} again")


def content_problem(path: Path, check: str, size: int | None = None) -> str:
    """What is wrong with a file's size or content, in a few words; "" if nothing is."""
    found = path.stat().st_size
    if size is not None and found != size:
        return f"wrong size ({found:,} bytes, expected {size:,})"
    if not check:
        return ""
    if check == "gzip":
        return _gzip_problem(path)
    kind, _, expected = check.partition(":")
    digest = file_digest(path, kind)
    return "" if digest == expected else f"wrong checksum ({kind} {digest}, expected {expected})"


def file_digest(path: Path, kind: str) -> str:
    """The "md5" or "sha256" of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(kind, usedforsecurity=kind != "md5")).hexdigest()


def _see(remote: RemoteFile) -> str:
    return f" (see {remote.page})" if remote.page else ""


def _transfer_patiently(remote: RemoteFile, partial: Path, progress: Progress | None) -> str:
    """Ask again, each time for what is missing; what was wrong at the end, nothing if the file is complete."""
    problem, most, idle = "", _size(partial), 0
    while idle < ATTEMPTS:
        if problem:
            time.sleep(PAUSE_SECONDS * 2**idle)
        try:
            if _transfer(remote, partial, progress):
                return ""
            problem = "the connection broke off"
        except urllib.error.HTTPError as error:
            if error.code < 500:
                raise UserError(f"{remote.url}: refused by the server ({error.code} {error.reason})") from error
            problem = f"{error.code} {error.reason}"
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            reason = getattr(error, "reason", error)
            problem = str(reason) or type(reason).__name__
            if isinstance(reason, (socket.gaierror, ConnectionRefusedError)):
                return problem  # no network, or nobody there: waiting does not help
        idle = 0 if _size(partial) > most else idle + 1
        most = max(most, _size(partial))
    return problem


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _transfer(remote: RemoteFile, partial: Path, progress: Progress | None) -> bool:
    """One request, for what is missing; whether the file is then complete."""
    have = _size(partial)
    headers = {"User-Agent": "tags-bench", "Accept-Encoding": "identity"}
    tag = _tag_file(partial)
    if have and tag.is_file():
        headers |= {"Range": f"bytes={have}-", "If-Range": tag.read_text("utf-8")}
    else:
        have = 0  # without a tag nothing says that the rest would belong to this beginning
    try:
        answer = urllib.request.urlopen(urllib.request.Request(remote.url, headers=headers), timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is left to send: it was complete, or it is another file by now
            complete = (error.headers.get("Content-Range") or "").rpartition("/")[2]
            if complete == str(have):
                return True
            _forget(partial)
            return False
        raise
    with answer:
        if answer.status != 206:
            have = 0  # the server sends all of it
        elif not (answer.headers.get("Content-Range") or "").startswith(f"bytes {have}-"):
            _forget(partial)  # a part that was not asked for
            return False
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length else None
        _refuse_another_file(remote, answer, total)
        if total is not None and total - have > shutil.disk_usage(partial.parent).free:
            raise UserError(f"{partial.parent}: no space for {total:,} bytes of {remote.url}")
        _write_tag(tag, answer.headers)
        with partial.open("ab" if have else "wb") as file:
            while block := answer.read(BLOCK):
                file.write(block)
                have += len(block)
                if progress is not None:
                    progress(remote, have, total)
    return total is None or have == total


def _refuse_another_file(remote: RemoteFile, answer: Any, total: int | None) -> None:
    """Before anything is written: a web page, another size, or a way that is no longer encrypted."""
    if urlsplit(remote.url).scheme == "https" and urlsplit(answer.url).scheme != "https":
        raise UserError(f"{remote.url}: leads to {answer.url}, which is not encrypted; not fetched")
    if answer.headers.get_content_type() == "text/html":
        raise UserError(
            f"{remote.url}: the server sent a web page and not the file (a login or a form?); look at it in a browser"
            f"{_see(remote)}"
        )
    if total is not None and remote.bytes is not None and total != remote.bytes:
        raise UserError(
            f"{remote.url}: wrong size, the server offers {total:,} bytes and {remote.bytes:,} were published; "
            f"it is another file by now{_see(remote)}"
        )


def _tag_file(partial: Path) -> Path:
    return partial.with_name(partial.name + ".tag")


def _forget(partial: Path) -> None:
    partial.unlink(missing_ok=True)
    _tag_file(partial).unlink(missing_ok=True)


def _write_tag(path: Path, headers: Any) -> None:
    """What If-Range needs: a strong entity tag, else the date of change."""
    tag = headers.get("ETag") or ""
    value = tag if tag and not tag.startswith("W/") else headers.get("Last-Modified") or ""
    if value:
        path.write_text(value, "utf-8")
    else:
        path.unlink(missing_ok=True)


def _check(remote: RemoteFile, partial: Path) -> None:
    """Whether the content is what was promised; a wrong download is removed."""
    reason = content_problem(partial, remote.check, remote.bytes)
    if reason:
        _forget(partial)
        raise UserError(f"{remote.url}: {reason}; the file was removed, fetch it again")


def _gzip_problem(path: Path) -> str:
    """Read a gzip file to its end without keeping anything; its CRC-32 is checked on the way."""
    inflate = zlib.decompressobj(wbits=31)
    try:
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                while block and not inflate.eof:
                    inflate.decompress(block, BLOCK)
                    block = inflate.unconsumed_tail
    except zlib.error as error:
        return f"damaged ({error})"
    return "" if inflate.eof else "damaged (it ends too early)"
