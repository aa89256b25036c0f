"""Overlap of generated rows with a benchmark's prompts: which rows and which prompts overlap, and how.

A row overlaps with a prompt in one of three ways, the surest first. exact: its task is the prompt, word for word.
ngram: its task or answer contains a run of `ngram` words of the prompt (13, as for GPT-3: Brown et al. 2020,
Appendix C). rouge: its task is nearer to the prompt than `rouge` in ROUGE-L F (0.7, the limit above which
Self-Instruct treats two instructions as the same).
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from isheep.batching import batched
from isheep.records import Pair
from isheep.text.novelty import find_near, split_words

# A prompt with fewer words is everyday speech: only the exact prompt overlaps with it (GPT-3's smallest n is 8).
MIN_WORDS = 8
# Rows whose words are held in memory at a time.
ROWS_AT_A_TIME = 20_000
# Characters of a run of words that a reason shows.
MAX_RUN_CHARACTERS = 60


class Overlap(NamedTuple):
    """The rows and prompts that overlap, by their indices. A row has the reason of the surest kind: (kind, words)."""

    rows: dict[int, tuple[str, str]]
    prompts: set[int]

    @property
    def kinds(self) -> dict[str, int]:
        """The number of rows by kind of reason: exact, ngram, rouge."""
        return dict(Counter(kind for kind, _ in self.rows.values()))


def find_overlap(rows: Iterable[Pair], prompts: Sequence[str], ngram: int | None, rouge: float | None) -> Overlap:
    """Return which of `rows` overlap with which of `prompts`. With `ngram` and `rouge` None, only exact prompts do.

    A prompt of MIN_WORDS to `ngram` words overlaps if a row contains all of its words as one run. Words are Unicode
    words (isheep.text.novelty.split_words, "any"); an exact prompt is compared without regard to case and spacing.
    """
    overlap, start = Overlap({}, set()), 0
    for part in batched(rows, ROWS_AT_A_TIME):
        part_overlap = _find_in_part(part, prompts, ngram, rouge)
        overlap.rows.update({start + index: reason for index, reason in part_overlap.rows.items()})
        overlap.prompts.update(part_overlap.prompts)
        start += len(part)
    return overlap


def _find_in_part(rows: Sequence[Pair], prompts: Sequence[str], ngram: int | None, rouge: float | None) -> Overlap:
    overlaps = [_find_exact(rows, prompts)]
    if ngram:
        overlaps.append(_find_ngrams(rows, prompts, ngram))
    if rouge:
        overlaps.append(_find_rouge(rows, prompts, rouge))
    reasons: dict[int, tuple[str, str]] = {}
    for overlap in overlaps:
        reasons = {**overlap.rows, **reasons}
    return Overlap(reasons, set().union(*(overlap.prompts for overlap in overlaps)))


def plain(text: str) -> str:
    """Return a text without regard to case and spacing."""
    return " ".join(text.casefold().split())


def _tasks(rows: Sequence[Pair]) -> list[tuple[int, str]]:
    """Return the task of each row with the row's index. In a dialogue, both the whole and its last turn are a task."""
    return [(index, task) for index, row in enumerate(rows) for task in dict.fromkeys((row.content, row.user_turn))]


def _find_exact(rows: Sequence[Pair], prompts: Sequence[str]) -> Overlap:
    plain_prompts = [plain(prompt) for prompt in prompts]
    plain_tasks = [(index, plain(task)) for index, task in _tasks(rows)]
    prompt_set, task_set = frozenset(plain_prompts), frozenset(task for _, task in plain_tasks)
    reason = ("exact", "a benchmark's prompt")
    reasons = {index: reason for index, task in plain_tasks if task in prompt_set}
    return Overlap(reasons, {index for index, prompt in enumerate(plain_prompts) if prompt in task_set})


def _find_rouge(rows: Sequence[Pair], prompts: Sequence[str], limit: float) -> Overlap:
    overlap, tasks = Overlap({}, set()), _tasks(rows)
    near = find_near([task for _, task in tasks], prompts, limit, "any")
    for (index, _), near_prompts in zip(tasks, near, strict=True):
        if near_prompts:
            overlap.rows[index] = ("rouge", f"ROUGE-L above {limit:g} to a benchmark's prompt")
            overlap.prompts.update(near_prompts)
    return overlap


# --- runs of words


def _find_ngrams(rows: Sequence[Pair], prompts: Sequence[str], ngram: int) -> Overlap:
    """Search for runs of words. All texts are concatenated as word numbers: the prompts, the tasks, the answers."""
    texts = [split_words(t, "any") for t in (*prompts, *(row.content for row in rows), *(row.output for row in rows))]
    ids: dict[str, int] = {}
    numbers = np.array([ids.setdefault(word, len(ids)) for text in texts for word in text], np.int64)
    lengths = np.array([len(text) for text in texts], np.int64)
    # The text that each word belongs to.
    text_of_word = np.repeat(np.arange(len(texts)), lengths)
    grams_by_width, vocabulary, min_words = {1: numbers}, list(ids), min(MIN_WORDS, ngram)
    overlap = Overlap({}, set())
    prompt_lengths = lengths[: len(prompts)].tolist()
    for width in sorted({min(ngram, length) for length in prompt_lengths if length >= min_words}, reverse=True):
        grams, text = _gram_numbers(grams_by_width, width), text_of_word[: len(numbers) - width + 1]
        # A run must not cross the border between two texts.
        within_text = text == text_of_word[width - 1 :]
        is_prompt = text < len(prompts)
        in_prompt = within_text & is_prompt & ((width == ngram) | (lengths[text] == width))
        in_row = within_text & ~is_prompt & np.isin(grams, grams[in_prompt])
        overlap.prompts.update(text[in_prompt & np.isin(grams, grams[in_row])].tolist())
        for position in np.flatnonzero(in_row).tolist():
            run = " ".join(vocabulary[number] for number in numbers[position : position + width])
            if len(run) > MAX_RUN_CHARACTERS:
                run = f"{run[:MAX_RUN_CHARACTERS]}..."
            row = (int(text[position]) - len(prompts)) % len(rows)
            overlap.rows.setdefault(row, ("ngram", f"{width} words of a benchmark's prompt: {run}"))
    return overlap


def _gram_numbers(by_width: dict[int, Any], width: int) -> Any:
    """Return a number for each run of `width` words, equal for equal runs: exact, by doubling, as in suffix arrays.

    A run is identified by its first and its last words, as many as the largest power of two below its width.
    """
    if width not in by_width:
        half = 2 ** ((width - 1).bit_length() - 1)
        parts = _gram_numbers(by_width, half)
        codes = parts[: len(parts) - width + half] * (int(parts.max()) + 1) + parts[width - half :]
        by_width[width] = np.unique(codes, return_inverse=True)[1]
    return by_width[width]
