"""`dispatch sendmail`: what stands in for /usr/sbin/sendmail; `mailq` and `newaliases` by their names, too.

Cron, PHP, mail(1) and a thousand scripts hand mail over by starting a program of that name. This one reads
the message, hands it to the running relay over SMTP at loopback, and ends with what the relay answered: 0 is
said behind the relay's 250 and never before, so the message is on stable storage then.

Rules:
- It needs no access to the data directory and no rights: any user of the machine may call it.
- It keeps nothing. Where the relay does not run, that is 75 (EX_TEMPFAIL) and a line on standard error;
  nobody but the caller can try again, and it is told so.
- Nothing is said on success.
- It is started for each message, also on small machines: so it imports neither the command line's library nor
  anything of the relay. That is why it reads two keys of the settings file by itself, and as a hint: whatever
  they say, it speaks only to a server that greets as Dispatch, unless the caller names one.

Exit codes: 0 taken, 64 called wrongly, 65 the message or an address is no good, 67 and 68 no such user or
host, 69 refused, 74 input or temporary file cannot be read or written, 75 try again later, 76 what answers is
no mail server, 77 this user or sender may not.
"""

from __future__ import annotations

import os
import pwd
import sys
from collections.abc import Sequence

from dispatch.cli.sendmail_arguments import USAGE, Arguments, CalledWrongly, parse
from dispatch.cli.sendmail_conversation import NotTaken
from dispatch.cli.sendmail_message import Message, NotMail, addresses, from_field, read_message
from dispatch.cli.sendmail_place import Hints, find_relay

NAMES = ("sendmail", "mailq", "newaliases")
"""What this program may be called by."""


def run(words: Sequence[str], program: str = NAMES[0]) -> int:
    """Do what the words say, under the name that it was called by; returns the exit code."""
    try:
        arguments = parse(words, program)
        match arguments.mode:
            case "h":
                sys.stdout.write(USAGE)
            case "i":
                pass  # There is no table to be made: mail.aliases counts as soon as it is changed.
            case "p" | "q":
                return _queue(arguments)
            case "s":
                return _speak(arguments)
            case _:
                _submit(arguments)
    except CalledWrongly as error:
        return _fail(os.EX_USAGE, f"{error}; --help shows what is possible")
    except NotMail as error:
        return _fail(os.EX_DATAERR, f"{error}; nothing was sent")
    except NotTaken as error:
        later = "; nothing is kept here: try again later" if error.code == os.EX_TEMPFAIL else ""
        return _fail(error.code, f"{error}{later}")
    except OSError as error:
        return _fail(os.EX_IOERR, f"{error}; nothing was sent")
    except KeyboardInterrupt:
        return 130
    return os.EX_OK


def _fail(code: int, why: str) -> int:
    try:
        os.write(2, f"sendmail: {ascii(why)[1:-1]}\n".encode())
    except OSError:
        pass  # Some programs close it; the code says it, too.
    return code


def _queue(arguments: Arguments) -> int:
    """`mailq` and `-q`: the queue's own commands, which need a user that may ask the relay."""
    from dispatch.cli import run as run_verb  # only here: this half is as slow as the other verbs

    order = "list" if arguments.mode == "p" else "flush"
    return run_verb(["queue", order, *arguments.sources])


def _submit(arguments: Arguments) -> None:
    recipients = [address for word in arguments.recipients for address in addresses(word)]
    if not recipients and not arguments.from_header:
        raise CalledWrongly("no recipient is named, and -t is not given")
    sender = _sender(arguments)
    message = read_message(0, dot_is_content=arguments.dot_is_content)
    try:
        _hand_over(arguments, message, sender, recipients)
    finally:
        message.body.close()


def _hand_over(arguments: Arguments, message: Message, sender: str, named: Sequence[str]) -> None:
    recipients = [*named, *(message.recipients() if arguments.from_header else ())]
    if not recipients:
        raise NotMail("neither To, Cc nor Bcc names a recipient")
    hints = Hints(arguments.config, os.environ)
    if not message.has(b"from"):
        author = sender or "MAILER-DAEMON"
        if "@" not in author and hints.append_domain:
            author = f"{author}@{hints.append_domain}"
        message.header.append(from_field(author, arguments.full_name or _full_name(arguments)))
    conversation = find_relay(hints, arguments.host, arguments.port, verbose=arguments.verbose)
    try:
        conversation.submit(message, sender, recipients, (arguments.notify, arguments.ret, arguments.envid))
    finally:
        conversation.close()


def _sender(arguments: Arguments) -> str:
    """Who the message is from, as -f says, or the user who calls."""
    if arguments.sender is None:
        user = _user()
        return user.pw_name if user else f"uid-{os.getuid()}"
    if arguments.sender.strip() in ("", "<>"):
        return ""
    found = addresses(arguments.sender)
    if len(found) != 1:
        raise CalledWrongly("-f names no sender, or several")
    return found[0]


def _full_name(arguments: Arguments) -> str:
    """Of the user who calls; a sender that was named is perhaps somebody else."""
    user = _user() if arguments.sender is None else None
    return user.pw_gecos.partition(",")[0] if user else ""


def _user() -> pwd.struct_passwd | None:
    try:
        return pwd.getpwuid(os.getuid())
    except KeyError:
        return None


def _speak(arguments: Arguments) -> int:
    """`-bs`: what comes on standard input goes to the relay, and its replies to standard output."""
    from select import select

    try:
        hints = Hints(arguments.config, os.environ)
        conversation = find_relay(hints, arguments.host, arguments.port, verbose=arguments.verbose)
    except NotTaken:
        sys.stdout.write("421 4.3.2 The relay does not run, try again later\r\n")
        raise
    os.write(1, conversation.greeting_as_it_came)
    connection = conversation.connection
    heard = [0, connection.fileno()]
    while True:
        ready, _, _ = select(heard, (), ())
        if 0 in ready:
            block = os.read(0, 1 << 16)
            if block:
                connection.sendall(block)
            else:
                heard.remove(0)
                connection.shutdown(1)  # SHUT_WR: what was asked is still answered
        if connection.fileno() in ready:
            block = connection.recv(1 << 16)
            if not block:
                return os.EX_OK
            view = memoryview(block)
            while view:
                view = view[os.write(1, view) :]
