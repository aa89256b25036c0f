"""The lists of dependencies agree: each package has a hash and a licence, at the version in constraints.txt."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
# torch, and what it brings where it is made for CUDA.
OF_TORCH = ("torch", "nvidia", "cuda", "triton")
PIN = re.compile(r"^([\w.-]+)==(\S+)", re.MULTILINE)


@pytest.fixture(scope="module")
def licences() -> ModuleType:
    """The script that lists the licences."""
    spec = importlib.util.spec_from_file_location("licences", ROOT / "requirements" / "licences.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_each_package_that_is_needed_has_a_hash_at_its_pinned_version(licences: ModuleType) -> None:
    text = (ROOT / "requirements" / "demo.txt").read_text(encoding="utf-8")
    hashed = {licences.package_key(name): version for name, version in PIN.findall(text)}
    pins = dict(PIN.findall((ROOT / "constraints.txt").read_text(encoding="utf-8")))
    pinned = {licences.package_key(name): version for name, version in pins.items()}
    assert {name: version for name, version in hashed.items() if pinned.get(name, version) != version} == {}
    needed = {licences.package_key(package.metadata["Name"]) for package in licences.closure("isheep")}
    assert {name for name in needed - hashed.keys() if not name.startswith(OF_TORCH)} == set()
    entries = re.split(r"^(?=\w)", text.partition("\n")[2], flags=re.MULTILINE)[1:]
    assert len(entries) == len(hashed) and all(re.search(r"--hash=sha256:[0-9a-f]{64}\b", entry) for entry in entries)


def test_each_package_that_is_needed_has_a_licence(licences: ModuleType) -> None:
    page = (ROOT / "docs" / "licences.md").read_text(encoding="utf-8")
    for package in licences.closure("isheep"):
        licence = licences.licence_of(package)
        assert licence != "not stated", package.metadata["Name"]
        name = package.metadata["Name"]
        assert f"| {name} |" in page or licences.package_key(name).startswith(OF_TORCH)
