"""Whether the answers to a benchmark's prompts became much shorter or longer.

Judges and checkers prefer some lengths: a score can change because the length did. The lengths of generated pairs do
not show this, because each iteration generates other tasks. A benchmark's prompts are the same for every model.
"""

from typing import NamedTuple

from isheep.evaluation.results import load_answers, load_result
from isheep.evaluation.statistics import Estimate, estimate
from isheep.rundir.folder import RunFolder
from isheep.rundir.iterations import model_words

# The smallest change that is worth a note, as a part of the earlier length.
NOTABLE_CHANGE = 0.2


class LengthChange(NamedTuple):
    """The mean length of the answers of two models to the same prompts in tokens, and the mean change."""

    benchmark: str
    earlier_model: int
    model: int
    before: float
    after: float
    change: Estimate

    @property
    def is_notable(self) -> bool:
        """Whether the length has changed by a fifth or more, and not by chance."""
        is_certain = self.change.low > 0 or self.change.high < 0
        return is_certain and abs(self.change.value) >= NOTABLE_CHANGE * self.before

    def __str__(self) -> str:
        earlier = model_words(self.earlier_model) if self.earlier_model else "the base"
        direction = "fewer" if self.change.value < 0 else "more"
        return (
            f"{self.benchmark}: {model_words(self.model)} answers the same prompts with {self.after:.1f} tokens on "
            f"average, {abs(self.change.value) / self.before:.0%} {direction} than {earlier} "
            f"({self.before:.1f}; change {self.change.value:+.1f} [{self.change.low:+.1f},{self.change.high:+.1f}]). "
            "See whether its scores changed because of that"
        )


def notable_length_change(run: RunFolder, model: int, benchmark: str) -> LengthChange | None:
    """Return how a benchmark's answers changed up to M^model, or None if their length is about the same, or not known.

    The earlier model is the base if it was asked in the same chat template, and else the first iteration: without a
    template a base often goes on writing after its answer.
    """
    results = {number: load_result(run, number, benchmark) for number in (0, 1, model)}
    last_result = results[model]
    for earlier_model in (0, 1):
        earlier_result = results[earlier_model]
        if last_result and earlier_result and earlier_result.template == last_result.template:
            change = _length_change(run, earlier_model, model, benchmark)
            return change if change and change.is_notable else None
    return None


def _length_change(run: RunFolder, earlier_model: int, model: int, benchmark: str) -> LengthChange | None:
    before, after = (load_answers(run, number, benchmark) for number in (earlier_model, model))
    if not before or [answer.prompt for answer in before] != [answer.prompt for answer in after]:
        return None
    lengths_before, lengths_after = ([answer.tokens for answer in answers] for answers in (before, after))
    changes = [float(late - early) for early, late in zip(lengths_before, lengths_after, strict=True)]
    mean_before, mean_after = (sum(lengths) / len(before) for lengths in (lengths_before, lengths_after))
    # A model that answers nothing has no length to compare with.
    if not mean_before:
        return None
    return LengthChange(benchmark, earlier_model, model, mean_before, mean_after, estimate(changes))
