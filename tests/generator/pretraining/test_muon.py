"""Batched Muon against PyTorch's own, one matrix at a time, and its place in pretraining."""

import pytest
import torch
from torch import nn

from generator.native.building import build_pipeline
from generator.pretraining.master_weights import MasterWeights, hidden_matrices
from generator.pretraining.muon import Muon, orthogonalise


def test_orthogonalised_matrices_have_the_singular_vectors_of_the_svd():
    torch.manual_seed(0)
    for shape in ((3, 24, 64), (3, 64, 24), (2, 32, 32)):
        matrices = torch.randn(shape)
        u, _, v = torch.linalg.svd(matrices.double(), full_matrices=False)
        found = orthogonalise(matrices).double()
        values = torch.einsum("nri,nrc,nic->ni", u, found, v)
        assert values[:, :-2].min() > 0.5
        assert values.max() < 1.3
        rest = found - u @ torch.diag_embed(values) @ v
        assert rest.norm() < 0.1 * found.norm()


def test_steps_are_those_of_pytorch_one_matrix_at_a_time():
    torch.manual_seed(0)
    shapes = [(16, 48), (16, 48), (48, 16), (32, 32)]
    alone = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    buffer = nn.Parameter(torch.cat([p.detach().flatten() for p in alone]))
    mine = Muon(buffer, shapes, lr=1e-2, weight_decay=0.1)
    theirs = torch.optim.Muon(alone, lr=1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    start = buffer.detach().clone()
    for _ in range(3):
        for p in alone:
            p.grad = torch.randn_like(p)
        buffer.grad = torch.cat([p.grad.flatten() for p in alone])
        mine.step()
        theirs.step()
    expected = torch.cat([p.detach().flatten() for p in alone])
    moved = (expected - start).norm()
    assert (buffer.detach() - expected).norm() < 0.02 * moved
    assert mine.runs == [(0, 2, 16, 48), (1536, 1, 48, 16), (2304, 1, 32, 32)]


def test_shapes_that_do_not_fill_the_buffer_are_refused():
    with pytest.raises(ValueError, match="have 12 elements, but the buffer has 13"):
        Muon(nn.Parameter(torch.zeros(13)), [(3, 4)], 1e-3, 0.0)


def test_hidden_matrices_are_the_linear_layers_of_blocks_alone_and_equal_shapes_stand_together():
    pipeline = build_pipeline(transformer={"num_layers": 3, "hidden_size": 64, "num_attention_heads": 1})
    modules = [pipeline.transformer, pipeline.text_encoder]
    found = hidden_matrices(modules)
    names = {id(p): name for module in modules for name, p in module.named_parameters()}
    assert all("block" in names[id(p)] and p.ndim == 2 for p in found)
    assert not any("embed" in names[id(p)] or "bias" in names[id(p)] for p in found)
    shapes = [tuple(p.shape) for p in found]
    assert shapes == sorted(shapes)
    weights = MasterWeights(modules, hidden=True)
    assert weights.masters[0].numel() == sum(p.numel() for p in found)
    total = sum(p.numel() for module in modules for p in module.parameters())
    assert sum(master.numel() for master in weights.masters) == total
    values = [torch.arange(len(master), dtype=torch.float32) for master in weights.masters]
    weights.finish(values)
    assert torch.equal(found[0].flatten(), values[0][: found[0].numel()])
