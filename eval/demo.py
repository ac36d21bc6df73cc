"""`python -m eval.demo`: what training is worth, on images drawn by code, with no data, GPU or network.

Scores the package's tiny networks, trained on COREL photographs, and the same networks untrained, beside chance.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timm_gam.core import CommandParser, check_outputs, command, interrupts_exit, progress_bar, write_json

if TYPE_CHECKING:
    from eval.results.result import RetrievalResult

DEMO_MODELS = ("test_resnet.corel", "test_resnet_se.corel", "test_resnet_cbam.corel", "test_resnet_gam.corel")

_NEXT = """\
now your own photos, in one folder per class:
  {command} score --model test_resnet_gam.corel --data-dir PHOTOS --report report.html"""


def build_parser() -> CommandParser:
    """The parser of `python -m eval.demo`."""
    parser = CommandParser(
        prog="python -m eval.demo",
        description="Score the package's tiny networks, trained on COREL photographs and untrained, on scenes drawn by "
        "code. Needs no data, GPU or network.",
        epilog="example\n  python -m eval.demo --report demo.html\n",
    )
    parser.add_argument("--report", type=Path, default=Path("demo.html"), metavar="FILE", help="(default: %(default)s)")
    parser.add_argument("--results-file", type=Path, metavar="FILE", help="also write the table as JSON")
    return parser


def _run(args: argparse.Namespace) -> None:
    with interrupts_exit():
        from eval.report.write import write_report
    check_outputs(args.report, args.results_file)
    trained, untrained = demo_results()
    record = demo_record(trained, untrained)
    print(demo_table(record))
    if args.results_file is not None:
        write_json(args.results_file, record)
    write_report(trained, args.report, notes=["Images drawn by code; they do not replace photographs."])
    program = "timm-gam" if shutil.which("timm-gam") else f"{sys.executable} -m timm_gam"  # as `make demo` leaves it
    print(f"\nlook at every query and its results: {args.report}\n\n{_NEXT.format(command=program)}")


def demo_results(images_per_class: int = 30) -> tuple[list[RetrievalResult], list[RetrievalResult]]:
    """Results of the four trained networks, and of the same networks untrained, on the same images.

    >>> trained, untrained = demo_results(images_per_class=2)
    >>> [result.name for result in trained][:2]
    ['test_resnet.corel', 'test_resnet_se.corel']
    """
    import numpy as np

    from eval.evaluation.evaluate import evaluate
    from eval.results.result import Settings
    from timm_gam.data import draw_synthetic
    from timm_gam.embed import EmbedSettings
    from timm_gam.images import cache_decoded, resolve_preprocessing
    from timm_gam.models import load_model

    drawn = draw_synthetic(images_per_class)
    images = cache_decoded(drawn, np.arange(len(drawn)), 2**28)
    settings = Settings(EmbedSettings(workers=0))
    results: tuple[list[RetrievalResult], list[RetrievalResult]] = [], []
    with progress_bar("scoring", "network", 2 * len(DEMO_MODELS)) as advance:
        for name in DEMO_MODELS:
            loaded = load_model(name)
            preprocessing = resolve_preprocessing(loaded.model)
            random = load_model(name.partition(".")[0], pretrained=False)
            for model, into in ((loaded, results[0]), (random, results[1])):
                into.append(evaluate(model, images, preprocessing=preprocessing, settings=settings))
                advance(1)
    return results


def demo_record(trained: Sequence[RetrievalResult], untrained: Sequence[RetrievalResult]) -> dict[str, Any]:
    """What the table says, for JSON: shares in [0, 1], the difference paired over queries with its 95 % interval."""
    from timm_gam.core import hardware, versions

    data = trained[0].facts.data
    rows = []
    for good, random in zip(trained, untrained, strict=True):
        paired = good.compare(random, "hit@1")
        rows.append(
            {
                "model": good.name,
                "weights": good.facts.weights.sha256 if good.facts.weights else None,
                "trained": good.averages["hit@1"].micro,
                "untrained": random.averages["hit@1"].micro,
                "difference": paired.difference,
                "ci95": paired.interval,
                "population": paired.population,
                "p": paired.p,
            }
        )
    return {
        "metric": "hit@1",
        "images": data.images,
        "classes": data.classes,
        "fingerprint": data.fingerprint,
        "chance": (data.images // data.classes - 1) / (data.images - 1),  # classes are of one size
        "rows": rows,
        "versions": versions(),
        "hardware": hardware(),
    }


def demo_table(record: Mapping[str, Any]) -> str:
    """Four rows and the chance level of what `demo_record` gives, in per cent."""
    from eval.tables.metric_tables import percent, text_table

    rows = [["hit@1, %", "trained", "untrained", "difference"]]
    for row in record["rows"]:
        cells = [f"{100 * row[which]:.1f}" for which in ("trained", "untrained")]
        rows.append([row["model"], *cells, percent(row["difference"], row["ci95"], "+.1f")])
    rows.append(["chance", *[f"{100 * record['chance']:.1f}"] * 2, ""])
    head = (
        f"{record['images']} scenes drawn by code, {record['classes']} classes, each image a query against all others"
    )
    return f"{head}\n\n{text_table(rows, (0, len(rows) - 2))}"


main = command(build_parser, _run)

if __name__ == "__main__":
    sys.exit(main())
