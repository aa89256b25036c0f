"""The standard benchmarks for tests: their items, and an engine that likes some texts."""

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from isheep.benchmarks import EvalContext
from isheep.benchmarks.support.data_files import DataRow
from isheep.benchmarks.support.opencompass import PaperTask
from isheep.benchmarks.support.sources import DataSource, load_items
from isheep.engines.function import SeededFunctionEngine
from isheep.errors import TooLong
from isheep.models.chat_template import load_chat_template
from isheep.recipe.evaluation import BenchmarkSettings
from isheep.records import TokenLogprobs
from isheep.rundir.folder import RunFolder

TASKS = (
    "boolq", "piqa", "siqa", "gpqa_diamond", "hellaswag", "winogrande", "arc_easy", "arc_challenge", "openbookqa_fact",
    "commonsense_qa", "mmlu", "nq", "triviaqa", "squad2",
)  # fmt: skip


def paper_task(name: str) -> PaperTask:
    task: PaperTask = import_module(f"isheep.benchmarks.paper.{name}").TASK
    return task


def source_of(name: str) -> DataSource:
    return paper_task(name).source


def settings_of(name: str, data: Path | None) -> BenchmarkSettings:
    return BenchmarkSettings(name=f"paper/{name}", data=str(data) if data else None)


def load(name: str, data: Path | None) -> list[DataRow]:
    """The items of a standard benchmark."""
    return load_items(source_of(name), settings_of(name, data))


def listed(*texts: str) -> dict[str, Any]:
    return {"text": list(texts), "label": list("ABCDE"[: len(texts)])}


class Liking(SeededFunctionEngine):
    """Finds the texts likely that hold one of `liked`; writes what `answer` says."""

    def __init__(self, liked: Sequence[str], answer: Callable[[str], str] = lambda prompt: "") -> None:
        super().__init__(lambda prompt, seed: answer(prompt))
        self.liked, self.read = liked, list[str]()

    def logprobs(self, prompts: Sequence[str], outputs: Sequence[str]) -> list[TokenLogprobs]:
        texts = [prompt + output for prompt, output in zip(prompts, outputs, strict=True)]
        self.read += texts
        if any("too long" in text for text in texts):
            raise TooLong("a prompt of 9 tokens does not fit")
        chances = [-0.5 if any(entry in text for entry in self.liked) else -1.0 for text in texts]
        return [TokenLogprobs([0] * 4, [chance] * 4) for chance in chances]


def exam(
    tmp_path: Path, engine: Any, model: Path, data: Path | None, base: bool = True, chat: str = "qwen"
) -> EvalContext:
    location = RunFolder(tmp_path / "run" / "base" / "eval" / "own", tmp_path / "run")
    location.path.mkdir(parents=True)
    settings = BenchmarkSettings(name="paper/piqa", data=str(data) if data else None)
    return EvalContext(engine, load_chat_template(chat, str(model)), 42, location, settings, base)
