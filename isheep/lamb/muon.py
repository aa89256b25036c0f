"""Muon (Jordan et al. 2024) in float32: torch's own uses bfloat16, which is slow on a CPU without bfloat16 units."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


class Muon(torch.optim.Optimizer):
    """An optimizer that steps each matrix by its orthogonalized momentum; matrices of one shape go together."""

    def __init__(
        self, matrices: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.01
    ) -> None:
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            shapes = defaultdict(list)
            for parameter in group["params"]:
                buffer = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
                buffer.lerp_(parameter.grad, 1 - group["momentum"])
                shapes[parameter.shape].append((parameter, parameter.grad.lerp(buffer, group["momentum"])))
            for (rows, columns), momenta in shapes.items():
                steps = orthogonalize(torch.stack([momentum for _, momentum in momenta]))
                for (parameter, _), step in zip(momenta, steps, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(step, alpha=-group["lr"] * max(1, rows / columns) ** 0.5)


def orthogonalize(matrices: Tensor, rounds: int = 5) -> Tensor:
    """Return matrices (n, rows, columns) with their singular values brought near 1, by Newton-Schulz iteration."""
    wide = matrices.shape[1] <= matrices.shape[2]
    x = matrices if wide else matrices.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(rounds):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    result: Tensor = x if wide else x.mT
    return result
