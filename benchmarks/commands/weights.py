"""`weights`: official files of the methods."""

from __future__ import annotations

from typing import Annotated

from typer import Argument, Option

from benchmarks.commands import completion
from benchmarks.commands.declare import command, new_group
from benchmarks.commands.licence import show_licence
from benchmarks.commands.options import AcceptOption, PrintOptions
from benchmarks.commands.printing import console, print_broken, print_json, print_rows
from benchmarks.common.errors import UserError

app = new_group(help="Official weights files: what there is, fetch, verify.")


@command(app, "list")
def list_files(
    *,
    method: Annotated[
        str | None,
        Option(
            "--method",
            metavar="NAME",
            help="Only the files of this method.",
            autocompletion=completion.method_names,
        ),
    ] = None,
    printing: PrintOptions,
) -> None:
    """List the official files: size, licence, whether it is here, how to get it.

    No file is read: "verified" and "wrong …" tell what the last check of these very bytes found.
    """
    from benchmarks.common.weight_file import weights_folder
    from benchmarks.contestants import broken_methods
    from benchmarks.weights.official_files import as_rows, official_files, size_words, wanted

    print_broken(broken_methods())

    rows = as_rows(wanted([method]) if method else official_files().values())
    if printing.as_json:
        print_json(rows)
        return
    shown = [
        {
            "file": row["file"],
            "methods": ", ".join(row["methods"]),
            "size": size_words(row["bytes"]),
            "licence": row["licence"],
            "state": row["state"],
            "how": row["how"] + (", optional" if row["optional"] else ""),
        }
        for row in rows
    ]
    print_rows(f"official files, in {weights_folder()}", shown, printing.as_json)
    if any(row["state"] == "absent" for row in rows):
        print("`tags-bench weights fetch FILE` brings a file, or says how to get it by hand")


@command(app)
def fetch(
    *,
    names: Annotated[
        list[str] | None, Argument(metavar="NAME", help="Files or methods of `tags-bench weights list`.")
    ] = None,
    every: Annotated[bool, Option("--all", help="Every file that a program can fetch.")] = False,
    accept: AcceptOption = False,
    printing: PrintOptions,
) -> None:
    """Download official files (resumed, checked) into the weights folder.

    The licence is shown and accepted once.

    Examples:

    * `tags-bench weights fetch sam-b` — the file of a method
    * `tags-bench weights fetch sam_vit_h_4b8939.pth --accept-licence` — a file by name
    """
    from benchmarks.commands.bars import download_bars
    from benchmarks.weights import official_files as official

    if bool(names) == every:
        raise UserError("name files or methods of `tags-bench weights list`, or use --all")
    known = official.official_files().values()
    chosen = [one for one in known if one.file.url] if every else official.wanted(names or [])
    for one in chosen:
        due = one.file.restricted or (one.file.url and not one.file.path.is_file())
        if due and not official.licence_accepted(one.file):
            show_licence(official.terms(one.file), accept)
            official.accept_licence(one.file)
    with download_bars(console()) as advance:
        rows, problems = official.fetch_all(chosen, advance)
    if rows or printing.as_json:
        print_rows("in the weights folder", rows, printing.as_json)
    if problems:
        raise UserError("; ".join(problems))


@command(app)
def verify(
    *,
    names: Annotated[
        list[str] | None, Argument(metavar="NAME", help="Files or methods; default: every file that is here.")
    ] = None,
    printing: PrintOptions,
) -> None:
    """Read official files: size, checksum, and whether they hold what they say.

    Where no checksum is published, the computed SHA-256 is shown. Exit code 2 if a file is not what it should be.
    """
    from benchmarks.weights import official_files as official

    here = [one for one in official.official_files().values() if one.file.path.is_file()]
    chosen = official.wanted(names) if names else here
    with console().status("reading the files"):
        rows = [official.verify(one) for one in chosen]
    if not rows and not printing.as_json:
        print("no official file is here; see `tags-bench weights list`")
        return
    if printing.as_json:
        print_json(rows)
    else:
        shown = [{key: row[key] for key in ("file", "state", "sha256", "published", "problem")} for row in rows]
        for row in shown:
            row["published"] = row["published"].partition(":")[0]
        print_rows("official files, read just now", shown, printing.as_json)
    problems = official.problems_of(rows)
    if problems:
        raise UserError("; ".join(problems))
