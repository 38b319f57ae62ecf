"""`tfdatafree schema`: prints the JSON schema of recipe files."""

import json

from absl import flags

from tfdatafree.cli.command import NAME, Command, Flags
from tfdatafree.recipe.schema import recipe_schema


def _define(options: Flags) -> None:
    pass


def _run(values: flags.FlagValues) -> None:
    print(json.dumps(recipe_schema(), indent=2))


COMMAND = Command(
    (),
    "",
    "Prints the JSON schema of recipe files, with which editors complete and check them; write it to a file.",
    'A recipe names it: {"$schema": "recipe.schema.json", "base": "int8", ...}.',
    f"{NAME} schema",
    _define,
    _run,
)
