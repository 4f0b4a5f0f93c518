"""What computes: arrays by name in, arrays by name out. One file an engine, imported when a model asks for it."""
