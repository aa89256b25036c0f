"""A vLLM whose process hangs, is killed or runs out of memory ends the run with one line, and nothing made is lost.

vLLM itself is replaced by a module that does this: its tests with the real one are in test_vllm.py.
"""

from pathlib import Path

import pytest

from isheep.engines import vllm_worker
from tests.helpers.command import isheep, refused

STAND_IN = """
import os, signal

class LLM:
    def __init__(self, *arguments, **options):
        pass
    def reset_prefix_cache(self):
        pass
    def generate(self, *arguments, **options):
        {fault}

class SamplingParams:
    def __init__(self, **values):
        pass
"""
FILES = {
    "config.py": "class PoolerConfig: pass",
    "platforms.py": "class current_platform:\n    is_cpu = staticmethod(lambda: True)",
    "lora/__init__.py": "",
    "lora/request.py": "class LoRARequest: pass",
}


def install_stand_in(folder: Path, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write a module vllm whose `generate` executes the fault, and let this process and its children import it."""
    files = {"__init__.py": STAND_IN.format(fault=fault), **FILES}
    for name, content in files.items():
        path = folder / "vllm" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=":")


@pytest.mark.parametrize(
    ("fault", "reason", "way_out"),
    [
        (
            "os.kill(os.getpid(), signal.SIGSTOP)",
            "the process hung: it used no CPU time for 1 s",
            "completed batches are saved: run the same command to continue",
        ),
        pytest.param(
            "os.kill(os.getpid(), signal.SIGKILL)",
            "the process ended with status -9",
            "run the same command to continue, with a lower machine.engine_batch_size or machine.vllm.cache",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "raise MemoryError('CUDA out of memory. Tried to allocate 2.00 GiB')",
            "MemoryError: CUDA out of memory. Tried to allocate 2.00 GiB",
            "lower machine.vllm.context, or give it more (machine.vllm.memory, cache)",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_process_that_fails_is_one_line(
    fault: str, reason: str, way_out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_stand_in(tmp_path / "modules", fault, monkeypatch)
    monkeypatch.setattr(vllm_worker, "HANG_TIMEOUT", 1.0)
    sizes = ("synthesis.tasks=8", "iterations=1", "filters=[{kind: score, at_least: 2}]")
    words = ("run", "lamb", *sizes, "evaluation=[]", "machine.report=false")
    message = refused(*words, "machine.engine=vllm", "--out", tmp_path / "run")
    assert reason in message and way_out in message
    log = Path(message.rpartition("its log is ")[2].strip())
    assert log.is_file()
    log.unlink()
    # The run can be continued, here with another engine.
    done = isheep(*words, "machine.engine=transformers", "machine.threads=1", "--out", tmp_path / "run")
    assert done.code == 0, done.err
