"""The trees that are measured are those of the models that they are named after."""

import jax
import pytest

from tests import trees


@pytest.mark.parametrize(
    ("tree", "leaves", "parameters"),
    [
        (trees.gpt2(), 148, 124_439_808),  # Hugging Face gpt2
        (trees.vit_b16(), 152, 86_567_656),  # torchvision vit_b_16
        (trees.resnet50(), 161, 25_557_032),  # torchvision resnet50
        (trees.small(1000), 1000, 256_000),
        (trees.one_large(10**8), 1, 10**8),
    ],
    ids=["gpt2", "vit_b16", "resnet50", "small", "one_large"],
)
def test_trees_have_the_size_of_their_models(tree, leaves, parameters):
    assert len(jax.tree.leaves(tree)) == leaves
    assert sum(x.size for x in jax.tree.leaves(tree)) == parameters
