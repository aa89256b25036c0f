"""The documentation as a site: every page is in the menu, and every link and anchor leads somewhere."""

import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.helpers.copies import copy_writable

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(not find_spec("material"), reason="MkDocs Material is not installed: make dev")


def build(root: Path, output_dir: Path) -> subprocess.CompletedProcess[str]:
    """Build the site of a repository; a warning is an error."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", str(root / "mkdocs.yml")]
    return subprocess.run(
        [*command, "--site-dir", str(output_dir)], capture_output=True, text=True, cwd=root, timeout=120
    )


@pytest.fixture
def copy_of_docs(tmp_path: Path) -> Path:
    """A repository with the pages alone, to break them."""
    for name in ("mkdocs.yml", "README.md", "CONTRIBUTING.md", "SECURITY.md", "LOG.md", "CHANGELOG.md"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    copy_writable(ROOT / "docs", tmp_path / "docs")
    return tmp_path


def test_the_site_is_built_without_a_dead_link(tmp_path: Path) -> None:
    process = build(ROOT, tmp_path / "site")
    assert process.returncode == 0, process.stderr
    page = (tmp_path / "site" / "readme.html").read_text(encoding="utf-8")
    # A link of README.md from the repository's root to docs/lamb.md is one between pages of the site.
    assert 'href="lamb.html"' in page
    assert "https://fonts." not in page


@pytest.mark.parametrize("line", ["[gone](gone.md)", "[gone](recipe.md#gone)", "[gone](../gone.md)"])
def test_a_dead_link_ends_the_build(line: str, copy_of_docs: Path, tmp_path: Path) -> None:
    with (copy_of_docs / "docs" / "glossary.md").open("a", encoding="utf-8") as file:
        file.write(f"\n{line}\n")
    process = build(copy_of_docs, tmp_path / "site")
    assert process.returncode != 0
    assert "glossary.md" in process.stderr and "gone" in process.stderr
