"""The transformers engine: any causal language model in safetensors, with a LoRA adapter or none, on CPU or CUDA."""

import gc
from collections.abc import Sequence
from functools import cache, cached_property, partial
from typing import TYPE_CHECKING, Any, NamedTuple

from isheep.batching import chunks, seed_of
from isheep.checkpoint import check_device, find, load, load_tokenizer, start_of
from isheep.engines import Completion, Sampling, TokenLogprobs, tokens
from isheep.errors import TooLong, UserError
from isheep.records import Model

if TYPE_CHECKING:
    from torch import Tensor

LOGITS = 2**27  # the most logits that `logprobs` holds at a time: 0.5 GB in fp32


def open_engine(
    model: Model, threads: int | None = None, device: str | None = None, dtype: str | None = None, batch: int = 128
) -> "Transformers":
    """An engine on `model`. Cheap: weights load at first use, onto `device` ("cpu", "cuda"; None takes CUDA if there).

    `dtype` None computes in float32 on CPU, whatever the checkpoint is stored in, and in bfloat16 on CUDA. Requests are
    cut into batches of `batch` in their order. `threads` is for the whole process. The same calls on the same threads
    give the same bytes. Raises UserError where `model` is a path without a checkpoint, or `device` is not there.
    """
    find(model.base)
    check_device(device)
    return Transformers(model, threads, device, dtype, batch)


class Loaded(NamedTuple):
    """What first use brings into memory."""

    model: Any
    tokenizer: Any
    start: list[int]  # what the tokenizer puts before a text: [beginning of sequence] or nothing
    ends: frozenset[int]  # the tokens that end an answer
    context: int  # the longest sequence in tokens


class Transformers:
    """`isheep.engines.Engine` on the transformers library. Open it with `open_engine`."""

    def __init__(self, model: Model, threads: int | None, device: str | None, dtype: str | None, batch: int) -> None:
        self.source, self.threads, self.device, self.dtype, self.batch = model, threads, device, dtype, batch

    @cached_property
    def loaded(self) -> Loaded:
        import torch

        from isheep.engines.decode import share_prefixes

        if self.threads:
            torch.set_num_threads(self.threads)
        tokenizer = load_tokenizer(self.source.base)
        device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        dtype = self.dtype or ("bfloat16" if device.startswith("cuda") else "float32")
        model = load_model(self.source, dtype).to(device).eval()
        share_prefixes(model)
        ends = model.generation_config.eos_token_id
        known = {tokenizer.eos_token_id} | set(ends if isinstance(ends, list) else [ends])
        context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        return Loaded(model, tokenizer, start_of(tokenizer), frozenset(known - {None}), context or 2**30)

    def generate(self, prompts: Sequence[str], sampling: Sampling, seed: int) -> list[Completion]:
        """One continuation per prompt, in order; nothing that a prompt gets depends on the other prompts' noise.

        A stop string is one special token or plain text. The tokens of a completion count the one that ended it.
        A prompt that leaves no room in the context gets an empty one; raises UserError where no prompt leaves any.
        """
        from isheep.engines import decode

        rows = self._prompts(prompts)
        fitting = [place for place, row in enumerate(rows) if len(row) < self.loaded.context]
        if rows and not fitting:
            raise self._too_long(f"a prompt of {min(map(len, rows))} tokens")
        done = [Completion("", 0, "length") for _ in rows]
        for places in chunks(fitting, self.batch):
            chance = decode.noise([seed_of(seed, place) for place in places], sampling.max_tokens)
            written = self._continue([rows[place] for place in places], sampling, chance)
            for place, completion in zip(places, written, strict=True):
                done[place] = completion
        return done

    def _continue(self, rows: list[list[int]], sampling: Sampling, chance: "Tensor") -> list[Completion]:
        import torch

        from isheep.engines import decode

        model, tokenizer, _, ends, context = self.loaded

        penalty = sampling.presence_penalty
        size = model.config.get_text_config().vocab_size if penalty else 0
        present = torch.zeros(len(rows), size, dtype=torch.bool, device=model.device)  # the tokens that answers have

        def pick(logits: "Tensor", places: "Tensor", step: int) -> "Tensor":
            uniforms = chance[places, step].to(logits.device)
            if not penalty:
                return decode.draw(logits, uniforms, sampling.temperature, sampling.top_p)
            places = places.to(logits.device)
            lowered = logits.float() - penalty * present[places]
            drawn = decode.draw(lowered, uniforms, sampling.temperature, sampling.top_p)
            present[places, drawn] = True
            return drawn

        ids, texts = tokens.stops(tokenizer, sampling.stop)
        ids |= ends
        piece = cache(partial(tokenizer.decode, clean_up_tokenization_spaces=False))
        last = {text[-1] for text in texts} | {"\ufffd"}  # a character cut in two may be a stop's last one

        def ended(row: list[int]) -> bool:
            if row[-1] in ids:
                return True
            if not texts or not (" " in last or last & set(piece(row[-1]))):  # a decoded piece may lose its space
                return False
            text = tokens.text_of(tokenizer, row)
            return any(stop in text for stop in texts)

        limits = [min(sampling.max_tokens, context - len(row)) for row in rows]
        with torch.inference_mode():
            written = decode.decode(model, rows, limits, pick, ended)
        return [tokens.completion(tokenizer, row, stopped, ids, texts) for row, stopped in written]

    def logprobs(self, prompts: Sequence[str], outputs: Sequence[str]) -> list[TokenLogprobs]:
        """The log-probability of each output's tokens after its prompt, in nats.

        Prompt and output are tokenized apart and their ids joined, so that the prompt's tokens are those that
        `generate` reads. What is beyond the context is left out: of an output its end, or all of it.
        """
        model, _, *_, context = self.loaded
        rows = zip(self._prompts(prompts), map(self._ids, outputs), strict=True)
        both = [(prompt, output[: max(0, context - len(prompt))]) for prompt, output in rows]
        asked = [place for place, (_, output) in enumerate(both) if output]
        longest = max((len(output) for _, output in both), default=0) + 1
        size = max(1, min(self.batch, LOGITS // (longest * model.config.get_text_config().vocab_size)))
        done = [TokenLogprobs([], []) for _ in both]
        for places in chunks(asked, size):
            for place, scored in zip(places, self._score([both[place] for place in places]), strict=True):
                done[place] = scored
        return done

    def _score(self, both: Sequence[tuple[list[int], list[int]]]) -> list[TokenLogprobs]:
        import torch

        from isheep.engines import decode

        with torch.inference_mode():
            rows = [prompt + output for prompt, output in both]
            logits = decode.Batch(self.loaded.model).prefill(rows, [len(output) + 1 for _, output in both], room=0)
            scores = []
            for row, (_, output) in zip(logits, both, strict=True):
                wanted = torch.tensor(output, dtype=torch.long, device=row.device)
                chances = row[len(row) - len(output) - 1 : -1].float().log_softmax(-1)
                scores.append(TokenLogprobs(output, chances.gather(1, wanted[:, None])[:, 0].tolist()))
        return scores

    def choices(self, prompts: Sequence[str], options: Sequence[str]) -> list[list[float]]:
        """How probable each option is as the beginning of each prompt's continuation: (prompts, options).

        One pass over each prompt with the tokens behind it that options share (" 1", where " 10" is three tokens); a
        pass more for each other such beginning. After a prompt that leaves no room in the context all are 0; raises
        UserError where no prompt leaves any.
        """
        import torch

        model, *_, context = self.loaded
        rows, wanted = self._prompts(prompts), [tuple(self._ids(option)) for option in options]
        longest = max(map(len, wanted), default=1)
        fitting = [place for place, row in enumerate(rows) if len(row) + longest <= context]
        if rows and not fitting:
            raise self._too_long(f"a prompt of {min(map(len, rows))} tokens with an option of {longest}")
        size = max(1, min(self.batch, LOGITS // (longest * model.config.get_text_config().vocab_size)))
        shares = [[0.0] * len(options) for _ in rows]
        with torch.inference_mode():
            for places in chunks(fitting, size):
                for place, found in zip(places, self._choose([rows[place] for place in places], wanted), strict=True):
                    shares[place] = found
        return shares

    def _choose(self, rows: Sequence[list[int]], options: Sequence[tuple[int, ...]]) -> list[list[float]]:
        import torch

        from isheep.engines import decode

        after: dict[tuple[int, ...], Tensor] = {}  # the next token's distribution, (rows, vocabulary), after these
        for path in decode.paths(options):
            width = len(path) + 1
            batch = decode.Batch(self.loaded.model)
            logits = batch.prefill([[*row, *path] for row in rows], [width] * len(rows), room=0)
            after |= {path[:k]: logits[:, k - width].float().softmax(-1) for k in range(width)}
        steps = [[after[option[:k]][:, token] for k, token in enumerate(option)] for option in options]
        chances = torch.stack([torch.stack(step).prod(0) for step in steps], 1).double()
        for i in sorted(range(len(options)), key=lambda i: -len(options[i])):
            longer = [j for j, other in enumerate(options) if other != options[i] and decode.begins(options[i], other)]
            chances[:, i] -= chances[:, longer].sum(1)
        shares: list[list[float]] = chances.clamp(min=0).tolist()
        return shares

    def embed(self, texts: Sequence[str]) -> Any:
        """The last layer's hidden state, mean over the text's tokens that fit the context: float32 (texts, width)."""
        import numpy as np
        import torch

        model = self.loaded.model
        rows = [row[: self.loaded.context] for row in self._prompts(texts)]
        means = [np.zeros((0, model.config.get_text_config().hidden_size), np.float32)]
        for part in chunks(rows, self.batch):
            width = max(map(len, part))
            ids = torch.tensor([row + [0] * (width - len(row)) for row in part], device=model.device)
            mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in part], device=model.device)
            with torch.inference_mode():
                states = model.base_model(ids, attention_mask=mask, use_cache=False).last_hidden_state.float()
                means.append(((states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)).cpu().numpy())
        return np.concatenate(means)

    def close(self) -> None:
        """Gives the memory back. A later call loads the weights again."""
        if self.__dict__.pop("loaded", None) is not None:
            import torch

            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _ids(self, text: str) -> list[int]:
        return tokens.ids_of(self.loaded.tokenizer, text)

    def _prompts(self, prompts: Sequence[str]) -> list[list[int]]:
        return tokens.prompts(self.loaded.tokenizer, self.loaded.start, prompts)

    def _too_long(self, what: str) -> TooLong:
        return TooLong(
            f"{what} does not fit {self.source.base!r}, which reads {self.loaded.context} tokens, the answer included:"
            " shorten it (fewer or shorter examples) or take a model with a longer context"
        )


def load_model(source: Model, dtype: str) -> Any:
    """The weights of `source` in `dtype`, with its adapter. Raises UserError where one can't be loaded.

    In float32 the adapter is merged into the weights; bfloat16 would round most of it away, so there it stays beside.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # it writes even where no terminal is
    model = load(source.base, AutoModelForCausalLM, use_safetensors=True, dtype=getattr(torch, dtype))
    if source.adapter is None:
        return model
    if not (source.adapter / "adapter_model.safetensors").is_file():  # peft would unpickle an adapter_model.bin
        raise UserError(f"adapter {str(source.adapter)!r} has no adapter_model.safetensors: give a LoRA's folder")
    from peft import PeftModel

    adapted: Any = PeftModel.from_pretrained(model, str(source.adapter))
    return adapted.merge_and_unload() if dtype == "float32" else adapted.base_model.model
