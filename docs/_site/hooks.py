"""Add the pages that stand beside docs/ in the repository (README.md, LOG.md, ...) to the site.

MkDocs reads one folder. The pages beside it are read on GitHub as well, where their links go from one folder to the
other. This file adds them to the site and turns such links into links between pages of the site. A link to another file
of the repository, such as a notebook, becomes a link to a copy of it.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
# The repository's pages, by their path in the repository.
PAGES = {
    "README.md": "readme.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "LOG.md": "log.md",
    "CHANGELOG.md": "changelog.md",
}
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the repository's pages, and the other files that a page links to."""
    for source, target in PAGES.items():
        files.append(File.generated(config, target, content=(ROOT / source).read_text(encoding="utf-8")))
    for file in list(files.documentation_pages()):
        for link in LINK.findall(file.content_string):
            path = _repository_path(file.src_uri, link)
            is_outside = not path.startswith("docs/") and path not in PAGES and (ROOT / path).is_file()
            if is_outside and not files.get_file_from_path(path):
                files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Return the text of a page with the links of the repository changed into those of the site."""

    def site_link(match: re.Match[str]) -> str:
        path = _repository_path(page.file.src_uri, match[1])
        target = PAGES.get(path, path.removeprefix("docs/"))
        return posixpath.relpath(target, posixpath.dirname(page.file.src_uri) or ".")

    return LINK.sub(site_link, markdown)


def _repository_path(page: str, link: str) -> str:
    """Return the path in the repository that a link of a page of the site means."""
    in_repository = next((source for source, target in PAGES.items() if target == page), f"docs/{page}")
    return posixpath.normpath(posixpath.join(posixpath.dirname(in_repository), link))
