"""Prompts with a form of their own: how an answer is asked for and read, and the guide to topics."""

from typing import Annotated, NamedTuple

from pydantic import Field, ValidationError

from isheep import prompts
from isheep.errors import UserError
from isheep.prompts import PromptSource
from isheep.records import Record, Task


class AnswerForm(NamedTuple):
    """How an answer is asked for and read.

    `template` has {instruction}; it is a chat turn if `chat` is true, else plain text. `answer` is the text between the
    model's thoughts and its answer, "" if it answers at once. `stop` are texts that would open the next turn.
    """

    template: str
    chat: bool
    answer: str = ""
    stop: tuple[str, ...] = ()

    def read(self, reply: str) -> tuple[str | None, str]:
        """Return the thoughts and the answer in a reply, without white space around them.

        The thoughts are None if none are asked for. If no answer follows them, the answer is "" and the thoughts are
        the whole reply.
        """
        if not self.answer:
            return None, reply.strip()
        thoughts, _, answer = reply.partition(self.answer)
        return (thoughts if answer.strip() else reply).strip(), answer.strip()


CHAT = AnswerForm("{instruction}", chat=True)

BUILTIN_FORMS = ("chat", "plain", "instances")
"""The values of `response.prompt` that are no prompt files."""


def load_answer_form(source: PromptSource) -> AnswerForm:
    """Return the form that `response.prompt` names: "chat" (the instruction as it is), "plain", or prompts.

    What "instances" writes counts as answers in the chat. Prompts have either `chat`, a user's turn, or `turn`, plain
    text that `preamble` and `examples` may precede; in a turn the model continues at {thoughts}, and the text after
    {thoughts} marks its answer. Raises UserError if they have another form.
    """
    if source == "plain":
        return AnswerForm(prompts.load_prompts("response")["plain"], chat=False)
    if source in BUILTIN_FORMS:
        return CHAT
    texts = prompts.load_prompts(source)
    kinds = texts.keys() & {"chat", "turn"}
    question, thoughts, answer = texts[min(kinds)].partition("{thoughts}") if len(kinds) == 1 else ("", "", "")
    if "{instruction}" not in question or ("chat" in texts and thoughts):
        why = "it needs chat with {instruction}, or turn with {instruction} and, where it thinks, {thoughts} after it"
        raise UserError(f"{prompts.describe_source(source)} asks for no answer: {why}")
    if "chat" in texts:
        return AnswerForm(texts["chat"], chat=True)
    if thoughts and not answer.strip():
        raise UserError(f"{prompts.describe_source(source)}: in turn nothing after {{thoughts}} marks the answer")
    preceding = [texts[key] for key in ("preamble", "examples") if key in texts]
    opening = question.partition("{instruction}")[0].strip()
    template = "\n\n".join([*preceding, question.rstrip()])
    # The opening of the next turn, if the model goes on to write one.
    stop = (f"\n{opening}",) if opening else ()
    return AnswerForm(template, False, answer.rstrip(), stop)


class QuestionKind(Record):
    """A kind of question, first topics for it, and a worked instruction about the first of them."""

    kind: str
    topics: Annotated[tuple[str, ...], Field(min_length=1)]
    instruction: str


class TopicGuide(Record):
    """A guide for topic-guided red-teaming. `ask_topics` has {kind} and {topics}; the rest is as in synthesis.yaml."""

    ask_topics: str
    meta: str
    block: str
    open: str
    kinds: Annotated[tuple[QuestionKind, ...], Field(min_length=1)]

    @property
    def tasks(self) -> list[Task]:
        """The worked instructions, which new instructions may not resemble."""
        return [Task(id=f"kind-{n}", instruction=kind.instruction) for n, kind in enumerate(self.kinds, 1)]


def load_topic_guide(name: str) -> TopicGuide:
    """Return the guide in a prompt file. Raises UserError if it is none."""
    try:
        return TopicGuide.model_validate(prompts.read_prompt_file(name))
    except ValidationError as failed:
        error = failed.errors(include_url=False)[0]
        key = ".".join(map(str, error["loc"])) or "all of it"
        example = prompts.FOLDER / "dromedary" / "topics.yaml"
        path = prompts.find_prompt_file(name)
        raise UserError(
            f"prompt file {path} is no guide to topics: {key}: {error['msg'].lower()}; see {example}"
        ) from None
