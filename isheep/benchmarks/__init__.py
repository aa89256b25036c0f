"""Benchmarks: a module each, with `run(exam) -> dict` and `prompts(data) -> list[str]`.

The standard benchmarks are under two protocols, "standard/piqa" and "paper/piqa": modules with a `task(name) -> Part`.

A result has the "template" that the model was asked in and "items": for each score one value per item, in the same
order for every model, a truth value or a number. Where items of a score belong together (the constraints of a prompt,
the turns of a dialogue) "clusters" names the group of each. "note" says what a reader must know, such as "not checked
against the original". A benchmark that a recipe's `stop` can name also has `validate(exam) -> dict`: other items, and a
"score" that is better the higher it is; `validation_prompts(data) -> list[str]` are these items.
"""

from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from isheep.batching import seed_of
from isheep.chat import Chat
from isheep.engines import Engine, Sampling
from isheep.recipe import Benchmark, Stop
from isheep.records import Answer
from isheep.run import Folder

SIZE = 64  # answers in a batch


class Exam(NamedTuple):
    """What a benchmark is given: a model behind its engine, and a folder of its own for what it wants to keep."""

    engine: Engine
    chat: Chat
    seed: int
    folder: Folder  # eval/NAME beside NAME.json: raw answers, judgments
    data: Path | None  # the user's copy of the benchmark's files
    base: bool  # M^0, which no template was taught to
    unsafe_code: bool = False  # whether code that a model wrote may run where no sandbox holds

    @property
    def template(self) -> str:
        """Appendix C: an aligned model is asked in the template of its SFT, the base plainly."""
        return "plain" if self.base else self.chat.name

    def asked(self, instruction: str) -> str:
        return instruction if self.base else self.chat.prompt(instruction)

    def answers(self, prompts: Sequence[str], sampling: Sampling, name: str = "answers.jsonl") -> list[Answer]:
        """The model's answers to prompts as it reads them, kept in the benchmark's folder as rows like any other."""

        def owed(done: list[Answer]) -> Iterator[list[Answer]]:
            for start in range(len(done), len(prompts), SIZE):
                some = prompts[start : start + SIZE]
                found = self.engine.generate(some, sampling, seed_of(self.seed, "eval", name, start))
                yield [Answer(output=one.text, finish=one.finish, tokens=one.tokens) for one in found]

        return self.folder.records(name, Answer, owed, SIZE, len(prompts))


class Part(NamedTuple):
    """One of the benchmarks in a module: what else a module of its own would have."""

    run: Callable[[Exam], dict[str, Any]]
    prompts: Callable[[Path | None], list[str]]


def module(name: str) -> Any:
    """The benchmark of that name in a recipe's `evaluation`: a module, or a Part of one."""
    home, _, task = name.partition("/")
    found = import_module(f"isheep.benchmarks.{home}")
    return found.task(task) if task else found


def prompts(benchmarks: Sequence[Benchmark]) -> list[str]:
    """What these benchmarks ask, in the parts that are reported."""
    return [prompt for one in benchmarks for prompt in module(one.name).prompts(one.data and Path(one.data))]


def validation_prompts(stop: Stop | None) -> list[str]:
    """What a stop rule judges by; nothing where a recipe has none."""
    found: list[str] = module(stop.benchmark).validation_prompts(None) if stop else []
    return found
