"""`timm-gam`: one name for every command line."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from timm_gam.__main__ import COMMANDS, main
from timm_gam.core import ModelError
from timm_gam.models import load_model


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_is_a_module_with_a_main_and_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert callable(importlib.import_module(COMMANDS[command][0]).main)
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert f"usage: timm-gam {command}" in said
    assert not re.search(r"^ +python -m", said, re.MULTILINE), "an example by another name"


def test_help_speaks_of_a_command_by_the_name_it_is_run_by(capsys: pytest.CaptureFixture[str]) -> None:
    for name, run in (("timm-gam train", lambda: main(["train", "--help"])), ("python -m timm_gam.train", train_help)):
        with pytest.raises(SystemExit):
            run()
        said = capsys.readouterr().out
        assert said.startswith(f"usage: {name} ")
        assert "torchrun --nproc-per-node N -m timm_gam.train" in said
        assert ("Table 1: timm-gam table1." in said) == name.startswith("timm-gam")


def train_help() -> int:
    return importlib.import_module("timm_gam.train.__main__").main(["--help"])


def test_a_near_miss_of_a_command_or_an_option_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["Scores"]) == 2
    assert "did you mean score?" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main(["score", "--data_dir", "photos"])
    assert ended.value.code == 2
    assert "did you mean --data-dir?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("--Modle", "--model"),
        ("--result", "--results-file"),
        ("--per", "--per-query"),
        ("--imgsize=64", "--img-size"),
        ("--k", "-k"),
        ("--bootstrap", None),
        ("--gpu", None),
        ("-q", None),
    ],
)
def test_the_nearest_option_is_named_or_none(given: str, meant: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["score", given])
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"did you mean {meant}?" in said if meant else "did you mean" not in said


def test_a_users_own_eval_py_is_not_run_and_help_imports_nothing_heavy(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "eval.py").write_text("raise SystemExit('the wrong eval')")
    script = tmp_path / "timm-gam"  # as pip writes it: its own folder is on the path, the current one is not
    script.write_text(
        "import sys\nfrom timm_gam.__main__ import COMMANDS, main\n"
        "for command in COMMANDS:\n"
        "    try: main([command, '--help'])\n"
        "    except SystemExit: pass\n"
        "    assert not {'torch', 'timm', 'datasets', 'transformers'} & set(sys.modules), command\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    run = subprocess.run(
        [sys.executable, script], cwd=tmp_path / "here", env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert "usage: timm-gam score" in run.stdout


def test_a_users_own_eval_py_is_not_run_by_python_m_timm_gam_either(tmp_path: Path) -> None:
    (tmp_path / "eval.py").write_text("raise SystemExit('the wrong eval')")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([".", str(Path(__file__).resolve().parents[2])])}
    for program in (["-m", "timm_gam"], ["-c", "from timm_gam.__main__ import main; main()"]):
        command = [sys.executable, *program, "score", "--help"]
        run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        assert "usage: timm-gam score" in run.stdout


def test_a_model_name_in_any_case_finds_its_like() -> None:
    with pytest.raises(ModelError, match="near: resnet50_gam"):
        load_model("ResNet50_GAM", pretrained=False)


@pytest.mark.skipif(sys.platform == "win32", reason="no pipes that break")
@pytest.mark.parametrize("errors", [subprocess.PIPE, subprocess.STDOUT], ids=["output", "both"])
@pytest.mark.parametrize(
    ("action", "code"),
    [
        ("run_command(lambda: print('x'))", 141),
        ("run_command(lambda: print('x' * 10**6))", 141),
        ("run_command(lambda: print_line('x'))", 141),
        ("run_command(lambda: [print('line' * 1000) for _ in iter(int, 1)])", 141),
        ("main(['--help'])", 141),
        ("main(['score', '--help'])", 0),
        ("main(['score', '--bad'])", 2),
    ],
)
def test_output_that_nobody_reads_ends_a_command_without_a_word(action: str, code: int, errors: int) -> None:
    program = "import sys; from timm_gam.__main__ import main; from timm_gam.core import print_line, run_command; "
    with subprocess.Popen(
        [sys.executable, "-c", f"{program}sys.exit({action})"], stdout=subprocess.PIPE, stderr=errors
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        said = process.stderr.read().decode() if process.stderr else ""
    assert process.returncode == code
    assert said.count("\n") == int(code == 2 and errors == subprocess.PIPE), said
