"""The public face: load a model, ask it things, get typed and scored results."""

from __future__ import annotations

import math
import os
import secrets
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tasks.boxes import Box
from tasks.grammar import compile_grammar
from tasks.results import Answer, Attributes, Caption, Detection, Grounding, Outfit, Result
from vlm.adapters import NO_ADAPTER, AdapterMethods, AnyAdapter, load_beside
from vlm.alternatives import check_alternatives, with_alternatives
from vlm.calibrate import Calibration
from vlm.closer import closer_attributes, photo_itself
from vlm.families import Family, Prompt, load_family, make_family, task_form
from vlm.hub import find_checkpoint, require_loadable
from vlm.images import ImageSource, open_image
from vlm.placing import load_options, own_dtype
from vlm.request import EncodedImage, Reply, Request

__all__ = ["VLM", "EncodedImage", "Reply", "Request", "load"]

CALIBRATION_FILE = "calibration.json"

AnyImage = ImageSource | EncodedImage


def load(
    name_or_path: str | os.PathLike[str] | None = None, *, adapter: AnyAdapter | None = None, **options: Any
) -> VLM:
    """Load a model: `vlm.load()` for the embedded one, or a checkpoint directory, or a Hub id.

    Args:
        name_or_path: None, a directory or "owner/name".
        adapter: a directory or Hub id (of a revision: "owner/name@revision") of a LoRA or DoRA that belongs to the
            checkpoint, in use from the start; or several by name, of which none is until one is asked for
            (`Request.adapter`, `VLM.use_adapter`).
        **options: see `VLM.from_pretrained`.

    Raises:
        ValueError: no such checkpoint, or a damaged one; an adapter of another checkpoint.
    """
    if adapter is not None:
        model: VLM = load_beside(VLM.from_pretrained, _dtype, name_or_path, adapter, options)
        return model
    return VLM.from_pretrained(name_or_path, **options)


class VLM(AdapterMethods):
    """A model that looks at an image once and answers any number of requests about it.

    Every method takes an image as a path, URL, bytes, PIL.Image, numpy HxWx3 uint8, or as `encode` gives it.

    Args:
        model: a model, for example one in training, or a `Family`, which brings its processor.
        processor: the model's.
        calibration: turns raw scores into probabilities that mean what they say; None leaves them raw.
    """

    def __init__(self, model: Any, processor: Any = None, calibration: Calibration | None = None) -> None:
        self.family: Family = model if processor is None else make_family(model, processor)
        self.calibration = calibration
        self.source: Path | None = None  # the checkpoint that it was loaded from

    # -- checkpoints ---------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str] | None = None,
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        device_map: str | Mapping[str, Any] | None = None,
        load_in_8bit: bool = False,
        load_in_4bit: bool = False,
        revision: str | None = None,
        subfolder: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
    ) -> VLM:
        """Load a checkpoint, whatever its family.

        Args:
            name_or_path: None for the embedded checkpoint, a directory, or a Hub id such as "owner/name".
            device: None for the GPU where there is one.
            dtype: None for float32, in which results do not depend on the batch; "auto" for the checkpoint's own.
            device_map: as accelerate takes it, in place of `device`: "auto", or parts of the model -> device.
            load_in_8bit, load_in_4bit: with bitsandbytes.
            revision, subfolder, token, cache_dir, local_files_only: see `vlm.hub.find_checkpoint`.

        Raises:
            ValueError: no such checkpoint, or a damaged one; an unknown dtype or device; bitsandbytes is not there.
        """
        placing = load_options(device, device_map, load_in_8bit=load_in_8bit, load_in_4bit=load_in_4bit)
        path = find_checkpoint(
            name_or_path,
            revision=revision,
            subfolder=subfolder,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
        )
        require_loadable(path)
        if dtype == "auto":
            dtype = own_dtype(path)
        family = load_family(path, device=_device(device), dtype=_dtype(dtype), **placing)
        file = path / CALIBRATION_FILE
        model = cls(family, calibration=Calibration.from_json(file) if file.is_file() else None)
        model.source = path
        return model

    def save_pretrained(self, path: str | os.PathLike[str]) -> None:
        """Write model, tokenizer and calibration into a directory that `load` reads.

        Raises:
            ValueError: there are adapters beside the model; merge one, or save it alone with `save_adapter`.
        """
        if self.adapters is not None:
            raise ValueError(
                f"there are adapters beside the model ({', '.join(self.adapters.names)}); call merge_adapter(NAME) "
                "first, or save one alone with save_adapter(DIRECTORY, NAME)"
            )
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        self.family.save_pretrained(folder)
        if self.calibration is not None:
            self.calibration.to_json(folder / CALIBRATION_FILE)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        commit_message: str | None = None,
        **about: Any,
    ) -> Any:
        """Upload model, tokenizer, processor, calibration, model card and results in one commit (see `vlm.push.push`).

        Args:
            repo_id: "owner/name"; the repository is made where there is none.
            private: whether it is made private; None for the owner's default.
            revision: branch, which is made too; None for main.
            token: None for the one that was logged in with.
            commit_message: None for "Upload with vlm".
            **about: `card=`, `results=`, `license=`; what the checkpoint was loaded with goes along where they are
                not given.

        Returns:
            huggingface_hub's CommitInfo.

        Raises:
            ValueError: not logged in, or not allowed to.
        """
        from vlm.push import push

        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return push(
                folder,
                repo_id,
                private=private,
                revision=revision,
                token=token,
                commit_message=commit_message,
                about=self.source,
                **about,
            )

    def info(self) -> dict[str, Any]:
        """JSON-ready facts: family, parameters, their bytes in memory, device, dtype, tasks, config."""
        weights = list(self.family.model.parameters())
        config = self.family.model.config.to_dict()
        return {
            "family": config.get("model_type"),
            "parameters": sum(weight.numel() for weight in weights),
            "bytes": sum(weight.numel() * weight.element_size() for weight in weights),
            "device": str(weights[0].device),
            "dtype": str(weights[0].dtype).removeprefix("torch."),
            "tasks": list(self.family.tasks),
            "calibrated": self.calibration is not None,
            "config": config,
        }

    # -- one thing about one image -------------------------------------------------------------------

    def caption(self, image: AnyImage, detail: str = "brief", **options: Any) -> Caption:
        """Describe the image; `detail` is "brief" or "detailed". Florence-2 also describes a `box` of it."""
        return self._one(Request(image, "caption", detail=detail, **options))

    def ask(self, image: AnyImage, question: str, **options: Any) -> Answer:
        """Answer a question about the image."""
        return self._one(Request(image, "vqa", text=question, **options))

    def detect(self, image: AnyImage, *, alternatives: int = 0, **options: Any) -> Detection:
        """Find everything worn.

        Args:
            image: the photo.
            alternatives: so many other words that each garment might be called by, with their scores (see
                `vlm.alternatives`).
            **options: see `Request`.

        Raises:
            ValueError: a negative number of alternatives; some for a checkpoint with words of its own.
        """
        request = Request(image, "detection", **options)
        if not alternatives:
            return self._one(request)
        check_alternatives(self.family, alternatives)
        with self._using(request):
            [look] = self.encode([image])
            return with_alternatives(self, look, self._one(replace(request, image=look)), alternatives)

    def ground(self, image: AnyImage, phrase: str, **options: Any) -> Grounding:
        """Find what a phrase means; no boxes where it is not in the image."""
        return self._one(Request(image, "grounding", text=phrase, **options))

    def attributes(
        self,
        image: AnyImage,
        garment: str | None = None,
        box: Box | Sequence[float] | None = None,
        attributes: Sequence[str] | None = None,
        *,
        closer: bool = False,
        **options: Any,
    ) -> Attributes:
        """Tell a garment's attributes.

        Args:
            image: the photo.
            garment: its word, for example "coat".
            box: where it is, as `Box` or x1, y1, x2, y2 in pixels; one of garment and box is needed.
            attributes: names to ask for; None for all that apply to the garment.
            closer: they are told from a second look as well, at a crop around the box (see `vlm.closer`).
            **options: see `Request`.

        Raises:
            ValueError: neither garment nor box; a closer look without a box, or at an encoded image.
        """
        request = Request(image, "attributes", garment=garment, box=box, attributes=attributes, **options)
        if not closer:
            return self._one(request)
        if box is None:
            raise ValueError("a closer look needs the garment's box, for example that of detect() or ground()")
        photo = photo_itself(image)
        request = replace(request, image=photo)
        return closer_attributes(self, [request], [photo], [self._one(request)])[0]

    def describe_outfit(self, image: AnyImage, **options: Any) -> Outfit:
        """Describe the whole outfit, garment by garment (see `vlm.describe_outfit`)."""
        from vlm.outfit import describe_outfit

        return describe_outfit(self, image, **options)

    def score(
        self,
        image: AnyImage,
        task: str,
        candidates: Sequence[str],
        *,
        normalise: bool = True,
        **fields: Any,
    ) -> list[float]:
        """How probable each candidate is as the answer, by teacher forcing all of them in one batch.

        Args:
            image: the photo.
            task: key in `tasks.TASKS`.
            candidates: answers as the task's target text; any string, in or out of the grammar.
            normalise: True: the probability of each among the candidates, together 1. False: the probability
                of each among all texts, which is small for long ones.
            **fields: what the task asks about (`text=`, `garment=`, ...), see `Request`.

        Raises:
            ValueError: no candidates, or one string in place of a list.
        """
        if isinstance(candidates, str) or not candidates:
            raise ValueError("candidates must be a list of at least one string, for example ['short', 'long']")
        request = Request(image, task, **fields)
        with self._using(request):
            [look] = self.encode([image])
            request.check(look.image_size)
            prompt = task_form(self.family, task).prompt(request.task_inputs(), look.image_size)
            [logprobs] = self.family.score(look.features, [(look.index, prompt, list(candidates))])
        if not normalise:
            return [math.exp(logprob) for logprob in logprobs]
        best = max(logprobs)
        masses = [math.exp(logprob - best) for logprob in logprobs]
        return [mass / sum(masses) for mass in masses]

    # -- many things about many images ---------------------------------------------------------------

    def encode(self, images: Sequence[AnyImage]) -> list[EncodedImage]:
        """Look at images in one batch, for use in place of them. Already encoded ones are passed through.

        Raises:
            ValueError: naming the image that cannot be opened; an image that was encoded with another adapter.
        """
        self._require_looked_at_with_it(images)
        adapter = self.adapters.in_use if self.adapters else None
        fresh = [image for image in images if not isinstance(image, EncodedImage)]
        opened = [open_image(image) for image in fresh]
        features = self.family.encode_images(opened) if opened else None
        looks = iter(
            EncodedImage(features, index, (image.height, image.width), adapter) for index, image in enumerate(opened)
        )
        return [image if isinstance(image, EncodedImage) else next(looks) for image in images]

    def generate(self, requests: Sequence[Request], *, batch_size: int = 8) -> list[Any]:
        """Answer requests of any mix of tasks and images.

        An image that several requests share (the same path or object) is looked at once, and its prompts run
        together. A request's result does not depend on the others, to within numerical tolerance.

        Args:
            requests: in any order.
            batch_size: most images at a time.

        Returns:
            The typed, calibrated result of each request, in order.

        Raises:
            ValueError: an image that cannot be opened (named), or a wrong request.
            ParseError: only for requests with `grammar=False`.
        """
        return [self.result(reply) for reply in self.reply(requests, batch_size=batch_size)]

    def reply(self, requests: Sequence[Request], *, batch_size: int = 8) -> list[Reply]:
        """`generate` before parsing and calibration: text, tokens and log-probabilities; `result` does the rest."""
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; expected at least 1 image")
        if self.adapters is not None:  # named, so that the result is the one of that adapter whatever is in use then
            requests = [replace(request, adapter=self._adapter_of(request) or NO_ADAPTER) for request in requests]
        by_image: dict[Any, list[int]] = {}
        for index, request in enumerate(requests):
            self._adapter_of(request)  # says which are unknown
            by_image.setdefault((_image_key(request.image), request.adapter), []).append(index)
        batches: dict[Any, list[list[int]]] = {}  # encoded images stay with those of their own features
        for indices in by_image.values():
            image = requests[indices[0]].image
            features = id(image.features) if isinstance(image, EncodedImage) else None
            batches.setdefault((features, requests[indices[0]].adapter), []).append(indices)
        seeds = _seeds(requests)
        replies: dict[int, Reply] = {}
        for groups in batches.values():
            with self._using(requests[groups[0][0]]):
                for start in range(0, len(groups), batch_size):
                    replies.update(self._reply_batch(requests, groups[start : start + batch_size], seeds))
        return [replies[index] for index in range(len(requests))]

    def _reply_batch(
        self, requests: Sequence[Request], groups: Sequence[Sequence[int]], seeds: Sequence[int]
    ) -> dict[int, Reply]:
        """Replies by index; each group shares one image, and all images share their features."""
        forms = {name: task_form(self.family, name) for name in {requests[i].task for group in groups for i in group}}
        looks = self.encode([requests[group[0]].image for group in groups])
        order = [(index, look) for group, look in zip(groups, looks, strict=True) for index in group]
        inputs = {index: requests[index].task_inputs() for index, _ in order}
        prompts = []
        for index, look in order:
            request = requests[index]
            request.check(look.image_size)
            form = forms[request.task]
            grammar = form.grammar(inputs[index]) if request.grammar else None
            prompts.append(
                Prompt(
                    image=look.index,
                    text=form.prompt(inputs[index], look.image_size),
                    automaton=None if grammar is None else compile_grammar(grammar),
                    decoding=request.decoding(seeds[index], form.max_new_tokens),
                )
            )
        generated = self.family.generate(looks[0].features, prompts)
        return {
            index: Reply(
                request=requests[index],
                form=forms[requests[index].task],
                inputs=inputs[index],
                image_size=look.image_size,
                generated=said,
            )
            for (index, look), said in zip(order, generated, strict=True)
        }

    def _one(self, request: Request) -> Any:
        return self.generate([request])[0]

    def result(self, reply: Reply) -> Any:
        """The typed, calibrated result of a reply."""
        result: Result = reply.parse()
        calibration = self._calibration_of(reply.request)
        if calibration is None:
            return result
        if isinstance(result, Answer):
            return replace(result, score=calibration.apply("vqa", result.score))
        if isinstance(result, Attributes):
            values = {
                name: replace(value, score=calibration.apply(f"attributes.{name}", value.score))
                for name, value in result.values.items()
            }
            return replace(result, values=values)
        if isinstance(result, Detection):
            objects = tuple(replace(g, score=calibration.apply("detection", g.score)) for g in result.objects)
            return replace(result, objects=objects)
        if isinstance(result, Grounding):
            boxes = tuple((box, calibration.apply("grounding", score)) for box, score in result.boxes)
            return replace(result, boxes=boxes)
        return result


def _image_key(image: AnyImage) -> Any:
    return os.fspath(image) if isinstance(image, (str, os.PathLike)) else id(image)


def _seeds(requests: Sequence[Request]) -> list[int]:
    """A seed for every request: its own, stepped on where an equal request came before it in the list."""
    fresh = secrets.randbits(32)
    seen: Counter[Any] = Counter()
    seeds = []
    for request in requests:
        seed = fresh if request.seed is None else request.seed
        key = (_image_key(request.image), request.task, repr(request.task_inputs()), request.adapter, seed)
        seeds.append((seed + seen[key] * 0x9E3779B97F4A7C15) % 2**63)  # an odd step visits no seed twice
        seen[key] += 1
    return seeds


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device {device!r} is not known; for example 'cpu' or 'cuda:0'") from error


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype:
    if dtype is None:
        return torch.float32
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    found = known.get(dtype) if isinstance(dtype, str) else dtype
    if found not in known.values():
        raise ValueError(f"dtype {dtype!r} is not known; expected one of {', '.join(known)}")
    return found
