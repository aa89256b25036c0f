"""What the stages of one iteration share: its settings, the model that generates, and where the files go."""

from collections.abc import Sequence
from dataclasses import dataclass

from isheep.backends import DEFAULT_BACKEND, Backend
from isheep.batching import derive_seed
from isheep.engines import Engine
from isheep.filters.base import PairFilter
from isheep.models.chat_template import ChatTemplate, plain_prompt
from isheep.recipe.schema import Recipe
from isheep.records import Sampling
from isheep.rundir.folder import RunFolder
from isheep.rundir.iterations import iteration_dir
from isheep.seeds import SeedTask


@dataclass(frozen=True)
class StageContext:
    """The first argument of every stage: a stage is `stage(context, input_rows) -> output_rows`.

    `recipe` is the recipe as this iteration has it (Recipe.at), `engine` runs the model M^(iteration - 1), and `run` is
    the run folder's root. A stage reads and writes its files in `folder`, through RunFolder.map_batches. `backend`
    opens another model, such as the base model as a judge. `filters` are applied after those of the recipe.
    """

    recipe: Recipe
    engine: Engine
    chat: ChatTemplate
    run: RunFolder
    iteration: int
    seed_tasks: Sequence[SeedTask] = ()
    backend: Backend = DEFAULT_BACKEND
    filters: Sequence[PairFilter] = ()
    output_dir: RunFolder | None = None

    @property
    def folder(self) -> RunFolder:
        """The folder of the stages' files: `output_dir`, or the iteration's folder if it is None."""
        return self.output_dir or iteration_dir(self.run, self.iteration)

    def seed(self, *path: int | str) -> int:
        """Return the random seed of a place in this iteration, such as `seed("response", batch)`."""
        return derive_seed(self.recipe.seed, self.iteration, *path)

    def prompt(self, text: str, in_chat: bool) -> str:
        """Return a prompt: the text as a user's turn of the chat template, or by itself."""
        return self.chat.prompt(text) if in_chat else plain_prompt(text, self.chat)

    def sampling(self, settings: Sampling, *stop: str) -> Sampling:
        """Return `settings` with more stop strings: the chat template's end token, `stop`, then its own.

        A tuned model writes the end token after a plain prompt too.
        """
        return settings.model_copy(update={"stop": (self.chat.end, *stop, *settings.stop)})
