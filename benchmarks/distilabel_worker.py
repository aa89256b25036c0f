"""Generate texts with distilabel's TransformersLLM, in an environment that has distilabel and no isheep (pipelines.py).

    VENV/bin/python benchmarks/distilabel_worker.py JOB.json RESULT.json

The job has the keys model, texts, length and threads; the result has the CPU seconds and the texts.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def generate(job: dict[str, Any]) -> dict[str, Any]:
    """Return the CPU seconds and the texts of a job; two answers are written before the clock starts."""
    import torch
    from distilabel.models.llms import TransformersLLM

    torch.set_num_threads(job["threads"])
    # The prompt is read as it is, on both sides.
    template = "{{ messages[0]['content'] }}"
    model = TransformersLLM(model=job["model"], torch_dtype="float32", device="cpu", chat_template=template)
    model.load()
    conversations = [[{"role": "user", "content": text}] for text in job["texts"]]
    settings = {"max_new_tokens": job["length"], "do_sample": False, "repetition_penalty": 1.0}
    model.generate_outputs(inputs=conversations[:2], **settings)
    start = time.process_time()
    generations = model.generate_outputs(inputs=conversations, **settings)
    seconds = time.process_time() - start
    return {"seconds": seconds, "texts": [generation["generations"][0] for generation in generations]}


def main(arguments: Sequence[str] | None = None) -> None:
    """Read a job, and write its result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", type=Path, metavar="JOB.json", help="Name the file of the job.")
    parser.add_argument("result", type=Path, metavar="RESULT.json", help="Name the file to write.")
    args = parser.parse_args(arguments)
    result = generate(json.loads(args.job.read_text(encoding="utf-8")))
    args.result.write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
