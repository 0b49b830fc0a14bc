"""Which list of a guider a cond belongs to, and whose it is where ComfyUI has copied it from list to list."""

from __future__ import annotations

import uuid
from types import SimpleNamespace
from typing import Any

import pytest

from fovea.attention.conds import CondRoles, cond_signature


def cond() -> dict[str, Any]:
    return {"uuid": uuid.uuid4()}


def roles(**lists: list[dict[str, Any]]) -> CondRoles:
    made, guider = CondRoles(), SimpleNamespace(conds=lists)
    made.begin(guider)
    made.step(guider)
    return made


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_lists_name_tells_wherever_it_stands(index: int) -> None:
    one, other = [cond()], [cond()]
    known = roles(positive=one, negative=other)
    assert not known.is_negative(cond_signature(one), one[0]["uuid"], index)
    assert known.is_negative(cond_signature(other), other[0]["uuid"], index)


def test_lists_without_a_name_that_tells_count_by_their_place() -> None:
    one, other = [cond()], [cond()]
    for known in (roles(first=one, second=other), CondRoles()):
        assert not known.is_negative(cond_signature(one), one[0]["uuid"], 0)
        assert known.is_negative(cond_signature(other), other[0]["uuid"], 1)


def test_a_cond_that_was_copied_into_another_list_is_not_its_own() -> None:
    """ComfyUI copies a positive cond with an area to the negative list, uuid and all."""
    area, own = cond(), cond()
    made = CondRoles()
    made.begin(SimpleNamespace(conds={"positive": [area], "negative": [own]}))
    made.step(SimpleNamespace(conds={"positive": [area], "negative": [own, area]}))
    copied = cond_signature([own, area])
    assert made.is_original(copied, own["uuid"]) and not made.is_original(copied, area["uuid"])
    assert made.is_negative(cond_signature([own]), own["uuid"], 0), "a part of the list, evaluated by itself"
    assert not made.is_negative(cond_signature([area]), area["uuid"], 0)
    assert made.is_original(cond_signature([area]), area["uuid"])


def test_copies_with_uuids_of_their_own_mean_the_same() -> None:
    one, other = [cond()], [cond()]
    known, copies = roles(positive=one, negative=other), [cond()]
    known.register_copies(other, copies)
    assert known.is_negative(cond_signature(copies), copies[0]["uuid"], 0)
