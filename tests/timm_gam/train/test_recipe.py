"""Recipes: defaults, YAML under the command line, and one line for whatever is not legal."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.timm_gam.train.helpers import SMALL
from timm_gam.core import RecipeError
from timm_gam.train import Recipe, RunFolder, build_parser, read_recipe, recipe_from
from timm_gam.train.__main__ import main


def test_defaults_are_the_papers() -> None:
    recipe = Recipe()
    assert (recipe.model, recipe.start, recipe.gate_init) == ("resnet50_gam", "imagenet", "paper")
    assert (recipe.epochs, recipe.attention_lr_scale, recipe.loss) == (200, 10.0, "cross-entropy")


def test_yaml_round_trip() -> None:
    recipe = Recipe(freeze=("layer1", "conv1"), scale=(0.5, 1.0), lr=1e-5, ema_decay=0.99)
    assert recipe_from(yaml.safe_load(recipe.as_yaml()), "here") == recipe


def test_yaml_reads_numbers_as_people_write_them(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("lr: 1e-3\nbatch-size: 128\nfreeze: [conv1]\ndeterministic: true\n")
    recipe = recipe_from(read_recipe(tmp_path / "r.yaml"), "r.yaml")
    assert (recipe.lr, recipe.batch_size, recipe.freeze, recipe.deterministic) == (1e-3, 128, ("conv1",), True)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epoch": 3}, "unknown key 'epoch'; legal: model, start"),
        ({"epochs": 0}, "epochs is 0; legal: greater than or equal to 1"),
        ({"epochs": 1.5}, "valid integer"),
        ({"epochs": True}, "a number is needed"),
        ({"epochs": "many"}, "valid integer"),
        ({"amp": 1}, "valid boolean"),
        ({"model": 5}, "valid string"),
        ({"scale": 0.5}, "valid tuple"),
        ({"scale": [0.9, 0.1]}, "0 < low <= high <= 1"),
        ({"lr": 0}, "greater than 0"),
        ({"lr": "nan"}, "finite"),
        ({"lr": 1e300}, f"legal: less than or equal to {10**38}"),  # float32 has no such number
        ({"lr": ".inf"}, "valid number"),
        ({"val_share": 1}, "less than 1"),
        ({"label_smoothing": 1.0}, "less than 1"),
        ({"momentum": 1.0}, "less than 1"),
        ({"sched": "magic"}, "legal: .cosine., .poly. or .step."),
        ({"loss": "arcface", "mixup": 0.2}, "those are for cross-entropy"),
        ({"ema_decay": 2}, "less than 1"),
        ({"weight_decay": float("nan")}, "finite"),
    ],
)
def test_illegal_values_say_what_is_legal(values: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe_from(values, "the file")


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "!!python/object/apply:os.system [ls]", "\x00"])
def test_only_plain_mappings_are_read(text: str, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(RecipeError, match="r.yaml"):
        read_recipe(tmp_path / "r.yaml")


def test_every_option_is_a_key_of_the_recipe_and_help_fits_a_screen() -> None:
    parser = build_parser()
    names = {action.dest for action in parser._actions} - {"help", "output", "resume", "config"}
    assert names <= set(Recipe.__dataclass_fields__)
    unlisted = set(Recipe.__dataclass_fields__) - names
    help_text = parser.format_help()
    assert all(name in help_text for name in unlisted)  # the epilog names the keys without an option
    assert len(help_text.splitlines()) <= 57
    assert max(map(len, help_text.splitlines())) <= 120


def test_the_command_line_stands_above_the_file(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(Recipe(**{**SMALL, "epochs": 1, "seed": 7, "lr": 0.5}).as_yaml())
    options = ["--config", tmp_path / "r.yaml", "--data-dir", photos, "--lr", "0.001", "--output", tmp_path / "run"]
    assert main([str(o) for o in options]) == 0
    effective = recipe_from(read_recipe(RunFolder(tmp_path / "run").config), "config.yaml")
    assert (effective.seed, effective.lr, effective.data_dir) == (7, 0.001, str(photos))
