"""Our engine against distilabel 1.5's TransformersLLM: the same prompts, greedy, the same answers.

    python3.11 -m venv venv-distilabel
    venv-distilabel/bin/pip install "distilabel==1.5.*" requests transformers==5.23.0 torch==2.13.0
    OMP_NUM_THREADS=1 python benchmarks/pipelines.py --python venv-distilabel/bin/python

distilabel has an environment of its own (take torch from where your other one came from: a CPU machine needs no CUDA).
Its TransformersLLM calls transformers' text-generation pipeline, which reads one prompt at a time. Both sides load the
checkpoint in float32 and write two answers before they are timed; CPU seconds of each one's process.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def theirs(job: dict) -> dict:
    """What distilabel writes; this runs in its own environment."""
    import torch
    from distilabel.models.llms import TransformersLLM

    torch.set_num_threads(job["threads"])
    bare = "{{ messages[0]['content'] }}"  # the prompt as it is, on both sides
    model = TransformersLLM(model=job["model"], torch_dtype="float32", device="cpu", chat_template=bare)
    model.load()
    conversations = [[{"role": "user", "content": text}] for text in job["texts"]]
    settings = {"max_new_tokens": job["length"], "do_sample": False, "repetition_penalty": 1.0}
    model.generate_outputs(inputs=conversations[:2], **settings)
    start = time.process_time()
    generations = model.generate_outputs(inputs=conversations, **settings)
    seconds = time.process_time() - start
    return {"seconds": seconds, "texts": [generation["generations"][0] for generation in generations]}


def asked_of(python: str, job: dict) -> dict:
    """`theirs` under another Python."""
    with tempfile.TemporaryDirectory() as folder:
        job_file, results = Path(folder) / "job.json", Path(folder) / "made.json"
        job_file.write_text(json.dumps(job), encoding="utf-8")
        subprocess.run([python, __file__, "--job", str(job_file), str(results)], check=True)
        return json.loads(results.read_text(encoding="utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", help="the Python of an environment that has distilabel")
    parser.add_argument("--model", nargs="+", default=["lamb", "random"], help="checkpoints")
    parser.add_argument("--count", type=int, nargs="+", default=[128, 48], help="prompts, for each model")
    parser.add_argument("--prefix", type=int, default=300, help="tokens that the prompts share")
    parser.add_argument("--length", type=int, default=64, help="the most new tokens")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--job", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        results = theirs(json.loads(Path(args.job[0]).read_text(encoding="utf-8")))
        Path(args.job[1]).write_text(json.dumps(results), encoding="utf-8")
        return
    if not args.python or subprocess.run([args.python, "-c", "import distilabel"], capture_output=True).returncode:
        sys.exit(f"--python must be one that has distilabel\n\n{__doc__}")
    print(
        "| model | prompts | shared tokens | written a prompt | distilabel, s | our engine, s | ratio | same answers |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        for name, count in zip(args.model, args.count, strict=True):
            compare(name, count, Path(folder), args)


def compare(name: str, count: int, folder: Path, args: argparse.Namespace) -> None:
    from engine import make_model, prompts
    from usual import timed

    from isheep.engines.transformers import open_engine
    from isheep.models.checkpoint import find_checkpoint, load_tokenizer
    from isheep.records import Model, Sampling

    path = str(make_model(folder)) if name == "random" else find_checkpoint(name)
    texts = prompts(load_tokenizer(path), args.prefix, count)
    job = {"model": path, "texts": texts, "length": args.length, "threads": args.threads}
    slow = asked_of(args.python, job)
    engine = open_engine(Model(path), threads=args.threads, dtype="float32", device="cpu")
    sampling = Sampling(temperature=0, max_tokens=args.length)
    engine.generate(texts[:2], sampling, 0)
    fast, completions = timed(lambda: engine.generate(texts, sampling, 0))
    num_equal = sum(generation.text == text for generation, text in zip(completions, slow["texts"], strict=True))
    mean = sum(generation.tokens for generation in completions) / count
    figures = f"{mean:.1f} | {slow['seconds']:.1f} | {fast:.2f} | {slow['seconds'] / fast:.1f} | {num_equal}/{count}"
    size = engine.loaded.model.num_parameters() / 1e6
    print(f"| {name}, {size:.0f}M | {count} | {args.prefix} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
