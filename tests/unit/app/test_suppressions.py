"""The suppression list by command: kept, published, shown page by page; what is no address is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.app.test_configuring import Place

from dispatch.app import configuring
from dispatch.policy.suppression import SuppressionList
from dispatch.settings.requests import AddSuppressions, ListSuppressions, RemoveSuppressions, Suppressions
from dispatch.settings.suppressed import SUPPRESSED, load_suppressed


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def published(place: Place) -> SuppressionList:
    return load_suppressed(place.folders.settings)[1]


def listed(place: Place, part: str = "", after: str = "") -> Suppressions:
    answer = place.configuring.handle(ListSuppressions(part, after))
    assert isinstance(answer, Suppressions)
    return answer


def test_what_is_added_is_published_with_a_number_of_its_own(place: Place) -> None:
    changed = place.changed(AddSuppressions(("Gone@example.net", "left@example.org"), "asked to"))
    assert (changed.count, changed.number) == (2, 1)
    assert published(place).holds("gone@EXAMPLE.net") and len(published(place)) == 2
    first, second = listed(place).suppressions
    assert (first.address, first.reason, first.origin) == ("Gone@example.net", "asked to", "operator")
    assert second.address == "left@example.org"
    assert ("suppressions_changed", {"added": 2, "removed": 0}) in place.reports


def test_the_first_reason_stays_and_nothing_new_publishes_nothing(place: Place) -> None:
    place.changed(AddSuppressions(("gone@example.net",), "first"))
    again = place.changed(AddSuppressions(("GONE@example.net",), "second"))
    assert (again.count, again.number) == (0, 1)
    assert [each.reason for each in listed(place).suppressions] == ["first"]


def test_what_is_removed_may_be_written_to_again(place: Place) -> None:
    place.changed(AddSuppressions(("gone@example.net", "left@example.org")))
    changed = place.changed(RemoveSuppressions(("GONE@example.net", "never@example.net")))
    assert changed.count == 1
    assert not published(place).holds("gone@example.net") and published(place).holds("left@example.org")


def test_one_that_is_no_address_spoils_all(place: Place) -> None:
    said = place.refused(AddSuppressions(("gone@example.net", "nobody", "<a@b.c>", "a@b.c x")))
    assert said.splitlines() == [
        f"{wrong!r} is no address; write it like alice@example.org"
        for wrong in ("nobody", "<a@b.c>", "a@b.c x")
    ]
    assert not listed(place).suppressions


def test_more_than_the_list_takes_are_refused_whole(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configuring, "SUPPRESSIONS_MAX", 2)
    place.changed(AddSuppressions(("a@b.example", "b@b.example")))
    assert "takes 2 addresses" in place.refused(AddSuppressions(("c@b.example",)))
    assert len(listed(place).suppressions) == 2


def test_the_list_is_shown_page_by_page(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configuring, "LISTED_MAX", 2)
    place.changed(AddSuppressions(("b@x.example", "A@x.example", "c@x.example", "d@y.example")))
    first = listed(place, "x.ex")
    assert ([each.address for each in first.suppressions], first.more) == (
        ["A@x.example", "b@x.example"],
        True,
    )
    second = listed(place, "x.ex", "b@x.example")
    assert ([each.address for each in second.suppressions], second.more) == (["c@x.example"], False)


def test_a_published_list_that_is_damaged_or_gone_is_written_anew(place: Place) -> None:
    place.changed(AddSuppressions(("gone@example.net",)))
    for damage in (b"nonsense", None):
        path = place.folders.settings / SUPPRESSED
        path.unlink() if damage is None else path.write_bytes(damage)
        place.publisher.publish()
        assert published(place).holds("gone@example.net")
