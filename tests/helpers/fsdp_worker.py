"""Not a test: the training worker, with accelerate made to take gloo on the CPU for several GPUs, so that FSDP runs."""

from typing import Any

import torch
from accelerate.state import PartialState
from accelerate.utils import DistributedType

from isheep.trainers.worker import main


def prepare_gloo_backend(self: PartialState, *settings: Any) -> tuple[str, DistributedType]:
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo")
    return "gloo", DistributedType.MULTI_GPU


def set_cpu_device(self: PartialState) -> None:
    self.device = torch.device("cpu")


if __name__ == "__main__":
    PartialState._prepare_backend = prepare_gloo_backend  # type: ignore[method-assign]
    PartialState.set_device = set_cpu_device  # type: ignore[method-assign]
    PartialState.default_device = torch.device("cpu")  # type: ignore[method-assign,assignment]
    main()
