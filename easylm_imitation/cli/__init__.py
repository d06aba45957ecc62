"""The verbs. Each file reads flags and a config, calls the library, and returns a result that `main` prints."""
