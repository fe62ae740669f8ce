"""The commands of `qzdctl`, a file for each kind: what they ask is here, how they are told apart in `ctl`."""
