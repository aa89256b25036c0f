"""Chat templates: what a model reads before an answer, and the token that ends one."""

from typing import Any, NamedTuple

from isheep.errors import UserError
from isheep.models.checkpoint import load_tokenizer, num_embeddings
from isheep.prompts import FOLDER

OURS = {"qwen": FOLDER / "qwen.jinja", "llama3": FOLDER / "llama3.jinja"}  # Liang et al. 2024, Appendix E
MARK = "0answer0"  # stands for the answer while we look for what follows it; no template changes it
TODAY = "26 Jul 2024"  # what Llama's templates say without a clock: the real day would make another run every day


class ChatTemplate(NamedTuple):
    """A chat template on a model's tokenizer."""

    name: str  # "qwen", "llama3" or "tokenizer"
    template: str  # the whole Jinja text, as it is saved beside an adapter
    end: str  # the special token that ends an answer, as "<|im_end|>"
    tokenizer: Any

    def prompt(self, content: str) -> str:
        """The text that the model reads, up to where the answer to `content` starts."""
        return render_conversation(self.tokenizer, self.template, [("user", self.plain(content))], open_answer=True)

    @property
    def special(self) -> frozenset[str]:
        """All special tokens of the tokenizer, those without a role (such as reserved ones) too, and `end`."""
        added = self.tokenizer.added_tokens_decoder.values()
        named = {token.content for token in added if token.special}
        return frozenset({*named, *self.tokenizer.all_special_tokens, self.end} - {""})

    def plain(self, text: str) -> str:
        """`text` without the tokenizer's special tokens: what a model wrote may name them, and must not end a turn."""
        tokens = sorted(self.special)
        while any(token in text for token in tokens):  # taking one out may join the halves of another
            for token in tokens:
                text = text.replace(token, "")
        return text


def load_chat_template(chat: str, model: str) -> ChatTemplate:
    """The template `chat` ("qwen", "llama3", or "tokenizer" for the tokenizer's own) on the tokenizer of `model`.

    Raises UserError where `chat` is none of these, where the tokenizer has no template of its own, where the template
    can't be rendered, where what ends an answer in it is not one token of the tokenizer, or where the tokenizer has
    tokens that the model has no embeddings for.
    """
    if chat not in (*OURS, "tokenizer"):
        raise UserError(f"chat template {chat!r} is not known: take one of {', '.join(OURS)}, tokenizer")
    tokenizer = load_tokenizer(model)
    template = OURS[chat].read_text(encoding="utf-8") if chat in OURS else _own(tokenizer, model)
    try:
        text = render_conversation(tokenizer, template, [("user", "question"), ("assistant", MARK)], open_answer=False)
    except Exception as error:  # a template may raise anything at all
        reason = " ".join(str(error).split())
        raise UserError(f"chat template {chat!r} of {model!r} can't be rendered: {reason}") from error
    # An added token that no text of ours holds does no harm: some models have no embedding for one.
    last, size = max(tokenizer.vocab_size - 1, *tokenizer(text).input_ids), num_embeddings(model)
    if last >= size:
        raise UserError(f"model {model!r}: its tokenizer has a token {last}, its weights only {size}; give its own one")
    return ChatTemplate(chat, template, _end(tokenizer, text.rpartition(MARK)[2].strip(), chat, model), tokenizer)


def render_conversation(tokenizer: Any, template: str, turns: list[tuple[str, str]], open_answer: bool) -> str:
    """The conversation in (role, content) `turns` as text, up to where an answer starts if `open_answer`."""
    messages = [{"role": role, "content": content} for role, content in turns]
    text: str = tokenizer.apply_chat_template(
        messages, chat_template=template, tokenize=False, add_generation_prompt=open_answer, date_string=TODAY
    )
    return text


def _own(tokenizer: Any, model: str) -> str:
    template = tokenizer.chat_template
    if isinstance(template, dict):  # some tokenizers hold several by name
        template = template.get("default")
    if not template:
        raise UserError(f"the tokenizer of {model!r} has no chat template: set chat to {' or '.join(OURS)}")
    return str(template)


def _end(tokenizer: Any, after: str, chat: str, model: str) -> str:
    """The special token at the start of `after`, the text that follows an answer."""
    tokens = [token for token in tokenizer.get_added_vocab() if after.startswith(token)]
    if not tokens:
        shown = after[:40] or "nothing"
        raise UserError(
            f"chat template {chat!r} ends an answer with {shown!r}, which is no special token of {model!r}:"
            f" take a template that its tokenizer knows ({', '.join(OURS)}, tokenizer)"
        )
    return str(max(tokens, key=len))
