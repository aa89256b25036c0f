"""The claims of the paper as data: claims.yaml, read and checked."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from isheep.errors import UserError, unknown_name
from isheep.files.yaml_files import read_yaml

CLAIMS_FILE = Path(__file__).with_name("claims.yaml")


class Claim(BaseModel):
    """A claim, where the paper makes it and with what figures, and the contrasts that test it.

    `contrasts` are texts BEFORE:AFTER, each side SETTING@ITERATION. `expect` is what the claim says of AFTER.
    `margin` is the smallest difference that counts, in the unit of the measure; None: that of the laboratory.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    claim: str
    source: str
    paper: str
    measure: str
    contrasts: tuple[str, ...] = Field(min_length=1)
    expect: Literal["better", "same"] = "better"
    margin: float | None = None

    @property
    def settings(self) -> list[str]:
        """The settings that its contrasts compare."""
        return list(dict.fromkeys(name for contrast in self.contrasts for name in contrast_settings(contrast)))


def contrast_settings(contrast: str) -> list[str]:
    """Return the two settings that a contrast BEFORE:AFTER names."""
    return [side.partition("@")[0] for side in contrast.split(":")]


class Laboratory(BaseModel):
    """The sweep that has all settings, the claims, and the smallest difference that counts as one.

    `measure` is that of claims that name none, as NAME of a benchmark's score. `rule` says when a claim holds, in
    Markdown, with {margin} for the margin in points.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sweep: str
    measure: str
    margin: float
    rule: str = ""
    claims: tuple[Claim, ...]

    @property
    def settings(self) -> list[str]:
        """The settings that the claims compare."""
        return list(dict.fromkeys(name for claim in self.claims for name in claim.settings))


def load_laboratory(ids: Sequence[str] = ()) -> Laboratory:
    """Return the packaged claims, or only those named. Raises UserError for a name that no claim has."""
    values = read_yaml(CLAIMS_FILE)
    claims = [{"measure": values["measure"], **claim} for claim in values["claims"]]
    laboratory = Laboratory.model_validate({**values, "claims": claims})
    names = [claim.id for claim in laboratory.claims]
    for name in ids:
        if name not in names:
            raise UserError(unknown_name("claim", name, names))
    selected = tuple(claim for claim in laboratory.claims if not ids or claim.id in ids)
    return laboratory.model_copy(update={"claims": selected})
