"""What is usually done, written as it usually is: the other side of the comparisons in `engine.py` and `loop.py`."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def padded(model, tokenizer, texts: list[str], length: int, batch: int, **settings) -> list[list[int]]:
    """transformers' `generate` on left-padded batches: each answer's tokens, the one that ended it included."""
    import torch

    out: list[list[int]] = []
    for start in range(0, len(texts), batch):
        inputs = tokenizer(texts[start : start + batch], return_tensors="pt", padding=True).to(model.device)
        with torch.inference_mode():
            ids = model.generate(**inputs, max_new_tokens=length, pad_token_id=tokenizer.pad_token_id, **settings)
        for row in ids[:, inputs.input_ids.shape[1] :].tolist():
            ended = row.index(tokenizer.eos_token_id) + 1 if tokenizer.eos_token_id in row else len(row)
            out.append(row[:ended])
    return out


def timed(work: Callable[[], T], repeats: int = 1) -> tuple[float, T]:
    """The best of `repeats` in CPU seconds of this process, and what the work made."""
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        result = work()
        seconds.append(time.process_time() - start)
    return min(seconds), result
