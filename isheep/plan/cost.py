"""What stages cost on a device: FLOPs, seconds by a roofline, memory, disk. Pure arithmetic.

A token that is read or written costs 2 FLOPs for each number of the matrices that it meets, and 4 for each query's
number and token that it looks back at. A pass takes as long as the slowest of its products, the bytes that it moves,
and the start of its layers.
"""

from collections.abc import Iterable, Mapping, Sequence
from math import ceil
from pathlib import Path

from isheep.filters import needs
from isheep.models.checkpoint import find_checkpoint
from isheep.plan.assumptions import Assumptions
from isheep.plan.devices import Device
from isheep.plan.shapes import Shape
from isheep.plan.work import Stage
from isheep.recipe.schema import Recipe

LOOKED = 2**27  # logits at once where every token's are wanted, as the engine cuts its batches
OPTIMIZER = 16  # bytes of an adapter's number in training: itself, its gradient and AdamW's two, in float32
ROW = 160  # bytes of a row of a run folder beside its texts
WORD = 75  # bytes of a tokenizer's file for each token of its vocabulary
COUNTS = (1, 2, 4, 8, 16, 32, 64)  # of devices that work together
CHECKPOINTS = 3  # of a training at once: the newest, the best, the one being written


# --- FLOPs


def reading_flops(stage: Stage, shape: Shape) -> float:
    """Of the tokens of prompts, or of rows whose loss is looked at."""
    ends = stage.computed if stage.every else stage.calls
    looked = _attention(shape) * stage.length / 2
    return stage.computed * (2 * shape.matrices + looked) + 2 * shape.head * ends


def writing_flops(stage: Stage, shape: Shape) -> float:
    looked = _attention(shape) * (stage.length + stage.written / stage.calls / 2)
    return stage.written * (2 * shape.matrices + 2 * shape.head + looked)


def training_flops(stage: Stage, shape: Shape, again: bool) -> float:
    """Forwards and backwards, without gradients of the base's weights, which are not trained: 4 for each number.

    `again`: with the forward pass a second time, as gradient checkpointing has it.
    """
    products = (6 if again else 4) * (shape.matrices + shape.head)
    return stage.learned * (products + (4 if again else 3) * _attention(shape) * stage.length / 2)


def _attention(shape: Shape) -> int:
    """FLOPs of a token for each token that it looks back at."""
    return 4 * shape.layers * shape.heads * shape.width


def flops(stage: Stage, shape: Shape, device: Device) -> float:
    read = reading_flops(stage, shape) + writing_flops(stage, shape)
    return read + training_flops(stage, shape, device.gpu)


# --- seconds


def seconds(stage: Stage, shape: Shape, device: Device, a: Assumptions, batch: int) -> float:
    """By the roofline; `batch` is the rows of an optimizer step."""
    share = device.count * (a.together if device.count > 1 else 1)
    speed, moved, start = device.flops * share, device.bandwidth * share * a.writing, shape.layers * a.layer_ms / 1000
    weights = (shape.matrices + shape.head) * device.number
    if stage.learned:
        passes = stage.calls / batch * ceil(batch / stage.rows) * (4 if device.gpu else 3)
        work = training_flops(stage, shape, device.gpu) + reading_flops(stage, shape)
        return max(work / (speed * a.training), passes * start)
    batches = ceil(stage.calls / stage.rows)
    taken = max(reading_flops(stage, shape) / (speed * a.reading), batches * weights / moved, batches * start)
    if stage.written:
        steps, products = batches * stage.steps, writing_flops(stage, shape) / (speed * a.reading)
        cached = _looked_at(stage) * shape.cache * device.number
        taken += max(products, (steps * weights + cached) / moved, steps * start)
    return taken


def _looked_at(stage: Stage) -> float:
    """Tokens in the cache that are read from memory in all steps together: a shared prompt once for all rows."""
    own = stage.written * stage.written / stage.calls / 2
    times = ceil(stage.calls / stage.rows) * stage.steps if stage.shared else stage.written
    return own + times * stage.length


# --- memory, of all devices together


def generation_memory(stages: Iterable[Stage], shape: Shape, device: Device) -> dict[str, float]:
    """Bytes by what they hold, at the stages' largest, every answer as long as it may be."""
    asked = [stage for stage in stages if not stage.learned]
    cache = max((_rows(s) * min(s.room, shape.context) * shape.cache for s in asked), default=0)
    cache += max((s.length * shape.cache for s in asked if s.shared), default=0)
    return {
        "weights": shape.parameters * device.number,
        "keys and values": cache * device.number,
        "activations": max((_activations(s, shape, device.number) for s in asked), default=0),
    }


def _rows(stage: Stage) -> float:
    return min(stage.rows, stage.calls)


def _activations(stage: Stage, shape: Shape, number: int) -> float:
    tokens = stage.length + _rows(stage) if stage.shared else _rows(stage) * stage.length
    logits = _rows(stage) * (stage.length if stage.every else 1) * shape.vocabulary
    if stage.every:
        logits = min(logits, max(LOOKED, stage.length * shape.vocabulary))
        tokens = logits / shape.vocabulary
    return tokens * (4 * shape.hidden + 3 * shape.ffn) * number + logits * (number + 8)


def training_memory(stages: Iterable[Stage], shape: Shape, device: Device, rank: int) -> dict[str, float]:
    """The same for rows that are all as long as the cutoff. A GPU keeps what goes into each layer, and computes it."""
    tokens = max(stage.rows * min(stage.room, shape.context) for stage in stages if stage.learned)
    inside = 8 * shape.hidden + 2 * (shape.heads + shape.kv_heads) * shape.width + 4 * shape.ffn
    layers = shape.layers * shape.hidden + inside if device.gpu else shape.layers * inside
    return {
        "weights": shape.parameters * device.number,
        "adapter, AdamW": shape.lora(rank) * OPTIMIZER,
        "activations": tokens * layers * device.number,
        "logits": tokens * shape.vocabulary * (2 * device.number + 8),
    }


def fits(memory: Mapping[str, float], device: Device, a: Assumptions) -> bool:
    return sum(memory.values()) <= device.memory * device.count * a.usable


def fewest(memories: Sequence[Mapping[str, float]], device: Device, a: Assumptions) -> int | None:
    """How many of these devices hold each of the memories, split evenly; None where even the most do not."""
    counts = (n for n in COUNTS if all(fits(one, device.model_copy(update={"count": n}), a) for one in memories))
    return next(counts, None)


# --- disk


def disk(stages: Sequence[Stage], shape: Shape, recipe: Recipe, a: Assumptions) -> dict[str, float]:
    """Bytes by what they are for."""
    lora, tokenizer = shape.lora(recipe.training.lora.rank), WORD * shape.vocabulary
    trained = sum(1 for stage in stages if stage.learned)
    rows = sum(stage.text * a.characters + stage.lines * ROW for stage in stages)
    vectors = 0.0
    if needs(recipe.filters, "embeddings"):
        vectors = shape.hidden * 16 / 3 * sum(stage.lines for stage in stages if stage.name == "answers")
    return {
        "the model, downloaded": 0.0 if Path(find_checkpoint(recipe.model)).is_dir() else 2.0 * shape.parameters,
        "rows of text": rows + vectors,
        "adapters": trained * (4 * lora + tokenizer),
        "checkpoints in training": CHECKPOINTS * (12 * lora + tokenizer),
    }
