"""What a chat template writes around an answer, and that generation reads the same text as training shows.

A template renders a conversation twice: open, up to where the answer starts, which generation reads; and closed, with
the answer, as its model was trained. Both must agree up to the answer and have the same tokens.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Any

from isheep.errors import one_line
from isheep.models.checkpoint import start_text, start_token_ids
from isheep.models.template_limits import is_too_long
from isheep.models.tokenization import continuation_ids, encode, prompt_ids
from isheep.records import Turns

QUESTION, MARK = "0question0", "0answer0"
"""Stand for the two turns while the texts around them are searched; no template changes these words."""

LINES = f'{QUESTION}\n\n  "An" & <it\'s>\tend'
"""A question of several lines with signs, which no template may change."""

TODAY = date(2024, 7, 26)
"""The date in Llama's templates if there is no clock. A run whose template reads the clock has a date of its own."""

DATE_CODE = re.compile("%-?[AaBbCcDdeFGgHhIjMmnpRrSTtUuVWwXxYyZz]")
"""A part of a date as strftime writes it; %s is none, because it depends on the time zone."""


class TemplateProblem(Exception):
    """The reason why a template can't be used, as the end of a message."""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A template as it is used, and what it writes around an answer."""

    template: str
    end: str
    """The special token that ends an answer."""
    parts: bool = False
    """Whether a turn's content is given as a list of parts, as templates for images want it."""
    before: str = ""
    """White space between the prompt and an answer."""
    after: str = ""
    """White space between an answer and `end`."""
    reads_clock: bool = False


def render(tokenizer: Any, template: str, turns: Turns, open_answer: bool, parts: bool = False) -> str:
    """Return a conversation as text, up to where an answer starts if `open_answer`.

    Raises TemplateProblem if it is far longer than its turns, and what the template raises.
    """
    messages = [
        {"role": role, "content": [{"type": "text", "text": content}] if parts else content} for role, content in turns
    ]
    text: str = tokenizer.apply_chat_template(
        messages, chat_template=template, tokenize=False, add_generation_prompt=open_answer
    )
    if is_too_long(text, [content for _, content in turns]):
        raise TemplateProblem(f"makes {len(text)} characters of a dialogue with far fewer")
    return text


def find_frame(tokenizer: Any, template: str, day: date | None) -> Frame:
    """Return the frame of a template, which may be changed so that its two renderings agree.

    `day` is the date that the template sees instead of the clock's. Raises TemplateProblem, about the template as it
    is, if no change helps.
    """
    dated, reads_clock = fix_date(tokenizer, template, day or TODAY)
    problem: TemplateProblem | None = None
    for variant in _variants(dated):
        for parts in (False, True):
            try:
                return replace(_frame(tokenizer, variant, parts), reads_clock=reads_clock)
            except TemplateProblem as error:
                problem = problem or error
    assert problem
    raise problem


def _variants(template: str) -> Iterator[str]:
    """Yield the template, and the template with thinking switched off by the name of its own switch."""
    yield template
    for name in ("enable_thinking", "thinking"):
        if re.search(rf"\b{name}\b", template):
            yield f"{{% set {name} = false %}}\n{template}"


def _frame(tokenizer: Any, template: str, parts: bool) -> Frame:
    """Return the frame of one variant. Raises TemplateProblem."""
    closed = _render(tokenizer, template, [("user", QUESTION), ("assistant", MARK)], False, parts)
    opened = _render(tokenizer, template, [("user", QUESTION)], True, parts)
    for turn, mark, text in (("a user's turn", QUESTION, opened), ("an answer", MARK, closed)):
        if mark not in text:
            raise TemplateProblem(f"drops the text of {turn}")
    if LINES not in _render(tokenizer, template, [("user", LINES)], True, parts):
        raise TemplateProblem("changes the line ends, spaces or signs in a user's turn")
    head, _, tail = closed.rpartition(MARK)
    end = _end_token(tokenizer, tail)
    if not head.startswith(opened):
        raise _disagreement(opened, head)
    before, after = head[len(opened) :], tail[: len(tail) - len(tail.lstrip())]
    if before.strip():
        # A template without a generation prompt renders both alike; its answers get the header that it writes.
        if opened != _render(tokenizer, template, [("user", QUESTION)], False, parts):
            raise _disagreement(opened, head)
        return _frame(tokenizer, with_header(template, before), parts)
    started = with_start(tokenizer, template, opened)
    if started != template and _adds_space_at_start(tokenizer, opened):
        return _frame(tokenizer, started, parts)
    _check_tokens(tokenizer, opened, closed, before + MARK + after, end)
    return Frame(template=template, end=end, parts=parts, before=before, after=after)


def _render(tokenizer: Any, template: str, turns: Turns, open_answer: bool, parts: bool) -> str:
    try:
        return render(tokenizer, template, turns, open_answer, parts)
    except TemplateProblem:
        raise
    # A template may raise any exception.
    except Exception as error:
        raise TemplateProblem(f"can't be rendered: {one_line(error)}") from error


def _end_token(tokenizer: Any, tail: str) -> str:
    """Return the special token at the start of the text that follows an answer."""
    suffix = tail.strip()
    tokens = [token for token in tokenizer.get_added_vocab() if token.strip() and suffix.startswith(token)]
    if not tokens:
        raise TemplateProblem(f"ends an answer with {suffix[:40] or 'nothing'!r}, which is no special token")
    return str(max(tokens, key=len))


def _disagreement(opened: str, head: str) -> TemplateProblem:
    shared = next((n for n, pair in enumerate(zip(opened, head, strict=False)) if pair[0] != pair[1]), None)
    shared = min(len(opened), len(head)) if shared is None else shared
    return TemplateProblem(
        f"opens an answer with {opened[shared:][-40:]!r} and shows {head[shared:][-40:]!r} before a complete one, so"
        " that generation and training would read different texts"
    )


def _check_tokens(tokenizer: Any, opened: str, closed: str, answer: str, end: str) -> None:
    """Raise TemplateProblem if prompt, answer and end token, tokenized apart, are not the tokens of the whole text."""
    prompt, whole = prompt_ids(tokenizer, [opened, closed])
    ids = [*prompt, *continuation_ids(tokenizer, answer, prompt), tokenizer.convert_tokens_to_ids(end)]
    if whole[: len(ids)] != ids:
        raise TemplateProblem(
            "is split into other tokens with an answer than without, so that generation and training would read"
            " different tokens"
        )


def with_header(template: str, header: str) -> str:
    """Return a template that writes `header` where an answer is to start, as a generation prompt."""
    # Jinja drops a line end at the end of a template.
    body = template.removesuffix("\n")
    return f"{body}{{{{ {json.dumps(header, ensure_ascii=False)} if add_generation_prompt else '' }}}}"


def with_start(tokenizer: Any, template: str, opened: str) -> str:
    """Return a template that also writes what the tokenizer puts before a text; `opened` is a rendering of it.

    transformers puts nothing before a rendered template.
    """
    start = start_token_ids(tokenizer)
    if not start or encode(tokenizer, opened)[: len(start)] == start:
        return template
    if start == [tokenizer.bos_token_id]:
        return "{{- bos_token }}" + template
    return f"{{{{- {json.dumps(start_text(tokenizer), ensure_ascii=False)} }}}}{template}"


def _adds_space_at_start(tokenizer: Any, opened: str) -> bool:
    """Return whether a rendering gets other tokens if its start is part of the text: a space before the first word."""
    return prompt_ids(tokenizer, [opened]) != prompt_ids(tokenizer, [start_text(tokenizer) + opened])


# --- the date


def fix_date(tokenizer: Any, template: str, day: date) -> tuple[str, bool]:
    """Return a template that sees the date `day` instead of the clock's, and whether it read the clock.

    With the clock every day would give other prompts, and a resumed run others than it began with.
    """
    if re.search(r"\bdate_string\b", template):
        template = f"{{% set date_string = {json.dumps(f'{day:%d %b %Y}')} %}}\n{template}"
    if "strftime_now" not in template:
        return template, False
    renderings = [_render_all(tokenizer, _with_clock(template, moment)) for moment in (TODAY, date(2012, 11, 25))]
    # A template may also ask in a dialogue that is not rendered here, so that none keeps the clock.
    return _with_clock(template, day), renderings[0] != renderings[1]


def _with_clock(template: str, day: date) -> str:
    """Return a template in which strftime_now gives the beginning of a day, in whatever format it is asked for."""
    moment = datetime(day.year, day.month, day.day)
    texts = json.dumps({code: moment.strftime(code) for code in dict.fromkeys(DATE_CODE.findall(template))})
    return (
        "{% macro strftime_now(format) %}{% set day = namespace(text=format) %}"
        f"{{% for code, text in {texts}.items() %}}{{% set day.text = day.text | replace(code, text) %}}{{% endfor %}}"
        f"{{{{ day.text }}}}{{% endmacro %}}\n{template}"
    )


def _render_all(tokenizer: Any, template: str) -> list[str]:
    """Return what a template makes of the two renderings, with contents as texts and as parts; "" if it can't."""
    texts = []
    for turns, open_answer in (([("user", QUESTION)], True), ([("user", QUESTION), ("assistant", MARK)], False)):
        for parts in (False, True):
            try:
                texts.append(_render(tokenizer, template, turns, open_answer, parts))
            except TemplateProblem:
                texts.append("")
    return texts
