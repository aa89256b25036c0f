"""Every setting has an effect: changing it alone changes the rows that are kept, or the weights that are trained."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple, get_args

import pytest
from helpers.training import save_rows
from pydantic import BaseModel

from isheep import api, backends
from isheep.algorithm import align
from isheep.backends import Backend
from isheep.engines.function import SeededFunctionEngine
from isheep.errors import UserError
from isheep.models.chat_template import load_chat_template
from isheep.recipe import loading
from isheep.recipe.schema import Recipe
from isheep.records import Completion, Model, Sampling, TokenLogprobs
from isheep.rundir.run import open_run_for_writing
from isheep.rundir.training_file import TrainingRow, read_training_file
from isheep.trainers.rows import select_examples


def sections(kind: Any) -> list[type[BaseModel]]:
    """The sections inside a field's type: one, several for a filter, none for a plain value."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return [kind]
    return [section for inner in get_args(kind) for section in sections(inner)]


def keys(section: type[BaseModel] = Recipe, prefix: str = "") -> Iterator[str]:
    """Every key of a recipe that holds a value: "training.lora.rank", "filters.density.clusters"."""
    for name, field in section.model_fields.items():
        inner = sections(field.annotation) if name != "as_many_as" else []
        for section_type in inner:
            kind = (
                f".{section_type.model_fields['kind'].annotation.__args__[0]}"
                if "kind" in section_type.model_fields
                else ""
            )
            yield from keys(section_type, f"{prefix}{name}{kind}.")
        if not inner and name != "kind":
            yield prefix + name


# --- what reaches the rows, on a fake engine and trainer

BASE = """
chat_template: qwen
iterations: 2
synthesis: {tasks: 24, batch_size: 4, budget: 60}
response: {batch_size: 4}
assessment: {batch_size: 4}
filters: [{kind: score, at_least: 4}]
"""
DENSITY, PERPLEXITY = "kind: density, clusters: 4", "kind: perplexity, at_most: 8"
# Answers have nine words, and agree in the last one at most.
AGREEMENT = "kind: agreement, at_least: 0.02"

SAMPLING = {"temperature": 0.5, "top_p": 0.5, "max_tokens": 999, "stop": "[a]", "presence_penalty": 1}

# The key: the words of the command line that change it, after those that it needs to matter at all.
ROWS: dict[str, list[str]] = {
    "model": ["model=other"],
    "chat_template": ["chat_template=llama3"],
    "seed_tasks": ["seed_tasks=lamb"],
    "language": ["language=any"],
    "iterations": ["iterations=1"],
    "seed": ["seed=43"],
    "synthesis.tasks": ["synthesis.tasks=28"],
    "synthesis.examples": ["synthesis.examples=4"],
    "synthesis.generated": ["synthesis.generated=2"],
    "synthesis.inputs": ["synthesis.inputs=false"],
    "synthesis.rules": ["synthesis.rules=false"],
    "synthesis.novelty": ["synthesis.novelty=null"],
    "synthesis.novelty_chunk": ["synthesis.novelty_chunk=1"],
    "synthesis.examples_for": ["synthesis.examples_for=prompt"],
    "synthesis.batch_size": ["synthesis.batch_size=5"],
    "synthesis.budget": ["synthesis.budget=16"],
    "synthesis.chat": ["synthesis.chat=true"],
    "synthesis.prompt": [
        "synthesis.prompt={meta: More, block: '{k}. Instruction: {instruction}', open: 'Instruction:'}"
    ],
    "response.prompt": ["response.prompt=plain"],
    "response.examples": ["synthesis.inputs=false", "response.prompt=instances", "response.examples=4"],
    "response.turns": ["response.turns=2"],
    "response.batch_size": ["response.batch_size=5"],
    "assessment.prompt": ["assessment.prompt=simple"],
    "assessment.criteria": ["assessment.criteria=[quality]"],
    "assessment.judge": ["assessment.judge=base"],
    "assessment.read": ["assessment.read=expected"],
    "assessment.opening": ["assessment.read=expected", "assessment.opening=' <'"],
    "assessment.chat": ["assessment.chat=true"],
    "assessment.batch_size": ["assessment.batch_size=5"],
    "filters.score.at_least": ["filters.0.at_least=6"],
    "filters.score.above": ["filters=[{kind: score, above: 4}]", "filters.0.above=5"],
    "filters.score.best": ["filters=[{kind: score, best: 0.5}]", "filters.0.best=0.25"],
    "filters.score.criteria": ["filters.0.criteria=[following]"],
    "filters.perplexity.at_most": [f"filters=[{{{PERPLEXITY}}}]", "filters.0.at_most=6"],
    "filters.perplexity.of": [f"filters=[{{{PERPLEXITY}}}]", "filters.0.of=[pair]"],
    "filters.agreement.samples": [f"filters=[{{{AGREEMENT}}}]", "filters.0.samples=3"],
    "filters.agreement.at_least": [f"filters=[{{{AGREEMENT}}}]", "filters.0.at_least=0.05"],
    "filters.density.clusters": [f"filters=[{{{DENSITY}}}]", "filters.0.clusters=5"],
    "filters.density.keep": [f"filters=[{{{DENSITY}}}]", "filters.0.keep=2"],
    "filters.density.choose": [f"filters=[{{{DENSITY}}}]", "filters.0.choose=lowest_perplexity"],
    "filters.density.of": [f"filters=[{{{DENSITY}, choose: lowest_perplexity}}]", "filters.0.of=pair"],
    "filters.random.keep": ["filters=[{kind: random, keep: 5}]", "filters.0.keep=4"],
    "filters.random.as_many_as": [
        "filters=[{kind: random, as_many_as: {above: 5}}]",
        "filters.0.as_many_as={above: 6}",
    ],
    "training.start": ["training.start=last"],
    "training.data": ["training.data=all"],
    **{
        f"{stage}.sampling.{name}": [f"{stage}.sampling.{name}={value}"]
        for stage in ("synthesis", "response", "assessment")
        for name, value in SAMPLING.items()
    },
}


def number(*path: Any) -> int:
    return int(sha256(repr(path).encode()).hexdigest(), 16)


def write(prompt: str, n: int) -> str:
    """Something that hangs on all of `n`: tasks, a rating, or an answer."""
    words = [format(n >> 20 * k & 0xFFFFF, "05x") for k in range(8)]
    if prompt.endswith(("Classification:", "Input:", "Output:")):
        return " No" if prompt.endswith("Classification:") else " ".join(words)
    if "##" in prompt:
        first, second = " ".join(words[:4]), " ".join(words[4:])
        tasks = [f"Say {first}", f"Say {first} again", f"Draw {second}", f"Übersetze {second}"]
        blocks = [f"{k}. Instruction: {task}\n{k}. Input: <noinput>" for k, task in enumerate(tasks, 6)]
        return "\n###\n".join(blocks).removeprefix("6. Instruction:")
    return f" {1 + n % 10}||because" if "score" in prompt else " ".join(words) + f" {n % 4}" + ":" * (n % 5 == 0)


class Written(SeededFunctionEngine):
    """An engine whose every word hangs on all that it is given, the model included."""

    def __init__(self, model: Model) -> None:
        # The base's name and not its place, or the words would hang on where the tests run.
        self.model = Path(model.base).name, model.adapter and (model.adapter / "weights").read_text()
        super().__init__(lambda prompt, seed: write(prompt, number(self.model, prompt, seed)))

    def generate(self, prompts: Sequence[str], sampling: Sampling, seed: int) -> list[Completion]:
        texts = [write(p, number(self.model, p, sampling.model_dump(), seed, i)) for i, p in enumerate(prompts)]
        return [Completion(text, 8, "stop") for text in texts]

    def logprobs(self, prompts: Sequence[str], outputs: Sequence[str]) -> list[TokenLogprobs]:
        rows = zip(prompts, outputs, strict=True)
        return [TokenLogprobs([0], [-math.log(1 + number(self.model, *row) % 10)]) for row in rows]


class Loop(NamedTuple):
    """Runs recipes on the fakes."""

    # The checkpoint whose tokenizer the chat templates use.
    base: Path
    folder: Path

    def learned(self, words: Sequence[str]) -> Any:
        """What each model learns from, and which one it starts from; or why there is none."""
        calls: list[Any] = []

        def train(recipe: Recipe, chat: Any, start: Model, training_file: Path, seed: int, into: Path) -> None:
            rows = [row.model_dump() for row in read_training_file(training_file).rows]
            calls.append((start.adapter and start.adapter.parent.name, seed, rows))
            (into / "weights").write_text(str(number(calls)))

        (self.folder / "mine.yaml").write_text(f"model: {self.base}\n{BASE}")
        recipe = api.load_recipe(self.folder / "mine.yaml", words)
        backend = Backend(
            lambda recipe, model: Written(model), train, lambda name, model: load_chat_template(name, str(self.base))
        )
        try:
            with open_run_for_writing(self.folder / str(number(*words)), recipe) as run:
                list(align(recipe, run, backend=backend))
        except UserError as error:
            return str(error).partition("(")[0]
        return calls


@pytest.fixture
def loop(qwen2: Path, tmp_path: Path) -> Loop:
    return Loop(qwen2, tmp_path)


@pytest.mark.parametrize("key", ROWS)
def test_each_setting_changes_the_training_rows(key: str, loop: Loop) -> None:
    *needed, change = ROWS[key]
    usual, changed = loop.learned(needed), loop.learned([*needed, change])
    assert len(usual) == 2 or key == "assessment.opening"
    assert usual != changed


def test_the_same_settings_give_the_same_rows(loop: Loop) -> None:
    again = loop._replace(folder=loop.folder / "again")
    again.folder.mkdir()
    assert loop.learned([]) == again.learned([])


# --- what reaches the weights, with the real trainer

TRAINED = """
synthesis: {tasks: 100}
training: {lora: {rank: 4, dropout: 0.1}, epochs: 2, learning_rate: 0.3, warmup_steps: 1, batch_size: 4, max_rows: 16,
           held_out: 0.25, eval_every: 2}
machine: {threads: 1, device: cpu}
"""
WEIGHTS = {
    "lora.rank": 2, "lora.alpha": 4, "lora.dropout": 0.5, "epochs": 1, "learning_rate": 0.05, "scheduler": "constant",
    "warmup_steps": 2, "batch_size": 2, "cutoff": 40, "max_steps": 3, "max_rows": 12, "num_rows": 10, "held_out": 0.5,
    "eval_every": 3, "keep": "last", "order": "random", "weigh": "rows", "end": "tokenizer",
}  # fmt: skip


@pytest.fixture(scope="module")
def weights(qwen2: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., bytes]:
    """The weights that a training with these words over TRAINED ends with."""

    @cache
    def weights(*words: str) -> bytes:
        into = tmp_path_factory.mktemp("training")
        (into / "mine.yaml").write_text(f"model: {qwen2}\n{TRAINED}")
        recipe = api.load_recipe(into / "mine.yaml", words)
        chat = load_chat_template("tokenizer", str(qwen2))
        rows = [TrainingRow(instruction=f"Say {n}", output="hot " * (1 + n % 4)) for n in range(20)]
        examples = select_examples(rows, chat, chat.tokenizer, recipe.training, 1)
        held_out = [example.row for example in examples.held_out]
        # The held-out rows have another output, so that the last checkpoint is not the best.
        for n, row in enumerate(rows):
            if row in held_out:
                rows[n] = row.model_copy(update={"output": "Paris."})
        save_rows(into / "train.json", rows)
        backends.train(recipe, chat, Model(str(qwen2)), into / "train.json", 1, into / "adapter")
        return (into / "adapter" / "adapter_model.safetensors").read_bytes()

    return weights


@pytest.mark.numeric
@pytest.mark.parametrize("key", WEIGHTS)
def test_each_training_setting_changes_the_weights(key: str, weights: Callable[..., bytes]) -> None:
    assert weights(f"training.{key}={WEIGHTS[key]}") != weights()


# --- how, not what

ELSEWHERE = {
    "assessment.on_unreadable": "test_unreadable_ratings.py",
    "assessment.explain": "test_ratings.py: it follows the score and changes no row",
    "stop.benchmark": "test_iterative_settings.py: what a run stops by",
    "stop.patience": "test_iterative_settings.py: where a run stops",
    "stop.gain": "test_stopping.py: where a run stops",
    "stop.confidence": "test_stopping.py: where a run stops",
    "stop.on": "test_degenerate.py: what a run stops by",
    "filters.contamination.ngram": "test_filters.py, test_contamination.py",
    "filters.contamination.rouge": "test_filters.py, test_contamination.py",
    "filters.custom.function": "test_filters.py",
    **{f"synthesis.topics.{key}": "test_dromedary.py" for key in ("file", "share", "rounds")},
    "synthesis.tasks_of": "test_dromedary.py",
    "iteration": "test_dromedary.py",
    "date": "test_families.py: the clock in a chat template",
    "evaluation.name": "test_recipes_on_lamb.py",
    "evaluation.data": "test_iterative_settings.py: what a benchmark is given",
    "evaluation.max_tokens": "test_samples.py, test_mt_bench.py, test_alpaca_eval.py",
    "evaluation.num_items": "test_samples.py",
    "evaluation.base_in_template": "test_samples.py: a base that is asked in the template",
    "training.steps_of": "test_sweep_seeds.py: the number of steps",
    "training.quantize": "docs/scale.md: needs CUDA and bitsandbytes, refused where they are not",
    "evaluation.judge": "test_judges.py, test_mt_bench.py, test_alpaca_eval.py",
}


def test_the_machine_settings_reach_the_engine_and_the_trainer(monkeypatch: pytest.MonkeyPatch) -> None:
    from isheep.engines import transformers, vllm
    from isheep.trainers import peft

    calls: list[Any] = []
    monkeypatch.setattr(transformers, "open_engine", lambda *arguments, **keywords: calls.append(keywords))
    monkeypatch.setattr(peft, "train", lambda *arguments: calls.append(arguments[-1]))
    machine = {"threads": 3, "device": "cuda:1", "engine_batch_size": 7, "dtype": "bfloat16", "rows_per_process": 2}
    recipe = Recipe.model_validate({"model": "lamb", "machine": machine})
    backends.open_engine(recipe, Model("lamb"))
    backends.train(recipe, None, Model("lamb"), Path(), 1, Path())  # type: ignore[arg-type]
    assert calls == [{"threads": 3, "device": "cuda:1", "dtype": "bfloat16", "batch": 7}, recipe.machine]
    monkeypatch.setattr(vllm, "open_engine", lambda *arguments: calls.append(arguments[:3]))
    changes: dict[str, Any] = {"training": {"lora": {"rank": 2}}, "iteration": {2: {"training": {"lora": {"rank": 5}}}}}
    recipe = Recipe.model_validate({"model": "lamb", "machine": {**machine, "engine": "vllm"}, **changes})
    backends.open_engine(recipe, Model("lamb"))
    assert calls[-1] == (Model("lamb"), recipe.machine, 5)


def test_the_vllm_settings_reach_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each key of machine.vllm reaches it, and the device and threads its process."""
    from isheep.engines import vllm, vllm_engine

    monkeypatch.setattr(vllm, "check_installed", lambda: None)
    monkeypatch.setattr(vllm, "check_device", lambda device: None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")

    def opened(adapter: Path | None = None, **settings: Any) -> Any:
        machine = {"engine": "vllm", "engine_batch_size": 7, "vllm": settings}
        engine = vllm.open_engine(
            Model("lamb", adapter), Recipe(model="lamb", machine=machine).machine, 9, lambda: None
        )  # type: ignore[arg-type, return-value]
        return engine._options(pooling=False)._asdict()

    usual = opened()
    assert usual["batch_size"] == 7 and usual["context"] == 1024 and usual["rank"] == 0
    changes = {"memory": 0.5, "cache": 3.0, "context": 512, "tensor_parallel": 2, "eager": True}
    assert opened(**changes) == usual | changes
    assert opened(sleep=True) == usual | {"sleep": True, "rank": 16}
    environment = vllm_engine.worker_environment(
        Recipe(model="lamb", machine={"threads": 3, "device": "cuda:1"}).machine
    )  # type: ignore[arg-type]
    assert environment == {"OMP_NUM_THREADS": "3", "CUDA_VISIBLE_DEVICES": "6"}


CLASHES = [
    ("training.lora.rank=600", "vLLM serves ranks up to 512"),
    ("machine.vllm={sleep: true, adapters: merged}", "take adapters: lora"),
    ("machine={engine: vllm, device: cpu, vllm: {sleep: true}}", "only a vLLM on a GPU can sleep"),
    ("machine={engine: vllm, device: 'cuda:1', vllm: {tensor_parallel: 2}}", "machine.device names one"),
]


@pytest.mark.parametrize(("change", "reason"), CLASHES)
def test_settings_that_vllm_does_not_support_are_refused(change: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        api.load_recipe(loading.find_recipe("lamb"), ["machine.engine=vllm", change])


def test_without_vllm_a_run_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("isheep.engines.vllm.importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"not installed: .*pip install 'isheep\[vllm\]'.*machine.engine: openai"):
        backends.check_engine(api.load_recipe(loading.find_recipe("lamb"), ["machine.engine=vllm"]), False)


def test_every_setting_of_a_recipe_is_tested() -> None:
    machine = {key for key in keys() if key.startswith("machine.")}
    judges = {key for key in keys() if key.startswith(("evaluation.judge.", "assessment.judge."))}
    tested = {*ROWS, *(f"training.{key}" for key in WEIGHTS), *ELSEWHERE}
    assert {*keys()} - machine - judges == tested - {"evaluation.judge", "assessment.judge"}
