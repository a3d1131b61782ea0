"""torchvision as an oracle."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch


@pytest.fixture(scope="session")
def torchvision_models() -> ModuleType:
    """`torchvision.models`, where torchvision is installed and can be imported.

    Its published builds bring operators for a torch with CUDA. Beside another torch those don't load, and the import
    fails for want of their schemas, so these are declared here: no test calls them.
    """
    library = torch.library.Library("torchvision", "FRAGMENT")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    try:
        import torchvision
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"torchvision, the oracle, can't be imported here: {error}")
    models: ModuleType = torchvision.models
    models.__dict__["_schemas"] = library  # they last as long as this object
    return models
