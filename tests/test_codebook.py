"""Vectors become codes: the nearest, the mean of what chose it; unused ones are reborn."""

from __future__ import annotations

import math

import pytest
import torch

from protoscene.codebook import Codebook, perplexity

CODES = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]])


def test_the_nearest_code_stands_for_a_vector_and_gradients_pass() -> None:
    vectors = torch.tensor([[0.5, 0.2], [3.0, 1.0]], requires_grad=True)
    codes, which = Codebook(CODES)(vectors)
    torch.testing.assert_close(codes.detach(), CODES[:2])
    assert which.tolist() == [0, 1]
    (codes * torch.tensor([[1.0, 2.0], [3.0, 4.0]])).sum().backward()
    torch.testing.assert_close(vectors.grad, torch.tensor([[1.0, 2.0], [3.0, 4.0]]))


def test_codes_go_to_the_means_of_what_chooses_them() -> None:
    random = torch.Generator().manual_seed(0)
    book, middles = Codebook(CODES), CODES + torch.tensor([0.5, -0.7])
    for _ in range(300):
        vectors = middles.repeat(20, 1) + 0.05 * torch.randn(60, 2, generator=random)
        book.update(vectors, book.nearest(vectors))
    torch.testing.assert_close(book.codes, middles, atol=0.02, rtol=0)
    torch.testing.assert_close(book.counts, torch.ones(3), atol=1e-3, rtol=0)


def test_a_code_that_nobody_chooses_stays_until_it_is_reborn_as_a_vector() -> None:
    random = torch.Generator().manual_seed(1)
    book, vectors = Codebook(CODES), torch.randn(50, 2, generator=random)
    far = torch.tensor([[100.0, 100.0]])
    book.codes[2], book.sums[2] = far, far
    for _ in range(60):
        book.update(vectors, book.nearest(vectors))
    torch.testing.assert_close(book.codes[2:], far, rtol=1e-3, atol=0)
    assert book.restart(vectors, random) >= 1
    assert (vectors == book.codes[2]).all(dim=1).any()
    assert book.restart(vectors, random) == 0


def test_perplexity_counts_codes_in_even_use() -> None:
    assert perplexity(torch.arange(8), 8) == pytest.approx(8)
    assert perplexity(torch.zeros(5, dtype=torch.long), 8) == pytest.approx(1)
    uneven = torch.tensor([0, 0, 0, 1])
    expected = math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert perplexity(uneven, 2) == pytest.approx(expected)
