"""The cost of stages on a device: FLOPs, seconds by a roofline model, memory, disk. Arithmetic only.

FLOPs: a forward pass costs 2 FLOPs per token for each parameter of the matrices, and 4 FLOPs per token for each number
of a query and each token that it attends to (Kaplan et al. 2020, Scaling Laws for Neural Language Models, Table 1).
Causal attention looks back at half of the sequence on average.

Seconds: the roofline model (Williams et al. 2009). A forward pass takes as long as the slowest of its matrix products,
the bytes that it reads from memory (weights, keys and values; Pope et al. 2022, Efficiently Scaling Transformer
Inference), and the launch of its layers.
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
from isheep.trainers.machine import MAX_CPU_TOKENS

# The tokens and words of a block whose logits TRL 1.16 computes at a time (its fused output head).
TRL_LOGITS = (4096, 32768)
# The largest number of logits at a time if those of every token are needed: isheep.engines.transformers.MAX_LOGITS.
MAX_LOGITS = 2**27
# Bytes per parameter of an adapter in training: the parameter, its gradient, and the two moments of AdamW (Loshchilov
# and Hutter 2019), in float32.
ADAMW_BYTES = 16
# Bytes of a row of a run folder besides its texts.
ROW_BYTES = 160
# Bytes of a tokenizer's file for each token of its vocabulary.
VOCABULARY_ENTRY_BYTES = 75
# The numbers of devices that work together.
DEVICE_COUNTS = (1, 2, 4, 8, 16, 32, 64)
# Checkpoints that exist at a time during training: the newest, the best, and the one being written.
NUM_CHECKPOINTS = 3


# --- FLOPs


def reading_flops(stage: Stage, shape: Shape) -> float:
    """Return the FLOPs of forward passes over prompts, or over rows whose loss is computed."""
    logit_tokens = stage.computed_tokens if stage.all_logits else stage.calls
    attention = _attention_flops(shape) * stage.length / 2
    return stage.computed_tokens * (2 * shape.matrices + attention) + 2 * shape.head * logit_tokens


def generation_flops(stage: Stage, shape: Shape) -> float:
    """Return the FLOPs of generating the outputs: each token attends to the prompt and to half of the output."""
    attention = _attention_flops(shape) * (stage.length + stage.output_tokens / stage.calls / 2)
    return stage.output_tokens * (2 * shape.matrices + 2 * shape.head + attention)


def training_flops(stage: Stage, shape: Shape, recompute: bool) -> float:
    """Return the FLOPs of forward and backward passes with a frozen base (LoRA, Hu et al. 2021).

    Gradients are computed for activations and not for the base's weights: 4 FLOPs per parameter and token instead of
    6. `recompute` adds a second forward pass, as gradient checkpointing does (Chen et al. 2016).
    """
    products = (6 if recompute else 4) * (shape.matrices + shape.head)
    attention = (4 if recompute else 3) * _attention_flops(shape) * stage.length / 2
    return stage.trained_tokens * (products + attention)


def _attention_flops(shape: Shape) -> int:
    """Return the FLOPs of a token for each token that it attends to: products with its key and with its value."""
    return 4 * shape.layers * shape.heads * shape.width


def flops(stage: Stage, shape: Shape, device: Device) -> float:
    """Return all FLOPs of a stage."""
    forward = reading_flops(stage, shape) + generation_flops(stage, shape)
    return forward + training_flops(stage, shape, device.gpu)


# --- seconds


def seconds(stage: Stage, shape: Shape, device: Device, assumed: Assumptions, train_batch: int) -> float:
    """Return the seconds of a stage by the roofline model. `train_batch` is the number of rows of an optimizer step."""
    share = device.count * (assumed.together if device.count > 1 else 1)
    flops_rate, bandwidth = device.flops * share, device.bandwidth * share * assumed.writing
    launch = shape.layers * assumed.layer_ms / 1000
    weight_bytes = (shape.matrices + shape.head) * device.number_bytes
    if stage.trained_tokens:
        # Backward passes launch twice as many kernels as forward passes; on a GPU activations are recomputed as well.
        passes = stage.calls / train_batch * ceil(train_batch / stage.batch_size) * (4 if device.gpu else 3)
        total_flops = training_flops(stage, shape, device.gpu) + reading_flops(stage, shape)
        return max(total_flops / (flops_rate * assumed.training), passes * launch)
    batches = ceil(stage.calls / stage.batch_size)
    products = reading_flops(stage, shape) / (flops_rate * assumed.reading)
    total = max(products, batches * weight_bytes / bandwidth, batches * launch)
    if stage.output_tokens:
        steps = batches * stage.decoding_steps
        products = generation_flops(stage, shape) / (flops_rate * assumed.reading)
        cache_bytes = _cache_reads(stage) * shape.cache * device.number_bytes
        total += max(products, (steps * weight_bytes + cache_bytes) / bandwidth, steps * launch)
    return total


def _cache_reads(stage: Stage) -> float:
    """Return the number of tokens that all decoding steps read from the cache: a shared prompt once for all rows."""
    own = stage.output_tokens * stage.output_tokens / stage.calls / 2
    batches = ceil(stage.calls / stage.batch_size)
    prompt_reads = batches * stage.decoding_steps if stage.shares_prompt else stage.output_tokens
    return own + prompt_reads * stage.length


# --- memory, of all devices together


def generation_memory(stages: Iterable[Stage], shape: Shape, device: Device) -> dict[str, float]:
    """Return the bytes by content at the largest stage, if every output is as long as it may be."""
    generating = [stage for stage in stages if not stage.trained_tokens]
    row_tokens = (_num_rows(stage) * min(stage.max_row_tokens, shape.context) for stage in generating)
    cache = max((tokens * shape.cache for tokens in row_tokens), default=0)
    cache += max((stage.length * shape.cache for stage in generating if stage.shares_prompt), default=0)
    activations = (_activation_bytes(stage, shape, device.number_bytes) for stage in generating)
    return {
        "weights": shape.parameters * device.number_bytes,
        "keys and values": cache * device.number_bytes,
        "activations": max(activations, default=0),
    }


def _num_rows(stage: Stage) -> float:
    return min(stage.batch_size, stage.calls)


def _activation_bytes(stage: Stage, shape: Shape, number_bytes: int) -> float:
    """Return the bytes of a layer's activations and of the logits, which are converted to float32 for the draw."""
    num_rows = _num_rows(stage)
    tokens = stage.length + num_rows if stage.shares_prompt else num_rows * stage.length
    logits = num_rows * (stage.length if stage.all_logits else 1) * shape.vocabulary
    if stage.all_logits:
        logits = min(logits, max(MAX_LOGITS, stage.length * shape.vocabulary))
        tokens = logits / shape.vocabulary
    return tokens * (4 * shape.hidden + 3 * shape.ffn) * number_bytes + logits * (number_bytes + 8)


def training_memory(stages: Iterable[Stage], shape: Shape, device: Device, recipe: Recipe) -> dict[str, float]:
    """Return the bytes by content if every row is as long as the cutoff.

    On a GPU only the inputs of each layer are kept, and a layer's own activations are recomputed (Chen et al. 2016). A
    CPU computes few rows at once (trainers/machine.py). TRL computes the logits of a block of tokens and words at a
    time; LLaMA-Factory those of all tokens of the batch.
    """
    training = [stage for stage in stages if stage.trained_tokens]
    machine, rank = recipe.machine, recipe.training.lora.rank
    tokens = 0.0
    for stage in training:
        length = min(stage.max_row_tokens, shape.context)
        takes_few = not (device.gpu or machine.rows_per_process) and machine.trainer == "peft"
        rows = min(stage.batch_size, max(1, MAX_CPU_TOKENS // length)) if takes_few else stage.batch_size
        tokens = max(tokens, rows * length)
    logits = tokens * shape.vocabulary
    if machine.trainer == "peft":
        logits = min(tokens, TRL_LOGITS[0]) * min(shape.vocabulary, TRL_LOGITS[1])
    inside = 8 * shape.hidden + 2 * (shape.heads + shape.kv_heads) * shape.width + 4 * shape.ffn
    layers = shape.layers * shape.hidden + inside if device.gpu else shape.layers * inside
    return {
        "weights": shape.parameters * device.number_bytes,
        "adapter, AdamW": shape.lora(rank) * ADAMW_BYTES,
        "activations": tokens * layers * device.number_bytes,
        "logits": logits * (2 * device.number_bytes + 8),
    }


def fits(memory: Mapping[str, float], device: Device, assumed: Assumptions) -> bool:
    """Return whether the devices hold this much memory together."""
    return sum(memory.values()) <= device.memory * device.count * assumed.usable


def fewest_devices(memories: Sequence[Mapping[str, float]], device: Device, assumed: Assumptions) -> int | None:
    """Return the smallest number of devices that hold each of the memories, or None if the largest does not."""
    for count in DEVICE_COUNTS:
        devices = device.model_copy(update={"count": count})
        if all(fits(memory, devices, assumed) for memory in memories):
            return count
    return None


# --- disk


def disk(stages: Sequence[Stage], shape: Shape, recipe: Recipe, assumed: Assumptions) -> dict[str, float]:
    """Return the bytes on disk by content."""
    lora, tokenizer = shape.lora(recipe.training.lora.rank), VOCABULARY_ENTRY_BYTES * shape.vocabulary
    num_adapters = sum(1 for stage in stages if stage.trained_tokens)
    rows = sum(stage.file_tokens * assumed.characters + stage.file_rows * ROW_BYTES for stage in stages)
    embeddings = 0.0
    if needs(recipe.filters, "embeddings"):
        # Base64 takes 4 characters for each 3 bytes of float32.
        num_rows = sum(stage.file_rows for stage in stages if stage.name == "answers")
        embeddings = shape.hidden * 16 / 3 * num_rows
    return {
        "the model, downloaded": 0.0 if Path(find_checkpoint(recipe.model)).is_dir() else 2.0 * shape.parameters,
        "rows of text": rows + embeddings,
        "adapters": num_adapters * (4 * lora + tokenizer),
        "checkpoints in training": NUM_CHECKPOINTS * (12 * lora + tokenizer),
    }
