"""Too little memory for a batch: half as many rows at once, and the same results."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import trl
from torch import Tensor

from isheep.engines.memory import compute_within_memory
from isheep.engines.transformers import TransformersEngine, open_engine
from isheep.errors import UserError, is_out_of_memory
from isheep.models.chat_template import load_chat_template
from isheep.recipe.machine import Machine
from isheep.recipe.schema import Lora, Training
from isheep.records import Model, Sampling
from isheep.trainers.job import Job
from isheep.trainers.memory import TrainingMemoryError, fit_within_memory, smaller_job
from isheep.trainers.rows import TokenizedRow
from tests.helpers.training import numbered_rows, train_peft

pytestmark = pytest.mark.numeric

ERRORS: dict[str, Callable[[], Exception]] = {
    "cuda": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nAnd more."),
    "cpu": lambda: RuntimeError(
        "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
        "allocate 800000000000 bytes. Error code 12 (Cannot allocate memory)"
    ),
    "python": MemoryError,
}
GREEDY = Sampling(temperature=0, top_p=1, max_tokens=12, stop=("<|im_end|>",))
DRAWN = Sampling(temperature=1.0, top_p=0.9, max_tokens=12, stop=("<|im_end|>",))
PROMPTS = [f"What is {number} plus {3 * number}?" + " Say it." * (number % 3) for number in range(1, 12)]


def test_what_counts_as_too_little_memory() -> None:
    assert all(is_out_of_memory(make()) for make in ERRORS.values())
    assert not any(map(is_out_of_memory, (RuntimeError("shape"), ValueError("out of memory"), UserError("no"))))


def engine_of(limit: int, error: str = "cuda", **settings: Any) -> TransformersEngine:
    """Return an engine on lamb whose memory holds `limit` rows in a forward pass."""
    engine = open_engine(Model("lamb"), threads=1, device="cpu", dtype="float32", **settings)
    for module in (engine.loaded.model, engine.loaded.model.base_model):
        module.forward = limited(module.forward, limit, error)
    return engine


def limited(forward: Callable[..., Any], limit: int, error: str) -> Callable[..., Any]:
    def forward_within(*arguments: Any, **keywords: Any) -> Any:
        ids: Tensor = keywords["input_ids"] if "input_ids" in keywords else arguments[0]
        if len(ids) > limit:
            raise ERRORS[error]()
        return forward(*arguments, **keywords)

    return forward_within


OUTPUTS = ["It is 7.", "No"] * 5 + ["4"]
SCORES = [f" {score}" for score in range(1, 11)]
CALLS: dict[str, Callable[[TransformersEngine], Any]] = {
    "greedy": lambda engine: engine.generate(PROMPTS, GREEDY, 1),
    "drawn": lambda engine: engine.generate(PROMPTS, DRAWN, 1),
    "logprobs": lambda engine: sum((row.logprobs for row in engine.logprobs(PROMPTS, OUTPUTS)), []),
    "choices": lambda engine: sum(engine.choices(PROMPTS, SCORES), []),
    "embed": lambda engine: engine.embed(PROMPTS).ravel().tolist(),
}


@pytest.fixture(scope="module")
def whole() -> dict[str, Any]:
    """The results of an engine with enough memory."""
    engine = open_engine(Model("lamb"), threads=1, device="cpu", dtype="float32")
    return {name: call(engine) for name, call in CALLS.items()}


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("greedy", "cuda"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ("greedy", "cpu"),
                ("drawn", "python"),
                ("logprobs", "cuda"),
                ("choices", "cpu"),
                ("embed", "cuda"),
            )
        ),
    ],
)
def test_fewer_rows_at_once_give_the_same_results(
    name: str, error: str, whole: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """Eleven rows do not fit, nor do five; two do."""
    engine = engine_of(3, error)
    results = CALLS[name](engine)
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(" (")[0] for line in lines] == [
        "not enough memory for 11 prompts at once, going on with 5",
        "not enough memory for 5 prompts at once, going on with 2",
    ]
    is_text = name in ("greedy", "drawn")
    assert results == (whole[name] if is_text else pytest.approx(whole[name], abs=1e-4))
    # Later calls begin with what fits.
    CALLS[name](engine)
    assert engine.batch == 2 and not capsys.readouterr().err


def test_a_row_that_does_not_fit_alone_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError) as error:
        engine_of(0).generate(PROMPTS[:4], GREEDY, 1)
    assert str(error.value).startswith("not enough memory for a single prompt (OutOfMemoryError: CUDA out of memory")
    assert "max_tokens" in str(error.value) and "\n" not in str(error.value)
    assert capsys.readouterr().err.count("going on with") == 2


def test_other_errors_are_raised_as_they_are() -> None:
    with pytest.raises(ZeroDivisionError):
        compute_within_memory(lambda rows: 1 // 0, 8, lambda: 8, lambda rows: None)


# --- training

TRAINING = Training(batch_size=4, epochs=2, warmup_steps=0, held_out=0.2, eval_every=1, lora=Lora(dropout=0.0))


def limit_training(monkeypatch: pytest.MonkeyPatch, step: str, limit: int, first_step: int = 0) -> None:
    """Let a step of the trainer raise an error for more than `limit` rows, from the optimizer step on."""
    real_step = getattr(trl.SFTTrainer, step)

    def limited_step(trainer: Any, model: Any, inputs: Any, *arguments: Any) -> Any:
        if len(inputs["input_ids"]) > limit and trainer.state.global_step >= first_step:
            raise ERRORS["cuda"]()
        return real_step(trainer, model, inputs, *arguments)

    monkeypatch.setattr(trl.SFTTrainer, step, limited_step)


def train(qwen2: Path, output_dir: Path, rows: int = 4) -> Any:
    chat, machine = load_chat_template("tokenizer", str(qwen2)), Machine(threads=1, rows_per_process=rows)
    train_peft(Model(str(qwen2)), numbered_rows(11), chat, TRAINING, output_dir, machine)
    return json.loads((output_dir / "training.json").read_text())


@pytest.mark.parametrize(("first_step", "limit"), [pytest.param(0, 1, marks=pytest.mark.slow), (2, 2)])
def test_fewer_training_rows_at_once_learn_the_same(
    first_step: int, limit: int, qwen2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    whole = train(qwen2, tmp_path / "whole")
    limit_training(monkeypatch, "training_step", limit, first_step)
    capsys.readouterr()
    record = train(qwen2, tmp_path / "less")
    lines = [line.partition(" (")[0] for line in capsys.readouterr().err.splitlines() if "memory" in line]
    expected = "not enough memory for {} training rows at once, going on with {} from the last checkpoint; a step"
    pairs = [(4, 2), (2, 1)] if limit == 1 else [(4, 2)]
    assert lines == [f"{expected.format(*pair)} still has 4 rows" for pair in pairs]
    assert record["steps"] == whole["steps"] == 5 and record["kept_step"] == whole["kept_step"]
    for name in ("loss", "eval_loss"):
        assert [step for step, _ in record[name]] == [step for step, _ in whole[name]]
        values = [[loss for _, loss in entries[name]] for entries in (record, whole)]
        assert values[0] == pytest.approx(values[1], rel=1e-4)


@pytest.mark.slow
def test_fewer_held_out_rows_at_once(
    qwen2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    limit_training(monkeypatch, "prediction_step", 1)
    record = train(qwen2, tmp_path / "less")
    assert "for 4 held-out rows at once, going on with 2" in capsys.readouterr().err
    assert record["steps"] == 5 and len(record["eval_loss"]) == 5


@pytest.mark.slow
def test_a_training_row_that_does_not_fit_alone_is_one_line(
    qwen2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_training(monkeypatch, "training_step", 0)
    with pytest.raises(UserError, match=r"not enough memory to train on a single row of up to \d+ tokens") as error:
        train(qwen2, tmp_path / "less")
    assert "training.cutoff" in str(error.value) and "\n" not in str(error.value)


def make_job(batch_size: int, rows: int | None, processes: int = 1) -> Job:
    machine = Machine(rows_per_process=rows, gpus=processes, device="cpu")
    row = TokenizedRow([1, 2, 3], [1, 2, 3])
    training = Training(batch_size=batch_size)
    return Job(
        start_model=Model("lamb"), train=[row], held_out=[row], pad_token="", training=training, seed=1,
        machine=machine, output_dir=Path("out"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("batch_size", "rows", "processes", "sizes"),
    [(12, None, 1, [6, 3, 1]), (128, 16, 4, [8, 4, 2, 1]), (10, None, 4, [1]), (7, None, 1, [1])],
)
def test_the_rows_of_a_step_stay_the_same(batch_size: int, rows: int | None, processes: int, sizes: list[int]) -> None:
    job, seen = make_job(batch_size, rows, processes), list[int]()
    num_held_out = job.eval_batch_size
    while job.device_batch_size > 1:
        job = smaller_job(job, False, "full")
        seen.append(job.device_batch_size)
        assert batch_size % job.device_batch_size == 0 and job.eval_batch_size == num_held_out
        assert job.accumulation_steps * job.device_batch_size * processes >= batch_size
    assert seen == sizes
    with pytest.raises(UserError, match="a single row of up to 3 tokens"):
        smaller_job(job, False, "full")


def test_processes_that_run_out_of_memory_start_again_with_fewer_rows() -> None:
    sizes = list[tuple[int, int]]()

    def launch(job: Job) -> None:
        sizes.append((job.device_batch_size, job.eval_batch_size))
        if len(sizes) == 1:
            raise TrainingMemoryError("training in 2 processes failed with exit status 1: OutOfMemoryError: CUDA out")
        if len(sizes) == 2:
            raise TrainingMemoryError("training in 2 processes failed: EvaluationMemoryError: OutOfMemoryError: CUDA")

    fit_within_memory(make_job(16, None, 2), launch)
    assert sizes == [(8, 16), (4, 16), (4, 8)]
