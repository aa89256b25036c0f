"""The transformers engine on tiny random checkpoints: parity with transformers, seeded draws, stops, logprobs."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from isheep.batching import derive_seed
from isheep.engines import batch as batching
from isheep.engines import decode as decoding
from isheep.engines import head
from isheep.engines.attention import read_prefix
from isheep.engines.batch import SegmentBatch
from isheep.engines.decode import Policy, decode, draw_tokens, seeded_uniforms
from isheep.engines.prefixes import common_prefix_length, group_by_prefix, option_paths
from isheep.engines.tokens import split_stops
from isheep.engines.transformers import TransformersEngine
from isheep.errors import UserError
from isheep.models.checkpoint import start_token_ids
from isheep.models.tokenization import decode_tokens
from isheep.records import Sampling
from tests.helpers.checkpoints import make_checkpoint
from tests.helpers.transformers_engine import (
    DRAWN,
    GREEDY,
    MIXED,
    PAIRS,
    PREFIX,
    SHARED,
    greedy_one_by_one,
    opened,
    reference,
    refuse_near_ties,
)

pytestmark = pytest.mark.numeric


@pytest.fixture
def clear(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_near_ties(monkeypatch)


@pytest.mark.usefixtures("clear")
@pytest.mark.parametrize("prompts", [MIXED, SHARED, SHARED[:1], [PREFIX] * 3], ids=["mixed", "shared", "one", "equal"])
def test_greedy_writes_what_generate_writes(checkpoint: Path, prompts: list[str]) -> None:
    wanted = greedy_one_by_one(checkpoint, prompts, 12)
    done = opened(checkpoint).generate(prompts, GREEDY, seed=0)
    assert [c.text for c in done] == wanted
    assert all(c.finish == "length" and c.tokens == 12 for c in done)


@pytest.mark.usefixtures("clear")
def test_sliding_windows_keep_their_own_cache(tmp_path: Path) -> None:
    path = make_checkpoint(
        tmp_path, "Qwen2", use_sliding_window=True, sliding_window=8, max_window_layers=1, layer_types=None
    )
    engine = opened(path)
    assert engine.loaded.model.config._attn_implementation != "isheep"
    assert [c.text for c in engine.generate(SHARED, GREEDY, 0)] == greedy_one_by_one(path, SHARED, 12)


@pytest.mark.usefixtures("clear")
def test_a_model_that_drops_our_arguments_shares_nothing(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, "Nemotron")
    engine = opened(path)
    assert engine.loaded.model.config._attn_implementation != "isheep"
    assert [c.text for c in engine.generate(SHARED, GREEDY, 0)] == greedy_one_by_one(path, SHARED, 12)


@pytest.mark.usefixtures("clear")
def test_a_shared_prefix_changes_nothing(checkpoint: Path) -> None:
    engine = opened(checkpoint)
    rows = engine._prompt_ids(SHARED)
    assert common_prefix_length(rows, [1] * len(rows)) > 8
    alone = opened(checkpoint, batch=1)
    for sampling in (GREEDY, DRAWN.model_copy(update={"max_tokens": 1})):
        assert [c.text for c in alone.generate(SHARED, sampling, 3)] == [
            c.text for c in engine.generate(SHARED, sampling, 3)
        ]


def test_the_same_call_gives_the_same_answers_and_another_seed_others(checkpoint: Path) -> None:
    engine = opened(checkpoint)
    first = engine.generate(SHARED, DRAWN, 7)
    assert engine.generate(SHARED, DRAWN, 7) == first
    engine.close()
    assert engine.generate(SHARED, DRAWN, 7) == first
    assert engine.generate(SHARED, DRAWN, 8) != first
    assert len({c.text for c in engine.generate([PREFIX] * 6, DRAWN, 7)}) == 6


@pytest.mark.usefixtures("clear")
def test_neighbours_do_not_change_a_draw(checkpoint: Path) -> None:
    engine = opened(checkpoint)
    alone = [engine.generate(SHARED[: i + 1], DRAWN, 5)[i].text for i in range(4)]
    together = [c.text for c in engine.generate(SHARED + MIXED, DRAWN, 5)][:4]
    assert alone == together


@pytest.mark.usefixtures("clear")
def test_requests_may_have_seeds_of_their_own(checkpoint: Path) -> None:
    engine = opened(checkpoint)
    seeds = [derive_seed(seed, index) for seed in (5, 6) for index in range(4)]
    together = engine.generate_seeded(SHARED + MIXED, DRAWN, seeds)
    assert together == engine.generate(SHARED, DRAWN, 5) + engine.generate(MIXED, DRAWN, 6)


@pytest.mark.usefixtures("clear")
def test_batches_are_cut_at_fixed_places_and_answers_come_in_order(checkpoint: Path) -> None:
    prompts = [f"{text} {i}" for i in range(3) for text in MIXED]
    assert opened(checkpoint, batch=5).generate(prompts, DRAWN, 4) == opened(checkpoint).generate(prompts, DRAWN, 4)
    assert opened(checkpoint).generate([], DRAWN, 4) == []


@pytest.mark.usefixtures("clear")
def test_waiting_requests_take_the_places_of_those_that_have_ended(checkpoint: Path) -> None:
    prompts = [f"{start}{text} {i}" for i in range(3) for start in ("", PREFIX) for text in MIXED]
    wanted = greedy_one_by_one(checkpoint, prompts, 16)
    stops = tuple({text[at : at + 2] for at, text in enumerate(wanted[:10], 1)})  # answers of many lengths
    sampling = GREEDY.model_copy(update={"max_tokens": 16, "stop": stops})
    done = opened(checkpoint, batch=4).generate(prompts, sampling, 0)
    cut = [min([text.index(stop) for stop in stops if stop in text], default=len(text)) for text in wanted]
    assert [c.text for c in done] == [text[:end] for text, end in zip(wanted, cut, strict=True)]
    assert len({c.tokens for c in done}) > 4
    drawn = DRAWN.model_copy(update={"stop": stops, "max_tokens": 16})
    assert opened(checkpoint, batch=4).generate(prompts, drawn, 4) == opened(checkpoint).generate(prompts, drawn, 4)


@pytest.mark.parametrize("prompts", [MIXED, SHARED], ids=["mixed", "shared"])
def test_neighbours_change_logits_by_less_than_a_ten_thousandth(checkpoint: Path, prompts: list[str]) -> None:
    """Of the widest of a model's logits: alone, in a full batch, and in one whose places are refilled."""
    engine = opened(checkpoint)
    rows = [row for n in range(3) for row in engine._prompt_ids([f"{text} {n}" for text in prompts])]
    limits = [3 + 2 * (n % 5) for n in range(len(rows))]

    def all_logits(rows: list[list[int]], limits: list[int], batch_size: int) -> list[list[torch.Tensor]]:
        logits_of: list[list[torch.Tensor]] = [[] for _ in rows]

        def pick(logits: torch.Tensor, indices: list[int], outputs: list[list[int]]) -> torch.Tensor:
            for index, row in zip(indices, logits, strict=True):
                logits_of[index].append(row)
            return logits.argmax(-1)

        with torch.inference_mode():
            decode(engine.loaded.model, rows, Policy(pick, lambda tokens: False, limits, batch_size))
        return [logits[:limit] for logits, limit in zip(logits_of, limits, strict=True)]

    alone = [all_logits([row], [limit], 1)[0] for row, limit in zip(rows, limits, strict=True)]
    for batch_size in (4, 5, len(rows)):
        for expected, batched in zip(alone, all_logits(rows, limits, batch_size), strict=True):
            together = torch.stack(batched)
            assert (torch.stack(expected) - together).abs().max() < 1e-4 * together.abs().max()


@pytest.mark.usefixtures("clear")
@pytest.mark.parametrize("segment_cost", [0, 10**6], ids=["segments", "joined"])
def test_rows_of_several_segments_write_what_they_write_alone(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, segment_cost: int
) -> None:
    monkeypatch.setattr(batching, "SEGMENT_COST", segment_cost)
    engine, prompts = opened(checkpoint, batch=5), [f"{text} {i}" for i in range(4) for text in (*SHARED, *MIXED)]
    rows = engine._prompt_ids(prompts)
    limits = [3 + 7 * (n % 4) for n in range(len(rows))]
    widths = []

    def pick(logits: torch.Tensor, indices: list[int], outputs: list[list[int]]) -> torch.Tensor:
        widths.append([max(len(rows[index]) + len(outputs[index]) for index in indices), len(indices)])
        return decoding.draw_tokens(logits, torch.zeros(len(logits)), 0, 1)

    with torch.inference_mode():
        outputs = decode(engine.loaded.model, rows, Policy(pick, lambda tokens: False, limits, 5))
    texts = [decode_tokens(engine.loaded.tokenizer, output) for output, _ in outputs]
    assert [len(output) for output, _ in outputs] == limits
    alone = greedy_one_by_one(checkpoint, prompts, max(limits))
    assert all(long.startswith(text) for long, text in zip(alone, texts, strict=True))


def test_a_batch_stores_no_more_columns_than_its_longest_row(checkpoint: Path) -> None:
    model = opened(checkpoint).loaded.model
    with torch.inference_mode():
        prefix = read_prefix(model, [])
        batch = SegmentBatch(model, prefix, 8)
        order, logits = batch.add([list(range(1, 81)), *([[5, 6, 7]] * 3)])
        assert order == [0, 1, 2, 3] and [segment.width for segment in batch.segments] == [80, 3]
        assert batch.keep([1, 3]) == [1, 3]
        for _ in range(100):
            logits = batch.step(logits[-2:].argmax(-1))
        assert [segment.width for segment in batch.segments] == [103]
        assert batch.add([list(range(1, 11))])[0] == [0] and batch.keep([2]) == [2]
        assert [segment.width for segment in batch.segments] == [10]


@pytest.mark.usefixtures("clear")
def test_rows_that_share_a_part_write_what_generate_writes(checkpoint: Path) -> None:
    """The tokens that only some of the rows share are read once."""
    reads, engine = list[int](), opened(checkpoint)
    engine.loaded.model.register_forward_pre_hook(lambda module, arguments: reads.append(arguments[0].numel()))
    done = engine.generate(PAIRS, GREEDY, 0)
    assert [c.text for c in done] == greedy_one_by_one(checkpoint, PAIRS, 12)
    assert sum(reads) - 12 * len(PAIRS) < 0.7 * sum(map(len, engine._prompt_ids(PAIRS)))


def test_logits_in_blocks_of_words_are_those_of_one_product(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = opened(checkpoint).loaded.model
    monkeypatch.setattr(head, "MIN_WORDS", 1)
    monkeypatch.setattr(head, "WORDS_PER_THREAD", 50)
    in_blocks, ids = opened(checkpoint).loaded.model, torch.arange(8, 40)[None]
    assert "forward" in vars(in_blocks.lm_head) and "forward" not in vars(plain.lm_head)
    with torch.inference_mode():
        torch.testing.assert_close(in_blocks(ids).logits, plain(ids).logits)


@pytest.mark.parametrize("prompts", [MIXED, SHARED], ids=["mixed", "shared"])
def test_bfloat16_writes_what_a_model_of_this_type_finds_best(checkpoint: Path, prompts: list[str]) -> None:
    """A token's logit is the best one of transformers' pass in the same type, up to the rounding of logits."""
    engine = opened(checkpoint, dtype="bfloat16", batch=3)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.bfloat16).eval()
    texts = engine.generate(prompts, GREEDY, 0)
    outputs = [row for row, _ in greedy_outputs(engine, prompts, 12)]
    assert [decode_tokens(engine.loaded.tokenizer, row) for row in outputs] == [c.text for c in texts]
    for row, output in zip(engine._prompt_ids(prompts), outputs, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([row + output])).logits[0, len(row) - 1 : -1].float()
        chosen = logits.gather(1, torch.tensor(output)[:, None])[:, 0]
        assert (logits.max(-1).values - chosen).max() < 0.05 * logits.abs().max()


def greedy_outputs(engine: TransformersEngine, prompts: list[str], length: int) -> list[tuple[list[int], bool]]:
    rows = engine._prompt_ids(prompts)
    policy = Policy(lambda logits, *_: logits.argmax(-1), lambda tokens: False, [length] * len(rows), engine.batch)
    with torch.inference_mode():
        return decode(engine.loaded.model, rows, policy)


def penalised_one_by_one(path: Path, prompts: list[str], sampling: Sampling, seed: int) -> list[str]:
    """A plain loop: no batch, no cache, the penalty taken off one logit after the other."""
    model, tokenizer = reference(path)
    texts = []
    for i, prompt in enumerate(prompts):
        ids, written = tokenizer(prompt).input_ids, list[int]()
        chance = seeded_uniforms([derive_seed(seed, i)], sampling.max_tokens)[0]
        for step in range(min(sampling.max_tokens, 256 - len(ids))):
            with torch.no_grad():
                logits = model(torch.tensor([ids + written])).logits[0, -1]
            for token in set(written):
                logits[token] -= sampling.presence_penalty
            written += draw_tokens(logits[None], chance[step : step + 1], sampling.temperature, sampling.top_p).tolist()
            if written[-1] == tokenizer.eos_token_id:
                break
        texts.append(tokenizer.decode(written, skip_special_tokens=True))
    return texts


@pytest.mark.usefixtures("clear")
@pytest.mark.parametrize("sampling", [GREEDY, DRAWN], ids=["greedy", "drawn"])
@pytest.mark.parametrize("penalty", [2.0, -1.5])
def test_a_presence_penalty_is_what_a_plain_loop_says(checkpoint: Path, sampling: Sampling, penalty: float) -> None:
    engine = opened(checkpoint)
    near = "a " * next(n for n in range(99, 999) if len(engine._prompt_ids(["a " * n])[0]) > 240)
    prompts = [near, *SHARED[:2], near, MIXED[0]]  # the context ends the near ones first
    sampling = sampling.model_copy(update={"presence_penalty": penalty, "max_tokens": 24})
    written = engine.generate(prompts, sampling, 13)
    assert written[0].tokens == written[3].tokens < 16
    assert [c.text for c in written] == penalised_one_by_one(checkpoint, prompts, sampling, 13)
    free = engine.generate(prompts, sampling.model_copy(update={"presence_penalty": 0.0}), 13)
    assert sum(penalized.text != unpenalized.text for penalized, unpenalized in zip(written, free, strict=True)) > 1
    assert engine.generate(prompts, sampling, 13) == written  # what one call wrote is no penalty in the next


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 1.0), (1.0, 0.8), (2.0, 0.95)])
def test_draws_follow_the_distribution(temperature: float, top_p: float) -> None:
    logits = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0, 1.5, -3.0])
    count = 20_000
    uniforms = seeded_uniforms([derive_seed("chi", i) for i in range(count // 100)], 100).flatten()
    drawn = draw_tokens(logits.expand(count, -1), uniforms, temperature, top_p)
    probabilities = torch.softmax(logits.double() / temperature, 0)
    order = probabilities.argsort(descending=True)
    kept = probabilities[order].cumsum(0) - probabilities[order] < top_p
    wanted = torch.zeros_like(probabilities)
    wanted[order[kept]] = probabilities[order[kept]] / probabilities[order[kept]].sum()
    seen = torch.bincount(drawn, minlength=len(logits)).double()
    assert (seen[wanted == 0] == 0).all()
    expected = wanted[wanted > 0] * count
    chi_square = ((seen[wanted > 0] - expected) ** 2 / expected).sum().item()
    free = len(expected) - 1
    assert chi_square < free + 5 * math.sqrt(2 * free)


def test_a_nucleus_wider_than_the_candidates_is_drawn_from_whole() -> None:
    logits = torch.zeros(2, 1000)
    logits[1, 3] = 50.0  # a narrow row beside a flat one
    drawn = torch.stack([draw_tokens(logits, torch.full((2,), u), 1.0, 0.9) for u in np.linspace(0, 0.999, 400)])
    assert len(drawn[:, 0].unique()) > 350
    assert (drawn[:, 1] == 3).all()


@pytest.mark.usefixtures("clear")
def test_an_end_token_stops_and_is_left_out(checkpoint: Path, tmp_path: Path) -> None:
    model, tokenizer = reference(checkpoint)
    text, length = greedy_one_by_one(checkpoint, [MIXED[0]], 6)[0], 6
    ids = tokenizer(MIXED[0], return_tensors="pt").input_ids
    written = model.generate(input_ids=ids, max_new_tokens=length, do_sample=False)[0, ids.shape[1] :].tolist()
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, written[-1]]
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    done = opened(tmp_path).generate([MIXED[0], MIXED[2]], GREEDY, 0)[0]
    at = written.index(written[-1])
    assert done == (tokenizer.decode(written[:at]), at + 1, "stop") and text.startswith(done.text)


def test_a_special_token_stops_as_an_id(checkpoint: Path) -> None:
    engine = opened(checkpoint)
    token = engine.loaded.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert split_stops(engine.loaded.tokenizer, ["<|im_end|>", "###"]) == ({token}, ["<|im_end|>", "###"])
    with torch.no_grad():
        engine.loaded.model.get_output_embeddings().weight[token] *= 40  # random weights, now bent on one token
    stopping = GREEDY.model_copy(update={"stop": ("<|im_end|>",), "temperature": 1.0, "top_p": 1.0, "max_tokens": 40})
    done = engine.generate(MIXED * 4, stopping, 0)
    assert {c.finish for c in done} >= {"stop"}
    assert all("<|im_end|>" not in c.text for c in done)
    assert all(c.tokens < 40 for c in done if c.finish == "stop")


@pytest.mark.usefixtures("clear")
def test_a_stop_string_may_span_tokens_and_ends_the_text_before_it(checkpoint: Path) -> None:
    engine = opened(checkpoint)
    free = engine.generate(SHARED, GREEDY, 0)
    stops = tuple(c.text[4:7] for c in free[:2])
    for before, after in zip(free, engine.generate(SHARED, GREEDY.model_copy(update={"stop": stops}), 0), strict=True):
        hits = [before.text.index(stop) for stop in stops if stop in before.text]
        assert after.text == (before.text[: min(hits)] if hits else before.text)
        assert after.finish == ("stop" if hits else "length")
        assert after.tokens <= before.tokens
    assert any(c.finish == "stop" for c in engine.generate(SHARED, GREEDY.model_copy(update={"stop": stops}), 0))


def test_the_context_cuts_an_answer_and_refuses_a_long_prompt(checkpoint: Path) -> None:
    engine = opened(checkpoint)
    near = "a " * 120
    used = len(engine._prompt_ids([near])[0])
    long, short = engine.generate([near, "a"], GREEDY.model_copy(update={"max_tokens": 1000}), 0)
    assert long.tokens == 256 - used and long.finish == "length" and short.tokens > long.tokens
    with pytest.raises(UserError, match=r"a prompt of \d{3,} tokens does not fit"):
        engine.generate(["What is" * 300], GREEDY, 0)


@pytest.mark.usefixtures("clear")
def test_a_prompt_without_room_is_answered_with_nothing_and_its_neighbours_as_ever(checkpoint: Path) -> None:
    engine = opened(checkpoint, batch=2)
    done = engine.generate([MIXED[0], "What is" * 300, *MIXED[1:3]], DRAWN, 4)
    assert done[1] == ("", 0, "length")
    alone = engine.generate([MIXED[0], "hot", *MIXED[1:3]], DRAWN, 4)
    assert [done[i].text for i in (0, 2, 3)] == [alone[i].text for i in (0, 2, 3)]


def test_what_is_beyond_the_context_is_left_out_and_its_neighbours_are_as_ever(checkpoint: Path) -> None:
    """A model that writes a long task or answer can still be asked about it."""
    engine, long = opened(checkpoint, batch=2), "What is" * 300
    texts, outputs = [MIXED[0], long, MIXED[1]], [" Paris.", " hot", " cold and hot " * 200]
    first, nothing, cut = engine.logprobs(texts, outputs)
    assert nothing == ([], []) and len(cut.tokens) == 256 - len(engine._prompt_ids(texts[2:])[0])
    [alone] = engine.logprobs(texts[2:], outputs[2:])
    assert cut.logprobs == pytest.approx(alone.logprobs, rel=1e-4)
    assert first.logprobs == pytest.approx(engine.logprobs(texts[:1], outputs[:1])[0].logprobs, rel=1e-4)
    [first, none, second] = engine.choices([MIXED[0], long, MIXED[1]], [" 1", " 10"])
    assert none == [0, 0] and first + second == pytest.approx(
        sum(engine.choices(MIXED[:2], [" 1", " 10"]), []), rel=1e-4
    )
    ids = engine._prompt_ids([long])[0][:256]
    np.testing.assert_allclose(
        engine.embed([long, MIXED[0]])[0], engine.embed([decode_tokens(engine.loaded.tokenizer, ids)])[0], atol=1e-4
    )


def test_the_beginning_of_sequence_is_never_doubled(llama: Path, qwen2: Path) -> None:
    engine = opened(llama)
    assert engine._prompt_ids(["hot"]) == engine._prompt_ids(["<|begin_of_text|>hot"])
    assert engine._prompt_ids([""]) == [start_token_ids(engine.loaded.tokenizer)]
    assert start_token_ids(opened(qwen2).loaded.tokenizer) == [] and len(opened(qwen2)._prompt_ids([""])[0]) == 1


@pytest.mark.parametrize("prompts", [MIXED, SHARED], ids=["mixed", "shared"])
def test_logprobs_are_those_of_the_loss(checkpoint: Path, prompts: list[str]) -> None:
    model, tokenizer = reference(checkpoint)
    outputs = [" Paris.", "", " 12 plus 30 is 42", " woof"]
    for prompt, output, scored in zip(prompts, outputs, opened(checkpoint).logprobs(prompts, outputs), strict=True):
        before, after = tokenizer(prompt).input_ids, tokenizer(output, add_special_tokens=False).input_ids
        assert scored.tokens == after and len(scored.logprobs) == len(after)
        if after:
            labels = torch.tensor([[-100] * len(before) + after])
            loss = model(torch.tensor([before + after]), labels=labels).loss.item()
            assert -np.mean(scored.logprobs) == pytest.approx(loss, abs=1e-4)


def test_embeddings_are_means_over_a_texts_own_tokens(checkpoint: Path) -> None:
    model, tokenizer = reference(checkpoint)
    engine = opened(checkpoint, batch=3)
    vectors = engine.embed(MIXED)
    assert vectors.dtype == np.float32 and engine.embed([]).shape == (0, 48)
    for text, vector in zip(MIXED, vectors, strict=True):
        states = model.base_model(tokenizer(text, return_tensors="pt").input_ids).last_hidden_state[0]
        np.testing.assert_allclose(vector, states.mean(0).detach().numpy(), atol=1e-4)


def share(model: Any, prompt: list[int], option: list[int]) -> float:
    """The probability of an option's tokens after a prompt's, by one plain pass."""
    with torch.no_grad():
        chances = model(torch.tensor([prompt + option])).logits[0].softmax(-1)
    return math.prod(chances[len(prompt) - 1 + k, token].item() for k, token in enumerate(option))


def test_rows_that_begin_alike_are_a_family() -> None:
    first, second = list(range(20)), list(range(50, 70))
    rows = [[*first, 1], [*second, 2, 3], [9], [*first, 4, 5], [*second, 6], [*first[:9], *range(90, 120)]]
    groups = group_by_prefix(rows, [1] * len(rows), 8)
    assert {tuple(sorted(indices)): shared for shared, indices in groups} == {(0, 3): 20, (1, 4): 20, (2,): 0, (5,): 38}
    assert sorted(len(indices) for _, indices in group_by_prefix([first] * 5, [1] * 5, 2)) == [1, 2, 2]


@pytest.mark.parametrize("prompts", [MIXED, SHARED, SHARED[:1], PAIRS], ids=["mixed", "shared", "one", "pairs"])
@pytest.mark.parametrize(
    ("options", "passes"),
    [([f" {n}" for n in range(1, 11)], 1), (["1", "12", "123", "7", "hot", "hot;", "cold"], 3)],
    ids=["scores", "forks"],
)
def test_choices_are_what_plain_passes_say(
    checkpoint: Path, prompts: list[str], options: list[str], passes: int
) -> None:
    engine, (model, tokenizer) = opened(checkpoint, batch=6), reference(checkpoint)
    ids = [tokenizer(option, add_special_tokens=False).input_ids for option in options]
    assert max(map(len, ids)) > 1 and len(option_paths([tuple(row) for row in ids])) == passes
    for prompt, probabilities in zip(engine._prompt_ids(prompts), engine.choices(prompts, options), strict=True):
        starts = [share(model, prompt, option) for option in ids]
        wanted = starts.copy()
        for i, option in enumerate(ids):  # the longest that begins with it once more takes its share away
            nested = [
                j for j, longer in enumerate(ids) if len(longer) > len(option) and longer[: len(option)] == option
            ]
            inner = [j for j in nested if not any(ids[k] == ids[j][: len(ids[k])] for k in nested if k != j)]
            wanted[i] -= sum(starts[j] for j in inner)
        assert probabilities == pytest.approx(wanted, rel=1e-4, abs=1e-9)
        assert sum(probabilities) <= 1


def test_choices_that_share_tokens_exclude_each_other(checkpoint: Path) -> None:
    [[p_one, p_ten]], [[alone]] = (opened(checkpoint).choices(["hot"], options) for options in (["1", "10"], ["1"]))
    assert p_one + p_ten == pytest.approx(alone, rel=1e-4) and p_ten > 1e-3 * alone  # in float32, as the passes are
    assert opened(checkpoint).choices([], ["1"]) == []
    with pytest.raises(UserError, match="with an option of"):
        opened(checkpoint).choices(["a"], ["1" * 300])
