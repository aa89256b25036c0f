"""The typed rows that the stages pass to each other, and the records of models and of generation."""

from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=1)]
Names = Annotated[tuple[str, ...], Field(min_length=1)]

UNREADABLE = "unreadable"
"""The `finish` of a completion whose text a server sent in a form that can't be read. The text is empty then."""


class Settings(BaseModel):
    """A section of a recipe: frozen, without unknown keys; each field's docstring is its description."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class Record(BaseModel):
    """A typed row: frozen, without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def user_turn(instruction: str, input: str) -> str:
    """Return the user's turn of a conversation: the instruction, and the input on lines of its own if there is one."""
    return f"{instruction}\n{input}" if input else instruction


class Exchange(NamedTuple):
    """A user's turn and the assistant's answer."""

    user: str
    assistant: str


History = tuple[Exchange, ...]
"""The turns of a dialogue before the last user's turn."""


Turns = list[tuple[str, str]]
"""A conversation: (role, content) of each turn."""


def history_turns(history: History) -> Turns:
    """Return a history as turns of the user and the assistant."""
    return [turn for user, assistant in history for turn in (("user", user), ("assistant", assistant))]


def is_empty(value: object) -> bool:
    """Return whether a value is empty; files have no key for such a value."""
    return not value


def dialogue_text(history: History, turn: str) -> str:
    """Return a dialogue up to the user's turn as plain text; the turn alone if it is the first one."""
    if not history:
        return turn
    earlier_turns = [f"User: {exchange.user}\nAssistant: {exchange.assistant}" for exchange in history]
    return "\n".join([*earlier_turns, f"User: {turn}"])


class Task(Record):
    """An instruction, with an input or without. `id` is derived from the position in the run; it is not random."""

    id: str
    instruction: str
    input: str = ""

    @property
    def user_turn(self) -> str:
        """The user's turn: instruction and input as the model reads them."""
        return user_turn(self.instruction, self.input)

    @property
    def content(self) -> str:
        """What the model answers: the user's turn."""
        return self.user_turn


class Reply(Record):
    """One raw continuation of a synthesis prompt, from which tasks are read."""

    id: str
    text: str
    finish: str
    tokens: int


class Answer(Record):
    """A model's answer to an item of a benchmark. `prompt` is the text that the model read; `finish` is as in Pair."""

    prompt: str = ""
    output: str
    finish: str
    tokens: int


class DialogueTask(Task):
    """A user's turn, with the dialogue before it if it is no first one. Files of first turns have no key `history`."""

    history: Annotated[History, Field(exclude_if=is_empty)] = ()

    @property
    def content(self) -> str:
        """The dialogue up to the user's turn as plain text; of a first turn the instruction and the input."""
        return dialogue_text(self.history, self.user_turn)


def first_turn_id(task: DialogueTask) -> str:
    """Return the id of the first turn of a task's dialogue: that of the second turn without its last part."""
    return task.id.rpartition(".")[0] if task.history else task.id


class Pair(DialogueTask):
    """A task and the model's answer. `finish` is "stop" (ended by itself), "length" (cut off) or "unreadable".

    `thoughts` is the text before the answer if the prompt asks for thoughts, else None. If no answer can be read after
    them, which is not the same as an empty answer, `thoughts` is the whole text and the output is empty.
    """

    output: str
    finish: str
    tokens: int
    seed: int
    thoughts: str | None = None

    @property
    def unanswered(self) -> bool:
        """Whether no answer could be read in the model's text."""
        return self.finish == UNREADABLE or (self.thoughts is not None and not self.output)


def _is_none(value: object) -> bool:
    return value is None


class Grade(Record):
    """One rating. `score` is None if the judge's reply can't be read, which is not the same as a low score.

    A grade of `read: constrained` has the expected score too, under the probabilities that the score was drawn from.
    Other grades have no such key in a file.
    """

    score: float | None
    reply: str
    expected: Annotated[float | None, Field(exclude_if=_is_none)] = None


class AssessedPair(Pair):
    """A pair with its grades by criterion (Section 3.2: quality, following)."""

    grades: dict[str, Grade]


class TaskKind(Record):
    """Whether a task is classification according to the model's reply; None if the reply can't be read."""

    id: str
    classification: bool | None
    reply: str
    tokens: int


class Instance(Record):
    """An input and an output for the task of the same id, as the model wrote them. `cut` names those cut off."""

    id: str
    input: str
    output: str
    cut: tuple[str, ...]
    tokens: int


class PairPerplexity(Record):
    """The perplexities of a pair under the model that wrote it (stages/measure.py); None if there is no text."""

    id: str
    output: float | None
    pair: float | None


class PairSamples(Record):
    """Further answers of the model that wrote a pair to the pair's task, and the number of their tokens."""

    id: str
    outputs: tuple[str, ...]
    tokens: int


class PairEmbedding(Record):
    """The embedding of a pair by the model that wrote it: float32, little-endian, in base64."""

    id: str
    values: str


class Drop(Record):
    """The reason why a pair is not trained on: the pair's id, the filter, and the filter's reason in words."""

    row: str
    by: str
    why: str


class Rejected(Record):
    """A model's text that became no task, or no pair; the part of isheep that rejected it, and the reason."""

    id: str
    text: str
    by: str
    why: str


class Model(NamedTuple):
    """A base checkpoint (a path or a name on the Hub, as in the recipe) and a LoRA adapter; None for the base alone."""

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
    """A continuation. `finish` is "stop" (end token or stop string), "length" (`max_tokens` or the context), or
    "unreadable" (a server's answer that is no text)."""

    text: str
    tokens: int
    finish: str


class TokenLogprobs(NamedTuple):
    """The natural-log probability of each token of an output, given its prompt and the tokens before it."""

    tokens: list[int]
    logprobs: list[float]
