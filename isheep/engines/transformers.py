"""The transformers engine: any causal language model in safetensors, with a LoRA adapter or none, on CPU or CUDA."""

import gc
from collections.abc import Sequence
from functools import cache, cached_property, partial
from typing import TYPE_CHECKING, Any, NamedTuple

from isheep.batching import derive_seed
from isheep.engines import Engine, ray, tokens
from isheep.errors import Conflicts, TooLong
from isheep.models.checkpoint import check_device, find_checkpoint, load_model, load_tokenizer, start_token_ids
from isheep.recipe.schema import Recipe
from isheep.records import Completion, Model, Sampling, TokenLogprobs

if TYPE_CHECKING:
    from torch import Tensor

LOGITS = 2**27  # the most logits that `logprobs` holds at a time: 0.5 GB in fp32

PACKAGE = None
ONLY_RECIPE_MODEL = False


def open_from_recipe(recipe: Recipe, model: Model) -> Engine:
    """Return an engine on a model, or replicas of it. Weights load at first use."""
    return ray.open_from_recipe(open_one, recipe, model)


def open_one(recipe: Recipe, model: Model) -> Engine:
    """Return a single engine on a model, with the settings of the recipe's machine."""
    machine = recipe.machine
    return open_engine(model, threads=machine.threads, device=machine.device, batch=machine.engine_batch_size)


def check(recipe: Recipe) -> list[str]:
    """Raise UserError if the recipe asks for replicas and there is no Ray. Returns no notes."""
    ray.check(recipe)
    return []


def conflicts(recipe: Recipe) -> Conflicts:
    """Yield the settings that replicas exclude; a single engine serves every recipe."""
    yield from ray.conflicts(recipe)


def open_engine(
    model: Model, threads: int | None = None, device: str | None = None, dtype: str | None = None, batch: int = 128
) -> "TransformersEngine":
    """An engine on `model`. Cheap: weights load at first use, onto `device` ("cpu", "cuda"; None takes CUDA if there).

    `dtype` None computes in float32 on CPU, whatever the checkpoint is stored in, and in bfloat16 on CUDA. At most
    `batch` requests are read or written at a time. `threads` is for the whole process. The same calls on the same
    threads give the same bytes. Raises UserError where `model` is a path without a checkpoint, or `device` is not
    there.
    """
    find_checkpoint(model.base)
    check_device(device)
    return TransformersEngine(model, threads, device, dtype, batch)


class Loaded(NamedTuple):
    """What first use brings into memory."""

    model: Any
    tokenizer: Any
    start: list[int]  # what the tokenizer puts before a text: [beginning of sequence] or nothing
    ends: frozenset[int]  # the tokens that end an answer
    context: int  # the longest sequence in tokens


class TransformersEngine:
    """`isheep.engines.Engine` on the transformers library. Open it with `open_engine`."""

    at_once = 1

    def __init__(self, model: Model, threads: int | None, device: str | None, dtype: str | None, batch: int) -> None:
        self.source, self.threads, self.device, self.dtype, self.batch = model, threads, device, dtype, batch

    @cached_property
    def loaded(self) -> Loaded:
        import torch

        from isheep.engines.attention import share_prefixes

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
        return Loaded(model, tokenizer, start_token_ids(tokenizer), frozenset(known - {None}), context or 2**30)

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
        if fitting:
            chance = decode.noise([derive_seed(seed, place) for place in fitting], sampling.max_tokens)
            written = self._continue([rows[place] for place in fitting], sampling, chance)
            for place, completion in zip(fitting, written, strict=True):
                done[place] = completion
        return done

    def _continue(self, rows: list[list[int]], sampling: Sampling, chance: "Tensor") -> list[Completion]:
        import torch

        from isheep.engines import decode

        model, tokenizer, _, ends, context = self.loaded
        penalty, last = sampling.presence_penalty, sampling.max_tokens - 1

        def pick(logits: "Tensor", places: list[int], written: list[list[int]]) -> "Tensor":
            steps = [min(len(written[place]), last) for place in places]  # a row that has ended may be asked for more
            uniforms = chance[places, steps].to(logits.device)
            if penalty:
                row = [i for i, place in enumerate(places) for _ in written[place]]
                column = [token for place in places for token in written[place]]
                logits = logits.float()
                logits[row, column] = logits[row, column] - penalty  # once for a token, however often it comes
            return decode.draw(logits, uniforms, sampling.temperature, sampling.top_p)

        ids, texts = tokens.stops(tokenizer, sampling.stop)
        ids |= ends
        piece = cache(partial(tokenizer.decode, clean_up_tokenization_spaces=False))
        final = {text[-1] for text in texts} | {"\ufffd"}  # a character cut in two may be a stop's last one

        def ended(row: list[int]) -> bool:
            if row[-1] in ids:
                return True
            if not texts or not (" " in final or final & set(piece(row[-1]))):  # a decoded piece may lose its space
                return False
            text = tokens.text_of(tokenizer, row)
            return any(stop in text for stop in texts)

        limits = [min(sampling.max_tokens, context - len(row)) for row in rows]
        with torch.inference_mode():
            written = decode.decode(model, rows, limits, self.batch, pick, ended)
        return [tokens.completion(tokenizer, row, stopped, ids, texts) for row, stopped in written]

    def logprobs(self, prompts: Sequence[str], outputs: Sequence[str]) -> list[TokenLogprobs]:
        """The log-probability of each output's tokens after its prompt, in nats.

        Prompt and output are tokenized apart and their ids joined, so that the prompt's tokens are those that
        `generate` reads. What is beyond the context is left out: of an output its end, or all of it.
        """
        import torch

        from isheep.engines import decode

        model, _, *_, context = self.loaded
        rows = zip(self._prompts(prompts), map(self._ids, outputs), strict=True)
        both = [(prompt, output[: max(0, context - len(prompt))]) for prompt, output in rows]
        asked = [place for place, (_, output) in enumerate(both) if output]
        longest = max((len(output) for _, output in both), default=0) + 1
        size = self._size(longest)
        done = [TokenLogprobs([], []) for _ in both]
        with torch.inference_mode():
            own = [len(both[place][1]) + 1 for place in asked]
            prefix, rest = decode.read_start(model, [sum(both[place], []) for place in asked], own)
            for some in decode.alike([len(row) for row in rest], size):
                width = max(own[i] for i in some)
                batch = decode.Batch(model, prefix, len(some), len(rest[some[0]]))
                for i, logits in zip(some, batch.read([rest[i] for i in some], width), strict=True):
                    output = both[asked[i]][1]
                    wanted = torch.tensor(output, dtype=torch.long, device=logits.device)
                    chances = logits[-len(output) - 1 : -1].float().log_softmax(-1)
                    found = chances.gather(1, wanted[:, None])[:, 0].tolist()
                    done[asked[i]] = TokenLogprobs(output, found)
        return done

    def choices(self, prompts: Sequence[str], options: Sequence[str]) -> list[list[float]]:
        """How probable each option is as the beginning of each prompt's continuation: (prompts, options).

        One pass over each prompt with the tokens behind it that options share (" 1", where " 10" is three tokens), and
        over these again for each other such beginning. What all prompts begin with is read once, and so is what some
        of them do. After a prompt that leaves no room in the context all are 0; raises UserError where no prompt leaves
        any.
        """
        import torch

        context = self.loaded.context
        rows, wanted = self._prompts(prompts), [tuple(self._ids(option)) for option in options]
        longest = max(map(len, wanted), default=1)
        fitting = [place for place, row in enumerate(rows) if len(row) + longest <= context]
        if rows and not fitting:
            raise self._too_long(f"a prompt of {min(map(len, rows))} tokens with an option of {longest}")
        shares = [[0.0] * len(options) for _ in rows]
        if fitting and options:
            with torch.inference_mode():
                chances = self._begin([rows[place] for place in fitting], wanted).tolist()
            for place, row in zip(fitting, chances, strict=True):
                shares[place] = tokens.exclusive(wanted, row)
        return shares

    def _begin(self, rows: Sequence[list[int]], options: Sequence[tuple[int, ...]]) -> "Tensor":
        """How probable it is that a row's continuation begins with an option's tokens: float64 (rows, options)."""
        import torch

        from isheep.engines import attention, decode

        model, paths = self.loaded.model, decode.paths(options)
        own = max(map(len, paths)) + 1
        size = self._size(own)
        asked = [(row, path) for row in range(len(rows)) for path in range(len(paths))]
        prefix, rest = decode.read_start(model, [[*rows[row], *paths[path]] for row, path in asked], [own] * len(asked))
        groups = decode.families(rest, own, size if attention.shares(model) else 1)
        widest = max(len(places) for _, places in groups)
        chances = torch.ones(len(rows), len(options), dtype=torch.float64, device=model.device)
        for some in decode.alike([len(rest[places[0]]) for _, places in groups], max(1, size // widest)):
            places, logits = decode.read_ends(model, prefix, rest, [groups[i] for i in some], own)
            for n, path in enumerate(paths):
                here = [i for i, place in enumerate(places) if asked[place][1] == n]
                after = logits[here, -len(path) - 1 :].float().softmax(-1)  # (rows, places on the path, vocabulary)
                of = [asked[places[i]][0] for i in here]
                for option, ids in enumerate(options):
                    for k, token in enumerate(ids):
                        if next(other for other in paths if decode.begins(ids[:k], other)) == path:
                            chances[of, option] *= after[:, k, token]
        return chances

    def embed(self, texts: Sequence[str]) -> Any:
        """The last layer's hidden state, mean over the text's tokens that fit the context: float32 (texts, width)."""
        import numpy as np
        import torch

        from isheep.engines import decode

        model = self.loaded.model
        rows = [row[: self.loaded.context] for row in self._prompts(texts)]
        means = np.zeros((len(rows), model.config.get_text_config().hidden_size), np.float32)
        for some in decode.alike([len(row) for row in rows], self.batch):
            part = [rows[i] for i in some]
            width = len(part[0])
            ids = torch.tensor([row + [0] * (width - len(row)) for row in part], device=model.device)
            mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in part], device=model.device)
            with torch.inference_mode():
                states = model.base_model(ids, attention_mask=mask, use_cache=False).last_hidden_state.float()
                means[some] = ((states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)).cpu().numpy()
        return means

    def close(self) -> None:
        """Gives the memory back. A later call loads the weights again."""
        if self.__dict__.pop("loaded", None) is not None:
            import torch

            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _size(self, positions: int) -> int:
        """How many rows to read at a time where the logits of `positions` of each are asked for."""
        vocabulary: int = self.loaded.model.config.get_text_config().vocab_size
        return max(1, min(self.batch, LOGITS // (positions * vocabulary)))

    def _ids(self, text: str) -> list[int]:
        return tokens.ids_of(self.loaded.tokenizer, text)

    def _prompts(self, prompts: Sequence[str]) -> list[list[int]]:
        return tokens.prompts(self.loaded.tokenizer, self.loaded.start, prompts)

    def _too_long(self, what: str) -> TooLong:
        return TooLong(
            f"{what} does not fit {self.source.base!r}, which reads {self.loaded.context} tokens, the answer included:"
            " shorten it (fewer or shorter examples) or take a model with a longer context"
        )
