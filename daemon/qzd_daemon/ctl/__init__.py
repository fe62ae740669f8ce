"""The commands of `qzdctl`, one file per kind; `main` puts them together."""
