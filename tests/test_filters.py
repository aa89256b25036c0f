"""Filters that ask the model: perplexity, density, random keep; against brute force, in order, in batches."""

import math
from base64 import b64encode
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from transformers import AutoModelForCausalLM, AutoTokenizer

import isheep.filters.density
from isheep import extensions
from isheep.engines.function import SeededFunctionEngine
from isheep.engines.transformers import open_engine
from isheep.errors import UserError
from isheep.filters import Filter
from isheep.filters.base import FilterContext
from isheep.filters.custom import as_filter
from isheep.models.chat_template import load_chat_template
from isheep.records import AssessedPair, Model, PairEmbedding, PairPerplexity, TokenLogprobs
from isheep.stages.filters import find_drops, kept_pairs
from isheep.stages.measure import embed_pairs, measure_perplexities, pair_text, perplexity
from tests.helpers.rows import make_pair, rate_pair
from tests.helpers.stages import stage_context, write_killed_stage

pytestmark = pytest.mark.numeric

CENTRES = np.array([[0, 0], [0, 10], [10, 0], [10, 10]], np.float32)


def rated_pair(n: int, output: str = "fine", score: float = 5, **fields: Any) -> AssessedPair:
    return rate_pair(make_pair(n, f"Name thing {n}", output, **fields), quality=score)


def filters(*settings: dict[str, Any]) -> list[Filter]:
    kind: TypeAdapter[Filter] = TypeAdapter(Filter)
    return [kind.validate_python(entry) for entry in settings]


def vector(n: int, values: Any) -> PairEmbedding:
    return PairEmbedding(id=f"t1-{n}", values=b64encode(np.asarray(values, "<f4").tobytes()).decode())


# 40 pairs around four points, ten at each; n's perplexity is n + 1 for the output, 41 - n for the pair; scores 1 to 10
PAIRS = [rated_pair(n, score=n // 4 + 1) for n in range(40)]
POINTS = [CENTRES[n % 4] + np.random.default_rng(n).normal(0, 0.5, 2) for n in range(40)]
KNOWN = FilterContext(
    perplexities=[PairPerplexity(id=f"t1-{n}", output=n + 1, pair=41 - n) for n in range(40)],
    embeddings=[vector(n, point) for n, point in enumerate(POINTS)],
)


def left(*settings: dict[str, Any], seed: int = 0, context: FilterContext = KNOWN) -> list[int]:
    """The numbers of the pairs that filters keep."""
    drops = find_drops(PAIRS, filters(*settings), True, ["<|end|>"], context._replace(seed=seed))
    assert len({drop.row for drop in drops}) == len(drops) and all(drop.why for drop in drops)
    return [int(row.id[3:]) for row in kept_pairs(PAIRS, drops)]


# --- perplexity


def by_loss(path: Path, before: str, text: str) -> float:
    """exp of transformers' own loss over the tokens of `text` after those of `before`."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(path)
    first = tokenizer(before, add_special_tokens=False).input_ids
    if tokenizer.bos_token_id is not None and first[:1] != [tokenizer.bos_token_id]:
        first = [tokenizer.bos_token_id, *first]
    first = first or [tokenizer.eos_token_id]
    then = tokenizer(text, add_special_tokens=False).input_ids
    labels = torch.tensor([[-100] * len(first) + then])
    with torch.no_grad():
        return math.exp(model(torch.tensor([first + then]), labels=labels).loss.item())


@pytest.mark.parametrize("prompt", ["chat", "plain"])
def test_perplexity_is_what_a_plain_loop_over_the_loss_says(checkpoint: Path, prompt: Any, tmp_path: Path) -> None:
    chat = load_chat_template("tokenizer", str(checkpoint))
    pairs = [
        rated_pair(0, "Paris."),
        rated_pair(1, "It is 42, a small dog says woof.", input="12 plus 30"),
        rated_pair(2, "red"),
    ]
    engine = open_engine(Model(str(checkpoint)), device="cpu")
    rows = measure_perplexities(stage_context(tmp_path, engine, chat=chat, response={"prompt": prompt}), pairs)
    for row, item in zip(rows, pairs, strict=True):
        prefix = f"Instruction: {item.content}\nResponse:" if prompt == "plain" else chat.prompt(item.content)
        output = by_loss(checkpoint, prefix, item.output if prompt == "chat" else f" {item.output}")
        assert row.output == pytest.approx(output, rel=1e-4)
        assert row.pair == pytest.approx(by_loss(checkpoint, "", f"{item.content}\n{item.output}"), rel=1e-4)


def test_perplexity_of_no_text_and_of_an_impossible_one() -> None:
    assert perplexity(TokenLogprobs([], [])) is None
    assert perplexity(TokenLogprobs([1, 2], [math.log(0.5), math.log(0.125)])) == pytest.approx(4)
    assert math.isfinite(perplexity(TokenLogprobs([1], [-float("inf")])) or math.inf)
    nothing = FilterContext(perplexities=[PairPerplexity(id="t1-0", output=None, pair=2)])
    [drop] = find_drops([rated_pair(0, "")], filters({"kind": "perplexity"}), False, [], nothing)
    assert drop.why == "perplexity of output inf > 50"


def test_the_perplexity_filter() -> None:
    assert left({"kind": "perplexity", "at_most": 10, "of": ["output"]}) == list(range(10))
    assert left({"kind": "perplexity", "at_most": 10, "of": ["pair"]}) == list(range(31, 40))
    assert left({"kind": "perplexity", "at_most": 30}) == list(range(11, 30))
    assert left({"kind": "perplexity"}) == list(range(40))
    drops = find_drops(PAIRS, filters({"kind": "perplexity", "at_most": 39.5}), True, [], KNOWN)
    assert [drop.why for drop in drops] == ["perplexity of pair 41 > 39.5", "perplexity of pair 40 > 39.5",
                                            "perplexity of output 40 > 39.5"]  # fmt: skip


# --- density


@pytest.mark.parametrize("keep", [1, 3])
@pytest.mark.parametrize("mini_batch", [41, 40])
def test_density_keeps_some_of_each_cluster(monkeypatch: pytest.MonkeyPatch, keep: int, mini_batch: int) -> None:
    monkeypatch.setattr(isheep.filters.density, "MINI_BATCH_SIZE", mini_batch)
    density = {"kind": "density", "clusters": 4, "keep": keep}
    drawn = left(density)
    assert sorted(n % 4 for n in drawn) == sorted([0, 1, 2, 3] * keep)
    assert left(density) == drawn != left(density, seed=1)
    lowest = {**density, "choose": "lowest_perplexity"}
    assert left(lowest) == list(range(4 * keep))
    assert left({**lowest, "of": "pair"}) == list(range(40 - 4 * keep, 40))


def test_density_says_what_it_saw() -> None:
    lowest = {"kind": "density", "clusters": 4, "keep": 9, "choose": "lowest_perplexity"}
    drops = find_drops(PAIRS, filters(lowest), True, [], KNOWN)
    assert [drop.row for drop in drops] == ["t1-36", "t1-37", "t1-38", "t1-39"]
    assert drops[0].why.endswith("has 10 pairs, 9 kept up to perplexity 33 of output: 37")
    [why] = {drop.why[11:] for drop in find_drops(PAIRS, filters({"kind": "density", "clusters": 39}), True, [], KNOWN)}
    assert why.endswith("2 pairs, 1 kept at random")


def test_fewer_pairs_than_clusters_or_points_are_all_kept_once() -> None:
    assert left({"kind": "density"}) == list(range(40))
    context = KNOWN._replace(embeddings=[vector(n, [1.0, 2.0]) for n in range(40)])
    assert len(left({"kind": "density", "clusters": 4}, context=context)) == 1


def test_a_draw_does_not_depend_on_who_else_is_there() -> None:
    assert set(left({"kind": "random", "keep": 5})) < set(left({"kind": "random", "keep": 9}))


# --- random, and filters in order


def test_as_many_as_a_threshold_keeps_drawn_at_random() -> None:
    threshold = {"kind": "score", "at_least": 8}
    control = {"kind": "random", "as_many_as": {"at_least": 8}}
    assert len(left(control)) == len(left(threshold)) == 12 and left(control) != left(threshold)
    assert left(control) == left(control) != left(control, seed=1)
    assert len(left({"kind": "random", "keep": 7})) == 7
    [why] = {drop.why for drop in find_drops(PAIRS, filters(control), True, [], KNOWN)}
    assert why == "not among the 12 drawn of 40"


def test_each_filter_sees_what_those_before_it_left() -> None:
    score, density = {"kind": "score", "at_least": 6}, {"kind": "density", "clusters": 4, "choose": "lowest_perplexity"}
    assert left(score, density) == [20, 21, 22, 23]
    assert left(density, score) == []
    assert len(left(score, {"kind": "random", "as_many_as": {"above": 9}})) == 4
    drops = find_drops([*PAIRS, rated_pair(40, "")], filters(density, score), True, [], KNOWN)
    assert [drop.by for drop in drops] == ["score"] * 4 + ["density"] * 36 + ["rules"]


EFFECTS = [
    ({"kind": "perplexity", "at_most": 20}, {"at_most": 30}),
    ({"kind": "perplexity", "at_most": 30}, {"of": ["pair"]}),
    ({"kind": "density", "clusters": 4}, {"clusters": 8}),
    ({"kind": "density", "clusters": 4}, {"keep": 2}),
    ({"kind": "density", "clusters": 4}, {"choose": "lowest_perplexity"}),
    ({"kind": "density", "clusters": 4, "choose": "lowest_perplexity"}, {"of": "pair"}),
    ({"kind": "random", "keep": 4}, {"keep": 5}),
    ({"kind": "random", "as_many_as": {"at_least": 8}}, {"as_many_as": {"above": 8}}),
]


@pytest.mark.parametrize(("settings", "change"), EFFECTS)
def test_every_setting_changes_the_rows_kept(settings: dict[str, Any], change: dict[str, Any]) -> None:
    assert left(settings) != left({**settings, **change})


# --- filters of the user's own

SHORT = """
def short(pair):
    if len(pair.output) < 4:
        return f"{len(pair.output)} characters"

def failing(pair):
    return pair.nothing

def wrong(pair):
    return True
"""


@pytest.fixture
def own_file(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "mine.py"
    path.write_text(SHORT)
    extensions.allow_code()
    yield path
    extensions.allow_code(False)


def test_a_custom_filter_drops_what_its_function_gives_a_reason_for(own_file: Path) -> None:
    pairs = [rated_pair(0, "a"), rated_pair(1, "long enough")]
    [drop] = find_drops(pairs, filters({"kind": "custom", "function": f"{own_file}:short"}), True, [])
    assert (drop.row, drop.by, drop.why) == ("t1-0", "short", "1 characters")
    function = extensions.load_object(f"{own_file}:short", "filter")
    assert find_drops(pairs, [as_filter(function)], True, []) == [drop]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("failing", "filter failing failed on pair t1-0: AttributeError: "),
        ("wrong", "filter wrong returned True for pair t1-0: return a reason in words to drop the pair"),
        ("missing", r"filter .*mine\.py:missing: .*mine\.py has no 'missing'"),
    ],
)
def test_a_custom_filter_that_fails_is_one_line(own_file: Path, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        find_drops(PAIRS, filters({"kind": "custom", "function": f"{own_file}:{name}"}), True, [])


def test_a_custom_filter_is_not_executed_unless_allowed(own_file: Path) -> None:
    extensions.allow_code(False)
    with pytest.raises(UserError, match=r"filter .*mine\.py:short is Python code of your own: pass allow_code=True"):
        find_drops(PAIRS, filters({"kind": "custom", "function": f"{own_file}:short"}), True, [])


# --- what is measured


class Measured(SeededFunctionEngine):
    """A fake engine that remembers what it measured."""

    def __init__(self) -> None:
        super().__init__(lambda prompt, seed: "")
        self.seen: list[list[str]] = []

    def logprobs(self, prompts: Sequence[str], outputs: Sequence[str]) -> list[TokenLogprobs]:
        self.seen.append(list(outputs))
        return [TokenLogprobs([0], [-float(len(output) % 5)]) for output in outputs]

    def embed(self, texts: Sequence[str]) -> Any:
        self.seen.append(list(texts))
        return super().embed(texts)


@pytest.mark.parametrize(
    ("stage", "name"), [(measure_perplexities, "perplexity.jsonl"), (embed_pairs, "embeddings.jsonl")]
)
def test_pairs_are_measured_in_fixed_batches_and_a_resume_measures_the_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stage: Any, name: str
) -> None:
    monkeypatch.setattr("isheep.stages.measure.BATCH_SIZE", 3)
    pairs, whole, rest = PAIRS[:8], Measured(), Measured()
    rows = stage(stage_context(tmp_path / "whole", whole), pairs)
    calls_per_batch = len(whole.seen) // 3
    assert [len(texts) for texts in whole.seen[::calls_per_batch]] == [3, 3, 2]
    resumed = stage_context(tmp_path / "resumed", rest)
    write_killed_stage(resumed, name, rows[:3])
    assert stage(resumed, pairs) == rows and rest.seen == whole.seen[calls_per_batch:]
    assert pair_text(pairs[1]) in whole.seen[0] + whole.seen[1]


def test_a_vector_keeps_what_the_engine_says(tmp_path: Path) -> None:
    engine = SeededFunctionEngine(lambda prompt, seed: "")
    [row] = embed_pairs(stage_context(tmp_path, engine), PAIRS[:1])
    assert row == vector(0, engine.embed([pair_text(PAIRS[0])])[0])
