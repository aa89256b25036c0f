"""lamb before its pretraining: an untrained model, and the tokenizer."""

import re
from itertools import islice
from pathlib import Path
from typing import Any

from isheep.lamb.pages import END, STOP, constants, page_text, pages
from isheep.lamb.shapes import HEAD_SIZE, LambShape

VOCABULARY = 2000
CONTEXT = 1024

WORD = r"\p{L}+ ?|\p{N}+|[^\s\p{L}\p{N}]+ ?|\s"
"""What a token is part of: a word or marks, with the space behind them, a number, or white space."""
NUMBERS = (r"\p{N}+", r"(?=(\d{3})+(?!\d))")
"""What the tokenizer splits off before the merges: numbers, of which it takes three digits at a time."""

TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def make_tokenizer(output_dir: Path, num_pages: int = 60_000, seed: int = 1) -> Any:
    """Train a byte-level BPE tokenizer on pages and save it. The fixed texts of the prompts are one token each.

    A space belongs to the word before it. So a word has the same token at the beginning of a line, behind a comma and
    at the end of a sentence.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    sentences, special_tokens = constants(), [STOP, "<|im_start|>", END]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([_split(WORD), _byte_level()])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(sentences),
        special_tokens=special_tokens,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # These have tokens of their own already; their words would get tokens that are never used.
    fixed_text = re.compile("|".join(re.escape(text) for text in sorted([*sentences, *special_tokens], key=len)[::-1]))
    texts = (text for page in islice(pages(seed), num_pages) for text in fixed_text.split(page_text(page)) if text)
    tokenizer.train_from_iterator(texts, trainer)
    # No merge crosses the edge of a word, so that this gives the same tokens. llama.cpp knows these splits as superbpe.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*map(_split, NUMBERS), _byte_level()])
    tokenizer.add_tokens([AddedToken(sentence, normalized=False) for sentence in sentences])
    fast_tokenizer: Any = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, eos_token=STOP, pad_token=STOP, model_max_length=CONTEXT, chat_template=TEMPLATE
    )
    fast_tokenizer.save_pretrained(output_dir)
    return fast_tokenizer


def _split(pattern: str) -> Any:
    """Return a pre-tokenizer that splits a text before and after each match."""
    from tokenizers import Regex, pre_tokenizers

    return pre_tokenizers.Split(Regex(pattern), "isolated")


def _byte_level() -> Any:
    """Return the pre-tokenizer that writes each byte as a character and splits nothing."""
    from tokenizers import pre_tokenizers

    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def make_model(vocabulary_size: int, shape: LambShape, seed: int) -> Any:
    """Return an untrained model."""
    import torch
    from transformers import LlamaForCausalLM

    torch.manual_seed(seed)
    return LlamaForCausalLM(make_config(vocabulary_size, shape))


def make_config(vocabulary_size: int, shape: LambShape) -> Any:
    """Return the configuration of a lamb, as transformers reads it."""
    from transformers import LlamaConfig

    num_heads = shape.width // HEAD_SIZE
    return LlamaConfig(
        vocab_size=vocabulary_size,
        hidden_size=shape.width,
        intermediate_size=shape.feed_forward,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=num_heads,
        num_key_value_heads=num_heads // 2,
        head_dim=HEAD_SIZE,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
    )
