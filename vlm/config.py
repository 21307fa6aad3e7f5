"""Every configuration, as frozen dataclasses that check themselves."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tasks import TASKS
from tasks.readers import READERS

_OF_OUR_OWN = ("shards", "wardrobe")
"""Readers that need more than `tasks` does: see `vlm.data.shards` and `vlm.data.drawn`."""
ADAPTERS = ("lora", "dora", "qlora")
"""Kinds of adapters."""
_DRAWN = {"num": 100_000, "seed": 0, "size": 256}
"""Fields of a source that is drawn, where they are not given."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _require_tasks(name: str, given: Iterable[str]) -> None:
    unknown = [task for task in given if task not in TASKS]
    _require(not unknown, f"{name} names unknown tasks: {', '.join(unknown)}; known: {', '.join(TASKS)}")


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """One source of records."""

    reader: str
    """Where the records come from: ccp, clothing, products (public data sets), jsonl (own records, JSONL or Parquet),
    shards (what `vlm data shards` packed), or wardrobe: drawn while the run goes on."""
    weight: float = 1.0
    """Share of the positions that draw from this source, relative to the others."""
    path: str | None = None
    """File or folder for readers that need one; the data root otherwise."""
    split: str = "train"
    """Which split of the source is drawn from."""
    boxes: bool | None = None
    """True: only records in which some garment has a box; False: only the others; None: all. A reader may be named
    twice, so that few boxed photos can be drawn more often than many without."""
    repeat_rare: float | None = None
    """Records with a garment or value that fewer than this share of the source's records have come more often in a
    pass (see `vlm.data.rare`)."""
    balance_values: float | None = None
    """Weighs the losses of attributes' values by (1 / share in the source) to this power, 1 on average: at 0.5 "lace"
    of one garment in a hundred counts ten times as much as a "solid" of all (see `vlm.data.rare.value_weights`)."""
    num: int | None = None
    """Of the reader wardrobe: different pictures, before they come again; 100000 if not given."""
    seed: int | None = None
    """Of the reader wardrobe: which pictures; 0 if not given. The seed of the run does not change them."""
    size: int | None = None
    """Of the reader wardrobe: pixels of the longer side; 256 if not given."""
    plan: str | None = None
    """Of the reader wardrobe: what to draw in turn, a file that `vlm data coverage PATH --plan` wrote."""

    def __post_init__(self) -> None:
        known = (*READERS, *_OF_OUR_OWN)
        _require(self.reader in known, f"unknown reader {self.reader!r}; known: {', '.join(known)}")
        _require(self.weight >= 0, f"source {self.reader}: weight is {self.weight}; expected 0 or more")
        _require(
            self.repeat_rare is None or 0 < self.repeat_rare <= 1,
            f"source {self.reader}: repeat_rare is {self.repeat_rare}; expected a share in (0, 1]",
        )
        _require(
            self.balance_values is None or 0 < self.balance_values <= 1,
            f"source {self.reader}: balance_values is {self.balance_values}; expected a power in (0, 1]",
        )
        _require(
            self.reader != "shards" or self.path is not None,
            "source shards: path is missing; name the folder that `vlm data shards` wrote",
        )
        if self.reader == "wardrobe":
            self._check_drawn()
            return
        given = [name for name in (*_DRAWN, "plan") if getattr(self, name) is not None]
        _require(
            not given, f"source {self.reader}: {', '.join(given)} can be set for the reader wardrobe only; drop them"
        )

    def _check_drawn(self) -> None:
        for name, default in _DRAWN.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, default)
        for name, least in (("num", 1), ("size", 64)):
            value = getattr(self, name)
            _require(value >= least, f"source wardrobe: {name} is {value}; expected at least {least}")
        for name in ("path", "boxes", "repeat_rare", "balance_values"):
            value = getattr(self, name)
            _require(value is None, f"source wardrobe: {name} is {value!r}, but its pictures are drawn; drop it")
        _require(
            self.split == "train",
            f"source wardrobe: split is {self.split!r}, but it is drawn for training only; write such pictures with "
            "`python -m vlm.synthetic.wardrobe FOLDER --split validation` and use the reader jsonl",
        )


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """How pictures are varied; boxes and words follow."""

    flip: float = 0.5
    """Probability of a mirror image; left and right swap in the texts."""
    crop: float = 0.5
    """Probability of a random crop."""
    min_crop: float = 0.5
    """Smallest share of the area kept where every garment has a box."""
    min_crop_unboxed: float = 0.8
    """Smallest share kept where it is not known what a crop would cut off."""
    zoom: float = 0.0
    """Probability, in place of such a crop, of one around a single garment, where every garment has a box."""
    brightness: float = 0.2
    """Largest relative change of brightness and contrast. Hue and saturation stay: colours are labels."""
    erase: float = 0.0
    """Probability of blanking a small rectangle in photos without boxes."""
    rotate: float = 0.0
    """Largest rotation in degrees, for photos without boxes."""

    def __post_init__(self) -> None:
        for name in ("flip", "crop", "zoom", "erase"):
            value = getattr(self, name)
            _require(0 <= value <= 1, f"augment.{name} is {value}; expected a probability in [0, 1]")
        for name in ("min_crop", "min_crop_unboxed"):
            value = getattr(self, name)
            _require(0 < value <= 1, f"augment.{name} is {value}; expected a share in (0, 1]")
        _require(0 <= self.brightness < 1, f"augment.brightness is {self.brightness}; expected [0, 1)")
        _require(0 <= self.rotate <= 180, f"augment.rotate is {self.rotate}; expected degrees in [0, 180]")


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """A part of the run: what is drawn and at which resolution."""

    until: float = 1.0
    """The stage ends at this share of the run."""
    patch_budget: int = 108
    """Most image tokens a picture."""
    prompts_per_image: int = 6
    """Prompts packed beside each picture."""
    max_target_tokens: int = 96
    """Most target tokens packed beside a picture; what would go beyond is not drawn. The longest row of a batch is
    what the others are padded to."""
    task_weights: dict[str, float] = field(default_factory=lambda: dict.fromkeys(TASKS, 1.0))
    """Relative share of each task among the prompts; 0 leaves a task out."""
    sources: dict[str, float] | None = None
    """Weights of sources in this stage, in place of their own; those that are not named are left out."""

    def __post_init__(self) -> None:
        _require(0 < self.until <= 1, f"stage.until is {self.until}; expected a share in (0, 1]")
        _require(self.patch_budget > 0, f"stage.patch_budget is {self.patch_budget}; expected at least 1")
        _require(
            self.prompts_per_image > 0, f"stage.prompts_per_image is {self.prompts_per_image}; expected at least 1"
        )
        _require(
            self.max_target_tokens > 0, f"stage.max_target_tokens is {self.max_target_tokens}; expected at least 1"
        )
        _require_tasks("stage.task_weights", self.task_weights)
        _require(
            bool(self.task_weights)
            and all(w >= 0 for w in self.task_weights.values())
            and any(self.task_weights.values()),
            f"stage.task_weights is {self.task_weights}; expected weights of 0 or more, at least one above 0",
        )


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is trained on."""

    sources: dict[str, SourceConfig]
    """Name -> source."""
    data_root: str | None = None
    """Folder of the photos; None for VLM_DATA or ../shared/data."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """How pictures are varied."""
    stages: tuple[StageConfig, ...] = (StageConfig(),)
    """In order; the last one ends at 1.0."""
    temperature: float | None = None
    """Multiplies a source's weight by its number of records to the power of 1 / temperature (Raffel et al., 2020): at
    1 sources come by their size, the higher the more equally. None: by their weight alone."""
    num_workers: int = 1
    """Loader processes; the samples do not depend on it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "stages", tuple(self.stages))
        _require(bool(self.sources), "data.sources is empty; name at least one source")
        _require(
            any(source.weight > 0 for source in self.sources.values()), "every source has weight 0; raise at least one"
        )
        ends = [stage.until for stage in self.stages]
        _require(
            bool(ends) and ends == sorted(set(ends)) and math.isclose(ends[-1], 1.0),
            f"stages end at {ends}; expected rising shares that end at 1.0",
        )
        for number, stage in enumerate(self.stages):
            if stage.sources is not None:
                unknown = [name for name in stage.sources if name not in self.sources]
                _require(
                    not unknown and any(weight > 0 for weight in stage.sources.values()),
                    f"stages[{number}].sources is {stage.sources}; expected weights, at least one above 0, of: "
                    + ", ".join(self.sources),
                )
                _require(
                    all(weight >= 0 for weight in stage.sources.values()),
                    f"stages[{number}].sources is {stage.sources}; expected weights of 0 or more",
                )
        _require(
            self.temperature is None or self.temperature > 0,
            f"data.temperature is {self.temperature}; expected a number above 0, or null",
        )
        _require(self.num_workers >= 0, f"data.num_workers is {self.num_workers}; expected 0 or more")


@dataclass(frozen=True, kw_only=True)
class ModuleConfig:
    """How some weights are trained, where it is not as the others."""

    learning_rate_scale: float = 1.0
    """Factor on the learning rate."""
    frozen: bool = False
    """They stay as they are."""

    def __post_init__(self) -> None:
        scale = self.learning_rate_scale
        _require(
            0 < scale < math.inf,
            f"learning_rate_scale is {scale}; expected more than 0; `frozen: true` leaves weights as they are",
        )


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW with warm-up and a cosine or warm-up-stable-decay schedule."""

    learning_rate: float = 1e-3
    """Peak."""
    weight_decay: float = 0.05
    """On matrices and filters; not on norms and embeddings."""
    beta1: float = 0.9
    """Decay of the gradient's mean."""
    beta2: float = 0.98
    """Decay of the gradient's square."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm."""
    warmup_steps: int = 200
    """Linear warm-up."""
    schedule: str = "wsd"
    """"cosine", or "wsd": constant after the warm-up, then a decay over `decay_fraction` of the run."""
    decay_fraction: float = 0.3
    """Share of the run over which "wsd" decays, with a 1 - sqrt curve."""
    min_ratio: float = 0.0
    """Learning rate at the end, relative to the peak."""
    ema_decay: float = 0.999
    """Averaging of the weights; 0 turns it off."""
    modules: dict[str, ModuleConfig] = field(default_factory=dict)
    """Beginning of weights' names -> how these are trained: `{tower: {frozen: true}, image: {learning_rate_scale:
    0.1}}`. `*` stands for anything; of several that fit a weight the last counts."""

    def __post_init__(self) -> None:
        _require(self.learning_rate > 0, f"optim.learning_rate is {self.learning_rate}; expected more than 0")
        _require(self.schedule in ("cosine", "wsd"), f"optim.schedule is {self.schedule!r}; expected cosine or wsd")
        _require(0 <= self.ema_decay < 1, f"optim.ema_decay is {self.ema_decay}; expected [0, 1)")
        _require(0 <= self.decay_fraction <= 1, f"optim.decay_fraction is {self.decay_fraction}; expected [0, 1]")
        _require(self.weight_decay >= 0, f"optim.weight_decay is {self.weight_decay}; expected 0 or more")
        for name in ("beta1", "beta2"):
            value = getattr(self, name)
            _require(0 <= value < 1, f"optim.{name} is {value}; expected [0, 1)")
        _require(self.warmup_steps >= 0, f"optim.warmup_steps is {self.warmup_steps}; expected 0 or more")
        _require(0 <= self.min_ratio <= 1, f"optim.min_ratio is {self.min_ratio}; expected [0, 1]")
        _require(self.max_grad_norm > 0, f"optim.max_grad_norm is {self.max_grad_norm}; expected more than 0")


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """LoRA or DoRA: the model stays as it is, and small matrices beside its linear layers are trained. `--peft lora` on
    the command line is `adapter: {kind: lora, export: adapter}`."""

    kind: str = "lora"
    """"lora", or "dora", which trains the lengths of a layer's rows too, or "qlora": LoRA beside layers in 4 bits, for
    large models; needs bitsandbytes."""
    rank: int = 8
    """Of the matrices."""
    alpha: float = 16.0
    """What they give is multiplied by `alpha` / `rank`."""
    dropout: float = 0.0
    """On what goes into them."""
    targets: tuple[str, ...] | None = None
    """Beginnings of the names of the linear layers that get them; `*` stands for anything, as in `*attention.query`.
    Null for those of all attentions and MLPs."""
    also_trained: tuple[str, ...] = ()
    """Beginnings of the names of other weights to train, such as `tokens`."""
    export: str = "merged"
    """"merged": the exported model is one like any other; "adapter": only what was trained, beside the name of the
    checkpoint that it belongs to."""

    def __post_init__(self) -> None:
        for name in ("targets", "also_trained"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, tuple(getattr(self, name)))
        _require(self.kind in ADAPTERS, f"adapter.kind is {self.kind!r}; expected one of {', '.join(ADAPTERS)}")
        _require(self.rank > 0, f"adapter.rank is {self.rank}; expected at least 1")
        _require(self.alpha > 0, f"adapter.alpha is {self.alpha}; expected more than 0")
        _require(0 <= self.dropout < 1, f"adapter.dropout is {self.dropout}; expected [0, 1)")
        _require(self.targets != (), "adapter.targets is empty; name at least one, or null for all that suit")
        _require(self.export in ("merged", "adapter"), f"adapter.export is {self.export!r}; expected merged or adapter")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run."""

    output_dir: str
    """Checkpoints, logs and the exported model go here."""
    model: str
    """YAML of the model's shape, or a checkpoint to go on from: a directory, a Hub id, or owner/name@revision."""
    shape: dict[str, int | float | str | list[int] | dict[str, Any] | None] = field(default_factory=dict)
    """Fields of the model's shape to change, such as map_weight: weights that a checkpoint lacks are drawn. Among them
    `vision_tower`: a directory or Hub id of a vision encoder in place of the image layers."""
    data: DataConfig
    """What is trained on."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """How."""
    adapter: AdapterConfig | None = None
    """LoRA, DoRA or QLoRA; null to train the model itself."""
    num_steps: int = 1000
    """Optimizer steps."""
    batch_size: int = 32
    """Images a step, over all processes and micro-batches."""
    micro_batch_size: int | None = None
    """Images a forward pass and process; None for the whole share."""
    seed: int = 0
    """Of the samples, the augmentation and the initial weights."""
    mixed_precision: str = "auto"
    """"no", "bf16", "fp16", or "auto": bf16 where the device computes in it, no where it would only imitate it."""
    cpu: bool = False
    """Stay on the CPU even where there is a GPU."""
    task_loss_weights: dict[str, float] = field(default_factory=dict)
    """Factor on the tokens of a task; 1 where not named."""
    log_every: int = 10
    """Steps between log lines."""
    eval_every: int = 0
    """Steps between validations; 0 for none."""
    eval_records: int = 64
    """Validation records a source."""
    save_every: int = 500
    """Steps between checkpoints; 0 for only the last."""
    keep_checkpoints: int = 2
    """Newest checkpoints kept."""
    keep_best: str | None = None
    """A measure of the validation, such as validation/ccp/presence/micro_F1: the checkpoint with its highest value is
    kept beside the newest ones, and checkpoints/best.json names it. Null for none."""
    activation_checkpointing: bool = False
    """Of a layer or image stage keep only what goes in, and compute the rest again for the backward pass: memory for
    time."""
    compile: bool = False
    """Let torch.compile make kernels of the transformer's layers, for one process or DDP; needs a C++ compiler."""
    max_skipped_steps: int = 5
    """Steps in a row that are left out where their gradient is not finite; one more ends the run."""
    tensorboard: bool = True
    """Write TensorBoard logs through Accelerate where it is installed. Not looked at where `trackers` is given."""
    trackers: tuple[str, ...] | None = None
    """Names of Accelerate's trackers, such as [tensorboard, wandb], which must be installed; [] for none."""
    peak_flops: float | None = None
    """Operations a second of one device at most, in the run's precision, for the share of it that is used (mfu). Null:
    those of known GPUs; elsewhere no share is logged."""
    tokenizer: str | None = None
    """Folder with a tokenizer; None trains one on the sources' texts."""

    def __post_init__(self) -> None:
        _require(self.num_steps > 0, f"num_steps is {self.num_steps}; expected at least 1")
        _require(self.batch_size > 0, f"batch_size is {self.batch_size}; expected at least 1")
        _require(
            self.micro_batch_size is None or self.micro_batch_size > 0,
            f"micro_batch_size is {self.micro_batch_size}; expected at least 1 or null",
        )
        _require(
            self.mixed_precision in ("auto", "no", "bf16", "fp16"),
            f"mixed_precision is {self.mixed_precision!r}; expected auto, no, bf16 or fp16",
        )
        _require_tasks("task_loss_weights", self.task_loss_weights)
        for name, factor in self.task_loss_weights.items():
            _require(factor >= 0, f"task_loss_weights.{name} is {factor}; expected 0 or more")
        for name in ("log_every", "eval_records", "keep_checkpoints"):
            _require(getattr(self, name) > 0, f"{name} is {getattr(self, name)}; expected at least 1")
        for name in ("eval_every", "save_every", "max_skipped_steps"):
            _require(getattr(self, name) >= 0, f"{name} is {getattr(self, name)}; expected 0 or more")
        if self.trackers is not None:
            object.__setattr__(self, "trackers", tuple(dict.fromkeys(self.trackers)))
        _require(
            self.peak_flops is None or self.peak_flops > 0,
            f"peak_flops is {self.peak_flops}; expected operations a second, more than 0, or null",
        )
        _require(
            self.keep_best is None or self.eval_every > 0,
            f"keep_best is {self.keep_best!r}, but eval_every is 0: nothing is measured; set eval_every",
        )
        _require(
            not (self.compile and self.activation_checkpointing),
            "compile and activation_checkpointing are both true, but a compiled layer chooses itself what it computes "
            "again; choose one",
        )
        _require(
            self.adapter is None or self.adapter.export == "merged" or not self.shape,
            "adapter.export is 'adapter', but `shape` changes the model that it would belong to; "
            "export it merged, or drop `shape`",
        )

    def stage_of(self, position: int) -> StageConfig:
        """The stage that the sample at `position` (from 0) belongs to."""
        return self.stage_at(position // self.batch_size)

    def stage_at(self, step: int) -> StageConfig:
        """The stage that `step` (from 0) belongs to."""
        for stage in self.data.stages:
            if step < stage.until * self.num_steps:
                return stage
        return self.data.stages[-1]
