"""Pictures and feature maps turned, scaled and moved."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from o2n.images import Picture
from o2n.models import to_pictures, to_unit


def pose_of(angle: float, x: float = 0.0, y: float = 0.0, mirrored: bool = False, scale: float = 1.0) -> Tensor:
    """Turned by `angle` (radians), moved by x and y (of half a side), and so many times as small: float32 (2, 3)."""
    cos, sin, sign = math.cos(angle) * scale, math.sin(angle) * scale, -1 if mirrored else 1
    return torch.tensor([[sign * cos, -sin, x], [sign * sin, cos, y]], dtype=torch.float32)


def moved(pictures: list[Picture], poses: list[Tensor]) -> list[Picture]:
    """Every picture in every pose (2, 3): as many pictures for each pose, uint8 (R, R, 3)."""
    x = to_unit(pictures, torch.device("cpu"))
    return [view for pose in poses for view in to_pictures(warp(x, pose.expand(len(x), -1, -1)))]


def warp(grid: Tensor, pose: Tensor) -> Tensor:
    """(B, C, h, w) looked at where `pose` (B, 2, 3) says."""
    where = F.affine_grid(pose, list(grid.shape), align_corners=False)
    return F.grid_sample(grid, where, padding_mode="reflection", align_corners=False)


def inverse(pose: Tensor) -> Tensor:
    """The pose that undoes `pose` (B, 2, 3)."""
    turned = torch.linalg.inv(pose[:, :, :2])
    return torch.cat([turned, -turned @ pose[:, :, 2:]], dim=-1)
