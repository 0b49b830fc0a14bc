"""The hooks in a real model: what they see, that they change nothing by looking, that nothing stays behind."""

from __future__ import annotations

import gc
import math
import uuid
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import comfy.ldm.modules.attention as host_attention
import comfy.model_management
import comfy.multigpu
import pytest
import tiny_models as tiny
import torch
from reference import sag as reference

from fovea.attention import block_names as naming
from fovea.attention import hooks
from fovea.attention.conds import Row, RowKey, Window
from fovea.attention.families import registry
from fovea.attention.recorders import SaliencyRecorder
from fovea.attention.run import AttentionCall, Record, Run
from fovea.attention.sites import BlockId
from fovea.attention.tensor_layout import split_heads

MIDDLE = BlockId("middle", 0, 0)


@dataclass(frozen=True, eq=False)
class Probe:
    """A technique that looks at every attention call; optionally multiplies the attention result of some rows."""

    kinds: frozenset[str] = frozenset({"self", "cross"})
    blocks: frozenset[BlockId] | None = None
    factor: float = 1.0
    index: int = 0
    reads: bool = False
    calls: list[AttentionCall] = field(default_factory=list, repr=False)
    rows: list[tuple[Row, ...]] = field(default_factory=list, repr=False)
    degraded: list[str | None] = field(default_factory=list, repr=False)
    runs: list[weakref.ref] = field(default_factory=list, repr=False)

    def begin(self, run: Run) -> Sequence[Any]:
        if not self.runs or self.runs[-1]() is not run:
            self.runs.append(weakref.ref(run))
        return (self,)

    def wants(self, run: Run, rows: tuple[Row, ...], degraded: str | None) -> bool:
        self.rows.append(rows)
        self.degraded.append(degraded)
        return True

    def attend(self, call: AttentionCall, attention: Any) -> torch.Tensor:
        self.calls.append(call)
        result = attention(call.q, call.k, call.v)
        for row in call.rows if self.factor != 1 else ():
            if row.index == self.index:
                result[row.start : row.stop] *= self.factor
        return result


@dataclass(frozen=True, eq=False)
class Recording:
    """A technique that records saliency and keeps what it found."""

    blocks: frozenset[BlockId] = frozenset({MIDDLE})
    found: list = field(default_factory=list, repr=False)

    def begin(self, run: Run) -> Sequence[Any]:
        return (SaliencyRecorder(self.blocks),)

    def post_cfg(self, args: dict[str, Any]) -> torch.Tensor:
        run = hooks.run_of(args["model_options"])
        for name in ("cond", "uncond"):
            conds = args[name] or ()
            for position in range(len(conds)):
                for block in sorted(self.blocks):
                    for _, record in run.records(block, conds, position):
                        self.found.append((name, position, block, record))
        return args["denoised"]


def probed(model: Any, **settings: Any) -> tuple[Any, Probe]:
    patched, probe = model.clone(), Probe(**settings)
    hooks.install(patched, probe)
    return patched, probe


def recorded(model: Any, **settings: Any) -> tuple[Any, Recording]:
    patched, recording = model.clone(), Recording(**settings)
    hooks.install(patched, recording)
    patched.set_model_sampler_post_cfg_function(recording.post_cfg)
    return patched, recording


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny.unet("sd15")


@pytest.fixture(scope="module")
def sdxl() -> Any:
    return tiny.unet("sdxl")


class TestWhatIsSeen:
    @pytest.mark.parametrize("size", [(64, 64), (33, 60), (65, 65), (56, 88), (9, 8), (8, 9)])
    def test_every_call_of_the_unet_with_its_true_grid(self, model: Any, size: tuple[int, int]) -> None:
        """56x88 has 7x11 = 77 tokens in the middle block, as many as the text: lengths prove nothing."""
        patched, probe = probed(model)
        tiny.sample(patched, tiny.noise(*size), steps=1)
        grids = [size]
        for _ in range(3):
            grids.append(tuple(math.ceil(n / 2) for n in grids[-1]))
        expected = [("input", 5, 2), ("middle", 0, 3), ("output", 2, 2), ("output", 3, 2)]
        seen = [(c.site.block, c.site.kind, c.site.grid, c.site.text_tokens) for c in probe.calls]
        assert seen == [
            (BlockId(section, number, 0), kind, grids[level], 77 if kind == "cross" else 0)
            for section, number, level in expected
            for kind in ("self", "cross")
        ]
        assert [tuple(c.latent_size) for c in probe.calls] == [size] * 8

    def test_layers_of_sdxl(self, sdxl: Any) -> None:
        patched, probe = probed(sdxl, kinds=frozenset({"self"}))
        tiny.sample(patched, tiny.noise(16, 24), steps=1)
        blocks = registry.UNetFamily().blocks(sdxl.model.diffusion_model)
        assert [c.site.block for c in probe.calls] == list(blocks)
        assert {b.layer for b in blocks if b.section == "middle"} == {0, 1, 2}

    def test_rows_tell_whose_they_are(self, model: Any) -> None:
        patched, probe = probed(model, kinds=frozenset({"self"}), blocks=frozenset({MIDDLE}))
        marked = tiny.prompt(1, fovea_test="mine", other="theirs")
        tiny.sample(patched, tiny.noise(16, 16, batch=2), positive=marked, steps=1)
        (call,) = probe.calls
        by_index = {row.index: row for row in call.rows}
        assert set(by_index) == {0, 1} and call.q.shape[0] == 4
        assert dict(by_index[0].marks) == {"fovea_test": "mine"} and not by_index[1].marks
        assert sorted((r.start, r.stop) for r in call.rows) == [(0, 2), (2, 4)]

    def test_a_copied_area_cond_is_told_from_the_original(self, model: Any) -> None:
        """ComfyUI copies a positive area cond, uuid and all, into the negative list, with the negative's prompt."""
        patched, probe = probed(model, kinds=frozenset({"cross"}), blocks=frozenset({MIDDLE}))
        area = tiny.prompt(3, area=(16, 8, 0, 4), fovea_test=1)
        tiny.sample(patched, tiny.noise(16, 16), positive=tiny.prompt(1) + area, steps=1)
        rows = [row for call in probe.calls for row in call.rows if row.area]
        assert {row.area for row in rows} == {(16, 8, 0, 4)} and sorted(row.index for row in rows) == [0, 1]
        assert len({row.uuid for row in rows}) == 1 and len({row.key for row in rows}) == 2
        assert all(row.marks for row in rows)

    def test_modulating_one_prompts_rows_leaves_the_other_alone(self, model: Any) -> None:
        x, results = tiny.noise(16, 16), {}
        for index in (None, 0, 1):
            patched, _ = probed(model, factor=1.0 if index is None else 1.5, index=index or 0)
            with tiny.watching(model) as calls:
                tiny.sample(patched, x, steps=1)
            results[index] = dict(zip(calls[0]["chunks"], calls[0]["output"]))
        for index in (0, 1):
            assert torch.equal(results[index][1 - index], results[None][1 - index])
            assert (results[index][index] - results[None][index]).abs().max() > 1e-3


class TestLookingChangesNothing:
    @pytest.mark.parametrize("kind", ["sd15", "sd2", "sdxl", "shallow"])
    @pytest.mark.parametrize("cfg", [1.0, 5.0])
    def test_bit_identical_and_no_more_evaluations(self, kind: str, cfg: float) -> None:
        model, x = tiny.unet(kind), tiny.noise(24, 16, batch=2)
        with tiny.watching(model) as plain:
            expected = tiny.sample(model, x, cfg)
        patched, recording = recorded(model)
        with tiny.watching(model) as calls:
            assert torch.equal(tiny.sample(patched, x, cfg), expected)
        assert [c["chunks"] for c in calls] == [c["chunks"] for c in plain]
        assert len(recording.found) == 3 * (1 if cfg == 1 else 2)

    def test_the_original_model_stays_as_it_is(self, model: Any) -> None:
        before = repr((model.model_options, model.wrappers, model.callbacks, model.object_patches))
        patched, _ = recorded(model)
        second, _ = recorded(patched)
        assert repr((model.model_options, model.wrappers, model.callbacks, model.object_patches)) == before
        assert len(patched.model_options["transformer_options"][hooks.TECHNIQUES]) == 1
        assert len(second.model_options["transformer_options"][hooks.TECHNIQUES]) == 2
        assert all(len(w[hooks.KEY]) == 1 for w in second.wrappers.values())


class TestSaliency:
    @pytest.mark.parametrize("size", [(64, 64), (33, 60), (65, 65), (56, 88), (9, 8)])
    def test_equals_the_full_map_of_each_prompt_and_sample(self, model: Any, size: tuple[int, int]) -> None:
        patched, recording = recorded(model)
        with tiny.watching(model) as calls:
            tiny.sample(patched, tiny.noise(*size, batch=2), steps=1)
        (call,) = calls
        tokens = call["q"].shape[1]
        for name, position, _, record in recording.found:
            chunk = call["chunks"].index({"cond": 0, "uncond": 1}[name])
            assert position == 0 and record.latent_size == size and math.prod(record.grid) == tokens
            for sample in range(2):
                row = 2 * chunk + sample
                q, k = (split_heads(call[n][row : row + 1], 4, False)[0] for n in "qk")
                slow = reference.saliency(q, k)
                torch.testing.assert_close(record.values[sample].double(), slow, rtol=1e-6, atol=1e-6)
                assert 0.05 <= (slow > 1).float().mean() <= 0.95
                weights = reference.attention_map(q, k)
                assert -(weights * weights.log().clamp_min(-700)).sum(-1).mean() <= 0.8 * math.log(tokens)
        values = {name: record.values for name, _, _, record in recording.found}
        assert (values["cond"] - values["uncond"]).abs().max() > 1e-3  # swapped prompts would be noticed

    def test_foreign_replacement_of_the_attention_is_read_too(self, model: Any) -> None:
        """Another node's attn1 replacement hides the override; its q and k are recorded all the same."""
        called = []

        def replacement(q: Any, k: Any, v: Any, extra_options: dict) -> torch.Tensor:
            called.append(extra_options["block"])
            return host_attention.optimized_attention(
                q, k, v, extra_options["n_heads"], transformer_options=extra_options
            )

        x, foreign = tiny.noise(16, 16), model.clone()
        foreign.set_model_attn1_replace(replacement, "middle", 0)
        plain, recording = recorded(model)
        replaced, second = recorded(foreign)
        assert torch.equal(tiny.sample(plain, x), tiny.sample(replaced, x)) and set(called) == {("middle", 0)}
        assert len(recording.found) == len(second.found) == 6
        for (*_, first), (*_, again) in zip(recording.found, second.found):
            assert torch.equal(first.values, again.values)

    @pytest.mark.parametrize("ours_first", [True, False])
    def test_an_existing_override_is_chained(self, model: Any, ours_first: bool) -> None:
        called = []

        def override(func: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
            called.append(kwargs["transformer_options"]["block"])
            return func(*args, **kwargs)

        def other_node(before: Any) -> Any:
            after = before.clone()
            after.model_options["transformer_options"]["optimized_attention_override"] = override
            return after

        if ours_first:
            patched, recording = recorded(model)
            patched = other_node(patched)
        else:
            patched, recording = recorded(other_node(model))
        x = tiny.noise(16, 16)
        assert torch.equal(tiny.sample(patched, x), tiny.sample(model, x))
        assert len(called) == 3 * 8 and len(recording.found) == 6

    def test_split_calls_equal_one_batch(self, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        patched, together = recorded(model)
        tiny.sample(patched, tiny.noise(16, 16, batch=3), steps=1)
        patched, apart = recorded(model)
        monkeypatch.setattr(model.model, "memory_required", lambda *a, **k: 1e30)  # ComfyUI then splits the batch
        with tiny.watching(model) as calls:
            tiny.sample(patched, tiny.noise(16, 16, batch=3), steps=1)
        assert sorted(c["chunks"] for c in calls) == [[0], [1]]
        for (name, *_, first), (again, *_, second) in zip(together.found, apart.found):
            assert name == again
            torch.testing.assert_close(first.values, second.values, rtol=1e-5, atol=1e-5)

    def test_merged_tokens_are_not_taken_for_the_grid(self, model: Any) -> None:
        """Token merging leaves fewer tokens than the grid has: no record rather than a wrong one."""
        merging = model.clone()
        merging.set_model_attn1_patch(lambda n, context, value, extra: (n, context[:, ::2], value[:, ::2]))
        patched, recording = recorded(merging)
        tiny.sample(patched, tiny.noise(16, 16), steps=1)
        assert recording.found == []


class TestRun:
    def test_nothing_is_left_after_a_run(self, model: Any) -> None:
        patched, probe = probed(model)
        before = repr(patched.model_options)
        tiny.sample(patched, tiny.noise(16, 16), steps=2)
        gc.collect()
        assert len(probe.runs) == 1
        probe.calls.clear()
        assert probe.runs[0]() is None and repr(patched.model_options) == before

    @pytest.mark.parametrize("error", [comfy.model_management.InterruptProcessingException, RuntimeError])
    def test_nothing_is_left_after_a_cancel_or_an_error(self, model: Any, error: type[BaseException]) -> None:
        patched, probe = probed(model)
        before, x = repr(patched.model_options), tiny.noise(16, 16)

        def stop(step: int, *_: Any) -> None:
            if step == 1:
                raise error("stop")

        with pytest.raises(error):
            tiny.sample(patched, x, callback=stop)
        probe.calls.clear()
        gc.collect()
        assert probe.runs[0]() is None and repr(patched.model_options) == before
        assert torch.equal(tiny.sample(patched, x), tiny.sample(model, x))

    def test_workers_of_a_multi_device_run(self, model: Any) -> None:
        """Positive and negative prompt evaluated by two threads at once, as ComfyUI does with two GPUs."""
        x = tiny.noise(16, 24, batch=2)
        patched, single = recorded(model)
        expected = tiny.sample(patched, x)
        patched, double = recorded(model)
        twin = tiny.unet("sd15")
        devices = {torch.device("cpu"): patched, torch.device("cpu", 0): twin}
        twin.model.current_patcher = twin
        pool = comfy.multigpu.MultiGPUThreadPool(list(devices))
        patched.model_options.update(multigpu_clones=devices, multigpu_thread_pool=pool)
        with tiny.watching(twin) as calls:
            result = tiny.sample(patched, x)
        assert [len(c["chunks"]) for c in calls] == [1, 1, 1]
        torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-3)
        assert len(single.found) == len(double.found) == 6
        for (name, *_, first), (again, *_, second) in zip(single.found, double.found):
            assert name == again
            torch.testing.assert_close(first.values, second.values, rtol=1e-4, atol=1e-4)

    def test_a_degraded_pass_has_its_own_stable_uuids_and_its_flag(self, model: Any) -> None:
        patched, probe = probed(model, kinds=frozenset({"self"}), blocks=frozenset({MIDDLE}))
        seen: list[tuple] = []

        def post_cfg(args: dict[str, Any]) -> torch.Tensor:
            run = hooks.run_of(args["model_options"])
            options = args["model_options"]
            for name in ("cond", "uncond"):
                again = hooks.degraded_pass(run, args[name], args["input"], args["sigma"], options, run, "test")
                torch.testing.assert_close(again, args[f"{name}_denoised"], rtol=1e-4, atol=1e-4)
            seen.append((args["cond"][0]["uuid"], args["uncond"][0]["uuid"]))
            return args["denoised"]

        patched.set_model_sampler_post_cfg_function(post_cfg)
        with tiny.watching(model) as calls:
            tiny.sample(patched, tiny.noise(16, 16), positive=tiny.prompt(1, fovea_test=1), steps=2)
        assert [c["chunks"] for c in calls] == [[1, 0], [0], [1]] * 2  # each keeps its place in ComfyUI's call
        assert [c["options"].get(hooks.DEGRADED) for c in calls] == [None, "test", "test"] * 2
        assert probe.degraded == [None, "test", "test"] * 2
        assert calls[1]["uuids"] == calls[4]["uuids"] and calls[2]["uuids"] == calls[5]["uuids"]
        assert not {*calls[1]["uuids"], *calls[2]["uuids"]} & {uid for pair in seen for uid in pair}
        assert [bool(row.marks) for rows in probe.rows[1:3] for row in rows] == [True, False]


class TestFamilies:
    def test_blocks_and_names(self, model: Any, sdxl: Any) -> None:
        unet = registry.family_of(model.model.diffusion_model)
        blocks = unet.blocks(model.model.diffusion_model)
        assert [naming.block_name(b) for b in blocks] == ["input.5", "middle", "output.2", "output.3"]
        assert unet.default_blocks(model.model.diffusion_model) == {MIDDLE}
        large = sdxl.model.diffusion_model
        text = naming.describe_blocks(unet.blocks(large))
        assert "middle (layers middle.0 to middle.2)" in text and "input.3," in text

    @pytest.mark.parametrize(
        "text, expected",
        [
            ("auto", {("middle", 0, 0)}),
            (" ", {("middle", 0, 0)}),
            ("middle", {("middle", 0, 0)}),
            ("Middle.2", {("middle", 0, 2)}),
            ("middle.*", {("middle", 0, 0), ("middle", 0, 1), ("middle", 0, 2)}),
            ("input.3, output.1.1,", {("input", 3, 0), ("output", 1, 1)}),
        ],
    )
    def test_grammar(self, sdxl: Any, text: str, expected: set) -> None:
        network = sdxl.model.diffusion_model
        unet = registry.family_of(network)
        assert naming.parse_blocks(text, unet.blocks(network), unet.default_blocks(network)) == expected

    @pytest.mark.parametrize("text", ["input.0", "middle.7", "double.3", "input", "auto, nowhere"])
    def test_unknown_block_lists_the_valid_ones(self, sdxl: Any, text: str) -> None:
        network = sdxl.model.diffusion_model
        unet = registry.family_of(network)
        with pytest.raises(ValueError, match=r"Unknown block .*input\.3.*middle"):
            naming.parse_blocks(text, unet.blocks(network), unet.default_blocks(network))

    def test_without_a_middle_transformer_auto_is_the_deepest_block(self) -> None:
        network = tiny.unet("sd15", transformer_depth_middle=0).model.diffusion_model
        assert registry.family_of(network).default_blocks(network) == {BlockId("input", 5, 0)}

    def test_unknown_networks_have_no_family(self) -> None:
        assert registry.family_of(tiny.pixart().model.diffusion_model) is None
        assert registry.family_of(torch.nn.Linear(1, 1)) is None


def test_a_patch_of_ours_that_is_called_without_our_key_does_nothing() -> None:
    from fovea.attention.families import unet

    tensors = (torch.zeros(1), torch.ones(1), torch.ones(1))
    assert unet._announce_self(*tensors, {}) == tensors and unet._announce_cross(*tensors, {}) == tensors


def test_records_of_moving_windows_do_not_pile_up() -> None:
    """Of every cond and block the last step's are kept, which stand in where a cache skips the network."""
    run, conds = Run(()), (uuid.uuid4(),)
    for step in range(5):
        run.open(None, 1.0)
        for at in range(3):
            key = RowKey(conds, 0, Window((step + at,), 2, False))
            run.keep(MIDDLE, key, Record(torch.zeros(1), (1, 1), (1, 1), (1, 1)))
    run.open(None, 1.0)
    assert len(run._previous) == 3
    run.open(None, 1.0)
    assert len(run._previous) == 3, "a step without records forgets none"
