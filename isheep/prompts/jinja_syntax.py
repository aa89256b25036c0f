"""Check the syntax of a chat template without a tokenizer."""

from functools import cache

from isheep.errors import one_line


@cache
def find_syntax_error(template: str) -> str | None:
    """Return what is wrong with a Jinja text, as "line 3: unexpected '}'", or None if it can be compiled.

    The syntax is that of transformers: Jinja's own with `break`, `continue` and blocks {% generation %}.
    """
    # Imported here, because most recipes name a template that isheep has.
    from jinja2 import Environment, TemplateSyntaxError

    from isheep.prompts.generation_block import GenerationBlock

    # Nothing is rendered, so nothing has to be escaped.
    environment = Environment(extensions=["jinja2.ext.loopcontrols", GenerationBlock], autoescape=True)
    try:
        environment.parse(template)
    except TemplateSyntaxError as error:
        return f"line {error.lineno}: {error.message}"
    except RecursionError:
        return "nested too deeply"
    except ValueError as error:
        return one_line(error)
    return None
