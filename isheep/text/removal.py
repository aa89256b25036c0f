"""Removing marks from a text so that none remains, however their parts are nested."""

from collections import defaultdict
from collections.abc import Collection

# Passes of plain replacement before the slower way: texts of people and models need one or two.
PASSES = 4


def remove_all(text: str, marks: Collection[str]) -> str:
    """Return a text without any of the marks.

    Removing one mark may join the halves of another one. A few passes remove what is nested a few levels deep; the rest
    is removed in one walk through the text, so that the time grows with the text's length whatever it holds.
    """
    ordered = sorted(mark for mark in marks if mark)
    for _ in range(PASSES):
        if not any(mark in text for mark in ordered):
            return text
        for mark in ordered:
            text = text.replace(mark, "")
    return _remove_in_one_walk(text, ordered)


def _remove_in_one_walk(text: str, marks: Collection[str]) -> str:
    by_last: dict[str, list[str]] = defaultdict(list)
    for mark in marks:
        by_last[mark[-1]].append(mark)
    kept: list[str] = []
    for character in text:
        kept.append(character)
        for mark in by_last.get(character, ()):
            if "".join(kept[-len(mark) :]) == mark:
                del kept[-len(mark) :]
                break
    return "".join(kept)
