"""Trained networks as files for other programs: ONNX, int8 ONNX, `torch.export` programs, C99 in floating point or
in 8-bit integers, folded safetensors.

Each file is made from the folded network and compared with the trained network on images before it is written.
"""

from hcnn.export.c_program import export_c
from hcnn.export.c_source import CSource, c_source
from hcnn.export.executorch_file import export_executorch
from hcnn.export.folded_weights import export_safetensors, load_folded
from hcnn.export.html_file import export_html
from hcnn.export.int8 import int8_bytes
from hcnn.export.integer.program import export_c_int8
from hcnn.export.onnx_file import export_onnx, onnx_runner
from hcnn.export.plain_network import PlainNetwork
from hcnn.export.torch_program import export_program

__all__ = [
    "CSource",
    "PlainNetwork",
    "c_source",
    "export_c",
    "export_c_int8",
    "export_executorch",
    "export_html",
    "export_onnx",
    "export_program",
    "export_safetensors",
    "int8_bytes",
    "load_folded",
    "onnx_runner",
]
