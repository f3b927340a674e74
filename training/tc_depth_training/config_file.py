"""
A run's settings from YAML, and back: a file over the preset that it names, ``--set`` over both.

Every value keeps the place where it was written until all are checked, so that a mistake names
its line.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.representer import RoundTripRepresenter
from ruamel.yaml.scalarbool import ScalarBoolean

from tc_depth_training import __version__
from tc_depth_training.config import ConfigError, TrainingConfig, flat_settings
from tc_depth_training.files import write_atomically
from tc_depth_training.usage import PRESETS, presets

HEADER = f"""\
# Every setting of a run of tc-depth {__version__}, its preset's and the defaults among them.
# Another run with the same: tc-depth train BAG... --config THIS_FILE
"""


@dataclass(frozen=True)
class _Place:
    """Where a value was written; in order, a file's lines come before what follows on --set."""

    source: int  # 0 the file, 1 --set, 2 the preset
    line: int  # of the file, from 1; or which --set
    words: str


@dataclass(frozen=True)
class _Entry:
    """A value as it was written, and where."""

    value: Any  # a plain value, or a dict or a list of entries
    place: _Place

    def plain(self) -> Any:
        """Leave the places out."""
        if isinstance(self.value, dict):
            return {key: entry.plain() for key, entry in self.value.items()}
        if isinstance(self.value, list):
            return [entry.plain() for entry in self.value]
        return self.value

    def at(self, location: Sequence[str | int]) -> _Entry:
        """Follow keys and numbers inwards, as far as they lead."""
        entry = self
        for key in location:
            inner = entry.value
            if isinstance(inner, list):
                inner = dict(enumerate(inner))
            if not isinstance(inner, dict) or key not in inner:
                break
            entry = inner[key]
        return entry


Placing = Callable[[int], _Place]  # of a line, from 1


def load_config(source: Path | None, overrides: Sequence[str] = ()) -> TrainingConfig:
    """
    Read a configuration: the preset that it names, under what it says itself.

    :param source: YAML; or the name of a preset; or None for the defaults
    :param overrides: ``a.b=value`` each, read as YAML
    :raises ConfigError: unknown keys and wrong values, all at once, each with its line
    """
    given = _source(source)
    for number, override in enumerate(overrides):
        given = _over(given, _override(override, number))
    given = _over_preset(given)
    try:
        return TrainingConfig.model_validate(given.plain())
    except ValidationError as error:
        found = [_mistake(details, given) for details in error.errors()]
    lines = [f'{place.words}: {text}' for place, text in sorted(found, key=_by_place)]
    if len(lines) == 1:
        raise ConfigError(lines[0])
    raise ConfigError(f'{len(lines)} mistakes in the configuration:\n  ' + '\n  '.join(lines))


def save_config(config: TrainingConfig, path: Path) -> None:
    """
    Write every setting as YAML, which :func:`load_config` reads back to the same.

    A crash on the way leaves the old file, never half a new one.
    """
    yaml = YAML()
    yaml.Representer = _Representer
    text = io.StringIO(HEADER)
    text.seek(0, io.SEEK_END)
    yaml.dump(config.model_dump(), text)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text.getvalue().encode())


class _Representer(RoundTripRepresenter):
    """Null by its name, and lists on one line, as people write them."""


_Representer.add_representer(
    type(None), lambda writer, _: writer.represent_scalar('tag:yaml.org,2002:null', 'null')
)
_Representer.add_representer(
    tuple,
    lambda writer, items: writer.represent_sequence(
        'tag:yaml.org,2002:seq', items, flow_style=True
    ),
)


# Reading


def _source(source: Path | None) -> _Entry:
    if source is None:
        return _Entry({}, _Place(0, 0, 'configuration'))
    if not source.is_file() and str(source) in presets():
        place = _Place(0, 0, 'configuration')
        return _Entry({'preset': _Entry(str(source), place)}, place)
    if source.is_dir() or not source.exists():
        what = 'is a folder' if source.is_dir() else 'does not exist'
        raise ConfigError(
            f'configuration {source} {what}: give a file, or the name of a preset '
            f'({", ".join(presets())})'
        )
    return _file(source, lambda line: _Place(0, line, f'{source}, line {line}'))


def _over_preset(given: _Entry) -> _Entry:
    """Lay what is given over the preset that it names; a name of none is found by the check."""
    name = given.value['preset'].plain() if 'preset' in given.value else TrainingConfig().preset
    if name not in presets():
        return given
    base = _file(
        PRESETS / f'{name}.yaml', lambda line: _Place(2, line, f"preset '{name}', line {line}")
    )
    # A run has one length: the one given here replaces the preset's, in whichever unit
    if given.value.keys() & {'steps', 'epochs'}:
        kept = {key: entry for key, entry in base.value.items() if key not in ('steps', 'epochs')}
        base = _Entry(kept, base.place)
    return _over(base, given)


def _over(base: _Entry, top: _Entry) -> _Entry:
    """Lay values over others; sections are merged, all else is replaced."""
    if not (isinstance(base.value, dict) and isinstance(top.value, dict)):
        return top
    merged = dict(base.value)
    for key, entry in top.value.items():
        merged[key] = _over(base.value[key], entry) if key in base.value else entry
    return _Entry(merged, top.place)


def _file(path: Path, place: Placing) -> _Entry:
    try:
        text = path.read_text(encoding='utf-8')
    except UnicodeDecodeError as error:
        raise ConfigError(f'{path} is not text in UTF-8: {error}') from error
    entry = _parse(text, place)
    if entry.value is None:  # nothing but comments
        return _Entry({}, entry.place)
    if not isinstance(entry.value, dict):
        raise ConfigError(f"{path} holds no 'key: value' lines but {entry.plain()!r}")
    return entry


def _override(text: str, number: int) -> _Entry:
    place = _Place(1, number, f'--set {text}')
    key, equals, value = text.partition('=')
    if not equals:
        raise ConfigError(f"--set {text}: expected 'key=value', as in steps=500")
    entry = _parse(value, lambda line: place)
    for part in reversed(key.split('.')):
        entry = _Entry({part: entry}, place)
    return entry


def _parse(text: str, place: Placing) -> _Entry:
    try:
        return _entry(YAML().load(text), 1, place)
    except MarkedYAMLError as error:
        context, mark = error.context or '', error.context_mark
        begun = f' ({context} from line {mark.line + 1})' if context and mark else ''
        line = error.problem_mark.line + 1
        raise ConfigError(f'{place(line).words}: {error.problem}{begun}') from error
    except YAMLError as error:
        raise ConfigError(f'{place(1).words}: not YAML: {error}') from error


def _entry(loaded: Any, line: int, place: Placing) -> _Entry:
    """Note the place of a value, and of all within it; ``line`` is its own, from 1."""
    if not isinstance(loaded, CommentedMap | CommentedSeq):
        return _Entry(_plain(loaded), place(line))
    marks = loaded.lc.data or {}  # what an anchor brings in has none

    def inner(key: Any, value: Any) -> _Entry:
        return _entry(value, marks[key][0] + 1 if key in marks else line, place)

    if isinstance(loaded, CommentedMap):
        found = {_plain(key): inner(key, value) for key, value in loaded.items()}
        return _Entry(found, place(line))
    return _Entry([inner(index, item) for index, item in enumerate(loaded)], place(line))


def _plain(scalar: Any) -> Any:
    """Without what ruamel keeps of the way that it was written."""
    if isinstance(scalar, ScalarBoolean):
        return bool(scalar)
    kinds = (bool, int, float, str)
    return next((kind(scalar) for kind in kinds if isinstance(scalar, kind)), scalar)


# Mistakes

# In place of pydantic's, which are Python's
WORDS = {
    'bool_type': 'should be true or false',
    'bool_parsing': 'should be true or false',
    'int_type': 'should be a whole number',
    'int_parsing': 'should be a whole number',
    'int_from_float': 'should be a whole number',
    'float_type': 'should be a number',
    'float_parsing': 'should be a number',
    'string_type': 'should be text',
}


def _by_place(mistake: tuple[_Place, str]) -> tuple[int, int]:
    return mistake[0].source, mistake[0].line


def _mistake(details: ErrorDetails, given: _Entry) -> tuple[_Place, str]:
    """Where a mistake is, and what it is."""
    location = details['loc']
    key = '.'.join(str(part) for part in location)
    message = details['msg'].removeprefix('Value error, ').replace('Input should be', 'should be')
    shown = f'{WORDS.get(details["type"], message)} (is {details["input"]!r})'
    match details['type']:
        case 'tuple_type':
            shown = f'should be a list{_as_list(details["input"])} (is {details["input"]!r})'
        case 'too_short':
            shown = f'should hold {details["ctx"]["min_length"]} or more (is {details["input"]!r})'
        case 'extra_forbidden':
            shown = f'unknown key{_suggestion(location)}'
        case 'model_type':
            shown = f"is a section, and needs lines of 'key: value' (is {details['input']!r})"
        case 'disagreement':
            section = given.at(location)
            return _places(section, details['ctx']['fields']), message
    return given.at(location).place, f'{key}: {shown}'


def _as_list(given: Any) -> str:
    """How a single value, or several without brackets, are written as a list."""
    if given is None or isinstance(given, dict):
        return ''
    items = re.split(r'[,;\s]+', str(given))
    return f': write [{", ".join(items)}]'


def _places(section: _Entry, fields: Sequence[str]) -> _Place:
    """The places of those fields that are given; the section's where none is."""
    places = sorted(
        (section.value[field].place for field in fields if field in section.value),
        key=lambda place: (place.source, place.line),
    )
    if not places:
        return section.place
    return _Place(places[0].source, places[0].line, ' and '.join(p.words for p in places))


def _suggestion(location: Sequence[str | int]) -> str:
    """The known key that was meant: of the same name elsewhere, or of nearly the same here."""
    *parents, name = map(str, location)
    section = '.'.join((*parents, ''))
    known = list(flat_settings(TrainingConfig()))
    namesakes = [key for key in known if key.rpartition('.')[2] == name]
    here = {key.removeprefix(section).split('.')[0] for key in known if key.startswith(section)}
    meant = namesakes or get_close_matches(name, sorted(here), n=1)
    return f"; did you mean '{meant[0]}'?" if meant else ''
