"""The recipe's sections `evaluation` and `stop`. A field's docstring is its description in docs/recipe.md."""

from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, Field

from isheep.recipe.benchmark_names import benchmark_label, check_benchmark_name
from isheep.recipe.paths import PathText
from isheep.records import Count, Settings

BenchmarkName = Annotated[str, AfterValidator(check_benchmark_name)]


class JudgeSettings(Settings):
    """The judge of a benchmark's answers: a model at an OpenAI-compatible endpoint, or one on this machine."""

    model: str | None = None
    """The model's name at the endpoint; with `local`, a run folder, an iteration's folder in one, or a checkpoint.
    null: the benchmark's own judge."""
    local: bool = False
    """Whether the judge is a model on this machine."""
    parameters: dict[str, bool | int | float | str | None] = {}
    """Parameters of the requests, which replace the original's; null removes one."""
    config: str | None = None
    """A folder of AlpacaEval's evaluators_configs; null: the one that the benchmark's version uses."""


class RatingJudge(Settings):
    """Another judge of the pairs than a model of the run: one at an OpenAI-compatible endpoint, or on this machine.

    Such a run is not self-assessment, and every table says so.
    """

    model: PathText
    """The model's name at the endpoint (OPENAI_BASE_URL, OPENAI_API_KEY); with `local`, a run folder, an iteration's
    folder in one, or a checkpoint."""
    local: bool = False
    """Whether the judge is a model on this machine."""
    parameters: dict[str, bool | int | float | str | None] = {}
    """Parameters of the requests to an endpoint, over those of `assessment.sampling`; null removes one."""


class BenchmarkSettings(Settings):
    """A benchmark that every model is evaluated on. A name alone may stand for the whole entry."""

    name: BenchmarkName
    """The benchmark's name (docs/evaluation-benchmarks.md), or your own as file.py:name or package.module:name."""
    data: PathText | None = None
    """Your copy of the benchmark's file or folder, if it needs one."""
    judge: JudgeSettings | None = None
    """The judge, for benchmarks that need one."""
    max_tokens: Count | None = None
    """The largest number of tokens of an answer; null: the original's number. Tables name it."""
    base_in_template: bool = False
    """Whether the base model is asked in the chat template, as the iterations are, and not as plain text (Appendix C).
    For a base that was tuned in this template: its difference to an iteration has then no effect of the template."""
    num_items: Count | None = None
    """The number of items to ask, a fixed sample that a hash of each item's key draws; null: all. Tables name it, and
    scores on samples are not compared with scores on all items."""

    @property
    def label(self) -> str:
        """The benchmark's name in tables and in file names."""
        return benchmark_label(self.name)


def entry_of(value: Any) -> Any:
    """Return the entry that a benchmark's name alone stands for."""
    return {"name": value} if isinstance(value, str) else value


FindingName = Literal["same_instructions", "same_answers", "same_ratings", "few_rows", "bad_loss", "worse_than_base"]
"""The signs of degenerate learning, in the order in which a run looks for them (diagnostics/degenerate.py)."""


class StopRule(NamedTuple):
    """The rule that ends a run when iterations bring no gain any more. The fields are those of Stop."""

    benchmark: str
    patience: int = 1
    gain: float = 1.0
    confidence: float = 0.95


class Stop(Settings):
    """End the run early if iterations bring no improvement (Table 1: performance "stagnates or diminishes"), or if
    learning is degenerate.

    With `benchmark`, the decision is made on the benchmark's validation part, whose items are never reported. Of a
    benchmark whose items are all reported otherwise, it is a fixed half of them, and the run reports the other half.
    The run ends after an iteration that is no new best if the gain over the best model is, by a one-sided paired test,
    less than `gain` for each iteration since then (docs/evaluation.md). The best iteration is the result of the run.
    """

    benchmark: BenchmarkName | None = None
    """The benchmark: any that comes with isheep, or your own if it has a validation part; null: gains are not
    tested."""
    patience: Count = StopRule._field_defaults["patience"]
    """The number of consecutive iterations without a new best after which the run may end."""
    gain: Annotated[float, Field(ge=0)] = StopRule._field_defaults["gain"]
    """The gain for which an iteration is worth its cost, in points: hundredths of the score's largest value (a point is
    0.01 of a share, and 0.1 of MT-Bench's ratings)."""
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = StopRule._field_defaults["confidence"]
    """The confidence of the one-sided test with which the run ends. With gain: 0 and confidence: 0.5, every iteration
    without a new best counts, whatever the noise."""
    on: tuple[FindingName, ...] = ()
    """The signs of degenerate learning that stop the run, with an error that says what was seen. Each is said at once
    in any case (docs/diagnostics.md). same_instructions, same_answers: all are the same text. same_ratings: each
    criterion has one value. few_rows: training on fewer than 16 rows. bad_loss: a loss above that of uniform guesses.
    worse_than_base: a held-out loss, or a score on the validation part, that is clearly worse than before the
    training."""

    @property
    def rule(self) -> StopRule | None:
        """The rule that tests the gains of iterations; None without a benchmark."""
        return StopRule(self.benchmark, self.patience, self.gain, self.confidence) if self.benchmark else None
