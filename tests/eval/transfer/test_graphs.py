"""Updates as CUDA graphs: the same weights after a few of them. Needs a GPU."""

from __future__ import annotations

import copy

import pytest
import torch

from eval.transfer.resident import capture_updates
from timm_gam.core import StopRequest, World
from timm_gam.images import Preprocessing
from timm_gam.train import Batch, Position, Recipe, Trainer, create_objective, start_model

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.parametrize("model", ["test_resnet", "test_resnet_se", "test_resnet_cbam", "test_resnet_gam"])
def test_graphs_train_as_launches_do(model: str) -> None:
    recipe = Recipe(model=model, start="scratch", epochs=2, warmup_epochs=0, batch_size=8, img_size=64, lr=0.01,
                    amp=True, channels_last=True, workers=0)  # fmt: skip
    device = torch.device("cuda")
    preprocessing = Preprocessing((3, 64, 64), 1.0, "center", "bilinear", (0.5,) * 3, (0.5,) * 3)
    network, _ = start_model(recipe, 5)
    torch.manual_seed(0)
    batches = [
        Batch(torch.randint(0, 256, (8, 3, 64, 64), dtype=torch.uint8), torch.randint(0, 5, (8,))) for _ in range(6)
    ]
    weights = []
    for graphed in (False, True):
        objective = create_objective(copy.deepcopy(network), recipe, 5)
        trainer = Trainer(objective, preprocessing, recipe, World(0, 1, device), 5, len(batches))
        if graphed:
            assert capture_updates(trainer, batches[0])
        assert trainer.train(iter(batches), Position(), StopRequest(), lambda loss: None)
        weights.append(trainer.kept_model.state_dict())
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name].float(), value.float(), rtol=0.05, atol=0.02, msg=name)
