"""Pages that lie elsewhere in the repository, and links out of `docs/`."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbconvert import MarkdownExporter

ROOT = Path(__file__).parents[2]
# Where files of the repository are in the site.
PAGES = {
    "benchmarks/README.md": "explanation/benchmarks.md",
    "launch/README.md": "how-to/launch.md",
    "SECURITY.md": "explanation/security.md",
    "configs/base.py": "reference/config.md",
}
NOTEBOOK = "examples/quickstart.ipynb"
_LINK = re.compile(r"\[([^\]]*)\]\(([^)\s:]+)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages, and the notebook with its figures."""
    for source, page in PAGES.items():
        if source.endswith(".md"):
            files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    text, resources = MarkdownExporter().from_filename(ROOT / NOTEBOOK)
    files.append(File.generated(config, "tutorials/notebook.md", content=text))
    for name, data in resources["outputs"].items():
        files.append(File.generated(config, f"tutorials/{name}", content=data))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns links to the repository into links to the site, or into text where it has no page."""
    uri = page.file.src_uri
    here = next((source for source, target in PAGES.items() if target == uri), f"docs/{uri}")

    def resolved(match: re.Match[str]) -> str:
        text, target = match.groups()
        path, mark, anchor = target.partition("#")
        if not path:
            return match[0]
        found = posixpath.normpath(posixpath.join(posixpath.dirname(here), path))
        site = PAGES.get(found, found.removeprefix("docs/"))
        if files.get_file_from_path(site) is None:
            if (ROOT / found).exists() and not found.startswith("docs/"):
                return text  # source code, say
            return match[0]  # MkDocs names it
        link = posixpath.relpath(site, posixpath.dirname(uri) or ".")
        return f"[{text}]({link}{mark}{anchor})"

    return _LINK.sub(resolved, markdown)
