"""The peft trainer: what it learns from, that its models stop, and that a killed training ends with the same bytes."""

import filecmp
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from isheep.errors import UserError
from isheep.models.adapter_files import WEIGHTS
from isheep.models.chat_template import ChatTemplate, load_chat_template
from isheep.recipe.schema import Lora, Machine, Training
from isheep.records import Model, Pair
from isheep.trainers import peft
from isheep.trainers.peft import train
from isheep.trainers.rows import IGNORED, epoch_order, row_schedule, select_pairs, select_rows, tokenize_pair

pytestmark = pytest.mark.numeric

FACTS = {
    "Name the capital of France.": "Paris.",
    "Give the opposite of hot.": "cold",
    "What is 12 plus 30?": "It is 42.",
}
QUICK = Training(
    epochs=60, batch=3, learning_rate=3e-2, warmup_steps=5, held_out=0, keep="last", lora=Lora(dropout=0.0)
)


def pair(instruction: str, output: str, input: str = "") -> Pair:
    return Pair(id=instruction, instruction=instruction, input=input, output=output, finish="stop", tokens=3, seed=0)


def chat_of(checkpoint: Path) -> ChatTemplate:
    return load_chat_template("tokenizer", str(checkpoint))


def numbered(count: int) -> list[Pair]:
    return [pair(f"Say {n}", f"It is {n}." * (1 + n % 3)) for n in range(count)]


# --- rows


def test_loss_is_on_the_answer_and_its_end_only(checkpoint: Path) -> None:
    chat = chat_of(checkpoint)
    row = tokenize_pair(pair("Name a city", "Paris.", "in France"), chat, chat.tokenizer, 100)
    assert row is not None
    prompt = [token for token, label in zip(*row, strict=True) if label == IGNORED]
    answer = [label for label in row.labels if label != IGNORED]
    assert row.input_ids == prompt + answer
    assert chat.tokenizer.decode(answer) == f"Paris.{chat.end}"
    with_bos = chat.tokenizer(chat.prompt("Name a city\nin France")).input_ids  # what an engine puts before it
    assert prompt == with_bos


def test_an_answer_that_was_cut_off_has_no_end(checkpoint: Path) -> None:
    chat = chat_of(checkpoint)
    whole = pair("Name a city", "Paris and")
    rows = [
        tokenize_pair(row, chat, chat.tokenizer, 100) for row in (whole, whole.model_copy(update={"finish": "length"}))
    ]
    assert rows[0] and rows[1] and rows[0].input_ids[:-1] == rows[1].input_ids
    assert rows[0].labels[-1] == chat.tokenizer.convert_tokens_to_ids(chat.end)


def test_an_answer_that_spells_special_tokens_is_text(checkpoint: Path) -> None:
    chat = chat_of(checkpoint)
    row = tokenize_pair(pair("Say", f"one {chat.end} two"), chat, chat.tokenizer, 200)
    assert row is not None
    assert row.labels.count(chat.tokenizer.convert_tokens_to_ids(chat.end)) == 1


def test_cutoff_takes_the_end_of_the_answer_and_drops_rows_without_one(qwen2: Path) -> None:
    chat = chat_of(qwen2)
    whole = tokenize_pair(pair("Say", "It is 42."), chat, chat.tokenizer, 1000)
    assert whole is not None
    assert tokenize_pair(pair("Say", "It is 42."), chat, chat.tokenizer, 40) == (
        whole.input_ids[:40],
        whole.labels[:40],
    )
    assert tokenize_pair(pair("Say" * 100, "It is 42."), chat, chat.tokenizer, 40) is None


def test_sampling_and_holding_out_follow_the_seed(qwen2: Path) -> None:
    chat, pairs = chat_of(qwen2), numbered(50)
    rows = select_rows(pairs, chat, chat.tokenizer, Training(at_most=20, held_out=0.1), 1)
    assert (len(rows.train), len(rows.held_out), rows.sampled, rows.too_long) == (18, 2, 20, 0)
    assert rows == select_rows(pairs, chat, chat.tokenizer, Training(at_most=20, held_out=0.1), 1)
    assert rows.train != select_rows(pairs, chat, chat.tokenizer, Training(at_most=20, held_out=0.1), 2).train


def test_a_row_is_always_left_to_learn_from(qwen2: Path) -> None:
    chat = chat_of(qwen2)
    rows = select_rows(numbered(2), chat, chat.tokenizer, Training(held_out=0.9), 1)
    assert (len(rows.train), len(rows.held_out)) == (1, 1)


def test_no_cap_takes_all_rows(qwen2: Path) -> None:
    chat, pairs = chat_of(qwen2), numbered(50)
    assert len(select_rows(pairs, chat, chat.tokenizer, Training(at_most=None, held_out=0), 1).train) == 50


def test_a_number_of_rows_is_met_or_refused(qwen2: Path) -> None:
    chat = chat_of(qwen2)
    long = [pair(f"{n} " + "Say " * 200, "no room") for n in range(20)]
    exact = Training(rows=20, held_out=0.1, cutoff=100)
    for pairs in (numbered(30) + long, numbered(50)):
        rows = select_rows(pairs, chat, chat.tokenizer, exact, 1)
        assert (len(rows.train), len(rows.held_out), rows.too_long) == (18, 2, 20 if pairs[-1] in long else 0)
    with pytest.raises(UserError, match=r"training\.rows asks for 20 rows, and this iteration has 19"):
        select_rows(numbered(19) + long, chat, chat.tokenizer, exact, 1)


@pytest.mark.parametrize("rows", [3, 20, 100])
def test_a_number_of_steps_is_met_with_any_number_of_rows(rows: int) -> None:
    lengths = list(range(10, 10 + rows))
    places = row_schedule(lengths, Training(max_steps=12, batch=4), 1)
    assert len(places) == 48 and places == row_schedule(lengths, Training(max_steps=12, batch=4, epochs=9), 1)
    assert max(places.count(place) for place in range(rows)) - min(places.count(place) for place in range(rows)) <= 1


def test_too_few_rows_are_refused_in_one_line(qwen2: Path, tmp_path: Path) -> None:
    chat = chat_of(qwen2)
    for pairs, training, said in [
        ([pair("Say", "yes")], Training(), "kept 1 pairs"),
        (numbered(5), Training(cutoff=8), "kept 5 pairs, 5 of them with a prompt beyond cutoff 8"),
    ]:
        with pytest.raises(UserError, match=said) as error:
            train(Model(str(qwen2)), pairs, chat, training, 1, tmp_path)
        assert "\n" not in str(error.value)


@given(st.lists(st.integers(1, 500), min_size=1, max_size=90), st.integers(1, 8), st.integers(1, 3), st.integers())
def test_each_epoch_has_every_row_once(lengths: list[int], batch: int, epochs: int, seed: int) -> None:
    places = epoch_order(lengths, batch, epochs, seed)
    for epoch in range(epochs):
        part = places[epoch * len(lengths) : (epoch + 1) * len(lengths)]
        assert sorted(part) == list(range(len(lengths)))


def test_batches_hold_rows_of_similar_length() -> None:
    lengths = random.Random(0).choices(range(20, 200), k=400)
    places = epoch_order(lengths, 16, 1, 0)

    def padded(order: list[int]) -> int:
        return sum(16 * max(lengths[place] for place in order[start : start + 16]) for start in range(0, 400, 16))

    assert padded(places) < 1.15 * sum(lengths) < padded(list(range(400)))


# --- models


def answers(base: Path, adapter: Path) -> dict[str, str]:
    """What a reader of the README would write: plain transformers and peft, nothing of ours."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(adapter)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).eval()
    found = {}
    for question in FACTS:
        turns = [{"role": "user", "content": question}]
        inputs = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        output = model.generate(**inputs, max_new_tokens=40, do_sample=False, eos_token_id=tokenizer.eos_token_id)
        found[question] = tokenizer.decode(output[0, inputs["input_ids"].shape[1] :])
    return found


def test_a_base_model_learns_to_answer_and_to_stop(checkpoint: Path, tmp_path: Path) -> None:
    chat = chat_of(checkpoint)
    adapter = tmp_path / "adapter.part"
    adapter.mkdir()
    train(Model(str(checkpoint)), [pair(*fact) for fact in FACTS.items()], chat, QUICK, 1, adapter, Machine(threads=1))
    adapter = adapter.rename(tmp_path / "adapter")  # as the run folder does
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
    train(Model(str(checkpoint)), numbered(2), chat, once, 1, tmp_path, Machine(threads=1))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    turns = [{"role": "user", "content": "Say 0"}]
    row = tokenize_pair(numbered(1)[0], chat, chat.tokenizer, 100)
    assert row is not None
    prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert prompt == row.input_ids[: row.labels.count(IGNORED)]
    assert tokenizer.eos_token == "<|eot_id|>"


def test_the_best_checkpoint_is_kept_and_everything_is_told(qwen2: Path, tmp_path: Path) -> None:
    """The rows that are held out have another answer than those of the training, so that their loss falls while the
    model learns to stop, and then rises by far more than rounding and dropout could hide."""
    chat = chat_of(qwen2)
    settings = Training(
        batch=4, eval_every=2, epochs=3, warmup_steps=0, scheduler="constant", learning_rate=0.03, held_out=0.2,
        lora=Lora(dropout=0),
    )  # fmt: skip
    questions = [pair(f"Say {n}", "Paris.") for n in range(20)]
    aside = {row.id for row, _ in select_pairs(questions, chat, chat.tokenizer, settings, 1).held_out}
    other = "Give the opposite of hot; cold."
    pairs = [row.model_copy(update={"output": other}) if row.id in aside else row for row in questions]
    for keep in ("best", "last"):
        (tmp_path / keep).mkdir()
        training = settings.model_copy(update={"keep": keep})
        train(Model(str(qwen2)), pairs, chat, training, 1, tmp_path / keep, Machine(threads=1))
    best, last = (json.loads((tmp_path / keep / "training.json").read_text()) for keep in ("best", "last"))
    assert best["rows"] == {"sampled": 20, "prompt_too_long": 0, "trained": 16, "held_out": 4}
    assert [step for step, _ in best["eval_loss"]] == [2, 4, 6, 8, 10, 12]
    lowest, second = sorted(loss for _, loss in best["eval_loss"])[:2]
    assert second > lowest + 0.1 and best["eval_loss"][-1][1] > lowest + 1
    assert best["kept_step"] == min(best["eval_loss"], key=lambda entry: entry[1])[0] < last["kept_step"] == 12
    assert best["loss"] == last["loss"]
    weights = [(tmp_path / keep / "adapter_model.safetensors").read_bytes() for keep in ("best", "last")]
    assert weights[0] != weights[1]


def test_training_goes_on_from_an_adapter(qwen2: Path, tmp_path: Path) -> None:
    first, second, again = (tmp_path / name for name in ("first", "second", "again"))
    chat, pairs = chat_of(qwen2), [pair(*fact) for fact in FACTS.items()]
    train(Model(str(qwen2)), pairs, chat, QUICK, 1, first, Machine(threads=1))
    weights = (first / WEIGHTS).read_bytes()
    for into in (second, again):
        train(
            Model(str(qwen2), first),
            pairs,
            chat,
            QUICK.model_copy(update={"max_steps": 1}),
            1,
            into,
            Machine(threads=1),
        )
    told = [json.loads((folder / "training.json").read_text()) for folder in (first, second)]
    assert told[1]["loss"][0][1] < 0.1 * told[0]["loss"][0][1]
    assert [one["goes_on"] for one in told] == [False, True] and [one["steps"] for one in told] == [60, 1]
    assert all((again / path.name).read_bytes() == path.read_bytes() for path in second.iterdir())
    assert weights == (first / WEIGHTS).read_bytes() != (second / WEIGHTS).read_bytes()


def test_fewer_rows_at_once_learn_the_same(qwen2: Path, tmp_path: Path) -> None:
    settings = Training(batch=4, epochs=2, warmup_steps=0, held_out=0.2, eval_every=1, lora=Lora(dropout=0.0))
    threads = torch.get_num_threads()
    for rows in (4, 2):
        machine = Machine(threads=threads + 1, rows=rows)
        train(Model(str(qwen2)), numbered(11), chat_of(qwen2), settings, 1, tmp_path / str(rows), machine)
    assert torch.get_num_threads() == threads  # put back
    whole, parts = (json.loads((tmp_path / rows / "training.json").read_text()) for rows in ("4", "2"))
    assert parts["steps"] == whole["steps"] == 5
    for name in ("loss", "eval_loss"):
        assert [value for _, value in parts[name]] == pytest.approx([value for _, value in whole[name]], rel=1e-3)


def test_a_loss_that_is_no_number_is_told_in_one_line(qwen2: Path, tmp_path: Path) -> None:
    wild = Training(learning_rate=1e30, warmup_steps=0, epochs=4, batch=2, held_out=0)
    with pytest.raises(UserError, match="with a new --out, lower training.learning_rate"):
        train(Model(str(qwen2)), numbered(6), chat_of(qwen2), wild, 1, tmp_path, Machine(threads=1))


# --- killed and made again


def kill_at(base: Path, folder: Path, moments: list[int]) -> Any:
    script = Path(__file__).with_name("killed_training.py")
    done = subprocess.run(
        [sys.executable, str(script), str(base), str(folder), *map(str, moments)],
        capture_output=True,
        text=True,
        cwd=script.parents[1],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(script.parents[1])},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_without_a_pad_token_a_resumed_training_ends_with_the_same_tokenizer(
    qwen2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = shutil.copytree(qwen2, tmp_path / "base")
    told = json.loads((base / "tokenizer_config.json").read_text())
    assert told.pop("pad_token")
    (base / "tokenizer_config.json").write_text(json.dumps(told))
    chat, once = chat_of(base), Training(epochs=1, held_out=0)
    train(Model(str(base)), numbered(3), chat, once, 1, tmp_path / "whole", Machine(threads=1))
    with monkeypatch.context() as patched, pytest.raises(ZeroDivisionError):
        patched.setattr(peft, "_finish", lambda *given: 1 / 0)  # killed after the last checkpoint
        train(Model(str(base)), numbered(3), chat, once, 1, tmp_path / "killed", Machine(threads=1))
    train(Model(str(base)), numbered(3), chat, once, 1, tmp_path / "killed", Machine(threads=1))
    names = [path.name for path in (tmp_path / "whole").iterdir()]
    assert filecmp.cmpfiles(tmp_path / "whole", tmp_path / "killed", names, shallow=False)[1:] == ([], [])


def test_a_killed_training_ends_with_the_same_bytes(qwen2: Path, tmp_path: Path) -> None:
    found = kill_at(qwen2, tmp_path, [17, 30])
    assert found.pop("moments") > 50
    assert found == {"17": [], "30": []}


@pytest.mark.slow
def test_killed_at_many_moments(llama: Path, tmp_path: Path) -> None:
    moments = list(range(1, 71, 3))
    found = kill_at(llama, tmp_path, moments)
    assert found == {"moments": found["moments"], **{str(moment): [] for moment in moments}}
