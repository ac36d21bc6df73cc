"""`python -m eval.retrieval`: score how well timm models retrieve images. `--help` teaches by example.

This is the only module that parses, prints and exits; every step is a function of `eval` that Python can call.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from eval.arguments.retrieval import parse_arguments
from timm_gam.core import (
    DataError,
    TimmGamError,
    check_outputs,
    interrupts_exit,
    progress_bar,
    run_command,
    terminable,
)
from timm_gam.embed import chosen_views, with_head
from timm_gam.images import chosen_preprocessing
from timm_gam.rerank import chosen_recipe

if TYPE_CHECKING:  # heavy imports wait until the command line is known to be legal
    from eval.arguments.inputs import Inputs
    from eval.report.explanation import Explanation
    from eval.results.result import RetrievalResult, Settings
    from timm_gam.core import World
    from timm_gam.data import Protocol


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 scored, 2 bad input, 130 or 143 interrupted (Ctrl-C, SIGTERM)."""
    args = parse_arguments(argv)
    return run_command(lambda: _run(args))


def _run(args: argparse.Namespace) -> None:
    with interrupts_exit():
        import eval.evaluation.evaluate  # all that is heavy  # noqa: F401
        from eval.arguments.inputs import choose_inputs
        from timm_gam.core import join_world

    advice = "what was embedded is kept: start it again" if args.cache_dir else "start it again, with --cache-dir"
    with terminable(), join_world(args.device, advice) as world:
        if world.leads:
            _check_outputs(args)
        settings = _settings(args, world)
        inputs = choose_inputs(args)
        if inputs.note and world.leads:
            print(inputs.note, file=sys.stderr)
        notes = [inputs.note] if inputs.note else []
        protocol = _protocol(args, inputs)
        results: list[RetrievalResult] = []
        explanations: list[Explanation | None] = []
        try:
            for result, explanation in _results(args, inputs, protocol, settings, world):
                results.append(result)
                explanations.append(explanation)
        except (TimmGamError, KeyboardInterrupt) as error:
            # A model that fails, or Ctrl-C, does not cost the results of the models before it.
            if results and world.leads:
                _publish(args, results, explanations, [*notes, f"ended early: {error or 'interrupted'}"])
            raise
        if world.leads:
            _publish(args, results, explanations, notes)


def _check_outputs(args: argparse.Namespace) -> None:
    """Refuse what could not be written, or ranked by, before anything is computed."""
    from eval.results.files import PER_QUERY_SUFFIXES, RESULTS_SUFFIXES, check_suffix
    from eval.scoring.metrics import metric_names

    results_file = None if args.results_file in (None, "-") else Path(args.results_file)
    files = [name.partition("=")[2] or None for name in args.model or ()]
    read = [*files, *(args.checkpoint or ()), args.head, args.data_dir, args.gallery_dir]
    check_outputs(args.save, args.report, args.per_query, results_file, inputs=read)
    suffixes = ((results_file, RESULTS_SUFFIXES), (args.per_query, PER_QUERY_SUFFIXES), (args.save, (".safetensors",)))
    for path, legal in suffixes:
        if path is not None:
            check_suffix(path, legal)
    if args.rank_by not in (known := metric_names(args.k)):
        raise DataError(f"no metric '{args.rank_by}' to rank by; legal with these cutoffs: {', '.join(known)}")


def _results(
    args: argparse.Namespace, inputs: Inputs, protocol: Protocol, settings: Settings, world: World
) -> Iterator[tuple[RetrievalResult, Explanation | None]]:
    from eval.evaluation.evaluate import evaluate
    from eval.report.explanation import explain
    from timm_gam.images import resolve_preprocessing

    for load in inputs.models:
        loaded = with_head(load(), args.head)
        preprocessing = resolve_preprocessing(
            loaded.model, **chosen_preprocessing(args), shrink_on_load=args.shrink_on_load
        )
        result = evaluate(
            loaded,
            inputs.images,
            protocol,
            preprocessing=preprocessing,
            settings=settings,
            progress=partial(progress_bar, show=world.leads),
            world=world,
        )
        limits, wanted = settings.embed.limits, args.report is not None and world.leads
        for ranked in (result.plain, result):
            if ranked is not None:
                yield ranked, explain(ranked, loaded, preprocessing, limits) if wanted else None


def _settings(args: argparse.Namespace, world: World) -> Settings:
    import torch

    from eval.results.result import Settings
    from timm_gam.embed import EmbedSettings
    from timm_gam.images import DecodeLimits

    embed = EmbedSettings(
        layer=args.layer,
        batch_size=args.batch_size,
        workers=args.workers,
        device=str(world.device),
        amp_dtype=getattr(torch, args.amp_dtype) if args.amp else None,
        channels_last=args.channels_last,
        compile_backend=args.torchcompile,
        optimize=args.optimize,
        on_unreadable="skip" if args.skip_unreadable else "raise",
        limits=DecodeLimits.of(args),
        **chosen_views(args),
    )
    return Settings(
        embed,
        distance=args.distance,
        ks=tuple(sorted(set(args.k))),
        intervals=args.interval,
        memory_budget=args.memory_budget * 2**20,
        cache_folder=args.cache_dir,
        recipe=chosen_recipe(args),
    )


def _protocol(args: argparse.Namespace, inputs: Inputs) -> Protocol:
    from timm_gam.data import GALLERY, QUERY, choose_protocol

    if args.gallery_dir is not None:
        return choose_protocol(inputs.images, "query-gallery", query_split=QUERY, gallery_split=GALLERY)
    return choose_protocol(
        inputs.images,
        args.protocol or "leave-one-out",
        split=args.split or "all",
        query_split=args.query_split or "test",
        gallery_split=args.gallery_split or "train",
    )


def _publish(
    args: argparse.Namespace,
    results: Sequence[RetrievalResult],
    explanations: Sequence[Explanation | None],
    notes: Sequence[str],
) -> None:
    from eval.report.write import write_report
    from eval.results.files import write_per_query, write_results
    from eval.results.record import document

    if args.results_file == "-":
        print(json.dumps(document(results, notes), indent=1, allow_nan=False))
    else:
        _print_tables(args, results)
    wrote = []  # what a full disk refuses has been printed
    if args.save is not None:
        for result in results:
            result.save(path := _of_model(args.save, result, len(results)))
            wrote.append(path)
    if args.report is not None:
        write_report(results, args.report, rank_by=args.rank_by, explanations=explanations, notes=notes)
        wrote.append(args.report)
    if args.per_query is not None:
        write_per_query(results, args.per_query)
        wrote.append(args.per_query)
    if args.results_file not in (None, "-"):
        write_results(results, Path(args.results_file), args.rank_by, notes)
        wrote.append(args.results_file)
    if wrote and args.results_file != "-":
        print(f"\nwrote {', '.join(str(path) for path in wrote)}")


def _print_tables(args: argparse.Namespace, results: Sequence[RetrievalResult]) -> None:
    from eval.results.gains import gain_table
    from eval.tables.metric_tables import metric_table, model_table, paper_table, per_class_table, summary

    print(summary(*results))
    print(metric_table(results, all_metrics=True) if args.all_metrics else model_table(results, args.rank_by))
    for result in results:
        if result.facts.recipe is not None:
            print("\n" + gain_table(result, per_class=args.per_class))
    if args.per_class:
        for result in results:
            print("\n" + per_class_table(result))
    if args.paper_table:
        print("\n" + paper_table(results))


def _of_model(path: Path, result: RetrievalResult, models: int) -> Path:
    """The path itself for one model; of several, with each one's name before the suffix."""
    if models == 1:
        return path
    name = "".join(c if c.isalnum() or c in "._-" else "-" for c in result.name)
    return path.with_name(f"{path.stem}-{name}{path.suffix}")


if __name__ == "__main__":
    sys.exit(main())
