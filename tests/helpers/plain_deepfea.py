"""DeepFEA as its equations are usually typed: one step after the other, torch's modules, autograd; nothing hoisted.

The reference for correctness and speed of ``workbench.models.DeepFEA``. It has the published parameter names, so both
take the same state dict. The input holds coordinates, loads and a flag of supported nodes, -1 where a node is free.
"""

import torch
from torch import nn


class PlainCell(nn.Module):
    def __init__(self, inputs, hidden, kernel, frame):
        super().__init__()
        convolution = nn.Conv2d if len(frame) == 2 else nn.Conv3d
        self.conv = convolution(inputs + hidden, 4 * hidden, kernel, padding=kernel // 2)
        self.W_ci = nn.Parameter(torch.randn(hidden, *frame) * 0.1)
        self.W_cf = nn.Parameter(torch.randn(hidden, *frame) * 0.1)
        self.W_co = nn.Parameter(torch.randn(hidden, *frame) * 0.1)

    def forward(self, x, h, c):
        i, f, g, o = self.conv(torch.cat([x, h], 1)).chunk(4, 1)
        i = torch.sigmoid(i + self.W_ci * c)
        f = torch.sigmoid(f + self.W_cf * c)
        c = f * c + i * torch.tanh(g)
        o = torch.sigmoid(o + self.W_co * c)
        return o * torch.tanh(c), c


class PlainStack(nn.Module):
    def __init__(self, in_channels, node_out, element_out, hidden, kernels, frame):
        super().__init__()
        dim = len(frame)
        convolution = nn.Conv2d if dim == 2 else nn.Conv3d
        inputs = [in_channels, *hidden[:-1]]
        self.cell_list = nn.ModuleList(PlainCell(*sizes, frame) for sizes in zip(inputs, hidden, kernels, strict=True))
        setattr(self, f"conv{dim}d", convolution(hidden[-1], node_out, 1))
        setattr(self, f"conv{dim}d_2", convolution(hidden[-1], element_out, 2))
        self.heads = (f"conv{dim}d", f"conv{dim}d_2")


class PlainDeepFEA(nn.Module):
    def __init__(self, in_channels, node_out, element_out, hidden, kernels, frame, activation=torch.tanh):
        super().__init__()
        self.convlstm = PlainStack(in_channels, node_out, element_out, hidden, kernels, frame)
        self.hidden, self.node_out, self.activation = hidden, node_out, activation

    def forward(self, x, teach):
        """Predictions for an input [b, t, c, *space]; ``teach[t]`` says whether step t sees the given coordinates."""
        batch, steps, space = len(x), x.shape[1], x.shape[3:]
        memory = [(x.new_zeros(batch, c, *space), x.new_zeros(batch, c, *space)) for c in self.hidden]
        node_head, element_head = (getattr(self.convlstm, name) for name in self.convlstm.heads)
        coordinates, rest = x[:, :, : self.node_out], x[:, :, self.node_out :]
        free = x[:, 0, -1:] == -1
        nodes, elements = [], []
        for t in range(steps):
            state = coordinates[:, t]
            if t and not teach[t]:
                state = torch.where(free, nodes[-1], state)
            h = torch.cat([state, rest[:, t]], 1)
            for number, cell in enumerate(self.convlstm.cell_list):
                h, c = cell(h, *memory[number])
                memory[number] = (h, c)
            nodes.append(self.activation(node_head(h)))
            elements.append(self.activation(element_head(h)))
        return torch.stack(nodes, 1), torch.stack(elements, 1)
