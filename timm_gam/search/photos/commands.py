"""What each command of `timm-gam search` does, and how it says so."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from timm_gam.core import DataError, TimmGamError, check_outputs, printable, progress_bar
from timm_gam.embed import Embedder, EmbedSettings, chosen_views
from timm_gam.images import NEAR, DecodeLimits, content_digest
from timm_gam.rerank import Recipe, read_method
from timm_gam.search.photos.catalogue import PhotoFilter
from timm_gam.search.photos.duplicates import find_duplicates
from timm_gam.search.photos.photo_index import INDEX_NAME, Collection, Match, PhotoIndex
from timm_gam.search.photos.query import DEFAULT_MODELS, QueryModel, load_collection, search_reranked
from timm_gam.search.photos.sheet import Section, draw_picture, write_page
from timm_gam.search.photos.update import Update, update_index
from timm_gam.search.stores.store import StoreChoice

_NAMED = 10  # unreadable photographs in text; all in JSON


def index(args: argparse.Namespace) -> None:
    """`index PHOTOS`."""
    with _begun(args.photos, args.index) as made:
        choice = made.choice if args.store is None else StoreChoice(args.store, components=made.choice.components)
        made.choice = choice if args.components is None else replace(choice, components=args.components)
        settings = EmbedSettings(
            batch_size=args.batch_size,
            workers=args.workers,
            device=args.device,
            amp_dtype=torch.bfloat16 if args.amp else None,
            on_unreadable="skip",
            limits=DecodeLimits.of(args),
            **chosen_views(args),
        )
        collection, embedder = _model(made, args.model, args.checkpoint, settings, args.head)
        update = update_index(made, collection, embedder, progress_bar, lambda line: print(line, file=sys.stderr))
    if args.json:
        print(json.dumps({"index": str(made.folder), "model": collection.model, **asdict(update)}, indent=1))
    else:
        print(_summary(made, collection, update))


def query(args: argparse.Namespace) -> None:
    """`query PHOTO... --in INDEX`."""
    check_outputs(args.html, args.png)
    chosen = PhotoFilter.read(args.folder, args.since, args.until, args.size)
    limits = DecodeLimits.of(args)
    recipe = None if args.rerank is None else Recipe(1.0, None, *read_method(args.rerank))
    made = _opened(args.index, limits, args.photo)
    collection = made.collection(args.model)
    _check_no_photograph(args, made)
    model = QueryModel(made, collection, args.device, limits)
    vectors = model.of_files(args.photo)
    if recipe is None:
        matches = made.search(collection, vectors, args.k, chosen)
    else:
        matches = search_reranked(made, collection, vectors, recipe, args.k, chosen)
    for note in filter(None, (model.note, made.note(collection))):
        print(printable(note), file=sys.stderr)
    queries = [(photo, photo.name) for photo in args.photo]
    found = [(made.root / match.photo.path, _caption(match)) for match in matches]
    _write_sheets(args, f"Photographs in {made.root.resolve().name}", [("Like", queries), ("Found", found)])
    if args.json:
        facts = {"photos": str(made.root.resolve()), "model": collection.model}
        print(json.dumps({**facts, "matches": [match.as_dict() for match in matches]}, indent=1))
        return
    print(f"{'rank':>4}  {'cosine':>7}  path")
    for match in matches:
        also = f"  (also {', '.join(map(printable, match.copies))})" if match.copies else ""
        print(f"{match.rank:>4}  {match.score:7.4f}  {printable(match.photo.path)}{also}")
    if len(matches) < args.k:
        filtered = " that the filter lets through" if chosen != PhotoFilter() else ""
        print(f"{len(matches)} of {args.k}: there are no more{filtered}")


def serve(args: argparse.Namespace) -> None:
    """`serve INDEX`."""
    from timm_gam.search.page.server import serve as serve_page

    limits = DecodeLimits.of(args)
    made = _opened(args.index, limits)
    collection = made.collection(args.model)
    serve_page(made, collection, host=args.host, port=args.port, device=args.device, limits=limits)


def duplicates(args: argparse.Namespace) -> None:
    """`duplicates INDEX`."""
    check_outputs(args.html, args.png)
    made = _opened(args.index, DecodeLimits.of(args))
    _check_no_photograph(args, made)
    found = find_duplicates(made, args.near, progress_bar)
    if note := made.note(made.collection()):
        print(printable(note), file=sys.stderr)
    exact = [("The same bytes", [(made.root / path, path) for path in group]) for group in found.exact]
    near = [("Nearly the same picture", [(made.root / path, path) for path in group]) for group in found.near]
    _write_sheets(args, f"Duplicates in {made.root.resolve().name}", [*exact, *near])
    if args.json:
        facts = {"photos": str(made.root.resolve()), "likeness": NEAR if args.near is None else args.near}
        print(json.dumps({**facts, **found.as_dict()}, indent=1))
        return
    for kind, groups in (("same", found.exact), ("near", found.near)):
        for group in groups:
            print(f"{kind}  {', '.join(map(printable, group))}")
    copies, more = found.photographs - found.distinct, found.distinct - found.pictures
    print(
        f"{found.photographs:,} photographs: {copies:,} copies in {len(found.exact):,} groups "
        f"({found.exact_rate:.2%}), {more:,} more nearly the same in {len(found.near):,} groups ({found.near_rate:.2%})"
    )


def _check_no_photograph(args: argparse.Namespace, made: PhotoIndex) -> None:
    """Photographs are only ever read, also where one is named as what a sheet is to be written to."""
    asked = {photo.resolve() for photo in getattr(args, "photo", ())}
    root = made.root.resolve()
    for path in filter(None, (args.html, args.png)):
        file = path.resolve()
        inside = file.is_relative_to(root) and made.catalogue.digests_of([file.relative_to(root).as_posix()])
        if file in asked or inside:
            raise DataError(f"'{path}' is a photograph and would be written over; name another file")


def _write_sheets(args: argparse.Namespace, title: str, sections: list[Section]) -> None:
    if args.html is not None:
        write_page(args.html, title, sections)
    if args.png is not None:
        draw_picture(args.png, title, sections)


@contextmanager
def _begun(photos: Path, folder: Path | None = None) -> Iterator[PhotoIndex]:
    """An index to be updated; one that nothing comes into is taken away again."""
    made = PhotoIndex.create(photos, folder)
    try:
        yield made
    finally:
        made.remove_if_empty()


def _opened(path: Path, limits: DecodeLimits, needed: Sequence[Path] = ()) -> PhotoIndex:
    """The index; of a folder without one it is made, once the files that are needed then can be read."""

    def check_needed() -> None:
        for photo in needed:
            content_digest(photo, str(photo))

    if path.is_dir() and not (path / "index.json").exists() and not (path / INDEX_NAME / "index.json").exists():
        check_needed()
        with _begun(path) as made:
            collection, embedder = _model(made, None, None, EmbedSettings(on_unreadable="skip", limits=limits))
            print(_summary(made, collection, update_index(made, collection, embedder, progress_bar)), file=sys.stderr)
            return made
    made = PhotoIndex.open(path)
    check_needed()
    return made


def _model(
    made: PhotoIndex, model: str | None, checkpoint: Path | None, settings: EmbedSettings, head: str | None = None
) -> tuple[Collection, Embedder]:
    """The model that is named, else the one that indexed last, else the default."""
    if model is not None or checkpoint is not None:
        return load_collection(model or made.collection().model, checkpoint, head=head, settings=settings)
    if made.collections:
        last = made.collections[0]
        if not settings.views:
            settings = replace(settings, **last.views)
        return load_collection(last.model, last.checkpoint, head=head or last.head, settings=settings)
    try:
        return load_collection(DEFAULT_MODELS[0], settings=settings)
    except TimmGamError as error:
        print(
            f"{error}\nusing {DEFAULT_MODELS[1]} of the package instead: tiny, trained on few kinds of photographs; "
            "a larger network finds more (--model, --checkpoint)",
            file=sys.stderr,
        )
    return load_collection(DEFAULT_MODELS[1], settings=settings)


def _summary(made: PhotoIndex, collection: Collection, update: Update) -> str:
    counts = {name: getattr(update, name) for name in ("new", "changed", "moved", "deleted")}
    changes = ", ".join(f"{number:,} {name}" for name, number in counts.items() if number) or "nothing new"
    root = printable(str(made.root))
    lines = [
        f"{update.photos:,} photographs in '{root}' by {collection.model}: {changes}; {update.embedded:,} embedded"
    ]
    if update.unreadable:
        lines.append(f"{len(update.unreadable):,} cannot be read:")
        lines += [
            f"  {printable(path)}: {printable(reason)}" for path, reason in list(update.unreadable.items())[:_NAMED]
        ]
        if len(update.unreadable) > _NAMED:
            lines.append(f"  and {len(update.unreadable) - _NAMED:,} more (--json lists all)")
    return "\n".join(lines)


def _caption(match: Match) -> str:
    facts: list[Any] = [f"{match.rank}. {match.photo.path}", f"cosine {match.score:.4f}", match.photo.taken]
    return " · ".join(fact for fact in facts if fact)
