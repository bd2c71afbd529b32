"""The documentation site is built with every link checked, and names only commands that there are."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.documents.commands import FENCE, help_texts, parse, shown_in

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
EXAMPLES = sorted((ROOT / "examples").glob("*/README.md"))


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


@pytest.mark.parametrize("page", [*PAGES, *EXAMPLES], ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_shown_exists_with_its_options(page: Path) -> None:
    for words in shown_in(page.read_text(encoding="utf-8")):
        if not words[0][0].isdigit():  # a version
            parse(words)


def test_every_command_in_a_help_text_exists_with_its_options() -> None:
    shown = {where: list(shown_in(text)) for where, text in help_texts().items()}
    for commands in shown.values():
        for words in commands:
            parse(words)
    assert ["data", "splits", "kits21", "--out", "kits21-splits.json"] in shown["tags-bench data splits"]


def test_commands_are_found_wherever_a_page_shows_them_and_wrong_ones_are_refused() -> None:
    page = "Say `tags-bench run\n--suite quick`.\n\n```\ntags-bench score A B --label 2  # both\n```\n"
    assert list(shown_in(page)) == [["score", "A", "B", "--label", "2"], ["run", "--suite", "quick"]]
    parse(["weights"])
    parse(["show"])
    for words, message in (
        (["runn"], "no command 'runn'"),
        (["data", "ad", "x"], "no command 'ad'"),
        (["--versions"], "no option '--versions'"),
        (["run", "--stepps", "3"], "(?i)no such option"),
        (["run", "--steps", "many"], "(?i)valid integer"),
        (["suites", "one-too-many"], "(?i)unexpected extra argument"),
    ):
        with pytest.raises(Exception, match=message):
            parse(words)


def test_the_citation_is_of_this_version() -> None:
    import tomllib

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"]
