"""How the processes speak about themselves: log lines and metrics."""
