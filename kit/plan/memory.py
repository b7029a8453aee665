"""How much memory a training step takes on each GPU, computed before anything is loaded.

Weights and optimizer are counted. What the pass through the model keeps is found by running that
very pass on torch's meta device, where tensors have a shape and no content: it costs a second and
no memory, and follows the model's code instead of a formula.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import AutoModelForImageTextToText

from kit.grpo.config import GrpoConfig
from kit.model.attention import use_tree_attention
from kit.model.decoding import CHECK, head_size
from kit.model.families import family_of
from kit.model.head import ScoringHead
from kit.model.load import base_config
from kit.model.logprobs import LogprobModel, base_of
from kit.model.sharing import PackedBatch
from kit.model.vision import CACHE_BYTES
from kit.plan.torch_internals import LiveBytes, fused_attention
from kit.run.launches import Plan
from kit.train.config import TrainingConfig
from kit.train.policy import make_trainable

BLOCK, NESTED_BLOCK = 64, 256  # bitsandbytes: weights a 4-bit scale, scales a scale of scales


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on each GPU while weights are updated: ``activations`` without ``logits``. GRPO
    samples between updates, which takes ``sampling`` (cache and scores, copies of the weights with
    the adapter in them, and under ZeRO-3 the gathered weights) in place of gradients, activations
    and logits. ``features`` of images are kept all the time."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    features: int = 0
    sampling: int = 0

    @property
    def total(self) -> int:
        """At the worst moment."""
        update = self.gradients + self.activations + self.logits
        always = self.weights + self.optimizer + self.features
        return always + max(update, self.sampling)


def build_on_meta(config: TrainingConfig) -> nn.Module:
    """The model of a run, with what is trained marked as such, without its content."""
    shape = base_config(config.base_model)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(
            shape, attn_implementation="sdpa", dtype=torch.float32
        )
        use_tree_attention(model)
        head = ScoringHead.of(model.lm_head)
        head.in_float32 = isinstance(config, GrpoConfig) and config.cast_lm_head_to_fp32
        return make_trainable(model, config).train()


def estimate(
    model: nn.Module,
    config: TrainingConfig,
    plan: Plan,
    *,
    bf16: bool,
    activations: int,
    logits: int,
    features: int = 0,
    sampling: int = 0,
) -> MemoryEstimate:
    """Add everything up.

    Args:
        model: from ``build_on_meta``.
        activations, logits: from ``activation_bytes``.
        features: from ``feature_bytes``.
        sampling: from ``sampling_bytes``.
    """
    compute = 2 if bf16 else 4
    sizes = [(name, p.numel(), p.requires_grad) for name, p in model.named_parameters()]
    trained = sum(size for _, size, is_trained in sizes if is_trained)
    packed = 0
    if config.quantization == "nf4":
        packed = sum(size for name, size, is_trained in sizes if _is_packed(name, is_trained))
    frozen = sum(size for _, size, is_trained in sizes if not is_trained) - packed
    others = frozen * compute + _packed_bytes(packed)
    if isinstance(config, GrpoConfig) and config.beta:
        # the SFT adapter a second time, or the whole model
        others += (trained if config.finetuning == "lora" else trained + frozen) * compute
    spread = plan.processes
    whole = others + trained * compute
    if not plan.with_deepspeed:  # trained weights are float32, and DDP keeps gradients twice
        weights = others + 4 * trained
        gradients = 4 * trained * (2 if spread > 1 else 1)
        states = 8 * trained
    else:  # DeepSpeed trains in the compute type and holds float32 copies beside AdamW's moments
        weights = whole
        if plan.stage == 3:
            small = sum(size for _, size, _ in sizes if size <= plan.persistence)
            weights = whole // spread + small * compute
        gradients = trained * compute // (spread if plan.stage > 1 else 1)
        gradients += plan.bucket * compute
        states = 12 * trained // spread
    if plan.offload_optimizer:
        states = 0
    if plan.offload_weights:
        weights = 0
    if sampling and config.merges:
        sampling += merged_bytes(model, bf16=bf16)
    if plan.stage == 3:  # whole for the time of a rollout; a sharded tower's features are not kept
        sampling += whole if sampling else 0
        features = 0
    return MemoryEstimate(weights, gradients, states, activations, logits, features, sampling)


def _is_packed(name: str, is_trained: bool) -> bool:
    """Whether ``load_base`` holds a weight in 4 bits: the linear layers of the language model."""
    return (
        not is_trained
        and "language_model.layers" in name
        and "proj" in name
        and (name.endswith("weight"))
    )


def _packed_bytes(n_weights: int) -> int:
    """Bytes of NF4 weights with double quantization (QLoRA, arXiv 2305.14314, section 3)."""
    scales = n_weights / BLOCK
    return int(n_weights / 2 + scales + 4 * scales / NESTED_BLOCK)


def activation_bytes(
    model: nn.Module, batch: PackedBatch, *, bf16: bool, entropy: bool = False
) -> tuple[int, int]:
    """Most bytes alive during a forward and backward beyond weights and gradients, without the
    logits and what is computed from them, and those.

    Args:
        model: on the meta device.
        batch: what is computed, on the CPU.
        entropy: whether it is computed too, as in GRPO.
    """
    dtype = torch.bfloat16 if bf16 else torch.float32
    model = model.to(dtype)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.empty_like(parameter)  # counted elsewhere
    batch = dataclasses.replace(batch, pixel_values=batch.pixel_values.to("meta"))
    vocabulary = model.get_output_embeddings().weight.shape[0]
    n_image = int((batch.input_ids == base_of(model).config.image_token_id).sum())
    living = LiveBytes(vocabulary, n_image)
    for tensor in (*model.parameters(), *model.buffers(), batch.pixel_values):
        living.know(tensor)
        if tensor.grad is not None:
            living.know(tensor.grad)
    # in this thread, so that what checkpointing computes again is seen too
    with torch.autograd.set_multithreading_enabled(False), fused_attention(), living:
        LogprobModel(model)(batch, entropy=entropy).logprobs.sum().backward()
    return living.peak - living.peak_large, living.peak_large


def sampling_bytes(
    model: nn.Module, prompt_tokens: Sequence[int], config: GrpoConfig, *, bf16: bool
) -> int:
    """What sampling takes for prompts of these lengths: keys and values of each prompt, and of what
    each row adds in buffers as long as it may get, and beside them the most of what comes and
    goes."""
    shape, compute = model.config.get_text_config(), 2 if bf16 else 4
    prompts, longest = len(prompt_tokens), max(prompt_tokens)
    rows = prompts * config.num_generations
    width = head_size(shape) * shape.num_key_value_heads
    # keys and values in float32: of prompts once, and of what each row adds
    states = 2 * shape.num_hidden_layers * width * 4
    shared = states * prompts * longest
    own = states * rows * (1 + config.max_completion_length + CHECK)
    logits = rows * shape.vocab_size * compute
    # scores, which become chances in their place, in float32
    drawing = logits + rows * shape.vocab_size * 4
    if bf16 and config.cast_lm_head_to_fp32:  # for a moment
        drawing += shape.vocab_size * shape.hidden_size * 4
    # once a quarter has ended, the rows that go on are copied, and their prompts
    choosing = logits + (shared + own + logits) * 3 // 4
    # the prompts in an MLP, before there are rows
    reading = 3 * prompts * longest * shape.intermediate_size * compute
    return shared + max(own + max(drawing, choosing), reading)


def merged_bytes(model: nn.Module, *, bf16: bool) -> int:
    """Copies of weights that a rollout makes (``kit.model.merged``): of adapted layers, and on a
    CPU in float32 of all that the language model multiplies by."""
    layers = [m.get_base_layer() for m in model.modules() if isinstance(m, LoraLayer)]
    if not bf16 and not torch.cuda.is_available():
        causal_lm = base_of(model)
        inside = (causal_lm.lm_head, *causal_lm.model.language_model.modules())
        layers += [module for module in inside if isinstance(module, nn.Linear)]
    sizes = {id(layer.weight): layer.weight.numel() for layer in layers}
    return sum(sizes.values()) * (2 if bf16 else 4)


def feature_bytes(model: nn.Module, image_tokens: int, n_images: int | None, *, bf16: bool) -> int:
    """Features of so many images (None: of more than there is room for) that are kept where the
    tower is not trained."""
    if any(p.requires_grad for p in base_of(model).model.visual.parameters()):
        return 0
    width = model.config.get_text_config().hidden_size * (2 if bf16 else 4)
    if family_of(model.config.model_type).deepstack:
        width *= 1 + len(model.config.vision_config.deepstack_visual_indexes)
    return CACHE_BYTES if n_images is None else min(CACHE_BYTES, n_images * image_tokens * width)
