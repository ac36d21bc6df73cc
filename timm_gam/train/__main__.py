"""`python -m timm_gam.train`: train a model into a run folder.

This is the only module of the package that parses, prints and exits.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from timm_gam.core import RecipeError, command, print_line
from timm_gam.train.arguments import build_parser
from timm_gam.train.recipe import COMPUTE_KEYS, Recipe, read_recipe, recipe_from


def _run(args: argparse.Namespace) -> None:
    given = dict(vars(args))
    resume, config, output = (given.pop(name, None) for name in ("resume", "config", "output"))
    if resume is not None:
        if config or output or not given.keys() <= set(COMPUTE_KEYS):
            raise RecipeError(
                "--resume goes on by the run's own recipe; legal beside it: --device, --workers and --cache-images"
            )
        folder = Path(str(resume))
        recipe = _recipe(folder / "config.yaml", given)
    else:
        recipe = _recipe(Path(str(config)) if config else None, given)
        if recipe.data_dir is None and recipe.dataset is None:
            raise RecipeError("no images to train on; name them with --data-dir or --dataset")
        folder = Path(str(output)) if output else Path("runs") / f"{recipe.model}-{recipe.seed}"
    from eval import RetrievalEvaluator
    from timm_gam.train.run import train

    result = train(recipe, folder, RetrievalEvaluator(), resume=resume is not None, log=print_line)
    if result is not None:
        from eval import metric_table, summary

        print(f"\n{summary(result)}\n{metric_table([result])}\n\nwrote {folder}")


def _recipe(config: Path | None, given: dict[str, object]) -> Recipe:
    values = read_recipe(config) if config is not None else {}
    where = f"'{config}'" if config is not None else "the command line"
    return recipe_from({**values, **given}, where)


main = command(build_parser, _run, interrupted="interrupted; --resume goes on from the last saved state")

if __name__ == "__main__":
    sys.exit(main())
