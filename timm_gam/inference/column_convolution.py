"""Large convolutions of small maps, such as the 7x7 ones of GAM on a map of 7x7: the same sums without most padding.

A convolution library loses time there in two ways. It multiplies by padding: of the taps of a 7x7 kernel on a map of
7x7, 43 % lie outside. And it takes one image after the other, reading all weights anew for each, though they are many
times larger than the image. Without both, GAM's block on maps of 7x7 ran at 572 GFLOP/s, padding counted as work, where
the peak of the processor is 537 (`benchmarks/results/inference.json`).
"""

from __future__ import annotations

from torch import Tensor, nn

from timm_gam.inference.large_convolutions import Sizes


class ColumnConv2d(nn.Module):
    """A stride 1 convolution with "same" padding, (B, C, H, W) -> (B, D, H, W), one kernel column at a time.

    The images stand side by side, column by column: (1, C, H, W x B). There a kernel column is a convolution of its own
    along H, which reads its weights once for all images, and whose inputs and outputs are those columns that it joins.
    Adding up the kernel's columns rounds in another order than the convolution, and no worse.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        (height, width), self.reach = conv.kernel_size, conv.kernel_size[1] // 2
        self.columns = nn.ModuleList()
        for place in range(width):
            column = nn.Conv2d(
                conv.in_channels,
                conv.out_channels,
                (height, 1),
                padding=(height // 2, 0),
                bias=conv.bias is not None and place == self.reach,
                device="meta",
            )
            column.weight = nn.Parameter(conv.weight[..., place, None].contiguous(), conv.weight.requires_grad)
            if column.bias is not None:
                column.bias = conv.bias
            self.columns.append(column)

    def forward(self, x: Tensor) -> Tensor:
        count, channels, height, width = x.shape
        rows = x.permute(2, 3, 0, 1).reshape(1, height, width * count, channels).permute(0, 3, 1, 2)
        out: Tensor = self.columns[self.reach](rows)
        for place, column in enumerate(self.columns):
            shift = place - self.reach
            first, end = max(0, -shift), min(width, width - shift)  # of the output
            if shift and first < end:
                part = column(rows[..., (first + shift) * count : (end + shift) * count])
                out[..., first * count : end * count] += part
        return out.permute(2, 3, 0, 1).view(height, width, count, -1).permute(2, 3, 0, 1)


def is_narrow(conv: nn.Conv2d, sizes: Sizes) -> bool:
    """Whether kernel columns suit one of the maps: wider ones have little padding, and each column costs an addition to
    all outputs."""
    narrow = conv.kernel_size[1] * (2 if conv.in_channels > conv.out_channels else 1)
    return any(width <= narrow for _, width in sizes)
