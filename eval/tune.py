"""`timm-gam tune`, also `python -m eval.tune`: choose how embeddings are ranked. `--help` by example."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from eval.arguments.embedding import add_embedding_options, read_embedding_options
from eval.arguments.shared import add_results_file, check_results_file, show
from timm_gam.core import CommandParser, DataError, command, positive, progress_bar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from eval.results.result import RetrievalResult
    from timm_gam.rerank import Recipe

_EPILOG = """\
example
    timm-gam tune --model resnet50.a1_in1k --data-dir photos --budget 120

Recipes (--power, --rerank and their options, as timm-gam score takes them) are tried on validation images: a fifth of
each class of split train, against each other. First every method with its defaults, then the best with one option
changed at a time, while the budget lasts. Split test (with --protocol class-disjoint: the held-out classes) is scored
once, with the recipe that was best before.
exit codes: 0 chosen, 2 bad input (one line says what is legal), 130 interrupted
"""

_STEPS: dict[str, dict[str, tuple[float, ...]]] = {
    "qe": {"neighbours": (3, 5, 10, 20), "alpha": (0, 1, 3, 6)},
    "dba": {"neighbours": (5, 10, 20, 40), "alpha": (0, 1, 3, 6)},
    "diffusion": {
        "neighbours": (5, 10, 20, 40),
        "gamma": (1, 3, 6),
        "alpha": (0.8, 0.9, 0.99),
        "mix": (0.0, 0.01, 0.1, 0.3),
    },
    "k-reciprocal": {"neighbours": (10, 20, 40), "local": (3, 6, 12), "mix": (0.1, 0.3, 0.5)},
}
"""Values that options are given, from the defaults on; of each option the default is one."""


@dataclass(frozen=True)
class Trial:
    """A recipe and what it scored on validation images, in [0, 1]."""

    recipe: Recipe
    value: float
    seconds: float


def tune(
    score: Callable[[Recipe], float], *, budget: float = 120.0, on_trial: Callable[[Trial], None] = lambda trial: None
) -> list[Trial]:
    """Try recipes: the plain ranking, every method with its defaults, then changes of the best, one at a time.

    Args:
        score: Of a recipe on validation images, higher is better; DataError where it cannot be had, as for want of
            neighbours.
        budget: Seconds after which nothing new is begun; the plain ranking is always scored.
        on_trial: Called with each.

    Returns:
        Trials in their order; the first is the plain ranking.

    Raises:
        DataError: of the plain ranking.

    >>> found = tune(lambda recipe: recipe.power == 0.5 and recipe.method == "dba")
    >>> max(found, key=lambda trial: trial.value).recipe.name
    'power 0.5 + dba'
    """
    from timm_gam.rerank import METHODS, Recipe

    began, trials = time.perf_counter(), list[Trial]()
    tried: list[Recipe] = []

    def try_all(recipes: Iterator[Recipe]) -> None:
        for recipe in recipes:
            if recipe in tried or (trials and time.perf_counter() - began > budget):
                continue
            tried.append(recipe)
            start = time.perf_counter()
            try:
                value = float(score(recipe))
            except DataError:  # fewer images than neighbours, for one
                if not trials:  # not even the plain ranking
                    raise
                continue
            trials.append(Trial(recipe, value, time.perf_counter() - start))
            on_trial(trials[-1])

    try_all(Recipe(power=power, method=method) for method in (None, *METHODS) for power in (1.0, 0.5))
    searched: list[Recipe] = []
    while (best := best_of(trials).recipe) not in searched:
        searched.append(best)
        try_all(_near(best))
    return trials


def best_of(trials: Sequence[Trial]) -> Trial:
    """The first of those with the highest value."""
    return max(trials, key=lambda trial: trial.value)


def _near(recipe: Recipe) -> Iterator[Recipe]:
    """With one option changed."""
    for power in (1.0, 0.5, 0.7, 0.3):
        yield replace(recipe, power=power)
    if recipe.method is not None:
        usual = replace(recipe, options={}).all_options
        for name, values in _STEPS[recipe.method].items():
            others = {other: value for other, value in recipe.options.items() if other != name}
            for value in values:
                yield replace(recipe, options=others if value == usual[name] else {**others, name: value})


def build_parser() -> argparse.ArgumentParser:
    """The parser of `timm-gam tune`."""
    parser = CommandParser(
        "timm-gam tune", "Choose how a model's embeddings are ranked, on validation images only.", _EPILOG
    )
    add_embedding_options(parser)
    parser.add_argument(
        "--protocol",
        choices=("leave-one-out", "class-disjoint"),
        default="leave-one-out",
        help="what is scored at the end: split test, or held-out classes (default: %(default)s)",
    )
    parser.add_argument("--metric", default="map", metavar="NAME", help="to choose by (default: %(default)s)")
    parser.add_argument(
        "--budget", type=positive, default=120, metavar="SECONDS", help="for trying recipes (default: %(default)s)"
    )
    add_results_file(parser)
    return parser


def _run(args: argparse.Namespace) -> None:
    check_results_file(args.results_file)

    import numpy as np
    import torch

    from eval.evaluation.embedded_images import embed_rows
    from eval.evaluation.evaluate import evaluate
    from eval.results.record import document
    from eval.scoring.metrics import metric_names
    from timm_gam.core import ALONE
    from timm_gam.data import choose_protocol, published_split, read_images, training_rows
    from timm_gam.embed import Embedder

    loaded, preprocessing, settings = read_embedding_options(args)
    if args.metric not in (known := metric_names(settings.ks)):
        raise DataError(f"no metric '{args.metric}' to choose by; legal: {', '.join(known)}")
    images = read_images(args.data_dir, args.dataset)
    protocol = choose_protocol(images, args.protocol, split="test" if args.protocol == "leave-one-out" else "all")
    training, _ = training_rows(images, protocol)
    validation = training[published_split([images.ids[row] for row in training], images.labels[training])]
    if not len(validation) or np.bincount(images.labels[validation]).max() < 2:
        raise DataError(
            f"the {len(training)} training images of '{images.name}' leave {len(validation)} for validation, a fifth "
            "of each class, and no two of one class; recipes are chosen on classes of 10 training images or more"
        )
    embedder = Embedder(loaded, preprocessing, settings.embed)
    known_rows, _ = embed_rows(embedder, images, validation, settings, progress_bar, ALONE)
    vectors, labels = torch.from_numpy(np.array(known_rows.vectors)), images.labels[known_rows.rows]
    trials = tune(
        lambda recipe: validation_score(vectors, labels, recipe, args.metric),
        budget=args.budget,
        on_trial=lambda trial: print(_line(trial), file=sys.stderr, flush=True),
    )
    chosen = best_of(trials)
    result = evaluate(
        loaded,
        images,
        protocol,
        preprocessing=preprocessing,
        settings=replace(settings, recipe=chosen.recipe),
        progress=progress_bar,
    )
    content = {
        "metric": args.metric,
        "budget_seconds": args.budget,
        "validation_images": len(labels),
        "tried": [{"recipe": t.recipe.name, "value": t.value, "seconds": round(t.seconds, 3)} for t in trials],
        "chosen": chosen.recipe.name,
        "test": document([result.plain, result] if result.plain is not None else [result]),
    }
    show(args.results_file, content, lambda: _table(args.metric, trials, chosen, len(labels), result))


def validation_score(vectors: Tensor, labels: NDArray[np.int64], recipe: Recipe, metric: str = "map") -> float:
    """A metric of (N, D) vectors with (N,) labels, each against all others, ranked by a recipe.

    Raises:
        DataError: fewer vectors than the recipe needs.
    """
    import torch

    from eval.scoring.reranked import score_reranking
    from eval.scoring.retrieval_scores import score_retrieval

    made = recipe.transform(vectors)
    if recipe.method is None:
        return score_retrieval(made, labels, intervals="none").averages[metric].micro
    reranker = recipe.reranker(made, made, own=torch.arange(len(made)))
    return score_reranking(reranker, labels, labels, intervals="none").scores.averages[metric].micro


def _line(trial: Trial) -> str:
    return f"{100 * trial.value:6.2f}  {trial.seconds:5.1f} s  {trial.recipe.name or 'plain'}"


def _table(metric: str, trials: Sequence[Trial], chosen: Trial, images: int, result: RetrievalResult) -> str:
    from eval.results.gains import gain_table
    from eval.tables.metric_tables import summary

    ranked = sorted(trials, key=lambda trial: -trial.value)
    return "\n".join(
        [
            f"{len(trials)} recipes on {images} validation images; {metric} in %, best first",
            *map(_line, ranked),
            f"\nchosen    {chosen.recipe.name or 'the plain ranking'}",
            summary(result),
            gain_table(result) or f"{metric} {100 * result.averages[metric].micro:.2f}",
        ]
    )


main = command(build_parser, _run)

if __name__ == "__main__":
    sys.exit(main())
