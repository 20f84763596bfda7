"""The teacher: a prompted foundation model and the decoder that maps its masks to classes."""

import math
from dataclasses import dataclass

from torch import Tensor, nn

from tsic.errors import ConfigError, ShapeError
from tsic.options import (
    MAPPING_WIDTHS,
    Gradient,
    MappingKind,
    MaskStride,
    PromptKind,
    require_choice,
)
from tsic.prompt import LOGIT_RANGE, Prompts, class_prompts, index_prompt
from tsic.teacher.canvas import Canvas
from tsic.teacher.foundation import Embedding, Foundation, Seen
from tsic.teacher.lora import attach_lora
from tsic.teacher.mapping import LEVELS, LightMapping, Mapping, PromptedMasks, UperMapping
from tsic.teacher.norms import fold_norms
from tsic.teacher.sam import load_foundation


@dataclass(frozen=True)
class TeacherOutput:
    """What the teacher says about a batch; every map covers exactly the image.

    Attributes:
        logits: Class scores ``(B, K, ceil(H/4), ceil(W/4))``, of an image that was resized first.
        features: Map ``(B, D, h, w)`` that distillation compares.
        masks: Decoded masks ``(B, N, h, w)``, ``None`` without a prompt.
        class_ids: Class of each mask, int64 ``(B, N)``; ``None`` unless prompted by class.
        seen: What the image encoder made of the images.
        embedding: What the mask decoder reads of it, ``(B, D', h', w')``.
    """

    logits: Tensor
    features: Tensor
    masks: Tensor | None = None
    class_ids: Tensor | None = None
    seen: Seen | None = None
    embedding: Tensor | None = None


class Teacher(nn.Module):
    """Embed the image, prompt with the student's masks, decode masks, map to classes.

    Trainable are the prompt encoder, the mask decoder, the mapping decoder and LoRA; the image
    encoder's own weights are frozen unless ``trains_encoder``.

    Args:
        foundation: Promptable segmenter.
        mapping: Mapping decoder for it.
        num_classes: Classes ``K``.
        prompt: ``class`` gives one mask per class, ``index`` the class index as one float channel
            (public code), ``none`` leaves the mask decoder out.
        gradient: Whether the teacher's losses reach the student ``through`` class prompts.
        max_classes: Class prompts per image, those of largest expected area.
        rounds: Decoding rounds; from the second on, decoded masks are the prompt.
        class_tokens: Add a learned token per class to class prompts, starting as "no point".
        mask_stride: Pixels per cell of the grid on which masks are decoded.
        lora_rank: Rank of the encoder's adapters; 0 runs the encoder without gradient.
        trains_encoder: Train the encoder's own weights: for foundation models without pretrained
            weights.
        recompute_encoder: Trade time for memory in the encoder's backward pass.
        scale: Ratio at which it sees the images.
    """

    def __init__(
        self,
        foundation: Foundation,
        mapping: Mapping,
        num_classes: int,
        *,
        prompt: PromptKind = "class",
        gradient: Gradient = "stop",
        max_classes: int = 8,
        rounds: int = 1,
        class_tokens: bool = True,
        mask_stride: MaskStride = 16,
        lora_rank: int = 4,
        trains_encoder: bool = False,
        recompute_encoder: bool = False,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        foundation.scale = scale
        self.foundation = foundation
        self.mapping = mapping
        self.num_classes = num_classes
        self.prompt = prompt
        self.gradient = gradient
        self.max_classes = max_classes
        self.rounds = rounds
        self.mask_stride = mask_stride
        self.class_tokens: nn.Embedding | None = None
        if prompt == "class" and class_tokens:
            self.class_tokens = nn.Embedding(num_classes, foundation.dim)
            nn.init.zeros_(self.class_tokens.weight)
        if recompute_encoder and trains_encoder and _counts(foundation.encoder):
            raise ConfigError(
                "teacher.recompute_encoder: this encoder's norms count what they see, once a step; "
                "leave it out, or set teacher.trains_encoder: false"
            )
        foundation.recompute = recompute_encoder
        self._freeze(lora_rank, trains_encoder)

    def _freeze(self, lora_rank: int, trains_encoder: bool) -> None:
        model = self.foundation.model
        # Without a prompt only the encoder is used; with one, all but the position table trains.
        self.foundation.requires_grad_(self.prompt != "none")
        model.shared_image_embedding.requires_grad_(False)
        model.prompt_encoder.shared_embedding.requires_grad_(False)
        if not trains_encoder:
            fold_norms(self.foundation.encoder)
        self.foundation.encoder.requires_grad_(trains_encoder)
        if lora_rank > 0:
            attach_lora(self.foundation.encoder, lora_rank)
        self.foundation.train(self.training)  # what is frozen now also stands still

    def forward(
        self, images: Tensor, student_logits: Tensor, seen: Seen | None = None
    ) -> TeacherOutput:
        """Answer a batch of images with class scores, guided by the student's masks.

        Args:
            images: RGB in [0, 1], float ``(B, 3, H, W)``, any size.
            student_logits: The student's scores ``(B, K, h, w)`` on any grid that covers the image.
            seen: What the image encoder made of these images before, if it need not look again.

        Returns:
            See ``TeacherOutput``.

        Raises:
            ShapeError: If the images are none, or the scores are of other classes.
        """
        if student_logits.shape[1] != self.num_classes:
            raise ShapeError(
                f"the teacher knows {self.num_classes} classes, but the student's scores are "
                f"{tuple(student_logits.shape)}; build both with the same num_classes"
            )
        canvas, padded = self.foundation.place(images)
        seen = self.foundation.see(padded) if seen is None else seen
        embedding = self.foundation.read(seen, with_levels=self.mapping.needs_levels)
        masks = self.decode_masks(embedding, student_logits, canvas)
        logits, features = self.mapping(padded, embedding, masks)
        return TeacherOutput(
            canvas.crop(logits),
            canvas.crop(features),
            None if masks is None else canvas.crop(masks.logits),
            None if masks is None else masks.class_ids,
            seen,
            canvas.crop(embedding.image),
        )

    def embed(self, padded: Tensor) -> Embedding:
        """Run the image encoder on normalised canvas images."""
        return self.foundation.encode(padded, with_levels=self.mapping.needs_levels)

    def decode_masks(
        self, embedding: Embedding, student_logits: Tensor, canvas: Canvas
    ) -> PromptedMasks | None:
        """Prompt the mask decoder with the student's masks, as often as there are rounds."""
        if self.prompt == "none":
            return None
        # A mask prompt lies on four times the grid that the mask decoder runs on.
        stride = self.mask_stride // 4
        if self.prompt == "index":
            # The public code takes the index at the prompt's own resolution.
            prompts = index_prompt(canvas.place(student_logits, stride, fill=0.0))
            decoded = self._rounds(embedding, prompts, prompts.masks)
            return PromptedMasks(decoded, decoded, None)
        prompts = class_prompts(
            student_logits, self.max_classes, has_gradient=self.gradient == "through"
        )
        placed = canvas.place(prompts.masks, stride, fill=-LOGIT_RANGE)
        decoded = self._rounds(embedding, prompts, placed)
        return PromptedMasks(decoded, self._scatter(decoded, prompts, canvas), prompts.class_ids)

    def _rounds(self, embedding: Embedding, prompts: Prompts, masks: Tensor) -> Tensor:
        """Decode ``(B, N, ...)`` prompts; later rounds prompt with the answer of the one before."""
        decoded = self._decode(embedding, masks, prompts.class_ids)
        for _ in range(self.rounds - 1):
            again = decoded.amax(1, keepdim=True) if prompts.class_ids is None else decoded
            again = again.clamp(-LOGIT_RANGE, LOGIT_RANGE)
            decoded = self._decode(embedding, again, prompts.class_ids)
        return decoded

    def _decode(self, embedding: Embedding, masks: Tensor, class_ids: Tensor | None) -> Tensor:
        """Decode ``(B, N, 4h, 4w)`` mask prompts to ``(B, N or 3, 4h, 4w)`` masks."""
        prompts = masks.flatten(0, 1)[:, None]
        decoded, _ = self.foundation.answer(
            embedding, prompts, self._tokens(class_ids), multimask=class_ids is None
        )
        return decoded.reshape(masks.shape[0], -1, *decoded.shape[-2:])

    def _tokens(self, class_ids: Tensor | None) -> Tensor | None:
        """One token per prompt ``(B * N, 1, D)`` that tells the class, or ``None``."""
        if self.class_tokens is None or class_ids is None:
            return None
        return (self.foundation.blank_token() + self.class_tokens(class_ids)).reshape(
            class_ids.numel(), 1, -1
        )

    def _scatter(self, decoded: Tensor, prompts: Prompts, canvas: Canvas) -> Tensor:
        """Put decoded masks over the log-odds of all ``K`` classes: ``(B, K, 4h, 4w)``."""
        assert prompts.log_odds is not None
        assert prompts.class_ids is not None
        stride = canvas.height // decoded.shape[-2]
        everything = canvas.place(prompts.log_odds, stride, fill=-LOGIT_RANGE)
        index = prompts.class_ids[:, :, None, None].expand_as(decoded)
        return everything.scatter(1, index, decoded.to(everything.dtype))


def _counts(encoder: nn.Module) -> bool:
    """Whether a forward pass in training leaves statistics behind."""
    return any(isinstance(one, nn.BatchNorm2d) for one in encoder.modules())


def require_levels(foundation: Foundation, mapping: MappingKind, name: str) -> None:
    """Refuse a mapping decoder whose maps a foundation model cannot give.

    Raises:
        ConfigError: Naming both.
    """
    depths = len(foundation.hidden_strides) if foundation.has_levels else 0
    if mapping != "light" and depths != len(LEVELS):
        raise ConfigError(
            f"teacher.mapping {mapping} reads maps of one width at {len(LEVELS)} depths, of which "
            f"'{name}' has {depths}; use light"
        )


def build_teacher(
    name: str,
    *,
    num_classes: int,
    mapping: MappingKind = "light",
    channels: int | None = None,
    prompt: PromptKind = "class",
    gradient: Gradient = "stop",
    max_classes: int = 8,
    rounds: int = 1,
    class_tokens: bool = True,
    mask_stride: MaskStride = 16,
    lora_rank: int = 4,
    trains_encoder: bool = False,
    recompute_encoder: bool = False,
    scale: float = 1.0,
) -> Teacher:
    """Build a teacher on a foundation model, the only place where their sizes meet.

    Args:
        name: See ``tsic.teacher.sam.load_foundation``.
        num_classes: Classes ``K``.
        mapping: ``light`` (top-down, per-class masks), ``uper`` (the paper's UPerNet with its
            attention repaired) or ``uper-released`` (as in the public code, where it is 1).
        channels: Width of the mapping decoder; by default 128 for ``light``, 512 for ``uper``.
        prompt: See ``Teacher``, as all that follow.
        gradient: See ``Teacher``.
        max_classes: See ``Teacher``.
        rounds: See ``Teacher``.
        class_tokens: See ``Teacher``.
        mask_stride: See ``Teacher``.
        lora_rank: See ``Teacher``.
        trains_encoder: See ``Teacher``.
        recompute_encoder: See ``Teacher``.
        scale: See ``Teacher``.

    Returns:
        The teacher; its foundation model comes with the weights that ``name`` has.

    Raises:
        ConfigError: If ``name`` is not a known kind of model or has no maps for ``mapping``, or an
            argument is none of its choices or too small.
        CheckpointError: If its files cannot be loaded.
    """
    require_choice("teacher.mapping", mapping, MappingKind)
    require_choice("teacher.prompt", prompt, PromptKind)
    require_choice("teacher.gradient", gradient, Gradient)
    require_choice("teacher.mask_stride", mask_stride, MaskStride)
    least = {"max_classes": (max_classes, 1), "rounds": (rounds, 1), "lora_rank": (lora_rank, 0)}
    for key, (number, smallest) in least.items():
        if number < smallest:
            raise ConfigError(f"teacher.{key} must be at least {smallest}, got {number}")
    if not 0 < scale < math.inf:
        raise ConfigError(f"teacher.scale must be above 0, got {scale}")
    if name == "none":
        raise ConfigError("teacher.name 'none' is no teacher to build; a Cycle takes None instead")
    foundation = load_foundation(name)
    decoder: Mapping
    if mapping == "light":
        per_class = prompt == "class"
        multimask = foundation.model.config.mask_decoder_config.num_multimask_outputs
        decoder = LightMapping(
            foundation.hidden_channels,
            foundation.hidden_strides,
            num_classes,
            mask_channels={"class": num_classes, "index": multimask, "none": 0}[prompt],
            is_per_class=per_class,
            channels=channels or MAPPING_WIDTHS["light"],
        )
    else:
        require_levels(foundation, mapping, name)
        decoder = UperMapping(
            foundation.dim,
            foundation.hidden_strides,
            num_classes,
            channels=channels or MAPPING_WIDTHS["uper"],
            attention="released" if mapping == "uper-released" else "repaired",
        )
    return Teacher(
        foundation,
        decoder,
        num_classes,
        prompt=prompt,
        gradient=gradient,
        max_classes=max_classes,
        rounds=rounds,
        class_tokens=class_tokens,
        mask_stride=mask_stride,
        lora_rank=lora_rank,
        trains_encoder=trains_encoder,
        recompute_encoder=recompute_encoder,
        scale=scale,
    )
