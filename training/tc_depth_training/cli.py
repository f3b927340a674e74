"""
``tc-depth``: parse, call, print. Exit status 0 done, 1 failed, 2 wrong use.

Each command imports what it needs when it runs, so that help is there at once.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tc_depth_training.guards import DivergenceError, TrainingError
from tc_depth_training.usage import CROSSING, FRAMES, SCENES, SIZE, UsageError, presets

if TYPE_CHECKING:
    from tc_depth_training.data.stretch import Stretch


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command."""
    _let_threads_sleep()
    parser = _parser()
    arguments = parser.parse_args(argv)
    try:
        _check_weights(arguments)
        status: int = arguments.run(arguments)
        return status
    except UsageError as error:
        print(f'tc-depth: {error}', file=sys.stderr)
        return 2
    except (ValueError, RuntimeError, OSError) as error:
        print(f'tc-depth: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('tc-depth: interrupted', file=sys.stderr)
        return 130


def _let_threads_sleep() -> None:
    """
    Let OpenMP's threads sleep while they wait, unless the user has said how they wait.

    Beside another busy process a thread that spins takes the core from the thread that it waits
    for. torch's OpenMP reads the variable once, when torch is imported. Processes that a command
    starts inherit it.
    """
    os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')


def _train(arguments: argparse.Namespace) -> int:
    from tc_depth_training.config_file import load_config
    from tc_depth_training.data.stretch import parse_bag
    from tc_depth_training.run_folder import CONFIG_NAME, WEIGHTS_NAME
    from tc_depth_training.run_state import STATE_NAME
    from tc_depth_training.train import train

    source, begun_with = arguments.config, arguments.out / CONFIG_NAME
    # Only the first of several processes need find the folder: it tells the others its settings
    if arguments.resume and source is None and begun_with.exists():
        source = begun_with
        if not (arguments.out / STATE_NAME).exists():
            print(f'a run was begun here and saved nothing: it begins anew by {begun_with}')
    bags = [parse_bag(str(bag)) for bag in arguments.bags]
    config = load_config(source, _overrides(arguments))
    try:
        train(bags, config, arguments.out, resume=arguments.resume)
    except DivergenceError as error:
        weights = arguments.out / WEIGHTS_NAME
        if not weights.exists():
            raise
        raise TrainingError(
            f'{error}: --resume keeps learning_rate, so start a new run from it with '
            f'--init {weights} and another --out'
        ) from error
    return 0


def _inspect(arguments: argparse.Namespace) -> int:
    from tc_depth_training.config import DataConfig
    from tc_depth_training.inspect import inspect_bag

    steps = DataConfig().time_steps_s
    print(inspect_bag(arguments.bag, steps, arguments.image, arguments.camera_info))
    return 0


def _predict(arguments: argparse.Namespace) -> int:
    from tc_depth_training.predict import predict_sequence, predict_window

    if arguments.images and arguments.source:
        raise UsageError('give a BAG, VIDEO or folder, or --images, not both')
    if arguments.images:
        if not (arguments.start is None and arguments.end is None):
            raise UsageError('--start and --end are of a bag or a video, not of --images')
        if not arguments.intrinsics:
            raise UsageError('--images needs --intrinsics fx fy cx cy (pixels of the images)')
        predict_window(arguments.images, arguments.intrinsics, arguments.weights, arguments.out)
        print(f'wrote {arguments.out / "disparity.npy"}')
        return 0
    if not arguments.source:
        raise UsageError('give a BAG, VIDEO or folder of images, or --images')
    source, stretch = _bag_and_stretch(arguments.source, arguments)
    count = predict_sequence(
        source,
        arguments.weights,
        arguments.out,
        arguments.intrinsics,
        arguments.image,
        arguments.camera_info,
        stretch,
        arguments.odom,
    )
    print(f'wrote the depth of {count} frames to {arguments.out}')
    return 0


def _refine(arguments: argparse.Namespace) -> int:
    from tc_depth_training.refine import RefineConfig, refine_frames, refine_sequence

    config = RefineConfig(
        arguments.steps, arguments.learning_rate, time_step_s=arguments.time_step
    )
    bag, stretch = _bag_and_stretch(arguments.bag, arguments)
    source = (bag, arguments.weights, arguments.out, config)
    if arguments.per_frame:
        count = refine_frames(*source, arguments.image, arguments.camera_info, stretch)
        print(f'wrote the depth of {count} frames to {arguments.out / "depth"}')
    else:
        refine_sequence(*source, arguments.image, arguments.camera_info, stretch)
        print(f'wrote {arguments.out}')
    return 0


def _evaluate(arguments: argparse.Namespace) -> int:
    from tc_depth_training.evaluate import evaluate
    from tc_depth_training.evaluation.depth_errors import DepthRange
    from tc_depth_training.evaluation.sequence import Topics
    from tc_depth_training.evaluation.table import table

    topics = Topics(
        arguments.image, arguments.camera_info, arguments.depth, arguments.lidar, arguments.odom
    )
    depth_range = DepthRange(maximum=arguments.max_depth)
    bag, stretch = _bag_and_stretch(arguments.bag, arguments)
    if arguments.json:  # a folder that cannot be made is better known now than after the work
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
    evaluation = evaluate(
        bag,
        arguments.weights,
        topics,
        depth_range,
        arguments.report,
        arguments.predictions,
        confidence=arguments.confidence,
        stretch=stretch,
    )
    print(table(evaluation))
    if arguments.json:
        arguments.json.write_text(
            json.dumps(evaluation.to_dict(), indent=2, allow_nan=False) + '\n'
        )
    if arguments.report:
        print(f'pictures: {arguments.report / "index.html"}')
    return 0


def _demo(arguments: argparse.Namespace) -> int:
    from tc_depth_training.demo import run_demo

    run_demo(
        arguments.bag,
        arguments.out,
        arguments.rate,
        arguments.weights,
        arguments.image,
        arguments.camera_info,
    )
    return 0


def _render(arguments: argparse.Namespace) -> int:
    from tc_depth_training.data.stretch import parse_bag
    from tc_depth_training.render import render

    bags = render(
        arguments.out,
        [parse_bag(str(bag)) for bag in arguments.textures],
        arguments.scenes,
        arguments.frames,
        tuple(arguments.size),
        arguments.seed,
        arguments.crossing,
    )
    print(f'wrote {len(bags)} bags of {arguments.frames} frames: {arguments.out}/scene_*')
    return 0


def _import_official(arguments: argparse.Namespace) -> int:
    from tc_depth_training.import_official import import_official

    info = import_official(arguments.folder, arguments.out)
    print(f'wrote {arguments.out}: {info.training_data}')
    return 0


def _export(arguments: argparse.Namespace) -> int:
    from tc_depth_training.export import describe, export_onnx

    size = tuple(arguments.size) if arguments.size else None
    print(describe(export_onnx(arguments.weights, arguments.onnx, size)))
    return 0


def _overrides(arguments: argparse.Namespace) -> list[str]:
    """What the command line of ``train`` says, as settings of the configuration."""
    given = {
        'network.name': arguments.model,
        'init': arguments.init,
        'data.image_topics': f'[{", ".join(arguments.image)}]' if arguments.image else '',
        'data.camera_info_topic': arguments.camera_info,
        'data.odometry_topic': arguments.odom,
        'data.depth_topic': arguments.depth,
        'data.lidar_topic': arguments.lidar,
        'data.start_s': '' if arguments.start is None else str(arguments.start),
        'data.end_s': '' if arguments.end is None else str(arguments.end),
    }
    return [*(f'{key}={value}' for key, value in given.items() if value), *arguments.set]


def _bag_and_stretch(bag: Path, arguments: argparse.Namespace) -> tuple[Path, Stretch]:
    """A bag, and what of it a command is to use."""
    from tc_depth_training.data.stretch import Stretch, parse_bag

    asked = Stretch(arguments.start or 0.0, arguments.end)
    part = parse_bag(str(bag))
    return part.path, part.stretch_or(asked)


def _check_weights(arguments: argparse.Namespace) -> None:
    """Name the option whose file is not there; what loads the file knows of no options."""
    weights = getattr(arguments, 'weights', None)
    if weights and not Path(weights).exists():
        option = 'WEIGHTS' if arguments.run is _export else '--weights'
        raise FileNotFoundError(f'weights {weights} do not exist: give {option} a file that does')


def _add_stretch(parser: argparse.ArgumentParser, of: str = 'bag') -> None:
    parser.add_argument(
        '--start',
        type=float,
        metavar='S',
        help=f'use the {of} from here on: seconds since its first image; default: 0',
    )
    parser.add_argument(
        '--end',
        type=float,
        metavar='S',
        help='up to here, itself left out; default: to the end. BAG@START:END says both of one '
        'bag, and goes before these; either may be left out',
    )


def _add_topics(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--image', default='', metavar='TOPIC', help='default: the only one')
    parser.add_argument('--camera-info', default='', metavar='TOPIC', help='default: beside it')


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='tc-depth', description='Train TC-Depth on recorded bags, and use it offline.'
    )
    commands = parser.add_subparsers(required=True, metavar='COMMAND')

    train = commands.add_parser('train', help='train on one or more bags')
    train.add_argument('bags', nargs='+', type=Path, metavar='BAG')
    train.add_argument(
        '--config', type=Path, metavar='YAML', help=f'file, or preset: {", ".join(presets())}'
    )
    train.add_argument('--model', help='the network; monodepth is the single-frame teacher')
    train.add_argument('--set', action='append', default=[], metavar='A.B=C', help='override')
    train.add_argument('--out', type=Path, default=Path('runs/latest'), help='folder to write')
    train.add_argument(
        '--resume', action='store_true', help='go on with the run in --out, if there is one'
    )
    train.add_argument(
        '--init', default='', metavar='W', help="weights to start from; 'default': the embedded"
    )
    train.add_argument(
        '--image', action='append', default=[], metavar='TOPIC', help='default: the only one'
    )
    train.add_argument('--camera-info', default='', metavar='TOPIC', help='default: beside it')
    found = 'default: the only one'
    registered = 'default: the one registered to the camera'
    train.add_argument('--odom', default='', metavar='TOPIC', help=found)
    train.add_argument('--depth', default='', metavar='TOPIC', help=f'to judge by; {registered}')
    train.add_argument('--lidar', default='', metavar='TOPIC', help=f'to judge by; {found}')
    _add_stretch(train)
    train.set_defaults(run=_train)

    inspect = commands.add_parser('inspect', help='what a bag holds, and if one can train on it')
    inspect.add_argument('bag', type=Path, metavar='BAG')
    _add_topics(inspect)
    inspect.set_defaults(run=_inspect)

    predict = commands.add_parser('predict', help='depth of a bag, a video or images, as files')
    predict.add_argument('source', nargs='?', type=Path, metavar='BAG|VIDEO|FOLDER')
    predict.add_argument('--images', nargs='+', type=Path, help='frames in time order')
    predict.add_argument(
        '--intrinsics', nargs=4, type=float, metavar=('FX', 'FY', 'CX', 'CY'), help='pixels'
    )
    predict.add_argument('--weights', type=Path, help='default: the embedded model')
    predict.add_argument('--out', type=Path, required=True, help='folder to write')
    _add_topics(predict)
    _add_stretch(predict, 'bag or video')
    predict.add_argument(
        '--odom', default='', metavar='TOPIC', help='default: the only one; none: go without'
    )
    predict.set_defaults(run=_predict)

    evaluate = commands.add_parser('evaluate', help='how good and how steady depth is on a bag')
    evaluate.add_argument('bag', type=Path, metavar='BAG')
    evaluate.add_argument('--weights', type=Path, help='default: the embedded model')
    evaluate.add_argument(
        '--predictions', type=Path, metavar='DIR', help='score its STAMP.npy instead of predicting'
    )
    _add_topics(evaluate)
    _add_stretch(evaluate)
    truth = 'default: the only one; none: go without'
    registered = 'default: the one registered to the camera; none: go without'
    evaluate.add_argument('--depth', default='', metavar='TOPIC', help=f'truth; {registered}')
    evaluate.add_argument('--lidar', default='', metavar='TOPIC', help=f'points; {truth}')
    evaluate.add_argument('--odom', default='', metavar='TOPIC', help=truth)
    evaluate.add_argument(
        '--max-depth', type=float, default=80.0, metavar='M', help='farther truth is left out'
    )
    evaluate.add_argument(
        '--confidence', action='store_true', help='and if confidence keeps its word'
    )
    evaluate.add_argument('--json', type=Path, metavar='FILE', help='write all numbers')
    evaluate.add_argument('--report', type=Path, metavar='DIR', help='write a page of pictures')
    evaluate.set_defaults(run=_evaluate)

    refine = commands.add_parser('refine', help='let weights learn on the bag they are to predict')
    refine.add_argument('bag', type=Path, metavar='BAG')
    refine.add_argument('--weights', type=Path, required=True)
    refine.add_argument(
        '--out', type=Path, required=True, help='weights to write; with --per-frame a folder'
    )
    refine.add_argument(
        '--per-frame', action='store_true', help='anew for each frame; writes its depth'
    )
    refine.add_argument('--steps', type=int, default=20, help='in all, or of each frame')
    refine.add_argument('--learning-rate', type=float, default=2e-5)
    refine.add_argument(
        '--time-step', type=float, default=0.1, metavar='S', help='between the frames of a window'
    )
    _add_topics(refine)
    _add_stretch(refine)
    refine.set_defaults(run=_refine)

    demo = commands.add_parser('demo', help='play a bag into the node and look at what comes out')
    demo.add_argument('bag', nargs='?', type=Path, help='default: a synthetic recording')
    demo.add_argument('--out', type=Path, default=Path('demo_out'), help='folder to write')
    demo.add_argument('--rate', type=float, default=10.0, help='images a second')
    demo.add_argument('--weights', default='', help='default: the embedded model')
    _add_topics(demo)
    demo.set_defaults(run=_demo)

    render = commands.add_parser(
        'render', help='write bags of rendered places, with exact depth and poses, to learn from'
    )
    render.add_argument('out', type=Path, metavar='OUT', help='folder to write; one bag a scene')
    render.add_argument(
        '--textures',
        nargs='+',
        action='extend',
        default=[],
        type=Path,
        metavar='BAG',
        help='take photographs for textures from their frames, or from a stretch of them, '
        'BAG@START:END in seconds; default: patterns',
    )
    render.add_argument('--scenes', type=int, default=SCENES, metavar='N', help='how many bags')
    render.add_argument(
        '--frames', type=int, default=FRAMES, metavar='N', help='of each, at 10 Hz'
    )
    render.add_argument(
        '--size', nargs=2, type=int, default=SIZE, metavar=('H', 'W'), help='pixels'
    )
    render.add_argument('--seed', type=int, default=0, help='the same gives the same bags')
    render.add_argument(
        '--crossing',
        type=float,
        default=CROSSING,
        metavar='SHARE',
        help='share of the scenes in which an object moves across the view, 0 to 1; '
        f'default: {CROSSING}',
    )
    render.set_defaults(run=_render)

    official = commands.add_parser(
        'import-official', help="convert the authors' .pth files, or Monodepth2's"
    )
    official.add_argument('folder', type=Path, help='holds encoder.pth, depth.pth and so on')
    official.add_argument('out', type=Path, metavar='OUT.safetensors', help='file to write')
    official.set_defaults(run=_import_official)

    export = commands.add_parser('export', help='weights as ONNX, one frame after the other')
    export.add_argument('weights', type=Path, metavar='WEIGHTS')
    export.add_argument('--onnx', type=Path, required=True, metavar='OUT.onnx', help='to write')
    export.add_argument(
        '--size', nargs=2, type=int, metavar=('H', 'W'), help="pixels; default: the weights' own"
    )
    export.set_defaults(run=_export)
    return parser


if __name__ == '__main__':
    sys.exit(main())
