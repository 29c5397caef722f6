"""Networks: plain modules from channels on a grid to channels on the same grid, or to those of the elements beside."""

from workbench.models.base import CellNetwork as CellNetwork
from workbench.models.base import DownscalingNetwork as DownscalingNetwork
from workbench.models.base import Network as Network
from workbench.models.base import Prediction as Prediction
from workbench.models.base import TransientNetwork as TransientNetwork
from workbench.models.bodies import PrithviCore as PrithviCore
from workbench.models.bodies import ResidualBlocks as ResidualBlocks
from workbench.models.cyclepatch import CyclePatch as CyclePatch
from workbench.models.deepfea import DeepFEA as DeepFEA
from workbench.models.downscaling import Downscaling as Downscaling
from workbench.models.flux_unet import FluxUNet as FluxUNet
from workbench.models.fno import FNO as FNO
from workbench.models.fpnn import FPNN as FPNN
from workbench.models.ifactformer import IFactFormer as IFactFormer
from workbench.models.ifno import IFNO as IFNO
from workbench.models.prithvi import PrithviWxC as PrithviWxC
from workbench.models.unet import UNet as UNet
