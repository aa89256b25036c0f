"""Structured choice: servers that let a completion be one of the given texts and nothing else."""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from isheep.engines.server import PROBE_TEXT, ServerConnection, completion_text, greedy_request, with_few_attempts

ChoiceForm = Callable[[Sequence[str]], dict[str, Any]]
"""A function from texts to the parameters of a request whose completion is one of them."""

# No model writes one of these after PROBE_TEXT by itself.
PROBE_OPTIONS = ("quartz-vex", "umbra-jot")


def _structured_outputs(options: Sequence[str]) -> dict[str, Any]:
    """Return the parameters of vLLM."""
    return {"structured_outputs": {"choice": list(options)}}


def _guided_choice(options: Sequence[str]) -> dict[str, Any]:
    """Return the parameters of vLLM before its version 0.12."""
    return {"guided_choice": list(options)}


def _grammar(options: Sequence[str]) -> dict[str, Any]:
    """Return the parameters of llama.cpp: a grammar in GBNF, whose texts are quoted as in JSON."""
    return {"grammar": f"root ::= {' | '.join(map(json.dumps, options))}"}


def _regex(options: Sequence[str]) -> dict[str, Any]:
    """Return the parameters of SGLang."""
    return {"regex": f"({'|'.join(map(re.escape, options))})"}


FORMS: tuple[ChoiceForm, ...] = (_structured_outputs, _guided_choice, _grammar, _regex)


def find_choice_form(connection: ServerConnection) -> ChoiceForm | None:
    """Return the form in which a server offers structured choice, found with small requests; None if it does not.

    A server that does not know a parameter refuses the request, or writes another text.
    """
    for form in FORMS:
        body = greedy_request(connection, PROBE_TEXT, 16, **form(PROBE_OPTIONS))
        reply = with_few_attempts(connection).complete(body)
        if not reply.error and completion_text(reply.choice or {}) in PROBE_OPTIONS:
            return form
    return None
