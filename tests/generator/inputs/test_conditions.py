"""Handling of conditions."""

import torch

from generator.inputs.conditions import concatenate, repeat, select

CONDITIONS = {
    "text": torch.arange(12.0).view(3, 2, 2),
    "mask": torch.tensor([[1, 1], [1, 0], [1, 1]]),
    "pooled": torch.tensor([7.0, 8.0, 9.0]),
}


def test_select_takes_rows_of_every_tensor():
    for index in ([2, 0], torch.tensor([2, 0])):
        rows = select(CONDITIONS, index)
        assert {name: len(value) for name, value in rows.items()} == {"text": 2, "mask": 2, "pooled": 2}
        assert rows["pooled"].tolist() == [9, 7]
        assert torch.equal(rows["text"], CONDITIONS["text"].flip(0)[::2])


def test_select_of_a_slice_is_a_view():
    assert select(CONDITIONS, slice(1, 3))["pooled"].tolist() == [8, 9]
    assert select(CONDITIONS, slice(1, 3))["text"].data_ptr() == CONDITIONS["text"][1:].data_ptr()


def test_repeat_keeps_the_copies_of_a_row_together():
    assert repeat(CONDITIONS, 2)["pooled"].tolist() == [7, 7, 8, 8, 9, 9]
    assert torch.equal(repeat(CONDITIONS, 2)["text"][::2], CONDITIONS["text"])


def test_concatenate_pads_the_shorter_with_zeros_that_the_mask_knows():
    longer = {
        "text": torch.ones(1, 4, 2),
        "mask": torch.ones(1, 4, dtype=torch.long),
        "pooled": torch.tensor([1.0]),
    }
    joined = concatenate([CONDITIONS, longer])
    assert joined["text"].shape == (4, 4, 2)
    assert torch.equal(joined["text"][:3, :2], CONDITIONS["text"])
    assert not joined["text"][:3, 2:].any()
    assert joined["mask"].tolist() == [[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]]
    assert joined["pooled"].tolist() == [7, 8, 9, 1]


def test_concatenate_undoes_select():
    parts = [select(CONDITIONS, slice(0, 1)), select(CONDITIONS, slice(1, 3))]
    joined = concatenate(parts)
    assert all(torch.equal(joined[name], value) for name, value in CONDITIONS.items())
