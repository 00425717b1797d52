"""`dispatch send`: a message out of options, for people and scripts: text, HTML, files, whoever it goes to.

It is composed here (`mime.compose`) and handed to the running relay over SMTP, as `dispatch sendmail` does.
What is printed at the end is the message's id, for `dispatch history`. The recipients of `--bcc` get it and
stand nowhere.
"""

from __future__ import annotations

import mimetypes
import os
import pwd
import re
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import Annotated

import typer

from dispatch.cli.options import ConfigOption, JsonOption, fail, new_command, print_json
from dispatch.cli.sendmail_conversation import NotTaken
from dispatch.cli.sendmail_message import BLOCK_BYTES, Message
from dispatch.cli.sendmail_place import Hints, find_relay
from dispatch.mail.message import PRIORITIES
from dispatch.mime.compose import OCTETS, Attachment, Draft, compose, is_content_id, is_media_type
from dispatch.mime.mailboxes import Mailbox, MalformedMailbox, parse_mailboxes
from dispatch.smtp.grammar import is_address

app = new_command()

_HEADER = re.compile(r"([!-9;-~]{1,200}):[ \t]*(.*)", re.DOTALL)
_OURS = frozenset(
    {
        *("from", "to", "cc", "bcc", "subject", "reply-to", "mime-version", "received", "return-path"),
        *("content-type", "content-transfer-encoding", "content-disposition", "content-id"),
    }
)
"""What is written by the options, or by nobody but the relay."""
_TAKEN_AS = re.compile(r"queued as (\S+)")

Addresses = list[str] | None


class _Wrong(Exception):
    """An option that cannot be used as it stands."""


def _people(help_text: str, *names: str) -> object:
    return typer.Option(*names, metavar="ADDRESS", help=help_text)


@app.command()
def send(
    to: Annotated[Addresses, _people("Who gets it: a@b or 'Name <a@b>'. Repeatable.", "--to")] = None,
    cc: Annotated[Addresses, _people("Who gets a copy. Repeatable.", "--cc")] = None,
    bcc: Annotated[Addresses, _people("Who gets it and is named nowhere. Repeatable.", "--bcc")] = None,
    sender: Annotated[str, _people("Who it is from; default: the user who calls.", "--from")] = "",
    reply_to: Annotated[Addresses, _people("Where answers go. Repeatable.", "--reply-to")] = None,
    subject: Annotated[str, typer.Option("--subject", metavar="TEXT", help="What it is about.")] = "",
    text: Annotated[
        str | None, typer.Option("--text", metavar="TEXT", help="The text; default: the standard input.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="The same as HTML, in a file of UTF-8.")
    ] = None,
    attach: Annotated[
        list[str] | None, typer.Option("--attach", metavar="FILE[=TYPE]", help="A file. Repeatable.")
    ] = None,
    inline: Annotated[
        list[str] | None,
        typer.Option("--inline", metavar="FILE=ID", help="A file that the HTML shows as cid:ID. Repeatable."),
    ] = None,
    header: Annotated[
        list[str] | None,
        typer.Option("--header", metavar="'NAME: VALUE'", help="One more field. Repeatable."),
    ] = None,
    tag: Annotated[
        list[str] | None, typer.Option("--tag", metavar="TAG", help="For rules and for history. Repeatable.")
    ] = None,
    priority: Annotated[str, typer.Option("--priority", help=f"{', '.join(PRIORITIES)}.")] = "",
    host: Annotated[
        str,
        typer.Option("--host", metavar="HOST[:PORT]", help="The relay; default: the one of this machine."),
    ] = "",
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Compose a message and hand it to the relay."""
    try:
        author = _author(sender)
        draft = Draft(
            author,
            _mailboxes("--to", to),
            _mailboxes("--cc", cc),
            reply_to=_mailboxes("--reply-to", reply_to),
            subject=subject,
            text=_text(text, has_html=html is not None),
            html=None if html is None else _utf8(html.read_bytes(), str(html)),
            headers=[*map(_header, header or ()), *_relay_fields(tag or (), priority)],
            attachments=[*map(_attachment, attach or ()), *map(_shown, inline or ())],
        )
        recipients = [*draft.to, *draft.cc, *_mailboxes("--bcc", bcc)]
        if not recipients:
            raise _Wrong("nobody gets it: name somebody with --to")
        message = _message(compose(draft, token_hex(12)))
    except (_Wrong, ValueError) as error:
        fail(os.EX_USAGE, f"{error}; nothing was sent.")
    try:
        ids = _hand_over(message, author.address, [each.address for each in recipients], host, config)
    except NotTaken as error:
        fail(error.code, f"{error}.")
    finally:
        message.body.close()
    if as_json:
        print_json({"ids": ids})
    else:
        for each in ids:
            typer.echo(each)


def _hand_over(
    message: Message, sender: str, recipients: Sequence[str], host: str, config: Path | None
) -> list[str]:
    """The ids: more than one where there were more recipients than the relay takes at a time."""
    conversation = find_relay(Hints("" if config is None else str(config), os.environ), host, 0)
    try:
        said = conversation.submit(message, sender, recipients)
    finally:
        conversation.close()
    found = (_TAKEN_AS.search(str(reply)) for reply in said)
    return [match[1] for match in found if match is not None]


def _message(blocks: Iterator[bytes]) -> Message:
    """The first block holds the header whole."""
    message = Message()
    head, _, rest = next(blocks).partition(b"\r\n\r\n")
    message.header = head.split(b"\r\n")
    message.body.add(rest)
    for block in blocks:
        message.body.add(block)
    return message


def _mailboxes(option: str, words: Addresses) -> list[Mailbox]:
    try:
        found = [mailbox for word in words or () for mailbox in parse_mailboxes(word)]
    except MalformedMailbox as error:
        raise _Wrong(f"{option}: {error}") from None
    for mailbox in found:
        if not is_address(mailbox.address):
            raise _Wrong(f"{option}: {mailbox.address!a} is no address")
    return found


def _author(sender: str) -> Mailbox:
    if not sender:
        # What has no domain gets one from the relay (`mail.append_domain`).
        try:
            return Mailbox("", pwd.getpwuid(os.getuid()).pw_name)
        except KeyError:
            raise _Wrong("the user who calls has no name: say who it is from with --from") from None
    found = _mailboxes("--from", [sender])
    if len(found) != 1:
        raise _Wrong("--from: one address, please")
    return found[0]


def _text(text: str | None, *, has_html: bool) -> str | None:
    if text is not None:
        return text
    if has_html and sys.stdin.isatty():
        return None
    read = _utf8(sys.stdin.buffer.read(), "the standard input")
    # Cron and service managers give an empty input to whoever asked for none.
    return None if has_html and not read else read


def _utf8(octets: bytes, where: str) -> str:
    try:
        return octets.decode()
    except UnicodeDecodeError:
        raise _Wrong(f"{where} is not UTF-8 (attach it with --attach, if it is no text)") from None


def _header(word: str) -> tuple[str, str]:
    match = _HEADER.fullmatch(word)
    if match is None:
        raise _Wrong(f"--header: {word!a} is not NAME: VALUE")
    if match[1].lower() in _OURS:
        raise _Wrong(f"--header: {match[1]} is written by the other options, or by the relay")
    return match[1], match[2]


def _relay_fields(tags: Sequence[str], priority: str) -> Iterator[tuple[str, str]]:
    """What the relay reads and takes out again."""
    for tag in tags:
        yield "X-Dispatch-Tag", tag
    if priority:
        if priority not in PRIORITIES:
            raise _Wrong(f"--priority: {priority!a} is none of {', '.join(PRIORITIES)}")
        yield "X-Dispatch-Priority", priority


def _attachment(word: str) -> Attachment:
    """`FILE`, or `FILE=TYPE`; a file whose own name has an equals sign is meant as it stands."""
    name, mark, content_type = word.rpartition("=")
    if not mark or not is_media_type(content_type) or Path(word).exists():
        name, content_type = word, ""
    return _file(name, content_type, "")


def _shown(word: str) -> Attachment:
    name, mark, content_id = word.rpartition("=")
    if not mark or not is_content_id(content_id):
        raise _Wrong(f"--inline: {word!a} is not FILE=ID")
    return _file(name, "", content_id)


def _file(name: str, content_type: str, content_id: str) -> Attachment:
    # Opened now, so that a missing one is said before anything is sent.
    file = Path(name).open("rb")  # noqa: SIM115  # until the process ends
    guessed, encoding = mimetypes.guess_type(name)
    known = guessed if guessed and not encoding else OCTETS
    blocks = iter(partial(file.read, BLOCK_BYTES), b"")
    return Attachment(Path(name).name, content_type or known, blocks, content_id)
