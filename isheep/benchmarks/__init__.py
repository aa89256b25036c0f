"""Benchmarks: a module each, with `run(exam) -> dict`, `prompts(data) -> list[str]` and `basis(entry) -> JSON`.

The standard benchmarks are under two protocols, "standard/piqa" and "paper/piqa": modules with a `task(name) -> Part`.

A result has the "template" that the model was asked in and "items": for each score one value per item, in the same
order for every model: a truth value, a number, or None where there is none (a verdict that can't be read). Where items
of a score belong together (the constraints of a prompt, the turns of a dialogue) "clusters" has for that score the
group of each item. "by" has breakdowns, {title: {kind of item: [right, all]}}. "note" says what a reader must know,
such as "not checked against the original". What else a module puts there stays in the file.

`prompts` and `basis` are asked before any model loads: they raise UserError where a run would for the lack of something
(data, a package), and where data are given to a benchmark that needs none. `basis` is all that the score of an answer
depends on, items with their answers and the judge's prompts included: a result is used again only on the same basis. A
benchmark that a recipe's `stop` can name also has
`validate(exam) -> dict`: other items, and a "score" that is better the higher it is; `validation_prompts(data) ->
list[str]` are these items. One that can score a file of another program's answers has `responses(data, file, into) ->
dict`: the same kind of result.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from isheep.batching import derive_seed, ordered_map
from isheep.engines import Engine
from isheep.errors import UserError
from isheep.judges.base import Judge, Messages
from isheep.models.chat_template import ChatTemplate, render_conversation
from isheep.openai_client import ServerReply
from isheep.recipe.schema import BenchmarkSettings, Stop
from isheep.records import Answer, Sampling
from isheep.rundir.folder import RunFolder

SIZE = 64  # answers in a batch


class EvalContext(NamedTuple):
    """What a benchmark is given: a model behind its engine, and a folder of its own for what it wants to keep."""

    engine: Engine
    chat: ChatTemplate
    seed: int
    folder: RunFolder  # eval/NAME beside NAME.json: raw answers, judgments
    data: Path | None  # the user's copy of the benchmark's files
    base: bool  # M^0, which no template was taught to
    settings: BenchmarkSettings | None = None  # the benchmark's entry in the recipe
    judge: Judge | None = None  # who rates the answers, where the benchmark asks one
    unsafe_code: bool = False  # whether code that a model wrote may run where no sandbox holds

    @property
    def template(self) -> str:
        """Appendix C: an aligned model is asked in the template of its SFT, the base plainly."""
        return "plain" if self.base else self.chat.name

    def asked(self, instruction: str) -> str:
        return instruction if self.base else self.chat.prompt(instruction)

    @property
    def model(self) -> str:
        """The model's name in files: base, iter-1, ..."""
        return self.folder.path.relative_to(self.folder.root).parts[0]

    def dialogue(self, turns: Sequence[str]) -> str:
        """`asked` for several turns, the user's first: plainly, they stand under each other."""
        if self.base:
            return "\n\n".join(turns)
        roles = ("user", "assistant")
        spoken = [(roles[n % 2], self.chat.plain(text)) for n, text in enumerate(turns)]
        return render_conversation(self.chat.tokenizer, self.chat.template, spoken, open_answer=True)

    @property
    def rater(self) -> Judge:
        """The judge. Raises UserError where there is none."""
        if self.judge is None:
            raise UserError(f"{self.folder.path.name} asks a judge: give one in the recipe's evaluation")
        return self.judge

    def limit(self, default: int) -> int:
        """The most tokens in an answer: the entry's, or what the original allows."""
        return self.settings.max_tokens or default if self.settings else default

    def verdicts(
        self, asked: Sequence[Messages], parameters: Mapping[str, Any], default: str, options: Sequence[str] = ()
    ) -> list[ServerReply]:
        """What the judge says (Judge.ask). A judge of ours gets the memory that the model had."""
        if self.rater.kind == "local":
            self.engine.close()
        return self.rater.ask(asked, parameters, self.folder, default, options)

    def answers(self, prompts: Sequence[str], sampling: Sampling, name: str = "answers.jsonl") -> list[Answer]:
        """The model's answers to prompts as it reads them, kept in the benchmark's folder as rows like any other.

        Raises UserError where answers to other prompts are kept there: the data have changed.
        """

        def made(start: int) -> list[Answer]:
            some = prompts[start : start + SIZE]
            found = self.engine.generate(some, sampling, derive_seed(self.seed, "eval", name, start))
            return [
                Answer(prompt=prompt, output=one.text, finish=one.finish, tokens=one.tokens)
                for prompt, one in zip(some, found, strict=True)
            ]

        def owed(done: Sequence[Answer]) -> Iterator[list[Answer]]:
            same(done)
            return ordered_map(made, range(len(done), len(prompts), SIZE), self.engine.at_once)

        def same(rows: Sequence[Answer]) -> list[Answer]:
            if any(row.prompt != prompt for row, prompt in zip(rows, prompts, strict=False)):
                raise UserError(
                    f"{self.folder.path / name} has answers to other prompts: give the data that it was made from, "
                    f"or delete {self.folder.path} to have it made again"
                )
            return list(rows)

        return same(self.folder.records(name, Answer, owed, SIZE, len(prompts)))


class Part(NamedTuple):
    """One of the benchmarks in a module: what else a module of its own would have."""

    run: Callable[[EvalContext], dict[str, Any]]
    evaluation_prompts: Callable[[Path | None], list[str]]
    basis: Callable[[BenchmarkSettings], Any]


def load_benchmark(name: str) -> Any:
    """The benchmark of that name in a recipe's `evaluation`: a module, or a Part of one."""
    home, _, task = name.partition("/")
    found = import_module(f"isheep.benchmarks.{home}")
    return found.task(task) if task else found


def evaluation_prompts(benchmarks: Sequence[BenchmarkSettings]) -> list[str]:
    """What these benchmarks ask, in the parts that are reported. Raises UserError where one could not be run."""
    return [prompt for one in benchmarks for prompt in load_benchmark(one.name).prompts(data_path(one))]


def data_path(one: BenchmarkSettings) -> Path | None:
    return Path(one.data) if one.data else None


def prompt_fingerprint(one: BenchmarkSettings) -> str:
    """A digest of what a benchmark asks: the same only for the same prompts in the same order."""
    return fingerprint(evaluation_prompts([one]))


def fingerprint(content: Any) -> str:
    """The same for the same content. Rows of a Parquet file may hold what JSON has not, such as dates."""
    return sha256(json.dumps(content, default=str).encode()).hexdigest()


def item_fingerprints(contents: Sequence[Any]) -> list[str]:
    """What a row keeps of what it is about, as `of`."""
    return [fingerprint(content)[:12] for content in contents]


def check_unchanged(path: Path, rows: Sequence[Any], about: Sequence[str]) -> None:
    """Raises UserError where kept rows are about other items: the data have changed. "" is an older version's row."""
    if any(row.of not in ("", mark) for row, mark in zip(rows, about, strict=False)):
        raise UserError(
            f"{path} is about other items: give the data that it was made from, or delete {path.parent} to have it "
            "made again"
        )


def validation_prompts(stop: Stop | None) -> list[str]:
    """What a stop rule judges by; nothing where a recipe has none."""
    found: list[str] = load_benchmark(stop.benchmark).validation_prompts(None) if stop else []
    return found
