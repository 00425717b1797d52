import pytest

from dispatch.mime.encoded_words import decode_words


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("plain", "plain"),
        ("=?utf-8?Q?Gr=C3=BC=C3=9Fe?=", "Grüße"),
        ("=?UTF-8?b?R3LDvMOfZQ==?=", "Grüße"),
        ("=?iso-8859-1?q?a_b=FC?=", "a bü"),
        ("=?windows-1252?Q?=80?=", "€"),
        ("=?iso-2022-jp?B?GyRCRnxLXBsoQg==?=", "日本"),
        ("=?us-ascii*en-gb?Q?colour?=", "colour"),
        ("=?utf-8?Q?a?= =?utf-8?Q?b?=", "ab"),
        ("=?utf-8?Q?a?= c =?utf-8?Q?b?=", "a c b"),
        ("re: =?utf-8?Q?a?= <x@y>", "re: a <x@y>"),
        ("=?utf-8?Q?=C3?= =?utf-8?Q?=BC?=", "ü"),
        ("=?utf-8?Q?a?= =?iso-8859-1?Q?=FC?=", "aü"),
        ("=?iso-8859-1?Q?=FC?= =?utf-8?Q?=C3=BC?=", "üü"),
        ("=?utf-8?B?R3LDvMOfZQ?=", "Grüße"),
        ("=?utf-8?Q??=", ""),
    ],
)
def test_encoded_words_are_read(written: str, read: str) -> None:
    assert decode_words(written) == read


@pytest.mark.parametrize(
    "written",
    [
        "=?utf-8?X?abc?=",
        "=?utf-8?B?A?=",
        "=?utf-8?Q?unfinished",
        "=?no-such-charset?Q?a?=",
        "=?zlib?B?eJw=?=",
        "=?unicode_escape?Q?=5Cx41?=",
        "=?../../etc?Q?a?=",
        "=?utf-8?Q?ü?=",
    ],
)
def test_what_cannot_be_read_stays_as_it_was_written(written: str) -> None:
    assert decode_words(written) == written


def test_white_space_next_to_an_unreadable_word_stays() -> None:
    assert decode_words("=?utf-8?Q?a?= =?no-such?Q?b?=") == "a =?no-such?Q?b?="


def test_wrong_bytes_become_replacement_characters() -> None:
    assert decode_words("=?utf-8?Q?a=FF?=") == "a�"
