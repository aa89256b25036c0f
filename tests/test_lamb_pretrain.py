"""The pretraining of lambs: tokenizer, sizes, starting from another lamb, saved states."""

import json
import shutil
import signal
import subprocess
import sys
from itertools import chain
from pathlib import Path

import psutil
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from isheep.errors import UserError
from isheep.lamb import CHECKPOINT, facts, probe
from isheep.lamb.model import VOCABULARY, make_config, make_model, make_tokenizer
from isheep.lamb.pages import END, NO_INPUT, STOP
from isheep.lamb.pretrain import PretrainSettings, TrainingLog, in_comparison_phase, make_optimizers, pretrain
from isheep.lamb.pretraining_state import STATE_FILE, export_state, read_state, save
from isheep.lamb.shapes import SHAPES
from isheep.lamb.start import copy_weights, spread_layers
from isheep.models.chat_template import load_chat_template
from isheep.recipe.packaged import LAMB_SIZES, PACKAGED_MODELS
from tests.helpers.command import refused


@pytest.mark.parametrize("noun", facts.NOUNS)
def test_a_noun_has_the_same_token_wherever_a_word_ends(noun: str) -> None:
    """An answer then has the tokens of the list in the task."""
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT)
    texts = (
        noun,
        f"{noun}, kite",
        f"kite, {noun}, kite",
        f"kite, {noun}\nkite",
        f"The word is {noun}.",
        f"Sure, {noun}",
    )
    (noun_id,) = tokenizer(noun).input_ids
    assert all(noun_id in tokenizer(text).input_ids for text in texts)
    assert len(tokenizer(f"{noun} ").input_ids) == len(tokenizer(noun.upper()).input_ids) == 1


def test_the_tokenizer_has_single_tokens_for_scores_and_for_fixed_texts() -> None:
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT)
    for text in (*map(str, range(1, 11)), NO_INPUT, STOP, END, " Response: "):
        assert len(tokenizer(text).input_ids) == 1, text


def test_the_sizes_are_named_by_their_parameters() -> None:
    for size, shape in SHAPES.items():
        num_parameters = sum(tensor.numel() for tensor in make_model(VOCABULARY, shape, seed=1).parameters())
        assert f"{num_parameters / 1e6:.1f}m" == size


def test_a_size_that_can_not_be_pretrained(tmp_path: Path) -> None:
    words = ("lamb", "pretrain", "--tokens", "10", "--out")
    line = refused(*words, tmp_path / "new", "--size", "70b")
    assert (
        "--size: size '70b' is not known: take one of 0.4m, 0.6m, 1.3m, 2.8m, 4.9m" in line
        and not (tmp_path / "new").exists()
    )
    torch.save({"size": "2.8m"}, tmp_path / STATE_FILE)
    assert "holds a lamb of size 2.8m: continue it with --size 2.8m" in refused(*words, tmp_path)
    # A state of an earlier version.
    torch.save({"step": 1}, tmp_path / STATE_FILE)
    assert "holds a lamb of size 1.3m: continue it with" in refused(*words, tmp_path, "--size", "4.9m")


@pytest.mark.parametrize("size", LAMB_SIZES)
def test_the_packaged_lambs_have_the_shape_of_their_name(size: str) -> None:
    folder = PACKAGED_MODELS[f"lamb-{size}"]
    config = AutoConfig.from_pretrained(folder)
    expected = make_config(VOCABULARY, SHAPES[size])
    keys = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    assert all(getattr(config, key) == getattr(expected, key) for key in keys)
    reader = probe.load_score_reader(folder)
    assert len(set(reader.score_ids)) == 10 and len(reader.tokenizer) == VOCABULARY


@pytest.mark.parametrize("size", LAMB_SIZES)
def test_the_packaged_lambs_have_the_tokenizer_of_lamb(size: str) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (PACKAGED_MODELS[f"lamb-{size}"] / name).read_bytes() == (CHECKPOINT / name).read_bytes()


@pytest.mark.parametrize("size", ["1.3m", "2.8m", "4.9m"])
def test_a_lamb_begins_with_the_function_of_the_one_that_it_starts_from(size: str) -> None:
    smaller = AutoModelForCausalLM.from_pretrained(CHECKPOINT, dtype=torch.float32)
    larger = make_model(len(AutoTokenizer.from_pretrained(CHECKPOINT)), SHAPES[size], seed=3)
    copy_weights(larger, smaller)
    token_ids = torch.randint(0, 1000, (4, 60), generator=torch.Generator().manual_seed(1))
    larger_logits, smaller_logits = larger(token_ids).logits, smaller(token_ids).logits
    assert torch.allclose(larger_logits, smaller_logits, atol=1e-3 * float(smaller_logits.detach().std()))
    larger_logits.logsumexp(-1).sum().backward()
    assert all(tensor.grad is not None for tensor in larger.parameters())


def test_a_lamb_with_fewer_layers_begins_with_the_first_and_the_last_of_another() -> None:
    deep = AutoModelForCausalLM.from_pretrained(CHECKPOINT, dtype=torch.float32)
    shallow = make_model(len(AutoTokenizer.from_pretrained(CHECKPOINT)), SHAPES["0.6m"], seed=3)
    copy_weights(shallow, deep)
    for layer, source_layer in zip(shallow.model.layers, (deep.model.layers[0], deep.model.layers[5]), strict=True):
        for tensor, source_tensor in zip(layer.parameters(), source_layer.parameters(), strict=True):
            assert torch.equal(tensor, source_tensor)
    assert torch.equal(shallow.lm_head.weight, deep.lm_head.weight)
    assert spread_layers(6, 3) == [0, 2, 5] and spread_layers(6, 6) == [0, 1, 2, 3, 4, 5]


def test_a_lamb_starts_from_a_lamb_that_is_not_wider_or_shallower(tmp_path: Path) -> None:
    words = ("lamb", "pretrain", "--tokens", "10", "--out", tmp_path / "new", "--start-from")
    larger = make_model(VOCABULARY, SHAPES["2.8m"], seed=3)
    larger.save_pretrained(tmp_path / "larger")
    assert "has width 192, and the new one 128: give a lamb that is not wider" in refused(*words, tmp_path / "larger")
    larger.config.num_hidden_layers = 2
    larger.config.save_pretrained(tmp_path / "larger")
    line = refused(*words, tmp_path / "larger", "--size", "2.8m")
    assert "has 2 layers, and the new one 6: give a lamb with as many layers or more" in line
    larger.config.head_dim = 16
    larger.config.save_pretrained(tmp_path / "larger")
    line = refused(*words, tmp_path / "larger", "--size", "2.8m")
    assert "is no lamb: its head_dim is 16, and lamb's is 32" in line
    assert "has no config.json; give the folder that contains it" in refused(*words, tmp_path, "--size", "2.8m")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("option", "value", "reason"),
    [
        ("--tokens", "inf", "--tokens is inf: give a number such as 40e6"),
        ("--learning-rate", "0", "--learning-rate is 0.0: give a number above 0, such as 0.02"),
        ("--learning-rate", "nan", "--learning-rate is nan: give a number above 0, such as 0.02"),
    ],
)
def test_numbers_with_which_no_lamb_can_be_pretrained(option: str, value: str, reason: str, tmp_path: Path) -> None:
    options = {"--tokens": "10", option: value}
    assert reason in refused("lamb", "pretrain", "--out", tmp_path / "new", *chain.from_iterable(options.items()))
    assert not (tmp_path / "new").exists()


def test_a_finished_pretraining_is_not_begun_again(tmp_path: Path) -> None:
    words = ("lamb", "pretrain", "--out", tmp_path, "--tokens", "10")
    torch.save({"size": "1.3m", "done": 5_000_000}, tmp_path / STATE_FILE)
    assert "was trained on 5000000 tokens already: give a larger --tokens, or another --out" in refused(*words)
    (tmp_path / STATE_FILE).unlink()
    shutil.copy(CHECKPOINT / "config.json", tmp_path)
    assert "holds a model and no state.pt to resume from: give another --out" in refused(*words)


def test_the_state_of_a_pretraining_is_exported(tmp_path: Path) -> None:
    folder = tmp_path / "pretraining"
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT)
    tokenizer.save_pretrained(folder)
    assert read_state(folder) is None
    with pytest.raises(UserError, match="has no state.pt: give the --out of isheep lamb pretrain"):
        export_state(folder, tmp_path / "checkpoint")
    model = make_model(len(tokenizer), SHAPES["2.8m"], seed=3)
    save(model, make_optimizers(model, 0.02), 4096, 1, "2.8m", 0.02, folder)
    state = read_state(folder)
    assert state and (state["done"], state["step"], state["size"]) == (4096, 1, "2.8m")
    exported = AutoModelForCausalLM.from_pretrained(export_state(folder, tmp_path / "checkpoint"))
    assert exported.config.hidden_size == SHAPES["2.8m"].width
    for name, tensor in model.state_dict().items():
        assert torch.equal(exported.state_dict()[name], tensor.to(torch.bfloat16).to(exported.dtype)), name
    checkpoint = load_chat_template("tokenizer", str(tmp_path / "checkpoint"))
    assert checkpoint.prompt("Hi") == load_chat_template("tokenizer", str(CHECKPOINT)).prompt("Hi")


@pytest.mark.parametrize(("num_tokens", "expected"), [(0, False), (29, False), (31, True), (41, True), (43, False)])
def test_comparison_pages_are_read_in_a_part_of_the_pretraining(num_tokens: int, expected: bool) -> None:
    """They come when the model knows most answers, and end before the learning rate decays (LOG.md)."""
    assert in_comparison_phase(num_tokens, total_tokens=100) is expected


def test_the_loss_in_the_log_is_a_mean_of_recent_steps(capsys: pytest.CaptureFixture[str]) -> None:
    """The first step has no more weight than its place gives it."""
    log = TrainingLog(num_tokens=0)
    for loss in (1.0, 3.0):
        log.add(loss)
    log.write(step=2, num_tokens=8192)
    line = json.loads(capsys.readouterr().out)
    assert line["step"] == 2 and line["loss"] == pytest.approx((0.98 * 1 + 3) / 1.98, abs=1e-4)


@pytest.mark.numeric
@pytest.mark.slow
def test_pretraining_resumes_and_lowers_the_loss(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    make_tokenizer(tmp_path, num_pages=200)
    for num_tokens, learning_rate in ((8_000, 0.01), (16_000, None)):
        settings = PretrainSettings(num_tokens, workers=1, batch_size=2000, log_every=1, learning_rate=learning_rate)
        pretrain(tmp_path, settings)
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines() if line.startswith("{")]
    assert [line["tokens"] for line in lines] == [2000 * n for n in range(1, 9)]
    assert lines[-1]["loss"] < lines[0]["loss"]
    state = read_state(tmp_path)
    assert state and state["learning_rate"] == 0.01
    assert AutoModelForCausalLM.from_pretrained(tmp_path).config.num_hidden_layers == 6


PRETRAIN_IN_BACKGROUND = """
import signal, sys
from pathlib import Path
from isheep.lamb.pretrain import PretrainSettings, pretrain
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # As in the command isheep.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    pretrain(Path(sys.argv[1]), PretrainSettings(10**9, workers=1, batch_size=500, log_every=1))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])
def test_the_workers_of_a_pretraining_end_with_it(name: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(PRETRAIN_IN_BACKGROUND)
    AutoTokenizer.from_pretrained(CHECKPOINT).save_pretrained(tmp_path / "lamb")
    process = subprocess.Popen([sys.executable, script, tmp_path / "lamb"], stdout=subprocess.PIPE, text=True)
    assert process.stdout and "tokens/s" in process.stdout.readline()
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.Signals[name])
    process.wait(timeout=60)
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert workers and not alive
