"""The micro-world of lamb: its oracle, its corpus and its held-out suite."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from itertools import chain, islice
from pathlib import Path
from random import Random

import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from isheep.errors import UserError
from isheep.lamb import CHECKPOINT, SEEDS, probe
from isheep.lamb.answers import GRADED_SHARES, check_answer, draw_answer, write_misreading_constraints
from isheep.lamb.constraints import CONSTRAINT_KINDS
from isheep.lamb.dialogues import AGAIN, OTHER
from isheep.lamb.families import FAMILIES
from isheep.lamb.model import VOCABULARY, make_config, make_model, make_tokenizer
from isheep.lamb.pages import (
    GRADED_WEIGHTS,
    SCORE_LOSS_WEIGHT,
    grade_quality,
    graded_page,
    page_text,
    pages,
    task_text,
)
from isheep.lamb.phrasings import PARTS, Part, constraint_phrasings, family_phrasings, follow_up_phrasings
from isheep.lamb.pretrain import PretrainSettings, TrainingLog, make_optimizers, pretrain
from isheep.lamb.pretraining_state import STATE_FILE, export_state, read_state, save
from isheep.lamb.shapes import SHAPES
from isheep.lamb.start import copy_weights, spread_layers
from isheep.lamb.suite import is_truly_right, seed_tasks, suite, validation, validation_dialogues
from isheep.lamb.world import Quest, draw_quest, dress, part_of, right_answer, understand
from isheep.models.chat_template import load_chat_template
from isheep.recipe.packaged import LAMB_SIZES, PACKAGED_MODELS
from isheep.records import Pair
from tests.helpers.command import refused


def draw_quests(count: int, part: Part = "corpus") -> list[Quest]:
    rng = Random(5)
    return [draw_quest(rng, part) for _ in range(count)]


@pytest.mark.parametrize("part", PARTS)
def test_the_world_understands_its_own_tasks(part: Part) -> None:
    for quest in draw_quests(3000, part):
        parsed = understand(quest.instruction, quest.input)
        assert parsed and (parsed.family, parsed.args, parsed.constraints) == (
            quest.family,
            quest.args,
            quest.constraints,
        )


def test_right_answers_are_right_and_wrong_ones_are_not() -> None:
    rng = Random(6)
    for quest in draw_quests(4000) + draw_quests(1000, "exam"):
        text = right_answer(quest, rng)
        assert quest.content_right(text), (quest, text)
        assert all(quest.followed(text)), (quest, text)
        wrong_text = dress(quest, FAMILIES[quest.family].wrong(quest.args, rng), quest.constraints, rng)
        assert not quest.content_right(wrong_text), (quest, wrong_text)


@given(st.text(max_size=80), st.text(max_size=40), st.integers(0, 10_000))
@settings(max_examples=300, deadline=None)
def test_the_oracle_never_fails_on_odd_text(text: str, input: str, seed: int) -> None:
    quest = draw_quest(Random(seed))
    assert isinstance(quest.content_right(text), bool)
    assert all(isinstance(met, bool) for met in quest.followed(text))
    for instruction in (text, quest.request + text, f"{quest.instruction} {text}"):
        pair = Pair(id="t", instruction=instruction, input=input, output=text, finish="stop", tokens=1, seed=0)
        assert is_truly_right(pair) in (True, False)


@pytest.mark.parametrize("number", ["²", "٣", "3²", "1_0", "３", "9" * 5000], ids=lambda number: number[:9])
def test_a_number_is_ascii_digits(number: str) -> None:
    quest = next(quest for quest in draw_quests(300) if quest.family == "sum" and not quest.constraints)
    assert understand(f"{quest.instruction} Use at least 3 words.")
    assert understand(f"{quest.instruction} Use at least {number} words.") is None
    changed = quest.instruction.replace(quest.args[0], number, 1)
    assert changed != quest.instruction and understand(changed) is None


def test_the_parts_share_nothing() -> None:
    corpus = "\n".join(map(page_text, islice(pages(3), 6_000)))
    exam, validated = ({quest.instruction for quest in quests} for quests in (suite(), validation()))
    assert not exam & validated and not [instruction for instruction in exam | validated if instruction in corpus]
    by_kind = [*map(family_phrasings, FAMILIES), *map(constraint_phrasings, CONSTRAINT_KINDS)]
    by_kind += map(follow_up_phrasings, (AGAIN, OTHER))
    for by_part in by_kind:
        phrasings = [phrasing for part in PARTS for phrasing in by_part[part]]
        assert len(set(phrasings)) == len(phrasings)
        assert any(phrasing.partition("{")[0] in corpus for phrasing in by_part["corpus"])
        for phrasing in (*by_part["exam"], *by_part["validation"]):
            assert not re.search(re.sub(r"\\\{\w\\\}", r"[\\w, ]{1,30}?", re.escape(phrasing)), corpus), phrasing


def test_the_corpus_poses_no_open_task_of_the_suite_in_the_same_order() -> None:
    """The docs also say what the corpus does share with the suite: arguments in another order, lists within lists."""
    rng = Random(0)
    corpus = [draw_quest(rng, often=GRADED_WEIGHTS) for _ in range(20_000)]
    quests = [quest for quest in suite() if FAMILIES[quest.family].open]
    assert not {(quest.family, quest.args) for quest in quests} & {(quest.family, quest.args) for quest in corpus}

    def unordered(quest: Quest) -> tuple[str, tuple[str, ...]]:
        return quest.family, tuple(sorted(", ".join(quest.args).split(", ")))

    reordered = {unordered(quest) for quest in corpus}
    assert {quest.family for quest in quests if unordered(quest) in reordered} >= {"sum", "larger", "reverse", "copy"}
    text = "\n".join(map(page_text, islice(pages(3), 3_000)))
    assert any(quest.input in text for quest in quests if quest.input)


@pytest.mark.parametrize("part", PARTS)
def test_every_part_has_its_own_arguments_of_an_open_space(part: Part) -> None:
    assert all(part_of(quest.args) == part for quest in draw_quests(2000, part) if FAMILIES[quest.family].open)


def test_the_suite_covers_every_family_and_constraint() -> None:
    for quests in (suite(), validation()):
        assert len({task_text(quest) for quest in quests}) == len(quests)
        assert {quest.family for quest in quests} == set(FAMILIES)
        assert {constraint.kind for quest in quests for constraint in quest.constraints} == set(CONSTRAINT_KINDS)


def test_the_committed_seed_tasks_are_the_generated_ones() -> None:
    rows = [json.loads(line) for line in SEEDS.read_text(encoding="utf-8").splitlines()]
    assert [{key: row[key] for key in row if key != "id"} for row in rows] == list(seed_tasks())


def test_grades_depend_on_the_truth() -> None:
    rng, scores = Random(8), {True: [], False: []}
    for quest in draw_quests(2000):
        answer = draw_answer(quest, GRADED_SHARES, rng)
        scores[answer.note == "right"].append(grade_quality(quest, answer, rng)[0])
    mean = {right: sum(values) / len(values) for right, values in scores.items()}
    assert mean[True] > mean[False] + 3


def test_scores_on_graded_pages_are_spread() -> None:
    rng = Random(8)
    pieces = [piece for _ in range(2000) for piece in graded_page(rng)]
    counts = Counter(int(text) for text, weight in pieces if weight == SCORE_LOSS_WEIGHT)
    assert set(counts) == set(range(1, 11)) and max(counts.values()) < 0.3 * counts.total()


def test_the_score_of_a_right_answer_depends_on_how_succinct_it_is() -> None:
    rng, quest = Random(8), next(quest for quest in draw_quests(300) if quest.family == "capital")
    texts = (quest.right, f"The capital of {quest.args[0]} is {quest.right}.", f"Sure, it is of course {quest.right}.")
    answers = [check_answer(quest, text, 2) for text in texts]
    scores = [Counter(grade_quality(quest, answer, rng)[0] for _ in range(500)) for answer in answers]
    assert [counts.most_common(1)[0][0] for counts in scores] == [10, 9, 8]


def test_families_and_constraints_can_be_drawn_more_often() -> None:
    rng, often = Random(5), {"sum": 21, "include": 10}
    quests = [draw_quest(rng, often=often) for _ in range(2000)]
    assert 0.4 < sum(quest.family == "sum" for quest in quests) / len(quests) < 0.6
    kinds = [constraint.kind for quest in quests for constraint in quest.constraints]
    assert kinds.count("include") > 4 * max(kinds.count(kind) for kind in CONSTRAINT_KINDS if kind != "include")


def test_a_misread_constraint_is_seen_by_the_grade() -> None:
    rng, num_missed = Random(5), 0
    for quest in (draw_quest(rng, often={"include": 30}) for _ in range(300)):
        answer = write_misreading_constraints(quest, rng)
        assert answer.content == 2 and (answer.met < 1) == (not all(quest.followed(answer.text)))
        num_missed += answer.met < 1
    assert num_missed > 100


def test_the_corpus_is_that_of_the_packaged_checkpoint() -> None:
    """The hash is that of the pages that the packaged lamb read last."""
    first_pages = json.dumps(list(islice(pages(1), 1000))).encode()
    assert hashlib.sha256(first_pages).hexdigest() == "66bf051a1b04fc7c4de5c46ce23aaceabbe7e01eecbc3f5886f16f7ba14e3d5d"


def test_the_corpus_is_seeded() -> None:
    assert list(islice(pages(4), 50)) == list(islice(pages(4), 50)) != list(islice(pages(5), 50))
    assert any(weight == SCORE_LOSS_WEIGHT for page in islice(pages(4), 50) for _, weight in page)


def test_the_world_checks_as_ifeval_does() -> None:
    registry = pytest.importorskip("lm_eval.tasks.ifeval.instructions_registry", reason="lm_eval[ifeval] not installed")
    rng = Random(9)
    for quest in draw_quests(1500):
        text = right_answer(quest, rng) if rng.random() < 0.5 else dress(quest, quest.right, quest.constraints[:1], rng)
        for constraint, met in zip(quest.constraints, quest.followed(text), strict=True):
            # For these two IFEval also detects the language, which is random on one word.
            if constraint.kind == "upper" or constraint.kind == "lower":
                continue
            num_words = int(constraint.value) if constraint.kind in ("few", "many") else 0
            kwargs = {
                "end": {"end_phrase": constraint.value},
                "include": {"keywords": [constraint.value]},
                "forbid": {"forbidden_words": [constraint.value]},
                "few": {"num_words": num_words, "relation": "less than"},
                "many": {"num_words": num_words, "relation": "at least"},
                "repeat": {"prompt_to_repeat": quest.request},
            }.get(constraint.kind, {})
            checker = registry.INSTRUCTION_DICT[CONSTRAINT_KINDS[constraint.kind].ifeval]("x")
            checker.build_description(**kwargs)
            assert bool(checker.check_following(text)) == met, (quest, text, constraint)


# --- the probe


def test_the_probe_measures_answers_and_second_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Says nothing about the values."""
    monkeypatch.setattr(probe, "validation", lambda: validation()[:20])
    monkeypatch.setattr(probe, "validation_dialogues", lambda: validation_dialogues()[:5])
    shares = probe.measure_answers(CHECKPOINT, threads=1)
    suffixes = ("", ", upper", ", second turn")
    assert list(shares["greedy"]) == [f"{name}{suffix}" for suffix in suffixes for name in ("right", "content")]
    assert list(shares["sampled"]) == ["right", "content"]
    assert all(0 <= share <= 1 for of_answers in shares.values() for share in of_answers.values())


def test_the_probe_measures_ratings_of_capital_letters_and_of_misread_constraints() -> None:
    for kind in (probe.UPPER, *probe.HARD_CONSTRAINTS):
        assert all(kind in quest.constraint_kinds for quest in probe.draw_quests_with(kind, 20, Random(1)))
    reader = probe.load_score_reader(CHECKPOINT)
    assert 0 <= probe.measure_upper(reader, 8) <= 1
    assert all(0 <= probe.measure_misread(reader, kind, 8) <= 1 for kind in probe.HARD_CONSTRAINTS)


# --- pretraining


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
def test_the_packaged_lambs_have_the_shape_of_their_name_and_the_tokenizer_of_lamb(size: str) -> None:
    folder = PACKAGED_MODELS[f"lamb-{size}"]
    config = AutoConfig.from_pretrained(folder)
    expected = make_config(VOCABULARY, SHAPES[size])
    keys = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    assert all(getattr(config, key) == getattr(expected, key) for key in keys)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (folder / name).read_bytes() == (CHECKPOINT / name).read_bytes()
    (reader, lamb) = (probe.load_score_reader(path) for path in (folder, CHECKPOINT))
    assert reader.score_ids == lamb.score_ids


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
    pretrain(Path(sys.argv[1]), PretrainSettings(10**9, workers=1, batch_size=500, log_every=1))
"""


@pytest.mark.slow
def test_the_workers_of_a_pretraining_end_with_it(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(PRETRAIN_IN_BACKGROUND)
    AutoTokenizer.from_pretrained(CHECKPOINT).save_pretrained(tmp_path / "lamb")
    process = subprocess.Popen([sys.executable, script, tmp_path / "lamb"], stdout=subprocess.PIPE, text=True)
    assert process.stdout and "tokens/s" in process.stdout.readline()
    workers = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert workers and not alive
