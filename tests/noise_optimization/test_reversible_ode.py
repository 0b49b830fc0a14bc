"""Gradients through sampling against autograd's own through the whole run; EDICT's round trip at every precision."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fovea.guidance.noise_optimization import reversible_ode
from fovea.guidance.noise_optimization.reversible_ode import Pair, Schedule

SIZE = 64


def network(seed: int = 0, dtype: torch.dtype = torch.float64) -> Callable[[Tensor, float], Tensor]:
    """A smooth nonlinear eps of x at sigma, as x0."""
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(SIZE, SIZE, generator=generator, dtype=torch.float64) / SIZE**0.5 for _ in range(2))
    a, b = a.to(dtype), b.to(dtype)

    def denoise(x: Tensor, sigma: float) -> Tensor:
        direction = torch.tanh((x.to(dtype) / (1 + sigma**2) ** 0.5) @ a) @ b
        return x - sigma * direction.to(x.dtype)

    return denoise


def schedule(steps: int) -> Schedule:
    """Stable Diffusion's, as DDIM spaces it, to 0."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alphas = torch.cumprod(1 - betas, 0)
    sigmas = ((1 - alphas) / alphas).sqrt()
    found = (*(float(sigmas[i]) for i in range(1000 - 1000 // steps, -1, -(1000 // steps))), 0.0)
    return Schedule(found, tuple((1 + sigma**2) ** -0.5 for sigma in found))


def whole_graph(denoise: Callable, sigmas: tuple[float, ...], start: Tensor) -> Tensor:
    for sigma, after in zip(sigmas, sigmas[1:]):
        start = start + (after - sigma) * (start - denoise(start, sigma)) / sigma
    return start


def whole_edict(denoise: Callable, sigmas: tuple[float, ...], x: Tensor, y: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """EDICT as its authors have it, in DDIM's own scaling: x is a * x_host with a = sqrt(alpha)."""
    scale = lambda sigma: (1 + sigma**2) ** -0.5  # noqa: E731
    x, y = x * scale(sigmas[0]), y * scale(sigmas[0])
    for i, (sigma, after) in enumerate(zip(sigmas, sigmas[1:])):
        now, then = scale(sigma), scale(after)
        a = then / now
        b = (1 - then**2) ** 0.5 - a * (1 - now**2) ** 0.5
        noise = lambda z, sigma=sigma, now=now: (z / now - denoise(z / now, sigma)) / sigma  # noqa: E731
        pair = [x, y]
        first = i % 2  # who is denoised first alternates; mixed is latent 0 first, always
        for at in (first, 1 - first):
            pair[at] = a * pair[at] + b * noise(pair[1 - at])
        x = p * pair[0] + (1 - p) * pair[1]
        y = p * pair[1] + (1 - p) * x
    return x, y  # at sigma 0 both scalings agree


def start(seed: int = 0, dtype: torch.dtype = torch.float64, sigma: float = 14.6) -> Tensor:
    return (torch.randn(3, SIZE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * sigma).to(dtype)


@pytest.mark.parametrize("through", [0, 1, 3, 7, 9])
def test_gradient_through_the_last_steps_only(through: int) -> None:
    """Autograd through a run whose earlier steps take their directions as given."""
    denoise, times, weight = network(), schedule(7), start(9)
    leaf = x = start().requires_grad_()
    for i, (sigma, after) in enumerate(zip(times.sigmas, times.sigmas[1:])):
        direction = (x - denoise(x, sigma)) / sigma
        x = x + (after - sigma) * (direction if i >= times.steps - through else direction.detach())
    (wanted,) = torch.autograd.grad((x**2 * weight).sum(), leaf)
    states = reversible_ode.euler(denoise, times, start())
    got = reversible_ode.euler_gradient(denoise, times, states, 2 * states[-1] * weight, through)
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("steps", [1, 2, 7, 20])
def test_euler_gradient_is_the_whole_graphs(steps: int) -> None:
    denoise, times, weight = network(), schedule(steps), start(9)
    leaf = start().requires_grad_()
    end = whole_graph(denoise, times.sigmas, leaf)
    (wanted,) = torch.autograd.grad((end**2 * weight).sum(), leaf)
    states = reversible_ode.euler(denoise, times, start())
    torch.testing.assert_close(states[-1], end.detach(), rtol=1e-12, atol=1e-12)
    got = reversible_ode.euler_gradient(denoise, times, states, 2 * states[-1] * weight)
    torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-10 * float(wanted.abs().max()))


@pytest.mark.parametrize("mix", [0.93, 0.6, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 7, 20])
def test_edict_gradient_is_the_whole_graphs(steps: int, mix: float) -> None:
    denoise, times = network(), schedule(steps)
    x, y = start(1).requires_grad_(), start(2).requires_grad_()
    end = whole_edict(denoise, times.sigmas, x, y, mix)
    loss = (end[0] ** 2 * start(3) + end[1].sin() * start(4)).sum()
    wanted = torch.autograd.grad(loss, (x, y))
    got_end = reversible_ode.edict(denoise, times, Pair(start(1), start(2)), mix)
    for got, expected in zip(got_end, end):
        torch.testing.assert_close(got, expected.detach(), rtol=1e-10, atol=1e-10)
    gradient = Pair(2 * got_end.x * start(3), got_end.y.cos() * start(4))
    began, found = reversible_ode.edict_gradient(denoise, times, got_end, gradient, mix)
    tolerance = 1e-8 if mix >= 0.9 else 1e-5  # the inverse divides by mix^2 per step
    for got, expected in zip(found, wanted):
        assert (got - expected).norm() < tolerance * expected.norm()
    for got, expected in zip(began, (start(1), start(2))):
        assert (got - expected).norm() < tolerance * expected.norm()


def test_the_way_back_needs_nothing_but_the_end() -> None:
    """Every tensor of the forward run is overwritten before the way back."""
    times, seen = schedule(12), []
    plain = network()

    def denoise(x: Tensor, sigma: float) -> Tensor:
        seen.append(x)
        return plain(x, sigma)

    pair = Pair(start(1), start(2))
    end = reversible_ode.edict(denoise, times, pair)
    kept = Pair(end.x.clone(), end.y.clone())
    gradient = Pair(torch.ones_like(end.x), torch.ones_like(end.y))
    wanted = reversible_ode.edict_gradient(plain, times, kept, gradient)
    assert len(seen) == 24
    for tensor in (*seen, *pair, *end):
        tensor.fill_(float("nan"))
    got = reversible_ode.edict_gradient(plain, times, kept, gradient)
    for a, b in zip((*got[0], *got[1]), (*wanted[0], *wanted[1])):
        assert torch.equal(a, b) and torch.isfinite(a).all()


def test_evaluations() -> None:
    """One per step and way for Euler, two for EDICT: undoing a step and its gradient share theirs."""
    count = [0]
    plain = network()

    def denoise(x: Tensor, sigma: float) -> Tensor:
        count[0] += 1
        return plain(x, sigma)

    times = schedule(10)
    states = reversible_ode.euler(denoise, times, start())
    reversible_ode.euler_gradient(denoise, times, states, states[-1])
    assert count == [20]
    end = reversible_ode.edict(denoise, times, Pair(start(), start()))
    reversible_ode.edict_gradient(denoise, times, end, end)
    assert count == [20 + 40]


@pytest.mark.parametrize(
    "dtype, steps, low, high",
    [
        (torch.float64, 50, 0, 1e-11), (torch.float32, 50, 1e-8, 1e-3), (torch.float32, 20, 1e-9, 1e-4),
        (torch.float16, 50, 1e-3, 1.0), (torch.bfloat16, 50, 1e-2, 10.0),
    ],
)  # fmt: skip
def test_round_trip(dtype: torch.dtype, steps: int, low: float, high: float) -> None:
    """Rounding grows by 1 / mix^2 per step on the way back: latents in half precision do not come home."""
    denoise, times = network(), schedule(steps)
    end = reversible_ode.edict(denoise, times, Pair(start(1, dtype), start(1, dtype)))
    began = reversible_ode.edict_inverse(denoise, times, end)
    error = float((began.x.double() - start(1)).norm() / start(1).norm())
    assert low <= error < high


def test_the_gap_between_the_latents_shrinks_by_the_square_of_mix() -> None:
    """With directions that do not depend on x: the algebra behind the loss of precision."""
    constant = lambda x, sigma: x - sigma * torch.ones_like(x)  # noqa: E731
    begun = Pair(start(1), start(2))
    end = reversible_ode.edict(constant, Schedule((3.0, 2.0), (1.0, 1.0)), begun, 0.9)
    torch.testing.assert_close(end.x - end.y, 0.81 * (begun.x - begun.y))
