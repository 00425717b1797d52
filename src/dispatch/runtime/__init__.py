"""The processes and what runs between them: nothing here knows a word about mail.

- `supervisor` starts the children, keeps them alive, ends them in order; `restarts` decides when
  one is started again, `process` is one child as its parent sees it, `signals` is its mailbox.
- `child` is the same life from within: readiness, heartbeat, drain, the end.
- `inheritance` is the few bytes that the two ends must agree on.
- `sockets` binds the ports; `locks` sees to one writer for each folder; `users` gives up root;
  `shortage` names the faults from which none of them concludes anything.
- `bus`, `bus_client` and `hints` carry orders and wake-ups; `bus_frames` is their format.
- `notify` talks to systemd.

All of them say what happens through the `Reporter` of `dispatch.observe`.

`supervisor` and all it imports stay free of asyncio: it is the process that must never fail.
"""
