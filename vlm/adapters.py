"""Adapters beside a loaded model: several at once, one or none in use, merged for good, saved alone.

What is done with an adapter in use is what its merged weights would do, to within rounding; with none in use the model
is, to the bit, what it was before any was loaded.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from vlm.adapter import ADAPTER_FILE, ADDED_TOKENS, ALSO_TRAINED, BASE, PREFIX, checksum_of, name_base
from vlm.atomic import replacing_folder
from vlm.calibrate import FILE as CALIBRATION_FILE
from vlm.calibrate import Calibration
from vlm.families import Family, load_family
from vlm.families.pretrained import convert
from vlm.hub import find_checkpoint, split_revision
from vlm.info import EMBEDDED
from vlm.request import Request

if TYPE_CHECKING:
    from peft import LoraModel

__all__ = ["NO_ADAPTER", "AdapterMethods", "Adapters", "AnyAdapter", "is_adapter", "load_beside", "load_merged"]

NO_ADAPTER = "base"
"""What is said where no adapter is wanted."""
ALONE = "default"
"""Name of one that was given without a name."""

AnyAdapter = str | os.PathLike[str] | Mapping[str, str | os.PathLike[str]]


class Adapters:
    """Of one model.

    Args:
        family: the model, which gets them in place.
        base: how the model's checkpoint is named, for the adapters that are saved.

    Attributes:
        in_use: name of the one in use; None for none.
        calibrations: of each.
    """

    def __init__(self, family: Family, base: str | os.PathLike[str]) -> None:
        self.family, self.base = family, os.fspath(base)
        self.in_use: str | None = None
        self.calibrations: dict[str | None, Calibration | None] = {}
        self._folders: dict[str, Path] = {}
        self._tuner: LoraModel | None = None
        # What else an adapter has trained, and what the model has there.
        self._also: dict[str | None, dict[str, Tensor]] = {None: {}}
        self._switch = family.switch()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._folders)

    def known(self, name: str) -> str | None:
        """Raises ValueError where there is none of that name; None for "base"."""
        if name == NO_ADAPTER:
            return None
        if name not in self._folders:
            raise ValueError(f"no adapter {name!r} was loaded; there are: {', '.join((*self.names, NO_ADAPTER))}")
        return name

    def chosen(self, name: str | None) -> str:
        """The named one, or the one in use, or the only one.

        Raises:
            ValueError: it is not clear which.
        """
        found = self.known(name) if name is not None else self.in_use
        if found is None and name is None and len(self._folders) == 1:
            return self.names[0]
        if found is None:
            raise ValueError(f"name one of the adapters: {', '.join(self.names)}")
        return found

    # -- coming and going ----------------------------------------------------------------------------

    def add_all(self, adapters: AnyAdapter, **options: Any) -> None:
        """One adapter, in use from now on, or several by name.

        Args:
            adapters: directories or Hub ids, of a revision as "owner/name@revision".
            options: of `find_checkpoint`.
        """
        if not isinstance(adapters, Mapping):
            self.add(ALONE, _find(adapters, options))
            self.use(ALONE)
            return
        if not adapters:
            raise ValueError("adapter is an empty mapping; give a directory or Hub id, or names of them")
        for name, place in adapters.items():
            self.add(name, _find(place, options))
        self.use(None)

    def add(self, name: str, folder: Path, read: _Read | None = None) -> None:
        """Lay the adapter in a folder beside the model.

        Args:
            read: what `_read` gave of the folder, where that was done already.

        Raises:
            ValueError: it belongs to another checkpoint, is damaged, or is of a kind that is not known here.
        """
        if not re.fullmatch(r"\w[\w-]*", name) or name == NO_ADAPTER or name in self._folders:
            raise ValueError(
                f"an adapter cannot be called {name!r}: expected letters, digits, - and _, each name once, and not "
                f"{NO_ADAPTER!r}, which is the model without any"
            )
        self.use(None)
        told, weights, also = read or _read(folder)
        added_tokens = also.pop(ADDED_TOKENS, None)
        try:
            self._require_base(folder, told, also)
            self._switch.add(name, folder, added_tokens)
            self._lay(name, folder, weights)
        except (OSError, RuntimeError, KeyError, SafetensorError) as error:
            raise ValueError(f"{folder}: the adapter cannot be read: {error}") from error
        own = dict(self.family.model.named_parameters())
        self._also[None] |= {key: own[key].data for key in also}
        self._also[name] = {key: value.to(own[key].device, own[key].dtype) for key, value in also.items()}
        calibration = folder / CALIBRATION_FILE
        self.calibrations[name] = Calibration.from_json(calibration) if calibration.is_file() else None
        self._folders[name] = folder

    def _require_base(self, folder: Path, told: Mapping[str, Any], also: Mapping[str, Tensor]) -> None:
        own = dict(self.family.model.named_parameters())
        wrong = [name for name, value in also.items() if name not in own or own[name].shape != value.shape]
        whole = all(value.is_floating_point() for value in own.values())  # in 4 bits they are not what they were
        expected = told.get("checksum")  # an adapter that peft itself has written has none
        if wrong or (expected is not None and whole and checksum_of(self.family.model, also.keys()) != expected):
            reason = f"; of another shape: {', '.join(wrong)}" if wrong else ""
            raise ValueError(
                f"{folder}: the adapter was trained beside another checkpoint than {self.base}{reason}; give that one, "
                f"{told['base']}: vlm.load(CHECKPOINT, adapter=...)"
            )

    def _lay(self, name: str, folder: Path, weights: dict[str, Tensor]) -> None:
        from peft import LoraConfig, LoraModel, set_peft_model_state_dict

        model = self.family.model
        config = LoraConfig.from_pretrained(str(folder))
        config.inference_mode = True
        training = model.training
        if self._tuner is None:
            self._tuner = LoraModel(model, config, name)
        else:
            self._tuner.peft_config[name] = config
            self._tuner.inject_adapter(model, name)
        with warnings.catch_warnings():
            # Peft 0.21 asks transformers for something that has another name now, which is nothing to a user.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
            found = set_peft_model_state_dict(model, weights, name)
        left = [key for key in found.missing_keys if re.search(rf"\.lora_\w+\.{name}(\.|$)", key)]
        if left or found.unexpected_keys:
            raise ValueError(
                f"{folder}: the adapter's weights do not fit the checkpoint {self.base}: "
                f"{', '.join([*left, *found.unexpected_keys][:3])}"
            )
        model.train(training)

    def to(self, dtype: torch.dtype) -> None:
        """The model and all adapters in another precision."""
        name = self.in_use
        self.use(None)
        convert(self.family.model, dtype)
        own = dict(self.family.model.named_parameters())
        self._also = {
            key: {name: value.to(dtype) if key else own[name].data for name, value in values.items()}
            for key, values in self._also.items()
        }
        self.use(name)

    # -- one in use ----------------------------------------------------------------------------------

    def use(self, name: str | None) -> None:
        """From now on; None for none."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        model = self.family.model
        for module in model.modules():
            if isinstance(module, BaseTunerLayer):
                if name is not None:
                    module.set_adapter([name])
                module.enable_adapters(name is not None)
        for key, value in model.named_parameters():
            if "lora_" in key:
                value.requires_grad_(False)
            elif key in self._also[None]:
                value.data = self._also[name].get(key, self._also[None][key]) if name else self._also[None][key]
        self._switch.use(name)
        self.in_use = name

    @contextmanager
    def using(self, name: str | None) -> Iterator[None]:
        before = self.in_use
        if name == before:
            yield
            return
        self.use(name)
        try:
            yield
        finally:
            self.use(before)

    def merge(self, name: str) -> None:
        """Into the weights; all adapters are gone after."""
        assert self._tuner is not None
        self.use(name)
        self._tuner.merge_and_unload(adapter_names=[name])
        for value in self.family.model.parameters():
            value.requires_grad_(value.is_floating_point())

    def save(self, path: Path, name: str) -> None:
        """What its folder has, and the checkpoint by the name that this model was loaded by."""
        if path.exists() and any(path.iterdir()):
            raise ValueError(f"{path}: is there already and is not empty; name a new directory for the adapter")
        with replacing_folder(path) as part:
            shutil.copytree(self._folders[name], part)
            name_base(part, self.base, _told(part).get("checksum"))


def _find(place: str | os.PathLike[str], options: Mapping[str, Any]) -> Path:
    name, revision = split_revision(place)
    return find_checkpoint(name, revision=revision, **options)


def _told(folder: Path) -> dict[str, Any]:
    """What an adapter's files tell of its base: `base` and `revision`, and `checksum`, `path`, `embedded` where they
    are known.

    Raises:
        ValueError: it is no adapter, or of another kind.
    """
    file = folder / ADAPTER_FILE
    if not file.is_file():
        raise ValueError(f"{folder}: has no {ADAPTER_FILE}, so it is no adapter; give what `vlm train --peft` exported")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        kind, more = config["peft_type"], config.get("modules_to_save")
        told = json.loads((folder / BASE).read_text(encoding="utf-8")) if (folder / BASE).is_file() else {}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file}: is damaged: {error}") from error
    if kind != "LORA" or more:
        what = f"whole modules ({', '.join(more)})" if more else f"a {kind}"
        raise ValueError(f"{folder}: has {what}; only LoRA and DoRA are loaded, merge it with peft first")
    return {**told, "base": config.get("base_model_name_or_path"), "revision": config.get("revision")}


_Read = tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]


def _read(folder: Path) -> _Read:
    """What `_told` gives, peft's weights without their prefix, and what else was trained.

    Raises:
        ValueError: it is no adapter, of another kind, or damaged.
    """
    weights_file, also_file = folder / "adapter_model.safetensors", folder / ALSO_TRAINED
    try:
        told = _told(folder)
        if not weights_file.is_file():
            raise ValueError(f"{folder}: has no {weights_file.name}; pickled weights are not loaded")
        weights = {name.removeprefix(PREFIX): value for name, value in load_file(weights_file).items()}
        return told, weights, load_file(also_file) if also_file.is_file() else {}
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{folder}: the adapter cannot be read: {error}") from error


def is_adapter(folder: Path) -> bool:
    return (folder / ADAPTER_FILE).is_file()


def load_beside(
    load: Callable[..., Any],
    as_dtype: Callable[[Any], torch.dtype],
    name_or_path: str | os.PathLike[str] | None,
    adapter: AnyAdapter,
    options: Mapping[str, Any],
) -> Any:
    """A `vlm.VLM` with adapters.

    Args:
        load: `VLM.from_pretrained`.
        as_dtype: what it makes of its option `dtype`.
        options: of it; those that say how the Hub is asked go for the adapters too, but for the revision, which is
            the checkpoint's: an adapter's is named with its id.
    """
    packed = options.get("load_in_4bit") or options.get("load_in_8bit")
    if packed or options.get("dtype") in (None, "auto"):
        dtype, model = None, load(name_or_path, **options)
    else:
        # In float32 at first, in which it is told whether the checkpoint is the adapter's own.
        dtype = as_dtype(options["dtype"])
        model = load(name_or_path, **{**options, "dtype": None})
    base = EMBEDDED if name_or_path is None else name_or_path
    if options.get("revision") is not None and not Path(base).is_dir():
        base = f"{base}@{options['revision']}"
    model.adapters = Adapters(model.family, base)
    hub = {name: options[name] for name in ("token", "cache_dir", "local_files_only") if name in options}
    model.adapters.add_all(adapter, **hub)
    if dtype is not None:
        model.adapters.to(dtype)
    return model


def load_merged(folder: Path, *, device: torch.device, dtype: torch.dtype) -> Family:
    """The checkpoint that an adapter names, with the adapter merged into it.

    Raises:
        ValueError: the checkpoint is not there or is another, or the adapter is damaged.
    """
    read = _read(folder)
    path = _find_base(folder, read[0])
    family = load_family(path, device=torch.device("cpu"), dtype=torch.float32)
    adapters = Adapters(family, path)
    adapters.add(ALONE, folder, read)
    adapters.merge(ALONE)
    convert(family.model, dtype, device)
    family.model.eval()
    return family


def _find_base(folder: Path, told: Mapping[str, Any]) -> Path:
    """Where it lay from the adapter's folder, then by the name that it had."""
    if told.get("path") and (folder / told["path"]).is_dir():
        return Path(os.path.normpath(folder / told["path"]))
    if told.get("embedded"):
        return EMBEDDED
    try:
        return find_checkpoint(told["base"], revision=told.get("revision"))
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{folder}: is an adapter, and its base checkpoint cannot be found ({error}); name the checkpoint: "
            f"vlm.load(CHECKPOINT, adapter={str(folder)!r})"
        ) from error


class AdapterMethods:
    """What `vlm.VLM` does with adapters."""

    family: Family
    calibration: Calibration | None
    adapters: Adapters | None = None

    @contextmanager
    def use_adapter(self, name: str | None) -> Iterator[None]:
        """Within this context requests that name no adapter use this one; None or "base" for none.

        Raises:
            ValueError: the model was not loaded with an adapter of that name.
        """
        adapters = self._loaded
        with adapters.using(adapters.known(name or NO_ADAPTER)):
            yield

    def merge_adapter(self, name: str | None = None) -> None:
        """Take an adapter into the weights and drop the others: the model is one like any other then.

        Args:
            name: None for the one in use, or the only one.
        """
        adapters = self._loaded
        chosen = adapters.chosen(name)
        self.calibration = adapters.calibrations[chosen]
        adapters.merge(chosen)
        self.adapters = None

    def save_adapter(self, path: str | os.PathLike[str], name: str | None = None) -> None:
        """Write an adapter alone into a directory, for `load(..., adapter=)`; it names the checkpoint by what this
        model was loaded by, such as a Hub id.

        Args:
            path: a new or empty directory.
            name: None for the one in use, or the only one.
        """
        self._loaded.save(Path(path), self._loaded.chosen(name))

    @property
    def _loaded(self) -> Adapters:
        if self.adapters is None:
            raise ValueError("the model was loaded without adapters; load it with `adapter=`")
        return self.adapters

    def _adapter_of(self, request: Request) -> str | None:
        """Name of the adapter that answers a request; None for none."""
        if self.adapters is None and request.adapter in (None, NO_ADAPTER):
            return None
        return self._loaded.in_use if request.adapter is None else self._loaded.known(request.adapter)

    def _using(self, request: Request) -> AbstractContextManager[Any]:
        """The context in which a request is answered."""
        name = self._adapter_of(request)
        return nullcontext() if self.adapters is None else self.adapters.using(name)

    def _calibration_of(self, request: Request) -> Calibration | None:
        name = self._adapter_of(request)
        return self.calibration if name is None else self._loaded.calibrations[name]

    def _require_looked_at_with_it(self, images: Sequence[Any]) -> None:
        """Raises ValueError where an encoded image was encoded with another adapter than the one in use."""
        now = self.adapters.in_use if self.adapters else None
        for image in images:
            with_ = getattr(image, "adapter", now)
            if with_ != now:
                raise ValueError(
                    f"the image was encoded with adapter {with_ or NO_ADAPTER!r} and is asked about with "
                    f"{now or NO_ADAPTER!r}; encode it within `use_adapter({now or NO_ADAPTER!r})`"
                )
