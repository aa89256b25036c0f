"""The openai engine at real servers on loopback: llama.cpp's, transformers serve, and one of our own like vLLM's."""

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from isheep.benchmarks import benchmarks_need_logprobs, load_benchmark
from isheep.cli import main
from isheep.engines import transformers
from isheep.engines.openai import open_engine
from isheep.engines.openai_check import check_requirements
from isheep.engines.openai_engine import OpenAIEngine
from isheep.engines.server import ServerConnection, ServerRequirements, requirements
from isheep.engines.tokens import exclusive_probabilities
from isheep.errors import TooLong, UserError
from isheep.lamb import CHECKPOINT as LAMB_CHECKPOINT
from isheep.models.chat_template import load_chat_template
from isheep.models.gguf_file import write_gguf
from isheep.openai_client import client
from isheep.recipe.machine import ServerSettings
from isheep.recipe.schema import Recipe
from isheep.records import Completion, Model, Reply, Sampling
from isheep.rundir.events import read_events
from isheep.rundir.folder import RunFolder
from isheep.seeds import load_seed_file
from isheep.stages.filters import find_drops
from isheep.stages.instances import parse_part
from tests.helpers.backends import add_benchmark
from tests.helpers.byte_server import dripping
from tests.helpers.command import refused
from tests.helpers.hashes import hash_files
from tests.helpers.openai_server import Fake, Refusal, Served, llama_cpp, serving
from tests.helpers.rows import make_pair

pytestmark = pytest.mark.numeric

KEY = "sk-secret-0123456789"
GREEDY = Sampling(temperature=0, top_p=1, max_tokens=24, stop=("<|im_end|>",))
DRAWN = Sampling(temperature=1.0, top_p=0.9, max_tokens=12, stop=("<|im_end|>",))
SCORES = [f" {score}" for score in range(1, 11)]
ALL = ServerRequirements(sampling=True, options=SCORES, prompt_logprobs=True, adapters=True)
SMALL = [
    *("lamb", "iterations=1", "evaluation=[]", "synthesis.tasks=8", "synthesis.batch_size=8", "response.batch_size=4"),
    *(
        "assessment.batch_size=4",
        "training.batch_size=4",
        "training.max_steps=2",
        "training.eval_every=1",
        "filters=[{kind: score, at_least: 2}]",
    ),
    "machine.engine=openai",
    "machine.report=false",
]


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def engine(url: str, base: str = "lamb", adapter: Path | None = None, **settings: Any) -> OpenAIEngine:
    server = ServerSettings(**{"url": url, "max_in_flight": 4, "retry_wait": 0.01, **settings})
    return open_engine(Model(base, adapter), server, lambda: load_chat_template("tokenizer", base))


def ours(base: str = "lamb", adapter: Path | None = None) -> transformers.TransformersEngine:
    return transformers.open_engine(Model(base, adapter), threads=1, device="cpu")


def run(*words: str | Path) -> None:
    """`isheep run` on SMALL, to its end."""
    with pytest.raises(SystemExit) as ended:
        main(["run", *SMALL, *map(str, words)])
    assert not ended.value.code


def questions(count: int) -> list[str]:
    """Chat turns and plain text in turn."""
    chat = load_chat_template("tokenizer", "lamb")
    seeds = load_seed_file(LAMB_CHECKPOINT.parent / "seed_tasks.jsonl").tasks
    return [chat.prompt(seed.content) if n % 4 else seed.content for n, seed in enumerate(seeds[:count])]


# --- llama.cpp's server


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    pytest.importorskip("xllamacpp")
    pytest.importorskip("gguf")
    file, chat = tmp_path_factory.mktemp("gguf") / "lamb.gguf", load_chat_template("tokenizer", "lamb")
    write_gguf(LAMB_CHECKPOINT, chat.tokenizer, chat.end, file, keep_bfloat16=False)
    with llama_cpp(file) as url:
        yield url


def test_llama_cpp_writes_what_transformers_writes(llama: str) -> None:
    prompts = questions(40)
    with closing(engine(llama)) as there:
        assert there.abilities.token_ids and there.abilities.extras and there.context == 1024
        answers = there.generate(prompts, GREEDY, 0)
    wanted = ours().generate(prompts, GREEDY, 0)
    assert sum(answer == expected for answer, expected in zip(answers, wanted, strict=True)) >= 38


def test_llama_cpp_draws_by_the_request_s_own_seed(llama: str) -> None:
    prompts = [questions(2)[1]] * 6
    with closing(engine(llama)) as there:
        first = there.generate(prompts, DRAWN, 1)
        assert len({answer.text for answer in first}) > 1
        assert there.generate(prompts[:3], DRAWN, 1) == first[:3]
        assert there.generate(prompts, DRAWN, 2) != first


def test_llama_cpp_gives_the_probabilities_of_scores(llama: str) -> None:
    prompts, options = questions(4), [" The", " Paris", " 1", " 10"]
    with closing(engine(llama)) as there:
        answers = there.choices(prompts, options)
    for answer, expected in zip(sum(answers, []), sum(ours().choices(prompts, options), []), strict=True):
        # A share of 0 is not among the 20 most probable tokens.
        assert answer == pytest.approx(expected, rel=1e-2) or (answer == 0 and expected < 0.05)


def test_what_llama_cpp_can_not_do_is_said(llama: str) -> None:
    with closing(engine(llama)) as there:
        assert check_requirements(there, ServerRequirements(True, SCORES, False, False)) == []
        with pytest.raises(UserError, match="does not echo"):
            check_requirements(there, ServerRequirements(False, [], True, False))
        with pytest.raises(UserError, match=r"can't load adapters.*--enable-lora.*adapters: transformers"):
            check_requirements(there, ServerRequirements(False, [], False, True))
        with pytest.raises(UserError, match="hidden states"):
            there.embed(["a"])


@pytest.mark.parametrize("read", ["generate", "expected", "constrained"])
def test_a_whole_iteration_through_llama_cpp(
    llama: str, tmp_path: Path, read: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", llama)
    out = tmp_path / "run"
    run(f"assessment.read={read}", "--out", out)
    assert (out / "iter-1/adapter/adapter_model.safetensors").is_file()
    assert "url: null" in (out / "recipe.yaml").read_text()


def test_a_recipe_that_needs_later_models_is_refused_before_anything_is_made(
    llama: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    with pytest.raises(SystemExit) as ended:
        main(["run", *SMALL, "iterations=2", f"machine.server.url={llama}", "--out", str(out)])
    message = capsys.readouterr().err
    assert ended.value.code == 2 and len(message.strip().splitlines()) == 1
    assert "can't load adapters" in message and not out.exists()


@pytest.mark.slow
def test_later_models_may_be_elsewhere(llama: str, tmp_path: Path) -> None:
    words = ["iterations=2", f"machine.server.url={llama}", "machine.server.adapters=transformers"]
    run(*words, "--out", tmp_path / "run")
    assert (tmp_path / "run/iter-2/adapter").is_dir()


# --- one of our own, like vLLM's


@pytest.fixture(scope="module")
def own() -> Iterator[Served]:
    with serving(Fake("lamb")) as served:
        yield served


def test_a_server_that_can_do_all_passes(own: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with closing(engine(own.url)) as there:
        assert check_requirements(there, ALL) == []
    assert own.headers >= {f"Bearer {KEY}"}
    assert {"temperature", "max_tokens"} <= own.bodies[0].keys() and KEY not in json.dumps(own.bodies)


def test_echoed_logprobs_are_those_of_our_engine(own: Served) -> None:
    prompts, outputs = [*questions(3), ""], [" The answer is 7.", " Paris", "", "Name it.\nIt is red."]
    with closing(engine(own.url)) as there:
        answers = there.logprobs(prompts, outputs)
    for answer, expected in zip(answers, ours().logprobs(prompts, outputs), strict=True):
        assert answer.tokens == expected.tokens and answer.logprobs == pytest.approx(expected.logprobs, abs=1e-4)


@pytest.mark.parametrize("api", ["completions", "chat"])
def test_both_shapes_of_logprobs_give_the_same_shares(own: Served, api: str) -> None:
    prompts = [prompt for prompt in questions(6) if prompt.startswith("<|im_start|>")]
    options = ["The", "What", "7"]
    with closing(engine(own.url, api=api)) as there:
        answers = there.choices(prompts, options)
        assert [answer.text for answer in there.generate(prompts, GREEDY, 0)] == [
            answer.text for answer in ours().generate(prompts, GREEDY, 0)
        ]
    shares, expected_shares = sum(answers, []), sum(ours().choices(prompts, options), [])
    assert [share for share in shares if share] == [
        pytest.approx(expected, rel=1e-3) for share, expected in zip(shares, expected_shares, strict=True) if share
    ]
    assert sum(share > 0 for share in shares) >= len(prompts)


def test_options_of_several_tokens(qwen2: Path) -> None:
    prompts, options = ["What is 12 plus 30? ", "List three: "], [str(score) for score in range(1, 11)]
    with serving(Fake(str(qwen2))) as served, closing(engine(served.url, str(qwen2))) as there:
        assert len(there.token_ids("10")) == 2
        answers = there.choices(prompts, options)
    expected_shares = ours(str(qwen2)).choices(prompts, options)
    for answer, expected in zip(sum(answers, []), sum(expected_shares, []), strict=True):
        assert answer == pytest.approx(expected, abs=2e-3) or answer == 0


def test_options_exclude_each_other() -> None:
    assert exclusive_probabilities([(1,), (1, 0), (2,)], [0.5, 0.2, 0.1]) == [pytest.approx(0.3), 0.2, 0.1]


def test_the_beginning_of_sequence_is_there_once(llama_checkpoint: Path) -> None:
    base = str(llama_checkpoint)
    prompts = ["<|begin_of_text|>Name the capital", "Name the capital"]
    with serving(Fake(base)) as served, closing(engine(served.url, base)) as there:
        there.generate(prompts, GREEDY, 0)
        assert served.bodies[-1]["prompt"] == served.bodies[-2]["prompt"] == there.prompt_ids(prompts)[0]
    with serving(Fake(base, strict=True)) as served, closing(engine(served.url, base)) as there:
        there.generate(prompts, GREEDY, 0)
        assert {body["prompt"] for body in served.bodies[-2:]} == {"Name the capital"}


@pytest.fixture
def llama_checkpoint(request: pytest.FixtureRequest) -> Path:
    """The tiny checkpoint with a beginning of sequence (tests/conftest.py's `llama`; here that is a server)."""
    from tests.helpers.checkpoints import make_checkpoint

    return make_checkpoint(request.getfixturevalue("tmp_path") / "llama", "Llama")


def test_a_prompt_that_leaves_no_room(own: Served) -> None:
    with closing(engine(own.url, context=40)) as there:
        short, long = there.generate(["Name it", "red " * 60], GREEDY, 0)
        assert short.tokens and long == ("", 0, "length")
        with pytest.raises(TooLong, match="server's 40 tokens"):
            there.generate(["red " * 60], GREEDY, 0)


def test_an_adapter_is_loaded_and_taken_out_again(own: Served, tmp_path: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    lora = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(LAMB_CHECKPOINT, dtype=torch.float32), lora).save_pretrained(
        tmp_path
    )
    prompts = questions(4)
    with closing(engine(own.url, adapter=tmp_path, model="base")) as there:
        answers = there.generate(prompts, GREEDY, 0)
        assert own.bodies[-1]["model"].startswith("isheep-")
    assert answers == ours(adapter=tmp_path).generate(prompts, GREEDY, 0) != ours().generate(prompts, GREEDY, 0)
    assert own.unloaded and list(own.loaded) == ["base"]


def test_two_iterations_on_a_server_that_loads_adapters(own: Served, tmp_path: Path) -> None:
    seen = len(own.bodies)
    run("iterations=2", f"machine.server.url={own.url}", "--out", tmp_path / "run")
    models = [body["model"] for body in own.bodies[seen:]]
    assert set(models[:6]) == {"base"} and models[-1].startswith("isheep-")
    assert own.unloaded[-1] == models[-1] and list(own.loaded) == ["base"]


UNABLE = [
    (
        {"logprobs": False},
        ServerRequirements(False, SCORES, False, False),
        "gives no log-probabilities.*read: generate",
    ),
    ({"logprobs": False}, ServerRequirements(False, [], True, False), "does not echo"),
    ({"draws": False}, ServerRequirements(True, [], False, False), "ignores the temperature"),
    ({"loras": False}, ServerRequirements(False, [], False, True), "can't load adapters"),
    ({"base": "other"}, ServerRequirements(False, [], False, False), "reads [0-9]+ tokens where 'lamb' reads"),
]


@pytest.mark.parametrize(("fake_settings", "needs", "message"), UNABLE)
def test_a_server_that_can_not_is_refused(
    fake_settings: dict[str, Any], needs: ServerRequirements, message: str, qwen2: Path
) -> None:
    with serving(
        Fake(**{"base": "lamb", **fake_settings, **({"base": str(qwen2)} if "base" in fake_settings else {})})
    ) as served:
        with closing(engine(served.url)) as there, pytest.raises(UserError, match=message) as error:
            check_requirements(there, needs)
        assert "\n" not in str(error.value)


def test_a_benchmark_that_reads_logprobs_is_refused_before_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The benchmark says so itself, whatever its name is."""
    add_benchmark(monkeypatch, replace(load_benchmark("lamb"), name="own", needs_logprobs=True))
    with serving(Fake("lamb", logprobs=False)) as served:
        words = ["evaluation=[own]", f"machine.server.url={served.url}", "--out", tmp_path / "run"]
        assert "does not echo the log-probabilities of prompts" in refused("run", *SMALL, *words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "is_needed"),
    [("paper/piqa", True), ("standard/piqa", True), ("paper/nq", False), ("standard/nq", False), ("lamb", False)],
)
def test_only_benchmarks_that_compare_options_need_logprobs(name: str, is_needed: bool) -> None:
    recipe = Recipe.model_validate({"model": "lamb", "evaluation": [name]})
    assert requirements(recipe, benchmarks_need_logprobs(recipe)).prompt_logprobs is is_needed


def test_a_server_without_seeds_is_told(own: Served) -> None:
    with serving(Fake("lamb", seeded=False)) as served, closing(engine(served.url)) as there:
        (note,) = check_requirements(there, ServerRequirements(True, [], False, False))
        assert "ignores seeds" in note


def test_no_server_a_wrong_name_a_dead_one(own: Served) -> None:
    for there, message in (
        (engine(None), "set machine.server.url or OPENAI_BASE_URL"),  # type: ignore[arg-type]
        (engine(own.url, model="nobody"), "no such model.*machine.server.model"),
        (engine("http://127.0.0.1:9/v1"), "no connection"),
        (engine("ftp://x/v1"), "machine.server.url 'ftp://x/v1' is not a web address"),
    ):
        with pytest.raises(UserError, match=message):
            there.generate(["a"], GREEDY, 0)


NO_LIST = [
    (Refusal(429), r"no list of models \(HTTP 429, 'application/json'\): try again later, or set machine\.server"),
    (Refusal(302, b"", "text/html"), r"\(HTTP 302, 'text/html'\): set machine\.server\.url to the address of the API"),
    (Refusal(200, b"<html>", "text/html; charset=utf-8"), r"\(HTTP 200, 'text/html'\): set machine\.server\.url"),
    (Refusal(404, b"", "text/plain"), r"\(HTTP 404, 'text/plain'\): set machine\.server\.url .* ends in /v1"),
    (Refusal(200, b'{"data": []}'), r"it lists no models: set machine\.server\.model"),
]


@pytest.mark.parametrize(("models", "message"), NO_LIST, ids=["busy", "redirect", "page", "missing", "empty"])
def test_what_a_server_answers_in_place_of_its_models_is_said(models: Refusal, message: str) -> None:
    with serving(Fake("lamb", models=models)) as served:
        with pytest.raises(UserError, match=message):
            engine(served.url).generate(["a"], GREEDY, 0)
        # A server without a list serves the model that is named.
        assert engine(served.url, model="base").generate(["a"], GREEDY, 0)


def test_another_name_of_the_model_in_the_answers_is_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(Fake("lamb", answers_as="lamb-2026\x1b[31m")) as served:
        run(f"machine.server.url={served.url}", "--out", tmp_path / "run")
    line = f"server {served.url}/ was asked for the model 'base' and answers as 'lamb-2026 [31m'"
    assert capsys.readouterr().err.count(line) == 1
    assert [line in event["note"] for event in read_events(tmp_path / "run") if "was asked" in event.get("note", "")]


REFUSED = [
    ("machine.server.url=http://me:pw@127.0.0.1/v1", "must not contain a password"),
    ("filters=[{kind: density, clusters: 2}]", "needs hidden states"),
    ("machine.server.api=chat", "prompts are plain"),
]


@pytest.mark.parametrize(("setting", "message"), REFUSED)
def test_what_no_server_can_do_is_refused_with_its_line(
    setting: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["run", *SMALL, setting, "--out", str(tmp_path / "run")])
    printed = capsys.readouterr().err
    assert message in printed and not (tmp_path / "run").exists()


# --- servers that fail


def faults(n: int) -> Refusal | None:
    """Every third call is spoiled, each time in another way."""
    kinds = [Refusal(429), Refusal(500), Refusal(200, b"<html>"), Refusal(200, b'{"choices": [{}]}'), Refusal(0)]
    return kinds[n // 3 % len(kinds)] if n % 3 == 0 else None


def test_a_third_of_the_calls_fail_and_the_answers_are_the_same() -> None:
    prompts = questions(12)
    with serving(Fake("lamb", fault=faults)) as served, closing(engine(served.url)) as there:
        answers = there.generate(prompts, DRAWN, 5)
    with serving(Fake("lamb")) as served, closing(engine(served.url)) as there:
        assert there.generate(prompts, DRAWN, 5) == answers


def test_a_call_that_always_fails_ends_in_one_line() -> None:
    with serving(Fake("lamb", fault=lambda n: Refusal(500) if n > 4 else None)) as served:
        with (
            closing(engine(served.url, attempts=3)) as there,
            pytest.raises(UserError, match="HTTP 500.*run the same command to continue") as refusal,
        ):
            there.generate(questions(8), GREEDY, 0)
        assert "\n" not in str(refusal.value)


def test_an_engine_closes_although_the_server_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a run is stopped: the server never answers that it has unloaded the adapter."""
    monkeypatch.setattr(client, "CLOSE_SECONDS", 0.05)
    with dripping(b"", b"") as server:
        there = engine(server.url, adapter=Path("adapter"), model="base")
        opened = client.open_client(server.url, there.settings)
        connection = ServerConnection(opened, there.settings, server.url, "base")
        vars(there).update(adapter="isheep-1", connection=connection)
        there.close()
        assert server.arrived.acquire(timeout=60) and "connection" not in vars(there)


class Switch:
    """A fault that begins after so many further requests; `begin` and `end` switch it."""

    def __init__(self, refusal: Refusal) -> None:
        self.refusal, self.first = refusal, 10**9

    def begin(self, served: Served, after: int) -> None:
        self.first = len(served.bodies) + after + 1

    def end(self) -> None:
        self.first = 10**9

    def __call__(self, n: int) -> Refusal | None:
        return self.refusal if n >= self.first else None


def reply_rows(completions: list[Completion]) -> list[Reply]:
    return [Reply(id=str(n), text=row.text, finish=row.finish, tokens=row.tokens) for n, row in enumerate(completions)]


def drawn_requests(served: Served) -> set[str]:
    """The requests that were answered, without the probes of the server."""
    return {request for request in served.answered if (json.loads(request)[1] or 0) > 9}


@pytest.mark.parametrize("status", [500, pytest.param(401, marks=pytest.mark.slow)])
def test_the_answers_of_a_batch_outlive_a_call_that_fails(status: int, tmp_path: Path) -> None:
    """Sixteen rows are one batch. Nine are answered, then the server fails or the key has expired."""
    folder, prompts, switch = RunFolder(tmp_path, tmp_path), questions(16), Switch(Refusal(status))
    with serving(Fake("lamb", fault=switch)) as served, closing(engine(served.url, attempts=2)) as there:

        def make_batch(start: int) -> list[Reply]:
            return reply_rows(there.generate(prompts[start : start + 16], DRAWN, 5))

        assert there.abilities.token_ids
        switch.begin(served, after=9)
        with pytest.raises(UserError, match=f"HTTP {status}.*the answers so far are kept: run the same command"):
            folder.map_batches("replies.jsonl", Reply, make_batch, 16, 16)
        assert len(drawn_requests(served)) == 9 and (tmp_path / "replies.jsonl.part").read_bytes() == b""
        switch.end()
        # Another engine, as in another process.
        with closing(engine(served.url)) as reopened:
            there = reopened
            rows = list(folder.map_batches("replies.jsonl", Reply, make_batch, 16, 16))
        assert {served.answered[request] for request in drawn_requests(served)} == {1}
        assert len(drawn_requests(served)) == 16
        there = engine(served.url)
        assert reply_rows(there.generate(prompts, DRAWN, 5)) == rows
    assert sorted(path.name for path in tmp_path.iterdir()) == ["replies.jsonl", "run.jsonl"]


HALF_PAIR = b'{"choices": [{"index": 0, "text": "half a \\ud800", "finish_reason": "stop"}]}'
ZIP = b'{"choices": [{"index": 0, "text": "whole", "finish_reason": "stop"}]}'


@pytest.mark.parametrize(
    ("refusal", "reason"),
    [
        (Refusal(200, HALF_PAIR), "it has half of a surrogate pair"),
        pytest.param(
            Refusal(200, ZIP, "application/json; charset=zip"), "its charset 'zip' is unknown", marks=pytest.mark.slow
        ),
    ],
)
def test_an_answer_that_can_not_be_read_is_no_text(
    refusal: Refusal, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    switch = Switch(refusal)
    with serving(Fake("lamb", fault=switch)) as served, closing(engine(served.url)) as there:
        assert there.abilities.token_ids
        switch.begin(served, after=6)
        answers = there.generate(questions(8), DRAWN, 5)
        num_requests = len(served.bodies)
        assert sorted(answer.finish for answer in answers).count("unreadable") == 2
        assert [answer.text for answer in answers if answer.finish == "unreadable"] == ["", ""]
        assert f"2 of 8 answers can't be read ({reason}); none is trained on" in capsys.readouterr().err
        # More than half: the server is broken.
        with pytest.raises(UserError, match=r"4 of 4 answers can't be read"):
            there.generate(questions(4), DRAWN, 6)
        # An answer is not paid for again because it can't be read.
        assert len(served.bodies) == num_requests + 4
    with (
        serving(Fake("lamb", fault=lambda n: refusal)) as served,
        closing(engine(served.url)) as there,
        pytest.raises(UserError, match=f"gives no completion .unreadable: {reason}"),
    ):
        there.generate(["a"], GREEDY, 0)


def test_a_pair_whose_answer_can_not_be_read_is_counted_and_dropped() -> None:
    pairs = [make_pair(0), make_pair(1, output="", finish="unreadable")]
    assert [pair.unanswered for pair in pairs] == [False, True]
    (drop,) = find_drops(pairs, [], False, ())
    assert (drop.row, drop.by, drop.why) == ("t1-1", "answer", "the server's answer can't be read")
    assert parse_part(Completion("", 3, "unreadable")).cut


class Stall:
    """A server that answers two requests of a run, then none until `release`, which drops what is under way.

    `num_drawn` counts the requests that are no probes; they have a seed above those of the probes.
    """

    def __init__(self) -> None:
        self.is_stalled, self.num_drawn = True, 0
        self.stalled, self.dropped, self.released = threading.Event(), threading.Semaphore(0), threading.Event()
        self.served: Served | None = None

    def __call__(self, n: int) -> Refusal | None:
        assert self.served
        self.num_drawn += (self.served.bodies[-1].get("seed") or 0) > 9
        if not self.is_stalled or self.num_drawn <= 2:
            return None
        self.stalled.set()
        self.released.wait()
        self.dropped.release()
        return Refusal(0)

    def release(self, num_under_way: int) -> None:
        """Close the connections of the requests under way, and answer those that come later."""
        self.released.set()
        for _ in range(num_under_way):
            assert self.dropped.acquire(timeout=60)
        self.is_stalled = False


@pytest.mark.slow
@pytest.mark.parametrize("signals", [[signal.SIGKILL], [signal.SIGTERM] * 2], ids=["killed", "stopped twice"])
def test_a_run_that_ends_while_the_server_hangs_pays_for_nothing_twice(
    signals: list[signal.Signals], tmp_path: Path
) -> None:
    """Within a batch of eight, two are answered and four are under way. The server hangs until the run has ended."""
    stall = Stall()
    with serving(Fake("lamb", fault=stall)) as served:
        stall.served = served
        words = [f"machine.server.url={served.url}", "machine.server.max_in_flight=4", "assessment.criteria=[quality]"]
        command = [sys.executable, "-c", "from isheep.cli import main; main()", "run", *SMALL, *words, "--out"]
        process = subprocess.Popen(
            [*command, str(tmp_path / "run")], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        assert process.stderr and stall.stalled.wait(600)
        messages = list[str]()
        for number in signals:
            process.send_signal(number)
            if number == signal.SIGTERM and not messages:
                messages = [next(line for line in process.stderr if line.startswith("interrupted: waiting"))]
        messages += process.communicate(timeout=600)[1].splitlines()
        stall.release(4)
        if signals == [signal.SIGKILL]:
            assert process.returncode == -signal.SIGKILL
        else:
            assert process.returncode == 130 and "4 calls under way" in messages[0]
            assert messages[-1] == (
                "isheep: interrupted; everything finished is saved: run the same command again to continue"
            )
        assert len(drawn_requests(served)) == 2
        run(*words, "--out", tmp_path / "run")
        assert {served.answered[request] for request in drawn_requests(served)} == {1}
        run(*words, "--out", tmp_path / "whole")
    assert hash_files(tmp_path / "run", ["recipe.yaml"]) == hash_files(tmp_path / "whole", ["recipe.yaml"])
    assert not list((tmp_path / "run").rglob("*.part"))


DIES = """
import os, signal, sys
from isheep.engines.openai_engine import OpenAIEngine
from isheep.cli import main
calls, real = 0, OpenAIEngine.generate_seeded
def generate(*arguments):
    global calls
    calls += 1
    if calls > int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments)
OpenAIEngine.generate_seeded = generate
main(sys.argv[2:])
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_and_asks_for_nothing_twice(tmp_path: Path) -> None:
    """Answers and ratings come in batches of four: a kill between two of them loses none that is complete."""
    with serving(Fake("lamb", fault=faults)) as served:
        words = [f"machine.server.url={served.url}", "machine.server.retry_wait=0.01", "assessment.criteria=[quality]"]
        run(*words, "--out", tmp_path / "whole")
        alone = served.answered.copy()
        served.answered.clear()
        for calls in (1, 1, 1):
            command = [sys.executable, "-c", DIES, str(calls), "run", *SMALL, *words, "--out", str(tmp_path / "run")]
            ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=600)
            assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
        run(*words, "--out", tmp_path / "run")
    # Probes are left out.
    drawn = {request for request in alone if json.loads(request)[1] is not None and json.loads(request)[1] > 9}
    assert {request: served.answered[request] for request in drawn} == {request: alone[request] for request in drawn}
    assert hash_files(tmp_path / "run", ["recipe.yaml"]) == hash_files(tmp_path / "whole", ["recipe.yaml"])


# --- transformers serve


@pytest.fixture(scope="module")
def served_by_transformers() -> Iterator[str]:
    for package in ("fastapi", "uvicorn", "openai"):
        if not importlib.util.find_spec(package):
            pytest.skip(f"transformers serve needs {package}: pip install 'transformers[serving]'")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [
        "serve",
        str(LAMB_CHECKPOINT),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--device",
        "cpu",
        "--dtype",
        "float32",
    ]
    code = "from transformers.cli.transformers import app; app()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words], env={**os.environ, "HF_HUB_OFFLINE": "1"},
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stderr
    try:
        assert any("running on" in line for line in process.stderr)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(60)


@pytest.mark.slow
def test_transformers_serve(served_by_transformers: str) -> None:
    prompts = questions(8)
    with closing(engine(served_by_transformers, model=str(LAMB_CHECKPOINT))) as there:
        assert not there.abilities.token_ids and not there.abilities.extras
        answers = there.generate(prompts, GREEDY, 0)
        for needs, message in (
            (ServerRequirements(True, [], False, False), "ignores the temperature"),
            (ServerRequirements(False, SCORES, False, False), "gives no log-probabilities"),
            (ServerRequirements(False, [], True, False), "does not echo"),
            (ServerRequirements(False, [], False, True), "can't load adapters"),
        ):
            with pytest.raises(UserError, match=message):
                check_requirements(there, needs)
    assert [answer.text for answer in answers] == [answer.text for answer in ours().generate(prompts, GREEDY, 0)]
