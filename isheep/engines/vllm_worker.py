"""A vLLM in a process of its own: the class `Worker`, which starts and calls it, and the code that the process runs.

The process is started as `python -m isheep.engines.vllm_worker FILE-DESCRIPTOR`. vLLM's engine core runs in it too, so
that errors are reported with their reason, the scheduling is deterministic, and all memory is freed when the process
ends. It ends as soon as the connection is closed, even during a request.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, NamedTuple

import psutil

# Seconds that the process has to end by itself, before it is killed.
END_TIMEOUT = 20
# Seconds in which a process with a request uses some CPU time, unless it hangs. A computation on a GPU polls.
HANG_TIMEOUT = 300.0
# Environment variables of the process. Those that the user has set take precedence.
ENVIRONMENT = {
    # The engine core runs in the same process.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    "VLLM_NO_USAGE_STATS": "1",
}


class VLLMOptions(NamedTuple):
    """The options of a vLLM. A process can be reused for an engine with equal options."""

    base: str
    """A checkpoint: a folder, or a name on the Hub."""
    pooling: bool
    """Whether it computes embeddings, and nothing else."""
    rank: int
    """The largest rank of the adapters that it serves; 0: it serves none."""
    modules: tuple[str, ...]
    """The modules that adapters may change; empty: any."""
    context: int
    """The length in tokens of the longest sequence."""
    batch_size: int
    """The largest number of sequences that are generated at the same time."""
    memory: float
    """The share of a GPU's memory that it may use."""
    cache: float | None
    """The memory for keys and values in GiB; None: what vLLM chooses."""
    tensor_parallel: int
    """The number of GPUs that share the weights."""
    dtype: str | None
    eager: bool
    """Whether it runs without CUDA graphs."""
    sleep: bool
    """Whether it can sleep: move its weights to main memory until it is used again."""


class AdapterRequest(NamedTuple):
    """An adapter as vLLM gets it. Adapters need different numbers, or vLLM would use the cached data of another one."""

    name: str
    number: int
    path: str


class WorkerError(Exception):
    """An error of vLLM: its reason in one line, and the path of the log with the details."""

    def __init__(self, reason: str, log: Path) -> None:
        super().__init__(reason)
        self.reason, self.log = reason, log


class Worker:
    """A process with a vLLM. The constructor starts both, which takes about a minute, or raises WorkerError."""

    def __init__(self, options: VLLMOptions, environment: Mapping[str, str]) -> None:
        self.connection, child_end = Pipe()
        # vLLM does not delete its temporary files, so they go into a folder that is deleted with the process.
        self.folder = tempfile.TemporaryDirectory(prefix="isheep-vllm-")
        self.log = Path(self.folder.name) / "log"
        with self.log.open("w") as log, child_end:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "isheep.engines.vllm_worker", str(child_end.fileno())],
                pass_fds=[child_end.fileno()], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={**ENVIRONMENT, **os.environ, **environment, "TMPDIR": self.folder.name}, start_new_session=True,
            )  # fmt: skip
        self.call("open", options)

    def call(self, action: str, *arguments: Any) -> Any:
        """Return the result of one of ACTIONS in the process. If it fails, or on Ctrl-C, the process is ended.

        Raises WorkerError if the action fails, or if the process ends or hangs.
        """
        try:
            self.connection.send((action, arguments))
            cpu_seconds = self._cpu_seconds()
            while not self.connection.poll(HANG_TIMEOUT):
                cpu_seconds, earlier_seconds = self._cpu_seconds(), cpu_seconds
                if cpu_seconds == earlier_seconds:
                    log = self._copy_log()
                    self.kill()
                    reason = f"the process hung: it used no CPU time for {HANG_TIMEOUT:g} s: {last_line(log)}"
                    raise WorkerError(reason, log)
            succeeded, result = self.connection.recv()
        except (EOFError, OSError):
            log = self._copy_log()
            self.end()
            status = self.process.returncode
            raise WorkerError(f"the process ended with status {status}: {last_line(log)}", log) from None
        except BaseException:
            self.end()
            raise
        if not succeeded:
            log = self._copy_log()
            self.end()
            raise WorkerError(result, log)
        return result

    def end(self) -> None:
        """End the process, so that all of its memory is freed."""
        self.connection.close()
        try:
            self.process.wait(END_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.kill()
        self.folder.cleanup()

    def kill(self) -> None:
        """Kill the process and everything that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _cpu_seconds(self) -> float:
        """Return the CPU time that the process and those that it started have used so far."""
        total = 0.0
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(self.process.pid)
            for member in (process, *process.children(recursive=True)):
                times = member.cpu_times()
                total += times.user + times.system
        return total

    def _copy_log(self) -> Path:
        """Copy the log to a file that is not deleted with the process's folder."""
        descriptor, name = tempfile.mkstemp(".log", "isheep-vllm-")
        with os.fdopen(descriptor, "wb") as copy:
            copy.write(self.log.read_bytes())
        return Path(name)


def last_line(log: Path) -> str:
    """Return a log's last line that is not empty."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line), "the log is empty")[:300]


# --- the code of the process


def main() -> None:
    """Execute the requests that arrive on the connection. The first one is "open" and starts vLLM."""
    connection, requests = Connection(int(sys.argv[1])), SimpleQueue[Any]()
    Thread(target=_receive, args=(connection, requests), daemon=True).start()
    action, arguments = requests.get()
    assert action == "open"
    llm = _execute(connection, lambda: _open(*arguments), send_result=False)
    while True:
        action, arguments = requests.get()
        _execute(connection, partial(ACTIONS[action], llm, *arguments))


def _receive(connection: Connection, requests: "SimpleQueue[Any]") -> None:
    """Receive requests until the connection is closed, then kill this process and everything that it started."""
    try:
        while True:
            requests.put(connection.recv())
    except Exception as error:
        print(f"the connection ended: {error!r}", file=sys.stderr, flush=True)
        os.killpg(0, signal.SIGKILL)


def _execute(connection: Connection, work: Callable[[], Any], send_result: bool = True) -> Any:
    """Call `work` and send (True, its result), or (False, the reason why it failed)."""
    try:
        result = work()
    except Exception as error:
        traceback.print_exc()
        sys.stderr.flush()
        connection.send((False, error_reason(error)))
        return None
    connection.send((True, result if send_result else None))
    return result


def error_reason(error: BaseException) -> str:
    """Return an error in one line: its type, and the first line of its message that has content."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # pydantic's messages begin with the name of the class.
    headings = ("VllmConfig", "ModelConfig", "EngineArgs")
    message = next((line for line in lines if not line.endswith(headings)), "")
    return f"{type(error).__name__}: {message}"[:400]


def _open(options: VLLMOptions) -> Any:
    """Return a vLLM with these options."""
    import vllm
    from vllm.config import PoolerConfig
    from vllm.platforms import current_platform

    is_cpu = current_platform.is_cpu()
    mode: dict[str, Any] = {"enable_prefix_caching": True, "generation_config": "vllm"}
    if options.pooling:
        pooler = PoolerConfig(pooling_type="MEAN", use_activation=False)
        mode = {"runner": "pooling", "convert": "embed", "pooler_config": pooler}
    if options.rank:
        # Naming modules keeps vLLM from adding a LoRA layer to the language model head where the adapter has none: on
        # the CPU (0.32) such a head can't give the log-probabilities of a prompt.
        modules = list(options.modules) or None
        mode |= {"enable_lora": True, "max_lora_rank": options.rank, "max_loras": 1, "lora_target_modules": modules}
    cache = options.cache or (2 if is_cpu else None)
    return vllm.LLM(
        options.base,
        # A checkpoint in the format of pickle could execute code.
        load_format="safetensors",
        dtype=options.dtype or ("float32" if is_cpu else "bfloat16"),
        max_model_len=options.context,
        max_num_seqs=options.batch_size,
        gpu_memory_utilization=options.memory,
        kv_cache_memory_bytes=int(cache * 2**30) if cache else None,
        tensor_parallel_size=options.tensor_parallel,
        enforce_eager=options.eager or is_cpu,
        enable_sleep_mode=options.sleep,
        **mode,
    )


def _run(
    llm: Any, rows: Sequence[list[int]], parameters: Sequence[dict[str, Any]], lora: AdapterRequest | None
) -> list[Any]:
    """Return vLLM's result for each row of token ids.

    Empties the prefix cache first, so that no call depends on earlier calls.
    """
    from vllm import SamplingParams

    llm.reset_prefix_cache()
    sampling = [SamplingParams(**values) for values in parameters]
    results: list[Any] = llm.generate(_inputs(rows), sampling, lora_request=_lora_request(lora), use_tqdm=False)
    return results


def _inputs(rows: Sequence[list[int]]) -> list[Any]:
    return [{"prompt_token_ids": row} for row in rows]


def _lora_request(lora: AdapterRequest | None) -> Any:
    from vllm.lora.request import LoRARequest

    return LoRARequest(lora.name, lora.number, lora.path) if lora else None


def _generate(llm: Any, *arguments: Any) -> list[tuple[list[int], str]]:
    """Return the generated tokens of each row, and the reason why they end."""
    outputs = [result.outputs[0] for result in _run(llm, *arguments)]
    return [(list(output.token_ids), output.finish_reason) for output in outputs]


def _first_logprobs(llm: Any, *arguments: Any) -> list[dict[int, float]]:
    """Return for each row the log-probabilities of the requested next tokens."""
    first = [result.outputs[0].logprobs[0] for result in _run(llm, *arguments)]
    return [{token: entry.logprob for token, entry in logprobs.items()} for logprobs in first]


def _prompt_logprobs(llm: Any, rows: Sequence[list[int]], *arguments: Any) -> list[list[float]]:
    """Return the log-probability of each token of a row except the first."""
    results = _run(llm, rows, *arguments)
    return [
        [entries[token].logprob for token, entries in zip(row[1:], result.prompt_logprobs[1:], strict=True)]
        for row, result in zip(rows, results, strict=True)
    ]


def _embed(llm: Any, rows: Sequence[list[int]], lora: AdapterRequest | None) -> list[list[float]]:
    """Return the mean of each row's last hidden states."""
    results = llm.embed(_inputs(rows), lora_request=_lora_request(lora), use_tqdm=False)
    return [result.outputs.embedding for result in results]


def _sleep(llm: Any) -> None:
    """Move the weights to main memory and discard the keys and values."""
    llm.sleep(level=1)


def _wake(llm: Any) -> None:
    """Move the weights back to the GPU."""
    llm.wake_up()


# The actions that `Worker.call` can request, beside "open".
ACTIONS: dict[str, Callable[..., Any]] = {
    "generate": _generate,
    "first_logprobs": _first_logprobs,
    "prompt_logprobs": _prompt_logprobs,
    "embed": _embed,
    "sleep": _sleep,
    "wake": _wake,
}

if __name__ == "__main__":
    main()
