"""Recipe files for tests."""

from pathlib import Path


def write(folder: Path, text: str, name: str = "mine.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path
