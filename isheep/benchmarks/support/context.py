"""The context of an evaluation: a model behind its engine, and how a benchmark prompts it and asks a judge."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from isheep.batching import derive_seed
from isheep.engines import Engine
from isheep.errors import UserError
from isheep.judges.base import Judge, Messages
from isheep.models.chat_template import ChatTemplate, plain_prompt
from isheep.openai_client import ServerReply
from isheep.recipe.evaluation import BenchmarkSettings
from isheep.records import Answer, Sampling
from isheep.rundir.folder import RunFolder

# Answers.
BATCH_SIZE = 64


def data_path(settings: BenchmarkSettings) -> Path | None:
    """Return the path of the user's copy of a benchmark's files, or None if the recipe gives none."""
    return Path(settings.data) if settings.data else None


class JudgedContext:
    """What `run` and `score_responses` of a benchmark have in common: the user's data and the judge."""

    settings: BenchmarkSettings
    folder: RunFolder
    judge: Judge | None

    JUDGE_FROM: ClassVar[str]
    """Where the user names a judge."""

    @property
    def data(self) -> Path | None:
        """The user's copy of the benchmark's files."""
        return data_path(self.settings)

    @property
    def required_judge(self) -> Judge:
        """The judge. Raises UserError if there is none."""
        if self.judge is None:
            raise UserError(f"{self.settings.label} needs a judge: give one {self.JUDGE_FROM}")
        return self.judge

    def ask_judge(
        self,
        conversations: Sequence[Messages],
        parameters: Mapping[str, Any],
        default_model: str,
        options: Sequence[str] = (),
    ) -> list[ServerReply]:
        """Return the judge's replies, as Judge.ask. An endpoint's are stored in the run folder, or the output folder.

        Frees the memory of the model first if both run on this machine.
        """
        if self.required_judge.kind == "local":
            self.free_memory()
        return self.required_judge.ask(conversations, parameters, self.folder, default_model, options)

    def free_memory(self) -> None:
        """Do nothing: no model was asked."""


@dataclass(frozen=True)
class EvalContext(JudgedContext):
    """What a benchmark's `run` gets: the model, the benchmark's settings, and a folder for its files.

    `folder` is eval/NAME, beside the result NAME.json: raw answers and judgments go there. `is_base` says that the
    model is the base model M^0, asked as plain text because it was not trained on a chat template. `judge` is None
    unless the benchmark needs one. `unsafe_code` allows code that a model wrote to run on a machine without a sandbox.
    """

    engine: Engine
    chat: ChatTemplate
    seed: int
    folder: RunFolder
    settings: BenchmarkSettings
    is_base: bool
    judge: Judge | None = None
    unsafe_code: bool = False

    JUDGE_FROM = "in the recipe's evaluation"

    @property
    def template(self) -> str:
        """The name of the template of prompts: the SFT template for aligned models, none for the base (Appendix C)."""
        return "plain" if self.is_base else self.chat.name

    @property
    def model_name(self) -> str:
        """The model's name in files: base, iter-1, ..."""
        return self.folder.path.relative_to(self.folder.root).parts[0]

    def prompt(self, instruction: str) -> str:
        """Return the prompt for an instruction, as the model reads it."""
        return self.plain(instruction) if self.is_base else self.chat.prompt(instruction)

    def plain(self, text: str) -> str:
        """Return a prompt that is text alone, as the base reads it."""
        return plain_prompt(text, self.chat)

    def dialogue_prompt(self, turns: Sequence[str]) -> str:
        """Return the prompt for a dialogue, whose turns begin with the user's. The base reads them as paragraphs."""
        if self.is_base:
            return self.plain("\n\n".join(turns))
        roles = ("user", "assistant")
        return self.chat.conversation([(roles[index % 2], text) for index, text in enumerate(turns)])

    def max_tokens(self, default: int) -> int:
        """Return the maximum number of tokens of an answer: the recipe's, or the original benchmark's `default`."""
        return self.settings.max_tokens or default

    def free_memory(self) -> None:
        """Free the memory of the model that was asked. A later call loads it again."""
        self.engine.close()

    def answers(self, prompts: Sequence[str], sampling: Sampling, name: str = "answers.jsonl") -> list[Answer]:
        """Generate the model's answers to prompts, given as it reads them, and store them in the benchmark's folder.

        The recipe's max_tokens replaces that of `sampling`, which is the original benchmark's.
        Raises UserError if the stored answers are to other prompts, because the data have changed since.
        """

        sampling = sampling.model_copy(update={"max_tokens": self.max_tokens(sampling.max_tokens)})

        def make_batch(start: int) -> list[Answer]:
            batch = prompts[start : start + BATCH_SIZE]
            completions = self.engine.generate(batch, sampling, derive_seed(self.seed, "eval", name, start))
            return [
                Answer(prompt=prompt, output=completion.text, finish=completion.finish, tokens=completion.tokens)
                for prompt, completion in zip(batch, completions, strict=True)
            ]

        def check(answers: Sequence[Answer]) -> None:
            if any(answer.prompt != prompt for answer, prompt in zip(answers, prompts, strict=False)):
                raise UserError(
                    f"{self.folder.path / name} has answers to other prompts: give the data that it was made from, "
                    f"or delete {self.folder.path} to have it made again"
                )

        max_in_flight = self.engine.max_in_flight
        return list(self.folder.map_batches(name, Answer, make_batch, len(prompts), BATCH_SIZE, max_in_flight, check))
