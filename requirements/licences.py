"""Print the licences of all packages that isheep needs, as the installed packages state them: a table in Markdown.

python requirements/licences.py > docs/licences.md        # make licences
"""

import re
from collections.abc import Iterator
from importlib import metadata

from packaging.requirements import Requirement

HEAD = """# Licences of the dependencies

Each package that isheep needs, without its extras, on Linux with Python 3.11, and the licence that the package itself
states. `make licences` writes this page from the installed packages. isheep's own licence is Apache-2.0; it holds no
code of them.

| package | version | licence |
|---|---|---|
"""


def closure(name: str) -> Iterator[metadata.Distribution]:
    """Yield the installed packages that a package needs on this machine, itself left out."""
    waiting, seen = [name], {package_key(name)}
    while waiting:
        for text in metadata.distribution(waiting.pop()).requires or ():
            requirement = Requirement(text)
            is_needed = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            if is_needed and package_key(requirement.name) not in seen:
                seen.add(package_key(requirement.name))
                try:
                    yield metadata.distribution(requirement.name)
                except metadata.PackageNotFoundError:
                    continue
                waiting.append(requirement.name)


def package_key(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def licence_of(package: metadata.Distribution) -> str:
    """Return the licence that a package states: its expression, or its classifiers, or the first line of its text."""
    fields = package.metadata
    if expression := fields.get("License-Expression"):
        return str(expression)
    classifiers = [text.rpartition(" :: ")[2] for text in fields.get_all("Classifier") or () if "License ::" in text]
    text = str(fields.get("License") or "").strip()
    return ", ".join(classifiers) or (text.splitlines()[0][:80] if text else "not stated")


def main() -> None:
    packages = sorted(closure("isheep"), key=lambda package: package_key(package.metadata["Name"]))
    rows = [f"| {package.metadata['Name']} | {package.version} | {licence_of(package)} |" for package in packages]
    print(HEAD + "\n".join(rows))


if __name__ == "__main__":
    main()
