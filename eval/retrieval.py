"""`python -m eval.retrieval`: score how well timm models retrieve images. `--help` teaches by example.

This is the only module that parses, prints and exits; every step is a function of `eval` that Python can call.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from eval.arguments import parse_arguments
from eval.errors import EvalError
from eval.files import check_writable

if TYPE_CHECKING:  # heavy imports wait until the command line is known to be legal
    from eval.evaluate import RetrievalResult, Settings
    from eval.inputs import Inputs
    from eval.protocols import Protocol

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 scored, 2 bad input, 130 interrupted."""
    args = parse_arguments(argv)
    try:
        _run(args)
    except EvalError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def _run(args: argparse.Namespace) -> None:
    if args.results_file not in (None, "-"):
        check_writable(Path(args.results_file))
    with _interrupts_exit():
        import eval.report  # all that is heavy  # noqa: F401
        from eval.inputs import choose_inputs

    settings = _settings(args)
    inputs = choose_inputs(args)
    if inputs.note:
        print(inputs.note, file=sys.stderr)
    notes = [inputs.note] if inputs.note else []
    protocol = _protocol(args, inputs)
    results: list[RetrievalResult] = []
    try:
        for result in _results(args, inputs, protocol, settings):
            results.append(result)
    except (EvalError, KeyboardInterrupt) as error:
        # A model that fails, or Ctrl-C, does not cost the results of the models before it.
        if results:
            _publish(args, results, [*notes, f"ended early: {error or 'interrupted'}"])
        raise
    _publish(args, results, notes)


def _results(
    args: argparse.Namespace, inputs: Inputs, protocol: Protocol, settings: Settings
) -> Iterator[RetrievalResult]:
    from eval.evaluate import evaluate_model
    from eval.preprocessing import resolve_preprocessing

    for load in inputs.models:
        loaded = load()
        preprocessing = resolve_preprocessing(
            loaded.model,
            img_size=args.img_size,
            crop_pct=args.crop_pct,
            crop_mode=args.crop_mode,
            interpolation=args.interpolation,
            mean=args.mean,
            std=args.std,
        )
        yield evaluate_model(
            loaded, inputs.images, protocol, preprocessing=preprocessing, settings=settings, progress=_progress_bar
        )


def _settings(args: argparse.Namespace) -> Settings:
    import torch

    from eval.evaluate import Settings

    return Settings(
        layer=args.layer,
        distance=args.distance,
        ks=tuple(sorted(set(args.k))),
        replicates=args.bootstrap,
        seed=args.seed,
        batch_size=args.batch_size,
        workers=args.workers,
        device=_device(args.device),
        amp_dtype=getattr(torch, args.amp_dtype) if args.amp else None,
        channels_last=args.channels_last,
        compile_backend=args.torchcompile,
        optimize=args.optimize,
        on_unreadable="skip" if args.skip_unreadable else "raise",
        memory_budget=args.memory_budget * 2**20,
        cache_folder=args.cache_dir,
    )


def _device(name: str | None) -> str:
    import torch

    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(1, device=name).cpu()  # "meta" makes tensors but holds no values
    except (RuntimeError, AssertionError) as error:  # torch raises either, by device type
        reason = str(error).splitlines()[0]
        raise EvalError(
            f"device '{name}' cannot be used: {reason}; legal here: cpu, or an accelerator you have"
        ) from error
    return name


def _protocol(args: argparse.Namespace, inputs: Inputs) -> Protocol:
    from eval.protocols import choose_protocol
    from eval.sources.pair import GALLERY, QUERY

    if args.gallery_dir is not None:
        return choose_protocol(inputs.images, "query-gallery", query_split=QUERY, gallery_split=GALLERY)
    return choose_protocol(
        inputs.images,
        args.protocol or "leave-one-out",
        split=args.split or "all",
        query_split=args.query_split or "test",
        gallery_split=args.gallery_split or "train",
    )


def _publish(args: argparse.Namespace, results: Sequence[RetrievalResult], notes: Sequence[str]) -> None:
    from eval.report import document, metric_table, paper_table, per_class_table, summary, write_json

    content = document(results, notes)
    if args.results_file == "-":
        print(json.dumps(content, indent=1, allow_nan=False))
        return
    print(summary(results[0]))
    print(metric_table(results))
    if args.per_class:
        for result in results:
            print("\n" + per_class_table(result))
    if args.paper_table:
        print("\n" + paper_table(results))
    if args.results_file is not None:
        write_json(Path(args.results_file), content)
        print(f"\nwrote {args.results_file}")


@contextlib.contextmanager
def _interrupts_exit() -> Iterator[None]:
    """Let Ctrl-C end the process at once: raised within an import of torch it can come out as any other error."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: FrameType | None) -> None:
        os.write(2, b"interrupted\n")
        os._exit(130)

    before = signal.signal(signal.SIGINT, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _progress_bar(what: str, unit: str, total: int) -> Iterator[Callable[[int], None]]:
    from tqdm import tqdm

    with tqdm(total=total, desc=what, unit=unit, delay=1, leave=False, file=sys.stderr, disable=None) as bar:

        def advance(done: int) -> None:
            bar.update(done)

        yield advance


if __name__ == "__main__":
    sys.exit(main())
