"""The only place that installs anything into a model: wrappers around a run, a step, a model call and its attention.

`install` puts stateless wrappers and an immutable tuple of techniques into a cloned ModelPatcher. Everything else
happens while sampling: a `Run` is born with the run and dropped with it; each step the techniques say which attention
wrappers they need; a model call in which none has anything to do goes through untouched. The attention override is put
in front of whatever override the model has at that moment, so the order in which nodes were connected does not matter,
and existing attn1 / attn2 replacements are wrapped, not displaced. Calls with attention wrappers go past torch.compile
(compiled.py), and no backend is asked for heads wider than it takes (head_widths.py).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import comfy.samplers
from comfy.ldm.modules import attention as comfy_attention
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from .compiled import is_compiled, original, uncompiled
from .conds import Conds, CondTable, Row, Window
from .controlnet_text import TEXT as CONTROLNET_TEXT
from .controlnet_text import for_controlnets
from .families.registry import Family, family_of
from .head_widths import MAX_FLASH, MAX_QUANTIZED, outgrown
from .layers import changed_layers
from .packed import picture_size
from .run import Attention, AttentionCall, AttentionWrapper, Run, Shared, Technique, TextTrimmer
from .sites import CALL_STATE, Forward, Site
from .tensor_layout import head_width
from .text_trimming import trimmed, trimmers

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

KEY = "fovea"
TECHNIQUES = "fovea_techniques"
RUN = "fovea_run"
PREVIOUS_OVERRIDE = "fovea_previous_override"
GIVEN_WIDTH = "fovea_given_width"  # of heads that are widened by now
BEYOND = "fovea_beyond"  # attribute of an override of ours: what takes its place for heads too wide for other nodes
DEGRADED = "fovea_degraded"  # in transformer_options of an extra, degraded evaluation: the name of its technique
OVERRIDE = "optimized_attention_override"
OWN_KEYS = frozenset({TECHNIQUES, RUN, DEGRADED})  # what we add to the options of calls without wrappers


class Techniques(Shared, tuple):
    """Those of a model. A copy of the options has the same ones: they are told apart by identity."""


@dataclass(eq=False)
class CallState:
    """State of one call of the network. Made anew for every call, so threads and nested calls never share one."""

    run: Run
    family: Family
    attention_wrappers: tuple[AttentionWrapper, ...]
    rows: tuple[Row, ...]
    forward: Forward
    busy: bool = False  # inside a wrapper: attention calls made from there are its own


def install(patcher: ModelPatcher, technique: Technique) -> None:
    """Add a technique to a freshly cloned patcher, once. It must be immutable: later clones share it."""
    options = patcher.model_options.setdefault("transformer_options", {})
    if technique in options.get(TECHNIQUES, ()):
        return
    options[TECHNIQUES] = Techniques((*options.get(TECHNIQUES, ()), technique))
    for kind, wrapper in _WRAPPERS.items():
        if not patcher.get_wrappers(kind, KEY):
            patcher.add_wrapper_with_key(kind, KEY, wrapper)


def techniques_of(patcher: ModelPatcher) -> tuple[Technique, ...]:
    """Those installed in a patcher."""
    return patcher.model_options.get("transformer_options", {}).get(TECHNIQUES, ())


def remove(patcher: ModelPatcher, techniques: Sequence[Technique]) -> None:
    """Take techniques out of a freshly cloned patcher."""
    if techniques:
        left = Techniques(each for each in techniques_of(patcher) if each not in techniques)
        patcher.model_options["transformer_options"][TECHNIQUES] = left


def run_of(model_options: Mapping[str, Any]) -> Run | None:
    """The sampling run these options belong to, None outside of one."""
    return model_options.get("transformer_options", {}).get(RUN)


def degraded_pass(
    run: Run, conds: Conds, x: Tensor, sigma: Tensor, model_options: Mapping[str, Any], owner: object, tag: str
) -> Tensor:
    """Evaluate the model once more, with these conds, on a degraded input; returns its x0 prediction, shaped like x.

    The conds are copies with uuids of their own, the same in every step of the run, so caches keyed by uuid stay right.
    owner: the technique; two of one kind never share a uuid. The conds keep their place (positive or negative) in the
    host's call. transformer_options[DEGRADED] holds `tag`, by which
    other wrappers can recognize the pass; recorders are off in it, techniques that steer attention stay on.
    """
    index = run.list_index(conds) or 0
    lists: list[list[dict[str, Any]] | None]
    copies = [{**cond, "uuid": run.alias(owner, cond["uuid"], index)} for cond in conds]
    run.roles.register_copies(conds, copies)
    options = {**model_options, "transformer_options": {**model_options.get("transformer_options", {}), DEGRADED: tag}}
    evaluate = options.get("sampler_calc_cond_batch_function")
    if evaluate is not None and index < 2:  # another node evaluates the pair of prompts in its own way, so here too
        lists = [copies if i == index else None for i in range(2)]
        both = evaluate({"conds": lists, "input": x, "sigma": sigma, "model": run.model, "model_options": options})
        return both[index]
    lists = [*[None] * index, copies]
    return comfy.samplers.calc_cond_batch(run.model, lists, x, sigma, options)[index]


def _outer_sample(
    executor: Any, noise: Tensor, latent_image: Any, sampler: Any, sigmas: Tensor, *args: Any, **kwargs: Any
) -> Any:
    """Give the run its state; drop it at the end, also after an error or a cancel."""
    options = executor.class_obj.model_options.setdefault("transformer_options", {})
    techniques = options.get(TECHNIQUES)
    if not techniques:
        return executor(noise, latent_image, sampler, sigmas, *args, **kwargs)
    shapes = tuple(kwargs.get("latent_shapes") or ())
    outer, run = options.get(RUN), Run(techniques, shapes=shapes, highest=float(sigmas.max()) if len(sigmas) else 0.0)
    run.roles.begin(executor.class_obj)
    options[RUN] = run
    try:
        samples = executor(noise, latent_image, sampler, sigmas, *args, **kwargs)
        run.finish()
        return samples
    finally:
        if outer is None:
            options.pop(RUN, None)
        else:
            options[RUN] = outer
        run.close()


def _predict_noise(executor: Any, x: Tensor, timestep: Tensor, model_options: Any = None, seed: Any = None) -> Any:
    run = run_of(model_options or {})
    if run is not None:
        guider = executor.class_obj
        run.open(guider.inner_model, float(timestep.flatten()[0]), picture_size(x, run.shapes), guider)
    return executor(x, timestep, model_options or {}, seed)


def _calc_cond_batch(executor: Any, model: Any, conds: Any, x_in: Tensor, timestep: Tensor, model_options: Any) -> Any:
    """Note which conds are about to run. A second model (a negative pass of its own, another expert) is not ours."""
    run = run_of(model_options)
    if run is None:
        return executor(model, conds, x_in, timestep, model_options)
    window = _window(model_options["transformer_options"].get("context_window"))
    table = CondTable(conds, window, run.roles) if model is run.model else None
    if table is not None:
        for each in trimmers(run):
            conds = for_controlnets(conds, partial(_added_text, each, table))
    with run.calling(table, remember=DEGRADED not in model_options["transformer_options"]):
        return executor(model, conds, x_in, timestep, model_options)


def _added_text(trimmer: TextTrimmer, table: CondTable, index: int, cond: Mapping[str, Any]) -> slice:
    return trimmer.added_text(table.text_marks(index, cond["uuid"]))


def _window(host_window: Any) -> Window | None:
    if host_window is None:
        return None
    anchor = getattr(host_window, "causal_anchor_index", None)
    anchored = anchor is not None and anchor >= 0
    return Window(tuple(host_window.index_list), host_window.dim, anchored)


def _apply_model(
    executor: Any,
    x: Tensor,
    t: Tensor,
    c_concat: Any = None,
    c_crossattn: Any = None,
    control: Any = None,
    transformer_options: dict[str, Any] | None = None,
    **kwargs: Any,
) -> Any:
    options = transformer_options or {}
    run = options.get(RUN)
    if run is None or CALL_STATE in options:
        return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)
    kwargs.pop(CONTROLNET_TEXT, None)  # has served: `control` is what they made of it
    if run.table is not None:
        rows = run.table.rows(options.get("cond_or_uncond", ()), options.get("uuids", ()), x.shape[0])
        network = original(executor.class_obj.diffusion_model)
        size = picture_size(x, kwargs.get("latent_shapes") or ())
        forward = Forward(network, x.shape[0], size, {**kwargs, "c_crossattn": c_crossattn}, options.get("patches", {}))
        rows, c_crossattn, kwargs = trimmed(run, rows, forward, c_crossattn, kwargs)
        forward.inputs = {**kwargs, "c_concat": c_concat, "c_crossattn": c_crossattn}
        hooked = _hooked(run, rows, forward, options)
        changed = _changed_layers(run, rows, forward)
        if hooked is not options or changed is not None:
            with uncompiled(), changed or contextlib.nullcontext():
                return executor(x, t, c_concat, c_crossattn, control, hooked, **kwargs)
    wrappers = options.get("wrappers", {}).get(WrappersMP.APPLY_MODEL, {})
    if is_compiled(executor.class_obj.diffusion_model, wrappers):
        options = {key: value for key, value in options.items() if key not in OWN_KEYS}
    return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)


def _changed_layers(
    run: Run, rows: tuple[Row, ...], forward: Forward
) -> contextlib.AbstractContextManager[None] | None:
    """What changes layers during this call; None where nothing does, and for families that are not known."""
    family = family_of(forward.network) if rows and run.layer_changers else None
    if family is None:
        return None
    found = (each.in_call(run, rows, forward) for each in run.layer_changers)
    changes = [change for change in found if change is not None]
    return changed_layers(changes, family, forward) if changes else None


def _hooked(run: Run, rows: tuple[Row, ...], forward: Forward, options: dict[str, Any]) -> dict[str, Any]:
    """The options of a model call with our attention hooks in, or the same options if no wrapper has anything to do."""
    degraded = options.get(DEGRADED)
    attention_wrappers = tuple(
        wrapper for wrapper in run.attention_wrappers if rows and wrapper.wants(run, rows, degraded)
    )
    if degraded is None:
        run.mark_evaluated(rows)
    family = family_of(forward.network) if attention_wrappers else None
    if family is None:
        return options
    hooked = family.prepare(forward.network, options)
    hooked[CALL_STATE] = CallState(run, family, attention_wrappers, rows, forward)
    hooked[OVERRIDE], hooked[PREVIOUS_OVERRIDE] = _override, options.get(OVERRIDE)
    replaced = hooked.get("patches_replace", {})
    hooked["patches_replace"] = dict(replaced)
    for name, kind in (("attn1", "self"), ("attn2", "cross")):
        if name in replaced:
            hooked["patches_replace"][name] = {at: _WrappedReplacement(fn, kind) for at, fn in replaced[name].items()}
    return hooked


def _override(func: Callable, q: Tensor, k: Tensor, v: Tensor, heads: int, *rest: Any, **kwargs: Any) -> Tensor:
    """Attention override: the wrappers around the override that was there before, or around the user's backend."""
    options = kwargs["transformer_options"]
    state: CallState = options[CALL_STATE]
    previous, given, heads_first = options[PREVIOUS_OVERRIDE], heads, kwargs.get("skip_reshape", False)
    site = _site(state, options, q, k, heads_first)
    width = options.get(GIVEN_WIDTH) or head_width(q, heads, heads_first)

    def attention(q: Tensor, k: Tensor, v: Tensor, heads: int | None = None) -> Tensor:
        """See Attention: what this call would have run without us, on tensors of the call's layout."""
        heads = heads or given
        now = head_width(q, heads, heads_first)
        if now != width:
            return _widened(state.run, func, previous, width, now, q, k, v, heads, *rest, **kwargs)
        if previous is not None:
            return previous(func, q, k, v, heads, *rest, **kwargs)
        return (_preferred(state, site) or func)(q, k, v, heads, *rest, **kwargs)

    mask = rest[0] if rest else kwargs.get("mask")
    layout = {"heads_first": heads_first, "mask": mask, "scale": kwargs.get("scale"), "wrapped": previous is not None}
    return _attend(state, site, q, k, v, heads, layout, attention)


def _widened(
    run: Run, func: Callable, previous: Callable | None, width: int, now: int, *given: Any, **kwargs: Any
) -> Tensor:
    """Attention with heads widened from `width` to `now` channels: never quantized, never by a kernel they outgrow."""
    kwargs["low_precision_attention"] = False  # ComfyUI's word for calls that Sage and the like leave to others
    if previous is not None and outgrown(width, now, MAX_QUANTIZED):
        beyond = getattr(previous, BEYOND, None)
        if beyond is not previous:
            run.warn(
                f"Another node has replaced this model's attention function. Regions widen heads of {width} channels "
                f"to {now}, which kernels such as SageAttention do not take: steered calls go past it to ComfyUI's own."
            )
        previous = beyond
    if previous is not None:
        return previous(func, *given, **kwargs)
    backend = comfy_attention.attention_pytorch if outgrown(width, now, MAX_FLASH) else func
    return backend(*given, **kwargs)


def _preferred(state: CallState, site: Site | None) -> Callable | None:
    """The attention function that a block's layers ask for, None if they ask for none or for several.

    From ComfyUI 0.36 on a checkpoint can name one for a layer, which ComfyUI forgets where there is an override.
    """
    layer = getattr(comfy_attention, "ComfyAttention", None)
    if layer is None:
        return None
    network = state.forward.network
    block = network if site is None else state.family.module(network, site.block)
    functions = {part.function for part in block.modules() if isinstance(part, layer)}
    return functions.pop() if len(functions) == 1 else None


@dataclass(frozen=True)
class _WrappedReplacement:
    """Another node's attn1 / attn2 replacement, with our wrappers around it."""

    function: Callable[..., Tensor]
    kind: str

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, extra_options: Any, *rest: Any, **kwargs: Any) -> Tensor:
        def attention(q: Tensor, k: Tensor, v: Tensor, heads: int | None = None) -> Tensor:
            options = extra_options if heads is None else {**extra_options, "n_heads": heads}
            return self.function(q, k, v, options, *rest, **kwargs)

        given = head_width(q, extra_options["n_heads"], heads_first=False)

        def plain(q: Tensor, k: Tensor, v: Tensor, heads: int | None = None) -> Tensor:
            heads = heads or extra_options["n_heads"]
            precision, options = extra_options["attn_precision"], {**extra_options, GIVEN_WIDTH: given}
            return comfy_attention.optimized_attention(
                q, k, v, heads, attn_precision=precision, transformer_options=options
            )

        layout = {"heads_first": False, "mask": None, "scale": None, "wrapped": True, "plain": plain}
        state: CallState | None = extra_options.get(CALL_STATE)
        if state is None:  # another pack calls what is installed here by itself
            return self.function(q, k, v, extra_options, *rest, **kwargs)
        state.forward.kind = self.kind
        site = _site(state, extra_options, q, k, heads_first=False)
        return _attend(state, site, q, k, v, extra_options["n_heads"], layout, attention)


def _site(state: CallState, options: Mapping[str, Any], q: Tensor, k: Tensor, heads_first: bool) -> Site | None:
    """Where a call happens; None for calls that a wrapper makes, and where the family knows none."""
    if state.busy:
        return None
    site = state.family.site(state.forward, options, q, k, heads_first)
    state.run.note_site(site is not None)
    return site


def _attend(
    state: CallState, site: Site | None, q: Tensor, k: Tensor, v: Tensor, heads: int, layout: Mapping[str, Any],
    attention: Attention,
) -> Tensor:  # fmt: skip
    """Run the wrappers that want this call around it, the first installed outermost."""
    if site is None:
        return attention(q, k, v)
    about = {"rows": state.rows, "run": state.run, "latent_size": state.forward.latent_size, **layout}
    width = head_width(q, heads, layout["heads_first"])
    call = AttentionCall(site=site, q=q, k=k, v=v, heads=heads, width=width, **about)
    for wrapper in reversed(state.attention_wrappers):
        if site.kind in wrapper.kinds and (wrapper.blocks is None or site.block in wrapper.blocks):
            attention = _around(wrapper, call, attention)
            call = replace(call, wrapped=True)  # by this wrapper, for those around it
    state.busy = True
    try:
        return attention(q, k, v)
    finally:
        state.busy = False


def _around(wrapper: AttentionWrapper, call: AttentionCall, attention: Attention) -> Attention:
    def attend(q: Tensor, k: Tensor, v: Tensor, heads: int | None = None) -> Tensor:
        return wrapper.attend(replace(call, q=q, k=k, v=v, heads=heads or call.heads), attention)

    return attend


_WRAPPERS = {
    WrappersMP.OUTER_SAMPLE: _outer_sample,
    WrappersMP.PREDICT_NOISE: _predict_noise,
    WrappersMP.CALC_COND_BATCH: _calc_cond_batch,
    WrappersMP.APPLY_MODEL: _apply_model,
}
