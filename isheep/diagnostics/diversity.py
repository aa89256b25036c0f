"""Diversity of the pairs of an iteration, measured in every run: iter-t/diversity.json.

A model that learns from its own text may write ever fewer kinds of it (the released code's later iterations hold 36 to
45% near duplicates, and their answers shrink to a median of 13 words). These metrics need no model and no ground truth.
"""

import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from isheep.records import Pair, Rejected
from isheep.rundir.folder import RunFolder
from isheep.rundir.jsonl import filter_rows
from isheep.rundir.progress import console
from isheep.text.novelty import Language, find_repeated, split_words

# Two texts whose ROUGE-L F is above this are near duplicates (Self-Instruct's limit).
NEAR_DUPLICATE = 0.7
# Words at the start of an answer that are compared. Comparing whole long answers would take minutes.
OPENING_WORDS = 50
# Pairs that are measured. This many give a share of 0.3 to within 0.006; the words of more would fill the memory.
SAMPLE_SIZE = 20_000
# With fewer pairs, chance moves the metrics by more than the limits of METRICS.
MIN_PAIRS_FOR_WARNING = 100
# Vocabulary and distinct-n depend on the amount of text: they are compared if the numbers of pairs differ by at most
# this share.
MAX_SIZE_DIFFERENCE = 0.1


class DiversityMetric(NamedTuple):
    """A metric of diversity.json: whose text it measures, how it is printed, and which change is worth a warning.

    `number_format` is for str.format. `change` is a rise, or below 0 a fall; it is absolute, or for `relative` a share
    of the earlier value. Without it there is no warning. `depends_on_size` marks metrics that grow or shrink with the
    amount of text.
    """

    text: str
    label: str
    number_format: str
    change: float | None = None
    relative: bool = False
    depends_on_size: bool = False


# Two samples of 700 pairs differ by 0.05 in 1 of 20 cases at a share of 0.3. Half a bit less entropy is 30% fewer
# openings in use. Lengths and words also change with the topics: a third, a fifth and a tenth are beyond that.
METRICS = {
    "near_duplicates": DiversityMetric("instructions", "near duplicates", "{:.0%}", 0.05),
    "refused_by_novelty": DiversityMetric("instructions", "rejected: near a known one", "{:.0%}", 0.05),
    "distinct_1": DiversityMetric("instructions", "distinct-1", "{:.3f}"),
    "distinct_2": DiversityMetric("instructions", "distinct-2", "{:.3f}", -0.1, relative=True, depends_on_size=True),
    "distinct_3": DiversityMetric("instructions", "distinct-3", "{:.3f}"),
    "first_word_entropy": DiversityMetric("instructions", "entropy of first words, bits", "{:.2f}", -0.5),
    "vocabulary": DiversityMetric("instructions", "vocabulary", "{:.0f}", -0.2, relative=True, depends_on_size=True),
    "answers_near_duplicates": DiversityMetric("answers", "near duplicates", "{:.0%}", 0.05),
    "answers_distinct_1": DiversityMetric("answers", "distinct-1", "{:.3f}"),
    "answers_distinct_2": DiversityMetric("answers", "distinct-2", "{:.3f}"),
    "answers_distinct_3": DiversityMetric("answers", "distinct-3", "{:.3f}"),
    "tokens_quarter": DiversityMetric("answers", "tokens, lower quartile", "{:.0f}"),
    "tokens_median": DiversityMetric("answers", "tokens, median", "{:.0f}", -1 / 3, relative=True),
    "tokens_three_quarters": DiversityMetric("answers", "tokens, upper quartile", "{:.0f}"),
    "stopped": DiversityMetric("answers", "ended with a stop token", "{:.0%}", -0.05),
}


def record_diversity(run: RunFolder, iteration: int, pairs: Sequence[Pair], language: Language) -> None:
    """Write iter-t/diversity.json unless it exists, and print a warning for each metric that has become narrower."""
    folder = run / f"iter-{iteration}"
    if folder.has("diversity.json"):
        return
    earlier = {}
    for index in dict.fromkeys((iteration - 1, 1)):
        if 0 < index < iteration and (metrics := read_diversity(run, index)):
            earlier[index] = metrics

    def make() -> dict[str, Any]:
        # Tasks that are taken from another iteration have no rejected candidates of their own.
        rejected: Sequence[Rejected] = folder.read("rejected.jsonl", Rejected) if folder.has("rejected.jsonl") else []
        # Follow-ups are short and alike by nature ("And Japan?").
        first_turns = filter_rows(pairs, lambda pair: not pair.history)
        metrics = measure_diversity(first_turns, rejected, language)
        return {**metrics, "narrower": list(find_narrowing(metrics, earlier))}

    for line in folder.json("diversity.json", make)["narrower"]:
        console.print(f"iteration {iteration} is narrower: {line}", markup=False, soft_wrap=True, style="yellow")


def read_diversity(run: RunFolder, iteration: int) -> dict[str, Any] | None:
    """Return the metrics of an iteration, or None if they are not measured yet."""
    folder = run / f"iter-{iteration}"
    return folder.json("diversity.json", dict) if folder.has("diversity.json") else None


def measure_diversity(pairs: Sequence[Pair], rejected: Iterable[Rejected], language: Language) -> dict[str, Any]:
    """Return the metrics of METRICS by name, None if one is undefined, with "pairs" and "first_words".

    - Near duplicates: the share of instructions (with their inputs), and of answers by their first 50 words, whose
      ROUGE-L F with another of this iteration is above 0.7.
    - Distinct-n (Li et al. 2016): the number of different runs of n words over the number of all runs of n words.
    - First words: the share of each instruction's first word (in English mostly the verb); their entropy in bits.
    - Tokens and stopping are counted by the engine.
    - refused_by_novelty: the share of the instructions that the novelty check rejected, of those that it checked.

    Words are those of novelty.split_words, so in every script. Of more than SAMPLE_SIZE pairs a random sample is
    measured; its near duplicates are searched for among all pairs.
    """
    sample = sample_pairs(pairs)
    instructions = [split_words(pair.content, language) for pair in sample]
    answers = [split_words(pair.output, language) for pair in sample]
    first_words = Counter(words[0] for words in instructions if words)
    num_refused = sum(row.by == "novelty" for row in rejected)
    metrics = {
        "near_duplicates": near_duplicates(sample, pairs, language, lambda pair: pair.content),
        "refused_by_novelty": _share(num_refused, num_refused + len(pairs)),
        **{f"distinct_{n}": distinct(instructions, n) for n in (1, 2, 3)},
        "first_word_entropy": entropy(first_words),
        "vocabulary": len({word for words in instructions for word in words}),
        "answers_near_duplicates": near_duplicates(
            sample, pairs, language, lambda pair: " ".join(split_words(pair.output, language)[:OPENING_WORDS])
        ),
        **{f"answers_distinct_{n}": distinct(answers, n) for n in (1, 2, 3)},
        **_quartiles([pair.tokens for pair in sample]),
        "stopped": _share(sum(pair.finish == "stop" for pair in sample), len(sample)),
    }
    rounded = {name: None if value is None else round(value, 4) for name, value in metrics.items()}
    return {"pairs": len(pairs), **rounded, "first_words": _most_frequent(first_words)}


def sample_pairs(pairs: Sequence[Pair]) -> Sequence[Pair]:
    """Return a random sample of SAMPLE_SIZE pairs in their order, or all pairs if there are no more."""
    if len(pairs) <= SAMPLE_SIZE:
        return list(pairs)
    indices = random.Random(0).sample(range(len(pairs)), SAMPLE_SIZE)
    return [pairs[index] for index in sorted(indices)]


def near_duplicates(
    sample: Sequence[Pair], pairs: Sequence[Pair], language: Language, text: Callable[[Pair], str]
) -> float | None:
    """Return the share of the sampled pairs whose text is near that of another pair."""
    among = map(text, pairs) if len(pairs) > len(sample) else None
    return _share(sum(find_repeated([text(pair) for pair in sample], NEAR_DUPLICATE, language, among)), len(sample))


def distinct(texts: Sequence[Sequence[str]], n: int) -> float | None:
    """Return distinct-n: the number of different runs of n words over all of them; None if there is no run."""
    runs = [tuple(words[start : start + n]) for words in texts for start in range(len(words) - n + 1)]
    return _share(len(set(runs)), len(runs))


def entropy(counts: Counter[str]) -> float | None:
    """Return Shannon's entropy in bits, None without counts."""
    shares = (count / counts.total() for count in counts.values())
    return math.fsum(share * math.log2(1 / share) for share in shares) if counts else None


def find_narrowing(metrics: Mapping[str, Any], earlier: Mapping[int, Mapping[str, Any]]) -> Iterator[str]:
    """Yield a line for each metric that is narrower than in an earlier iteration.

    `earlier` maps iterations to their metrics: first the previous iteration, then the first one, which reveals slow
    narrowing.
    """
    for name, metric in METRICS.items():
        for iteration, before in earlier.items():
            if _is_narrower(name, before, metrics):
                values = " -> ".join(metric.number_format.format(value) for value in (before[name], metrics[name]))
                yield f"{metric.text}: {metric.label} {values} (since iteration {iteration})"
                break


def _is_narrower(name: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    metric, old, new = METRICS[name], before[name], after[name]
    sizes = before["pairs"], after["pairs"]
    if metric.change is None or old is None or new is None or min(sizes) < MIN_PAIRS_FOR_WARNING:
        return False
    if metric.depends_on_size and max(sizes) > (1 + MAX_SIZE_DIFFERENCE) * min(sizes):
        return False
    change = (new - old) / (old or 1) if metric.relative else new - old
    return bool(change > metric.change if metric.change > 0 else change < metric.change)


def _most_frequent(counts: Counter[str], limit: int = 10) -> dict[str, float]:
    """Return the shares of the most frequent words, words of the same frequency in alphabetical order."""
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return {word: round(count / counts.total(), 4) for word, count in ranked[:limit]}


def _quartiles(values: Sequence[int]) -> dict[str, float | None]:
    import numpy as np

    names = ("tokens_quarter", "tokens_median", "tokens_three_quarters")
    quartiles = np.quantile(values, (0.25, 0.5, 0.75)).tolist() if values else [None] * 3
    return dict(zip(names, quartiles, strict=True))


def _share(part: int, total: int) -> float | None:
    return part / total if total else None
