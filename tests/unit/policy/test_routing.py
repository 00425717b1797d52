from dispatch.policy.routing import route


def test_mail_takes_the_default_relay_and_names_the_rule() -> None:
    chosen = route("smarthost", {"smarthost", "other"})
    assert chosen.relays == ("smarthost",)
    assert chosen.rule == "default relay"
    assert not chosen.held


def test_a_disabled_default_relay_holds_mail_and_never_takes_another() -> None:
    chosen = route("smarthost", {"other"})
    assert chosen.held
    assert chosen.relays == ()
    assert chosen.hold_reason is not None
    assert "smarthost" in chosen.hold_reason
