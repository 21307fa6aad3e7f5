"""Describing an outfit from one look, against asking one prompt at a time: `python benchmarks/describe.py`.

Two comparisons, both with the same weights and the same answers, or nothing is reported:

- One look. The steps of `describe_outfit` (look once, detection and caption in one pass, the attributes of all
  garments in a second) against `model.detect`, `model.caption` and `model.attributes` of every garment, each of which
  opens the photo and looks at it anew. So that the work does not hang on what the model finds, attributes are asked
  for a fixed list of garments; with `--num-garments 0` for those found, by `describe_outfit` itself.
- Decoding. Tokens a second of `vlm.generate` against transformers' `GenerationMixin.generate`: a batch of captions of
  different pictures, greedy, no grammar, from encoded images to tokens. The end token is ignored on both sides, so that
  every sequence is as long as the limit. `vlm.generate` always gives text and the probability of every token;
  transformers is timed without them and, as "scored", with the probabilities.

Without a checkpoint embedded in the package: `python benchmarks/describe.py --checkpoint runs/embedded/final`.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers.modeling_outputs import BaseModelOutput

from adapter import Generator
from outfits import draw_outfits, garments_at, tiny_model
from tasks import TASKS
from tasks.boxes import Box
from tasks.results import Attributes, Garment
from timing import interleave, machine, medians, print_json, print_table, require_at_least
from vlm.api import VLM, load
from vlm.demo import PERSON
from vlm.generate import Decoding, Job, generate
from vlm.images import open_image
from vlm.model import ImageFeatures, OneLookModel
from vlm.model.masks import PADDING
from vlm.outfit import NOTHING_FOUND, describe_outfit, without_duplicates
from vlm.processor import pack
from vlm.request import Request
from vlm.token_masks import TokenMasks

# -- one look --------------------------------------------------------------------------------------------

Answers = dict[str, Any]
"""What was said about a photo: the caption, the garments found with their boxes, and attribute values."""


def _answers(caption: str, found: Sequence[Garment], attributes: Sequence[Attributes]) -> Answers:
    return {
        "caption": caption,
        "garments": [(garment.label, garment.box) for garment in found],
        "attributes": [{name: value.values for name, value in item.values.items()} for item in attributes],
    }


def from_one_look(model: VLM, photo: Path, garments: Sequence[tuple[str, Box]]) -> Answers:
    """As `describe_outfit` does it, for these garments; without any, for those it finds."""
    if not garments:
        outfit = describe_outfit(model, photo)
        return _answers(outfit.summary, outfit.garments, [g.attributes for g in outfit.garments if g.attributes])
    [look] = model.encode([photo])
    detection, caption = model.generate([Request(look, "detection"), Request(look, "caption")])
    attributes = model.generate([Request(look, "attributes", garment=name, box=box) for name, box in garments])
    return _answers(caption.text, detection.objects, attributes)


def prompt_by_prompt(model: VLM, photo: Path, garments: Sequence[tuple[str, Box]]) -> Answers:
    """The same questions, every one with a look of its own."""
    found = model.detect(photo).objects
    said = model.caption(photo).text
    if garments:
        return _answers(said, found, [model.attributes(photo, garment=name, box=box) for name, box in garments])
    worn = without_duplicates(found)
    attributes = [model.attributes(photo, garment=garment.label, box=garment.box) for garment in worn]
    return _answers(said if worn else NOTHING_FOUND, worn, attributes)


def compare_looks(
    model: VLM, photos: Sequence[Path], num_garments: int, repeats: int, warmup: int
) -> tuple[dict[str, list[float]], int]:
    """Seconds of both ways over all photos, and how many prompts that were.

    Raises:
        ValueError: the two ways give different answers.
    """
    opened = [open_image(photo) for photo in photos]
    garments = [garments_at((image.height, image.width), num_garments) for image in opened]
    num_prompts = 0
    for photo, asked in zip(photos, garments, strict=True):
        first, second = from_one_look(model, photo, asked), prompt_by_prompt(model, photo, asked)
        for name, answer in first.items():
            if answer != second[name]:
                raise ValueError(f"{photo.name}: {name} differ: {answer} from one look, {second[name]} one by one")
        num_prompts += 2 + len(first["attributes"])
    pairs = list(zip(photos, garments, strict=True))
    ways = {
        "one look": lambda: [from_one_look(model, photo, asked) for photo, asked in pairs],
        "prompt by prompt": lambda: [prompt_by_prompt(model, photo, asked) for photo, asked in pairs],
    }
    return interleave(ways, repeats=repeats, warmup=warmup), num_prompts


# -- decoding --------------------------------------------------------------------------------------------


def compare_decoding(
    model: VLM, num_captions: int, max_new_tokens: int, repeats: int, warmup: int
) -> dict[str, list[float]]:
    """Seconds of our loop and of transformers' for the same captions.

    Raises:
        ValueError: the two give different tokens.
    """
    network: OneLookModel = model.family.model
    processor = model.family.processor
    features: ImageFeatures = model.family.encode_images([item.image for item in draw_outfits(num_captions)])
    details = [("brief", "detailed")[index % 2] for index in range(num_captions)]
    prompts = [processor.encode_prompt(TASKS["caption"].prompt({"detail": detail}, (1, 1))) for detail in details]
    decoding = Decoding(max_new_tokens=max_new_tokens, location_window=None)
    jobs = [
        Job(image=index, prompt_ids=prompt, automaton=None, decoding=decoding) for index, prompt in enumerate(prompts)
    ]
    masks = TokenMasks(processor.tokenizer, network.config.vocab_size)
    masks.eos_id = -1  # no token ends a sequence, as with transformers' eos_token_id = None
    generator = Generator(network).eval()

    def ours() -> list[list[int]]:
        return [list(said.token_ids) for said in generate(network, masks, features, jobs)]

    @torch.inference_mode()
    def theirs(**options: Any) -> Any:
        rows = pack([[prompt] for prompt in prompts], network.config.pad_token_id)
        memory = network.encode_prompts(features, *(part.to(network.device) for part in rows))
        return generator.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=memory.hidden_BMD),
            attention_mask=memory.segments_BM != PADDING,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            **options,
        )

    def plain() -> list[list[int]]:
        return theirs()[:, 1:].tolist()

    @torch.inference_mode()
    def scored() -> list[list[float]]:
        said = theirs(return_dict_in_generate=True, output_scores=True)
        return generator.compute_transition_scores(said.sequences, said.scores, normalize_logits=True).tolist()

    first, second = ours(), plain()
    if first != second or {len(ids) for ids in first} != {max_new_tokens}:
        different = sum(a != b for a, b in zip(first, second, strict=True))
        raise ValueError(f"{different} of {num_captions} captions have other tokens with transformers' generate")
    return interleave(
        {"vlm": ours, "transformers": plain, "transformers, scored": scored}, repeats=repeats, warmup=warmup
    )


# -- command line ----------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="One look against one prompt at a time, and our decoding loop.")
    parser.add_argument("--checkpoint", help="directory or Hub id (default: the one embedded in the package)")
    parser.add_argument("--photos", type=Path, nargs="+", help="your photos (default: a drawn person)")
    parser.add_argument("--num-garments", type=int, default=8, help="0: those found (default: %(default)s)")
    parser.add_argument("--num-captions", type=int, default=16, help="decoded in one batch (default: %(default)s)")
    parser.add_argument("--max-new-tokens", type=int, default=64, help="of every caption (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=7, help="rounds that count (default: %(default)s)")
    parser.add_argument("--warmup", type=int, default=2, help="rounds before them (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="random weights, few tokens, one round: only a smoke test")
    args = parser.parse_args(argv)
    if args.quick:
        args.num_captions, args.max_new_tokens, args.repeats, args.warmup = 2, 8, 1, 0
    require_at_least(parser, args, num_garments=0, num_captions=1, max_new_tokens=1, repeats=1)
    try:
        model = tiny_model() if args.quick and not args.checkpoint else load(args.checkpoint, device=args.device)
    except ValueError as error:
        parser.exit(1, f"describe.py: {error}; for example --checkpoint runs/embedded/final\n")
    with tempfile.TemporaryDirectory() as folder:
        try:
            photos = args.photos or [default_photo(Path(folder), args.quick)]
            looks, num_prompts = compare_looks(model, photos, args.num_garments, args.repeats, args.warmup)
            decoding = compare_decoding(model, args.num_captions, args.max_new_tokens, args.repeats, args.warmup)
        except ValueError as error:
            parser.exit(1, f"describe.py: {error}\n")
    report(args, model, looks, decoding, len(photos), num_prompts)
    return 0


def default_photo(folder: Path, quick: bool) -> Path:
    if not quick:
        return PERSON
    path = folder / "drawn.png"
    draw_outfits(1)[0].image.save(path)
    return path


def report(
    args: argparse.Namespace,
    model: VLM,
    looks: dict[str, list[float]],
    decoding: dict[str, list[float]],
    num_photos: int,
    num_prompts: int,
) -> None:
    per_photo = {name: value / num_photos for name, value in medians(looks).items()}
    num_tokens = args.num_captions * args.max_new_tokens
    rates = {name: num_tokens / value for name, value in medians(decoding).items()}
    print_table(
        f"{num_photos} photo(s), {num_prompts} prompts",
        ("way", "s/photo", "one look is"),
        [(name, f"{value:.3f}", f"{value / per_photo['one look']:.2f}x") for name, value in per_photo.items()],
        ["The answers are the same: captions, garments, boxes and attribute values."],
    )
    print_table(
        f"{args.num_captions} captions of {args.max_new_tokens} tokens",
        ("loop", "tokens/s", "vlm is"),
        [(name, f"{value:.0f}", f"{rates['vlm'] / value:.2f}x") for name, value in rates.items()],
        ["The tokens are the same."],
    )
    facts = model.info()
    print_json(
        {
            "benchmark": "describe",
            "reuse_vs_prompt_by_prompt": per_photo["prompt by prompt"] / per_photo["one look"],
            "tokens_per_s_vs_transformers": rates["vlm"] / rates["transformers"],
            "tokens_per_s_vs_transformers_scored": rates["vlm"] / rates["transformers, scored"],
            "seconds_per_photo": per_photo,
            "tokens_per_s": rates,
            "num_photos": num_photos,
            "num_prompts": num_prompts,
            "num_garments": args.num_garments,
            "num_captions": args.num_captions,
            "max_new_tokens": args.max_new_tokens,
            "repeats": args.repeats,
            "seconds": {**looks, **decoding},
            "checkpoint": args.checkpoint or ("random" if args.quick else "embedded"),
            "parameters": facts["parameters"],
            "device": facts["device"],
            "dtype": facts["dtype"],
            **machine(),
        }
    )


if __name__ == "__main__":
    raise SystemExit(main())
