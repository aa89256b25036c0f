"""Check the syntax of a chat template without a tokenizer."""

from functools import cache


@cache
def find_syntax_error(template: str) -> str | None:
    """Return what is wrong with a Jinja text, as "line 3: unexpected '}'", or None if it can be compiled.

    The syntax is that of transformers: Jinja's own with `break`, `continue` and blocks {% generation %}.
    """
    # Imported here, because most recipes name a template that isheep has.
    from jinja2 import Environment, TemplateSyntaxError, nodes
    from jinja2.ext import Extension
    from jinja2.parser import Parser

    class GenerationBlock(Extension):
        """The block around what an assistant says, which transformers adds to Jinja."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Parser) -> list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    # Nothing is rendered, so nothing has to be escaped.
    environment = Environment(extensions=["jinja2.ext.loopcontrols", GenerationBlock], autoescape=True)
    try:
        environment.parse(template)
    except TemplateSyntaxError as error:
        return f"line {error.lineno}: {error.message}"
    return None
