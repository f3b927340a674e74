"""A run's settings: where a mistake stands, what is laid over what, and there and back."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tc_depth_ros.network.config import MONODEPTH2, PAPER
from tc_depth_training.config import ConfigError, TrainingConfig, differences, flat_settings
from tc_depth_training.config_file import load_config, save_config
from tc_depth_training.usage import presets

SHIPPED = Path(__file__).parents[1] / 'config' / 'training.yaml'


def mistakes(path: Path | None, *overrides: str) -> list[str]:
    """Lines of the answer to a configuration that is wrong."""
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    message = str(caught.value)
    return (message.replace(str(path), path.name) if path else message).splitlines()


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / 'run.yaml'
    path.write_text(text)
    return path


# What is laid over what


def test_without_a_file_the_defaults_hold_and_numbers_may_be_written_as_people_do() -> None:
    config = load_config(
        None, ['learning_rate=1e-4', 'data.time_steps_s=[0.2]', 'network.name=paper']
    )
    assert config.learning_rate == 1e-4
    assert config.data.time_steps_s == (0.2,)
    assert config.network.name == 'paper'
    assert config.data.height == load_config(None).data.height


def test_an_override_wins_over_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, 'steps: 7\ndata: {height: 64, width: 96}\nloss: {scales: [0, 1]}\n')
    config = load_config(path, ['data.height=32', 'loss.scales=[0, 2]', 'colour={hue: 0.5}'])
    assert (config.steps, config.data.height, config.data.width) == (7, 32, 96)
    assert config.loss.scales == (0, 2)
    assert (config.colour.hue, config.colour.strength) == (0.5, 0.2)


def test_what_is_given_is_laid_over_the_preset(tmp_path: Path) -> None:
    path = written(tmp_path, 'preset: paper\ndata:\n  width: 320\nsteps: 7\n')
    config = load_config(path, ['loss.geometric_weight=0.2'])
    assert (config.data.width, config.data.height) == (320, 192)
    assert config.steps == 7 and config.epochs is None
    assert config.loss.geometric_weight == 0.2 and not config.loss.cycle_per_image


def test_the_presets_are_what_they_say() -> None:
    assert presets() == ['monodepth', 'paper', 'small', 'smoke']
    assert load_config(Path('small')) == TrainingConfig()
    paper, teacher = load_config(Path('paper')), load_config(Path('monodepth'))
    assert paper.network.structure() == PAPER and paper.epochs == 30 and paper.steps is None
    assert (paper.batch_size, paper.teacher_epochs, paper.target) == (6, 20, 'centre')
    assert not paper.loss.cycle_per_image and paper.gradient_norm is None
    assert paper.loss.scales == (0, 1, 2, 3) and paper.loss.geometric_weight == 0.1
    assert teacher.network.structure() == MONODEPTH2
    assert teacher.epochs == 20 and teacher.save_every_epoch


def test_what_an_anchor_brings_in_is_taken(tmp_path: Path) -> None:
    path = written(tmp_path, 'data: &mine {height: 64}\n')
    assert load_config(path).data.height == 64


# Mistakes


def test_all_mistakes_are_listed_at_once_by_line(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        'batch_sise: 4\n'
        'data:\n'
        '  width: 33\n'
        '  hieght: 64\n'
        '  time_steps_s: [0.1,\n'
        '    -1]\n'
        'width: 64\n'
        '\n'
        'pose: magic\n'
        'validation:\n'
        'steps: twenty\n',
    )
    assert mistakes(path, 'seed=x', 'loss.scales=[0, 9]', 'data.x=2', 'colour=red') == [
        '12 mistakes in the configuration:',
        "  run.yaml, line 1: batch_sise: unknown key; did you mean 'batch_size'?",
        '  run.yaml, line 3: data.width: should be a multiple of 8 (is 33)',
        "  run.yaml, line 4: data.hieght: unknown key; did you mean 'height'?",
        '  run.yaml, line 6: data.time_steps_s.1: should be greater than 0 (is -1)',
        "  run.yaml, line 7: width: unknown key; did you mean 'data.width'?",
        "  run.yaml, line 9: pose: should be 'learned', 'odometry' or 'both' (is 'magic')",
        "  run.yaml, line 10: validation: is a section, and needs lines of 'key: value' (is None)",
        "  run.yaml, line 11: steps: should be a whole number (is 'twenty')",
        "  --set seed=x: seed: should be a whole number (is 'x')",
        '  --set loss.scales=[0, 9]: loss.scales.1: should be less than or equal to 3 (is 9)',
        '  --set data.x=2: data.x: unknown key',
        "  --set colour=red: colour: is a section, and needs lines of 'key: value' (is 'red')",
    ]


def test_one_mistake_is_one_line(tmp_path: Path) -> None:
    path = written(tmp_path, '# my run\nlearning_rate: .inf\n')
    assert mistakes(path) == [
        'run.yaml, line 2: learning_rate: should be a finite number (is inf)'
    ]


def test_settings_that_disagree_are_named_with_all_their_lines(tmp_path: Path) -> None:
    path = written(tmp_path, 'pose: learned\nseed: 3\nfit_focal_length: true\n')
    (line,) = mistakes(path)
    assert line.startswith('run.yaml, line 1 and run.yaml, line 3: fit_focal_length needs pose')
    path = written(tmp_path, 'epochs: 3\n')
    (line,) = mistakes(path, 'steps=5')
    assert line.startswith('run.yaml, line 1 and --set steps=5: steps 5 and epochs 3: give one')
    (line,) = mistakes(Path('paper'), 'fit_focal_length=true')
    assert re.match(r"--set fit_focal_length=true and preset 'paper', line \d+: fit_focal", line)


@pytest.mark.parametrize(
    ('overrides', 'words'),
    [
        (['preset=large'], r'unknown; there are monodepth, paper, small, smoke \(is .large'),
        (['epochs=null', 'steps=null'], 'give one of the two'),
        (['steps'], "expected 'key=value'"),
        (['pose.kind=learned'], '--set pose.kind=learned: pose: should be .*.kind.: .learned'),
        (['steps=[1'], r"--set steps=\[1: expected ',' or ']'"),
        (['data.time_steps_s=0.1'], r': should be a list: write \[0.1\] \(is 0.1\)'),
        (['data.time_steps_s=0.1, 0.2'], r'should be a list: write \[0.1, 0.2\] \(is'),
        (['data.image_topics=/a'], r'should be a list: write \[/a\] \(is'),
        (['data.image_topics=null'], r'should be a list \(is None\)'),
        (['data.image_topics=[3]'], r'image_topics.0: should be text \(is 3\)'),
        (['loss.scales=[]'], r'should hold 1 or more \(is \[\]\)'),
        (['save_every_epoch=maybe'], r"should be true or false \(is 'maybe'\)"),
        (['steps=1.5'], r'should be a whole number \(is 1.5\)'),
        (['learning_rate=fast'], r"should be a number \(is 'fast'\)"),
        (['data.time_steps_s=[0.1, 0]'], r'data\.time_steps_s\.1: should be greater than 0'),
    ],
)
def test_a_wrong_override_is_answered_by_its_name(overrides: list[str], words: str) -> None:
    (line,) = mistakes(None, *overrides)
    assert re.search(words, line)


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('seed: 1\nsteps: 2\nseed: 3\n', 'run.yaml, line 3: found duplicate key "seed"'),
        ('seed: 1\ndata: [1\n', "run.yaml, line 3: expected ',' or ']'"),
        ('seed: 1\ndata: [1\n', 'sequence from line 2'),
        ('seed: 1\n\tsteps: 2\n', 'run.yaml, line 2: found character'),
        ('- 1', "run.yaml holds no 'key: value' lines but [1]"),
        ('just words', "run.yaml holds no 'key: value' lines but 'just words'"),
        ('seed: \x01', 'run.yaml, line 1: not YAML'),
    ],
)
def test_a_file_that_is_no_configuration_is_refused_by_name(
    tmp_path: Path, text: str, words: str
) -> None:
    assert words in '\n'.join(mistakes(written(tmp_path, text), 'steps=3'))


def test_a_file_that_is_no_text_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / 'run.yaml'
    path.write_bytes(b'\xff\xfe\x00')
    assert 'run.yaml is not text in UTF-8' in mistakes(path)[0]


def test_a_configuration_that_is_neither_file_nor_preset_lists_the_presets() -> None:
    (line,) = mistakes(Path('large'))
    remedy = 'give a file, or the name of a preset (monodepth, paper, small, smoke)'
    assert f'large does not exist: {remedy}' in line


def test_a_folder_in_place_of_a_configuration_is_refused_by_name(tmp_path: Path) -> None:
    assert 'is a folder: give a file, or the name of a preset' in mistakes(tmp_path)[0]


# There and back


@pytest.mark.parametrize('preset', ['small', 'paper', 'monodepth', 'smoke'])
def test_what_was_saved_loads_to_the_same(tmp_path: Path, preset: str) -> None:
    odd = '1e-4: \'no\' # "x"'
    topics = [f'"{text}"' for text in ('null', '1e-4', '/a b', '- c')]
    config = load_config(
        Path(preset), ['learning_rate=1e-7', f'data.image_topics=[{",".join(topics)}]']
    )
    config = config.model_copy(update={'init': odd, 'patience': None})
    path = tmp_path / 'new' / 'config.yaml'
    save_config(config, path)
    assert load_config(path) == config
    assert [file.name for file in path.parent.iterdir()] == ['config.yaml']
    assert path.read_text().startswith('# Every setting of a run of tc-depth 0.1')


def test_what_cannot_be_saved_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / 'config.yaml'
    path.write_text('seed: 1\n')

    def fail(*_: object) -> None:
        raise OSError('disk full')

    monkeypatch.setattr(YAML, 'dump', fail)
    with pytest.raises(OSError, match='disk full'):
        save_config(TrainingConfig(), path)
    assert path.read_text() == 'seed: 1\n' and len(list(tmp_path.iterdir())) == 1


def test_settings_that_differ_are_named() -> None:
    a = TrainingConfig()
    b = load_config(None, ['batch_size=8', 'loss.scales=[0]', 'validation.patience=null'])
    assert differences(a, a) == []
    assert differences(a, b) == ['loss.scales', 'validation.patience', 'batch_size']


# The file that is shipped


def test_the_shipped_configuration_says_the_defaults() -> None:
    assert load_config(SHIPPED) == TrainingConfig()


def test_the_shipped_configuration_lists_every_setting_with_a_comment() -> None:
    listed: set[str] = set()
    for key, value in YAML(typ='safe').load(SHIPPED.read_text()).items():
        listed |= {f'{key}.{inner}' for inner in value} if isinstance(value, dict) else {key}
    # steps and epochs are one setting, in two units
    assert listed | {'epochs'} == set(flat_settings(TrainingConfig()))
    lines = SHIPPED.read_text().splitlines()
    bare = [
        line
        for before, line in zip(['', *lines], lines, strict=False)
        if re.match(r' *\w+: *[^ #]', line)
        and '#' not in line
        and not before.strip().startswith('#')
    ]
    assert bare == []


def test_the_size_that_depth_is_asked_for_must_be_learned() -> None:
    with pytest.raises(ConfigError, match=r'loss.scales \[2\] should hold 0'):
        load_config(None, ['loss.scales=[2]'])
