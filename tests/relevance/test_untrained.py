"""Before a single step, relevance already tells what is written from the ground it stands on.

It cannot tell which digit is asked for: no closed form relates the word "red" to the colour, so the
participatory score starts at 0.5 everywhere (tests/relevance/test_knowing.py).
"""

import numpy as np
import pytest
import torch

from lightning_arrcoc.data.digits import DigitQuestions
from lightning_arrcoc.relevance import CELL_PX, TextureGenerator, build_realizer
from lightning_arrcoc.relevance.baselines import oracle_map

CANVASES = 24
QUERY, MASK = torch.randn(1, 4, 8), torch.ones(1, 4, dtype=torch.bool)


def outranks(higher, lower):
    """Share of pairs in which the first is above the second: the area under the ROC curve."""
    difference = higher[:, None] - lower[None]
    return ((difference > 0).float() + 0.5 * (difference == 0).float()).mean().item()


@pytest.fixture(params=["core", "full"])
def relevance(request):
    torch.manual_seed(0)
    realizer = build_realizer(8, texture=TextureGenerator(request.param))

    def of(image):
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255
        return realizer(pixels, QUERY, MASK).relevance_logit[0].detach()

    return of


def test_the_asked_digits_cells_outrank_the_background(relevance):
    """Cells that hold a tenth of a digit's box or more, against cells that hold nothing."""
    questions = DigitQuestions("val", CANVASES, families=["count"])  # evidence: every digit
    shares = []
    for i in range(CANVASES):
        sample = questions[i]
        width, height = (side // CELL_PX for side in sample.images[0].size)
        boxes = [tuple(side / CELL_PX for side in box) for box in sample.evidence]
        written = oracle_map(boxes, height, width)
        found = relevance(sample.images[0])
        shares.append(outranks(found[written > 0.1], found[written < 0.01]))
    assert np.mean(shares) > 0.9
