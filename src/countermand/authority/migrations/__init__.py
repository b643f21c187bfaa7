"""How the tables came to be, one step a file; `env` applies them inside the caller's connection."""
