"""Turn a float bundle into an INT8 bundle and search for the recipe that loses least."""
