"""`python -m timm_gam.export`: a model as files that need neither timm nor this package. `--help` teaches by example.

This is the only module of the package that parses, prints and exits; from Python, call `export_model`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from timm_gam.core import CommandParser, command, print_line
from timm_gam.images import add_preprocessing_arguments, chosen_preprocessing

_EPILOG = """\
examples
  what a training run left, as an ONNX file that gives embeddings, in exports/resnet50_gam:
    python -m timm_gam.export resnet50_gam --checkpoint runs/resnet50_gam-0/best.safetensors
  pretrained weights, in all three formats, embeddings of unit length for an inner-product index:
    python -m timm_gam.export resnet50_se.a1_in1k --format onnx torch aoti --normalize --output search
  the classifier, at another image size:
    python -m timm_gam.export test_resnet_gam --layer logits --img-size 96 --output classifier

  with the head that timm-gam head trained, or as it was published with the model:
    python -m timm_gam.export resnet50_gam --checkpoint runs/resnet50_gam-0/best.safetensors --head head.safetensors

Every file is read back and compared with the model before the folder appears; export.json in it says how to prepare
images, and docs/EXPORT.md shows it with NumPy and Pillow alone.
A .pt2 file runs code when it is loaded: load only your own.
exit codes: 0 written, 2 bad input or a model that cannot be exported (one line says why), 130 interrupted
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser of `python -m timm_gam.export`."""
    parser = CommandParser(
        prog="python -m timm_gam.export",
        description="Export a timm model: batch norms folded, any batch size, checked against the model.",
        epilog=_EPILOG,
    )
    add = parser.add_argument
    add("model", metavar="MODEL", help="a timm model: name, name.tag, hf-hub:org/repo[@revision], local-dir:folder")
    add("--checkpoint", metavar="FILE", help="safetensors weights instead of the pretrained ones")
    add(
        "--head",
        metavar="FILE",
        help="a head of timm-gam head as the last layer, with the views that it was trained with; 'none' for none "
        "(default: the one published with the model, if any)",
    )
    add(
        "--pretrained",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="without --checkpoint: the model's pretrained weights, or --no-pretrained for random ones",
    )
    add(
        "--format",
        nargs="+",
        choices=("onnx", "torch", "aoti"),
        default=["onnx"],
        help="onnx; torch: a torch.export program; aoti: compiled by AOTInductor for this machine's kind of processor "
        "(default: onnx)",
    )
    add(
        "--layer",
        choices=("pooled", "pre_logits", "logits"),
        default="pooled",
        help="output: the pooled feature map, the input of the classifier, or its logits (default: %(default)s)",
    )
    add("--normalize", action="store_true", help="embeddings of unit length: their inner product is the cosine")
    add("--output", type=Path, metavar="FOLDER", help="a new folder (default: exports/MODEL)")
    add_preprocessing_arguments(parser)
    return parser


def _run(args: argparse.Namespace) -> None:
    from timm_gam.embed import with_head
    from timm_gam.export.folder import DOCUMENT, check_new, export_model
    from timm_gam.images import resolve_preprocessing
    from timm_gam.models import load_model

    folder = args.output or Path("exports") / args.model.rpartition(":")[2].rstrip("/").rpartition("/")[2]
    check_new(folder)
    loaded = load_model(args.model, checkpoint=args.checkpoint, pretrained=args.pretrained)
    loaded = with_head(loaded, args.head)
    preprocessing = resolve_preprocessing(loaded.model, **chosen_preprocessing(args))
    export_model(
        loaded,
        folder,
        formats=args.format,
        layer=args.layer,
        normalize=args.normalize,
        preprocessing=preprocessing,
        log=print_line,
    )
    print(f"{folder / DOCUMENT}: how to prepare images, and what was exported")


main = command(build_parser, _run, interrupted="interrupted; nothing was written")

if __name__ == "__main__":
    sys.exit(main())
