"""The command line before it knows the command: help at once, and threads that sleep."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tc_depth_training import cli

REPOSITORY = Path(__file__).parents[1]
COMMANDS = {
    'train',
    'inspect',
    'predict',
    'evaluate',
    'refine',
    'demo',
    'render',
    'import-official',
    'export',
}
HEAVY = {
    'cv2',
    'matplotlib',
    'numpy',
    'onnx',
    'pydantic',
    'rosbags',
    'ruamel.yaml',
    'safetensors',
    'torch',
    'tqdm',
}
SPINS = 'GOMP_SPINCOUNT'
# Tells what the command left behind, on the last line
RUN = """
import os, sys
from tc_depth_training.cli import main
try:
    status = main(sys.argv[1:])
except SystemExit as end:
    status = end.code
print()
print(status, os.environ['OMP_WAIT_POLICY'], *sys.modules)
"""


def environment(**variables: str) -> dict[str, str]:
    """This process's, in which nobody has said how threads wait, and these variables."""
    inherited = {k: v for k, v in os.environ.items() if k not in ('OMP_WAIT_POLICY', SPINS)}
    paths = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / 'training')])
    return {**inherited, 'PYTHONPATH': paths, **variables}


def run(*arguments: str, **variables: str) -> tuple[str, int, str, set[str]]:
    """What a command says, its status, its OMP_WAIT_POLICY, and the modules it has imported."""
    told = subprocess.run(
        [sys.executable, '-c', RUN, *arguments],
        env=environment(**variables),
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    said, last = told.rstrip().rsplit('\n', 1)
    status, policy, *modules = last.split()
    return said, int(status), policy, set(modules)


def spins(*arguments: str, **variables: str) -> int:
    """How often a waiting thread of a command looks before it sleeps, as GNU's OpenMP tells."""
    told = subprocess.run(
        [sys.executable, '-m', 'tc_depth_training.cli', *arguments],
        env=environment(OMP_DISPLAY_ENV='VERBOSE', **variables),
        check=False,
        stderr=subprocess.PIPE,
        text=True,
    ).stderr
    found = re.search(rf"{SPINS} = '(\d+)'", told)
    if found is None:
        pytest.skip("torch's OpenMP is not GNU's")
    return int(found[1])


def test_help_lists_the_commands_and_imports_nothing_heavy() -> None:
    said, status, _, modules = run('--help')
    assert set(re.findall(r'^    ([\w-]+)', said, re.MULTILINE)) == COMMANDS
    assert status == 0 and not HEAVY & modules


@pytest.mark.parametrize('command', sorted(COMMANDS))
def test_help_of_a_command_imports_nothing_heavy(command: str) -> None:
    said, status, _, modules = run(command, '--help')
    assert said.startswith(f'usage: tc-depth {command} ')
    assert status == 0 and not HEAVY & modules


def test_wrong_use_imports_nothing_heavy() -> None:
    _, status, _, modules = run('train')
    assert status == 2 and not HEAVY & modules


def test_weights_that_are_not_there_are_told_before_anything_heavy_is_imported(
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ('evaluate', 'bag', '--weights', 'nowhere.safetensors')
    _, status, _, modules = run(*arguments)
    assert status == 1 and not HEAVY & modules
    assert cli.main(arguments) == 1
    expected = 'weights nowhere.safetensors do not exist: give --weights a file that does'
    assert capsys.readouterr().err == f'tc-depth: {expected}\n'


def test_threads_sleep_while_they_wait_unless_the_user_says_otherwise() -> None:
    assert run('--help')[2] == 'PASSIVE'
    assert run('--help', OMP_WAIT_POLICY='ACTIVE')[2] == 'ACTIVE'


def test_the_openmp_of_a_command_hears_of_it_in_time(tmp_path: Path) -> None:
    """It reads the variable when torch is imported, and never again."""
    command = ('inspect', str(tmp_path / 'nowhere'))
    assert spins(*command) == 0
    assert spins(*command, OMP_WAIT_POLICY='ACTIVE') > 0


def test_render_has_the_defaults_that_the_command_line_tells() -> None:
    from tc_depth_training.render import render

    arguments = cli._parser().parse_args(['render', 'out'])
    for name, parameter in inspect.signature(render).parameters.items():
        if name not in ('out', 'textures'):
            assert getattr(arguments, name) == parameter.default
