"""Second turns of dialogues: the model writes what the user asks after its answer (response.turns: 2)."""

import re
from collections.abc import Sequence

from isheep.errors import UserError
from isheep.models.chat_template import ChatTemplate
from isheep.models.template_frame import MARK, QUESTION
from isheep.records import UNREADABLE, DialogueTask, Exchange, Pair, Rejected, Reply
from isheep.stages.context import StageContext
from isheep.stages.rules import unsafe_text

# How dialogue_text begins a turn: a text with such a line would read as several turns where it is rated.
TURN_LINE = re.compile(r"^(?:User|Assistant):", re.MULTILINE)


def write_follow_ups(context: StageContext, first_pairs: Sequence[Pair]) -> list[DialogueTask]:
    """Return the tasks of second turns that the model writes as the user, each with the first turn before it.

    The raw texts are in follow_ups.jsonl, those that make no task in unanswered.jsonl, with reasons. An answer that
    can't be read, or is empty or cut off, has no follow-up.
    """
    answered_pairs = [pair for pair in first_pairs if pair.output and pair.finish == "stop"]
    replies = generate_follow_ups(context, answered_pairs)
    tasks, rejections = read_follow_ups(answered_pairs, replies)
    context.folder.write("unanswered.jsonl", Rejected, rejections)
    return tasks


def generate_follow_ups(context: StageContext, pairs: Sequence[Pair]) -> Sequence[Reply]:
    """Return what the model writes as the user's next turn after each pair, under the pair's id (follow_ups.jsonl).

    It is drawn like answers (`response.sampling`), and ends where the template ends a user's turn.
    """
    settings = context.recipe.response
    sampling = context.sampling(settings.sampling, user_turn_end(context.chat))

    def reply_batch(start: int) -> list[Reply]:
        batch = pairs[start : start + settings.batch_size]
        seed = context.seed("follow-up", start // settings.batch_size)
        texts = [open_user_turn(pair, context.chat) for pair in batch]
        return [
            Reply(id=pair.id, text=completion.text.strip(), finish=completion.finish, tokens=completion.tokens)
            for pair, completion in zip(batch, context.engine.generate(texts, sampling, seed), strict=True)
        ]

    return context.folder.map_batches(
        "follow_ups.jsonl",
        Reply,
        reply_batch,
        len(pairs),
        settings.batch_size,
        max_in_flight=context.engine.max_in_flight,
    )


def open_user_turn(pair: Pair, chat: ChatTemplate) -> str:
    """Return the dialogue of a pair up to where the next user's turn begins.

    A space between the template's text and a turn ("[INST] ") is left to the model, whose tokens begin with it.
    """
    turns = [("user", pair.user_turn), ("assistant", pair.output), ("user", MARK)]
    return chat.conversation(turns).rpartition(MARK)[0].rstrip(" ")


def check_dialogues(chat: ChatTemplate) -> None:
    """Raise UserError if the chat template refuses a dialogue of two turns, or does not show the first one in it."""
    turns = [("user", QUESTION), ("assistant", MARK), ("user", QUESTION)]
    try:
        text = chat.conversation(turns)
    except UserError as error:
        raise UserError(f"response.turns is 2, and {error}: set it to 1, or take another chat_template") from error
    if re.findall(f"{QUESTION}|{MARK}", text) != [content for _, content in turns]:
        raise UserError(
            f"response.turns is 2, and the chat template {chat.name!r} does not show the first turn of a dialogue: set "
            "it to 1, or take another chat_template"
        )


def user_turn_end(chat: ChatTemplate) -> str:
    """Return the text with which the template ends a user's turn: the special token that follows the turn.

    Where no special token does, as in Llama 2's template ("[/INST]"), it is the first line of what follows.
    """
    text_after = chat.prompt(MARK).rpartition(MARK)[2].strip()
    tokens = [token for token in chat.special if text_after.startswith(token)]
    return max(tokens, key=len, default=text_after.partition("\n")[0] or chat.end)


def read_follow_ups(pairs: Sequence[Pair], replies: Sequence[Reply]) -> tuple[list[DialogueTask], list[Rejected]]:
    """Return the replies that make a task of a second turn, and the others with the reason.

    The id of the second turn after t1-00042 is t1-00042.2.
    """
    tasks: list[DialogueTask] = []
    rejections: list[Rejected] = []
    for pair, reply in zip(pairs, replies, strict=True):
        id = f"{pair.id}.2"
        if reason := _reason_for_no_task(pair, reply):
            rejections.append(Rejected(id=id, text=reply.text, by="follow-ups", why=reason))
        else:
            history = (Exchange(pair.user_turn, pair.output),)
            tasks.append(DialogueTask(id=id, instruction=reply.text, history=history))
    return tasks, rejections


def _reason_for_no_task(pair: Pair, reply: Reply) -> str | None:
    """Return why a reply is no task of a second turn, None if it is one."""
    if reply.finish == UNREADABLE:
        return "the server's answer can't be read"
    if not reply.text:
        return "no follow-up"
    if reply.finish == "length":
        return "cut off"
    if reply.text == pair.user_turn:
        return "repeats the first turn"
    if match := TURN_LINE.search(reply.text):
        return f"begins a turn with {match[0]!r}"
    return unsafe_text(reply.text)
