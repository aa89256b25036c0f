"""What an OpenAI-compatible server must be able to do for a recipe, found with small requests before a run."""

from isheep.engines import server
from isheep.engines.openai_engine import ADAPTER_HINT, OTHER_ENGINE, OpenAIEngine
from isheep.openai_client import without_password


def check_requirements(engine: OpenAIEngine, requirements: server.ServerRequirements) -> list[str]:
    """Check with at most a dozen small requests that the server can do what a recipe needs; return notes for users.

    Raises UserError if it can't.
    """
    connection, abilities, notes = engine.connection, engine.abilities, list[str]()
    if requirements.options:
        engine.choices([engine.load_chat().prompt(server.PROBE_TEXT)], requirements.options)
    if requirements.allowed and not (engine.most_logprobs or engine.choice_form):
        raise connection.error(
            "it gives no log-probabilities and has no structured choice, so that scores can't be constrained: take"
            f" assessment.read: generate, or {OTHER_ENGINE}"
        )
    if requirements.allowed and engine.most_logprobs:
        engine.choices([engine.load_chat().prompt(server.PROBE_TEXT)], requirements.allowed)
    if requirements.prompt_logprobs:
        ids = engine.prompt_ids([server.PROBE_TEXT])[0]
        if not (abilities.token_ids and server.echoes_prompts(connection, ids)):
            raise connection.error(
                "it does not echo the log-probabilities of prompts, which perplexities and benchmarks with options"
                f" need: take {OTHER_ENGINE}"
            )
    if requirements.adapters and not server.loads_adapters(connection):
        raise connection.error(
            f"it can't load adapters, and the recipe needs the models of its iterations; {ADAPTER_HINT}"
        )
    if requirements.sampling:
        draws, seeded = server.probe_sampling(connection)
        if not draws:
            raise connection.error(
                f"it ignores the temperature ({server.NUM_DRAWS} seeds at {server.DRAW_TEMPERATURE:g} gave the same"
                " text), and the recipe samples: serve a checkpoint whose generation_config has do_sample: true, or"
                " take another server"
            )
        if not seeded:
            url = without_password(connection.url)
            notes.append(f"server {url} ignores seeds: running the same recipe twice will not give the same files")
    return notes
