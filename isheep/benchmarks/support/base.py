"""The types of a benchmark: `Benchmark` describes one, `Result` holds what a model achieved on it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Self

from pydantic import SerializerFunctionWrapHandler, model_serializer, model_validator

from isheep.benchmarks.support.context import EvalContext
from isheep.benchmarks.support.responses import ResponseContext
from isheep.recipe.evaluation import BenchmarkSettings
from isheep.records import Answer, Pair, Record
from isheep.rundir.folder import RunFolder

ItemSource = Literal["package", "hub", "user"]
"""Where items come from without `data` in the recipe: the package, the Hub, or "user": the recipe must give `data`."""


class Score(Record):
    """One score of a benchmark.

    `items` has one value per item, in the same order for every model: a truth value (the score is then a share) or a
    number (the score is a mean), and None if there is no value, such as for a verdict that can't be parsed. `clusters`
    has the group of each item if items belong together: the constraints of a prompt, the turns of a dialogue. With the
    unit "share", numbers from 0 to 1 are printed in percent, too: the part of a task's samples that passes, F1.
    """

    items: Sequence[bool | float | None]
    clusters: Sequence[int | str] | None = None
    unit: Literal["", "share"] = ""

    @model_validator(mode="after")
    def _check_shares(self) -> Self:
        if self.unit == "share" and not all(0 <= value <= 1 for value in self.items if value is not None):
            raise ValueError("the items of a share must be from 0 to 1")
        return self

    @property
    def mean(self) -> float:
        """The mean of the values that are there. Raises ZeroDivisionError if there is none."""
        values = [value for value in self.items if value is not None]
        return sum(values) / len(values)

    def format_mean(self) -> str:
        """Return the mean with three decimals, or "-" if no value is there."""
        return "-" if all(value is None for value in self.items) else f"{self.mean:.3f}"


class Fingerprints(Record):
    """Hashes of what a result depends on. "" stands for a hash that is not known or that does not apply.

    `prompt_fingerprint`: the prompts. `score_fingerprint`: everything else that decides the score of an answer
    (`Benchmark.score_inputs`, and the judge). `template_fingerprint`: the chat template, if the model was prompted in
    one. A result is reused only if these are the same.
    """

    prompt_fingerprint: str = ""
    score_fingerprint: str = ""
    template_fingerprint: str = ""


class Result(Fingerprints):
    """What a model achieved on a benchmark; eval/NAME.json holds it as JSON.

    `part` says what differs from the original benchmark: "reported half" or "validation half", because a stop rule
    looks at one of them, "sample of 100", "at most 256 tokens". `template` is the name of the chat template that the
    model was prompted in, or "plain". `breakdowns` has for each title and kind of item the number of items that are
    right and the number of all. `notes` are sentences that a reader of the scores must know. `details` has whatever
    else the benchmark records; its keys are the benchmark's own.
    """

    part: str = ""
    template: str = ""
    scores: dict[str, Score]
    breakdowns: dict[str, dict[str, tuple[int, int]]] = {}
    notes: tuple[str, ...] = ()
    details: dict[str, Any] = {}

    @model_serializer(mode="wrap")
    def _omit_empty_part(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Write `part` only if there is one, so that results on all items have the form that they always had."""
        values: dict[str, Any] = serialize(self)
        if not self.part:
            del values["part"]
        return values

    def title(self, benchmark: str) -> str:
        """Return the benchmark's name in tables: with the half of its items that was asked, if there is one."""
        return f"{benchmark} ({self.part})" if self.part else benchmark

    def __str__(self) -> str:
        """The mean of each score: "right 0.662, content 0.927"."""
        return ", ".join(f"{name} {score.format_mean()}" for name, score in self.scores.items())

    def __repr__(self) -> str:
        """Without the items, of which there may be thousands."""
        return f"<Result: {self}>"


class PlannedAnswers(NamedTuple):
    """The size of a benchmark, for the estimates of `isheep plan`."""

    num_answers: int
    # Of one answer.
    max_tokens: int
    # Answers that the engine is asked for in one call.
    batch_size: int


@dataclass(frozen=True)
class ValidationPart:
    """Items of a benchmark that the recipe's `stop` rule looks at, and that are not reported.

    A model is better the higher the mean of the score named `score` is; "" stands for the first score. `largest` is the
    largest value that the score can have: the rule counts in points, which are hundredths of it.

    The items are beside those of the benchmark, or half of them (support/item_parts.py). Then `items` names the set of
    items: a run that stops by it reports the other half, of every benchmark with the same `items`.
    """

    prompts: Callable[[BenchmarkSettings], list[str]]
    run: Callable[[EvalContext], Result]
    score: str
    planned: PlannedAnswers | None = None
    items: str = ""
    largest: float = 1.0


@dataclass(frozen=True)
class Benchmark:
    """A benchmark: each module of isheep.benchmarks has one, as `BENCHMARK`.

    `prompts` and `score_inputs` are called before any model loads. They raise UserError if `run` could not work because
    data or a package are missing.
    """

    name: str
    """The name in a recipe's `evaluation`, such as "ifeval" or "paper/piqa"."""

    run: Callable[[EvalContext], Result]
    """Generate answers and score them."""

    prompts: Callable[[BenchmarkSettings], list[str]]
    """Return the prompts of the items that are reported, without a chat template."""

    score_inputs: Callable[[BenchmarkSettings], Any]
    """Return everything that the score of an answer depends on, such as references, tests and the judge's prompts."""

    headline: tuple[str, ...] = ()
    """The scores that the short table of a run shows, five at most; empty: the first five."""

    items_from: ItemSource = "user"
    needs_judge: bool = False
    reads_judge_config: bool = False
    """Whether the settings may name a judge configuration in AlpacaEval's form (judge.config)."""
    needs_sandbox: bool = False
    needs_logprobs: bool = False
    """Whether `run` calls the engine's `logprobs`. A server that can't give them is refused before the run."""

    validation: ValidationPart | None = None
    """What a `stop` rule measures; None if the benchmark can't be named in one."""

    score_responses: Callable[[ResponseContext], Result] | None = None
    """Score a file of answers that another program wrote; None if the benchmark's answers can't be in a file."""

    is_right: Callable[[Pair], bool] | None = None
    """Return whether a generated pair is right, if the benchmark knows the truth about pairs of the loop."""

    kinds_of: Callable[[Pair], list[str]] | None = None
    """Return the kinds of a generated pair, such as its subject and its constraints.

    A report says for each kind how far ratings can be trusted. Needs `is_right`.
    """

    locate_items: Callable[[BenchmarkSettings], dict[str, list[int]]] | None = None
    """Return for each score the index, in `prompts`, of the prompt of each item.

    Without it, the n-th item or the n-th cluster belongs to the n-th prompt if there are as many of them.
    """

    form_and_content: tuple[str, str] | None = None
    """The name of a score that says whether an answer has the required form, and of one for its content.

    Both have a truth value for each prompt. A run says how many prompts that newly meet the form have the right
    content. Needs `locate_items`.
    """

    why_wrong: Callable[[RunFolder, Sequence[Answer]], list[str]] | None = None
    """Return for each answer of a model what is wrong with it, in words; "" for a right one. A report shows it.

    The folder is the benchmark's, eval/NAME, in which `run` has written its files. Raises ValueError or UserError if
    the answers and the files do not belong together.
    """

    planned: PlannedAnswers | None = None
    """None if the number of answers is not known before the data are read."""

    @property
    def needs_data(self) -> bool:
        """Whether the recipe must give the benchmark's files as `data`."""
        return self.items_from == "user"
