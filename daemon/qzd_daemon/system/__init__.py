"""Talk to the operating system: journal, signals, systemd, allocator."""
