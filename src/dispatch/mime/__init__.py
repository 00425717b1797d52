"""The header section: read once, marked with our trace, cleaned at hand-over. Bodies are never parsed.

Everything works on the bytes as they came and gives bytes back; no field is ever written anew from
a parsed form, because what a client signed must stay what it signed.

- `inspect`        what intake and history need to know of a header section, in one pass
- `encoded_words`  RFC 2047, from a field's text to what a person reads
- `trace`          the fields that we put in front: `Received`, and `Date`, `Message-ID` where missing
- `departure`      what is done to a message before a relay gets it, in this order:
- `handover`       the fields that must not leave: `Bcc` and our own `X-Dispatch-*`
- `rewrite`        senders, as a relay wants them
- `dkim`           signatures over what is then there
"""
