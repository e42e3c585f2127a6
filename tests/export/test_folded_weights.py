"""Folded weights as safetensors: written, read back, refused where they are something else."""

import pytest
import torch

from hcnn.export import export_safetensors, load_folded
from hcnn.layers.folded import FoldedConv


def test_folded_weights_come_back(tmp_path, settled, standard) -> None:
    model = settled("plus")
    export_safetensors(tmp_path / "out", model, standard, "# card\n")
    again, preprocessing = load_folded(tmp_path / "out")
    assert preprocessing == standard
    assert again.folded
    x = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        assert (again(x) - model(x)).abs().max() < 1e-5 * model(x).abs().max()
    (tmp_path / "bad").write_bytes(b"\x80\x04pickle")
    with pytest.raises(ValueError, match="is a pickle; hcnn reads safetensors only"):
        load_folded(tmp_path / "bad")
    assert any(isinstance(layer, FoldedConv) for layer in again.layers)
