#!/usr/bin/env python3
"""Writes checkpoints of one small Qwen3-MoE that ranks divide in different ways, by megatron-core on a CPU.

    pip install torch megatron-core==0.16.1
    python3 scripts/make_parallel_checkpoints.py OUT

The model is made once and saved as torch_dist; every other layout loads it from there and saves its own files:
OUT/experts_ep2, OUT/experts_pp2_ep2 (both are in tests/checkpoints), OUT/experts_pp2, OUT/experts_tp2, and
OUT/dist_ep2. The folders of ranks are named as Megatron-LM names them; what is in them is
megatron-core's state_dict_for_save_checkpoint().
"""

import argparse
import contextlib
import os
import sys

import torch
import torch.multiprocessing
import torch.nn.functional

# megatron-core as it is, but for what only GPUs have.
torch.cuda.current_device = lambda: torch.device("cpu")
torch.cuda.synchronize = lambda *_, **__: None
torch.Tensor.cuda = lambda self, *_, **__: self

SIZES = dict(
    num_layers=4, hidden_size=16, num_attention_heads=4, num_query_groups=2, kv_channels=4, ffn_hidden_size=24,
    normalization="RMSNorm", add_bias_linear=False, layernorm_epsilon=1e-6, qk_layernorm=True,
    moe_ffn_hidden_size=8, moe_router_topk=2, moe_grouped_gemm=False, hidden_dropout=0.0, attention_dropout=0.0,
    moe_router_load_balancing_type="none", moe_token_dispatcher_type="allgather",
)
# Under the names that Megatron-LM's arguments have.
ARGUMENTS = dict(
    num_experts=4, swiglu=True, position_embedding_type="rope", rotary_base=10000, rotary_percent=1.0,
    max_position_embeddings=64, untie_embeddings_and_output_weights=True, norm_epsilon=1e-6,
    group_query_attention=True,
)


@contextlib.contextmanager
def nothing(*_, **__):
    yield


def worker(rank, layout, out, source, is_distributed, port):
    import torch.distributed
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), CUDA_DEVICE_MAX_CONNECTIONS="1")
    tensor, pipeline, expert = layout
    world = tensor * pipeline * expert
    torch.distributed.init_process_group("gloo", rank=rank, world_size=world)
    import megatron.core.tensor_parallel.random as random
    from megatron.core import dist_checkpointing, parallel_state
    from megatron.core.models.gpt import GPTModel
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
    from megatron.core.transformer import TransformerConfig
    from megatron.core.transformer.moe import moe_utils
    if not hasattr(moe_utils, "te_general_gemm"):
        moe_utils.te_general_gemm = None
    random.CudaRNGStatesTracker.fork = nothing
    ranks = dict(tensor_model_parallel_size=tensor, pipeline_model_parallel_size=pipeline,
                 expert_model_parallel_size=expert)
    parallel_state.initialize_model_parallel(**ranks)
    config = TransformerConfig(
        **SIZES, **ranks, num_moe_experts=ARGUMENTS["num_experts"], gated_linear_unit=True,
        activation_func=torch.nn.functional.silu, pipeline_dtype=torch.float32, use_cpu_initialization=True,
        gradient_accumulation_fusion=False, bias_activation_fusion=False)
    spec = get_gpt_layer_local_spec(num_experts=4, moe_grouped_gemm=False, qk_layernorm=True, normalization="RMSNorm")
    model = GPTModel(
        config=config, transformer_layer_spec=spec, vocab_size=32, max_sequence_length=64,
        pre_process=parallel_state.is_pipeline_first_stage(), post_process=parallel_state.is_pipeline_last_stage(),
        position_embedding_type="rope", share_embeddings_and_output_weights=False, rotary_percent=1.0)
    if source:
        loaded = dist_checkpointing.load({"model": model.sharded_state_dict()}, source)
        model.load_state_dict(loaded["model"])
    else:
        torch.manual_seed(5)
        for parameter in model.parameters():
            parameter.data.copy_(torch.randn(parameter.shape))
    args = argparse.Namespace(**SIZES, **ARGUMENTS, **ranks)
    folder = os.path.join(out, "iter_0000001")
    os.makedirs(folder, exist_ok=True)
    torch.distributed.barrier()
    if is_distributed:
        dist_checkpointing.save({"model": model.sharded_state_dict(), "args": args}, folder)
    else:
        name = f"mp_rank_{parallel_state.get_tensor_model_parallel_rank():02d}"
        if pipeline > 1:
            name += f"_{parallel_state.get_pipeline_model_parallel_rank():03d}"
        if expert > 1:
            name += f"_{parallel_state.get_expert_model_parallel_rank():03d}"
        os.makedirs(os.path.join(folder, name), exist_ok=True)
        saved = {"args": args, "checkpoint_version": 3.0, "iteration": 1,
                 "model": model.state_dict_for_save_checkpoint()}
        torch.save(saved, os.path.join(folder, name, "model_optim_rng.pt"))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def main(out):
    base = os.path.join(out, "dist")
    source = os.path.join(base, "iter_0000001")
    jobs = [
        ((1, 1, 1), base, None, True),
        ((1, 1, 2), os.path.join(out, "experts_ep2"), source, False),
        ((1, 2, 2), os.path.join(out, "experts_pp2_ep2"), source, False),
        ((1, 2, 1), os.path.join(out, "experts_pp2"), source, False),
        ((2, 1, 1), os.path.join(out, "experts_tp2"), source, False),
        ((1, 1, 2), os.path.join(out, "dist_ep2"), source, True),
    ]
    for number, (layout, folder, source, is_distributed) in enumerate(jobs):
        tensor, pipeline, expert = layout
        arguments = (layout, folder, source, is_distributed, 29500 + number)
        torch.multiprocessing.spawn(worker, args=arguments, nprocs=tensor * pipeline * expert)
        print(folder)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
