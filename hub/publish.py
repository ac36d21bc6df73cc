"""`python -m hub.publish`: one trained model -> its repository on the Hub, checked before and proved after.

This module parses, prints and exits; `publish_model` is the function to call from Python.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hub.arguments import add_repository_arguments, add_weights_arguments, publishing_command
from timm_gam.core import (
    CommandParser,
    ProgressBar,
    no_progress,
    temporary_folder,
)

if TYPE_CHECKING:
    from hub.model.trained import TrainedModel
    from hub.push import Pushed

_EPILOG = """\
examples
  what a training run left, with its records:
    python -m hub.publish resnet50_gam --checkpoint runs/resnet50_gam-0
  look first: write the repository to a folder and compare it with the Hub, sending nothing:
    python -m hub.publish resnet50_gam --checkpoint runs/resnet50_gam-0 --dry-run --out repository
  a bare checkpoint and its evaluation, under a name and a tag of your own:
    python -m hub.publish resnet50_gam.mine --checkpoint model.safetensors --record results.json \\
        --namespace me --revision v1.0

The token is read from HF_TOKEN or from hf auth login. HF_ENDPOINT names another Hub.
exit codes: 0 published (or nothing to do), 2 refused or failed (one line says why), 130 interrupted
"""


@dataclass(frozen=True)
class Published:
    """What came of publishing one model; `pushed` is None for a dry run, `verified` lists the ways it was pulled."""

    trained: TrainedModel
    repo_id: str
    weights_sha256: str
    pushed: Pushed | None
    verified: tuple[str, ...]


def publish_model(
    model: str,
    checkpoint: Path,
    *,
    record: Path | None = None,
    head: Path | None = None,
    namespace: str | None = None,
    license: str | None = None,
    base_model: str | None = None,
    dataset: str | None = None,
    tag: str | None = None,
    private: bool = False,
    half: bool = False,
    dry_run: bool = False,
    out: Path | None = None,
    log: Callable[[str], None] = lambda line: None,
    progress: ProgressBar = no_progress,
) -> Published:
    """Build a model's repository, publish it in one commit, pull it back and prove that it is the same.

    Args:
        model: "architecture.tag", or "architecture" of a run: the tag is then the name of its images.
        checkpoint: A safetensors file, or a run folder of `python -m timm_gam.train`.
        record: JSON of `python -m eval.retrieval`; default the run folder's.
        head: A head that timm-gam head trained on these weights, published as their last layer.
        namespace: Hub user or organisation; default `timm_gam.hub_namespace()`.
        license: Of the weights; default that of the registered model.
        base_model: Hub id of the weights the training started from; default what the run says.
        dataset: Hub id of the data set; default the one the run read.
        tag: Set at the published commit.
        private: Whether a new repository is private.
        half: Publish float16.
        dry_run: Build and compare, send nothing.
        out: Folder for the repository; default a temporary one.
        log: Called with each line of progress.
        progress: Makes a bar for what is embedded for the card's picture.

    Raises:
        TimmGamError: any of the errors in `timm_gam.core.errors`.

    >>> run = Path("runs/test_resnet_gam-0")
    >>> published = publish_model("test_resnet_gam", run, namespace="me", dry_run=True)
    >>> published.repo_id
    'me/test_resnet_gam.corel'
    """
    from hub.model.card import ModelPage
    from hub.model.origin import find_base_model, find_dataset, find_license, find_scored
    from hub.model.repository import write_model_repository
    from hub.model.trained import read_trained_model, with_head
    from hub.model.verify import verify_published
    from hub.push import preview_push, push_folder
    from timm_gam.core import file_sha256, hub_namespace
    from timm_gam.models import WEIGHTS_NAME

    owner = namespace or hub_namespace()
    trained = read_trained_model(model, checkpoint, record)
    if head is not None:
        trained = with_head(trained, head)
    repo_id = f"{owner}/{trained.name}"
    page = ModelPage(
        repo_id=repo_id,
        license=license or find_license(trained),
        base_model=base_model or find_base_model(trained),
        dataset=dataset or find_dataset(trained),
        scored=find_scored(trained) or dataset,
    )
    with temporary_folder("publish") as temporary:
        folder = out or temporary
        write_model_repository(folder, trained, page, half=half, progress=progress)
        weights_sha256 = file_sha256(folder / WEIGHTS_NAME)
        log(f"{trained.name} -> {repo_id}")
        if dry_run:
            log(preview_push(folder, repo_id))
            return Published(trained, repo_id, weights_sha256, None, ())
        pushed = push_folder(folder, repo_id, private=private, tag=tag, message=f"Publish {trained.name}")
        log(f"{pushed.changes}\n{pushed}")
        trained = replace(trained, tensors={})  # lets go of the mapped file before the models are made
        verified = verify_published(folder, repo_id, pushed.commit)
    log(f"proved  equal tensors and logits, pulled into empty caches by {' and '.join(verified)}\n{pushed.url}")
    return Published(trained, repo_id, weights_sha256, pushed, tuple(verified))


def build_parser() -> argparse.ArgumentParser:
    """The parser of `python -m hub.publish`. Imports nothing heavy."""
    parser = CommandParser(
        prog="python -m hub.publish",
        description="Publish a trained model: checked, with its card and records, in one commit, and pulled back.",
        epilog=_EPILOG,
    )
    parser.add_argument("model", metavar="MODEL", help="architecture.TAG (the tag: by default the run's data)")
    parser.add_argument(
        "--checkpoint", type=Path, required=True, metavar="F", help="a safetensors file, or a training run's folder"
    )
    parser.add_argument(
        "--record", type=Path, metavar="JSON", help="of python -m eval.retrieval (default: the run's evaluation.json)"
    )
    parser.add_argument("--head", type=Path, metavar="FILE", help="of timm-gam head, trained on these weights")
    add_weights_arguments(parser)
    parser.add_argument("--base-model", metavar="ID", help="weights the training started from (default: by the run)")
    add_repository_arguments(parser)
    return parser


main = publishing_command(build_parser, publish_model)

if __name__ == "__main__":
    sys.exit(main())
