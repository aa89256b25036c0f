"""Chat templates: the text that a model reads before it answers, and the token that ends an answer."""

from typing import Any, NamedTuple

from isheep.errors import UserError, one_line
from isheep.models.checkpoint import load_tokenizer, num_embeddings
from isheep.prompts import FOLDER, is_jinja_text
from isheep.text.removal import remove_all

PACKAGED_TEMPLATES = {"qwen": FOLDER / "qwen.jinja", "llama3": FOLDER / "llama3.jinja"}
"""The templates of Liang et al. 2024, Appendix E."""

TOKENIZER = "tokenizer"
"""The name that stands for the template in the tokenizer's own files."""

OWN = "own"
"""The name of a template whose text the recipe holds."""

MARK = "0answer0"
"""Stands for the answer while the text that follows it is searched; no template changes this word."""

TODAY = "26 Jul 2024"
"""The date in Llama's templates if there is no clock. With the real date every day would give other prompts."""


class ChatTemplate(NamedTuple):
    """A chat template together with a model's tokenizer.

    `name` is "qwen", "llama3", "tokenizer" or "own", `template` the Jinja text, `end` the special token that ends an
    answer, such as "<|im_end|>".
    """

    name: str
    template: str
    end: str
    tokenizer: Any

    def prompt(self, content: str) -> str:
        """Return the text that the model reads, up to where the answer to `content` starts."""
        return render_conversation(self.tokenizer, self.template, [("user", self.plain(content))], open_answer=True)

    @property
    def special(self) -> frozenset[str]:
        """All special tokens of the tokenizer, including those without a role (such as reserved ones), and `end`."""
        added_tokens = self.tokenizer.added_tokens_decoder.values()
        special = {token.content for token in added_tokens if token.special}
        return frozenset({*special, *self.tokenizer.all_special_tokens, self.end} - {""})

    def plain(self, text: str) -> str:
        """Return `text` without special tokens: text that a model wrote may spell them, and must not end a turn."""
        return remove_all(text, self.special)


def load_chat_template(name: str, model: str) -> ChatTemplate:
    """Return a chat template with the tokenizer of `model`.

    `name` is "qwen", "llama3", "tokenizer" (the tokenizer's own), or the Jinja text of a template of the user's own.

    Raises UserError if the name is unknown, if the tokenizer has no template, if the template can't be rendered, if an
    answer does not end with one special token of the tokenizer, or if the tokenizer has tokens without an embedding in
    the model.
    """
    is_text = is_jinja_text(name)
    if name not in (*PACKAGED_TEMPLATES, TOKENIZER) and not is_text:
        names = ", ".join(PACKAGED_TEMPLATES)
        raise UserError(f"chat template {name!r} is not known: take one of {names}, {TOKENIZER}")
    tokenizer = load_tokenizer(model)
    if is_text:
        template, name = name, OWN
    elif name in PACKAGED_TEMPLATES:
        template = PACKAGED_TEMPLATES[name].read_text(encoding="utf-8")
    else:
        template = _tokenizer_template(tokenizer, model)
    example = _render_example(tokenizer, template, name, model)
    _check_vocabulary(tokenizer, example, model)
    end = _end_token(tokenizer, example.rpartition(MARK)[2].strip(), name, model)
    return ChatTemplate(name, template, end, tokenizer)


def render_conversation(tokenizer: Any, template: str, turns: list[tuple[str, str]], open_answer: bool) -> str:
    """Return the conversation in (role, content) `turns` as text, up to where an answer starts if `open_answer`.

    Raises UserError if the template can't be rendered, for example because it refuses a role.
    """
    messages = [{"role": role, "content": content} for role, content in turns]
    try:
        text: str = tokenizer.apply_chat_template(
            messages, chat_template=template, tokenize=False, add_generation_prompt=open_answer, date_string=TODAY
        )
    # A template may raise any exception.
    except Exception as error:
        roles = ", ".join(role for role, _ in turns)
        raise UserError(f"the chat template can't be rendered with the turns {roles}: {one_line(error)}") from error
    return text


def _tokenizer_template(tokenizer: Any, model: str) -> str:
    template = tokenizer.chat_template
    # Some tokenizers hold several templates by name.
    if isinstance(template, dict):
        template = template.get("default")
    if not template:
        raise UserError(
            f"the tokenizer of {model!r} has no chat template: set chat to {' or '.join(PACKAGED_TEMPLATES)}"
        )
    return str(template)


def _render_example(tokenizer: Any, template: str, name: str, model: str) -> str:
    """Return a question and the answer MARK in the template. Raises UserError if it can't be rendered."""
    try:
        # The form in which the model is asked.
        render_conversation(tokenizer, template, [("user", "question")], open_answer=True)
        return render_conversation(tokenizer, template, [("user", "question"), ("assistant", MARK)], open_answer=False)
    except UserError as error:
        reason = one_line(error.__cause__)
        raise UserError(f"chat template {name!r} of {model!r} can't be rendered: {reason}") from error.__cause__


def _check_vocabulary(tokenizer: Any, example: str, model: str) -> None:
    """Raise UserError if the tokenizer has a token without an embedding in the model.

    Of added tokens only those in the example count: some models have no embedding for one that is never used.
    """
    last_token, size = max(tokenizer.vocab_size - 1, *tokenizer(example).input_ids), num_embeddings(model)
    if last_token >= size:
        raise UserError(
            f"model {model!r}: its tokenizer has a token {last_token}, its weights only {size}; give its own tokenizer"
        )


def _end_token(tokenizer: Any, suffix: str, name: str, model: str) -> str:
    """Return the special token at the start of `suffix`, the text that follows an answer."""
    tokens = [token for token in tokenizer.get_added_vocab() if suffix.startswith(token)]
    if not tokens:
        raise UserError(
            f"chat template {name!r} ends an answer with {suffix[:40] or 'nothing'!r}, which is no special token of "
            f"{model!r}: take a template that its tokenizer knows ({', '.join(PACKAGED_TEMPLATES)}, {TOKENIZER})"
        )
    return str(max(tokens, key=len))
