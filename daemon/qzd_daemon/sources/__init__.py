"""Read frames from files, directories, cameras and senders, and tell whether each picture is whole."""
