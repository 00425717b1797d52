"""The header section: read once, marked with our trace, cleaned at hand-over. Bodies are never parsed.

What came as a message stays bytes: no field is ever written anew from a parsed form, because what a client
signed must stay what it signed. What comes as values is composed once, at the door.

- `compose`        a message out of values; with it:
- `mailboxes`      names and addresses, as programs write them
- `fields`         header fields: folded, encoded words, parameters
- `transfer_encoding`  bodies as lines that every host passes on
- `inspect`        what intake and history need to know of a header section, in one pass
- `encoded_words`  RFC 2047, from a field's text to what a person reads
- `trace`          the fields that we put in front: `Received`, and `Date`, `Message-ID` where missing
- `departure`      what is done to a message before a relay gets it, in this order:
- `handover`       the fields that must not leave: `Bcc` and our own `X-Dispatch-*`
- `rewrite`        senders, as a relay wants them
- `dkim`           signatures over what is then there
"""
