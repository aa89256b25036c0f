"""IFEval's checks whose patterns take time that grows with the square of an answer's length, written without them.

Their verdicts are those of lm-eval's checkers on every text. An answer of a megabyte of brackets or blank lines would
hold lm-eval's patterns for hours.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

Check = Callable[[str], bool]

# White space inside a line; lm-eval's `\\s*` after a line start runs over line ends and reaches the same marks.
STAR_BULLET = re.compile(r"^[^\S\n]*\*[^*].*$", re.MULTILINE)
DASH_BULLET = re.compile(r"^[^\S\n]*-.*$", re.MULTILINE)
POSTSCRIPTS = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}


def count_placeholders(text: str) -> int:
    r"""Return the number of matches of `\[.*?\]`."""
    count = 0
    for line in text.split("\n"):
        opening = line.find("[")
        while opening >= 0 and (closing := line.find("]", opening + 1)) >= 0:
            count += 1
            opening = line.find("[", closing + 1)
    return count


def count_bullets(text: str) -> int:
    r"""Return the number of matches of `^\s*\*[^\*].*$` and of `^\s*-.*$`, line by line."""
    return sum(1 for bullet in (STAR_BULLET, DASH_BULLET) for _ in bullet.finditer(text))


def titles(text: str) -> list[str]:
    """Return the matches of `<<[^\\n]+>>`: in each line the longest from the first << on."""
    edges = [(line, line.find("<<"), line.rfind(">>")) for line in text.split("\n")]
    return [line[start : end + 2] for line, start, end in edges if 0 <= start <= end - 3]


def has_title(text: str) -> bool:
    """Return whether a title holds more than its marks and white space."""
    return any(title.lstrip("<").rstrip(">").strip() for title in titles(text))


def has_postscript(marker: str) -> Check:
    r"""Return a search for a marker; lm-eval's `\s*` before it and `.*$` after it match everywhere."""
    pattern = re.compile(POSTSCRIPTS.get(marker, marker.lower()))
    return lambda text: pattern.search(text.lower()) is not None


def linear_check(kind: str, settings: Mapping[str, Any]) -> Check | None:
    """Return the check of an instruction that replaces lm-eval's, None if lm-eval's is linear itself."""
    match kind:
        case "detectable_content:number_placeholders":
            least = settings["num_placeholders"]
            return lambda text: bool(count_placeholders(text) >= least)
        case "detectable_format:number_bullet_lists":
            wanted = settings["num_bullets"]
            return lambda text: bool(count_bullets(text) == wanted)
        case "detectable_format:title":
            return has_title
        case "detectable_content:postscript":
            return has_postscript(settings["postscript_marker"].strip())
    return None
