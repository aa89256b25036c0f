"""The Modelfile with which Ollama runs a GGUF file in the chat template that the model was trained in."""

from isheep.models.chat_template import ChatTemplate

# Texts that stand for the turns while the template is taken apart.
QUESTION, ANSWER, SECOND = "0question0", "0answer0", "0second0"


def modelfile(gguf_name: str, chat: ChatTemplate, start: str) -> str:
    """Return the Modelfile for a GGUF file beside it. `start` is the text that llama.cpp puts before every prompt.

    Ollama's template is one of Go. It is made of the texts that stand between the turns of a conversation, so it has
    the template's own system turn, and ignores others. If these texts can't be told apart, the Modelfile has no
    template, and Ollama takes that of the GGUF file.
    """
    lines = [f"FROM ./{gguf_name}"]
    if template := go_template(chat, start):
        lines.append(f'TEMPLATE """{template}"""')
    lines.append(f'PARAMETER stop "{chat.end}"')
    return "\n".join(lines) + "\n"


def go_template(chat: ChatTemplate, start: str) -> str:
    """Return the chat template in Go's language, or "" if it does not put the same text around every turn."""
    text = chat.conversation([("user", QUESTION), ("assistant", ANSWER), ("user", SECOND)])
    marks = (QUESTION, ANSWER, SECOND)
    if any(text.count(mark) != 1 for mark in marks) or '"""' in text or "{{" in text:
        return ""
    before, rest = text.split(QUESTION)
    opening, rest = rest.split(ANSWER)
    between, ending = rest.split(SECOND)
    if opening != ending:
        return ""
    return (
        '{{ range $index, $message := .Messages }}{{ if eq .Role "user" }}'
        f"{{{{ if eq $index 0 }}}}{before.removeprefix(start)}{{{{ else }}}}{between}{{{{ end }}}}"
        f"{{{{ .Content }}}}{opening}"
        '{{ else if eq .Role "assistant" }}{{ .Content }}{{ end }}{{ end }}'
    )
