"""Types that Triton kernels sum in. Needs Triton."""

import torch
import triton.language as tl

from hcnn.functional.dtypes import wide


def triton_wide(dtype: torch.dtype) -> tuple[torch.dtype, tl.dtype]:
    """`hcnn.functional.dtypes.wide` of a type, as PyTorch and as Triton name it."""
    torch_wide = wide(dtype)
    return torch_wide, tl.float64 if torch_wide == torch.float64 else tl.float32
