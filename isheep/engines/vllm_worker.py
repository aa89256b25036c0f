"""A vLLM in a process of its own: this side of it (`Worker`), and what runs there (python -m ... FILE-DESCRIPTOR).

vLLM's engine core is in that process too: its errors come back with their reason, its scheduling is the same each
time, and all memory is given back when the process ends. It ends with the connection, whatever it is doing.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, NamedTuple

PATIENCE = 20  # seconds that the process has to end by itself
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine core in our process
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    "VLLM_NO_USAGE_STATS": "1",
}


class Opening(NamedTuple):
    """What a vLLM is opened with. Two of the same are one and the same to whoever asks them."""

    base: str  # a checkpoint
    pooling: bool  # for embeddings, or for everything else
    rank: int  # the largest LoRA's that it serves, 0: none
    modules: tuple[str, ...]  # that LoRAs change; none: any
    context: int
    batch: int  # prompts at once
    memory: float  # share of a GPU's
    cache: float | None  # GiB of keys and values
    tensor_parallel: int
    eager: bool
    sleep: bool


class AdapterRequest(NamedTuple):
    """An adapter as vLLM knows it. `number` is its own: what is cached of another one is not taken for it."""

    name: str
    number: int
    path: str


class Failed(Exception):
    """vLLM could not do something: its reason in one line, and where it is told at length."""

    def __init__(self, reason: str, log: Path) -> None:
        super().__init__(reason)
        self.reason, self.log = reason, log


class Worker:
    """The process. Starts at once and opens its vLLM, which takes about a minute; raises Failed where it can't."""

    def __init__(self, opening: Opening, environment: Mapping[str, str]) -> None:
        self.line, theirs = Pipe()
        self.folder = tempfile.TemporaryDirectory(prefix="isheep-vllm-")  # vLLM leaves files behind
        self.log = Path(self.folder.name) / "log"
        with self.log.open("w") as log, theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "isheep.engines.vllm_worker", str(theirs.fileno())],
                pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={**ENVIRONMENT, **os.environ, **environment, "TMPDIR": self.folder.name}, start_new_session=True,
            )  # fmt: skip
        self.ask("open", opening)

    def ask(self, what: str, *given: Any) -> Any:
        """One of ACTIONS, done there. The process is gone where it fails, or where we are interrupted."""
        try:
            self.line.send((what, given))
            done, said = self.line.recv()
        except (EOFError, OSError):
            log = self._kept()
            self.end()
            raise Failed(f"its process ended with status {self.process.returncode}: {last(log)}", log) from None
        except BaseException:
            self.end()
            raise
        if not done:
            log = self._kept()
            self.end()
            raise Failed(said, log)
        return said

    def end(self) -> None:
        """All that it holds is given back."""
        self.line.close()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.folder.cleanup()

    def _kept(self) -> Path:
        """The log, where it stays."""
        descriptor, name = tempfile.mkstemp(".log", "isheep-vllm-")
        with os.fdopen(descriptor, "wb") as kept:
            kept.write(self.log.read_bytes())
        return Path(name)


def last(log: Path) -> str:
    """A log's last line that says something."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line), "nothing was said")[:300]


# --- in the process


def main() -> None:
    line, asked = Connection(int(sys.argv[1])), SimpleQueue[Any]()
    Thread(target=_listen, args=(line, asked), daemon=True).start()
    what, given = asked.get()
    assert what == "open"
    llm = _tell(line, lambda: _open(*given), quiet=True)
    while True:
        what, given = asked.get()
        _tell(line, lambda what=what, given=given: ACTIONS[what](llm, *given))  # type: ignore[misc]


def _listen(line: Connection, asked: "SimpleQueue[Any]") -> None:
    """Take requests until the connection ends, and then this process with all that it started."""
    try:
        while True:
            asked.put(line.recv())
    except Exception as error:
        print(f"the connection ended: {error!r}", file=sys.stderr, flush=True)
        os.killpg(0, signal.SIGKILL)


def _tell(line: Connection, work: Callable[[], Any], quiet: bool = False) -> Any:
    """Do something and send the result (`quiet`: that it is done), or the reason why it failed."""
    try:
        result = work()
    except Exception as error:
        traceback.print_exc()
        sys.stderr.flush()
        line.send((False, reason(error)))
        return None
    line.send((True, None if quiet else result))
    return result


def reason(error: BaseException) -> str:
    """In one line: the first of the message that says something."""
    lines = [part.strip() for part in str(error).splitlines() if part.strip()]
    said = next((part for part in lines if not part.endswith(("VllmConfig", "ModelConfig", "EngineArgs"))), "")
    return f"{type(error).__name__}: {said}"[:400]


def _open(opening: Opening) -> Any:
    import vllm
    from vllm.config import PoolerConfig
    from vllm.platforms import current_platform

    cpu = current_platform.is_cpu()
    kind: dict[str, Any] = {"enable_prefix_caching": True, "generation_config": "vllm"}
    if opening.pooling:
        pooler = PoolerConfig(pooling_type="MEAN", use_activation=False)
        kind = {"runner": "pooling", "convert": "embed", "pooler_config": pooler}
    if opening.rank:
        # Where the head is not among the modules it stays as it is: vLLM's LoRA head on the CPU (0.32) can't give the
        # log-probabilities of a prompt.
        modules = list(opening.modules) or None
        kind |= {"enable_lora": True, "max_lora_rank": opening.rank, "max_loras": 1, "lora_target_modules": modules}
    cache = opening.cache or (2 if cpu else None)
    return vllm.LLM(
        opening.base,
        load_format="safetensors",  # never a pickle
        dtype="float32" if cpu else "bfloat16",
        max_model_len=opening.context,
        max_num_seqs=opening.batch,
        gpu_memory_utilization=opening.memory,
        kv_cache_memory_bytes=int(cache * 2**30) if cache else None,
        tensor_parallel_size=opening.tensor_parallel,
        enforce_eager=opening.eager or cpu,
        enable_sleep_mode=opening.sleep,
        **kind,
    )


def _run(llm: Any, rows: Sequence[list[int]], each: Sequence[dict[str, Any]], lora: AdapterRequest | None) -> list[Any]:
    """One result per row of token ids. The cache of prefixes is emptied: a call hangs on nothing before it."""
    from vllm import SamplingParams

    llm.reset_prefix_cache()
    params = [SamplingParams(**one) for one in each]
    done: list[Any] = llm.generate(_prompts(rows), params, lora_request=_lora(lora), use_tqdm=False)
    return done


def _prompts(rows: Sequence[list[int]]) -> list[Any]:
    return [{"prompt_token_ids": row} for row in rows]


def _lora(lora: AdapterRequest | None) -> Any:
    from vllm.lora.request import LoRARequest

    return LoRARequest(lora.name, lora.number, lora.path) if lora else None


def _generate(llm: Any, *given: Any) -> list[tuple[list[int], str]]:
    """The tokens that were written and why they end."""
    done = [one.outputs[0] for one in _run(llm, *given)]
    return [(list(one.token_ids), one.finish_reason) for one in done]


def _first(llm: Any, *given: Any) -> list[dict[int, float]]:
    """The log-probabilities of the first tokens that were asked for."""
    done = [one.outputs[0].logprobs[0] for one in _run(llm, *given)]
    return [{token: known.logprob for token, known in one.items()} for one in done]


def _echo(llm: Any, rows: Sequence[list[int]], *given: Any) -> list[list[float]]:
    """The log-probability of each token of a row but its first one."""
    done = _run(llm, rows, *given)
    return [
        [known[token].logprob for token, known in zip(row[1:], one.prompt_logprobs[1:], strict=True)]
        for row, one in zip(rows, done, strict=True)
    ]


def _embed(llm: Any, rows: Sequence[list[int]], lora: AdapterRequest | None) -> list[list[float]]:
    done = llm.embed(_prompts(rows), lora_request=_lora(lora), use_tqdm=False)
    return [one.outputs.embedding for one in done]


def _sleep(llm: Any) -> None:
    llm.sleep(level=1)  # weights to main memory, keys and values forgotten


def _wake(llm: Any) -> None:
    llm.wake_up()


ACTIONS: dict[str, Callable[..., Any]] = {
    "generate": _generate, "first": _first, "echo": _echo, "embed": _embed, "sleep": _sleep, "wake": _wake,
}  # fmt: skip

if __name__ == "__main__":
    main()
