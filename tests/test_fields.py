"""Networks that answer at positions: their features repeat, their parameters are their weights."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from protoscene.fields import LEAK, Field, ModulatedField, position_features


def test_features_repeat_with_the_period_and_with_no_less() -> None:
    x = torch.rand(50, 3, dtype=torch.float64)
    features = position_features(x, 3, period=0.5)
    assert features.shape == (50, 18)
    torch.testing.assert_close(position_features(x + 0.5, 3, period=0.5), features)
    assert (position_features(x + 0.25, 3, period=0.5) - features).abs().max() > 0.1


def test_features_are_sines_and_cosines_of_doubled_frequencies() -> None:
    x = torch.tensor([[0.3]], dtype=torch.float64)
    angles = 2 * torch.pi * 0.3 * torch.tensor([1, 2, 4], dtype=torch.float64)
    expected = torch.cat([angles.sin(), angles.cos()])[None]
    torch.testing.assert_close(position_features(x, 3, period=1.0), expected)


def test_parameters_are_a_network_of_ones_own() -> None:
    """What is meant: each point has its own weights diag(1 + s) W and biases (1 + s) b + t."""
    torch.manual_seed(0)
    field = ModulatedField(inputs=5, width=4, depth=3, channels=2).double()
    inputs, parameters = torch.randn(6, 5).double(), torch.randn(6, field.n_parameters).double()
    answers = field(inputs, parameters)
    assert answers.shape == (6, 2)
    for point, own, answer in zip(inputs, parameters, answers, strict=True):
        h = point
        for layer, (scale, shift) in zip(field.hidden, own.reshape(3, 2, 4), strict=True):
            weight = torch.diag(1 + scale) @ layer.weight
            h = F.leaky_relu(weight @ h + (1 + scale) * layer.bias + shift, LEAK)
        torch.testing.assert_close(answer, field.out.weight @ h + field.out.bias)


def test_one_network_answers_at_many_points() -> None:
    torch.manual_seed(2)
    field = ModulatedField(inputs=3, width=4)
    inputs, parameters = torch.randn(2, 7, 3), torch.randn(2, 1, field.n_parameters)
    each = field(inputs[1], parameters[1].expand(7, -1))
    torch.testing.assert_close(field(inputs, parameters)[1], each)


def test_gradients_reach_inputs_and_parameters() -> None:
    torch.manual_seed(1)
    field = ModulatedField(inputs=3, width=4).double()
    inputs = torch.randn(3, 3).double().requires_grad_()
    parameters = torch.randn(3, field.n_parameters).double().requires_grad_()
    assert torch.autograd.gradcheck(field, (inputs, parameters))


def test_the_same_seed_is_the_same_field_and_leaves_the_global_one_alone() -> None:
    points = torch.rand(9, 3)
    torch.manual_seed(7)
    first = torch.rand(1)
    torch.manual_seed(7)
    fields = [Field(seed=seed) for seed in (3, 3, 4)]
    assert torch.equal(torch.rand(1), first)
    one, same, other = (field(points) for field in fields)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("octaves", [0, 5])
def test_high_frequencies_fit_what_low_ones_cannot(octaves: int) -> None:
    x = torch.linspace(-1, 1, 128)[:, None] * torch.tensor([[1.0, 0.3, -0.7]])
    truth = ((x[:, 0] * 16).floor() % 2).float()
    field = Field(octaves=octaves, width=32, depth=2)
    optimiser = torch.optim.Adam(field.parameters(), lr=1e-2)
    for _ in range(150):
        loss = F.binary_cross_entropy_with_logits(field(x)[:, 3], truth)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert (loss.item() < 0.1) == (octaves == 5)
