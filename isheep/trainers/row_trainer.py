"""The trainer for `training.weigh: rows`: each row weighs the same in the loss of an optimizer step."""

from typing import TYPE_CHECKING, Any

from isheep.trainers.rows import IGNORED

if TYPE_CHECKING:
    from trl import SFTTrainer


def row_trainer() -> "type[SFTTrainer]":
    """Return a trainer for batches of one row, in whose steps each row weighs the same, however many tokens it has."""
    import torch
    from trl import SFTTrainer

    class RowTrainer(SFTTrainer):
        def _get_num_items_in_batch(self, batch_samples: Any, device: Any) -> Any:
            """Return the number of rows with loss in the optimizer step, over all processes."""
            # A label for each row takes the place of its tokens' labels. The first label of a row is not counted.
            rows = [batch["labels"].ne(IGNORED).any() for batch in batch_samples]
            samples = [{"labels": torch.tensor([[IGNORED, 0 if has_loss else IGNORED]])} for has_loss in rows]
            return super()._get_num_items_in_batch(samples, device)

        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            """Return the mean loss of the row's tokens, divided by the number of rows in the step."""
            if num_items_in_batch is not None:
                num_tokens = inputs["labels"][..., 1:].ne(IGNORED).sum().clamp(min=1)
                num_items_in_batch = num_items_in_batch * num_tokens
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)  # type: ignore[no-untyped-call]

    return RowTrainer
