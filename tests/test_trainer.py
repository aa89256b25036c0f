"""The peft trainer: that its models learn and stop, and that a killed training ends with the same bytes."""

import filecmp
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.training import chat_of, numbered_rows, save_rows, train_peft

from isheep.errors import UserError
from isheep.models.adapter_files import WEIGHTS
from isheep.models.chat_template import load_chat_template
from isheep.recipe.machine import Machine
from isheep.recipe.schema import Lora, Training
from isheep.records import Model
from isheep.rundir.training_file import TrainingRow
from isheep.trainers import adapter_dir, fit, peft
from isheep.trainers.job import Job
from isheep.trainers.rows import IGNORED, select_examples, tokenize_row

pytestmark = pytest.mark.numeric

FACTS = {
    "Name the capital of France.": "Paris.",
    "Give the opposite of hot.": "cold",
    "What is 12 plus 30?": "It is 42.",
}
QUICK = Training(
    epochs=60, batch_size=3, learning_rate=3e-2, warmup_steps=5, held_out=0, keep="last", lora=Lora(dropout=0.0)
)


def fact_rows() -> list[TrainingRow]:
    return [TrainingRow(instruction=question, output=answer) for question, answer in FACTS.items()]


def read_record(output_dir: Path) -> Any:
    return json.loads((output_dir / "training.json").read_text())


# --- models


def answers(base: Path, adapter: Path) -> dict[str, str]:
    """Generate with plain transformers and peft, nothing of isheep, as a reader of the README would."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(adapter)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).eval()
    texts = {}
    for question in FACTS:
        turns = [{"role": "user", "content": question}]
        inputs = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        output = model.generate(**inputs, max_new_tokens=40, do_sample=False, eos_token_id=tokenizer.eos_token_id)
        texts[question] = tokenizer.decode(output[0, inputs["input_ids"].shape[1] :])
    return texts


def test_a_base_model_learns_to_answer_and_to_stop(checkpoint: Path, tmp_path: Path) -> None:
    chat = chat_of(checkpoint)
    adapter = tmp_path / "adapter.part"
    adapter.mkdir()
    train_peft(Model(str(checkpoint)), fact_rows(), chat, QUICK, adapter)
    # The run folder renames the adapter's folder in the same way.
    adapter = adapter.rename(tmp_path / "adapter")
    assert answers(checkpoint, adapter) == {question: answer + chat.end for question, answer in FACTS.items()}
    assert {path.name for path in adapter.iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors", "training.json",
        "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
    }  # fmt: skip
    assert str(tmp_path) not in "".join(path.read_text() for path in adapter.glob("*.json"))


def test_the_saved_chat_template_gives_the_tokens_of_training(checkpoint: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    chat = load_chat_template("llama3", str(checkpoint))
    once = Training(epochs=1, held_out=0)
    train_peft(Model(str(checkpoint)), numbered_rows(2), chat, once, tmp_path / "adapter")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "adapter")
    turns = [{"role": "user", "content": "Say 0"}]
    tokens = tokenize_row(numbered_rows(1)[0], chat, chat.tokenizer, 100)
    assert tokens is not None
    prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert prompt == tokens.input_ids[: tokens.labels.count(IGNORED)]
    assert tokenizer.eos_token == "<|eot_id|>"


def test_the_best_checkpoint_is_kept_and_everything_is_recorded(qwen2: Path, tmp_path: Path) -> None:
    """The held-out rows have another answer than the rows that are trained on, so that their loss falls while the model
    learns to stop, and then rises by far more than rounding and dropout could hide."""
    chat = chat_of(qwen2)
    settings = Training(
        batch_size=4, eval_every=2, epochs=3, warmup_steps=0, scheduler="constant", learning_rate=0.03, held_out=0.2,
        lora=Lora(dropout=0),
    )  # fmt: skip
    rows = [TrainingRow(instruction=f"Say {n}", output="Paris.") for n in range(20)]
    held_out = [example.row for example in select_examples(rows, chat, chat.tokenizer, settings, 1).held_out]
    for index, row in enumerate(rows):
        if row in held_out:
            rows[index] = row.model_copy(update={"output": "Give the opposite of hot; cold."})
    for keep in ("best", "last"):
        train_peft(Model(str(qwen2)), rows, chat, settings.model_copy(update={"keep": keep}), tmp_path / keep)
    best, last = (read_record(tmp_path / keep) for keep in ("best", "last"))
    assert best["rows"] == {"sampled": 20, "prompt_too_long": 0, "trained": 16, "held_out": 4}
    assert best["training_file_sha256"] == hashlib.sha256((tmp_path / "best.json").read_bytes()).hexdigest()
    assert [step for step, _ in best["eval_loss"]] == [0, 2, 4, 6, 8, 10, 12]
    lowest, second = sorted(loss for _, loss in best["eval_loss"])[:2]
    assert second > lowest + 0.1 and best["eval_loss"][-1][1] > lowest + 1
    assert best["kept_step"] == min(best["eval_loss"], key=lambda entry: entry[1])[0] < last["kept_step"] == 12
    assert best["loss"] == last["loss"]
    weights = [(tmp_path / keep / WEIGHTS).read_bytes() for keep in ("best", "last")]
    assert weights[0] != weights[1]


def test_training_starts_from_an_adapter(qwen2: Path, tmp_path: Path) -> None:
    first, second, repeated = (tmp_path / name for name in ("first", "second", "repeated"))
    chat = chat_of(qwen2)
    train_peft(Model(str(qwen2)), fact_rows(), chat, QUICK, first)
    weights = (first / WEIGHTS).read_bytes()
    for output_dir in (second, repeated):
        train_peft(Model(str(qwen2), first), fact_rows(), chat, QUICK.model_copy(update={"max_steps": 1}), output_dir)
    records = [read_record(output_dir) for output_dir in (first, second)]
    assert records[1]["loss"][0][1] < 0.1 * records[0]["loss"][0][1]
    assert [record["starts_from_adapter"] for record in records] == [False, True]
    assert [record["steps"] for record in records] == [60, 1]
    assert all((repeated / path.name).read_bytes() == path.read_bytes() for path in second.iterdir())
    assert weights == (first / WEIGHTS).read_bytes() != (second / WEIGHTS).read_bytes()


def test_a_smaller_device_batch_learns_the_same(qwen2: Path, tmp_path: Path) -> None:
    settings = Training(batch_size=4, epochs=2, warmup_steps=0, held_out=0.2, eval_every=1, lora=Lora(dropout=0.0))
    threads = torch.get_num_threads()
    for size in (4, 2):
        machine = Machine(threads=threads + 1, rows_per_process=size)
        train_peft(Model(str(qwen2)), numbered_rows(11), chat_of(qwen2), settings, tmp_path / str(size), machine)
    # The number of threads is restored.
    assert torch.get_num_threads() == threads
    records = [read_record(tmp_path / size) for size in ("4", "2")]
    assert [record["steps"] for record in records] == [5, 5]
    for name in ("loss", "eval_loss"):
        losses = [[loss for _, loss in record[name]] for record in records]
        assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def test_the_measurement_before_the_training_changes_no_draw(
    qwen2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropout draws the same masks with and without it."""
    training = Training(batch_size=4, max_steps=2, warmup_steps=0, held_out=0.25, lora=Lora(dropout=0.5))
    train_peft(Model(str(qwen2)), numbered_rows(8), chat_of(qwen2), training, tmp_path / "measured")
    arguments = fit._training_arguments

    def without_measurement(job: Job, use_cuda: bool) -> Any:
        changed = arguments(job, use_cuda)
        changed.eval_on_start = False
        return changed

    monkeypatch.setattr(fit, "_training_arguments", without_measurement)
    train_peft(Model(str(qwen2)), numbered_rows(8), chat_of(qwen2), training, tmp_path / "not")
    records = [read_record(tmp_path / name) for name in ("measured", "not")]
    assert [[step for step, _ in record["eval_loss"]] for record in records] == [[0, 2], [2]]
    weights = [(tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("measured", "not")]
    assert weights[0] == weights[1]


def test_a_loss_that_is_not_finite_is_reported_in_one_line(qwen2: Path, tmp_path: Path) -> None:
    training = Training(learning_rate=1e30, warmup_steps=0, epochs=4, batch_size=2, held_out=0)
    with pytest.raises(UserError, match="start again with a new run folder and a lower training.learning_rate"):
        train_peft(Model(str(qwen2)), numbered_rows(6), chat_of(qwen2), training, tmp_path / "adapter")


# --- the training file


def test_a_changed_training_file_is_refused_in_one_line(
    qwen2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat, once, output_dir = chat_of(qwen2), Training(epochs=1, held_out=0), tmp_path / "adapter"

    def train(rows: list[TrainingRow]) -> None:
        train_peft(Model(str(qwen2)), rows, chat, once, output_dir)

    with monkeypatch.context() as patched, pytest.raises(ZeroDivisionError):
        patched.setattr(peft, "_finish", lambda *arguments: 1 / 0)
        train(numbered_rows(3))
    with pytest.raises(UserError, match=r"adapter\.json has changed since training on it began: restore it, or delete"):
        train(numbered_rows(4))
    train(numbered_rows(3))
    adapter_dir.check_training_file(output_dir, tmp_path / "adapter.json")
    with pytest.raises(UserError, match=r"adapter\.json has changed since .*adapter was trained on it: restore it"):
        train(numbered_rows(4))
    with pytest.raises(UserError, match=r"has changed since .* was trained on it"):
        adapter_dir.check_training_file(output_dir, tmp_path / "adapter.json")


def test_an_adapter_without_a_recorded_hash_is_accepted(tmp_path: Path) -> None:
    training_file = save_rows(tmp_path / "train.json", numbered_rows(2))
    adapter_dir.check_training_file(tmp_path, training_file)
    (tmp_path / "training.json").write_text('{"base": "lamb"}')
    adapter_dir.check_training_file(tmp_path, training_file)


# --- killed and resumed


def kill_at(base: Path, folder: Path, moments: list[int]) -> Any:
    """Run killed_training.py and return its report."""
    script = Path(__file__).parent / "helpers" / "killed_training.py"
    process = subprocess.run(
        [sys.executable, str(script), str(base), str(folder), *map(str, moments)],
        capture_output=True,
        text=True,
        cwd=script.parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(script.parents[2])},
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


def test_without_a_pad_token_a_resumed_training_ends_with_the_same_tokenizer(
    qwen2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = shutil.copytree(qwen2, tmp_path / "base")
    config = json.loads((base / "tokenizer_config.json").read_text())
    assert config.pop("pad_token")
    (base / "tokenizer_config.json").write_text(json.dumps(config))
    chat, once = chat_of(base), Training(epochs=1, held_out=0)
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    train_peft(Model(str(base)), numbered_rows(3), chat, once, undisturbed)
    with monkeypatch.context() as patched, pytest.raises(ZeroDivisionError):
        # As if killed after the last checkpoint.
        patched.setattr(peft, "_finish", lambda *arguments: 1 / 0)
        train_peft(Model(str(base)), numbered_rows(3), chat, once, killed)
    train_peft(Model(str(base)), numbered_rows(3), chat, once, killed)
    names = [path.name for path in undisturbed.iterdir()]
    assert filecmp.cmpfiles(undisturbed, killed, names, shallow=False)[1:] == ([], [])


@pytest.mark.slow
def test_a_killed_training_ends_with_the_same_bytes(qwen2: Path, tmp_path: Path) -> None:
    report = kill_at(qwen2, tmp_path, [17, 30])
    assert report.pop("moments") > 50
    assert report == {"17": [], "30": []}


@pytest.mark.slow
def test_killed_at_many_moments(llama: Path, tmp_path: Path) -> None:
    moments = list(range(1, 71, 3))
    report = kill_at(llama, tmp_path, moments)
    assert report == {"moments": report["moments"], **{str(moment): [] for moment in moments}}
