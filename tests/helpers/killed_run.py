"""Not a test: `isheep run` on a fake engine and trainer, which kills its own process at a given moment.

python killed_run.py OUT N RECIPE [COMMAND...]: the N-th call of the engine, training step, fsync or rename is not
reached; 0: all. A run that ends writes the number of its moments into OUT.moments. COMMAND replaces the run of RECIPE.
"""

import functools
import itertools
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import isheep.sweep
from isheep.backends import DEFAULT_BACKEND
from isheep.benchmarks import EvalContext, register_benchmark
from isheep.cli import main
from isheep.engines.function import SeededFunctionEngine
from isheep.recipe.schema import Recipe
from isheep.records import Model, Sampling
from isheep.rundir.training_file import read_training_file
from tests.helpers.fakes import FakeChat
from tests.helpers.halved_benchmark import halved_benchmark

OUT, KILL_AT, NAME = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
moments = itertools.count(1)
RECIPES = {
    "isheep": """
model: fake
iterations: 2
synthesis:  {tasks: 20, batch_size: 4, novelty: null}
response:   {batch_size: 8}
assessment: {batch_size: 8, judge: base}
filters:    [{kind: score, at_least: 8}, {kind: perplexity}, {kind: density, clusters: 19}]
training:   {epochs: 1}
""",
    "stop": """
model: fake
iterations: 3
synthesis:  {tasks: 8, batch_size: 4, novelty: null}
response:   {batch_size: 8}
assessment: null
filters:    []
training:   {epochs: 1}
evaluation: [halved]
stop:       {benchmark: halved, patience: 2}
""",
    "exam": """
model: fake
iterations: 1
synthesis:  {tasks: 4, batch_size: 4, novelty: null}
assessment: null
filters:    []
training:   {epochs: 1}
evaluation: [lamb]
""",
    "dromedary": """
model: fake
iterations: 2
synthesis:  {tasks: 20, batch_size: 4, novelty: null, topics: {share: 0.5, rounds: 2}}
response:   {batch_size: 8, prompt: dromedary/principles}
assessment: null
filters:    [{kind: perplexity}]
training:   {epochs: 1}
iteration:  {2: {synthesis: {tasks_of: 1}, response: {prompt: dromedary/verbose}, training: {start: last}}}
""",
    "self-instruct": """
model: fake
iterations: 2
synthesis:  {tasks: 20, batch_size: 4, novelty: null, generated: 2, inputs: false}
response:   {batch_size: 8, prompt: instances, examples: 2}
assessment: null
filters:    []
training:   {epochs: 1}
""",
}


def killed(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, with the moment before each call."""

    @functools.wraps(function)
    def call(*arguments: Any, **keywords: Any) -> Any:
        if next(moments) == KILL_AT:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **keywords)

    return call


def write(prompt: str, seed: int) -> str:
    # The texts of all processes of a run are counted, the killed ones included.
    with OUT.with_suffix(".texts").open("ab") as texts:
        texts.write(b".")
    if prompt.endswith("Classification:"):
        return (" Yes", " No", " both")[seed % 3]
    if prompt.endswith(("Input:", "Output:")):
        return f" text {prompt.count(' ')} {seed}" if seed % 7 else ""
    if prompt.endswith("<|answer|>"):
        return f"The answer is {seed}.<|end|> And more."
    if "Please rate" in prompt:
        return f"{7 + seed % 4}||because" if seed % 9 else "good"
    if prompt.endswith("Thoughts:"):
        return f" Think of {seed}.\n" + f"Assistant: It is {seed}.\nUser: And?" * bool(seed % 5)
    if prompt.endswith(";"):
        return f" topic {seed % 7}; other {seed % 5}\nMore"
    return f" Tell me at length about {seed}\nInput: <noinput>\n###\n7. Instruction: Draw {seed}\nInput: <noinput>"


def open_engine(recipe: Recipe, model: Model) -> SeededFunctionEngine:
    """What this model writes depends on what it was trained on."""
    trained = sum((model.adapter / "weights").read_bytes()) if model.adapter else 0
    engine = SeededFunctionEngine(lambda prompt, seed: write(prompt, seed + trained + len(prompt)))
    for name in ("generate", "logprobs", "embed"):
        setattr(engine, name, killed(getattr(engine, name)))
    return engine


def train(recipe: Recipe, chat: Any, start: Model, data: Path, seed: int, into: Path) -> None:
    """Three steps, each of which goes on with what is there."""
    checkpoint = into / "checkpoint"
    for _ in range(len(checkpoint.read_bytes()) if checkpoint.exists() else 0, 3):
        killed(checkpoint.open("a").write)("x")
    (into / "weights").write_text("".join(row.instruction + row.output for row in read_training_file(data).rows))
    checkpoint.unlink(missing_ok=True)


def judge_answers(context: EvalContext, questions: Sequence[str]) -> list[bool]:
    """Let the model answer, and take every second answer for right."""
    answers = context.answers([context.chat.prompt(question) for question in questions], Sampling())
    return [len(answer.output.encode()) % 2 == 0 for answer in answers]


register_benchmark(halved_benchmark(judge_answers))
DEFAULT_BACKEND.load_chat_template = lambda name, model: FakeChat()  # type: ignore[assignment, return-value]
DEFAULT_BACKEND.open_engine = open_engine
DEFAULT_BACKEND.train = train
isheep.sweep.check_prompt_fits = lambda recipe, chat: None
os.fsync, Path.rename = killed(os.fsync), killed(Path.rename)  # type: ignore[method-assign]
OUT.with_suffix(".yaml").write_text(RECIPES[NAME])
try:
    main(sys.argv[4:] or ["run", str(OUT.with_suffix(".yaml")), "machine.report=false", "--out", str(OUT)])
finally:
    OUT.with_suffix(".moments").write_text(str(next(moments) - 1))
