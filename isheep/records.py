"""The typed rows that the stages hand to each other, and the model that writes them."""

from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=1)]
Names = Annotated[tuple[str, ...], Field(min_length=1)]


class Settings(BaseModel):
    """A section of a recipe: frozen, without unknown keys; each field's docstring is its description."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class Record(BaseModel):
    """A typed row: frozen, without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def user_turn(instruction: str, input: str) -> str:
    """Return the user's turn of a conversation: the instruction, and the input on lines of its own if there is one."""
    return f"{instruction}\n{input}" if input else instruction


class Task(Record):
    """An instruction, with an input or without. `id` comes from its place in the run, it is never drawn."""

    id: str
    instruction: str
    input: str = ""

    @property
    def content(self) -> str:
        """The user's turn: instruction and input as the model reads them."""
        return user_turn(self.instruction, self.input)


class Reply(Record):
    """One raw continuation of a synthesis prompt; tasks are read out of it."""

    id: str
    text: str
    finish: str
    tokens: int


class Answer(Record):
    """What a model answered to an item of a benchmark, after `prompt` as it read it; `finish` as in Pair."""

    prompt: str = ""
    output: str
    finish: str
    tokens: int


class Pair(Task):
    """A task and the model's answer. `finish` is "stop" (it ended by itself) or "length" (it was cut off).

    `thoughts` is what it wrote before its answer where it was asked to, else None. Where no answer can be read after
    them, an outcome of its own, they are all that it wrote and the output is empty.
    """

    output: str
    finish: str
    tokens: int
    seed: int
    thoughts: str | None = None

    @property
    def unanswered(self) -> bool:
        """Whether no answer could be read in what the model wrote."""
        return self.thoughts is not None and not self.output


class Grade(Record):
    """One rating. `score` is None where the judge's reply can't be read: an outcome of its own, not a low score."""

    score: float | None
    reply: str


class AssessedPair(Pair):
    """A pair with its grades by criterion (Section 3.2: quality, following)."""

    grades: dict[str, Grade]


class TaskKind(Record):
    """Whether a task is classification, by the model's word; None where that can't be read: an outcome of its own."""

    id: str
    classification: bool | None
    reply: str
    tokens: int


class Instance(Record):
    """An input and an output for the task of the same id, as written; `cut` names those that were cut off."""

    id: str
    input: str
    output: str
    cut: tuple[str, ...]
    tokens: int


class PairPerplexity(Record):
    """The perplexities of a pair under the model that wrote it (measure.perplexities), None where there is no text."""

    id: str
    output: float | None
    pair: float | None


class PairEmbedding(Record):
    """The representation of a pair under the model that wrote it: float32, little-endian, in base64."""

    id: str
    values: str


class Drop(Record):
    """Why a row is not used: the row's id, the filter, and the filter's reason in words."""

    row: str
    by: str
    why: str


class Rejected(Record):
    """What a model wrote and what did not become a task, or a pair, and why."""

    id: str
    text: str
    by: str
    why: str


class Model(NamedTuple):
    """A checkpoint (a path or a name on the Hub, as in the recipe) and the LoRA adapter on it, None for the base."""

    base: str
    adapter: Path | None = None


class Sampling(Settings):
    """How tokens are drawn."""

    temperature: Annotated[float, Field(ge=0)] = 1.0
    """The temperature; 0 always takes the most probable token (the released code: 1.0)."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    """The probability mass of the most probable tokens that are drawn from (the released code: 0.95)."""
    max_tokens: Annotated[int, Field(ge=1)] = 1000
    """The largest number of tokens of an answer (the released code: 1000)."""
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    """Subtracted from the logit of every token that the answer already contains, before the temperature (OpenAI's
    definition). Tokens of the prompt don't count."""
    stop: tuple[str, ...] = ()
    """Texts that end an answer and are not part of it."""


class Completion(NamedTuple):
    """A continuation. `finish` is "stop" (end token or stop string) or "length" (`max_tokens` or the context)."""

    text: str
    tokens: int
    finish: str


class TokenLogprobs(NamedTuple):
    """Natural-log probability of each token of an output, given its prompt and the tokens before it."""

    tokens: list[int]
    logprobs: list[float]
