"""Conversations as seed tasks: the first question of ShareGPT's `conversations` or of `messages`, and its answer."""

from typing import Any, NamedTuple

from isheep.errors import UserError

# The names of roles in published files (ShareGPT and its variants, OpenAI, LangChain, Open Assistant, Gemma).
ROLES = {
    "user": ("human", "user", "prompter"),
    "assistant": ("gpt", "assistant", "chatgpt", "ai", "bot", "bing", "bard", "model"),
    "system": ("system", "developer"),
    "tool": ("tool", "tool_call", "tool_calls", "tool_response", "function", "function_call", "observation"),
}
# Keys of a conversation, or of a task in LLaMA-Factory's files, that hold a system text, tools or earlier turns.
CONTEXT_KEYS = ("system", "system_prompt", "tools", "history")
ROLE_OF_NAME = {name: role for role, names in ROLES.items() for name in names}


class FirstExchange(NamedTuple):
    """The first question of a conversation and the answer directly after it, None if something else follows."""

    question: Any
    answer: Any
    has_system_turn: bool


def is_conversation(entry: dict[str, Any]) -> bool:
    """Return whether an entry has a list of turns."""
    return isinstance(entry.get("conversations", entry.get("messages")), list)


def first_exchange(entry: dict[str, Any], location: str) -> FirstExchange:
    """Return the first user turn of a conversation and its answer.

    Raises UserError, which begins with `location`, if a turn is no object, has a role that is not in ROLES, or if there
    is no user turn.
    """
    turns = [_read_turn(turn, number, location) for number, turn in enumerate(_turns(entry), 1)]
    roles = [role for role, _ in turns]
    if {"conversations", "messages"} <= entry.keys() or "instruction" in entry:
        keys = [key for key in ("conversations", "messages", "instruction") if key in entry]
        raise UserError(f"{location}: it has {' and '.join(keys)}, which may differ: keep one of them")
    if "user" not in roles:
        raise UserError(f"{location}: the conversation has no turn of a user ({', '.join(ROLES['user'])})")
    index = roles.index("user")
    # A turn before the response of a tool is a call of that tool, whatever its form.
    following = roles[index + 1 : index + 3]
    is_answered = following[:1] == ["assistant"] and following[1:] != ["tool"] and bool(turns[index + 1][1])
    return FirstExchange(turns[index][1], turns[index + 1][1] if is_answered else None, "system" in roles)


def has_context(entry: dict[str, Any]) -> bool:
    """Return whether an entry has a system text, tools or earlier turns beside its turns or its task."""
    is_system_turn = is_conversation(entry) and first_exchange(entry, "").has_system_turn
    return is_system_turn or any(entry.get(key) for key in CONTEXT_KEYS)


def _turns(entry: dict[str, Any]) -> list[Any]:
    return list(entry["conversations"] if "conversations" in entry else entry["messages"])


def _read_turn(turn: Any, number: int, location: str) -> tuple[str, Any]:
    """Return the role and the content of a turn."""
    if not isinstance(turn, dict):
        raise UserError(f"{location}: turn {number} must be an object with a role and a text")
    name = turn.get("from", turn.get("role"))
    role = ROLE_OF_NAME.get(name.strip().lower()) if isinstance(name, str) else None
    if role is None:
        names = ", ".join(ROLE_OF_NAME)
        raise UserError(
            f"{location}: turn {number} has the unknown role {str(name)[:40]!r}; rename it to one of {names}"
        )
    if turn.get("tool_calls") or turn.get("function_call"):
        role = "tool"
    text = turn.get("value", turn.get("content"))
    return role, text.strip() if isinstance(text, str) else text
