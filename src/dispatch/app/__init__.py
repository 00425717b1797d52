"""The composition root: the only place where a port meets an adapter.

One file for each process; each makes its service from the machine, the data folder and a settings snapshot.
A test or a simulation makes the same services on one event loop, with other machines.

- `folders`    what lies where in the data directory, and who writes it
- `machine`    clock, chance, disk, threads and network, handed in together
- `watch`      notices that there are new settings
- `intake`     station 1 over the mail log
- `delivery`   stations 3 and 4 over mail log, ledger and parked store
- `control`    station 5 over the ledger; publishes settings
- `supervise`  what `dispatch serve` runs: binds ports, starts the three, keeps them
- `__main__`   what the supervisor executes for each of them
"""
