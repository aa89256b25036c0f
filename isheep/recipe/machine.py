"""The recipe's section `machine`: how a run computes. A field's docstring is its description in docs/recipe.md."""

from typing import Annotated, Any, Literal

from pydantic import Field

from isheep.records import Count, Settings

Price = Annotated[float, Field(ge=0)]


class Calls(Settings):
    """How an OpenAI-compatible server is called. The key is OPENAI_API_KEY."""

    max_in_flight: Count = 8
    """The number of concurrent calls."""
    timeout: Annotated[float, Field(gt=0)] = 120
    """The seconds without data from the server after which an attempt at a call has failed."""
    total_timeout: Annotated[float | None, Field(gt=0)] = None
    """The seconds after which an attempt has failed although data arrive, such as a byte now and then; null: twice
    `timeout`."""
    attempts: Count = 6
    """The number of attempts at a call that gets status 429 or 5xx, or no answer."""
    retry_wait: Annotated[float, Field(ge=0)] = 1
    """The seconds before the second attempt, doubled before each further one."""


class Judging(Calls):
    """How a judge at an endpoint is called. OPENAI_BASE_URL is the address."""

    price: tuple[Price, Price] | None = None
    """The price of a million tokens read, and of a million tokens written; null: unknown."""


class ServerSettings(Calls):
    """The server that generates with `engine: openai` (docs/engines.md). It must serve the recipe's model."""

    url: str | None = None
    """The address, such as http://127.0.0.1:8000/v1; null: OPENAI_BASE_URL."""
    model: str | None = None
    """The server's name of the recipe's model; null: the only one that it lists."""
    api: Literal["completions", "chat"] = "completions"
    """The interface. With "chat" the server receives conversations and applies its own chat template."""
    context: Count | None = None
    """The number of tokens that the server can read, the answer included; null: what it reports, or the model's."""
    adapters: Literal["server", "transformers"] = "server"
    """Where M^1 and later models generate: on the server, or in this process."""
    max_in_flight: Count = 32
    """The number of concurrent calls."""
    timeout: Annotated[float, Field(gt=0)] = 600
    """The seconds without data from the server after which an attempt at a call has failed."""


class VLLMSettings(Settings):
    """vLLM in a separate process, with `engine: vllm` (docs/engines.md)."""

    memory: Annotated[float, Field(gt=0, le=1)] = 0.9
    """The share of a GPU's memory that vLLM takes."""
    cache: Annotated[float, Field(gt=0)] | None = None
    """The GiB for keys and values; null: what remains of `memory`, and 2 on a CPU."""
    context: Count | None = None
    """The number of tokens that vLLM can read, the answer included; null: the model's."""
    tensor_parallel: Count = 1
    """The number of GPUs that share the weights."""
    eager: bool = False
    """Whether to run without compiled graphs, which starts sooner and generates more slowly. Always on a CPU."""
    adapters: Literal["lora", "merged"] = "lora"
    """How M^1 and later models are served: as LoRA adapters, or each as a merged checkpoint if LoRA can't be served."""
    sleep: bool = False
    """Whether vLLM keeps its weights in main memory while other stages compute, instead of restarting. CUDA only."""


class Machine(Settings):
    """How a run computes, not what. A resumed run may change this section (docs/scale.md)."""

    engine: str = "transformers"
    """The engine that generates: transformers, vllm or openai (docs/engines.md); or your own as file.py:name or
    package.module:name."""
    engine_options: dict[str, Any] = {}
    """Free options for engines without a section of their own, read as `recipe.machine.engine_options`."""
    vllm: VLLMSettings = VLLMSettings()
    """Settings of `engine: vllm`."""
    server: ServerSettings = ServerSettings()
    """Settings of `engine: openai`."""
    trainer: str = "peft"
    """The trainer: peft, or llamafactory (docs/scale.md)."""
    threads: Count | None = None
    """The number of CPU threads; null: what torch takes."""
    device: str | None = None
    """The device, such as cpu or cuda:0; null: CUDA if it is available."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """The type in which the engines transformers and vllm compute; null: bfloat16 on CUDA, otherwise float32, except
    with transformers on a CPU that has bfloat16 instructions, for checkpoints stored in 16 bits (docs/engines.md)."""
    engine_batch_size: Count = 128
    """The number of prompts that the engine computes at once."""
    replicas: Count = 1
    """The number of engines in Ray actors that share the batches of a stage. Each has `threads`, and a GPU."""
    ray: str | None = None
    """The Ray cluster of the replicas: auto, HOST:PORT or ray://HOST:PORT; null: a local one."""
    rows_per_process: Count | None = None
    """The number of rows that a training process computes at once, a divisor of training.batch_size; null: its whole
    share of a batch, and on the CPU in one process as many as have 1024 tokens."""
    gpus: Count = 1
    """The number of GPUs that train on each node, with one process each. With `device: cpu`, processes on the CPU."""
    nodes: Count = 1
    """The number of nodes of a Slurm allocation that train."""
    strategy: Literal["ddp", "fsdp", "zero3"] = "ddp"
    """How training processes share the model: the whole base on each GPU (ddp), or its weights in shards."""
    gradient_checkpointing: bool | None = None
    """Whether activations are computed again to save memory; null: on CUDA."""
    packing: bool = False
    """Whether rows that are computed at once form one sequence: no padding, but attention over all of it."""
    unsafe_code: bool = False
    """Whether model-written code may run without a sandbox if this machine has none (--unsafe-code)."""
    report: bool = True
    """Whether a run writes report.html after its stages (docs/report.md)."""
    track: tuple[str, ...] = ()
    """The trackers that get losses and figures while the run goes on: tensorboard, wandb, mlflow, trackio
    (docs/tracking.md)."""
    judging: Judging = Judging()
    """How judges at an endpoint are called."""

    @property
    def processes(self) -> int:
        """The number of processes that train together."""
        return self.gpus * self.nodes
