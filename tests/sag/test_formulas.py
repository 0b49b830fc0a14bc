"""The maths of Self-Attention Guidance on plain tensors, against slow float64 references and identities."""

from __future__ import annotations

import math

import comfy.model_sampling as host_sampling
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import sag as reference

from fovea.attention.chunked_softmax import column_sums
from fovea.attention.tensor_layout import as_bias, split_heads
from fovea.guidance.blur import gaussian_blur
from fovea.guidance.sag import formulas
from fovea.guidance.token_pictures import saliency_map

few = settings(max_examples=30, deadline=None)


def peaked_qk(batch: int, heads: int, tokens: int, dim: int = 8, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    q, k = (1.7 * torch.randn(batch, heads, tokens, dim, generator=generator) for _ in range(2))
    return q, k


class TestColumnSums:
    @few
    @given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 40), st.integers(64, 4000))
    def test_equals_the_full_map(self, batch: int, heads: int, tokens: int, chunk_bytes: int) -> None:
        q, k = peaked_qk(batch, heads, tokens)
        fast = column_sums(q, k, chunk_bytes=chunk_bytes)
        slow = torch.stack([reference.saliency(q[b], k[b]) for b in range(batch)])
        assert fast.dtype == torch.float32
        torch.testing.assert_close(fast.double(), slow, rtol=1e-6, atol=1e-6)

    def test_the_references_attention_is_peaked(self) -> None:
        """Otherwise every map would be nearly uniform and a wrong one would pass."""
        q, k = peaked_qk(1, 4, 40)
        weights = reference.attention_map(q[0], k[0])
        entropy = -(weights * weights.log()).sum(-1).mean()
        assert entropy <= 0.8 * math.log(40)

    def test_is_not_symmetric_in_queries_and_keys(self) -> None:
        q, k = peaked_qk(1, 2, 20)
        assert (column_sums(q, k) - column_sums(k, q)).abs().max() > 0.1

    @pytest.mark.parametrize("tokens, keys", [(30, 30), (30, 12), (7, 50)])
    def test_mean_is_queries_over_keys(self, tokens: int, keys: int) -> None:
        q, k = peaked_qk(2, 3, tokens)[0], peaked_qk(2, 3, keys, seed=1)[1]
        torch.testing.assert_close(column_sums(q, k).mean(-1), torch.full((2,), tokens / keys), rtol=1e-6, atol=0)

    def test_float64_is_exact(self) -> None:
        q, k = (t.double() for t in peaked_qk(2, 2, 33))
        slow = torch.stack([reference.saliency(q[b], k[b]) for b in range(2)])
        torch.testing.assert_close(column_sums(q, k, chunk_bytes=700), slow, rtol=1e-13, atol=1e-13)

    def test_half_precision_input_is_summed_in_float32(self) -> None:
        q, k = (t.half() for t in peaked_qk(1, 4, 64))
        torch.testing.assert_close(column_sums(q, k)[0].double(), reference.saliency(q[0], k[0]), rtol=1e-6, atol=1e-6)

    def test_huge_scores_do_not_overflow(self) -> None:
        q, k = peaked_qk(1, 2, 16)
        assert torch.isfinite(column_sums(q * 1e4, k * 1e4)).all()

    def test_scale_mask_and_grouped_keys_follow_the_hosts_attention(self) -> None:
        q, k = peaked_qk(2, 4, 10)
        k = k[:, :2]  # two key heads for four query heads
        keep = torch.rand(2, 10, 10, generator=torch.Generator().manual_seed(3)) > 0.3
        keep[:, :, 0] = True
        one_hot = torch.eye(10).expand(2, 2, 10, 10)  # values that read the attention weights out
        weights = torch.nn.functional.scaled_dot_product_attention(
            q, k, one_hot, attn_mask=keep.unsqueeze(1), scale=0.2, enable_gqa=True
        )
        sums = column_sums(q, k, scale=0.2, bias=as_bias(keep, torch.float32), chunk_bytes=200)
        torch.testing.assert_close(sums, weights.mean(1).sum(1), rtol=1e-5, atol=1e-6)

    def test_both_layouts_of_heads(self) -> None:
        q, _ = peaked_qk(2, 3, 12)
        flat = q.transpose(1, 2).reshape(2, 12, 24)
        assert torch.equal(split_heads(flat, 3, False), q) and split_heads(q, 3, True) is q

    def test_memory_stays_bounded(self) -> None:
        """The largest tensor alive is the chunk, not the [heads, tokens, tokens] map."""
        tokens, largest = 512, 0
        q, k = peaked_qk(1, 4, tokens)

        class Watch(torch.utils._python_dispatch.TorchDispatchMode):
            def __torch_dispatch__(self, func, types, args=(), kwargs=None):
                nonlocal largest
                result = func(*args, **(kwargs or {}))
                if isinstance(result, torch.Tensor):
                    largest = max(largest, result.numel() * result.element_size())
                return result

        with Watch():
            column_sums(q, k, chunk_bytes=64 * 1024)
        assert 0 < largest <= 64 * 1024 < 4 * tokens * tokens * 4


class TestBlur:
    @pytest.mark.parametrize("size", [(1, 1), (1, 7), (2, 3), (5, 4), (9, 8), (20, 13)])
    @pytest.mark.parametrize("sigma", [0.3, 1.0, 2.0, 9.0])
    @pytest.mark.parametrize("kernel_size", [None, 9])
    def test_equals_the_two_dimensional_kernel(
        self, size: tuple[int, int], sigma: float, kernel_size: int | None
    ) -> None:
        picture = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        radius = 4 if kernel_size else math.ceil(3 * sigma)
        slow = reference.gaussian_blur(picture[0], sigma, *(min(radius, s - 1) for s in size))
        torch.testing.assert_close(gaussian_blur(picture, sigma, kernel_size)[0], slow, rtol=1e-12, atol=1e-12)

    def test_sigma_zero_is_the_identity(self) -> None:
        picture = torch.randn(1, 4, 5, 5)
        assert gaussian_blur(picture, 0.0) is picture

    def test_negative_sigma_is_refused(self) -> None:
        with pytest.raises(ValueError, match="negative"):
            gaussian_blur(torch.zeros(1, 4, 5, 5), -1.0)

    def test_nine_taps_cut_a_wide_gaussian_off(self) -> None:
        picture = torch.zeros(1, 1, 65, 65)
        picture[..., 32, 32] = 1
        assert gaussian_blur(picture, 9.0, 9)[..., 32, 37] == 0 < gaussian_blur(picture, 9.0)[..., 32, 37]

    def test_frames_do_not_mix(self) -> None:
        video = torch.randn(2, 4, 3, 6, 7)
        blurred = gaussian_blur(video, 1.5)
        for frame in range(3):
            torch.testing.assert_close(blurred[:, :, frame], gaussian_blur(video[:, :, frame], 1.5))

    @few
    @given(st.integers(1, 12), st.integers(1, 12), st.floats(0.05, 20))
    def test_keeps_constants(self, height: int, width: int, sigma: float) -> None:
        flat = torch.full((1, 2, height, width), 3.25)
        torch.testing.assert_close(gaussian_blur(flat, sigma), flat)


class TestMask:
    saliency = torch.tensor([[0.1, 3.0, 0.4, 1.2, 0.2, 1.1]])  # mean 1

    def test_grid_is_height_by_width(self) -> None:
        picture = saliency_map(self.saliency, (2, 3), (4, 9))
        slow = reference.pixel_mask(self.saliency[0], (2, 3), (4, 9), 1.0)
        mask = formulas.guidance_mask(picture, 1.0, "threshold")
        assert torch.equal(mask[0, 0].double(), slow)
        transposed = formulas.guidance_mask(saliency_map(self.saliency, (3, 2), (4, 9)), 1.0, "threshold")
        assert not torch.equal(mask, transposed)

    @few
    @given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 25), st.integers(1, 25), st.floats(0.1, 2.0))
    def test_equals_the_reference(self, gh: int, gw: int, height: int, width: int, threshold: float) -> None:
        values = torch.rand(1, gh * gw, generator=torch.Generator().manual_seed(gh * 7 + gw)) + 0.05
        if (values / values.mean() - threshold).abs().min() < 1e-4:
            return
        mask = formulas.guidance_mask(saliency_map(values, (gh, gw), (height, width)), threshold, "threshold")
        slow = reference.pixel_mask(values[0].double(), (gh, gw), (height, width), threshold)
        assert torch.equal(mask[0, 0].double(), slow)

    def test_threshold_is_relative_to_the_mean(self) -> None:
        pictures = [saliency_map(self.saliency * factor, (2, 3), (2, 3)) for factor in (1.0, 0.3)]
        assert torch.equal(*(formulas.guidance_mask(p, 1.15, "threshold") for p in pictures))

    def test_soft_is_one_half_at_the_threshold_and_rises(self) -> None:
        mask = formulas.guidance_mask(torch.tensor([0.0, 0.5, 1.3, 2.0, 50.0]), 1.3, "soft")
        assert mask[0] == 0 and mask[2] == pytest.approx(0.5) and mask[-1] > 0.99
        assert bool((mask.diff() > 0).all())

    @pytest.mark.parametrize("mode", ["threshold", "soft"])
    def test_threshold_zero_blurs_everywhere(self, mode: str) -> None:
        assert torch.equal(formulas.guidance_mask(self.saliency, 0.0, mode), torch.ones_like(self.saliency))

    def test_unknown_mode(self) -> None:
        with pytest.raises(ValueError, match="threshold, soft, global"):
            formulas.guidance_mask(self.saliency, 1.0, "hard")

    def test_users_mask_fits_any_latent_and_batch(self) -> None:
        picture = torch.zeros(2, 64, 48)
        picture[0, :, 24:] = 1
        fitted = formulas.fit_mask(picture, 3, (8, 6))
        assert fitted.shape == (3, 1, 8, 6)
        assert fitted[0, 0, :, 3:].min() == 1 and fitted[0, 0, :, :3].max() == 0
        assert fitted[1].max() == 0 and torch.equal(fitted[2], fitted[0])
        assert formulas.fit_mask(torch.ones(2, 3), 1, (8, 8)).shape == (1, 1, 8, 8)


class Settings:
    sampling_settings: dict = {}


def sampling(kind: type, base: type) -> object:
    return type("Sampling", (base, kind), {})(Settings())


DISCRETE, FLOW = host_sampling.ModelSamplingDiscrete, host_sampling.ModelSamplingDiscreteFlow


class TestNoise:
    @pytest.mark.parametrize(
        "kind, base, flow",
        [
            (host_sampling.EPS, DISCRETE, False),
            (host_sampling.V_PREDICTION, DISCRETE, False),
            (host_sampling.EDM, host_sampling.ModelSamplingContinuousEDM, False),
            (host_sampling.V_PREDICTION_DDPM, DISCRETE, False),
            (host_sampling.CONST, FLOW, True),
        ],
    )
    @pytest.mark.parametrize("sigma", [0.05, 0.4, 0.9])
    def test_renoise_keeps_the_predicted_noise(self, kind: type, base: type, flow: bool, sigma: float) -> None:
        """Mixing the degraded estimate with the noise that x and x0 imply gives what ComfyUI's own mixing gives."""
        generator = torch.Generator().manual_seed(0)
        x0, noise, degraded = (torch.randn(2, 4, 5, 6, generator=generator, dtype=torch.float64) for _ in range(3))
        host, sigmas = sampling(kind, base), torch.full((2,), sigma, dtype=torch.float64)
        x = host.noise_scaling(sigmas, noise, x0)
        noisy = formulas.renoise(x, x0, degraded, sigmas, host.noise_scaling)
        torch.testing.assert_close(noisy, host.noise_scaling(sigmas, noise, degraded), rtol=1e-12, atol=1e-12)
        slow = reference.mix(degraded, reference.noise_of(x, x0, sigma, flow), sigma, flow)
        torch.testing.assert_close(noisy, slow, rtol=1e-10, atol=1e-10)

    @pytest.mark.parametrize("flow", [False, True])
    def test_x0_guidance_equals_noise_guidance(self, flow: bool) -> None:
        generator = torch.Generator().manual_seed(0)
        x, cfg, branch, degraded, predicted = (
            torch.randn(1, 4, 6, 6, generator=generator, dtype=torch.float64) for _ in range(5)
        )
        slow = reference.guide(x, cfg, branch, degraded, lambda _: predicted, 0.6, 0.75, flow)
        fast = cfg + 0.75 * formulas.guidance_term(degraded, predicted)
        torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-10)


class TestResult:
    def test_rescale(self) -> None:
        generator = torch.Generator().manual_seed(0)
        plain, guided = torch.randn(2, 4, 8, 8, generator=generator), 3 * torch.randn(2, 4, 8, 8, generator=generator)
        assert formulas.rescale(guided, plain, 0.0) is guided
        full = formulas.rescale(guided, plain, 1.0)
        torch.testing.assert_close(full.flatten(1).std(1), plain.flatten(1).std(1))
        torch.testing.assert_close(formulas.rescale(guided, plain, 0.5), (full + guided) / 2)

    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    def test_broken_samples_lose_their_guidance_alone(self, bad: float) -> None:
        term = torch.ones(3, 4, 5, 5)
        term[1, 2, 3, 4] = bad
        clean, broken = formulas.drop_nonfinite_samples(term)
        assert broken == 1 and clean[1].abs().max() == 0 and clean[[0, 2]].min() == 1
        whole, none = formulas.drop_nonfinite_samples(clean)
        assert none == 0 and whole is clean
