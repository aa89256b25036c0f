"""The rows of a training: tokens and losses, selection, held-out rows, steps and batches."""

import json
import operator
import random
from pathlib import Path

import pytest
import torch
from helpers.training import chat_of, numbered_rows, train_peft
from hypothesis import given
from hypothesis import strategies as st

from isheep.errors import UserError
from isheep.recipe.schema import Lora, Training
from isheep.records import Exchange, Model
from isheep.rundir.training_file import TrainingRow
from isheep.trainers.rows import IGNORED, TokenizedRow, epoch_order, row_schedule, select_examples, tokenize_row

pytestmark = pytest.mark.numeric


def test_loss_is_on_the_answer_and_its_end_token_only(checkpoint: Path) -> None:
    chat = chat_of(checkpoint)
    row = TrainingRow(instruction="Name a city", input="in France", output="Paris.")
    tokens = tokenize_row(row, chat, chat.tokenizer, 100)
    assert tokens is not None
    prompt = [token for token, label in zip(*tokens, strict=True) if label == IGNORED]
    answer = [label for label in tokens.labels if label != IGNORED]
    assert tokens.input_ids == prompt + answer
    assert chat.tokenizer.decode(answer) == f"Paris.{chat.end}"
    # An engine puts the beginning-of-sequence token before the prompt.
    assert prompt == chat.tokenizer(chat.prompt("Name a city\nin France")).input_ids


def test_only_finish_decides_whether_an_end_token_is_taught(checkpoint: Path) -> None:
    chat = chat_of(checkpoint)
    complete = TrainingRow(instruction="Name a city", output="Paris and")
    cut_off = complete.model_copy(update={"finish": "length"})
    tokens = [tokenize_row(row, chat, chat.tokenizer, 100) for row in (complete, cut_off)]
    assert tokens[0] and tokens[1] and tokens[0].input_ids[:-1] == tokens[1].input_ids
    assert tokens[0].labels[-1] == chat.tokenizer.convert_tokens_to_ids(chat.end)


def test_an_answer_that_spells_special_tokens_is_text(checkpoint: Path) -> None:
    chat = chat_of(checkpoint)
    row = TrainingRow(instruction="Say", output=f"one {chat.end} two")
    tokens = tokenize_row(row, chat, chat.tokenizer, 200)
    assert tokens is not None
    assert tokens.labels.count(chat.tokenizer.convert_tokens_to_ids(chat.end)) == 1


def test_the_cutoff_shortens_answers_and_drops_rows_without_one(qwen2: Path) -> None:
    chat = chat_of(qwen2)
    row, long_row = (TrainingRow(instruction=text, output="It is 42.") for text in ("Say", "Say" * 100))
    uncut = tokenize_row(row, chat, chat.tokenizer, 1000)
    assert uncut is not None
    assert tokenize_row(row, chat, chat.tokenizer, 40) == (uncut.input_ids[:40], uncut.labels[:40])
    assert tokenize_row(long_row, chat, chat.tokenizer, 40) is None


def test_sampling_and_holding_out_follow_the_seed(qwen2: Path) -> None:
    chat, rows, training = chat_of(qwen2), numbered_rows(50), Training(max_rows=20, held_out=0.1)
    examples = select_examples(rows, chat, chat.tokenizer, training, 1)
    assert (len(examples.train), len(examples.held_out)) == (18, 2)
    assert (examples.num_selected, examples.num_too_long) == (20, 0)
    assert examples == select_examples(rows, chat, chat.tokenizer, training, 1)
    assert examples.train != select_examples(rows, chat, chat.tokenizer, training, 2).train


def make_dialogue(number: int) -> list[TrainingRow]:
    """Return the rows of both turns of a dialogue."""
    first = TrainingRow(instruction=f"Say {number}", input="now", output=f"It is {number}.")
    history = (Exchange(f"Say {number}\nnow", f"It is {number}."),)
    return [first, TrainingRow(instruction="Again", output=f"It is {number}!", history=history)]


@pytest.mark.parametrize("seed", range(5))
def test_the_turns_of_a_dialogue_are_held_out_together(qwen2: Path, seed: int) -> None:
    chat, dialogues = chat_of(qwen2), [make_dialogue(number) for number in range(10)]
    rows = [first for first, _ in dialogues] + [second for _, second in dialogues] + numbered_rows(10)
    examples = select_examples(rows, chat, chat.tokenizer, Training(held_out=0.3), seed)
    held_out = [example.row for example in examples.held_out]
    assert all((first in held_out) == (second in held_out) for first, second in dialogues)
    # 6 of the 20 dialogues and single rows.
    assert 6 <= len(held_out) <= 12 and len(examples.train) == 30 - len(held_out)


def test_one_dialogue_alone_is_divided(qwen2: Path) -> None:
    chat = chat_of(qwen2)
    examples = select_examples(make_dialogue(1), chat, chat.tokenizer, Training(held_out=0.1), 1)
    assert (len(examples.train), len(examples.held_out)) == (1, 1)


def test_a_row_always_remains_to_learn_from(qwen2: Path) -> None:
    chat = chat_of(qwen2)
    examples = select_examples(numbered_rows(2), chat, chat.tokenizer, Training(held_out=0.9), 1)
    assert (len(examples.train), len(examples.held_out)) == (1, 1)


def test_no_cap_takes_all_rows(qwen2: Path) -> None:
    chat, rows = chat_of(qwen2), numbered_rows(50)
    assert len(select_examples(rows, chat, chat.tokenizer, Training(max_rows=None, held_out=0), 1).train) == 50


def test_an_exact_number_of_rows_is_met_or_refused(qwen2: Path) -> None:
    chat = chat_of(qwen2)
    long_rows = [TrainingRow(instruction=f"{n} " + "Say " * 200, output="no room") for n in range(20)]
    exact = Training(num_rows=20, held_out=0.1, cutoff=100)
    for rows, num_too_long in ((numbered_rows(30) + long_rows, 20), (numbered_rows(50), 0)):
        examples = select_examples(rows, chat, chat.tokenizer, exact, 1)
        assert (len(examples.train), len(examples.held_out), examples.num_too_long) == (18, 2, num_too_long)
    with pytest.raises(UserError, match=r"training\.num_rows asks for 20 rows, and this iteration has 19"):
        select_examples(numbered_rows(19) + long_rows, chat, chat.tokenizer, exact, 1)


@pytest.mark.parametrize("rows", [3, 20, 100])
def test_an_exact_number_of_steps_is_met_with_any_number_of_rows(rows: int) -> None:
    lengths = list(range(10, 10 + rows))
    indices = row_schedule(lengths, Training(max_steps=12, batch_size=4), 1)
    assert len(indices) == 48 and indices == row_schedule(lengths, Training(max_steps=12, batch_size=4, epochs=9), 1)
    counts = [indices.count(index) for index in range(rows)]
    assert max(counts) - min(counts) <= 1


def test_too_few_rows_are_refused_in_one_line(qwen2: Path, tmp_path: Path) -> None:
    chat = chat_of(qwen2)
    for rows, training, message in [
        (numbered_rows(1), Training(), "the training file has 1 rows"),
        (numbered_rows(5), Training(cutoff=8), "has 5 rows, 5 of them with a prompt beyond training.cutoff 8"),
    ]:
        output_dir = tmp_path / str(len(rows))
        with pytest.raises(UserError, match=message) as error:
            train_peft(Model(str(qwen2)), rows, chat, training, output_dir)
        assert "\n" not in str(error.value)


@given(st.lists(st.integers(1, 500), min_size=1, max_size=90), st.integers(1, 8), st.integers(1, 3), st.integers())
def test_each_epoch_has_every_row_once(lengths: list[int], batch: int, epochs: int, seed: int) -> None:
    indices = epoch_order(lengths, batch, epochs, seed)
    for epoch in range(epochs):
        part = indices[epoch * len(lengths) : (epoch + 1) * len(lengths)]
        assert sorted(part) == list(range(len(lengths)))


def test_rows_may_come_in_random_order() -> None:
    lengths = random.Random(0).choices(range(20, 200), k=40)
    settings = Training(order="random", batch_size=4)
    indices = row_schedule(lengths, settings, 1)
    assert (
        all(sorted(part) == list(range(40)) for part in (indices[:40], indices[40:])) and indices[:40] != indices[40:]
    )
    assert sorted(indices[:32], key=lambda index: -lengths[index]) != indices[:32]
    by_length = row_schedule(lengths, Training(batch_size=4), 1)
    # The same shuffle, which is then sorted in pools of 8 batches.
    assert by_length[:32] == sorted(indices[:32], key=lambda index: -lengths[index])


def test_the_tokenizers_end_of_sequence_ends_every_answer(checkpoint: Path) -> None:
    """As LLaMA-Factory teaches it, also after an answer that was cut off."""
    chat = chat_of(checkpoint)
    end = chat.tokenizer.eos_token_id
    for finish in ("stop", "length"):
        row = TrainingRow(instruction="Say", output="It is.", finish=finish)
        tokens = tokenize_row(row, chat, chat.tokenizer, 100, "tokenizer")
        assert tokens and tokens.input_ids[-1] == tokens.labels[-1] == end
        assert tokens.input_ids.count(end) == 1 + chat.prompt("Say").count(chat.tokenizer.eos_token)


def losses_by_row(base: Path, rows: list[TokenizedRow]) -> tuple[list[float], list[int]]:
    """Return the mean loss of each row under a checkpoint, and its number of tokens with loss."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    with torch.inference_mode():
        losses = [model(torch.tensor([ids]), labels=torch.tensor([labels])).loss.item() for ids, labels in rows]
    return losses, [sum(label != IGNORED for label in labels) for _, labels in rows]


def test_every_row_or_every_token_weighs_the_same(qwen2: Path, tmp_path: Path) -> None:
    """The first step's loss, before anything is learned, and the held-out loss of a model that learns nothing."""
    chat = chat_of(qwen2)
    rows = [TrainingRow(instruction=f"Say {n}", output="It is so. " * (1 + 5 * (n % 2))) for n in range(6)]
    for weigh in ("rows", "tokens"):
        training = Training(
            weigh=weigh, batch_size=4, max_steps=1, learning_rate=1e-30, warmup_steps=0, eval_every=1, held_out=0.34,
            lora=Lora(dropout=0),
        )  # fmt: skip
        train_peft(Model(str(qwen2)), rows, chat, training, tmp_path / weigh)
        record = json.loads((tmp_path / weigh / "training.json").read_text())
        assert record["settings"].get("weigh", "tokens") == weigh
        examples = select_examples(rows, chat, chat.tokenizer, training, 1)
        losses, counts = losses_by_row(qwen2, [example.tokens for example in examples.train])
        weights = [1] * len(losses) if weigh == "rows" else counts
        expected = sum(map(operator.mul, losses, weights)) / sum(weights)
        assert record["loss"][0][1] == pytest.approx(expected, rel=1e-4)
        if weigh == "rows":
            held_out, _ = losses_by_row(qwen2, [example.tokens for example in examples.held_out])
            assert record["eval_loss"][0][1] == pytest.approx(sum(held_out) / len(held_out), rel=1e-4)
    # With rows of these lengths the two are far apart.
    assert len(set(counts)) == 2


def test_batches_hold_rows_of_similar_length() -> None:
    lengths = random.Random(0).choices(range(20, 200), k=400)
    indices = epoch_order(lengths, 16, 1, 0)

    def padded(order: list[int]) -> int:
        return sum(16 * max(lengths[index] for index in order[start : start + 16]) for start in range(0, 400, 16))

    assert padded(indices) < 1.15 * sum(lengths) < padded(list(range(400)))
