"""Write requirements/demo.txt: what a run needs, at the versions of constraints.txt, each file pinned by its hash.

    python requirements/hashes.py        # asks pip's index; make hashes

pip itself says which file it would take on Linux with x86-64 for each Python version, and that file's hash. torch is
left out: its file for the same version differs from index to index (CPU, CUDA), so its version alone is pinned.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from licences import closure, package_key

ROOT = Path(__file__).parents[1]
OUTPUT = ROOT / "requirements" / "demo.txt"
VERSIONS = ("3.11", "3.12")
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
# What builds the package itself from a checkout (pyproject.toml).
BUILD = (
    "hatchling==1.33.0", "editables==0.6", "pathspec==1.1.1", "pluggy==1.7.0", "tomlkit==0.15.2",
    "trove-classifiers==2026.9.21.13",
)  # fmt: skip
HEADER = "# Written by requirements/hashes.py, for CPython {} on Linux with x86-64. torch is not in it (make hashed).\n"


def pinned_requirements() -> list[str]:
    """Return the versions in constraints.txt of the packages that isheep needs, without torch."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {package_key(line.partition("==")[0]): line for line in lines if "==" in line and line[0] != "#"}
    needed = {package_key(package.metadata["Name"]) for package in closure("isheep")} - {"torch"}
    return [pins[name] for name in sorted(needed)]


def file_hashes(requirements: list[str], version: str) -> dict[str, str]:
    """Return the hash of the file that pip would install for each requirement, by NAME==VERSION."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        words = ["--dry-run", "--ignore-installed", "--no-deps", "--only-binary=:all:", "--quiet", "--target", folder]
        platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", *words, *platforms]
        subprocess.run([*command, "--python-version", version, "--report", str(report), *requirements], check=True)
        entries = json.loads(report.read_text(encoding="utf-8"))["install"]
    return {
        f"{entry['metadata']['name']}=={entry['metadata']['version']}": _sha256(entry["download_info"])
        for entry in entries
    }


def _sha256(download: dict[str, Any]) -> str:
    sha256: str = download["archive_info"]["hashes"]["sha256"]
    return sha256


def main() -> None:
    hashes: dict[str, set[str]] = {}
    for version in VERSIONS:
        for requirement, sha256 in file_hashes([*pinned_requirements(), *BUILD], version).items():
            hashes.setdefault(requirement, set()).add(sha256)
    lines = [
        " \\\n    ".join([requirement, *(f"--hash=sha256:{sha256}" for sha256 in sorted(hashes[requirement]))]) + "\n"
        for requirement in sorted(hashes, key=str.lower)
    ]
    OUTPUT.write_text(HEADER.format(" and ".join(VERSIONS)) + "".join(lines), encoding="utf-8")
    print(f"{OUTPUT.relative_to(ROOT)}: {len(lines)} packages")


if __name__ == "__main__":
    main()
