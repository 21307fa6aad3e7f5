"""Eight prompts on a photo through `vlm` against transformers prompt by prompt: `python benchmarks/families.py`.

A Florence-2 of random weights, in the shape of Florence-2-base (231 M parameters). transformers' way is the one of its
model card: for every prompt the processor, `generate`, `batch_decode` and `post_process_generation`. Ours is
`VLM.reply` and `VLM.result` with all prompts: every photo is looked at once, and prompts run together. Both say the
same number of tokens to every prompt, since the end is forbidden before the limit; the tokens are compared, and must be
the same. Ours also finds the probability of every token, for the scores; transformers is timed without.

One photo, then a batch of them (`--num-photos`), of which transformers does the first few (`--num-peer-photos`): it
does each alone, so that its time goes with their number. On a machine with other work take `--clock cpu` and one thread
(`OMP_NUM_THREADS=1`): seconds that other work takes then do not count.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoProcessor, Florence2ForConditionalGeneration, Florence2Processor
from transformers.utils import logging

from outfits import draw_outfits
from random_florence2 import write_checkpoint
from timing import interleave, machine, medians, print_json, print_table, require_at_least
from vlm.api import VLM, load
from vlm.demo import PERSON
from vlm.images import open_image
from vlm.request import Request

PHRASES = ("the coat", "the brown ankle boots", "the red bag", "her hat", "the belt around her waist")
ASKED: tuple[tuple[str, dict[str, Any]], ...] = (
    ("<CAPTION>", {"task": "caption", "detail": "brief"}),
    ("<DETAILED_CAPTION>", {"task": "caption", "detail": "detailed"}),
    ("<OD>", {"task": "detection"}),
    *(("<CAPTION_TO_PHRASE_GROUNDING>", {"task": "grounding", "text": phrase}) for phrase in PHRASES),
)
"""Florence-2's task token, and the same as a request."""

Tokens = list[list[int]]


@torch.inference_mode()
def prompt_by_prompt(
    model: Florence2ForConditionalGeneration,
    processor: Florence2Processor,
    photos: Sequence[Image.Image],
    num_tokens: int,
    num_beams: int,
) -> Tokens:
    """The tokens of every answer; what transformers makes of them is made, and left."""
    said = []
    for photo in photos:
        for task, fields in ASKED:
            inputs = processor(text=task + fields.get("text", ""), images=photo, return_tensors="pt").to(model.device)
            ids = model.generate(
                **inputs,
                max_new_tokens=num_tokens,
                num_beams=num_beams,
                early_stopping=num_beams > 1,
                do_sample=False,
            )
            [text] = processor.batch_decode(ids, skip_special_tokens=False)
            processor.post_process_generation(text, task=task, image_size=photo.size)
            said.append(ids[0, 1:].tolist())
    return said


def together(model: VLM, photos: Sequence[Image.Image], num_tokens: int, num_beams: int) -> Tokens:
    """The same of ours, which makes typed results of them."""
    asked = [
        Request(photo, **fields, max_new_tokens=num_tokens, num_beams=num_beams)
        for photo in photos
        for _, fields in ASKED
    ]
    replies = model.reply(asked, batch_size=len(photos))
    for reply in replies:
        model.result(reply)
    return [list(reply.generated.token_ids) for reply in replies]


def check(ours: Tokens, theirs: Tokens) -> None:
    """Raises ValueError where the tokens differ, over as many answers as both have."""
    different = sum(a != b for a, b in zip(ours, theirs, strict=False))
    if different:
        raise ValueError(f"{different} of {min(len(ours), len(theirs))} answers have other tokens")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Eight prompts on a photo: vlm against transformers prompt by prompt.")
    parser.add_argument("--checkpoint", type=Path, help="a native Florence-2 (default: random weights, base size)")
    parser.add_argument("--num-photos", type=int, default=16, help="in the batch; 1: no batch (default: %(default)s)")
    parser.add_argument("--num-peer-photos", type=int, default=2, help="of them by transformers (default: %(default)s)")
    parser.add_argument("--max-new-tokens", type=int, default=32, help="of every answer (default: %(default)s)")
    parser.add_argument("--num-beams", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--repeats", type=int, default=3, help="rounds that count (default: %(default)s)")
    parser.add_argument("--warmup", type=int, default=1, help="rounds before them (default: %(default)s)")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="default: %(default)s")
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="a tiny model, few tokens, one round: only a smoke test")
    args = parser.parse_args(argv)
    if args.quick:
        args.num_photos, args.num_peer_photos, args.max_new_tokens, args.repeats, args.warmup = 3, 2, 8, 1, 0
    require_at_least(parser, args, num_photos=1, num_peer_photos=1, max_new_tokens=2, num_beams=1, repeats=1)
    args.num_peer_photos = min(args.num_peer_photos, args.num_photos)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        try:
            checkpoint = args.checkpoint or write_checkpoint(Path(folder) / "checkpoint", base=not args.quick)
            model = load(checkpoint, device=args.device)
            seconds = measure(args, model, AutoProcessor.from_pretrained(checkpoint))
        except ValueError as error:
            parser.exit(1, f"families.py: {error}\n")
        report(args, model, seconds)
    return 0


def measure(args: argparse.Namespace, model: VLM, processor: Florence2Processor) -> dict[str, dict[str, list[float]]]:
    """Seconds a photo of both ways, for one photo and for a batch.

    Raises:
        ValueError: the two ways give different tokens.
    """
    network: Florence2ForConditionalGeneration = model.family.model
    network.generation_config.min_new_tokens = args.max_new_tokens  # both go by it
    clock = time.perf_counter if args.clock == "wall" else time.process_time
    one = [open_image(PERSON)]
    work = {"one photo": (one, one)}
    if args.num_photos > 1:
        photos = [drawn.image for drawn in draw_outfits(args.num_photos)]
        work[f"{args.num_photos} photos"] = (photos, photos[: args.num_peer_photos])
    found = {}
    for name, (ours, theirs) in work.items():
        said: dict[str, Tokens] = {}

        def vlm_way(photos: list[Image.Image] = ours, said: dict[str, Tokens] = said) -> None:
            said["vlm"] = together(model, photos, args.max_new_tokens, args.num_beams)

        def peer_way(photos: list[Image.Image] = theirs, said: dict[str, Tokens] = said) -> None:
            said["transformers"] = prompt_by_prompt(network, processor, photos, args.max_new_tokens, args.num_beams)

        taken = interleave(
            {"vlm": vlm_way, "transformers": peer_way}, repeats=args.repeats, warmup=args.warmup, clock=clock
        )
        check(said["vlm"], said["transformers"])
        sizes = {"vlm": len(ours), "transformers": len(theirs)}
        found[name] = {way: [value / sizes[way] for value in values] for way, values in taken.items()}
    return found


def report(args: argparse.Namespace, model: VLM, seconds: dict[str, dict[str, list[float]]]) -> None:
    middle = {name: medians(ways) for name, ways in seconds.items()}
    ratios = {name: ways["transformers"] / ways["vlm"] for name, ways in middle.items()}
    facts = model.info()
    one, *batch = middle
    print_table(
        f"{len(ASKED)} prompts of {args.max_new_tokens} tokens a photo, {facts['parameters'] / 1e6:.0f} M parameters",
        ("photos", "vlm, s/photo", "transformers, s/photo", "vlm is"),
        [
            (name, f"{ways['vlm']:.2f}", f"{ways['transformers']:.2f}", f"{ratios[name]:.2f}x")
            for name, ways in middle.items()
        ],
        ["The tokens are the same."],
    )
    print_json(
        {
            "benchmark": "families",
            "ours_vs_transformers": ratios[one],
            **({"ours_vs_transformers_batch": ratios[batch[0]]} if batch else {}),
            "seconds_per_photo": middle,
            "seconds": seconds,
            "num_prompts": len(ASKED),
            "max_new_tokens": args.max_new_tokens,
            "num_beams": args.num_beams,
            "num_photos": args.num_photos,
            "num_peer_photos": args.num_peer_photos,
            "repeats": args.repeats,
            "clock": args.clock,
            "parameters": facts["parameters"],
            "family": facts["family"],
            "device": facts["device"],
            "dtype": facts["dtype"],
            **machine(),
        }
    )


if __name__ == "__main__":
    raise SystemExit(main())
