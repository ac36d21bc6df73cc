"""`python -m hub.release`: a folder of training runs -> the zoo on the Hub, and a record of its commits.

This module parses, prints and exits; `release_zoo` is the function to call from Python. What is published already is
compared and left alone, so after a failure the same command goes on where it ended.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hub.arguments import add_repository_arguments, add_weights_arguments, publishing_command
from hub.publish import publish_model
from timm_gam.core import (
    CommandParser,
    PublishError,
    RefusedError,
    TimmGamError,
    check_outputs,
    printable,
    write_json,
)

_EPILOG = """\
examples
  publish every finished run below runs/ (plain, SE, CBAM, GAM) as v1.0 and record the commits:
    python -m hub.release runs --tag corel --revision v1.0
  from photographs to a published zoo, in two commands:
    python -m eval.table1 --data-dir coreldb
    python -m hub.release runs/table1 --tag corel --revision v1.0

Of several seeds of a model the lowest is published. A run that cannot be published does not stop the others; the same
command again does what is left.
exit codes: 0 all published, 2 refused or some failed (the table says which), 130 interrupted
"""


@dataclass(frozen=True)
class Row:
    """What became of one run: `state` is "published", "unchanged", "dry run" or "failed"; `error` says why."""

    run: str
    model: str
    state: str
    metrics: dict[str, float]
    url: str
    error: str | None = None


def release_zoo(
    runs: Path,
    *,
    releases: Path,
    weights_tag: str | None = None,
    log: Callable[[str], None] = lambda line: None,
    **options: Any,
) -> list[Row]:
    """Publish the best weights of every run below a folder, and record each commit as it is there.

    Of several seeds of a model the lowest is published: the best of them would promise more than a training gives.

    Args:
        runs: Folder of run folders of `python -m timm_gam.train` or `python -m eval.table1`.
        releases: File of releases to bring up to date, see `timm_gam.models.weights.releases`.
        weights_tag: Publish each run as MODEL.TAG; default the name of the images that it trained on.
        log: Called with each line of progress.
        **options: Of `hub.publish.publish_model`, for every run.

    Returns:
        One row per run, in order of model name.

    Raises:
        RefusedError: no runs, or two of the same model and seed.
        OutputError: `releases` cannot be written.

    >>> rows = release_zoo(Path("runs"), releases=Path("releases.json"), namespace="me", dry_run=True)
    >>> [(row.model, row.state) for row in rows]
    [('test_resnet_gam', 'dry run')]
    """
    from hub.push import page_url

    check_outputs(releases)
    rows = []
    for model, run in sorted(_find_runs(runs).items()):
        try:
            published = publish_model(f"{model}.{weights_tag}" if weights_tag else model, run, log=log, **options)
        except TimmGamError as error:
            log(f"failed  {error}")
            rows.append(Row(run.name, model, "failed", {}, "", str(error)))
            continue
        pushed, result = published.pushed, published.trained.result
        if pushed is not None:
            _record(releases, published.repo_id, pushed.commit, published.weights_sha256)
        metrics = {name: average["micro"] for name, average in result["metrics"].items()} if result is not None else {}
        state = "dry run" if pushed is None else "published" if pushed.changes else "unchanged"
        rows.append(Row(run.name, published.trained.architecture, state, metrics, page_url(published.repo_id)))
    return rows


def _find_runs(runs: Path) -> dict[str, Path]:
    """Model name -> its run folder: of several seeds the lowest, which no score has chosen."""
    import yaml

    found: dict[str, dict[int, Path]] = {}
    for config in sorted(runs.glob("*/config.yaml")):
        try:
            recipe = yaml.safe_load(config.read_text(encoding="utf-8"))
            model, seed = str(recipe["model"]).partition(".")[0], int(recipe.get("seed", 0))
        except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise RefusedError(f"'{config}' is no training recipe ({error!r}); move that folder away") from error
        earlier = found.setdefault(model, {})
        if seed in earlier:
            raise RefusedError(
                f"'{earlier[seed].name}' and '{config.parent.name}' are both runs of {model} with seed {seed}; "
                "keep the one to release"
            )
        earlier[seed] = config.parent
    if not found:
        raise RefusedError(f"no training runs in '{runs}'; name a folder of run folders of python -m timm_gam.train")
    return {model: seeds[min(seeds)] for model, seeds in found.items()}


def _record(releases: Path, repo_id: str, commit: str, weights_sha256: str) -> None:
    """Put one repository's commit and digest into the file of releases."""
    from timm_gam.models import Release, read_releases

    entries = read_releases(releases)
    entries[repo_id] = Release(commit, weights_sha256)
    write_json(releases, {repo_id: asdict(release) for repo_id, release in sorted(entries.items())})


def _summary(rows: Sequence[Row]) -> str:
    """One line per run: state, headline metrics in per cent, page or error."""
    from eval import text_table

    shown = ("hit@1", "hit@10", "precision@10", "map")
    lines = [["model", *(f"{name}, %" for name in shown), "state", "run"]]
    for row in rows:
        cells = [f"{100 * row.metrics[name]:.2f}" if name in row.metrics else "-" for name in shown]
        lines.append([row.model, *cells, row.state, row.run])
    ends = [printable(f"{row.model}: {row.error or row.url}") for row in rows]
    return text_table(lines, rules=(0,)) + "\n\n" + "\n".join(ends)


def build_parser() -> argparse.ArgumentParser:
    """The parser of `python -m hub.release`. Imports nothing heavy."""
    parser = CommandParser(
        prog="python -m hub.release",
        description="Publish every training run of a folder, and record the commits that the model names stand for.",
        epilog=_EPILOG,
    )
    parser.add_argument(
        "runs", type=Path, metavar="RUNS_DIR", help="a folder of run folders of python -m timm_gam.train"
    )
    add_weights_arguments(parser)
    parser.add_argument(
        "--tag",
        dest="weights_tag",
        metavar="NAME",
        help="of the weights, MODEL.NAME (default: the name of the run's images); corel: CorelDB's 80 classes",
    )
    parser.add_argument(
        "--releases",
        type=Path,
        metavar="FILE",
        help="record commits here (default: TIMM_GAM_RELEASES, else the package)",
    )
    add_repository_arguments(parser, out=False)
    return parser


def _run(*, releases: Path | None, log: Callable[[str], None], **options: Any) -> None:
    from timm_gam.models import releases_file

    rows = release_zoo(releases=releases or releases_file(), log=log, **options)
    log(f"\n{_summary(rows)}")
    if failed := [row.model for row in rows if row.state == "failed"]:
        raise PublishError(
            f"{len(failed)} of {len(rows)} not published ({', '.join(failed)}); run the same command again"
        )


main = publishing_command(build_parser, _run)

if __name__ == "__main__":
    sys.exit(main())
