"""Chat templates: the text that a model reads before it answers, and the token that ends an answer."""

from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from typing import Any

from isheep.errors import UserError, one_line
from isheep.models.checkpoint import load_tokenizer, num_embeddings
from isheep.models.prompt_text import literal_text, mark_tokens, unmark
from isheep.models.template_frame import MARK, QUESTION, Frame, TemplateProblem, find_frame, render
from isheep.models.template_limits import find_excess
from isheep.models.tokenization import prompt_ids
from isheep.prompts import FOLDER, is_jinja_text
from isheep.records import Turns

PACKAGED_TEMPLATES = {"qwen": FOLDER / "qwen.jinja", "llama3": FOLDER / "llama3.jinja"}
"""The templates of Liang et al. 2024, Appendix E."""

TOKENIZER = "tokenizer"
"""The name that stands for the template in the tokenizer's own files."""

OWN = "own"
"""The name of a template whose text the recipe holds."""


@dataclass(frozen=True, kw_only=True)
class ChatTemplate(Frame):
    """A chat template together with a model's tokenizer.

    `name` is "qwen", "llama3", "tokenizer" or "own". `template` is the Jinja text, `end` the special token that ends an
    answer, such as "<|im_end|>"; the other fields are those of Frame, too.
    """

    name: str
    tokenizer: Any

    def prompt(self, content: str) -> str:
        """Return the text that the model reads, up to where the answer to `content` starts."""
        return self.conversation([("user", content)])

    def answer(self, text: str) -> str:
        """Return an answer as it stands between the prompt and the end token."""
        return self.before + literal_text(text, self.special) + self.after

    def conversation(self, turns: Turns, open_answer: bool = True) -> str:
        """Return a conversation as text, up to where an answer starts if `open_answer`.

        Special tokens that a turn spells are plain text in it: a text that a model wrote must not end a turn. Raises
        UserError if the template can't be rendered, for example because it refuses a role.
        """
        return unmark(self.marked_conversation(turns, open_answer))

    def marked_conversation(self, turns: Turns, open_answer: bool = True) -> str:
        """Return a conversation with marks around the special tokens that its turns spell (prompt_text.unmark)."""
        turns = [(role, mark_tokens(content, self.special)) for role, content in turns]
        try:
            return render(self.tokenizer, self.template, turns, open_answer, self.parts)
        # A template may raise any exception.
        except Exception as error:
            roles = ", ".join(role for role, _ in turns)
            raise UserError(f"the chat template can't be rendered with the turns {roles}: {one_line(error)}") from error

    @property
    def special(self) -> frozenset[str]:
        """All tokens that no turn may hold: the tokenizer's special tokens, and added ones that the template writes."""
        return _control_tokens(self.tokenizer, self.template, self.end)


@lru_cache(maxsize=16)
def _control_tokens(tokenizer: Any, template: str, end: str) -> frozenset[str]:
    """Return the control tokens of a tokenizer with a template, including those without a role (such as reserved ones).

    Tokens that appear in the template count even if the tokenizer does not flag them as special, as in some families.
    White space does not count: Gemma has tokens of line ends.
    """
    added = tokenizer.added_tokens_decoder.values()
    special = {token.content for token in added if token.special}
    written = {token.content for token in added if token.content in template and not token.content.isspace()}
    return frozenset({*special, *written, *tokenizer.all_special_tokens, end} - {""})


def load_chat_template(name: str, model: str, day: date | None = None) -> ChatTemplate:
    """Return a chat template with the tokenizer of `model`.

    `name` is "qwen", "llama3", "tokenizer" (the tokenizer's own), or the Jinja text of a template of the user's own.
    `day` is the date that a template sees which asks for it.

    Raises UserError if the name is unknown, if the tokenizer has no template, if the template can't be rendered, takes
    too much time or memory, or drops a turn's text, if generation would read another text than training shows, if an
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
    try:
        if name not in PACKAGED_TEMPLATES and (excess := find_excess(template, tokenizer.special_tokens_map)):
            raise TemplateProblem(excess)
        frame = find_frame(tokenizer, template, day)
    except TemplateProblem as problem:
        raise UserError(
            f"chat template {name!r} of {model!r} {problem}: take a template that its tokenizer knows "
            f"({', '.join(PACKAGED_TEMPLATES)}, {TOKENIZER}, or a .jinja file of yours)"
        ) from problem.__cause__
    _check_vocabulary(tokenizer, frame, model)
    return ChatTemplate(name=name, tokenizer=tokenizer, **vars(frame))


def plain_prompt(text: str, chat: Any) -> str:
    """Return a prompt outside of a chat template, in which the special tokens of `chat` are plain text."""
    return literal_text(text, chat.special)


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


def _check_vocabulary(tokenizer: Any, frame: Frame, model: str) -> None:
    """Raise UserError if the tokenizer has a token without an embedding in the model.

    Of added tokens only those in a conversation count: some models have no embedding for one that is never used.
    """
    example = render(tokenizer, frame.template, [("user", QUESTION), ("assistant", MARK)], False, frame.parts)
    ids = [tokenizer.vocab_size - 1, *prompt_ids(tokenizer, [example])[0], tokenizer.convert_tokens_to_ids(frame.end)]
    last_token, size = max(ids), num_embeddings(model)
    if last_token >= size:
        raise UserError(
            f"model {model!r}: its tokenizer has a token {last_token}, its weights only {size}; give its own tokenizer"
        )
