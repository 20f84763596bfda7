"""Everything that determines a run, as frozen dataclasses; each field says what it does."""

from dataclasses import dataclass, field
from typing import Any, Literal

from tsic.options import Gradient, MappingKind, MaskStride, Objective, PromptKind, Role

Recipe = Literal["cycle", "paper", "release"]
Precision = Literal["auto", "32-true", "bf16-mixed", "16-mixed"]


@dataclass(frozen=True)
class DataConfig:
    """Where the labelled images are and how a training crop is made."""

    name: str = "folder"
    """Reader: `folder` (images, masks and a classes YAML), `coco` and `yolo` (polygons), `hub`
    (Hugging Face), `packed`, `ade20k`, `camvid`, `cityscapes`, `coco_stuff`, `voc`."""
    root: str = "."
    """The dataset's folder; of `hub` also an id."""
    classes: str | None = None
    """Classes YAML of a `folder`; by default `classes.yaml` in its root."""
    train_split: str = "train"
    """Split to train on."""
    val_split: str = "val"
    """Split that chooses the best checkpoint."""
    unlabelled: str | None = None
    """Folder of images without labels (folders in it included), on which the teacher teaches: where
    few images are labelled and many more are at hand."""
    unlabelled_share: float = 0.5
    """Share of the images that a device sees at a time, rounded, that come from there."""
    crop: tuple[int, int] = (512, 512)
    """Training crop, height and width in pixels."""
    resize: tuple[int, int] | None = None
    """Height and width that whole images are brought to, before `scale` in training and before the
    network ever after; by default their own size."""
    scale: tuple[float, float] = (0.5, 2.0)
    """Range of the random resize ratio (public code: 0.5 to 2)."""
    max_class_share: float = 0.75
    """No class may cover more of a crop's labelled pixels, if ten tries find such a crop."""
    rare_crop: float = 0.0
    """Probability of a crop around a pixel of a class drawn evenly from those in the image."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    photometric: bool = True
    """Random brightness, contrast, saturation and hue (SSD's ranges)."""
    cutmix: float = 0.0
    """CutMix: probability that two images of a batch exchange a box, a quarter to half of each,
    before the student sees them; a teacher sees them whole."""
    batch_size: int = 8
    """Images per optimiser step, over all devices and accumulated batches."""
    on_error: Literal["stop", "skip"] = "stop"
    """What a training file does that breaks after the check: `stop` the run, or `skip` it; the next
    file in the dataset then stands in for it, and a message names it."""
    workers: int = 2
    """Processes that load images; 0 loads them in the training process."""


@dataclass(frozen=True)
class StudentConfig:
    """The network that ships."""

    name: str = "compact"
    """`compact`, an architecture of segmentation_models_pytorch, a Hugging Face id or folder, or
    the import path of a module (`package.module:Class`)."""
    encoder: str = "resnet18"
    """Encoder of a segmentation_models_pytorch architecture; any timm name."""
    weights: Literal["imagenet", "none"] = "none"
    """Where the encoder starts."""
    output_stride: int | None = None
    """Stride of the encoder's last map where the architecture has a choice (paper: 8)."""
    auxiliary: bool = False
    """Train an auxiliary head on an inner stage (paper: true)."""
    options: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the architecture."""


@dataclass(frozen=True)
class TeacherConfig:
    """The prompted foundation model."""

    name: str = "none"
    """Hugging Face id or folder of a SAM, SAM 2, SAM 2.1 or EdgeTAM; the own file of SAM
    (`sam_vit_*.pth`), SAM 2 (`sam2*_hiera_*.pt`) or MobileSAM (`mobile_sam.pt`); the folder of a
    `tsic pretrain`; `embedded` (ships with the package); `tiny-sam`, `tiny-sam2`, `tiny-edgetam` or
    `tiny-mobile-sam` (random weights); `none` trains the student alone."""
    hints_only: bool = False
    """Only its encoder, as published, takes part, by hints: no prompt, no decoder, nothing of the
    teacher learns. Cheaper than the cycle."""
    hint_cache: str | None = None
    """Folder for what that encoder sees of the whole training images, made before the first step
    and kept for other runs: steps then cost little more than the student's own."""
    hint_side: int = 1024
    """Longer side that images are brought to for `hint_cache`; SAM was trained at 1024."""
    scale: float = 1.0
    """Ratio at which the teacher sees the images. SAM knows pictures of 1024 pixels: of crops much
    smaller it sees more at 2, for four times its own work."""
    mapping: MappingKind = "light"
    """Mapping decoder: `light`, `uper` (paper), or `uper-released` (public code)."""
    channels: int | None = None
    """Width of the mapping decoder; by default 128 for `light`, 512 for `uper`."""
    prompt: PromptKind = "class"
    """One mask per `class`, the class `index` as one channel (public code), or `none`."""
    gradient: Gradient = "stop"
    """Whether the teacher's losses reach the student `through` class prompts; where that was tried
    it cost the student its rare classes."""
    max_classes: int = 8
    """Class prompts per image, those of largest expected area."""
    rounds: int = 1
    """Decoding rounds; from the second on the decoded masks are the prompt."""
    class_tokens: bool = True
    """Add a learned token per class to class prompts."""
    mask_stride: MaskStride = 16
    """Pixels per cell of the grid that masks are decoded on: SAM's 16, or the public code's 4."""
    lora_rank: int = 4
    """Rank of LoRA on the encoder's queries and values (on the convolutions of an encoder without
    attention); 0 runs it without gradient (paper: 4)."""
    trains_encoder: bool = False
    """Train the encoder's own weights, for models without pretrained ones."""
    recompute_encoder: bool = False
    """Recompute the encoder in the backward pass: less memory, more time."""
    ema: float | None = None
    """Decay of a moving average of the teacher's weights, which then teaches the student; it is
    asked in a further forward pass."""
    warmup_steps: int = 500
    """Optimiser steps in which the student trains alone (public code: 501)."""
    ramp: float = 0.0
    """Share of the steps after these over which L_kd-p and L_kd-f (but for hints) rise from 0 to
    their weights: a teacher that knows little yet should not be followed far."""


@dataclass(frozen=True)
class DistillConfig:
    """A published method in the cycle's place, for comparisons."""

    method: str = "none"
    """`none`, or one of `docs/compare.md`: `afdcd`, `at`, `cirkd`, `cwd`, `cwd_features`, `dist`,
    `fitnet`, `ifvd`, `kd`, `mutual`, `skd`."""
    teacher: str | None = None
    """Folder of a finished run or of a student, which teaches and stands still; `mutual` has none:
    its teacher is a second student of the same kind that learns beside the first."""
    role: Role = "student"
    """Which network of that run teaches."""
    weight: float = 1.0
    """Factor on the method's own weights."""


@dataclass(frozen=True)
class OptimConfig:
    """AdamW with a polynomial schedule."""

    lr: float = 1e-3
    """Learning rate of the student (paper: 1e-4, VOC 1e-3)."""
    teacher_lr: float | None = None
    """Learning rate of the teacher's decoders and, if trained, its encoder; by default `lr`."""
    lora_lr: float | None = None
    """Learning rate of LoRA; by default `teacher_lr`."""
    weight_decay: float = 0.01
    """Decoupled decay; none on norms, biases and position embeddings."""
    lr_warmup_steps: int = 0
    """Steps of linear rise from 0 to the learning rate."""
    power: float = 0.9
    """Exponent of the polynomial decay to 0 at `max_steps`."""
    clip: float | None = None
    """Largest norm of the gradient, of student and teacher each; by default no limit."""
    ema: float | None = None
    """Decay of an exponential moving average of the student, which is then what is evaluated and
    saved; by default none. Try 0.999. It is less in the first steps."""


@dataclass(frozen=True)
class LoopConfig:
    """Machine, precision, and how often to look."""

    precision: Precision = "auto"
    """`auto` takes bf16 where a short measurement finds it faster than float32."""
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    """Where to train; `auto` takes a GPU if there is one."""
    devices: int = 1
    """Processes, each with one device (DDP)."""
    accumulate: int = 1
    """Micro-batches per optimiser step."""
    val_every: int = 500
    """Optimiser steps between validations; the last step is always validated."""
    save_every: int = 200
    """Optimiser steps between writes of `last.ckpt`."""
    log_every: int = 20
    """Optimiser steps between logged losses."""
    pictures: int = 4
    """Validation images in each panel of pictures."""


@dataclass(frozen=True)
class TrainerConfig(LoopConfig):
    """Machine, precision, and how often to look."""

    graph: bool = False
    """Record a step on the GPU and launch it as a whole (CUDA graph): up to 4.6 times as fast where
    networks are small. Not with several devices, `accumulate` or `16-mixed`. Steps whose work
    depends on the data (`objective.ohem`) run as ever."""
    compile: bool = False
    """Let torch.compile fuse the small operations of student and decoders, on an NVIDIA GPU: a
    fifth less time a step beside `graph`, a minute or two before the first."""


@dataclass(frozen=True)
class RunConfig:
    """Everything that determines a run.

    `tsic.config_file.load_config` builds it with what its recipe presets; built here, it has none.
    """

    recipe: Recipe = "cycle"
    """Presets of `teacher` and `objective`: `cycle`, `paper` or `release`."""
    seed: int = 0
    """Determines initial weights, which images a step sees, and their augmentation."""
    max_steps: int = 10_000
    """Optimiser steps."""
    data: DataConfig = field(default_factory=DataConfig)
    """Where the labelled images are and how a training crop is made."""
    student: StudentConfig = field(default_factory=StudentConfig)
    """The network that ships."""
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    """The prompted foundation model."""
    distill: DistillConfig = field(default_factory=DistillConfig)
    """A published method in the cycle's place, for comparisons."""
    objective: Objective = field(default_factory=Objective)
    """Weights and rules of the losses."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """AdamW with a polynomial schedule."""
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    """Machine, precision, and how often to look."""

    @property
    def method(self) -> str:
        """What the student learns by: a recipe, a method in its place, or nothing, ``alone``."""
        if self.distill.method != "none":
            return self.distill.method
        return "alone" if self.teacher.name == "none" else self.recipe
