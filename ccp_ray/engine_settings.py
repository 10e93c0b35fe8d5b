"""DeepSpeed's configuration, generated from ours.

A group is DeepSpeed's micro-batch and a rank's groups are its accumulation steps, so its gradient is the mean over
all groups of all ranks, at any world size. A rank sums its groups' gradients in fp32 (DeepSpeed's default is the
precision of the weights; ZeRO 0 in 16 bits cannot do otherwise); between ranks they travel in the model's precision.
"""

from __future__ import annotations

from typing import Any

from ccp_ray.training_config import TrainingConfig

BUCKET_ELEMENTS = 50_000_000  # gradients reduced at once; DeepSpeed's 500 M would take 2 GB in fp32


def deepspeed_settings(config: TrainingConfig, world_size: int) -> dict[str, Any]:
    """DeepSpeed's configuration. https://www.deepspeed.ai/docs/config-json/"""
    choice = config.deepspeed
    zero: dict[str, Any] = {
        "stage": choice.zero_stage,
        "reduce_bucket_size": BUCKET_ELEMENTS,
        "allgather_bucket_size": BUCKET_ELEMENTS,
    }
    if choice.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    settings = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": config.groups_per_step // world_size,
        "zero_optimization": zero,
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": choice.precision == "bf16"},
        "fp16": {"enabled": choice.precision == "fp16", "loss_scale": 0},  # 0: dynamic, from 2^16
        "gradient_clipping": config.optimizer.clip,
        "steps_per_print": 1 << 30,
        "wall_clock_breakdown": False,
    }
    if choice.precision != "fp32" and choice.zero_stage:
        settings["data_types"] = {"grad_accum_dtype": "fp32"}
    return settings
