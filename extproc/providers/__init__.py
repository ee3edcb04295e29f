"""One module per dialect: its operations, how its bodies are read and rewritten, its error shape."""
