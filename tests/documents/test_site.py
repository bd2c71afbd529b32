"""The documentation site is built with every link checked, and names only commands that there are."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
FENCE = re.compile(r"^```\w*\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)


def test_the_site_is_built_and_no_link_is_broken(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="the extra 'docs' is not installed")
    words = ["build", "--strict", "--quiet", "--config-file", str(ROOT / "mkdocs.yml"), "--site-dir", str(tmp_path)]
    done = subprocess.run([sys.executable, "-m", "mkdocs", *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for source in (ROOT / "docs").rglob("*.md"):
        page = source.relative_to(ROOT / "docs").with_suffix("")
        where = tmp_path / ("index.html" if page.name == "index" else f"{page}/index.html")
        assert where.is_file(), f"{source} is not on the site"
    assert "load_suite" in (tmp_path / "api" / "bench" / "index.html").read_text(encoding="utf-8")


def test_every_verb_of_the_package_is_on_the_page_of_its_api() -> None:
    import benchmarks

    text = (ROOT / "docs" / "api" / "bench.md").read_text(encoding="utf-8")
    listed = re.findall(r"members: \[(.*)\]", text)[0].split(", ")
    assert set(listed) == {name for name in benchmarks.__all__ if name.islower()}


def files_linked(page: Path) -> list[Path]:
    """Local files that a page links to."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    targets = [target.split("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]
    return [page.parent / target for target in targets if target and not target.startswith("mailto:")]


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_links_lead_somewhere_in_the_checkout_too(page: Path) -> None:
    made_by_the_site = {ROOT / "docs" / name for name in ("contributing.md", "changelog.md")}
    missing = [str(path) for path in files_linked(page) if not path.exists() and path.resolve() not in made_by_the_site]
    assert not missing


def known_options(words: list[str]) -> tuple[set[str], list[str]] | None:
    """The options of the command that the words name, and the words after it; None where there is no such command."""
    import cli

    command = typer.main.get_command(cli.app)
    rest = words[1:]
    while rest and (children := getattr(command, "commands", None)):
        if rest[0].startswith("-"):
            break
        if rest[0] not in children:
            return None
        command, rest = children[rest[0]], rest[1:]
    options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    return options | {"--help", "--version", "--install-completion"}, rest


def commands_shown() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        for block in FENCE.findall(page.read_text(encoding="utf-8")):
            lines = block.replace("\\\n", " ").splitlines()
            found += [(page.name, line.strip()) for line in lines if line.strip().startswith("tags-bench ")]
    return found


def test_every_command_shown_exists_with_its_options() -> None:
    wrong = []
    for page, line in commands_shown():
        words = [re.sub(r"[\[\]]", "", word) for word in shlex.split(line, comments=True)]
        found = known_options(words)
        if found is None:
            wrong.append(f"{page}: {line}")
            continue
        options, rest = found
        named = [word.split("=")[0] for word in rest if word.startswith("--")]
        wrong += [f"{page}: {option} in {line}" for option in named if option not in options]
    assert len(commands_shown()) > 20
    assert not wrong


def test_the_citation_is_of_this_version() -> None:
    import tomllib

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"]
