"""The command line: `vlm describe photo.jpg`, `vlm train configs/train/embedded.yaml`, ... .

What a command needs is imported when it runs, so that `vlm --help` and mistyped commands answer at once.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlm.cli_hub import add_hub_commands

if TYPE_CHECKING:
    from PIL import Image

    from tasks.results import Result

__all__ = ["build_parser", "main", "parse_args"]

OK, FAILED, USAGE = 0, 1, 2

_EPILOG = """\
PHOTO is a file, a URL, a folder or a pattern such as 'photos/*.jpg'. A photo that cannot be read is named on
standard error and the rest go on; the exit status is then 1. Wrong usage exits with 2.
With VLM_TRACEBACK=1 an error shows where it came from.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 0, 1 (something failed) or 2 (wrong usage)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        # A file name need not be valid in the terminal's encoding; it must not end the run.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        if arguments[:1] == ["train"]:
            # Its options are the fields of the config, so that jsonargparse reads them.
            from vlm.launch import launch_train, split_arguments

            launch, arguments = split_arguments(arguments[1:])
            if launch.launch is not None:
                return launch_train(launch, arguments)
            from vlm.train import main as train

            return train(arguments) or OK
        args = parse_args(arguments)
        status: int = args.run(args)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # The reader (`| head`) has what it wants. Python would complain once more while it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:
        print("vlm: stopped", file=sys.stderr)
        return 130
    except (ValueError, OSError, FloatingPointError) as error:
        if os.environ.get("VLM_TRACEBACK"):
            raise
        print(f"vlm: {error}", file=sys.stderr)
        return FAILED


# -- the parser ----------------------------------------------------------------------------------------


class _Version(argparse.Action):
    def __init__(self, option_strings: Sequence[str], dest: str, **_: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, help="show the version and exit")

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        print(f"vlm {metadata.version('vlm')}")
        parser.exit()


def build_parser() -> argparse.ArgumentParser:
    """All commands and their options. `train` is listed but reads its own."""
    parser = argparse.ArgumentParser(
        prog="vlm",
        description="Describe what people wear: captions, answers, boxes and attributes from one look at a photo.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(
        name: str, run: Callable[[argparse.Namespace], int], text: str, *, photos: bool = False, draw: bool = False
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        sub.set_defaults(run=run, usage_error=sub.error)
        if photos:
            sub.add_argument("photos", nargs="+", metavar="PHOTO", help="files, URLs, folders or patterns")
            sub.add_argument("--json", action="store_true", help="print one JSON object a line")
            sub.add_argument("--checkpoint", metavar="DIR", help="a checkpoint directory or Hub id (default: embedded)")
            sub.add_argument("--adapter", metavar="DIR", help="an adapter of it: a directory, Hub id, or ID@REVISION")
            sub.add_argument("--device", help="for example cpu or cuda:1 (default: the GPU where there is one)")
            if draw:
                sub.add_argument("--draw", metavar="OUT", help="draw the boxes: out.png, or a folder for many photos")
        return sub

    def on_records(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--suite", default="validation", help="which records and measures (default: %(default)s)")
        sub.add_argument("--data-root", metavar="DIR", help="where the data sets lie")
        sub.add_argument("--limit", type=int, metavar="N", help="at most N records of each data set")

    describe = command("describe", _describe, "describe the whole outfit, garment by garment", photos=True, draw=True)
    describe.add_argument("--detail", choices=("brief", "detailed"), default="brief", help="default: %(default)s")
    describe.add_argument(
        "--min-score", type=float, default=0.0, metavar="P", help="leave out garments less sure than P"
    )
    describe.add_argument("--closer", action="store_true", help="tell attributes from a crop of each garment, too")
    ask = command("ask", _ask, "answer a question about photos", photos=True)
    ask.add_argument("question", metavar="QUESTION", help='for example "what colour are the boots?"')
    ground = command("ground", _ground, "find what a phrase means", photos=True, draw=True)
    ground.add_argument("phrase", metavar="PHRASE", help='for example "the red bag"')
    caption = command("caption", _caption, "say what is in a photo", photos=True)
    caption.add_argument("--detail", choices=("brief", "detailed"), default="brief", help="default: %(default)s")
    detect = command("detect", _detect, "find all garments and their boxes", photos=True, draw=True)
    detect.add_argument(
        "--alternatives", type=int, default=0, metavar="N", help="N other words for each garment, with their scores"
    )
    attributes = command("attributes", _attributes, "tell the attributes of one garment", photos=True)
    attributes.add_argument("--garment", metavar="NAME", help="for example coat; needed unless --box is given")
    attributes.add_argument("--box", nargs=4, type=float, metavar=("X1", "Y1", "X2", "Y2"), help="pixels of the photo")
    attributes.add_argument("--closer", action="store_true", help="tell them from a crop around the box, too")
    attributes.add_argument("--attributes", metavar="NAMES", help="for example colour,sleeve (default: all that apply)")

    commands.add_parser(
        "train",
        help="train a model: vlm train CONFIG.yaml [--field.name=value ...] [--launch multi_gpu --num-processes 8]",
        add_help=False,  # `vlm train --help` lists the config's fields
    )
    evaluate = command("eval", _evaluate, "measure a checkpoint with the task metrics")
    evaluate.add_argument("--checkpoint", metavar="DIR", help="default: the embedded checkpoint")
    evaluate.add_argument("--output", metavar="JSON", help="where the results go")
    on_records(evaluate)
    card = command("card", _card, "write the model card of measured results")
    card.add_argument("results", metavar="RESULTS", help="the JSON that `vlm eval` wrote")
    card.add_argument("-o", "--output", required=True, metavar="MD", help="where the card goes")
    card.add_argument("--reliability", metavar="PNG", help="reliability plot, as the card should link to it")
    card.add_argument("--readme", metavar="MD", help="also put the headline table between the marks in this file")
    calibrate = command("calibrate", _calibrate, "fit a checkpoint's probabilities on validation records")
    calibrate.add_argument("checkpoint", metavar="DIR", help="calibration.json is written into it")
    calibrate.add_argument("--plot", metavar="PNG", help="draw the reliability before and after")
    on_records(calibrate)
    add_hub_commands(command)
    info = command("info", _info, "tell what a checkpoint is")
    info.add_argument("checkpoint", nargs="?", metavar="CHECKPOINT", help="a directory (default: embedded)")
    info.add_argument("--json", action="store_true", help="print one JSON object")

    data = commands.add_parser("data", help="check, look at, count or pack training records").add_subparsers(
        title="commands", metavar="COMMAND", required=True
    )
    check = data.add_parser("check", help="name every broken row of a record file, with the fix")
    check.add_argument("path", metavar="PATH", help="a JSONL or Parquet file, or a folder of them")
    check.set_defaults(run=_data_check)
    preview = data.add_parser("preview", help="draw records with their boxes and labels on one sheet")
    preview.add_argument("path", metavar="PATH")
    preview.add_argument("-o", "--output", default="outputs/preview.png", metavar="PNG", help="default: %(default)s")
    preview.add_argument("--num", type=int, default=12, metavar="N", help="how many records (default: %(default)s)")
    preview.set_defaults(run=_data_preview)
    coverage = data.add_parser("coverage", help="tell which declared cells (garment x colour, ...) the records fill")
    coverage.add_argument("paths", nargs="+", metavar="PATH", help="record files, folders, or ccp, clothing, products")
    coverage.add_argument("--grid", metavar="YAML", help="the cells that count (default: configs/coverage/outfit.yaml)")
    coverage.add_argument("--plot", metavar="PNG", help="draw heat maps of the cells")
    coverage.add_argument("--plan", metavar="JSONL", help="write the cells that lack examples, for drawing them")
    coverage.add_argument("--json", action="store_true", help="print one JSON object")
    coverage.set_defaults(run=_data_coverage)
    shards = data.add_parser("shards", help="pack records and their photos into a few large files")
    shards.add_argument("path", metavar="PATH", help="a JSONL or Parquet file, or a folder of them")
    shards.add_argument("output", metavar="OUT", help="a new folder")
    shards.add_argument("--format", choices=("parquet", "webdataset"), default="parquet", help="default: %(default)s")
    shards.add_argument("--shard-size", type=float, default=256, metavar="MB", help="at most (default: %(default)s)")
    shards.set_defaults(run=_data_shards)
    return parser


def parse_args(arguments: Sequence[str]) -> argparse.Namespace:
    """As argparse, which alone would refuse photos after an option: `vlm describe a.jpg --json b.jpg`."""
    parser = build_parser()
    args, late = parser.parse_known_args(arguments)
    if late:
        if not hasattr(args, "photos") or any(word.startswith("-") for word in late):
            getattr(args, "usage_error", parser.error)(f"unrecognized arguments: {' '.join(late)}")
        last = next((name for name in ("question", "phrase") if hasattr(args, name)), None)
        words = [*args.photos, *([getattr(args, last)] if last else []), *late]
        if last:
            setattr(args, last, words.pop())
        args.photos = words
    return args


# -- commands over photos --------------------------------------------------------------------------------


def _describe(args: argparse.Namespace) -> int:
    if not 0 <= args.min_score <= 1:
        args.usage_error(f"--min-score is {args.min_score}; expected a probability in [0, 1]")
    options = {"detail": args.detail, "min_score": args.min_score, "closer": args.closer}
    return _over_photos(args, lambda model, image: model.describe_outfit(image, **options))


def _ask(args: argparse.Namespace) -> int:
    return _over_photos(args, lambda model, image: model.ask(image, args.question), question=args.question)


def _ground(args: argparse.Namespace) -> int:
    return _over_photos(args, lambda model, image: model.ground(image, args.phrase))


def _caption(args: argparse.Namespace) -> int:
    return _over_photos(args, lambda model, image: model.caption(image, detail=args.detail))


def _detect(args: argparse.Namespace) -> int:
    if args.alternatives < 0:
        args.usage_error(f"--alternatives is {args.alternatives}; expected 0 for none, or a number of words")
    return _over_photos(args, lambda model, image: model.detect(image, alternatives=args.alternatives))


def _attributes(args: argparse.Namespace) -> int:
    from tasks.boxes import Box

    if args.garment is None and args.box is None:
        args.usage_error("give --garment, --box, or both")
    try:
        box = None if args.box is None else Box(*args.box)
    except ValueError as error:
        args.usage_error(f"--box: {error}")
    if args.closer and box is None:
        args.usage_error("--closer looks closer at a box; give --box")
    names = None if args.attributes is None else [name.strip() for name in args.attributes.split(",")]
    asked = {} if args.garment is None else {"garment": args.garment}
    return _over_photos(
        args,
        lambda model, image: model.attributes(
            image, garment=args.garment, box=box, attributes=names, closer=args.closer
        ),
        **asked,
    )


def _over_photos(args: argparse.Namespace, look: Callable[[Any, Image.Image], Result], **asked: str) -> int:
    """Open every photo, look at it, and print (and draw) the result; a bad photo is reported and passed over."""
    from vlm.photos import drawing_paths, find_photos

    failures = 0
    photos: list[str] = []
    for source in args.photos:
        try:
            photos.extend(find_photos(source))
        except (ValueError, OSError) as error:
            _report(source, error)
            failures += 1
    drawings: list[Path] = []
    if getattr(args, "draw", None):
        try:
            drawings = drawing_paths(photos, args.draw)
        except ValueError as error:
            args.usage_error(str(error))
    if not photos:
        return FAILED  # no need to load a model

    from vlm.images import open_image

    model = _load(args.checkpoint, args.device, args.adapter)
    show = _printer(args, asked)
    for index, photo in enumerate(photos):
        try:
            image = open_image(photo)
            result = look(model, image)
        except ValueError as error:
            _report(photo, error)
            failures += 1
            continue
        show(photo, result)
        if drawings:
            _draw(image, result, drawings[index])
    return FAILED if failures else OK


def _report(name: str, error: Exception) -> None:
    message = str(error)
    print(f"vlm: {message if name in message else f'{name}: {message}'}", file=sys.stderr, flush=True)


def _load(checkpoint: str | None, device: str | None, adapter: str | None = None) -> Any:
    import vlm
    from vlm.run_log import no_other_bars

    with no_other_bars():
        return vlm.load(checkpoint, device=device, adapter=adapter)


def _printer(args: argparse.Namespace, asked: Mapping[str, str]) -> Callable[[str, Result], None]:
    """How results go to standard output, each as soon as it is there."""
    if args.json:
        return lambda photo, result: _print_json({"photo": photo, **asked, **result.to_dict()})

    from vlm.show import make_console, show_result

    console = make_console()
    return lambda photo, result: show_result(console, photo, result)


def _print_json(value: Mapping[str, Any]) -> None:
    print(json.dumps(value, ensure_ascii=False), flush=True)


def _draw(image: Image.Image, result: Result, path: Path) -> None:
    from tasks.results import Detection, Garment, Grounding, Outfit
    from vlm.draw import draw_boxes, draw_outfit
    from vlm.photos import save_image

    if isinstance(result, Outfit):
        drawing = draw_outfit(image, result)
    elif isinstance(result, Detection):
        drawing = draw_boxes(image, result.objects)
    else:
        assert isinstance(result, Grounding)
        drawing = draw_boxes(image, [Garment(result.phrase, box, score=score) for box, score in result.boxes])
    save_image(drawing, path)


# -- the other commands ----------------------------------------------------------------------------------


def _evaluate(args: argparse.Namespace) -> int:
    from vlm.evaluate import main_eval

    main_eval(args.checkpoint, args.suite, args.output, args.data_root, args.limit)
    return OK


def _card(args: argparse.Namespace) -> int:
    from vlm.card import fill_table, main_card

    main_card(args.results, args.output, reliability=args.reliability)
    print(args.output)
    if args.readme:
        fill_table(args.results, args.readme)
        print(args.readme)
    return OK


def _calibrate(args: argparse.Namespace) -> int:
    from vlm.calibrate import main_calibrate

    calibration = main_calibrate(
        args.checkpoint, args.suite, data_root=args.data_root, limit=args.limit, plot=args.plot
    )
    for key, values in calibration.report["keys"].items():
        print(f"{key}: ECE {values['ece_before']:.3f} before, {values['ece_after']:.3f} after, {values['num']} scores")
    return OK


def _info(args: argparse.Namespace) -> int:
    from vlm.hub import find_checkpoint
    from vlm.info import checkpoint_info

    info = checkpoint_info(find_checkpoint(args.checkpoint))
    if args.json:
        _print_json(info)
        return OK

    from vlm.show import make_console, show_pairs

    info["parameters"] = f"{info['parameters']:,}"
    for name in ("weights_bytes", "memory_bytes"):
        if name in info:
            info[name] = f"{info[name]:,}"
    info["tasks"] = ", ".join(info["tasks"])
    info["calibrated"] = "yes" if info["calibrated"] else "no"
    show_pairs(make_console(), info)
    return OK


def _data_check(args: argparse.Namespace) -> int:
    from vlm.data.check import check

    problems = check(args.path)
    for problem in problems:
        print(problem)
    if not problems:
        print(f"{args.path}: no problems found")
    return FAILED if problems else OK


def _data_preview(args: argparse.Namespace) -> int:
    from vlm.data.preview import preview

    preview(args.path, args.output, args.num)
    print(args.output)
    return OK


def _data_coverage(args: argparse.Namespace) -> int:
    from vlm.data.coverage_report import main_coverage

    report = main_coverage(args.paths, args.grid, plot_to=args.plot, plan_to=args.plan, show=not args.json)
    if args.json:
        _print_json(report.to_dict())
    return OK


def _data_shards(args: argparse.Namespace) -> int:
    from vlm.data.shards import write_shards

    for file in write_shards(args.path, args.output, format=args.format, shard_size=args.shard_size):
        print(file)
    return OK


if __name__ == "__main__":
    raise SystemExit(main())
