"""Show the daemon from outside: metrics, health, HTTP."""
