"""Compare isheep's engine with distilabel 1.5's TransformersLLM: same prompts, greedy, texts compared.

    python3.11 -m venv venv-distilabel
    venv-distilabel/bin/pip install "distilabel==1.5.*" requests transformers==5.23.0 torch==2.13.0
    OMP_NUM_THREADS=1 python -m benchmarks.pipelines --python venv-distilabel/bin/python

distilabel needs an environment of its own (a CPU machine needs no CUDA build of torch there). Its TransformersLLM calls
transformers' text-generation pipeline, which reads one prompt at a time. Both sides load the checkpoint in float32 and
write two answers before they are timed. Seconds are CPU seconds of the process of each side.
"""

import argparse
import json
import subprocess
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.common import best_time, make_parser, run_script
from benchmarks.engine import RANDOM, make_prompts, make_random_model
from isheep.engines.transformers import open_engine
from isheep.errors import UserError
from isheep.models.checkpoint import find_checkpoint, load_tokenizer
from isheep.records import Model, Sampling

WORKER = Path(__file__).with_name("distilabel_worker.py")


def check_python(python: str | None) -> None:
    """Raise UserError if `python` is not the Python of an environment that has distilabel."""
    way_out = "give the Python of an environment that has distilabel (see --help)"
    if python is None:
        raise UserError(f"--python is missing: {way_out}")
    try:
        process = subprocess.run([python, "-c", "import distilabel"], capture_output=True)
    except OSError as error:
        raise UserError(f"--python {python}: {error.strerror}; {way_out}") from error
    if process.returncode:
        raise UserError(f"--python {python} can't import distilabel: {way_out}")


def run_distilabel(python: str, job: dict[str, Any]) -> tuple[float, list[str]]:
    """Return the seconds and the texts of distilabel, which runs under another Python."""
    with tempfile.TemporaryDirectory() as folder:
        job_file, result_file = Path(folder) / "job.json", Path(folder) / "result.json"
        job_file.write_text(json.dumps(job), encoding="utf-8")
        subprocess.run([python, str(WORKER), str(job_file), str(result_file)], check=True)
        result = json.loads(result_file.read_text(encoding="utf-8"))
    return result["seconds"], result["texts"]


def compare(name: str, count: int, folder: Path, args: argparse.Namespace) -> None:
    """Print a model's row of the table."""
    path = str(make_random_model(folder)) if name == RANDOM else find_checkpoint(name)
    prompts = make_prompts(load_tokenizer(path), args.prefix, count)
    job = {"model": path, "texts": prompts, "length": args.length, "threads": args.threads}
    distilabel_seconds, distilabel_texts = run_distilabel(args.python, job)
    engine = open_engine(Model(path), threads=args.threads, dtype="float32", device="cpu")
    sampling = Sampling(temperature=0, max_tokens=args.length)
    engine.generate(prompts[:2], sampling, 0)
    seconds, completions = best_time(partial(engine.generate, prompts, sampling, 0))
    num_equal = sum(row.text == text for row, text in zip(completions, distilabel_texts, strict=True))
    mean = sum(row.tokens for row in completions) / count
    ratio = distilabel_seconds / seconds
    figures = f"{mean:.1f} | {distilabel_seconds:.1f} | {seconds:.2f} | {ratio:.1f} | {num_equal}/{count}"
    size = engine.loaded.model.num_parameters() / 1e6
    print(f"| {name}, {size:.0f}M | {count} | {args.prefix} | {figures} |", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table of both sides."""
    parser = make_parser(__doc__)
    parser.add_argument("--python", help="Name the Python of an environment that has distilabel.")
    parser.add_argument("--model", nargs="+", default=["lamb", RANDOM], help=f"Name checkpoints, or {RANDOM!r}.")
    parser.add_argument("--count", type=int, nargs="+", default=[128, 48], help="Set each model's number of prompts.")
    parser.add_argument("--prefix", type=int, default=300, help="Set the number of shared tokens.")
    parser.add_argument("--length", type=int, default=64, help="Set the largest number of new tokens.")
    parser.add_argument("--threads", type=int, default=1, help="Set the number of threads.")
    args = parser.parse_args(arguments)
    if len(args.model) != len(args.count):
        raise UserError(f"--count has {len(args.count)} numbers for {len(args.model)} models: give one for each")
    check_python(args.python)
    print("| model | prompts | shared tokens | tokens per answer | distilabel, s | isheep, s | ratio | equal texts |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        for name, count in zip(args.model, args.count, strict=True):
            compare(name, count, Path(folder), args)


if __name__ == "__main__":
    run_script(main)
