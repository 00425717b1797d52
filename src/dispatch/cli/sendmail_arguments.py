"""What `sendmail` is called with, as programs have called it for forty years, and what of it counts here.

Options come in clusters (`-ti`), with their values attached or behind them (`-fme@example.org`, `-f
me@example.org`), before or behind the recipients; `--` ends them. What concerned the inside of another mail
server is accepted and ignored; what would promise something that does not happen is refused by name.

Like all of `sendmail`, this imports nothing that it can do without: see `dispatch.cli.sendmail`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

USAGE = """\
Usage: dispatch sendmail [OPTION]... [RECIPIENT]...

Submit the message on standard input to the running relay. Also installed as sendmail, mailq and newaliases.

  -t              Recipients are those of To, Cc and Bcc, beside those of the command line.
  -i, -oi         A line with a single dot is content, and not the end.
  -f, -r ADDRESS  Sender (reverse-path); <> is none.
  -F NAME         Full name, where From is to be added.
  -N WORDS        When to report: never, or success,failure,delay.
  -R full|hdrs    How much of the message to return with a report.
  -V ENVID        Envelope id for reports.
  -v              Show the conversation with the relay on standard error.
  -bs             Speak SMTP with the relay, on standard input and output.
  -bp (mailq)     What waits in the queue.
  -q              Try everything that waits, now.
  --host HOST, --port PORT    The relay; else DISPATCH_SENDMAIL_HOST, else the one that runs here.
  --config FILE, --data DIR   Its settings and its data directory.
"""

_FLAGS_IGNORED = "nmGU"
_VALUES_IGNORED = "BCDehLpX"
_NOT_HERE = {
    "d": "`dispatch serve` runs the relay",
    "D": "`dispatch serve` runs the relay",
    "v": "`dispatch route simulate` says where mail would go",
    "t": "`dispatch route simulate` says where mail would go",
}


class CalledWrongly(Exception):
    """An option that is not known, or without its value: 64 (EX_USAGE)."""


class Arguments:
    """One call."""

    def __init__(self) -> None:
        self.mode = "m"
        """`m` submit, `s` speak SMTP, `p` print the queue, `q` flush it, `i` newaliases, `h` help."""
        self.from_header = False
        self.dot_is_content = False
        self.sender: str | None = None
        """As given; None where the user who calls is meant."""
        self.full_name: str | None = None
        self.notify = ""
        self.ret = ""
        self.envid = ""
        self.verbose = False
        self.host = ""
        self.port = 0
        self.sources: list[str] = []
        """`--config` and `--data` as the other verbs take them."""
        self.config = ""
        self.recipients: list[str] = []
        """As given: each may be a list with commas."""


def parse(words: Iterable[str], program: str = "sendmail") -> Arguments:
    """`program` is the name that it was called by. Raises `CalledWrongly`."""
    arguments = Arguments()
    arguments.mode = {"mailq": "p", "newaliases": "i"}.get(program, "m")
    rest = iter(words)
    for word in rest:
        if word == "--":
            arguments.recipients.extend(rest)
        elif word.startswith("--"):
            _long(arguments, word, rest)
        elif word.startswith("-") and word != "-":
            _cluster(arguments, word, rest)
        else:
            arguments.recipients.append(word)
    return arguments


def _long(arguments: Arguments, word: str, rest: Iterator[str]) -> None:
    name, equals, value = word.partition("=")
    if name == "--help":
        arguments.mode = "h"
        return
    if name not in ("--host", "--port", "--config", "--data"):
        raise CalledWrongly(f"the option {name} is not known")
    if not equals:
        value = _next(name, rest)
    match name:
        case "--host":
            arguments.host = value
        case "--port":
            if not (value.isascii() and value.isdecimal() and 0 < int(value[:6]) < 65536):
                raise CalledWrongly(f"--port {value} is no port")
            arguments.port = int(value)
        case _:
            arguments.sources += [name, value]
            if name == "--config":
                arguments.config = value


def _next(option: str, rest: Iterator[str]) -> str:
    value = next(rest, None)
    if value is None:
        raise CalledWrongly(f"the option {option} needs a value")
    return value


def _cluster(arguments: Arguments, word: str, rest: Iterator[str]) -> None:
    letters = word[1:]
    while letters:
        letter, letters = letters[0], letters[1:]
        match letter:
            case "t":
                arguments.from_header = True
            case "i":
                arguments.dot_is_content = True
            case "v":
                arguments.verbose = True
            case "I":
                arguments.mode = "i"
            case "q":
                if letters:
                    raise CalledWrongly(f"-q{letters} is not done here; -q alone tries everything")
                arguments.mode = "q"
            case "A" | "d":
                # Which of two servers, and debugging: their values are never apart.
                return
            case _ if letter in _FLAGS_IGNORED:
                pass
            case _ if letter in _VALUED or letter in _VALUES_IGNORED:
                value = letters or _next(f"-{letter}", rest)
                if letter in _VALUED:
                    _VALUED[letter](arguments, value)
                return
            case _:
                raise CalledWrongly(f"the option -{letter} of {word} is not known")


def _sender(arguments: Arguments, value: str) -> None:
    arguments.sender = value


def _full_name(arguments: Arguments, value: str) -> None:
    arguments.full_name = value


def _old_option(arguments: Arguments, value: str) -> None:
    """`-oi`; the others (`-oem`, `-odb`, `-om`) say how a mail server works inside."""
    if value == "i":
        arguments.dot_is_content = True


def _named_option(arguments: Arguments, value: str) -> None:
    name, _, wanted = value.partition("=")
    if name.strip().lower() == "ignoredots" and wanted.strip().lower()[:1] not in ("f", "n", "0"):
        arguments.dot_is_content = True


def _mode(arguments: Arguments, value: str) -> None:
    if value not in ("m", "s", "p", "i"):
        raise CalledWrongly(f"-b{value} is not done here: {_NOT_HERE.get(value[:1], 'it is not known')}")
    arguments.mode = value


def _notify(arguments: Arguments, value: str) -> None:
    """RFC 3461 section 4.1."""
    words = [word.strip().upper() for word in value.split(",")]
    if words != ["NEVER"] and not set(words) <= {"SUCCESS", "FAILURE", "DELAY"}:
        raise CalledWrongly(f"-N {value}: write never, or some of success,failure,delay")
    arguments.notify = ",".join(words)


def _ret(arguments: Arguments, value: str) -> None:
    """RFC 3461 section 4.3."""
    if value.upper() not in ("FULL", "HDRS"):
        raise CalledWrongly(f"-R {value}: write full or hdrs")
    arguments.ret = value.upper()


def _envid(arguments: Arguments, value: str) -> None:
    """RFC 3461 section 4.4: at most 100 characters, and as xtext (section 4)."""
    if not 0 < len(value) <= 100 or not (value.isascii() and value.isprintable()):
        raise CalledWrongly("-V: write an id of at most 100 printable ASCII characters")
    arguments.envid = "".join(
        character if "!" <= character <= "~" and character not in "+=" else f"+{ord(character):02X}"
        for character in value
    )


_VALUED = {
    "f": _sender,
    "r": _sender,
    "F": _full_name,
    "N": _notify,
    "R": _ret,
    "V": _envid,
    "b": _mode,
    "o": _old_option,
    "O": _named_option,
}
