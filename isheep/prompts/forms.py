"""Prompt files with a form of their own: how an answer is asked for and read, and the guide to topics."""

from typing import Annotated, NamedTuple

from pydantic import Field, ValidationError

from isheep import prompts
from isheep.errors import UserError
from isheep.prompts import PromptSource
from isheep.records import Record, Task


class AnswerForm(NamedTuple):
    """How an answer is asked for (a template with {instruction}, as a chat turn or as plain text) and read."""

    template: str
    chat: bool
    answer: str = ""  # what stands between the model's thoughts and its answer; "" where it answers at once
    stop: tuple[str, ...] = ()  # what would open the next turn

    def read(self, reply: str) -> tuple[str | None, str]:
        """The thoughts and the answer in a reply, without white space around them. The thoughts are None where none are
        asked for; where no answer follows them, the answer is "" and they are the whole reply."""
        if not self.answer:
            return None, reply.strip()
        thoughts, _, answer = reply.partition(self.answer)
        return (thoughts if answer.strip() else reply).strip(), answer.strip()


CHAT = AnswerForm("{instruction}", chat=True)
BUILTIN_FORMS = ("chat", "plain", "instances")  # what `response.prompt` may be beside a file


def load_answer_form(source: PromptSource) -> AnswerForm:
    """The form that `response.prompt` names: "chat" (the instruction as it is), "plain", or a file of prompts; what
    "instances" writes counts as answers in the chat.

    A file holds either `chat`, a user's turn, or `turn`, plain text that `preamble` and `examples` may precede; in a
    turn the model goes on at {thoughts}, and what follows that marks its answer. Raises UserError where it does not.
    """
    if source == "plain":
        return AnswerForm(prompts.load_prompts("response")["plain"], chat=False)
    if source in BUILTIN_FORMS:
        return CHAT
    texts = prompts.load_prompts(source)
    kinds = texts.keys() & {"chat", "turn"}
    asked, thoughts, answer = texts[min(kinds)].partition("{thoughts}") if len(kinds) == 1 else ("", "", "")
    if "{instruction}" not in asked or ("chat" in texts and thoughts):
        wrong = "it needs chat with {instruction}, or turn with {instruction} and, where it thinks, {thoughts} after it"
        raise UserError(f"{prompts.describe_source(source)} asks for no answer: {wrong}")
    if "chat" in texts:
        return AnswerForm(texts["chat"], chat=True)
    if thoughts and not answer.strip():
        raise UserError(f"{prompts.describe_source(source)}: in turn nothing after {{thoughts}} marks the answer")
    before = [texts[key] for key in ("preamble", "examples") if key in texts]
    opening = asked.partition("{instruction}")[0].strip()
    return AnswerForm(
        "\n\n".join([*before, asked.rstrip()]), False, answer.rstrip(), (f"\n{opening}",) if opening else ()
    )


class QuestionKind(Record):
    """A kind of question, first topics for it, and a worked instruction about the first of them."""

    kind: str
    topics: Annotated[tuple[str, ...], Field(min_length=1)]
    instruction: str


class TopicGuide(Record):
    """A file for topic-guided red-teaming: `ask_topics` has {kind} and {topics}, the rest is as in synthesis.yaml."""

    ask_topics: str
    meta: str
    block: str
    open: str
    kinds: Annotated[tuple[QuestionKind, ...], Field(min_length=1)]

    @property
    def tasks(self) -> list[Task]:
        """The worked instructions, which nothing new may resemble."""
        return [Task(id=f"kind-{n}", instruction=kind.instruction) for n, kind in enumerate(self.kinds, 1)]


def load_topic_guide(name: str) -> TopicGuide:
    """The guide in a prompt file. Raises UserError where it is none."""
    try:
        return TopicGuide.model_validate(prompts.read_prompt_file(name))
    except ValidationError as failed:
        error = failed.errors(include_url=False)[0]
        where = ".".join(map(str, error["loc"])) or "all of it"
        example = prompts.FOLDER / "dromedary" / "topics.yaml"
        path = prompts.find_prompt_file(name)
        raise UserError(
            f"prompt file {path} is no guide to topics: {where}: {error['msg'].lower()}; see {example}"
        ) from None
