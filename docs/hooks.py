"""Pages that lie in the root of the project, CONTRIBUTING and CHANGELOG, join the site with their links mended."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
OUTSIDE = re.compile(r"\[([^\]]+)\]\((?:\.\./)*(?:examples|deploy|tests|LICENSE|README\.md)[^)]*\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for source, target in PAGES.items():
        files.append(File.generated(config, target, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links to the pages of the root and from them; what lies outside of the site becomes plain words."""
    for source, target in PAGES.items():
        markdown = markdown.replace(f"](../{source}", f"]({target}").replace(f"](../../{source}", f"](../{target}")
    if page.file.src_uri in PAGES.values():
        markdown = markdown.replace("](docs/", "](")
    return OUTSIDE.sub(r"`\1`", markdown)
