"""What an operator needs around the stations.

- `logs`  the log on standard error: one line an event, as text or as JSON
"""
