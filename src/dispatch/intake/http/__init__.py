"""Mail over HTTP: the same acceptance and the same policy behind another door.

- `listener`        connections: what uvicorn's protocol does not bound, and the drain
- `requests`        one request, with a body that is bounded while it arrives
- `client_address`  who it comes from, behind proxies
- `application`     from the first look at a request to its answer: routes, gates, errors
- `keyring`         API keys, proven as logins are
- `messages`        the fields of a message, every mistake at once
- `submission`      policy, composing, the mail log
- `problems`        what is answered to who does not get what he wants
"""
