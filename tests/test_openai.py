"""The openai engine at real servers on loopback: llama.cpp's, transformers serve, and one of our own like vLLM's."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from isheep.benchmarks import benchmarks_need_logprobs, load_benchmark
from isheep.cli import main
from isheep.engines.openai_check import check_requirements
from isheep.engines.server import ServerRequirements, requirements
from isheep.engines.tokens import exclusive_probabilities
from isheep.errors import TooLong, UserError
from isheep.lamb import CHECKPOINT as LAMB_CHECKPOINT
from isheep.models.chat_template import load_chat_template
from isheep.models.gguf_file import write_gguf
from isheep.recipe.schema import Recipe
from isheep.rundir.events import read_events
from tests.helpers.backends import add_benchmark
from tests.helpers.command import refused
from tests.helpers.openai_runs import (
    ALL,
    DRAWN,
    GREEDY,
    KEY,
    SCORES,
    SMALL,
    local_engine,
    questions,
    run,
    served_engine,
)
from tests.helpers.openai_server import Fake, Refusal, Served, llama_cpp, serving

pytestmark = [pytest.mark.numeric, pytest.mark.usefixtures("no_server")]


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
    with closing(served_engine(llama)) as there:
        assert there.abilities.token_ids and there.abilities.extras and there.context == 1024
        answers = there.generate(prompts, GREEDY, 0)
    wanted = local_engine().generate(prompts, GREEDY, 0)
    assert sum(answer == expected for answer, expected in zip(answers, wanted, strict=True)) >= 38


def test_llama_cpp_draws_by_the_request_s_own_seed(llama: str) -> None:
    prompts = [questions(2)[1]] * 6
    with closing(served_engine(llama)) as there:
        first = there.generate(prompts, DRAWN, 1)
        assert len({answer.text for answer in first}) > 1
        assert there.generate(prompts[:3], DRAWN, 1) == first[:3]
        assert there.generate(prompts, DRAWN, 2) != first


def test_llama_cpp_gives_the_probabilities_of_scores(llama: str) -> None:
    prompts, options = questions(4), [" The", " Paris", " 1", " 10"]
    with closing(served_engine(llama)) as there:
        answers = there.choices(prompts, options)
    for answer, expected in zip(sum(answers, []), sum(local_engine().choices(prompts, options), []), strict=True):
        # A share of 0 is not among the 20 most probable tokens.
        assert answer == pytest.approx(expected, rel=1e-2) or (answer == 0 and expected < 0.05)


def test_what_llama_cpp_can_not_do_is_said(llama: str) -> None:
    with closing(served_engine(llama)) as there:
        assert check_requirements(there, ServerRequirements(True, SCORES, False, False)) == []
        with pytest.raises(UserError, match="does not echo"):
            check_requirements(there, ServerRequirements(False, [], True, False))
        with pytest.raises(UserError, match=r"can't load adapters.*--enable-lora.*adapters: transformers"):
            check_requirements(there, ServerRequirements(False, [], False, True))
        with pytest.raises(UserError, match="hidden states"):
            there.embed(["a"])


SLOW_READS = [pytest.param(read, marks=pytest.mark.slow) for read in ("expected", "constrained")]


@pytest.mark.parametrize("read", ["generate", *SLOW_READS])
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
    with closing(served_engine(own.url)) as there:
        assert check_requirements(there, ALL) == []
    assert own.headers >= {f"Bearer {KEY}"}
    assert {"temperature", "max_tokens"} <= own.bodies[0].keys() and KEY not in json.dumps(own.bodies)


def test_echoed_logprobs_are_those_of_our_engine(own: Served) -> None:
    prompts, outputs = [*questions(3), ""], [" The answer is 7.", " Paris", "", "Name it.\nIt is red."]
    with closing(served_engine(own.url)) as there:
        answers = there.logprobs(prompts, outputs)
    for answer, expected in zip(answers, local_engine().logprobs(prompts, outputs), strict=True):
        assert answer.tokens == expected.tokens and answer.logprobs == pytest.approx(expected.logprobs, abs=1e-4)


@pytest.mark.parametrize("api", ["completions", "chat"])
def test_both_shapes_of_logprobs_give_the_same_shares(own: Served, api: str) -> None:
    prompts = [prompt for prompt in questions(6) if prompt.startswith("<|im_start|>")]
    options = ["The ", "What ", "7"]
    with closing(served_engine(own.url, api=api)) as there:
        answers = there.choices(prompts, options)
        assert [answer.text for answer in there.generate(prompts, GREEDY, 0)] == [
            answer.text for answer in local_engine().generate(prompts, GREEDY, 0)
        ]
    shares, expected_shares = sum(answers, []), sum(local_engine().choices(prompts, options), [])
    assert [share for share in shares if share] == [
        pytest.approx(expected, rel=1e-3) for share, expected in zip(shares, expected_shares, strict=True) if share
    ]
    assert sum(share > 0 for share in shares) >= len(prompts)


def test_options_of_several_tokens(qwen2: Path) -> None:
    prompts, options = ["What is 12 plus 30? ", "List three: "], [str(score) for score in range(1, 11)]
    with serving(Fake(str(qwen2))) as served, closing(served_engine(served.url, str(qwen2))) as there:
        assert len(there.token_ids("10")) == 2
        answers = there.choices(prompts, options)
    expected_shares = local_engine(str(qwen2)).choices(prompts, options)
    for answer, expected in zip(sum(answers, []), sum(expected_shares, []), strict=True):
        assert answer == pytest.approx(expected, abs=2e-3) or answer == 0


def test_options_exclude_each_other() -> None:
    assert exclusive_probabilities([(1,), (1, 0), (2,)], [0.5, 0.2, 0.1]) == [pytest.approx(0.3), 0.2, 0.1]


def test_the_beginning_of_sequence_is_there_once(llama_checkpoint: Path) -> None:
    base = str(llama_checkpoint)
    prompts = ["<|begin_of_text|>Name the capital", "Name the capital"]
    with serving(Fake(base)) as served, closing(served_engine(served.url, base)) as there:
        there.generate(prompts, GREEDY, 0)
        assert served.bodies[-1]["prompt"] == served.bodies[-2]["prompt"] == there.prompt_ids(prompts)[0]
    with serving(Fake(base, strict=True)) as served, closing(served_engine(served.url, base)) as there:
        there.generate(prompts, GREEDY, 0)
        assert {body["prompt"] for body in served.bodies[-2:]} == {"Name the capital"}


@pytest.fixture
def llama_checkpoint(request: pytest.FixtureRequest) -> Path:
    """The tiny checkpoint with a beginning of sequence (tests/conftest.py's `llama`; here that is a server)."""
    from tests.helpers.checkpoints import make_checkpoint

    return make_checkpoint(request.getfixturevalue("tmp_path") / "llama", "Llama")


def test_a_prompt_that_leaves_no_room(own: Served) -> None:
    with closing(served_engine(own.url, context=40)) as there:
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
    with closing(served_engine(own.url, adapter=tmp_path, model="base")) as there:
        answers = there.generate(prompts, GREEDY, 0)
        assert own.bodies[-1]["model"].startswith("isheep-")
    assert (
        answers
        == local_engine(adapter=tmp_path).generate(prompts, GREEDY, 0)
        != local_engine().generate(prompts, GREEDY, 0)
    )
    assert own.unloaded and list(own.loaded) == ["base"]


@pytest.mark.slow
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
        with closing(served_engine(served.url)) as there, pytest.raises(UserError, match=message) as error:
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
    with serving(Fake("lamb", seeded=False)) as served, closing(served_engine(served.url)) as there:
        (note,) = check_requirements(there, ServerRequirements(True, [], False, False))
        assert "ignores seeds" in note


def test_no_server_a_wrong_name_a_dead_one(own: Served) -> None:
    for there, message in (
        (served_engine(None), "set machine.server.url or OPENAI_BASE_URL"),  # type: ignore[arg-type]
        (served_engine(own.url, model="nobody"), "no such model.*machine.server.model"),
        (served_engine("http://127.0.0.1:9/v1"), "no connection"),
        (served_engine("ftp://x/v1"), "machine.server.url 'ftp://x/v1' is not a web address"),
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
            served_engine(served.url).generate(["a"], GREEDY, 0)
        # A server without a list serves the model that is named.
        assert served_engine(served.url, model="base").generate(["a"], GREEDY, 0)


@pytest.mark.slow
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
    (
        ["machine.server.api=chat", "synthesis.chat=true", "assessment=null", "filters=[]", "response.turns=2"],
        "response.turns: machine.server.api: chat sends one user's turn",
    ),
]


@pytest.mark.parametrize(("setting", "message"), REFUSED)
def test_what_no_server_can_do_is_refused_with_its_line(
    setting: str | list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [setting] if isinstance(setting, str) else setting
    with pytest.raises(SystemExit):
        main(["run", *SMALL, *settings, "--out", str(tmp_path / "run")])
    printed = capsys.readouterr().err
    assert message in printed and not (tmp_path / "run").exists()


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
    with closing(served_engine(served_by_transformers, model=str(LAMB_CHECKPOINT))) as there:
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
    expected = local_engine().generate(prompts, GREEDY, 0)
    assert [answer.text for answer in answers] == [answer.text for answer in expected]
