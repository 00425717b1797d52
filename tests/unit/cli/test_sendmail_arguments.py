"""sendmail is called as programs have always called it."""

from __future__ import annotations

import pytest

from dispatch.cli.sendmail_arguments import Arguments, CalledWrongly, parse


@pytest.mark.parametrize(
    "call",
    [
        "-FCronDaemon -odi -oem -oi -or0s root",  # Vixie cron
        "-i -FCronDaemon -B8BITMIME -oem root",  # cronie
        "-FCronDaemon -i -B8BITMIME -oem -- root",
        "-oi -- root",
        "-oem -oi -f me@example.org -- root",  # mutt
        "-i -f me@example.org -F x root",
        "root -i",
        "-iv root",
        "-Am -i root",
        "-O IgnoreDots -O DeliveryMode=b root",
        "-bm -i -n -m -G -U -h 3 -L tag -X /dev/null -pESMTP -C/etc/x -e m -D/x -d0.1 root",
    ],
)
def test_known_callers_are_understood(call: str) -> None:
    arguments = parse(call.split())
    assert arguments.recipients == ["root"] and arguments.dot_is_content and arguments.mode == "m"
    assert not arguments.from_header


def test_php_and_its_sender() -> None:
    arguments = parse(["-t", "-i", "-f", "x@example.org"])
    assert (arguments.from_header, arguments.dot_is_content, arguments.sender) == (
        True,
        True,
        "x@example.org",
    )
    assert arguments.recipients == []


@pytest.mark.parametrize("call", ["-tifme@x.y", "-ti -rme@x.y", "-it -r me@x.y", "-t -i -f old -f me@x.y"])
def test_options_come_in_clusters(call: str) -> None:
    arguments = parse(call.split())
    assert (arguments.from_header, arguments.dot_is_content, arguments.sender) == (True, True, "me@x.y")


def test_what_follows_two_hyphens_is_a_recipient() -> None:
    assert parse(["a", "--", "-t", "--host"]).recipients == ["a", "-t", "--host"]
    assert parse(["-"]).recipients == ["-"]


@pytest.mark.parametrize(
    ("words", "program", "mode"),
    [
        *(
            ([], "mailq", "p"),
            ([], "newaliases", "i"),
            (["-bp"], "sendmail", "p"),
            (["-bi"], "sendmail", "i"),
        ),
        *((["-b", "s"], "sendmail", "s"), (["-q"], "sendmail", "q"), (["--help"], "sendmail", "h")),
        (["-I"], "sendmail", "i"),
    ],
)
def test_the_name_and_the_options_choose_what_is_done(words: list[str], program: str, mode: str) -> None:
    assert parse(words, program).mode == mode


def test_reports_are_asked_for_in_the_words_of_rfc_3461() -> None:
    arguments = parse(["-N", "success, delay", "-Rhdrs", "-V", "a b+=c", "x@y.z"])
    assert (arguments.notify, arguments.ret, arguments.envid) == ("SUCCESS,DELAY", "HDRS", "a+20b+2B+3Dc")
    assert parse(["-Nnever"]).notify == "NEVER"


@pytest.mark.parametrize(
    ("words", "named"),
    [
        *((["-z"], "-z"), (["-tz"], "-tz"), (["--frob"], "--frob"), (["-f"], "-f"), (["--port"], "--port")),
        *((["--port", "x"], "x"), (["--port=70000"], "70000"), (["-bd"], "serve"), (["-bd", "-q15m"], "-bd")),
        *((["-q15m"], "-q15m"), (["-N", "never,success"], "-N"), (["-R", "x"], "-R"), (["-V", "ä"], "-V")),
        *((["-b", ""], "-b"), (["-V", "x" * 101], "-V")),
    ],
)
def test_what_cannot_be_done_is_named(words: list[str], named: str) -> None:
    with pytest.raises(CalledWrongly, match=named):
        parse(words)


def test_the_relay_can_be_named() -> None:
    arguments = parse(["--host", "mx.test", "--port=2525", "--config", "/x", "--data=/y"])
    assert (arguments.host, arguments.port, arguments.config) == ("mx.test", 2525, "/x")
    assert arguments.sources == ["--config", "/x", "--data", "/y"]
    assert vars(parse([])) == vars(Arguments())
