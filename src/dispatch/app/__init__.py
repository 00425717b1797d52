"""The composition root: the only place where a port meets an adapter.

One file for each process; each makes its service from the machine, the data folder and a settings snapshot.
A test or a simulation makes the same services on one event loop, with other machines.

- `folders`     what lies where in the data directory, and who writes it
- `machine`     clock, chance, disk, threads and network, handed in together
- `tokens`      sources of access tokens for the relays that log in with them
- `watch`       notices that there are new settings
- `intake`      station 1 over the mail log
- `delivery`    stations 3 and 4 over mail log, ledger and parked store
- `control`     station 5 over the ledger; publishes settings
- `publishing`  every source of the settings, sealed for every process
- `configuring` carries out what operators order of them
- `certificate` the shared certificate on disk
- `vault_key`   the vault's key at a start, and its rotation
- `supervise`   what `dispatch serve` runs: binds ports, starts the three, keeps them
- `__main__`    what the supervisor executes for each of them
"""
