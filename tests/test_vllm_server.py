"""vLLM's own server under the openai engine, on the CPU. `make test-vllm` runs it.

It skips in the environment of the other tests: vLLM wants a transformers of its own.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

pytest.importorskip("vllm", reason="vLLM has an environment of its own: make test-vllm")

from isheep.engines import openai, openai_engine, server  # noqa: E402
from isheep.engines.openai_check import check_requirements  # noqa: E402
from isheep.lamb import CHECKPOINT as LAMB_CHECKPOINT  # noqa: E402
from isheep.models.chat_template import load_chat_template  # noqa: E402
from isheep.recipe.machine import ServerSettings  # noqa: E402
from isheep.records import Model  # noqa: E402
from tests.helpers.hashes import hash_files  # noqa: E402
from tests.helpers.openai_runs import DRAWN, GREEDY, SCORES, local_engine, questions  # noqa: E402
from tests.helpers.vllm_runs import near, random_adapter, run  # noqa: E402

pytestmark = [pytest.mark.numeric, pytest.mark.usefixtures("offline")]

MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """vLLM's server on lamb, as docs/engines.md starts it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model",
        str(LAMB_CHECKPOINT),
        "--served-model-name",
        "lamb",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    words += ["--enable-lora", "--max-lora-rank", "8", "--generation-config", "vllm", "--enable-prefix-caching"]
    words += ["--dtype", "float32", "--enforce-eager", "--lora-target-modules", *MODULES]
    log = (tmp_path_factory.mktemp("served") / "log").open("w+")
    environment = {
        **os.environ, "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "true", "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, *words], env=environment, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout
    drain = None
    try:
        for line in process.stdout:
            log.write(line)
            if "startup complete" in line:
                break
        else:
            log.seek(0)
            pytest.fail(log.read()[-3000:])
        drain = subprocess.Popen(["cat"], stdin=process.stdout, stdout=log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)
        if drain:
            drain.wait(60)


def asking(url: str, adapter: Path | None = None) -> openai_engine.OpenAIEngine:
    return openai.open_engine(
        Model("lamb", adapter), ServerSettings(url=url), lambda: load_chat_template("tokenizer", "lamb")
    )


def test_its_server_does_what_the_openai_engine_asks(served: str, tmp_path: Path) -> None:
    prompts, outputs = questions(20), [" The sun.", "", "red, green, blue", " 12"] * 5
    stopping = GREEDY.model_copy(update={"stop": ("<|im_end|>", "is")})
    with closing(asking(served)) as there:
        assert there.abilities.token_ids and there.abilities.extras and there.context == 1024
        assert check_requirements(there, server.ServerRequirements(True, SCORES, True, True)) == []
        for sampling in (GREEDY, stopping):
            results, wanted = there.generate(prompts, sampling, 0), local_engine().generate(prompts, sampling, 0)
            assert sum(result == expected for result, expected in zip(results, wanted, strict=True)) >= 19
        assert there.generate(prompts, DRAWN, 1) == there.generate(prompts, DRAWN, 1)
        assert len({result.text for result in there.generate([prompts[1]] * 6, DRAWN, 1)}) > 1
        scored, expected_scores = there.logprobs(prompts, outputs), local_engine().logprobs(prompts, outputs)
        assert near([result.logprobs for result in scored], [result.logprobs for result in expected_scores], abs=1e-3)
        shares, exact = there.choices(prompts, SCORES), local_engine().choices(prompts, SCORES)
        for result, expected in zip(sum(shares, []), sum(exact, []), strict=True):
            # A share of 0 is not among the 20 most probable tokens.
            assert result == pytest.approx(expected, rel=1e-2, abs=1e-6) or result == 0 and expected < 0.05
    adapter = random_adapter("lamb", tmp_path / "adapter")
    with closing(asking(served, adapter)) as there:
        scored, expected_scores = (
            there.logprobs(prompts, outputs),
            local_engine("lamb", adapter).logprobs(prompts, outputs),
        )
        assert near([result.logprobs for result in scored], [result.logprobs for result in expected_scores], abs=1e-3)


def test_two_iterations_on_its_server(served: str, tmp_path: Path) -> None:
    words = ["machine.engine=openai", f"machine.server.url={served}", "--out", tmp_path / "run"]
    run(*words)
    events = [json.loads(line) for line in (tmp_path / "run/run.jsonl").read_text().splitlines()]
    assert events and (tmp_path / "run/iter-2/adapter/adapter_model.safetensors").is_file()
    whole = hash_files(tmp_path / "run", ["recipe.yaml"])
    run(*words)
    assert hash_files(tmp_path / "run", ["recipe.yaml"]) == whole
    with closing(asking(served)) as there:
        assert [model["id"] for model in server.list_models(there.connection)] == [
            "lamb"
        ]  # adapters are taken out again
